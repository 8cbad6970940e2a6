//! Gates and the undo without a clock, a store or a step: every prefix of their facts can be taken up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use migrate_plugin_api::{
    ErrorClass, ErrorRecord, Evidence, Idempotency, IdempotencyKey, NodeId, Observation, RunId, Step,
    StepInfo,
};
use serde_json::json;

use super::command::{CallKind, Command, Input};
use super::core::Core;
use super::gate::{GATE, Gate, GateDecision};
use super::state::RunFacts;
use super::undo::Undo;
use crate::report::RunState;
use crate::store::fact::{Fact, Stamped};
use crate::workflow::{Catalog, Described, Library, Params, Source, check};

const NODES: &str = "[nodes.a]\nstep = \"s\"\n[nodes.go]\nstep = \"gate\"\nneeds = [\"a\"]\nwith = { message = \"?\" }\n\
                     [nodes.b]\nstep = \"s\"\nneeds = [\"go\"]\non_failure = \"undo\"\n";

fn catalog() -> Catalog {
    let info = StepInfo {
        name: "s".to_owned(),
        version: "1".to_owned(),
        summary: String::new(),
        config_schema: json!({}),
        output_schema: json!({}),
        sensitive: Vec::new(),
        idempotency: Idempotency::Keyed,
        supports_undo: true,
    };
    let described = |info: StepInfo| {
        let validator = jsonschema::validator_for(&info.config_schema).unwrap();
        (info.name.clone(), Described { info, validator, keeps_cursor: false, unusable: None })
    };
    BTreeMap::from([described(info), described(Gate.describe())])
}

/// All facts up to the end, and what was called. `b` fails; the gate is approved when it asks.
fn finish(mut facts: Vec<Fact>) -> (Vec<Fact>, Vec<String>, RunState) {
    let (run, at, catalog) = (RunId::new("r").unwrap(), Timestamp::UNIX_EPOCH, Arc::new(catalog()));
    let stamped = facts.iter().cloned().map(|fact| Stamped { at, fact });
    let known = RunFacts::fold(stamped);
    let workflow = Source::new("w.toml", format!("schema = 1\nname = \"w\"\n{NODES}"));
    let environment = Source::new("m.toml", "schema = 1\n");
    let checked = check(&catalog, &Library::default(), &workflow, &environment, &Params::new()).unwrap();
    let mut undo = known.undo.is_some().then(|| {
        let needs = &checked.workflow.dependencies;
        Undo::new(run.clone(), Arc::clone(&catalog), known.clone(), needs, Box::new(|| 1.0))
    });
    let mut core =
        Some(Core::new(run.clone(), Arc::new(checked), Arc::clone(&catalog), known, Box::new(|| 1.0)));
    let (mut inputs, mut calls) = (vec![Input::Begin], Vec::new());
    loop {
        let input = inputs.remove(0);
        let commands = match (&mut undo, &mut core) {
            (Some(undo), _) => undo.step(input, Duration::ZERO, at),
            (None, Some(core)) => core.step(input, Duration::ZERO, at),
            (None, None) => unreachable!("one of them is there"),
        };
        let mut end = None;
        for command in commands {
            match command {
                Command::Record(fact) => facts.push(fact),
                Command::Call(call) => {
                    let node = call.node.clone();
                    calls.push(format!("{:?} {node}", call.kind));
                    inputs.push(match call.kind {
                        CallKind::Observe => Input::Observed(node, Ok(Observation::Absent)),
                        CallKind::Apply if node.as_str() == "b" => Input::Applied(node, Err(failure())),
                        CallKind::Apply => Input::Applied(node, Ok(json!({}))),
                        CallKind::Verify => Input::Verified(node, Ok(Evidence::default())),
                        CallKind::Undo => Input::Undone(node, Ok(())),
                    });
                }
                Command::Undo => {
                    undo = core.take().map(Core::into_undo);
                    inputs.push(Input::Begin);
                }
                Command::End(state) => end = Some(state),
                _ => {}
            }
        }
        match end {
            // A person approves, and the next process goes on.
            Some(RunState::Waiting) => {
                let asked = core.iter().flat_map(Core::asked).next().cloned().unwrap();
                let decision = Fact::Decided { node: NodeId::new(GATE_NODE).unwrap(), decision: yes(asked) };
                let (facts, more, state) = finish([facts, vec![decision]].concat());
                return (facts, [calls, more].concat(), state);
            }
            Some(state) => return (facts, calls, state),
            None => {}
        }
    }
}

const GATE_NODE: &str = "go";

