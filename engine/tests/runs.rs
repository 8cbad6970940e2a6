//! Runs, resumes and verifications with a real store and a scripted step.

mod support;

use migrate_engine::{
    EventKind, EventSink, NodeState, ResumeRequest, RunError, RunState, Shutdown, VerifyRequest,
};
use migrate_plugin_api::{ErrorClass, NodeId, Observation, VerifyDepth};
use serde_json::json;
use support::{Apply, Project, collector, pairs, resume, states};

const CHAIN: &str = r#"
[nodes.a]
step = "test"
with = { value = "${env.site.name}" }
[nodes.b]
step = "test"
with = { value = "${nodes.a.value}" }
[nodes.c]
step = "test"
with = { value = "${nodes.b.attempt}" }
"#;

#[tokio::test]
async fn a_chain_runs_in_order_and_passes_typed_outputs() {
    let project = Project::new(CHAIN);
    let (sink, events) = collector();
    let engine = project.engine();
    let report = engine.run(&project.checked(&engine), sink, &Shutdown::new()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(states(&report), pairs(&[("a", "finished"), ("b", "finished"), ("c", "finished")]));
    assert_eq!(project.calls(), ["apply a", "verify a", "apply b", "verify b", "apply c", "verify c"]);
    let outputs = report.node("c").unwrap().outputs.clone().unwrap();
    assert_eq!(outputs["value"], json!(1), "an integer stays one");
    assert_eq!(outputs["token"], json!("(sensitive)"));
    let events = events.await.unwrap();
    assert!(!serde_json::to_string(&events).unwrap().contains("hunter2"));
    assert!(matches!(events.first().unwrap().kind, EventKind::RunStarted { .. }));
    assert!(matches!(events.last().unwrap().kind, EventKind::RunFinished { state: RunState::Done, .. }));
    let text = serde_json::to_string(&events).unwrap();
    assert_eq!(serde_json::from_str::<Vec<migrate_engine::Event>>(&text).unwrap(), events);
    let status = engine.status(None).await.unwrap();
    assert_eq!((status.report, status.holder), (report, None));
    let bytes = std::fs::read(project.path(".migrate/state.db")).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"), "a sensitive output is never stored");
}

#[tokio::test]
async fn a_failed_run_resumes_where_it_stopped() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.apply.insert("b".into(), [Apply::Permanent].into());
    });
    let failed = project.run().await;
    assert_eq!(failed.state, RunState::Failed);
    assert_eq!(states(&failed), pairs(&[("a", "finished"), ("b", "failed"), ("c", "blocked")]));
    let error = failed.node("b").unwrap().error.clone().unwrap();
    assert_eq!((error.class, error.hint.as_deref()), (ErrorClass::Permanent, Some("do another")));
    project.calls();

    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(report.run, failed.run);
    assert_eq!(states(&report), pairs(&[("a", "reused"), ("b", "finished"), ("c", "finished")]));
    assert_eq!(project.calls(), ["verify a", "observe b", "apply b", "verify b", "apply c", "verify c"]);
    assert_eq!(report.node("b").unwrap().attempts, 2);
    let error = resume(&project, ResumeRequest::default()).await.unwrap_err();
    assert!(matches!(error, RunError::AlreadyDone(_)));
}

