//! What a person keeps as it is, although something that it is built on was made again.

mod support;

use migrate_engine::{
    Action, EventKind, HistoryKind, HistoryRequest, ResumeRequest, RunError, RunState, Shutdown,
};
use migrate_plugin_api::{CancellationToken, ErrorClass, NodeId, Observation};
use support::{Apply, Project, approve, collector, resume};

/// All stand on `a` and take none of its outputs; `d` waits for a person.
const GATED: &str = r#"
[nodes.a]
step = "test"
[nodes.b]
step = "test.natural"
needs = ["a"]
[nodes.go]
step = "gate"
needs = ["b"]
with = { message = "Switch?" }
[nodes.d]
step = "test.natural"
needs = ["go"]
"#;

fn nodes(names: &[&str]) -> Vec<NodeId> {
    names.iter().map(|name| NodeId::new(*name).unwrap()).collect()
}

fn again(rerun: &[&str], keep: &[&str]) -> ResumeRequest {
    ResumeRequest { rerun: nodes(rerun), keep: nodes(keep), ..ResumeRequest::default() }
}

fn applied(project: &Project) -> Vec<String> {
    project.calls().into_iter().filter(|call| call.starts_with("apply")).collect()
}

/// Its turn may only come after a gate, a failure or a stop, and so in another process.
#[tokio::test]
async fn what_is_kept_is_kept_until_its_turn_has_come() {
    let project = Project::new(GATED);
    project.run().await;
    approve(&project).await;
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    project.calls();
    let report = resume(&project, again(&["a"], &["b", "d"])).await.unwrap();
    assert_eq!((report.state, applied(&project)), (RunState::Waiting, vec!["apply a".to_owned()]));
    approve(&project).await;
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    assert!(applied(&project).is_empty());
    let kept = project.engine().history(&HistoryRequest::default()).await.unwrap().entries;
    let kept = kept.into_iter().filter(|entry| entry.kind == HistoryKind::Kept);
    assert_eq!(kept.filter_map(|entry| entry.node).collect::<Vec<_>>(), nodes(&["b", "d"]));

    // It is kept once; and who wants it again after all has it again.
    for (keep, rerun) in [(&[][..], &[][..]), (&["d"][..], &["d"][..])] {
        resume(&project, again(&["a"], keep)).await.unwrap();
        approve(&project).await;
        applied(&project);
        assert_eq!(resume(&project, again(rerun, &[])).await.unwrap().state, RunState::Done);
        assert_eq!(applied(&project), ["apply d"], "{keep:?}");
    }
}

