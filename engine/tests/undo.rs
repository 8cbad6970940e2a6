//! What an undo takes back, in which order, and what it says of the rest.

mod support;

use migrate_engine::{
    Action, Engine, EventSink, NodeState, ResumeRequest, RunError, RunReport, RunState, Shutdown, UndoAction,
    UndoPlan, UndoRequest,
};
use migrate_plugin_api::{CancellationToken, NodeId, Observation};
use support::{Apply, Project, pairs, resume, states};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

async fn undo(project: &Project) -> RunReport {
    project.engine().undo(UndoRequest::default(), EventSink::discard(), &Shutdown::new()).await.unwrap()
}

/// The plan of an undo in short.
async fn planned(project: &Project) -> Vec<(String, UndoAction, Option<String>)> {
    let UndoPlan { nodes, .. } = project.engine().plan_undo(None).await.unwrap();
    nodes.into_iter().map(|node| (node.node.to_string(), node.action, node.reason)).collect()
}

fn accept() -> ResumeRequest {
    ResumeRequest { accept_changes: true, ..ResumeRequest::default() }
}

fn script(project: &Project, node: &str, apply: &[Apply]) {
    project.script(|s| drop(s.apply.insert(node.into(), apply.to_vec().into())));
}

/// Neither by name nor as if nothing were built on it: `k` was made when `b` was there.
#[tokio::test]
async fn nodes_that_are_gone_are_undone_in_reverse_order_of_what_happened() {
    let project = Project::new(
        "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nneeds = [\"a\"]\n\
         [nodes.k]\nstep = \"test\"\nneeds = [\"b\"]\n[nodes.last]\nstep = \"test\"\nneeds = [\"k\"]\n",
    );
    script(&project, "last", &[Apply::Permanent]);
    project.run().await;
    project.write_workflow("[nodes.k]\nstep = \"test\"\n[nodes.last]\nstep = \"test\"\nneeds = [\"k\"]\n");
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    project.calls();
    let report = undo(&project).await;
    assert_eq!(project.calls(), ["undo last", "undo k", "undo b", "undo a"]);
    // What was gone is told as it stands now, and not as left.
    assert_eq!(
        states(&report),
        pairs(&[("k", "undone"), ("last", "undone"), ("a", "undone"), ("b", "undone")])
    );
}

/// Who changes a node and accepts that means what its `on_failure` says.
#[tokio::test]
async fn a_change_that_was_accepted_and_fails_undoes_the_run() {
    let workflow = |value: u32| {
        format!("[nodes.a]\nstep = \"test\"\non_failure = \"undo\"\nwith = {{ value = {value} }}\n")
    };
    let project = Project::new(&workflow(1));
    assert_eq!(project.run().await.state, RunState::Done);
    project.write_workflow(&workflow(2));
    script(&project, "a", &[Apply::Permanent]);
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Undone);
}

/// Made again later than what is built on it, it is still undone after that.
#[tokio::test]
async fn what_was_made_again_is_undone_after_what_is_built_on_it_and_what_it_replaced_is_named() {
    let project = Project::new(
        "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nneeds = [\"a\"]\n\
         [nodes.n]\nstep = \"test.natural\"\nneeds = [\"b\"]\n",
    );
    project.run().await;
    let first = project.effects()[0].1.clone();
    let rerun = vec![node("a"), node("n")];
    let report = resume(&project, ResumeRequest { rerun, ..ResumeRequest::default() }).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    project.calls();
    let left = format!("what it had made before it was made again is left: `{first}`");
    // What a natural step made again with the same config it made in the same place.
    let (take_back, planned) = (UndoAction::Undo, planned(&project).await);
    let expected = [
        ("n".to_owned(), take_back, None),
        ("b".to_owned(), take_back, None),
        ("a".to_owned(), take_back, Some(left.clone())),
    ];
    assert_eq!(planned, expected);
    let report = undo(&project).await;
    assert_eq!(project.calls(), ["undo n", "undo b", "undo a"]);
    assert_eq!(states(&report), pairs(&[("a", "left"), ("b", "undone"), ("n", "undone")]));
    assert_eq!(report.node("a").unwrap().reason.as_ref(), Some(&left));
}

/// "Absent" of a natural step may only mean that it can be repeated.
#[tokio::test]
async fn what_a_natural_step_began_with_another_config_is_not_taken_for_gone() {
    for (step, state) in [("test.natural", "left"), ("test", "undone")] {
        let project = Project::new(&format!(
            "[nodes.n]\nstep = \"{step}\"\nwith = {{ value = \"${{env.site.name}}\" }}\n"
        ));
        script(&project, "n", &[Apply::Hang]);
        project.run_and_kill().await;
        project.write_environment("[site]\nname = \"there\"\n");
        assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
        let report = undo(&project).await;
        assert_eq!(states(&report), pairs(&[("n", state)]), "{step}");
        let reason = report.node("n").unwrap().reason.clone().unwrap_or_default();
        let told = "what it had made before it was made again is left: `n-";
        assert_eq!(reason.starts_with(told), state == "left", "{reason}");
    }
}