#[tokio::test]
async fn a_drained_step_goes_on_at_its_checkpoint() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.apply.insert("b".into(), [Apply::CheckpointAndWait].into());
    });
    let shutdown = Shutdown::new();
    let (engine, stop) = (project.engine(), shutdown.clone());
    let checked = project.checked(&engine);
    let (sink, events) = collector();
    let (report, ()) = tokio::join!(engine.run(&checked, sink, &shutdown), async {
        project.step.reached.notified().await;
        stop.drain();
    });
    let report = report.unwrap();
    assert_eq!(report.state, RunState::Interrupted);
    assert_eq!(states(&report), pairs(&[("a", "finished"), ("b", "interrupted"), ("c", "pending")]));
    let events = events.await.unwrap();
    assert!(
        events.iter().any(
            |e| matches!(&e.kind, EventKind::NodeLog { message, .. } if message == "reached the middle")
        )
    );
    assert!(events.iter().any(|e| matches!(&e.kind, EventKind::NodeInterrupted { .. })));
    project.calls();
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let calls = project.calls();
    assert!(calls.contains(&r#"apply b at [{"place":5},"job-1"]"#.to_owned()), "{calls:?}");
    let keys: Vec<_> = project.effects().into_iter().filter(|(n, _)| n == "b").collect();
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn an_aborted_attempt_is_observed_before_anything_is_done_again() {
    for (observation, calls, effects) in [
        (Observation::Absent, vec!["verify a", "observe b", "apply b", "verify b"], 1),
        (
            Observation::Running { handle: "job-7".into() },
            vec!["verify a", "observe b", "apply b", r#"apply b at [null,"job-7"]"#, "verify b"],
            1,
        ),
        (
            Observation::Done { outputs: json!({ "value": "here", "attempt": 1 }) },
            vec!["verify a", "observe b", "verify b"],
            0,
        ),
        (
            Observation::Unknown { reason: "?".into() },
            vec!["verify a", "observe b", "apply b", "verify b"],
            1,
        ),
    ] {
        let project = Project::new(&CHAIN[..CHAIN.find("[nodes.c]").unwrap()]);
        project.script(|s| {
            s.apply.insert("b".into(), [Apply::Hang].into());
            s.observe.insert("b".into(), [observation.clone()].into());
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
        assert_eq!(report.state, RunState::Done, "{observation:?}");
        assert_eq!(project.calls(), calls, "{observation:?}");
        assert_eq!(project.effects().iter().filter(|(n, _)| n == "b").count(), effects);
    }
}

#[tokio::test]
async fn without_idempotency_an_unknown_end_stops_for_a_person() {
    let project = Project::new("[nodes.pay]\nstep = \"test.once\"\n");
    project.script(|s| {
        s.apply.insert("pay".into(), [Apply::Hang].into());
        let unknown = || Observation::Unknown { reason: "the bank does not say".into() };
        s.observe.insert("pay".into(), [unknown(), unknown()].into());
    });
    let shutdown = Shutdown::new();
    let (engine, stop) = (project.engine(), shutdown.clone());
    let checked = project.checked(&engine);
    let (report, ()) = tokio::join!(engine.run(&checked, EventSink::discard(), &shutdown), async {
        project.step.reached.notified().await;
        stop.kill();
    });
    let run = report.unwrap().run;
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    let error = report.node("pay").unwrap().error.clone().unwrap();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(error.message, "can't tell whether an earlier attempt took effect: the bank does not say");
    assert!(error.hint.unwrap().contains(&format!("migrate resume {run} --rerun pay")));
    assert!(project.effects().is_empty());
    let rerun = vec![NodeId::new("pay").unwrap()];
    let report = resume(&project, ResumeRequest { rerun, ..Default::default() }).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(project.effects().len(), 1);
}

#[tokio::test]
async fn without_idempotency_nothing_that_had_its_effect_is_done_again_unasked() {
    const PAY: &str = "[nodes.pay]\nstep = \"test.once\"\nwith = { value = 1 }\n[nodes.after]\nstep = \"test\"\nneeds = [\"pay\"]\n";
    let paid = |project: &Project| project.effects().iter().filter(|(node, _)| node == "pay").count();
    let prepared = |verify: &[bool]| {
        let project = Project::new(PAY);
        project.script(|s| {
            s.apply.insert("after".into(), [Apply::Permanent].into());
            s.verify.insert("pay".into(), verify.iter().copied().collect());
        });
        project
    };
    let accept = || ResumeRequest { accept_changes: true, ..Default::default() };
    // Disproved when it was made; disproved later; and with another config now.
    for (verify, edit) in [(&[false][..], false), (&[true, false][..], false), (&[][..], true)] {
        let project = prepared(verify);
        project.run().await;
        if edit {
            project.write_workflow(&PAY.replace("value = 1", "value = 2"));
        }
        let report = resume(&project, accept()).await.unwrap();
        assert_eq!(report.state, RunState::Failed);
        let error = report.node("pay").unwrap().error.clone().unwrap();
        assert_eq!(error.class, ErrorClass::Conflict, "{error:?}");
        assert!(error.hint.unwrap().contains("--rerun pay"));
        assert_eq!(paid(&project), 1);
        let rerun = vec![NodeId::new("pay").unwrap()];
        let report = resume(&project, ResumeRequest { rerun, ..accept() }).await.unwrap();
        assert_eq!(report.node("pay").unwrap().state, NodeState::Finished);
        assert_eq!(paid(&project), 2, "once more, as a person said");
    }
}

#[test]
fn the_project_folder_is_absolute_however_it_is_named() {
    let engine = migrate_engine::Engine::open("somewhere", Vec::new()).unwrap();
    assert_eq!(engine.project_dir(), std::env::current_dir().unwrap().join("somewhere"));
}

#[tokio::test]
async fn changes_are_told_exactly_and_rerun_only_when_accepted() {
    let mut project = Project::new(CHAIN);
    project.script(|s| {
        s.apply.insert("c".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.calls();
    // Comments and order do not count, nor does what has not begun or has failed.
    project.write_environment("# a comment\n[site]\nname = \"here\"\nother = 1\n");
    project.write_workflow(&format!("{CHAIN}retry = {{ attempts = 5 }}\n"));
    project.write_environment("[site]\nname = \"there\"\n");
    let error = resume(&project, ResumeRequest::default()).await.unwrap_err();
    let RunError::Changed(_, changes) = error else { panic!("{error}") };
    assert_eq!(
        serde_json::to_value(&changes.nodes).unwrap(),
        json!([{
            "node": "a", "removed": false, "affects": ["b"],
            "fields": [{ "field": "with.value", "was": "here", "now": "there" }],
        }])
    );
    assert!(project.calls().is_empty(), "nothing was touched");
    let accept = ResumeRequest { accept_changes: true, ..Default::default() };
    let report = resume(&project, accept.clone()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    // What `c` had begun with another input is looked for first.
    assert_eq!(
        project.calls(),
        ["apply a", "verify a", "apply b", "verify b", "observe c", "apply c", "verify c"]
    );
    let keys: Vec<_> = project.effects().into_iter().filter(|(n, _)| n == "a").map(|(_, k)| k).collect();
    assert_ne!(keys[0], keys[1], "another config is another thing outside");

    project.upgrade();
    let rerun = vec![NodeId::new("c").unwrap()];
    let error = resume(&project, ResumeRequest { rerun, ..Default::default() }).await.unwrap_err();
    let RunError::Changed(_, changes) = error else { panic!("{error}") };
    let fields: Vec<_> = changes.nodes.iter().flat_map(|n| &n.fields).map(|f| f.field.as_str()).collect();
    assert_eq!(fields, ["step version", "step version"]);
}

#[tokio::test]
async fn an_effect_that_could_not_be_looked_at_is_still_changed_only_when_accepted() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.apply.insert("c".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.script(|s| s.blind.push("a".into()));
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(states(&report)[0], ("a".to_owned(), "failed".to_owned()));
    project.script(|s| s.blind.clear());
    project.write_environment("[site]\nname = \"there\"\n");
    project.calls();
    let error = resume(&project, ResumeRequest::default()).await.unwrap_err();
    let RunError::Changed(_, changes) = error else { panic!("{error}") };
    assert_eq!(changes.nodes[0].node.as_str(), "a");
    assert!(project.calls().is_empty(), "nothing was touched");
    let keys = project.effects().into_iter().filter(|(node, _)| node == "a").count();
    assert_eq!(keys, 1, "no second effect");
}

#[tokio::test]
async fn a_failed_check_fails_the_node_and_names_the_thing() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.verify.insert("b".into(), [false].into());
    });
    let report = project.run().await;
    let node = report.node("b").unwrap();
    let error = node.error.clone().unwrap();
    assert_eq!(error.class, ErrorClass::Corrupt);
    assert_eq!(error.message, "verification failed: table shop.orders: rows is 2, expected 3");
    assert!(!node.evidence.as_ref().unwrap().passed());
    project.calls();
    // What was disproved is done again, not observed: its own claim is what was wrong.
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
    assert_eq!(project.calls(), ["verify a", "apply b", "verify b", "apply c", "verify c"]);
}

#[tokio::test]
async fn a_finished_node_that_no_longer_holds_runs_again() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.apply.insert("c".into(), [Apply::Permanent].into());
    });
    project.run().await;
    project.calls();
    project.script(|s| {
        s.verify.insert("a".into(), [false].into());
    });
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(states(&report), pairs(&[("a", "finished"), ("b", "reused"), ("c", "finished")]));
    assert_eq!(
        project.calls(),
        ["verify a", "apply a", "verify a", "verify deep b", "observe c", "apply c", "verify c"]
    );
}

#[tokio::test]
async fn a_rerun_makes_its_effect_again_under_another_key() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\n");
    project.run().await;
    let rerun = vec![NodeId::new("a").unwrap()];
    let report = resume(&project, ResumeRequest { rerun, ..Default::default() }).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    let keys: Vec<_> = project.effects().into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1], "a keyed step would find what is there and do nothing");
}