#[tokio::test]
async fn what_is_kept_and_would_be_made_of_something_else_is_not_made_again_unasked() {
    let workflow =
        "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nwith = { value = \"${nodes.a.attempt}\" }\n";
    let project = Project::new(workflow);
    project.run().await;
    project.calls();
    let request = again(&["a"], &["b"]);
    let plan = project.engine().plan_resume(&request, &CancellationToken::new()).await.unwrap();
    let told = plan.node("b").unwrap();
    assert_eq!(told.action, Action::Reuse);
    insta::assert_snapshot!(
        told.reason.as_deref().unwrap(),
        @"kept; if outputs of `a` that it takes come out differently, a person is asked"
    );
    let report = resume(&project, request).await.unwrap();
    assert_eq!((report.state, applied(&project)), (RunState::Failed, vec!["apply a".to_owned()]));
    let error = report.node("b").unwrap().error.clone().unwrap();
    assert_eq!(error.class, ErrorClass::Conflict);
    insta::assert_snapshot!(error.message, @"it is to be kept as it is, and its config or its step has changed");
    let hint = error.hint.unwrap().replace(report.run.as_str(), "RUN");
    insta::assert_snapshot!(hint, @"look for yourself; to do it again: `migrate resume RUN --rerun b`");
    let plan = project.engine().plan_resume(&again(&[], &[]), &CancellationToken::new()).await.unwrap();
    assert_eq!(plan.node("b").unwrap().action, Action::Ask);
    assert_eq!(resume(&project, again(&["b"], &[])).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply b"]);
}

/// What `b` takes of `a` comes out differently, and its turn only comes after a gate: nobody has changed a file.
#[tokio::test]
async fn what_comes_out_differently_before_a_gate_is_no_change_of_the_files_behind_it() {
    let workflow = "[nodes.a]\nstep = \"test\"\n\
                    [nodes.go]\nstep = \"gate\"\nneeds = [\"a\"]\nwith = { message = \"Switch?\" }\n\
                    [nodes.b]\nstep = \"test\"\nneeds = [\"go\"]\non_failure = \"undo\"\n\
                    with = { value = \"${nodes.a.attempt}\" }\n";
    for keep in [&[][..], &["b"][..]] {
        let project = Project::new(workflow);
        project.run().await;
        approve(&project).await;
        assert_eq!(resume(&project, again(&[], &[])).await.unwrap().state, RunState::Done);
        assert_eq!(resume(&project, again(&["a"], keep)).await.unwrap().state, RunState::Waiting);
        approve(&project).await;
        project.calls();
        project.script(|s| {
            s.apply.insert("b".into(), [Apply::Permanent].into());
        });
        let report = resume(&project, again(&[], &[])).await.unwrap();
        assert_eq!(report.state, RunState::Failed, "what stands is not taken back: {report:#?}");
        assert_eq!(applied(&project).is_empty(), !keep.is_empty());
        if !keep.is_empty() {
            assert_eq!(report.node("b").unwrap().error.as_ref().unwrap().class, ErrorClass::Conflict);
        }
    }
}

/// An edit of the same field is one all the same.
#[tokio::test]
async fn an_edit_beside_an_output_that_was_made_again_is_told() {
    let workflow = "[nodes.a]\nstep = \"test\"\n\
                    [nodes.go]\nstep = \"gate\"\nneeds = [\"a\"]\nwith = { message = \"Switch?\" }\n\
                    [nodes.b]\nstep = \"test\"\nneeds = [\"go\"]\nwith = { value = \"${nodes.a.attempt}/shop\" }\n";
    let project = Project::new(workflow);
    project.run().await;
    approve(&project).await;
    assert_eq!(resume(&project, again(&[], &[])).await.unwrap().state, RunState::Done);
    assert_eq!(resume(&project, again(&["a"], &[])).await.unwrap().state, RunState::Waiting);
    approve(&project).await;
    project.write_workflow(&workflow.replace("/shop", "/other"));
    let error = resume(&project, again(&[], &[])).await.unwrap_err();
    let RunError::Changed(_, changes) = &error else { panic!("{error}") };
    let fields: Vec<_> = changes.nodes.iter().flat_map(|change| &change.fields).collect();
    assert_eq!(fields.len(), 1, "{fields:?}");
    assert_eq!(fields[0].was.as_ref().unwrap().as_str(), Some("1/shop"));
    assert_eq!(fields[0].now.as_ref().unwrap().as_str(), Some("2/other"));
}

#[tokio::test]
async fn what_has_changed_in_the_files_is_not_kept() {
    let workflow =
        "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nneeds = [\"a\"]\nwith = { value = 1 }\n";
    let project = Project::new(workflow);
    project.run().await;
    project.calls();
    project.write_workflow(&workflow.replace("value = 1", "value = 2"));
    let request = ResumeRequest { accept_changes: true, ..again(&["a"], &["b"]) };
    let error = resume(&project, request).await.unwrap_err();
    assert!(matches!(&error, RunError::KeptChanged(node) if node.as_str() == "b"), "{error}");
    insta::assert_snapshot!(
        error,
        @"the files say something else of `b` now, so it can't be kept as it is: take that back, or let it run again"
    );
    assert!(project.calls().is_empty(), "nothing was touched");
}

#[tokio::test]
async fn who_could_have_kept_a_node_is_told_and_nobody_else() {
    // What runs again with its own config could be kept.
    let project =
        Project::new("[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test.natural\"\nneeds = [\"a\"]\n");
    project.run().await;
    let (events, told) = collector();
    let report = project.engine().resume(again(&["a"], &[]), events, &Shutdown::new()).await.unwrap();
    let told = told.await.unwrap().into_iter().find_map(|event| match event.kind {
        EventKind::NodeLog { node, message, .. } if node.as_str() == "b" => Some(message),
        _ => None,
    });
    insta::assert_snapshot!(
        told.unwrap().replace(report.run.as_str(), "RUN"),
        @"`a` was made again since; the node runs again; `migrate resume RUN --keep b` would have kept it as it was"
    );

    let once = "[nodes.a]\nstep = \"test\"\n[nodes.pay]\nstep = \"test.once\"\n";
    let hint = async |project: &Project| {
        project.calls();
        let report = resume(project, again(&["a"], &[])).await.unwrap();
        let error = report.node("pay").unwrap().error.clone().unwrap();
        assert_eq!((error.class, applied(project)), (ErrorClass::Conflict, vec!["apply a".to_owned()]));
        error.hint.unwrap().replace(report.run.as_str(), "RUN")
    };
    // It would be done with something else.
    let project = Project::new(&format!("{once}with = {{ value = \"${{nodes.a.attempt}}\" }}\n"));
    project.run().await;
    insta::assert_snapshot!(
        hint(&project).await,
        @"look for yourself; to do it again: `migrate resume RUN --rerun pay`"
    );
    // Nobody knows whether it is there.
    let project = Project::new(&format!("{once}needs = [\"a\"]\n"));
    project.script(|s| {
        s.apply.insert("pay".into(), [Apply::Hang].into());
        s.observe.insert("pay".into(), [Observation::Unknown { reason: "?".into() }].into());
    });
    project.run_and_kill().await;
    insta::assert_snapshot!(
        hint(&project).await,
        @"look for yourself; to do it again: `migrate resume RUN --rerun pay`"
    );
}