#[tokio::test]
async fn an_undo_that_goes_on_says_of_every_node_what_is_true() {
    // One after the other, so that the first has failed for good when the second hangs.
    const NODES: &str = "[pools]\np = 1\n[nodes.a]\nstep = \"test\"\n\
        [nodes.failed]\nstep = \"test\"\nneeds = [\"a\"]\npool = \"p\"\non_failure = \"continue\"\n\
        [nodes.stopped]\nstep = \"test\"\nneeds = [\"a\"]\npool = \"p\"\n";
    let project = Project::new(NODES);
    script(&project, "failed", &[Apply::Permanent]);
    script(&project, "stopped", &[Apply::Hang]);
    project.run_and_kill().await;
    project.calls();
    project.script(|s| drop(s.undo.insert("a".into(), [Apply::Permanent].into())));
    assert_eq!(undo(&project).await.state, RunState::Failed);
    assert_eq!(project.calls(), ["observe stopped", "observe failed", "undo a"]);
    // Neither is looked for again, nor said to be left: nothing of them is there.
    assert_eq!(planned(&project).await, [("a".to_owned(), UndoAction::Undo, None)]);
    let report = undo(&project).await;
    assert_eq!((report.state, project.calls()), (RunState::Undone, vec!["undo a".to_owned()]));
    assert_eq!(states(&report), pairs(&[("a", "undone"), ("failed", "failed"), ("stopped", "pending")]));
    assert_eq!(report.node("failed").unwrap().error.as_ref().unwrap().message, "failed to do the thing");
    assert_eq!(report.node("stopped").unwrap().reason, None);
}

/// That it could not be looked at once is no longer how it stands.
#[tokio::test]
async fn a_failed_look_is_not_told_of_a_node_that_was_seen_later() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\n");
    script(&project, "a", &[Apply::Permanent]);
    project.run().await;
    project.script(|s| {
        drop(s.observe.insert("a".into(), [Observation::Running { handle: "job".into() }].into()))
    });
    let report = undo(&project).await;
    let message = |report: &RunReport| report.node("a").unwrap().error.as_ref().unwrap().message.clone();
    assert_eq!(
        (report.state, message(&report).as_str()),
        (RunState::Failed, "it is still at work outside: `job`")
    );
    let report = undo(&project).await;
    assert_eq!((report.state, message(&report).as_str()), (RunState::Undone, "failed to do the thing"));
}