#[tokio::test]
async fn a_change_while_something_runs_outside_is_told_and_begins_nothing() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\nwith = { value = 1 }\n");
    project.script(|s| {
        s.apply.insert("a".into(), [Apply::Hang].into());
        let running = || Observation::Running { handle: "job-7".into() };
        s.observe.insert("a".into(), [running(), running()].into());
    });
    let shutdown = Shutdown::new();
    let (engine, stop) = (project.engine(), shutdown.clone());
    let checked = project.checked(&engine);
    let (report, ()) = tokio::join!(engine.run(&checked, EventSink::discard(), &shutdown), async {
        project.step.reached.notified().await;
        stop.kill();
    });
    let run = report.unwrap().run;
    project.calls();
    project.write_workflow("[nodes.a]\nstep = \"test\"\nwith = { value = 2 }\n");
    let accept = ResumeRequest { accept_changes: true, ..Default::default() };
    let report = resume(&project, accept).await.unwrap();
    assert_eq!(project.calls(), ["observe a"]);
    let error = report.node("a").unwrap().error.clone().unwrap();
    let said = format!("{}\n  help: {}", error.message, error.hint.unwrap());
    insta::assert_snapshot!(said.replace(run.as_str(), "RUN"), @r"
    its config or its step has changed while an earlier attempt is at work outside: `job-7`
      help: to go on with it, take the change back and `migrate resume RUN`; to do it anew as the files say now, end it yourself and `migrate resume RUN --rerun a`
    ");
    // The change is taken back.
    project.write_workflow("[nodes.a]\nstep = \"test\"\nwith = { value = 1 }\n");
    let report = resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(project.effects().len(), 1);
}

