//! What `resume` would do, told before it is done; going on from a node; and the history of a run.

mod support;

use migrate_engine::{
    Action, DecideRequest, EventKind, EventSink, HistoryKind, HistoryRequest, NodeState, ResumePlan,
    ResumeRequest, RunError, RunState, Shutdown,
};
use migrate_plugin_api::{CancellationToken, LogLevel, NodeId, Observation};
use serde_json::json;
use support::{Apply, Project, collector, resume, states};

/// `a` feeds `b`, `b` feeds `c`; `d` is alone; `e` only waits for `a`.
const TREE: &str = r#"
[nodes.a]
step = "test"
with = { value = "${env.site.name}" }
[nodes.b]
step = "test"
with = { value = "${nodes.a.value}" }
[nodes.c]
step = "test"
with = { value = "${nodes.b.attempt}" }
[nodes.d]
step = "test"
with = { value = 1 }
[nodes.e]
step = "test"
needs = ["a"]
with = { value = 2 }
"#;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

async fn plan(project: &Project, request: ResumeRequest) -> Result<ResumePlan, RunError> {
    project.engine().plan_resume(&request, &CancellationToken::new()).await
}

/// The plan without what differs from run to run.
fn shown(plan: &ResumePlan) -> String {
    let mut value = serde_json::to_value(plan).unwrap();
    assert_eq!(serde_json::from_value::<ResumePlan>(value.clone()).unwrap(), *plan);
    value["run"] = "RUN".into();
    let mut text = format!("{} of {}\n", value["state"], value["workflow"]);
    for node in &plan.nodes {
        let action = serde_json::to_value(node.action).unwrap();
        let reason = node.reason.as_deref().unwrap_or("-");
        let planned = if node.plan.is_some() { "planned" } else { "-" };
        let seen = node.evidence.as_ref().map_or("-", |e| if e.passed() { "verified" } else { "disproved" });
        text.push_str(&format!("{} {} | {reason} | {seen} | {planned}\n", node.node, action));
        for field in &node.fields {
            text.push_str(&format!("  {} {:?} -> {:?}\n", field.field, field.was, field.now));
        }
    }
    for change in &plan.changes.nodes {
        text.push_str(&format!(
            "changed: {} removed {} affects {:?}\n",
            change.node, change.removed, change.affects
        ));
    }
    text
}

/// A run in which `b` fails for good.
async fn failed() -> Project {
    let project = Project::new(TREE);
    project.script(|s| drop(s.apply.insert("b".into(), [Apply::Permanent].into())));
    assert_eq!(project.run().await.state, RunState::Failed);
    project.calls();
    project
}

#[tokio::test]
async fn a_plan_of_a_failed_run_says_what_is_reused_looked_for_and_begun() {
    let project = failed().await;
    let before = std::fs::read(project.path(".migrate/state.db")).unwrap();
    let told = plan(&project, ResumeRequest::default()).await.unwrap();
    insta::assert_snapshot!(shown(&told));
    assert!(told.changes.is_empty() && !told.has_problems());
    assert!(project.calls().iter().all(|call| call.starts_with("verify")), "it only reads");
    assert_eq!(std::fs::read(project.path(".migrate/state.db")).unwrap(), before);
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(report.node("a").unwrap().attempts, 1, "as told");
}

#[tokio::test]
async fn a_plan_of_a_changed_run_says_what_resume_refuses_with() {
    let project = Project::new(TREE);
    project.run().await;
    project.write_environment("[site]\nname = \"there\"\n");
    let told = plan(&project, ResumeRequest { rerun: vec![node("d")], ..ResumeRequest::default() }).await;
    let told = told.unwrap();
    insta::assert_snapshot!(shown(&told));
    let refused =
        resume(&project, ResumeRequest { rerun: vec![node("d")], ..ResumeRequest::default() }).await;
    let Err(RunError::Changed(_, changes)) = refused else { panic!("{refused:?}") };
    assert_eq!(*changes, told.changes, "the same explanation");
    project.calls();
    let accept = ResumeRequest { rerun: vec![node("d")], accept_changes: true, ..ResumeRequest::default() };
    resume(&project, accept).await.unwrap();
    let calls = project.calls();
    let called = |call: &str| calls.iter().any(|other| other == call);
    // `e` only waits for `a`: it stays where it holds beside what `a` has made now.
    assert!(called("apply a") && called("verify deep e") && !called("apply e"), "{calls:?}");
}