#[tokio::test]
async fn what_a_node_did_before_it_had_a_list_is_undone_too() {
    let plain = "[nodes.copy]\nstep = \"test\"\nwith = { value = 1 }\n[nodes.bad]\nstep = \"test\"\nneeds = [\"copy\"]\n";
    let project = Project::new(plain);
    script(&project, "bad", &[Apply::Permanent]);
    project.run().await;
    project.write_workflow(
        &plain.replace("with = { value = 1 }", "for_each = [1, 2]\nwith = { value = \"${each.value}\" }"),
    );
    let report = resume(&project, accept()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let reason = report.node("copy").unwrap().reason.clone();
    assert_eq!(reason.as_deref(), Some("what it did before it had a list is left as it is"));
    // It is told once, and neither verified nor run again.
    project.calls();
    let request = ResumeRequest { rerun: vec![node("bad")], ..ResumeRequest::default() };
    let report = resume(&project, request).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert!(project.calls().iter().all(|call| call != "verify copy" && call != "apply copy"));
    let report = undo(&project).await;
    assert_eq!(project.calls(), ["undo bad", "undo copy[2]", "undo copy[1]", "undo copy"]);
    assert_eq!(report.state, RunState::Undone);
    let state = |name: &str| report.node(name).unwrap().state;
    assert_eq!((state("copy"), state("copy[1]")), (NodeState::Undone, NodeState::Undone));
    assert_eq!(report.node("copy").unwrap().reason, None);
}

#[tokio::test]
async fn an_item_that_left_its_list_is_undone_too() {
    let project = Project::new(
        "[nodes.copy]\nstep = \"test\"\nfor_each = [\"a\", \"b\"]\nmax_parallel = 1\n\
         with = { value = \"${each.value}\" }\n[nodes.bad]\nstep = \"test\"\nneeds = [\"copy\"]\n",
    );
    script(&project, "bad", &[Apply::Permanent]);
    project.run().await;
    let text = std::fs::read_to_string(project.path("w.toml")).unwrap();
    std::fs::write(project.path("w.toml"), text.replace("[\"a\", \"b\"]", "[\"b\"]")).unwrap();
    resume(&project, accept()).await.unwrap();
    project.calls();
    let report = undo(&project).await;
    assert_eq!(project.calls(), ["undo bad", "undo copy[b]", "undo copy[a]"]);
    assert_eq!(report.node("copy[a]").unwrap().state, NodeState::Undone);
}

/// What is asked for again keeps what it made until it begins.
#[tokio::test]
async fn what_was_to_be_made_again_and_was_not_begun_is_undone() {
    let project = Project::new(
        "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nwith = { value = \"${nodes.a.value}\" }\n\
         [nodes.c]\nstep = \"test\"\nneeds = [\"b\"]\n",
    );
    project.run().await;
    script(&project, "a", &[Apply::Permanent]);
    let from = ResumeRequest { from: vec![node("a")], ..ResumeRequest::default() };
    let report = resume(&project, from).await.unwrap();
    assert_eq!(states(&report), pairs(&[("a", "failed"), ("b", "blocked"), ("c", "blocked")]));
    assert!(report.node("b").unwrap().outputs.is_some(), "what it made is still there");
    // That it is to be made again is not forgotten.
    let plan =
        project.engine().plan_resume(&ResumeRequest::default(), &CancellationToken::new()).await.unwrap();
    assert_eq!(plan.node("c").unwrap().action, Action::Rerun);
    project.calls();
    let report = undo(&project).await;
    assert_eq!(project.calls(), ["undo c", "undo b", "observe a"]);
    assert_eq!(states(&report), pairs(&[("a", "left"), ("b", "undone"), ("c", "undone")]));
}

/// The step may be there again tomorrow: nothing is left for good because of today.
#[tokio::test]
async fn an_undo_waits_for_a_step_that_cant_be_asked() {
    let project =
        Project::new("[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test.natural\"\nneeds = [\"a\"]\n");
    project.run().await;
    project.calls();
    let broken = || project.engine().with_unusable([("test".to_owned(), "it ends at once".to_owned())]);
    let unusable = "step `test` can't be used: it ends at once";
    for (engine, why) in [
        (Engine::open(project.dir.path(), Vec::new()).unwrap(), "there is no step `test` any more"),
        (broken(), unusable),
    ] {
        let plan = engine.plan_undo(None).await.unwrap();
        let a = plan.nodes.iter().find(|planned| planned.node == node("a")).unwrap();
        assert_eq!((a.action, a.reason.as_deref()), (UndoAction::Blocked, Some(why)));
        let refused = engine.undo(UndoRequest::default(), EventSink::discard(), &Shutdown::new()).await;
        let Err(RunError::UndoBlocked { nodes, .. }) = refused else { panic!("{refused:?}") };
        assert!(nodes.contains(&(node("a"), why.to_owned())), "{nodes:?}");
        let report = engine.status(None).await.unwrap().report;
        assert_eq!((report.state, report.undo), (RunState::Done, None), "nothing was changed");
    }
    assert_eq!(project.calls(), Vec::<String>::new());
    let request = UndoRequest { leave: [node("a")].into(), ..UndoRequest::default() };
    let refused = project.engine().undo(request.clone(), EventSink::discard(), &Shutdown::new()).await;
    assert!(
        matches!(refused, Err(RunError::NotBlocked(_))),
        "only what can't be undone is left: {refused:?}"
    );
    let report = broken().undo(request, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Undone);
    assert_eq!(states(&report), pairs(&[("a", "left"), ("b", "undone")]));
    assert_eq!(report.node("a").unwrap().reason, Some(format!("as asked for: {unusable}")));
}

/// The command that was interrupted is given again as it stands.
#[tokio::test]
async fn what_an_undo_left_on_request_may_be_asked_for_again() {
    let project =
        Project::new("[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test.natural\"\nneeds = [\"a\"]\n");
    project.run().await;
    project.script(|s| drop(s.undo.insert("a".into(), [Apply::Permanent].into())));
    let broken = project.engine().with_unusable([("test.natural".to_owned(), "it is gone".to_owned())]);
    let request = UndoRequest { leave: [node("b")].into(), ..UndoRequest::default() };
    for (state, a) in [(RunState::Failed, "failed"), (RunState::Undone, "undone")] {
        let report = broken.undo(request.clone(), EventSink::discard(), &Shutdown::new()).await.unwrap();
        assert_eq!(report.state, state);
        assert_eq!(states(&report), pairs(&[("a", a), ("b", "left")]));
    }
}

/// A run that begins by itself to undo what it did stops there, and goes on later.
#[tokio::test]
async fn an_undo_that_comes_to_a_step_that_cant_be_asked_fails_and_goes_on_later() {
    let last = "[nodes.last]\nstep = \"test\"\non_failure = \"undo\"\n";
    let project =
        Project::new(&format!("[nodes.a]\nstep = \"test.natural\"\n{}", last.replace("undo", "stop")));
    script(&project, "last", &[Apply::Permanent, Apply::Permanent]);
    assert_eq!(project.run().await.state, RunState::Failed);
    project.write_workflow(last);
    project.calls();
    let broken = project.engine().with_unusable([("test.natural".to_owned(), "it is gone".to_owned())]);
    let report = broken.resume(accept(), EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    let error = report.node("a").and_then(|a| a.error.as_ref()).unwrap();
    assert_eq!(error.message, "step `test.natural` can't be used: it is gone");
    let refused = broken.undo(UndoRequest::default(), EventSink::discard(), &Shutdown::new()).await;
    assert!(matches!(refused, Err(RunError::UndoBlocked { .. })), "{refused:?}");
    assert!(!project.calls().contains(&"undo a".to_owned()));
    assert_eq!(undo(&project).await.state, RunState::Undone);
    assert_eq!(project.calls(), ["undo a"]);
}