#[tokio::test]
async fn transient_failures_are_tried_again_and_others_are_not() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\nretry = { attempts = 3, backoff = \"1ms\" }\n");
    project.script(|s| {
        s.apply.insert("a".into(), [Apply::Transient, Apply::Transient].into());
    });
    let report = project.run().await;
    assert_eq!((report.state, report.node("a").unwrap().attempts), (RunState::Done, 3));
    assert_eq!(project.calls(), ["apply a", "observe a", "apply a", "observe a", "apply a", "verify a"]);
    project.script(|s| {
        s.apply.insert("a".into(), vec![Apply::Transient; 4].into());
    });
    let report = project.run().await;
    assert_eq!((report.state, report.node("a").unwrap().attempts), (RunState::Failed, 3));
}

#[tokio::test]
async fn a_long_or_silent_attempt_is_stopped_and_tried_again() {
    for (limits, said) in [
        (
            "retry = { attempts = 2, backoff = \"1ms\", attempt_timeout = \"50ms\" }",
            "timed out: the attempt took longer than its `attempt_timeout` of 50ms",
        ),
        (
            "heartbeat = \"50ms\"\nretry = { attempts = 2, backoff = \"1ms\" }",
            "the step was silent for longer than its `heartbeat` of 50ms",
        ),
    ] {
        let project = Project::new(&format!("[nodes.a]\nstep = \"test\"\n{limits}\n"));
        project.script(|s| {
            s.apply.insert("a".into(), [Apply::CheckpointAndWait].into());
        });
        let (sink, events) = collector();
        let engine = project.engine();
        let report = engine.run(&project.checked(&engine), sink, &Shutdown::new()).await.unwrap();
        assert_eq!((report.state, report.node("a").unwrap().attempts), (RunState::Done, 2));
        let retried = events.await.unwrap().into_iter().find_map(|event| match event.kind {
            EventKind::NodeRetrying { error, .. } => Some(error.message),
            _ => None,
        });
        assert_eq!(retried.as_deref(), Some(said));
        let calls = project.calls();
        assert_eq!(calls[..3], ["apply a", "observe a", "apply a"], "looked at before it is done again");
    }
}

