//! Sub-workflows with a real store: names, values in and out, and resumption.

mod support;

use migrate_engine::{EventSink, ResumeRequest, RunError, RunState, Shutdown};
use migrate_plugin_api::NodeId;
use serde_json::json;
use support::{Apply, Project, pairs, resume, states};

const PARENT: &str = r#"
[nodes.first]
step = "test"
with = { value = "of the parent" }

[nodes.images]
step = "workflow"
needs = ["first"]
with = { file = "images.toml", params = { names = ["a", "b"], from = "${nodes.first.value}" } }

[nodes.last]
step = "test"
with = { value = "${nodes.images.pushed}", text = "at ${nodes.images.place}" }
"#;

const IMAGES: &str = r#"schema = 1
name = "images"

[params.names]
type = "list"

[params.from]
type = "string"

[params.mode]
type = "string"
default = "copy"

[nodes.pull]
step = "test"
when = "params.mode == 'copy'"
for_each = "${params.names}"
with = { value = "${each.value} from ${params.from}" }

[nodes.push]
step = "test"
when = "params.mode != 'never' && nodes.pull['a'].attempt > 0"
with = { items = "${nodes.pull[*].value}", value = "${env.site.name}" }

[outputs]
pushed = "${nodes.push.attempt}"
place = "${nodes.push.value}"
"#;

fn project(parent: &str, images: &str) -> Project {
    let project = Project::new(parent);
    std::fs::write(project.path("images.toml"), images).unwrap();
    project
}

#[tokio::test]
async fn a_sub_workflow_runs_under_its_name_with_values_in_and_out() {
    let project = project(PARENT, IMAGES);
    let report = project.run().await;
    assert_eq!(
        states(&report),
        pairs(&[
            ("first", "finished"),
            ("images/pull", "finished"),
            ("images/pull[a]", "finished"),
            ("images/pull[b]", "finished"),
            ("images/push", "finished"),
            ("last", "finished"),
        ])
    );
    let outputs = |node: &str| report.node(node).unwrap().outputs.clone().unwrap();
    assert_eq!(outputs("images/pull[b]")["value"], json!("b from of the parent"));
    assert_eq!(outputs("last")["value"], json!(1), "an integer stays one");
}

#[tokio::test]
async fn a_skipped_sub_workflow_skips_all_of_it_and_who_refers_to_it() {
    let project =
        project(&PARENT.replace("needs = [\"first\"]", "when = \"nodes.first.attempt > 5\""), IMAGES);
    let report = project.run().await;
    assert_eq!(report.state, RunState::Done);
    assert_eq!(
        states(&report),
        pairs(&[
            ("first", "finished"),
            ("images/pull", "skipped"),
            ("images/push", "skipped"),
            ("last", "skipped"),
        ])
    );
    assert_eq!(
        report.node("images/push").unwrap().reason.as_deref(),
        Some("it refers to outputs of `images/pull`, which is skipped")
    );
}

#[tokio::test]
async fn a_sub_workflow_is_taken_up_where_it_stopped_and_changes_in_its_file_are_told() {
    let project = project(PARENT, IMAGES);
    project.script(|s| {
        s.apply.insert("images/push".into(), [Apply::Permanent, Apply::Permanent].into());
    });
    let report = project.run().await;
    assert_eq!(report.state, RunState::Failed);
    assert_eq!(report.node("last").unwrap().reason.as_deref(), Some("it waits for `images/push`"));
    std::fs::write(
        project.path("images.toml"),
        IMAGES.replace("from ${params.from}", "out of ${params.from}"),
    )
    .unwrap();
    let error = resume(&project, ResumeRequest::default()).await.unwrap_err();
    let RunError::Changed(_, changes) = error else { panic!("{error}") };
    let told: Vec<(&str, &str)> =
        changes.nodes.iter().map(|change| (change.node.as_str(), change.fields[0].field.as_str())).collect();
    assert_eq!(told, [("images/pull[a]", "with.value"), ("images/pull[b]", "with.value")]);
    // Its file is gone: the run goes on with the text that it was started with.
    std::fs::remove_file(project.path("images.toml")).unwrap();
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    let rerun = vec![NodeId::new("images").unwrap()];
    let report = resume(&project, ResumeRequest { rerun, ..Default::default() }).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let count = |node: &str| project.effects().iter().filter(|(name, _)| name == node).count();
    assert_eq!((count("first"), count("images/pull[a]"), count("images/push"), count("last")), (1, 2, 1, 1));
}

/// The condition of the sub-workflow is asked once, before there are any items, though a node inside
/// has one that is asked for each.
#[tokio::test]
async fn the_condition_of_a_sub_workflow_goes_before_that_of_the_items_inside() {
    let inner = "schema = 1\nname = \"images\"\n[params.names]\ntype = \"list\"\n[nodes.pull]\nstep = \"test\"\n\
                 for_each = \"${params.names}\"\nwhen = \"each.value != 'b'\"\nwith = { value = \"${each.value}\" }\n";
    let parent = |when: &str| {
        format!(
            "[nodes.first]\nstep = \"test\"\nwith = {{ value = 3 }}\n[nodes.images]\nstep = \"workflow\"\n\
             when = \"nodes.first.attempt {when}\"\n\
             with = {{ file = \"images.toml\", params = {{ names = \"${{nodes.first.value}}\" }} }}\n"
        )
    };
    // The list is none, which is nobody's concern where the sub-workflow is not run.
    let report = project(&parent("> 5"), inner).run().await;
    assert_eq!(states(&report), pairs(&[("first", "finished"), ("images/pull", "skipped")]));
    let reason = report.node("images/pull").unwrap().reason.clone();
    assert_eq!(reason.as_deref(), Some("`when` is false: nodes.first.attempt > 5"));
    let list = parent("== 1").replace("value = 3", "value = [\"a\", \"b\"]");
    let report = project(&list, inner).run().await;
    assert_eq!(
        states(&report),
        pairs(&[
            ("first", "finished"),
            ("images/pull", "finished"),
            ("images/pull[a]", "finished"),
            ("images/pull[b]", "skipped"),
        ])
    );
}

/// As after an upgrade of the program: the run goes on with the text that it was started with.
#[tokio::test]
async fn a_shipped_workflow_can_be_held_and_is_resumed_from_its_stored_text() {
    let project = Project::new("[nodes.part]\nstep = \"workflow\"\nwith = { file = \"shipped\" }\n");
    let text = |value: u8| {
        let node = format!("[nodes.a]\nstep = \"test\"\nwith = {{ value = {value} }}\n");
        [("shipped".to_owned(), format!("schema = 1\nname = \"shipped\"\n{node}"))]
    };
    project.script(|s| drop(s.apply.insert("part/a".into(), [Apply::Permanent].into())));
    let engine = project.engine().with_workflows(text(1));
    let checked = project.checked(&engine);
    let report = engine.run(&checked, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    for engine in [project.engine().with_workflows(text(2)), project.engine().with_workflows(text(3))] {
        let request = ResumeRequest { rerun: vec![NodeId::new("part/a").unwrap()], ..Default::default() };
        let report = engine.resume(request, EventSink::discard(), &Shutdown::new()).await.unwrap();
        assert_eq!(report.state, RunState::Done);
        assert_eq!(report.node("part/a").unwrap().outputs.as_ref().unwrap()["value"], json!(1));
    }
}