fn yes(key: IdempotencyKey) -> GateDecision {
    let (by, host) = ("ana".to_owned(), "laptop".to_owned());
    GateDecision { key, approved: true, by, host, at: Timestamp::UNIX_EPOCH, note: None }
}

fn failure() -> ErrorRecord {
    let (message, causes) = ("no".to_owned(), Vec::new());
    ErrorRecord { class: ErrorClass::Permanent, message, causes, hint: None }
}

#[test]
fn every_prefix_of_a_gated_and_undone_run_can_be_taken_up() {
    let (whole, calls, state) = finish(Vec::new());
    assert_eq!(state, RunState::Undone);
    assert_eq!(calls.last().map(String::as_str), Some("Undo a"), "{calls:?}");
    assert!(whole.iter().any(|fact| matches!(fact, Fact::Started { step, .. } if step == GATE)));
    for length in 0..whole.len() {
        let before = &whole[..length];
        if matches!(before.last(), Some(Fact::Ended { state: RunState::Undone })) {
            continue;
        }
        let (all, calls, state) = finish(before.to_vec());
        assert_eq!(state, RunState::Undone, "after {length} facts");
        let begun = before.iter().any(|fact| matches!(fact, Fact::UndoBegun { .. }));
        let forward = calls.iter().any(|call| call.starts_with("Apply"));
        assert!(!(begun && forward), "after {length} facts it went forward again: {calls:?}");
        let undone = before.iter().any(|fact| matches!(fact, Fact::Undone { .. }));
        assert_eq!(calls.contains(&"Undo a".to_owned()), !undone, "after {length} facts: {calls:?}");
        // Every undo has its intent before it, however often it was begun.
        let intents = all.iter().filter(|fact| matches!(fact, Fact::UndoStarted { .. })).count();
        let ends = all.iter().filter(|fact| matches!(fact, Fact::Undone { .. })).count();
        assert!(intents >= 1 && ends == 1, "after {length} facts");
    }
}

/// A core for `nodes` that goes on from `facts`.
fn core(nodes: &str, facts: &[Fact]) -> Core {
    let (run, at, catalog) = (RunId::new("r").unwrap(), Timestamp::UNIX_EPOCH, Arc::new(catalog()));
    let workflow = Source::new("w.toml", format!("schema = 1\nname = \"w\"\n{nodes}"));
    let environment = Source::new("m.toml", "schema = 1\n");
    let checked = check(&catalog, &Library::default(), &workflow, &environment, &Params::new()).unwrap();
    let known = RunFacts::fold(facts.iter().cloned().map(|fact| Stamped { at, fact }));
    Core::new(run, Arc::new(checked), catalog, known, Box::new(|| 1.0))
}

#[test]
fn everything_decided_between_two_lives_is_known_before_the_run_can_end() {
    let nodes = "[nodes.a]\nstep = \"gate\"\nwith = { message = \"a?\" }\non_failure = \"continue\"\n\
                 [nodes.b]\nstep = \"gate\"\nwith = { message = \"b?\" }\n\
                 [nodes.c]\nstep = \"s\"\nneeds = [\"b\"]\n";
    let step = |core: &mut Core, input| core.step(input, Duration::ZERO, Timestamp::UNIX_EPOCH);
    let ends = |commands: &[Command]| commands.iter().any(|command| matches!(command, Command::End(_)));
    let mut first = core(nodes, &[]);
    let commands = step(&mut first, Input::Begin);
    assert!(ends(&commands), "it waits for both");
    let facts = commands.into_iter().filter_map(|command| match command {
        Command::Record(fact) => Some(fact),
        _ => None,
    });
    let keys: Vec<IdempotencyKey> = first.asked().cloned().collect();
    let mut second = core(nodes, &facts.collect::<Vec<_>>());
    let no = GateDecision { approved: false, ..yes(keys[0].clone()) };
    let mut commands = Vec::new();
    for input in [Input::Decided(Box::new(no)), Input::Decided(Box::new(yes(keys[1].clone()))), Input::Begin]
    {
        commands.extend(step(&mut second, input));
    }
    let b = NodeId::new("b").unwrap();
    commands.extend(step(&mut second, Input::Verified(b, Ok(Evidence::default()))));
    assert!(!ends(&commands), "it goes on");
    let decided = |fact: &&Command| matches!(fact, Command::Record(Fact::Decided { .. }));
    assert_eq!(commands.iter().filter(decided).count(), 2);
    let applied = |command: &Command| matches!(command, Command::Call(call) if call.kind == CallKind::Apply);
    assert!(commands.iter().any(applied), "what needs the approved gate is run");
}