/// What was accepted is remembered, so that the next change is not accepted with it, unseen.
#[tokio::test]
async fn that_a_node_is_gone_is_accepted_once() {
    let project = failed().await;
    let gone = &TREE[..TREE.find("[nodes.d]").unwrap()];
    project.write_workflow(gone);
    assert!(matches!(resume(&project, ResumeRequest::default()).await, Err(RunError::Changed(..))));
    project.script(|s| drop(s.apply.insert("b".into(), [Apply::Permanent].into())));
    let (events, told) = collector();
    let accept = ResumeRequest { accept_changes: true, ..ResumeRequest::default() };
    let report = project.engine().resume(accept, events, &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    let told = told.await.unwrap();
    let said = |name: &str, what: &str| {
        told.iter().any(|event| {
            matches!(&event.kind, EventKind::NodeLog { node: of, message, .. } if *of == node(name) && message == what)
        })
    };
    for name in ["d", "e"] {
        let what = "accepted: is no longer in the workflow; what it did is left as it is";
        assert!(said(name, what), "{told:?}");
    }
    // Another change is told by itself.
    project.write_environment("[site]\nname = \"there\"\n");
    let Err(RunError::Changed(_, changes)) = resume(&project, ResumeRequest::default()).await else {
        panic!("not told")
    };
    assert_eq!(changes.nodes.iter().map(|change| change.node.as_str()).collect::<Vec<_>>(), ["a"]);
    project.write_environment("[site]\nname = \"here\"\n");
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(report.node("d").unwrap().state, NodeState::Removed, "it stays in sight");
    // There again, and gone again: that is another change.
    project.write_workflow(TREE);
    let rerun = ResumeRequest { rerun: vec![node("c")], ..ResumeRequest::default() };
    assert_eq!(resume(&project, rerun).await.unwrap().state, RunState::Done);
    project.write_workflow(gone);
    assert!(matches!(resume(&project, ResumeRequest::default()).await, Err(RunError::Changed(..))));
}

/// That it is done is said of the files as they are.
#[tokio::test]
async fn a_done_run_goes_on_where_its_files_lead_to_more() {
    let project = Project::new(TREE);
    project.run().await;
    let bare = ResumeRequest::default;
    assert!(plan(&project, bare()).await.unwrap().complete);
    assert!(matches!(resume(&project, bare()).await, Err(RunError::AlreadyDone(_))));
    project.write_environment("[site]\nname = \"there\"\n");
    assert!(!plan(&project, bare()).await.unwrap().complete);
    assert!(matches!(resume(&project, bare()).await, Err(RunError::Changed(..))));
    let accept = || ResumeRequest { accept_changes: true, ..ResumeRequest::default() };
    project.calls();
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert!(project.calls().contains(&"apply a".to_owned()));
    assert!(matches!(resume(&project, accept()).await, Err(RunError::AlreadyDone(_))));
    project.write_workflow(&format!("{TREE}[nodes.f]\nstep = \"test\"\nneeds = [\"e\"]\n"));
    let told = plan(&project, bare()).await.unwrap();
    assert!(told.changes.is_empty() && !told.complete);
    let report = resume(&project, bare()).await.unwrap();
    assert_eq!((report.state, report.node("f").unwrap().attempts), (RunState::Done, 1));
    assert!(matches!(resume(&project, bare()).await, Err(RunError::AlreadyDone(_))));
}

/// `b` to `d` stand on `a` and take none of its outputs.
const BUILT: &str = r#"
[nodes.a]
step = "test"
with = { value = "${env.site.name}" }
[nodes.b]
step = "test.natural"
needs = ["a"]
with = { value = 1 }
[nodes.c]
step = "test"
needs = ["a"]
with = { value = 2 }
[nodes.go]
step = "gate"
needs = ["b"]
with = { message = "Switch?" }
[nodes.d]
step = "test.natural"
needs = ["go"]
with = { value = 3 }
[nodes.e]
step = "test"
with = { value = 4 }
"#;

async fn approve(project: &Project, name: &str) {
    let (by, host) = ("ana".to_owned(), "laptop".to_owned());
    let request = DecideRequest { run: None, node: node(name), approved: true, by, host, note: None };
    project.engine().decide(request).await.unwrap();
}

#[tokio::test]
async fn what_is_built_on_something_that_was_made_again_is_no_proof_of_before() {
    let project = Project::new(BUILT);
    assert_eq!(project.run().await.state, RunState::Waiting);
    approve(&project, "go").await;
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    let rerun = ResumeRequest { rerun: vec![node("a")], ..ResumeRequest::default() };
    insta::assert_snapshot!(shown(&plan(&project, rerun.clone()).await.unwrap()), @r#"
    "done" of "w"
    a "rerun" | asked for | - | planned
    b "rerun" | it is built on `a`, which is made again; `--keep b` would keep it | - | planned
    c "inspect" | it is built on `a`, which is made again; `--keep c` would keep it | verified | -
    go "wait" | it is built on `b`, which is made again: a person is asked again | - | planned
    d "rerun" | it is built on `b`, which is made again; `--keep d` would keep it | - | planned
    e "reuse" | - | verified | -
    "#);
    project.calls();
    assert_eq!(resume(&project, rerun).await.unwrap().state, RunState::Waiting);
    let mut calls = project.calls();
    calls.sort();
    assert_eq!(
        calls,
        ["apply a", "apply b", "verify a", "verify b", "verify deep c", "verify e"],
        "as told; `d` waits for the gate"
    );
    approve(&project, "go").await;
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    let mut calls = project.calls();
    calls.sort();
    assert_eq!(calls, ["apply d", "verify a", "verify b", "verify c", "verify d", "verify e"]);
    // So it is after a change that was accepted.
    project.write_environment("[site]\nname = \"there\"\n");
    let accept = ResumeRequest { accept_changes: true, ..ResumeRequest::default() };
    assert_eq!(resume(&project, accept).await.unwrap().state, RunState::Waiting);
    let calls = project.calls();
    let called = |call: &str| calls.iter().any(|other| other == call);
    assert!(called("apply b") && called("verify deep c"), "{calls:?}");
}

#[tokio::test]
async fn a_person_may_keep_what_is_built_on_something_that_was_made_again() {
    let project = Project::new(BUILT);
    project.run().await;
    approve(&project, "go").await;
    resume(&project, ResumeRequest::default()).await.unwrap();
    let rerun = || ResumeRequest { rerun: vec![node("a")], ..ResumeRequest::default() };
    let keep = |names: &[&str]| names.iter().map(|name| node(name)).collect();
    let kept = ResumeRequest { keep: keep(&["b", "c", "go", "d"]), ..rerun() };
    let told = plan(&project, kept.clone()).await.unwrap();
    let reused = told.nodes.iter().filter(|node| node.action == Action::Reuse);
    assert_eq!(reused.count(), 5, "{}", shown(&told));
    project.calls();
    assert_eq!(resume(&project, kept).await.unwrap().state, RunState::Done);
    let mut calls = project.calls();
    calls.sort();
    assert_eq!(calls, ["apply a", "verify a", "verify b", "verify c", "verify d", "verify e"]);
    // And no later resume asks anew.
    assert!(matches!(resume(&project, ResumeRequest::default()).await, Err(RunError::AlreadyDone(_))));

    // What does not hold, looked at closely, is the person's to decide.
    project.script(|s| drop(s.verify.insert("c".into(), [false].into())));
    let report = resume(&project, ResumeRequest { keep: keep(&["b", "go", "d"]), ..rerun() }).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    let failed = report.nodes.iter().find(|node| node.node.as_str() == "c").unwrap();
    let hint = failed.error.as_ref().unwrap().hint.clone().unwrap();
    assert!(
        hint.ends_with(&format!("to keep it as it is: `migrate resume {} --keep c`", report.run)),
        "{hint}"
    );
    let kept = ResumeRequest { keep: keep(&["c"]), ..ResumeRequest::default() };
    assert_eq!(resume(&project, kept).await.unwrap().state, RunState::Done);

    let both = ResumeRequest { keep: keep(&["a"]), ..rerun() };
    assert!(matches!(resume(&project, both).await, Err(RunError::NotKept(id)) if id == node("a")));
}

#[tokio::test]
async fn a_plan_says_when_a_finished_node_no_longer_holds_or_a_person_must_decide() {
    let project = Project::new(TREE);
    project.run().await;
    project.script(|s| drop(s.verify.insert("b".into(), [false].into())));
    let from = ResumeRequest { rerun: vec![node("d")], ..ResumeRequest::default() };
    insta::assert_snapshot!(shown(&plan(&project, from).await.unwrap()));

    let once = Project::new("[nodes.pay]\nstep = \"test.once\"\nwith = { value = \"${env.site.name}\" }\n");
    once.run().await;
    once.write_environment("[site]\nname = \"there\"\n");
    let told = plan(&once, ResumeRequest::default()).await.unwrap();
    assert!(told.has_problems());
    insta::assert_snapshot!(shown(&told));
}

#[tokio::test]
async fn an_upgraded_step_and_a_node_that_is_gone_are_told() {
    let mut project = Project::new(TREE);
    project.run().await;
    project.upgrade();
    project.write_workflow(&TREE[..TREE.find("[nodes.e]").unwrap()]);
    insta::assert_snapshot!(shown(&plan(&project, ResumeRequest::default()).await.unwrap()));
}

#[tokio::test]
async fn going_on_from_a_node_runs_it_and_all_downstream_and_reuses_the_rest() {
    let project = Project::new(TREE);
    project.run().await;
    project.calls();
    let from = || ResumeRequest { from: vec![node("b")], ..ResumeRequest::default() };
    insta::assert_snapshot!(shown(&plan(&project, from()).await.unwrap()));
    project.calls();
    let report = resume(&project, from()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let state = |name: &str| states(&report).into_iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(["a", "b", "c", "d", "e"].map(state), ["reused", "finished", "finished", "reused", "reused"]);
    let applied: Vec<_> = project.calls().into_iter().filter(|call| call.starts_with("apply")).collect();
    assert_eq!(applied, ["apply b", "apply c"]);
    let unknown =
        resume(&project, ResumeRequest { from: vec![node("bb")], ..ResumeRequest::default() }).await;
    assert_eq!(unknown.unwrap_err().to_string(), "the workflow has no node `bb`");
}

#[tokio::test]
async fn going_on_from_a_node_repeats_nothing_unrepeatable_unless_it_is_named() {
    let project = Project::new(
        "[nodes.a]\nstep = \"test\"\n[nodes.pay]\nstep = \"test.once\"\nneeds = [\"a\"]\n[nodes.z]\nstep = \"test\"\nneeds = [\"pay\"]\n",
    );
    project.run().await;
    project.calls();
    let from = ResumeRequest { from: vec![node("a")], ..ResumeRequest::default() };
    let error = resume(&project, from.clone()).await.unwrap_err();
    assert!(matches!(&error, RunError::NotRepeatable { nodes } if *nodes == [node("pay")]));
    assert_eq!(
        error.to_string(),
        "this would do `pay` again, which may have had an effect that repeating it would double"
    );
    assert!(project.calls().is_empty(), "nothing was touched");
    resume(&project, ResumeRequest { rerun: vec![node("pay")], ..from }).await.unwrap();
    let applied: Vec<_> = project.calls().into_iter().filter(|call| call.starts_with("apply")).collect();
    assert_eq!(applied, ["apply a", "apply pay", "apply z"]);
}

/// What goes on outside must not be done a second time beside it.
#[tokio::test]
async fn going_on_from_a_node_looks_for_what_was_begun_before_it_begins_anew() {
    let chain = "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nneeds = [\"a\"]\n";
    let from = || ResumeRequest { from: vec![node("a")], ..ResumeRequest::default() };
    let running = Observation::Running { handle: "job-1".into() };
    for (seen, state, message) in [
        (
            running,
            RunState::Failed,
            "it is to be made again while an earlier attempt is at work outside: `job-1`",
        ),
        (
            Observation::Unknown { reason: "?".into() },
            RunState::Failed,
            "it is to be made again, and what became of an earlier attempt can't be told: ?",
        ),
        (Observation::Absent, RunState::Done, ""),
        (Observation::Done { outputs: json!({ "value": null, "attempt": 1 }) }, RunState::Done, ""),
    ] {
        let project = Project::new(chain);
        project.script(|s| {
            s.apply.insert("b".into(), [Apply::Hang].into());
            s.observe.insert("b".into(), [seen].into());
        });
        project.run_and_kill().await;
        let told = plan(&project, from()).await.unwrap();
        assert_eq!(told.node("b").unwrap().action, Action::Observe);
        project.calls();
        let report = resume(&project, from()).await.unwrap();
        assert_eq!(report.state, state);
        let error = report.node("b").unwrap().error.clone();
        assert_eq!(error.as_ref().map_or("", |error| error.message.as_str()), message);
        let calls = project.calls();
        let looked = calls.iter().position(|call| call == "observe b").unwrap();
        let begun = calls.iter().position(|call| call == "apply b");
        assert!(begun.is_none_or(|begun| looked < begun), "{calls:?}");
        if state == RunState::Failed {
            assert_eq!(begun, None);
            let hint = error.and_then(|error| error.hint).unwrap().replace(report.run.as_str(), "RUN");
            insta::allow_duplicates! {
                insta::assert_snapshot!(hint, @"when it has ended, `migrate resume RUN`; to make it again whatever there is, end it yourself and `migrate resume RUN --rerun b`");
            }
            // Named, it is done whatever there is.
            let rerun = ResumeRequest { rerun: vec![node("b")], ..ResumeRequest::default() };
            assert_eq!(resume(&project, rerun).await.unwrap().state, RunState::Done);
            assert!(!project.calls().contains(&"observe b".to_owned()));
        }
    }
}

/// The list comes out shorter: what an item did that is gone stays in sight.
#[tokio::test]
async fn going_on_from_a_node_forgets_no_item_that_leaves_a_list() {
    let list = |list: &str| {
        format!(
            "[nodes.names]\nstep = \"test\"\nwith = {{ value = {list} }}\n[nodes.copy]\nstep = \"test\"\n\
             for_each = \"${{nodes.names.value}}\"\nwith = {{ value = \"${{each.value}}\" }}\n"
        )
    };
    let project = Project::new(&list("[\"a\", \"b\"]"));
    project.run().await;
    project.write_workflow(&list("[\"b\"]"));
    let from = ResumeRequest { from: vec![node("names")], ..ResumeRequest::default() };
    let report = resume(&project, from).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let gone = report.node("copy[a]").unwrap();
    assert_eq!((gone.state, gone.attempts, gone.outputs.is_some()), (NodeState::Removed, 1, true));
    assert_eq!(gone.reason.as_deref(), Some("it is no longer in the list; what it did is left as it is"));
    assert_eq!(report.node("copy[b]").unwrap().attempts, 2);
}

/// What `migrate plan` says of a gate is what `resume` then does.
#[tokio::test]
async fn a_plan_tells_of_gates_what_becomes_of_them() {
    let project = Project::new(
        "[nodes.go]\nstep = \"gate\"\nwith = { message = \"Switch ${env.site.name} over?\" }\n\
         [nodes.switch]\nstep = \"test\"\nwith = { value = \"${nodes.go.by}\" }\n",
    );
    let decide = async |approved| {
        let (by, host) = ("ana".to_owned(), "laptop".to_owned());
        let request = DecideRequest { run: None, node: node("go"), approved, by, host, note: None };
        project.engine().decide(request).await.unwrap();
    };
    let now = async |request: ResumeRequest| shown(&plan(&project, request).await.unwrap());
    let mut told = Vec::new();
    project.run().await;
    told.push(("waits", now(ResumeRequest::default()).await));
    decide(false).await;
    told.push(("rejected, not taken in yet", now(ResumeRequest::default()).await));
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Failed);
    told.push(("rejected", now(ResumeRequest::default()).await));
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Waiting);
    project.write_environment("[site]\nname = \"there\"\n");
    told.push(("asks something else", now(ResumeRequest::default()).await));
    project.write_environment("[site]\nname = \"here\"\n");
    decide(true).await;
    told.push(("approved, not taken in yet", now(ResumeRequest::default()).await));
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    told.push(("passed", now(ResumeRequest::default()).await));
    let rerun = ResumeRequest { rerun: vec![node("go")], ..ResumeRequest::default() };
    told.push(("asked for again", now(rerun.clone()).await));
    assert_eq!(resume(&project, rerun).await.unwrap().state, RunState::Waiting);
    let told: Vec<String> = told.iter().map(|(when, text)| format!("== {when}\n{text}")).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn the_history_of_a_node_is_told_in_order_and_can_be_followed() {
    let project = Project::new(TREE);
    project.script(|s| drop(s.apply.insert("b".into(), [Apply::CheckpointAndWait].into())));
    let (engine, shutdown) = (project.engine(), Shutdown::new());
    let checked = project.checked(&engine);
    let reader = project.engine();
    let request = HistoryRequest { node: Some(node("b")), ..HistoryRequest::default() };
    let (report, first) = tokio::join!(engine.run(&checked, EventSink::discard(), &shutdown), async {
        project.step.reached.notified().await;
        let first = reader.history(&request).await.unwrap();
        shutdown.drain();
        first
    });
    assert_eq!(report.unwrap().state, RunState::Interrupted);
    assert!(first.alive, "read while the run is alive");
    let types = |entries: &[migrate_engine::HistoryEntry]| -> Vec<String> {
        let json = |entry| serde_json::to_value(entry).unwrap()["type"].as_str().unwrap().to_owned();
        entries.iter().map(json).collect()
    };
    assert_eq!(types(&first.entries), ["started", "log"]);
    assert!(
        matches!(&first.entries[1].kind, HistoryKind::Log { message, .. } if message == "reached the middle")
    );
    let rest = HistoryRequest { after: first.mark, ..request.clone() };
    let later = reader.history(&rest).await.unwrap();
    assert_eq!((types(&later.entries), later.alive), (vec!["interrupted".to_owned()], false));

    resume(&project, ResumeRequest::default()).await.unwrap();
    let all = reader.history(&HistoryRequest::default()).await.unwrap().entries;
    assert!(all.is_sorted_by_key(|entry| entry.at));
    assert!(all.iter().any(|entry| matches!(entry.kind, HistoryKind::Resumed)));
    let text = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<Vec<migrate_engine::HistoryEntry>>(&text).unwrap(), all);
    let warnings = HistoryRequest { level: Some(LogLevel::Warn), ..request };
    let warnings = reader.history(&warnings).await.unwrap().entries;
    assert!(!types(&warnings).contains(&"log".to_owned()) && !warnings.is_empty());
    let gone = HistoryRequest { node: Some(node("bx")), ..HistoryRequest::default() };
    let error = reader.history(&gone).await.unwrap_err();
    assert_eq!(error.to_string(), "the workflow has no node `bx`");
}

#[tokio::test]
async fn a_moved_project_is_resumed_with_its_own_files() {
    let mut project = Project::new(TREE);
    project.script(|s| {
        s.apply.insert("c".into(), [Apply::Permanent].into());
    });
    project.run().await;
    let old = project.dir;
    project.dir = tempfile::tempdir().unwrap();
    for name in ["w.toml", "migration.toml", ".migrate", "effects"] {
        std::fs::rename(old.path().join(name), project.path(name)).unwrap();
    }
    drop(old);
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
}

#[tokio::test]
async fn a_workflow_without_a_file_is_resumed_from_its_stored_text() {
    let project = Project::new(TREE);
    project.script(|s| {
        s.apply.insert("c".into(), [Apply::Permanent].into());
    });
    let engine = project.engine();
    let text = std::fs::read_to_string(project.path("w.toml")).unwrap();
    std::fs::remove_file(project.path("w.toml")).unwrap();
    let workflow = migrate_engine::Source::new(project.path("shipped workflow w"), text);
    let environment = migrate_engine::Source::read(project.path("migration.toml")).unwrap();
    let checked = engine.check(&workflow, &environment, &migrate_engine::Params::new()).unwrap();
    engine.run(&checked, EventSink::discard(), &Shutdown::new()).await.unwrap();
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert!(!project.path("shipped workflow w").exists());
}