#[tokio::test]
async fn a_panicking_or_late_step_costs_its_node_and_not_the_run() {
    let project = Project::new(
        "[nodes.a]\nstep = \"test\"\non_failure = \"continue\"\n[nodes.b]\nstep = \"test\"\n\
         [nodes.late]\nstep = \"test\"\ntimeout = \"50ms\"\non_failure = \"continue\"\n[nodes.d]\nstep = \"test\"\nneeds = [\"a\"]\n",
    );
    project.script(|s| {
        s.apply.insert("a".into(), [Apply::Panic].into());
        s.apply.insert("late".into(), [Apply::CheckpointAndWait].into());
    });
    let report = project.run().await;
    assert_eq!(
        states(&report),
        pairs(&[("a", "failed"), ("b", "finished"), ("late", "failed"), ("d", "blocked")])
    );
    let message = |node| report.node(node).unwrap().error.clone().unwrap().message;
    assert_eq!(message("a"), "the step panicked in `apply`: this step is broken");
    assert_eq!(message("late"), "timed out: `apply` had not ended when the node's 50ms were over");
}

#[tokio::test]
async fn preflight_lists_every_problem_and_touches_nothing() {
    let project = Project::new(CHAIN);
    project.script(|s| {
        s.refuse.insert("a".into(), "no such cluster".into());
        s.refuse.insert("c".into(), "no such bucket".into());
    });
    let engine = project.engine();
    let checked = project.checked(&engine);
    let error = engine.run(&checked, EventSink::discard(), &Shutdown::new()).await.unwrap_err();
    let RunError::Refused(plan) = error else { panic!("{error}") };
    let problems: Vec<_> = plan
        .nodes
        .iter()
        .filter_map(|n| n.plan.as_ref())
        .flat_map(|p| &p.problems)
        .map(|p| &p.message)
        .collect();
    assert_eq!(problems, ["no such cluster", "no such bucket"]);
    assert_eq!(
        plan.nodes[1].plan.as_ref().unwrap().summary,
        r#"would use {"value":{"$unknown":"nodes.a.value"}}"#
    );
    assert!(project.calls().is_empty());
    assert!(engine.runs().await.unwrap().is_empty());
}

#[tokio::test]
async fn skipped_nodes_satisfy_needs_and_skip_those_that_refer_to_them() {
    let project = Project::new(
        r#"
        [params.mode]
        type = "string"
        default = "copy"
        enum = ["copy", "import"]
        [nodes.pull]
        step = "test"
        when = "params.mode == 'copy'"
        [nodes.import]
        step = "test"
        when = "params.mode == 'import'"
        with = { value = "${env.not-there}" }
        [nodes.report]
        step = "test"
        with = { value = "${nodes.import.value}" }
        [nodes.many]
        step = "test"
        when = "nodes.pull.attempt > 5 || nodes['pull'].list.exists(x, x == 'z')"
        [nodes.restore]
        step = "test"
        needs = ["pull", "import", "many"]
        "#,
    );
    let report = project.run().await;
    assert_eq!(report.state, RunState::Done);
    assert_eq!(
        states(&report),
        pairs(&[
            ("pull", "finished"),
            ("import", "skipped"),
            ("report", "skipped"),
            ("many", "skipped"),
            ("restore", "finished"),
        ])
    );
    let reason = |node| report.node(node).unwrap().reason.clone().unwrap();
    assert_eq!(reason("import"), "`when` is false: params.mode == 'import'");
    assert_eq!(reason("report"), "it refers to outputs of `import`, which is skipped");
}

