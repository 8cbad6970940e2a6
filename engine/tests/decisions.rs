//! What people decide: gates, and that a run is undone.

mod support;

use migrate_engine::{
    DecideError, DecideRequest, EventKind, EventSink, NodeState, ResumeRequest, RunError, RunReport,
    RunState, Shutdown, UndoAction, UndoRequest, VerifyRequest,
};
use migrate_plugin_api::{NodeId, Observation, VerifyDepth};
use serde_json::json;
use support::{Apply, Project, collector, pairs, states};

const GATED: &str = r#"
[nodes.copy]
step = "test"
[nodes.cutover]
step = "gate"
needs = ["copy"]
with = { message = "Switch ${env.site.name} over?", approvers = "the shop team" }
[nodes.switch]
step = "test"
with = { value = "${nodes.cutover.by}" }
"#;

const CHAIN: &str = r#"
[nodes.a]
step = "test"
with = { value = 1 }
[nodes.keep]
step = "test.once"
needs = ["a"]
[nodes.b]
step = "test"
needs = ["keep"]
with = { value = 2 }
[nodes.c]
step = "test"
needs = ["b"]
on_failure = "undo"
"#;

fn decision(node: &str, approved: bool) -> DecideRequest {
    DecideRequest {
        run: None,
        node: NodeId::new(node).unwrap(),
        approved,
        by: "ana".to_owned(),
        host: "laptop".to_owned(),
        note: Some("seen the counts".to_owned()),
    }
}

async fn resume(project: &Project) -> Result<RunReport, RunError> {
    support::resume(project, ResumeRequest::default()).await
}

async fn undo(project: &Project) -> Result<RunReport, RunError> {
    project.engine().undo(UndoRequest::default(), EventSink::discard(), &Shutdown::new()).await
}

