//! `for_each` with a real store: items of their own, lists known early or late, and changed ones.

mod support;

use migrate_engine::{
    EventKind, EventSink, NodeState, Params, ResumeRequest, RunError, RunState, Shutdown, VerifyRequest,
};
use migrate_plugin_api::{CancellationToken, NodeId, Observation, VerifyDepth};
use serde_json::{Value, json};
use support::{Apply, Project, collector, pairs, resume, states};

const PARAM: &str = r#"
[params.namespaces]
type = "list"
default = ["shop", "files", "mail"]

[nodes.copy]
step = "test"
for_each = "${params.namespaces}"
with = { value = "${each.value}", text = "${each.key} is one" }
max_parallel = 1

[nodes.after]
step = "test"
with = { items = "${nodes.copy[*].value}", value = '${nodes.copy["files"].attempt}' }
"#;

const LATE: &str = r#"
[nodes.inventory]
step = "test"

[nodes.copy]
step = "test"
for_each = "${nodes.inventory.list}"
with = { value = "${each.value}" }
max_parallel = 1

[nodes.after]
step = "test"
needs = ["copy"]
"#;

fn accept() -> ResumeRequest {
    ResumeRequest { accept_changes: true, ..ResumeRequest::default() }
}

fn effects_of(project: &Project, node: &str) -> usize {
    project.effects().iter().filter(|(name, _)| name == node).count()
}

#[tokio::test]
async fn every_item_is_a_thing_of_its_own() {
    let project = Project::new(PARAM);
    let engine = project.engine();
    let (sink, events) = collector();
    let report = engine.run(&project.checked(&engine), sink, &Shutdown::new()).await.unwrap();
    assert_eq!(
        states(&report),
        pairs(&[
            ("copy", "finished"),
            ("copy[shop]", "finished"),
            ("copy[files]", "finished"),
            ("copy[mail]", "finished"),
            ("after", "finished"),
        ])
    );
    let whole = report.node("copy").unwrap();
    assert_eq!(
        serde_json::to_value(whole.items).unwrap(),
        json!({ "total": 3, "done": 3, "failed": 0, "begun": 0 })
    );
    assert_eq!(report.node("copy[shop]").unwrap().outputs.as_ref().unwrap()["value"], json!("shop"));
    assert!(report.node("copy[shop]").unwrap().evidence.is_some());
    let events = events.await.unwrap();
    let expanded = |kind: &EventKind| matches!(kind, EventKind::NodeExpanded { items: 3, .. });
    assert!(events.iter().any(|event| expanded(&event.kind)));
    assert!(events.iter().any(|event| matches!(event.kind, EventKind::NodeItemsDone { items: 3, .. })));
    let keys: std::collections::BTreeSet<String> =
        project.effects().into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 4, "every item has a key of its own");
    assert_eq!(engine.status(None).await.unwrap().report, report);
}

#[tokio::test]
async fn known_lists_are_planned_item_by_item_and_unknown_ones_once() {
    let project = Project::new(PARAM);
    let engine = project.engine();
    let plan = engine.plan(&project.checked(&engine), &CancellationToken::new()).await;
    let summary = |name: &str| {
        let node = plan.nodes.iter().find(|node| node.node.as_str() == name).unwrap();
        node.plan.as_ref().map(|plan| plan.summary.clone())
    };
    assert_eq!(summary("copy"), None);
    assert_eq!(summary("copy[files]").unwrap(), r#"would use {"value":"files","text":"files is one"}"#);
    assert_eq!(plan.nodes[0].for_each.as_ref().unwrap().items, Some(3));

    let project = Project::new(LATE);
    let engine = project.engine();
    let plan = engine.plan(&project.checked(&engine), &CancellationToken::new()).await;
    assert_eq!(plan.nodes.len(), 3);
    let list = plan.nodes[1].for_each.clone().unwrap();
    assert_eq!((list.items, list.from), (None, vec!["nodes.inventory.list".to_owned()]));
    assert_eq!(
        plan.nodes[1].plan.as_ref().unwrap().summary,
        r#"would use {"value":{"$unknown":"each.value"}}"#
    );
}

#[tokio::test]
async fn a_problem_of_one_item_keeps_all_from_starting() {
    let project = Project::new(PARAM);
    project.script(|s| {
        s.refuse.insert("copy[files]".into(), "no such bucket".into());
    });
    let engine = project.engine();
    let error =
        engine.run(&project.checked(&engine), EventSink::discard(), &Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Refused(_)));
    assert!(project.effects().is_empty());
}