#[tokio::test]
async fn a_second_run_is_refused_at_once_and_names_the_holder() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\n");
    project.script(|s| {
        s.apply.insert("a".into(), [Apply::CheckpointAndWait].into());
    });
    let shutdown = Shutdown::new();
    let (first, second) = (project.engine(), project.engine());
    let (one, two) = (project.checked(&first), project.checked(&second));
    let (report, refused) = tokio::join!(first.run(&one, EventSink::discard(), &shutdown), async {
        project.step.reached.notified().await;
        let status = second.status(None).await.unwrap();
        assert_eq!(status.report.state, RunState::Running, "readers need no lock");
        assert_eq!(status.report.nodes[0].state, NodeState::Running);
        let refused = second.run(&two, EventSink::discard(), &Shutdown::new()).await;
        shutdown.drain();
        (refused, status)
    });
    let (refused, status) = refused;
    let RunError::Locked(holder) = refused.unwrap_err() else { panic!("not locked") };
    assert_eq!(holder.pid, std::process::id());
    assert_eq!(holder.run.as_ref(), Some(&report.unwrap().run));
    assert_eq!(status.holder, Some(holder));
    assert_eq!(second.runs().await.unwrap().len(), 1);
}

#[tokio::test]
async fn verify_looks_again_and_changes_nothing() {
    let project = Project::new(CHAIN);
    project.run().await;
    project.calls();
    project.script(|s| {
        s.verify.insert("b".into(), [false].into());
    });
    let request = VerifyRequest { run: None, depth: VerifyDepth::Deep };
    let engine = project.engine();
    let report = engine.verify(request, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(states(&report), pairs(&[("a", "finished"), ("b", "failed"), ("c", "finished")]));
    let mut calls = project.calls();
    calls.sort();
    assert_eq!(calls, ["verify deep a", "verify deep b", "verify deep c"]);
    assert_eq!(engine.status(None).await.unwrap().report.state, RunState::Done);
}

#[tokio::test]
async fn a_damaged_store_is_told_and_never_guessed() {
    let project = Project::new(CHAIN);
    project.run().await;
    let path = project.path(".migrate/state.db");
    let whole = std::fs::read(&path).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let altered = {
        let at = whole.windows(15).position(|w| w == b"\"fact\":\"applied").unwrap();
        let mut bytes = whole.clone();
        bytes[at + 9] = b'b';
        bytes
    };
    for bytes in
        [b"not a database at all, not even nearly".repeat(40), whole[..whole.len() / 2].to_vec(), altered]
    {
        for name in ["state.db-wal", "state.db-shm"] {
            let _ = std::fs::remove_file(project.path(".migrate").join(name));
        }
        std::fs::write(&path, &bytes).unwrap();
        let error = project.engine().status(None).await.unwrap_err().to_string();
        assert!(error.contains("state.db is damaged: "), "{error}");
    }
}

/// A place is that of the call which works: what an earlier one left behind has no say in it.
#[tokio::test]
async fn what_an_attempt_leaves_running_stores_no_place_for_the_next() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\nretry = { attempts = 2, backoff = \"1ms\" }\n");
    project.script(|s| {
        s.apply.insert("a".into(), [Apply::LeaveRunning, Apply::WaitForLeft].into());
    });
    assert_eq!(project.run().await.state, RunState::Failed);
    assert!(project.calls().contains(&"stored false by what was left of a".to_owned()));
    resume(&project, ResumeRequest::default()).await.unwrap();
    assert_eq!(project.calls(), ["observe a", "apply a", "verify a"], "without a cursor");
}

/// PostgreSQL can't hold NUL in a text: what one step says must not end the run, whatever the store is.
#[tokio::test]
async fn a_handle_that_is_no_line_of_text_costs_its_node() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\n");
    project.script(|s| {
        s.apply.insert("a".into(), [Apply::OddHandle].into());
        s.observe.insert("a".into(), [Observation::Running { handle: "job\u{0}1".to_owned() }].into());
    });
    for report in [project.run().await, resume(&project, ResumeRequest::default()).await.unwrap()] {
        assert_eq!(report.state, RunState::Failed);
        let error = report.node("a").and_then(|a| a.error.as_ref()).unwrap();
        assert_eq!(error.message, "the step's handle has a control character in it (U+0000)");
    }
    assert_eq!(resume(&project, ResumeRequest::default()).await.unwrap().state, RunState::Done);
}