#[tokio::test]
async fn a_gate_waits_for_a_person_and_keeps_who_decided() {
    let project = Project::new(GATED);
    let report = project.run().await;
    assert_eq!(report.state, RunState::Waiting);
    assert_eq!(
        states(&report),
        pairs(&[("copy", "finished"), ("cutover", "waiting"), ("switch", "pending")])
    );
    // Nothing was decided: it goes on waiting, and asks the same.
    assert_eq!(resume(&project).await.unwrap().state, RunState::Waiting);
    let approval = project.engine().decide(decision("cutover", true)).await.unwrap();
    assert_eq!((approval.run.clone(), approval.holder), (report.run, None));
    assert_eq!(approval.decision.sentence(), "approved by ana@laptop: seen the counts");
    let error = project.engine().decide(decision("cutover", false)).await.unwrap_err();
    insta::assert_snapshot!(error, @"gate `cutover` was already approved by ana@laptop: seen the counts");
    let report = resume(&project).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(report.node("switch").unwrap().outputs.as_ref().unwrap()["value"], json!("ana"));
    let evidence = report.node("cutover").unwrap().evidence.clone().unwrap();
    let note = evidence.checks[0].note.clone().unwrap();
    let asked = note.split_once(", ").unwrap().1;
    insta::assert_snapshot!(asked, @"asked: Switch here over? (for the shop team): seen the counts");
    assert_eq!(
        (evidence.checks[0].what.as_str(), evidence.checks[0].target.as_str()),
        ("approved by", "ana@laptop")
    );
    // The evidence holds in a verification, too.
    let request = VerifyRequest { run: None, depth: VerifyDepth::Quick };
    let engine = project.engine();
    let again = engine.verify(request, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(again.state, RunState::Done);
}

#[tokio::test]
async fn a_living_run_takes_a_decision_up_by_itself() {
    let project = Project::new(&format!("{GATED}[nodes.long]\nstep = \"test\"\n"));
    project.script(|s| {
        s.apply.insert("long".into(), [Apply::CheckpointAndWait].into());
    });
    let (engine, shutdown) = (project.engine(), Shutdown::new());
    let checked = project.checked(&engine);
    let (sink, mut stream) = migrate_engine::event_channel();
    let (report, ()) = tokio::join!(engine.run(&checked, sink, &shutdown), async {
        let mut decided = false;
        while let Some(event) = stream.next().await {
            match event.kind {
                EventKind::NodeWaiting { node, message } => {
                    assert_eq!(message, "Switch here over? (for the shop team)");
                    let approval = project.engine().decide(decision(node.as_str(), true)).await.unwrap();
                    assert!(approval.holder.is_some());
                    decided = true;
                }
                EventKind::NodeFinished { node, .. } if node.as_str() == "switch" => {
                    assert!(decided);
                    shutdown.drain();
                }
                _ => {}
            }
        }
    });
    let report = report.unwrap();
    assert_eq!(report.state, RunState::Interrupted);
    assert_eq!(report.node("switch").unwrap().state, NodeState::Finished);
}

#[tokio::test]
async fn a_rejected_gate_fails_with_the_note_and_is_asked_again() {
    let project = Project::new(GATED);
    let said = |error: DecideError| error.to_string();
    insta::assert_snapshot!(said(project.engine().decide(decision("cutover", true)).await.unwrap_err()), @"this project has no run yet");
    project.script(|s| {
        s.apply.insert("copy".into(), [Apply::Permanent].into());
    });
    let run = project.run().await.run;
    let told = said(project.engine().decide(decision("cutover", true)).await.unwrap_err());
    insta::assert_snapshot!(told.replace(run.as_str(), "RUN"), @"gate `cutover` of run RUN does not wait: it has not been reached");
    insta::assert_snapshot!(said(project.engine().decide(decision("copy", true)).await.unwrap_err()), @"node `copy` is no gate");
    assert_eq!(resume(&project).await.unwrap().state, RunState::Waiting);
    project.engine().decide(decision("cutover", false)).await.unwrap();
    let report = resume(&project).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    let gate = report.node("cutover").unwrap();
    assert_eq!(gate.error.as_ref().unwrap().message, "rejected by ana@laptop: seen the counts");
    let told = said(project.engine().decide(decision("cutover", true)).await.unwrap_err());
    insta::assert_snapshot!(told.replace(run.as_str(), "RUN"), @"gate `cutover` of run RUN does not wait: it was rejected; `migrate resume` asks again");
    // The old answer is none to the new question.
    assert_eq!(resume(&project).await.unwrap().state, RunState::Waiting);
    project.engine().decide(decision("cutover", true)).await.unwrap();
    assert_eq!(resume(&project).await.unwrap().state, RunState::Done);
}

/// Each item of a list asks a question of its own, and is answered by itself.
#[tokio::test]
async fn a_gate_for_each_item_is_decided_item_by_item() {
    let project = Project::new(
        "[nodes.go]\nstep = \"gate\"\nfor_each = [\"shop\", \"mail\"]\nwith = { message = \"Switch ${each.value}?\" }\n\
         [nodes.switch]\nstep = \"test\"\nneeds = [\"go\"]\n",
    );
    let report = project.run().await;
    assert_eq!(report.state, RunState::Waiting);
    let run = report.run;
    let said = |error: DecideError| error.to_string().replace(run.as_str(), "RUN");
    let whole = || async { said(project.engine().decide(decision("go", true)).await.unwrap_err()) };
    insta::assert_snapshot!(whole().await, @"gate `go` of run RUN is asked for each item of a list; these wait: `go[mail]`, `go[shop]`");
    project.engine().decide(decision("go[shop]", true)).await.unwrap();
    let report = resume(&project).await.unwrap();
    assert_eq!(
        states(&report),
        pairs(&[("go", "waiting"), ("go[shop]", "finished"), ("go[mail]", "waiting"), ("switch", "pending")])
    );
    insta::assert_snapshot!(whole().await, @"gate `go` of run RUN is asked for each item of a list; these wait: `go[mail]`");
    project.engine().decide(decision("go[mail]", true)).await.unwrap();
    assert_eq!(resume(&project).await.unwrap().state, RunState::Done);
    insta::assert_snapshot!(whole().await, @"gate `go` of run RUN is asked for each item of a list; none of them waits");
}

#[tokio::test]
async fn an_answer_counts_for_the_question_that_was_asked() {
    let project = Project::new(GATED);
    project.run().await;
    project.engine().decide(decision("cutover", true)).await.unwrap();
    project.write_environment("[site]\nname = \"there\"\n");
    let request = ResumeRequest { accept_changes: true, ..Default::default() };
    let report = project.engine().resume(request, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Waiting, "nobody was asked about `there`");
}

/// An answer stands, so it must not go to an older run that waits.
#[tokio::test]
async fn a_gate_that_a_newer_run_asks_again_later_is_not_passed_there() {
    let project = Project::new(GATED);
    project.run().await;
    let newer = project.run().await.run;
    let pass = async || {
        project
            .engine()
            .decide(DecideRequest { run: Some(newer.clone()), ..decision("cutover", true) })
            .await
            .unwrap();
        let request = ResumeRequest { run: Some(newer.clone()), ..ResumeRequest::default() };
        support::resume(&project, request).await.unwrap().state
    };
    let again = |name: &str| {
        let rerun = vec![NodeId::new(name).unwrap()];
        ResumeRequest { run: Some(newer.clone()), rerun, ..ResumeRequest::default() }
    };
    let refused = async || {
        let error = project.engine().decide(decision("cutover", true)).await.unwrap_err();
        assert!(matches!(&error, DecideError::SeveralRuns { runs, .. } if runs.len() == 2), "{error}");
    };
    assert_eq!(pass().await, RunState::Done);
    // It was asked for, and its turn has not come.
    project.script(|s| s.blind.push("copy".into()));
    assert_eq!(support::resume(&project, again("cutover")).await.unwrap().state, RunState::Failed);
    refused().await;
    project.script(|s| s.blind.clear());
    assert_eq!(support::resume(&project, again("cutover")).await.unwrap().state, RunState::Waiting);
    assert_eq!(pass().await, RunState::Done);
    // What it is built on is being made again.
    project.script(|s| drop(s.apply.insert("copy".into(), [Apply::Permanent].into())));
    assert_eq!(support::resume(&project, again("copy")).await.unwrap().state, RunState::Failed);
    refused().await;
}

#[tokio::test]
async fn a_failure_undoes_the_run_in_reverse_order() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.apply.insert("c".into(), [Apply::Permanent].into());
    });
    let (sink, events) = collector();
    let engine = project.engine();
    let report = engine.run(&project.checked(&engine), sink, &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Undone);
    assert_eq!(report.undo.as_deref(), Some("`c` failed: failed to do the thing"));
    assert_eq!(
        states(&report),
        pairs(&[("a", "undone"), ("keep", "left"), ("b", "undone"), ("c", "failed")])
    );
    let reason = report.node("keep").unwrap().reason.clone().unwrap();
    assert_eq!(reason, "step `test.once` has no undo");
    let calls = project.calls();
    assert_eq!(calls[calls.len() - 3..], ["observe c", "undo b", "undo a"], "{calls:?}");
    let kinds: Vec<_> = events.await.unwrap().into_iter().map(|event| event.kind).collect();
    assert!(kinds.iter().any(|kind| matches!(kind, EventKind::RunUndoing { .. })));
    assert!(matches!(kinds.last(), Some(EventKind::RunFinished { state: RunState::Undone, .. })));
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, EventKind::RunFinished { .. })).count(), 1);
    for result in [resume(&project).await, undo(&project).await] {
        let error = result.unwrap_err();
        assert!(matches!(error, RunError::AlreadyUndone(_)), "{error}");
    }
    assert!(project.calls().is_empty());
}