#[tokio::test]
async fn a_fan_out_killed_in_the_middle_goes_on_with_what_is_left() {
    for workflow in [PARAM.to_owned(), LATE.to_owned()] {
        let item = if workflow == PARAM { "copy[files]" } else { "copy[b]" };
        let first = if workflow == PARAM { "copy[shop]" } else { "copy[a]" };
        let project = Project::new(&workflow);
        project.script(|s| {
            s.apply.insert(item.into(), [Apply::Hang].into());
            s.observe.insert(item.into(), [Observation::Running { handle: "job-7".into() }].into());
        });
        let shutdown = Shutdown::new();
        let (engine, stop) = (project.engine(), shutdown.clone());
        let checked = project.checked(&engine);
        let (report, ()) = tokio::join!(engine.run(&checked, EventSink::discard(), &shutdown), async {
            project.step.reached.notified().await;
            stop.kill();
        });
        assert_eq!(report.unwrap().state, RunState::Interrupted);
        project.calls();
        let report = resume(&project, ResumeRequest::default()).await.unwrap();
        assert_eq!(report.state, RunState::Done);
        let calls = project.calls();
        assert!(!calls.contains(&format!("apply {first}")), "{calls:?}");
        let joined = format!(r#"apply {item} at [null,"job-7"]"#);
        assert!(calls.contains(&format!("observe {item}")) && calls.contains(&joined), "{calls:?}");
        for node in [first, item, "after"] {
            assert_eq!(effects_of(&project, node), 1, "{node}");
        }
        assert_eq!(report.node(first).unwrap().state, NodeState::Reused);
    }
}

#[tokio::test]
async fn a_failed_item_is_named_and_only_it_is_done_again() {
    let project = Project::new(&PARAM.replace("max_parallel = 1", "on_failure = \"continue\""));
    project.script(|s| {
        s.apply.insert("copy[files]".into(), [Apply::Permanent].into());
    });
    let report = project.run().await;
    assert_eq!(report.state, RunState::Failed);
    assert_eq!(
        states(&report),
        pairs(&[
            ("copy", "failed"),
            ("copy[shop]", "finished"),
            ("copy[files]", "failed"),
            ("copy[mail]", "finished"),
            ("after", "blocked"),
        ])
    );
    assert_eq!(report.node("after").unwrap().reason.as_deref(), Some("it waits for `copy`"));
    project.calls();
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let applied: Vec<String> = project.calls().into_iter().filter(|call| call.starts_with("apply")).collect();
    assert_eq!(applied, ["apply copy[files]", "apply after"]);
}

#[tokio::test]
async fn a_reordered_list_changes_nothing_and_a_changed_one_is_told_exactly() {
    let project = Project::new(PARAM);
    project.script(|s| {
        s.apply.insert("after".into(), [Apply::Permanent, Apply::Permanent].into());
    });
    project.run().await;
    let set = |list: &str| project.write_workflow(&PARAM.replace(r#"["shop", "files", "mail"]"#, list));
    project.calls();
    // `after` gets the list in its new order, and has failed, so that it may change freely.
    set(r#"["mail", "shop", "files"]"#);
    let list = |list: &str| {
        let mut params = Params::new();
        params.set("namespaces", list);
        ResumeRequest { params, ..ResumeRequest::default() }
    };
    let report = resume(&project, list("mail,shop,files")).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    assert!(project.calls().iter().all(|call| !call.starts_with("apply copy")));
    assert_eq!(report.nodes[1].node.as_str(), "copy[mail]");

    let error = resume(&project, list("shop,files,web")).await.unwrap_err();
    let RunError::Changed(_, changes) = error else { panic!("{error}") };
    assert_eq!(
        serde_json::to_value(&changes.nodes).unwrap(),
        json!([
            { "node": "copy", "removed": false, "affects": [], "fields": [
                { "field": "for_each[\"mail\"]", "was": "mail" },
                { "field": "for_each[\"web\"]", "now": "web" },
            ] },
            { "node": "copy[mail]", "removed": true, "affects": [], "fields": [] },
        ])
    );
    assert_eq!(effects_of(&project, "copy[web]"), 0, "nothing was touched");
    let request = ResumeRequest { accept_changes: true, ..list("shop,files,web") };
    let (sink, events) = collector();
    let report = project.engine().resume(request, sink, &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let events = events.await.unwrap();
    let told = events.iter().find_map(|event| match &event.kind {
        EventKind::NodeExpanded { added, removed, .. } => Some((added.clone(), removed.clone())),
        _ => None,
    });
    assert_eq!(told, Some((vec!["web".to_owned()], vec!["mail".to_owned()])));
    // What was done for an item that is gone stays in sight.
    let gone = report.node("copy[mail]").unwrap();
    assert_eq!(gone.state, NodeState::Removed);
    assert_eq!(gone.reason.as_deref(), Some("it is no longer in the list; what it did is left as it is"));
    assert!(gone.outputs.is_some());
    assert_eq!(report.node("copy").unwrap().items.unwrap().total, 3);
    // Nor is it run again, or forgotten, when the node is.
    let rerun = vec![NodeId::new("copy").unwrap()];
    let report = resume(&project, ResumeRequest { rerun, ..Default::default() }).await.unwrap();
    assert_eq!(report.node("copy[mail]").unwrap().state, NodeState::Removed);
    assert_eq!((effects_of(&project, "copy[mail]"), effects_of(&project, "copy[web]")), (1, 2));
    for item in ["copy[shop]", "copy[files]", "copy[web]"] {
        assert_eq!(effects_of(&project, item), 2, "{item}");
    }
}

#[tokio::test]
async fn an_item_of_another_config_is_told_by_itself() {
    let project = Project::new(PARAM);
    project.script(|s| {
        s.apply.insert("after".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.write_workflow(&PARAM.replace("is one", "is it"));
    let error = resume(&project, ResumeRequest::default()).await.unwrap_err();
    let RunError::Changed(_, changes) = error else { panic!("{error}") };
    let nodes: Vec<&str> = changes.nodes.iter().map(|change| change.node.as_str()).collect();
    assert_eq!(nodes, ["copy[files]", "copy[mail]", "copy[shop]"]);
    assert_eq!(changes.nodes[0].fields[0].field, "with.text");
    let report = resume(&project, accept()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(effects_of(&project, "copy[shop]"), 2);
}

#[tokio::test]
async fn an_empty_list_is_done_with_nothing_and_says_so() {
    let project = Project::new(
        "[nodes.copy]\nstep = \"test\"\nfor_each = []\n[nodes.after]\nstep = \"test\"\n\
         with = { items = \"${nodes.copy[*].value}\" }\n",
    );
    let report = project.run().await;
    assert_eq!(states(&report), pairs(&[("copy", "finished"), ("after", "finished")]));
    assert_eq!(
        report.node("copy").unwrap().reason.as_deref(),
        Some("its list is empty: there was nothing to do")
    );
}

#[tokio::test]
async fn a_list_that_is_none_fails_its_node_and_says_why() {
    let late = "[nodes.inventory]\nstep = \"test\"\nwith = { value = VALUE }\n[nodes.copy]\nstep = \"test\"\n\
                for_each = \"${nodes.inventory.value}\"\nwith = { value = \"${each.value}\" }\n";
    for (value, why) in [
        ("3", "`for_each` is an integer, but must be a list or a table"),
        (r#"["a", "b", "a"]"#, "items 1 and 3 of `for_each` have the same key `a`"),
    ] {
        let project = Project::new(&late.replace("VALUE", value));
        let report = project.run().await;
        assert_eq!(report.state, RunState::Failed);
        let error = report.node("copy").unwrap().error.clone().unwrap();
        assert_eq!(error.message, why);
        assert_eq!(effects_of(&project, "inventory"), 1);
        // Mended, the run goes on.
        project.write_workflow(&late.replace("VALUE", r#"{ one = 1, two = 2 }"#));
        let report = resume(&project, accept()).await.unwrap();
        assert_eq!(report.state, RunState::Done, "{:?}", states(&report));
        assert_eq!(report.node("copy[two]").unwrap().outputs.as_ref().unwrap()["value"], json!(2));
    }
}

/// That its list can't be gone through now says nothing about what its items have done.
#[tokio::test]
async fn items_of_a_list_that_is_refused_are_not_called_removed() {
    let late = |list: &str| {
        format!(
            "[nodes.names]\nstep = \"test\"\nwith = {{ value = {list} }}\n[nodes.copy]\nstep = \"test\"\n\
             for_each = \"${{nodes.names.value}}\"\nwith = {{ value = \"${{each.value}}\" }}\n"
        )
    };
    let project = Project::new(&late("[\"a\", \"b\"]"));
    assert_eq!(project.run().await.state, RunState::Done);
    project.write_workflow(&late("3"));
    let report =
        resume(&project, ResumeRequest { rerun: vec![NodeId::new("names").unwrap()], ..accept() }).await;
    let report = report.unwrap();
    assert_eq!(report.state, RunState::Failed);
    assert_eq!(
        states(&report),
        pairs(&[("names", "finished"), ("copy", "failed"), ("copy[a]", "finished"), ("copy[b]", "finished")])
    );
    let error = report.node("copy").unwrap().error.clone().unwrap();
    assert_eq!(error.message, "`for_each` is an integer, but must be a list or a table");
    // The list is mended: nothing is made twice.
    project.write_workflow(&late("[\"a\", \"b\"]"));
    let report = resume(&project, accept()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!((effects_of(&project, "copy[a]"), effects_of(&project, "copy[b]")), (1, 1));
    assert_eq!(report.node("copy").unwrap().error, None);
}

#[tokio::test]
async fn items_of_a_node_that_is_skipped_now_are_not_said_to_have_left_the_list() {
    let workflow = |when: &str| {
        format!(
            "[nodes.copy]\nstep = \"test\"\nfor_each = [\"a\"]\nwhen = \"env.site.name == '{when}'\"\n\
             with = {{ value = \"${{each.value}}\" }}\n[nodes.bad]\nstep = \"test\"\nneeds = [\"copy\"]\n"
        )
    };
    let project = Project::new(&workflow("here"));
    project.script(|s| drop(s.apply.insert("bad".into(), [Apply::Permanent].into())));
    project.run().await;
    project.write_workflow(&workflow("there"));
    let report = resume(&project, accept()).await.unwrap();
    let item = report.node("copy[a]").unwrap();
    assert_eq!((report.state, item.state), (RunState::Done, NodeState::Removed));
    assert_eq!(item.reason.as_deref(), Some("its node is skipped now; what it did is left as it is"));
    // That was accepted; and what would be made of something that is skipped is nothing to accept.
    let plain = || resume(&project, ResumeRequest::default());
    assert!(matches!(plain().await, Err(RunError::AlreadyDone(_))));
    project.write_workflow(&workflow("there").replace("${each.value}", "${each.key}!"));
    assert!(matches!(plain().await, Err(RunError::AlreadyDone(_))));
    // There again with it, it is.
    project.write_workflow(&workflow("here").replace("${each.value}", "${each.key}!"));
    let Err(RunError::Changed(_, changes)) = plain().await else { panic!("not told") };
    assert_eq!(changes.nodes[0].fields[0].field, "with.value");
}

/// So it is where the run fails once more.
#[tokio::test]
async fn that_a_list_is_skipped_is_accepted_once() {
    let workflow = "[nodes.copy]\nstep = \"test\"\nfor_each = [\"a\"]\nwhen = \"env.site.name == 'here'\"\n\
                    with = { value = \"${each.value}\" }\n[nodes.bad]\nstep = \"test\"\nneeds = [\"copy\"]\n";
    let project = Project::new(workflow);
    project.script(|s| drop(s.apply.insert("bad".into(), [Apply::Permanent, Apply::Permanent].into())));
    project.run().await;
    project.write_environment("[site]\nname = \"there\"\n");
    assert!(matches!(resume(&project, ResumeRequest::default()).await, Err(RunError::Changed(..))));
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    assert_eq!(effects_of(&project, "copy[a]"), 1);
}

#[tokio::test]
async fn conditions_and_keys_see_the_item_and_lists_can_follow_each_other() {
    let project = Project::new(
        r#"
        [nodes.copy]
        step = "test"
        for_each = [{ name = "shop", size = 3 }, { name = "empty", size = 0 }, { name = "mail", size = 1 }]
        key = "${each.value.name}"
        when = "each.value.size > 0"
        with = { value = "${each.value.size}" }
        [nodes.again]
        step = "test"
        for_each = "${nodes.copy[*].value}"
        with = { value = "${each.value}", text = "item ${each.index}" }
        [nodes.last]
        step = "test"
        when = "nodes.copy['shop'].value == 3"
        "#,
    );
    let report = project.run().await;
    assert_eq!(
        states(&report),
        pairs(&[
            ("copy", "finished"),
            ("copy[shop]", "finished"),
            ("copy[empty]", "skipped"),
            ("copy[mail]", "finished"),
            ("again", "finished"),
            ("again[3]", "finished"),
            ("again[1]", "finished"),
            ("last", "finished"),
        ])
    );
    assert_eq!(report.node("again[3]").unwrap().outputs.as_ref().unwrap()["value"], json!(3));
}

#[tokio::test]
async fn one_item_or_all_of_them_are_run_again_when_asked_for() {
    let project = Project::new(PARAM);
    project.run().await;
    let rerun = |name: &str| ResumeRequest { rerun: vec![NodeId::new(name).unwrap()], ..Default::default() };
    resume(&project, rerun("copy[files]")).await.unwrap();
    assert_eq!((effects_of(&project, "copy[files]"), effects_of(&project, "copy[shop]")), (2, 1));
    resume(&project, rerun("copy")).await.unwrap();
    assert_eq!((effects_of(&project, "copy[files]"), effects_of(&project, "copy[shop]")), (3, 2));
    let error = resume(&project, rerun("copy[nothing]")).await.unwrap_err();
    assert!(matches!(error, RunError::UnknownNode { .. }), "{error}");
}

#[tokio::test]
async fn verify_names_the_item_that_no_longer_holds() {
    let project = Project::new(PARAM);
    project.run().await;
    project.script(|s| {
        s.verify.insert("copy[mail]".into(), [false].into());
    });
    let request = VerifyRequest { run: None, depth: VerifyDepth::Deep };
    let report = project.engine().verify(request, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    let state = |name: &str| report.node(name).unwrap().state;
    assert_eq!(
        (state("copy"), state("copy[mail]"), state("copy[shop]")),
        (NodeState::Failed, NodeState::Failed, NodeState::Finished)
    );
    let counts: Value = serde_json::to_value(report.node("copy").unwrap().items).unwrap();
    assert_eq!(counts, json!({ "total": 3, "done": 2, "failed": 1, "begun": 0 }));
}

#[tokio::test]
async fn a_node_that_becomes_a_list_is_told_and_its_effect_not_taken_for_the_items() {
    let plain = "[nodes.copy]\nstep = \"test\"\nwith = { value = 1 }\n[nodes.bad]\nstep = \"test\"\nneeds = [\"copy\"]\n";
    let project = Project::new(plain);
    project.script(|s| {
        s.apply.insert("bad".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.write_workflow(
        &plain.replace("with = { value = 1 }", "for_each = [1, 2]\nwith = { value = \"${each.value}\" }"),
    );
    assert!(matches!(resume(&project, ResumeRequest::default()).await, Err(RunError::Changed(..))));
    let report = resume(&project, accept()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!((effects_of(&project, "copy[1]"), effects_of(&project, "copy[2]")), (1, 1));
}