#[tokio::test]
async fn an_undo_goes_on_where_it_failed_or_was_killed() {
    let project = Project::new(&CHAIN.replace("on_failure = \"undo\"", ""));
    assert_eq!(project.run().await.state, RunState::Done);
    let plan = project.engine().plan_undo(None).await.unwrap();
    let planned: Vec<_> = plan.nodes.iter().map(|node| (node.node.as_str(), node.action)).collect();
    let (take_back, leave) = (UndoAction::Undo, UndoAction::Leave);
    assert_eq!(planned, [("c", take_back), ("b", take_back), ("keep", leave), ("a", take_back)]);
    project.calls();
    project.script(|s| {
        s.undo.insert("b".into(), [Apply::Permanent, Apply::Hang].into());
    });
    let report = undo(&project).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    assert_eq!(
        states(&report),
        pairs(&[("a", "finished"), ("keep", "finished"), ("b", "failed"), ("c", "undone")])
    );
    assert_eq!(report.node("b").unwrap().error.as_ref().unwrap().message, "failed to take it back");
    assert_eq!(project.calls(), ["undo c", "undo b"]);
    // It never goes forward again.
    let rerun = vec![NodeId::new("a").unwrap()];
    let request = ResumeRequest { rerun, ..Default::default() };
    let error = project.engine().resume(request, EventSink::discard(), &Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Undoing(_)), "{error}");
    // Killed in the middle of it.
    let (engine, shutdown) = (project.engine(), Shutdown::new());
    let (report, ()) =
        tokio::join!(engine.resume(ResumeRequest::default(), EventSink::discard(), &shutdown), async {
            project.step.reached.notified().await;
            shutdown.kill();
        });
    let report = report.unwrap();
    assert_eq!(
        (report.state, report.node("b").unwrap().state),
        (RunState::Interrupted, NodeState::Interrupted)
    );
    assert_eq!(project.calls(), ["undo b"]);
    let report = resume(&project).await.unwrap();
    assert_eq!(report.state, RunState::Undone);
    assert_eq!(
        states(&report),
        pairs(&[("a", "undone"), ("keep", "left"), ("b", "undone"), ("c", "undone")])
    );
    assert_eq!(project.calls(), ["undo b", "undo a"]);
}

/// Nobody is asked about a run that is undone.
#[tokio::test]
async fn an_undo_withdraws_the_question_of_a_gate() {
    let project = Project::new(GATED);
    let run = project.run().await.run;
    let report = undo(&project).await.unwrap();
    assert_eq!(report.state, RunState::Undone);
    assert_eq!(states(&report), pairs(&[("copy", "undone"), ("cutover", "pending"), ("switch", "pending")]));
    let told = project.engine().decide(decision("cutover", true)).await.unwrap_err().to_string();
    insta::assert_snapshot!(told.replace(run.as_str(), "RUN"), @"gate `cutover` of run RUN does not wait: it is part of a run that is being undone");
    let long = DecideRequest { note: Some("x".repeat(5000)), ..decision("cutover", true) };
    let told = project.engine().decide(long).await.unwrap_err();
    insta::assert_snapshot!(told, @"the note is longer than 4096 bytes");
}

#[tokio::test]
async fn what_an_unfinished_attempt_left_is_looked_for_before_the_undo() {
    for (seen, state, calls) in [
        (Observation::Absent, RunState::Undone, vec!["observe b", "undo a"]),
        (
            Observation::Done { outputs: json!({ "value": 2, "attempt": 1 }) },
            RunState::Undone,
            vec!["observe b", "undo b", "undo a"],
        ),
        (Observation::Running { handle: "job-7".into() }, RunState::Failed, vec!["observe b"]),
        (Observation::Unknown { reason: "?".into() }, RunState::Undone, vec!["observe b", "undo a"]),
    ] {
        let project = Project::new(
            "[nodes.a]\nstep = \"test\"\n[nodes.b]\nstep = \"test\"\nneeds = [\"a\"]\nwith = { value = 2 }\n",
        );
        project.script(|s| {
            s.apply.insert("b".into(), [Apply::Hang].into());
            s.observe.insert("b".into(), [seen.clone()].into());
        });
        let (engine, shutdown) = (project.engine(), Shutdown::new());
        let checked = project.checked(&engine);
        let (_, ()) = tokio::join!(engine.run(&checked, EventSink::discard(), &shutdown), async {
            project.step.reached.notified().await;
            shutdown.kill();
        });
        project.calls();
        // Neither of the files is needed.
        std::fs::remove_file(project.path("w.toml")).unwrap();
        std::fs::remove_file(project.path("migration.toml")).unwrap();
        let report = undo(&project).await.unwrap();
        assert_eq!(report.state, state, "{seen:?}");
        assert_eq!(project.calls(), calls, "{seen:?}");
        let b = report.node("b").unwrap();
        if let Observation::Running { .. } = seen {
            assert_eq!(b.error.as_ref().unwrap().message, "it is still at work outside: `job-7`");
        }
        if let Observation::Unknown { .. } = seen {
            assert_eq!(b.state, NodeState::Left);
        }
    }
}

#[tokio::test]
async fn a_failure_that_waits_for_a_person_undoes_nothing() {
    let project = Project::new(
        "[nodes.a]\nstep = \"test\"\n[nodes.pay]\nstep = \"test.once\"\nneeds = [\"a\"]\non_failure = \"undo\"\n",
    );
    project.script(|s| {
        s.apply.insert("pay".into(), [Apply::Transient].into());
        s.observe.insert("pay".into(), [Observation::Unknown { reason: "?".into() }].into());
    });
    let report = project.run().await;
    assert_eq!(report.state, RunState::Failed);
    assert!(project.calls().iter().all(|call| !call.starts_with("undo")));
}

#[tokio::test]
async fn a_node_that_would_be_skipped_now_is_a_change() {
    let workflow = |mode: &str| {
        format!(
            "[params.mode]\ntype = \"string\"\ndefault = \"{mode}\"\n[nodes.a]\nstep = \"test\"\nwhen = \"params.mode == 'copy'\"\n\
             [nodes.b]\nstep = \"test\"\nneeds = [\"a\"]\n"
        )
    };
    let project = Project::new(&workflow("copy"));
    project.script(|s| {
        s.apply.insert("b".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.write_workflow(&workflow("import"));
    // The run keeps the parameters that it was started with; the default is none of them.
    assert_eq!(resume(&project).await.unwrap().state, RunState::Done);
    let project = Project::new(&workflow("copy"));
    project.script(|s| {
        s.apply.insert("b".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.write_workflow(&workflow("copy").replace("== 'copy'", "== 'import'"));
    let RunError::Changed(_, changes) = resume(&project).await.unwrap_err() else { panic!("not told") };
    assert_eq!(
        serde_json::to_value(&changes.nodes).unwrap(),
        json!([{
            "node": "a", "removed": false, "fields": [], "affects": [],
            "skipped": "`when` is false: params.mode == 'import'",
        }])
    );
}
