//! The core without a clock, a store or a step: inputs in, commands out.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use migrate_plugin_api::{
    Check, ErrorClass, ErrorRecord, Evidence, Idempotency, NodeId, Observation, RunId, Step, StepInfo,
    VerifyDepth,
};
use serde_json::json;

use super::change::changes;
use super::command::{Call, CallKind, Command, Input};
use super::core::{Core, MAX_RUNNING};
use super::executor::Limit;
use super::gate::{Gate, GateDecision};
use super::state::RunFacts;
use crate::report::RunState;
use crate::store::fact::{Fact, Stamped};
use crate::workflow::{Catalog, Checked, Described, Library, Params, Source, check};

fn catalog() -> Catalog {
    let step = |name: &str, idempotency| StepInfo {
        name: name.to_owned(),
        version: "1".to_owned(),
        summary: String::new(),
        config_schema: json!({}),
        output_schema: json!({}),
        sensitive: Vec::new(),
        idempotency,
        supports_undo: false,
    };
    let natural = ["natural", "noting"].map(|name| step(name, Idempotency::Natural));
    let [natural, noting] = natural;
    let steps = [step("s", Idempotency::Keyed), natural, noting, Gate.describe()];
    let described = |info: StepInfo| {
        let validator = jsonschema::validator_for(&info.config_schema).unwrap();
        let keeps_cursor = info.name == "noting";
        (info.name.clone(), Described { info, validator, keeps_cursor, unusable: None })
    };
    steps.map(described).into()
}

fn checked(nodes: &str) -> Checked {
    let workflow = Source::new("w.toml", format!("schema = 1\nname = \"w\"\n{nodes}"));
    let environment = Source::new("migration.toml", "schema = 1\n");
    check(&catalog(), &Library::default(), &workflow, &environment, &Params::new()).unwrap()
}

pub(super) struct Machine {
    pub(super) core: Core,
    pub(super) now: Duration,
    pub(super) facts: Vec<Fact>,
    calls: Vec<Call>,
    pub(super) end: Option<RunState>,
}

impl Machine {
    pub(super) fn new(nodes: &str, facts: Vec<Fact>) -> Self {
        let stamped = facts.into_iter().map(|fact| Stamped { at: Timestamp::UNIX_EPOCH, fact });
        let core = Core::new(
            RunId::new("r").unwrap(),
            Arc::new(checked(nodes)),
            Arc::new(catalog()),
            RunFacts::fold(stamped),
            Box::new(|| 1.0),
        );
        Self { core, now: Duration::ZERO, facts: Vec::new(), calls: Vec::new(), end: None }
    }

    /// What the core wants done, in short.
    pub(super) fn step(&mut self, input: Input) -> Vec<String> {
        let mut out = Vec::new();
        for command in self.core.step(input, self.now, Timestamp::UNIX_EPOCH) {
            match command {
                Command::Record(fact) => {
                    self.facts.push(fact);
                }
                Command::Call(call) => {
                    let is_deep = call.kind == CallKind::Verify && call.depth == VerifyDepth::Deep;
                    let depth = if is_deep { " deep" } else { "" };
                    out.push(format!("{:?}{depth} {} #{}", call.kind, call.node, call.attempt));
                    self.calls.push(*call);
                }
                Command::Wake(node, delay) => out.push(format!("wake {node} in {}s", delay.as_secs())),
                Command::Clear(node) => out.push(format!("clear {node}")),
                Command::SetHandle(node, handle) => out.push(format!("handle {node} {handle}")),
                Command::End(state) => {
                    self.end = Some(state);
                    out.push(format!("end {state:?}"));
                }
                Command::Undo => out.push("undo".to_owned()),
                Command::Emit(_) => {}
            }
        }
        out
    }

    /// The facts of a beginning.
    fn begin(mut self) -> Vec<Fact> {
        self.step(Input::Begin);
        self.facts
    }

    pub(super) fn apply_ok(&mut self, node: &str) -> Vec<String> {
        self.step(Input::Applied(id(node), Ok(json!({}))))
    }

    pub(super) fn verify(&mut self, node: &str, good: bool) -> Vec<String> {
        let check = Check::equal("it", "rows", "1", if good { "1" } else { "0" });
        self.step(Input::Verified(id(node), Ok(Evidence::from_iter([check]))))
    }
}

pub(super) fn id(node: &str) -> NodeId {
    NodeId::new(node).unwrap()
}

pub(super) fn failure(class: ErrorClass) -> ErrorRecord {
    ErrorRecord { class, message: "no".to_owned(), causes: Vec::new(), hint: None }
}

const TRANSIENT: ErrorClass = ErrorClass::Transient { retry_after_ms: None };

#[test]
fn an_intent_is_recorded_with_every_apply_and_before_it() {
    let mut machine = Machine::new("[nodes.a]\nstep = \"s\"\n", Vec::new());
    let commands = machine.core.step(Input::Begin, Duration::ZERO, Timestamp::UNIX_EPOCH);
    let intent = commands.iter().position(|c| matches!(c, Command::Record(Fact::Started { attempt: 1, .. })));
    let call = commands.iter().position(|c| matches!(c, Command::Call(call) if call.kind == CallKind::Apply));
    assert!(intent.unwrap() < call.unwrap());
}

#[test]
fn a_retry_waits_twice_as_long_each_time_and_observes_first() {
    let mut machine = Machine::new("[nodes.a]\nstep = \"s\"\nretry = { attempts = 3 }\n", Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply a #1"]);
    let fail = |machine: &mut Machine| machine.step(Input::Applied(id("a"), Err(failure(TRANSIENT))));
    assert_eq!(fail(&mut machine), ["wake a in 1s"]);
    assert_eq!(machine.step(Input::Wake(id("a"))), ["Observe a #1"]);
    assert_eq!(machine.step(Input::Observed(id("a"), Ok(Observation::Absent))), ["Apply a #2"]);
    assert_eq!(fail(&mut machine), ["wake a in 2s"]);
    assert_eq!(machine.step(Input::Wake(id("a"))), ["Observe a #2"]);
    let running = Observation::Running { handle: "h".to_owned() };
    assert_eq!(machine.step(Input::Observed(id("a"), Ok(running))), ["handle a h", "Apply a #3"]);
    assert_eq!(fail(&mut machine), ["end Failed"]);
    // Late answers of calls that no longer count change nothing.
    assert!(machine.apply_ok("a").is_empty());
}

#[test]
fn every_class_but_two_fails_at_once() {
    for class in [
        ErrorClass::Auth,
        ErrorClass::Conflict,
        ErrorClass::Permanent,
        ErrorClass::Corrupt,
        ErrorClass::Cancelled,
    ] {
        let mut machine = Machine::new("[nodes.a]\nstep = \"s\"\n", Vec::new());
        machine.step(Input::Begin);
        assert_eq!(machine.step(Input::Applied(id("a"), Err(failure(class)))), ["end Failed"], "{class:?}");
    }
}

#[test]
fn a_failure_stops_what_has_not_begun_and_lets_the_rest_finish() {
    let nodes =
        "[nodes.a]\nstep = \"s\"\n[nodes.b]\nstep = \"s\"\n[nodes.c]\nstep = \"s\"\nneeds = [\"b\"]\n";
    let mut machine = Machine::new(nodes, Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply a #1", "Apply b #1"]);
    assert!(machine.step(Input::Applied(id("a"), Err(failure(ErrorClass::Permanent)))).is_empty());
    assert_eq!(machine.apply_ok("b"), ["Verify b #1"]);
    assert_eq!(machine.verify("b", true), ["end Failed"]);

    let nodes = nodes.replacen("step = \"s\"", "step = \"s\"\non_failure = \"continue\"", 1);
    let mut machine = Machine::new(&nodes, Vec::new());
    machine.step(Input::Begin);
    machine.step(Input::Applied(id("a"), Err(failure(ErrorClass::Permanent))));
    machine.apply_ok("b");
    assert_eq!(machine.verify("b", true), ["Apply c #1"]);
}

#[test]
fn a_disproved_node_forgets_its_place() {
    let mut machine = Machine::new("[nodes.a]\nstep = \"s\"\n", Vec::new());
    machine.step(Input::Begin);
    machine.apply_ok("a");
    assert_eq!(machine.verify("a", false), ["clear a", "end Failed"]);
    assert!(matches!(machine.facts.last_mut(), Some(Fact::Ended { state: RunState::Failed })));
    // The next process does it again at once: its claim is what was wrong.
    let mut machine = Machine::new("[nodes.a]\nstep = \"s\"\n", machine.facts);
    assert_eq!(machine.step(Input::Begin), ["clear a", "Apply a #2"]);
}

#[test]
fn only_what_is_to_be_made_again_gets_another_key() {
    const NODE: &str = "[nodes.a]\nstep = \"s\"\n";
    let key = |machine: &Machine| machine.calls.last().unwrap().key.clone();
    let mut first = Machine::new(NODE, Vec::new());
    first.step(Input::Begin);
    let made = key(&first);
    // A retry, and a resume after an interruption, find what the first attempt has made.
    first.step(Input::Applied(id("a"), Err(failure(TRANSIENT))));
    first.step(Input::Wake(id("a")));
    first.step(Input::Observed(id("a"), Ok(Observation::Absent)));
    assert_eq!((first.calls.last().unwrap().kind, key(&first)), (CallKind::Apply, made.clone()));
    let mut second = Machine::new(NODE, first.facts.clone());
    second.step(Input::Begin);
    assert_eq!(key(&second), made);
    second.step(Input::Observed(id("a"), Ok(Observation::Absent)));
    assert_eq!(key(&second), made);
    second.apply_ok("a");
    second.verify("a", true);
    let done = [first.facts, second.facts].concat();

    // What no longer holds, or was asked for, or was changed after its effect, is made again.
    let mut machine = Machine::new(NODE, done.clone());
    machine.step(Input::Begin);
    assert_eq!(machine.verify("a", false), ["clear a", "Apply a #4"]);
    let again = key(&machine);
    assert_ne!(again, made);
    let asked = Fact::Reset { node: id("a"), reason: "asked for".to_owned(), again: true, renewed: false };
    let mut machine = Machine::new(NODE, [done.clone(), vec![asked]].concat());
    machine.step(Input::Begin);
    assert_eq!(key(&machine), again);
    let mut machine = Machine::new(&format!("{NODE}with = {{ x = 1 }}\n"), done);
    assert_eq!(machine.step(Input::Begin), ["clear a", "Apply a #4"]);
    // Back to what it was: a thing of that name exists, and is not what is to be there now.
    machine.apply_ok("a");
    let mut machine = Machine::new(NODE, [machine.facts, Vec::new()].concat());
    machine.step(Input::Begin);
    assert_ne!(key(&machine), made);
    assert_ne!(key(&machine), again);
}

#[test]
fn facts_of_earlier_versions_have_generation_zero() {
    let fact = json!({
        "fact": "started", "node": "a", "attempt": 1, "key": "a-0", "digest": "d", "step": "s",
        "step-version": "1", "config": {},
    });
    assert!(matches!(serde_json::from_value(fact).unwrap(), Fact::Started { generation: 0, .. }));
    let fact = json!({ "fact": "reset", "node": "a", "reason": "asked for" });
    assert!(matches!(serde_json::from_value(fact).unwrap(), Fact::Reset { again: false, .. }));
}

/// What an older version has begun, or what is written otherwise and comes to the same.
#[test]
fn what_stands_is_noted_as_it_is_written_now() {
    let nodes = |text: &str| {
        format!(
            "[nodes.n]\nstep = \"s\"\n[nodes.a]\nstep = \"s\"\nwith = {{ x = \"{text}\" }}\nneeds = [\"n\"]\n"
        )
    };
    let mut machine = Machine::new(&nodes("${nodes.n.y}"), Vec::new());
    machine.step(Input::Begin);
    machine.step(Input::Applied(id("n"), Ok(json!({ "y": "1", "z": "1" }))));
    machine.verify("n", true);
    machine.apply_ok("a");
    machine.verify("a", true);
    let is_noted = |text: &str, facts: Vec<Fact>| {
        let mut machine = Machine::new(&nodes(text), facts);
        machine.step(Input::Begin);
        machine.verify("n", true);
        machine.verify("a", true);
        assert_eq!(machine.end, Some(RunState::Done));
        machine.facts.into_iter().find_map(|fact| match fact {
            Fact::Reworded { node, wording } => Some((node, wording.fields["with/x"].clone())),
            _ => None,
        })
    };
    assert_eq!(is_noted("${nodes.n.y}", machine.facts.clone()), None);
    let other = Some((id("a"), "${nodes.n.z}".to_owned()));
    assert_eq!(is_noted("${nodes.n.z}", machine.facts.clone()), other);
    assert_eq!(
        is_noted("${nodes.n.y}", older(machine.facts, "a")),
        Some((id("a"), "${nodes.n.y}".to_owned()))
    );
}

/// The facts as an older version would have stored them of `node`.
fn older(mut facts: Vec<Fact>, node: &str) -> Vec<Fact> {
    let is_begun = |fact: &Fact| matches!(fact, Fact::Started { node: begun, .. } if *begun == id(node));
    for fact in facts.iter_mut().filter(|fact| is_begun(fact)) {
        let mut older = serde_json::to_value(&*fact).unwrap();
        older.as_object_mut().unwrap().remove("wording").unwrap();
        *fact = serde_json::from_value(older).unwrap();
    }
    facts
}

#[test]
fn that_what_an_older_version_has_begun_is_skipped_is_a_change() {
    let nodes =
        |when: &str| format!("[nodes.n]\nstep = \"s\"\n[nodes.a]\nstep = \"s\"\nneeds = [\"n\"]\n{when}");
    let mut machine = Machine::new(&nodes(""), Vec::new());
    machine.step(Input::Begin);
    machine.step(Input::Applied(id("n"), Ok(json!({ "y": 1 }))));
    machine.verify("n", true);
    machine.apply_ok("a");
    machine.verify("a", true);
    let facts = older(machine.facts, "a");
    let changed = |when: &str| {
        let stamped = facts.iter().map(|fact| Stamped { at: Timestamp::UNIX_EPOCH, fact: fact.clone() });
        changes(&RunFacts::fold(stamped), &checked(&nodes(when)), &catalog(), &[]).nodes
    };
    assert_eq!(changed(""), []);
    assert_eq!(changed("when = \"nodes.n.y == 1\"\n"), []);
    assert!(changed("when = \"nodes.n.y == 2\"\n")[0].skipped.is_some());
}

#[test]
fn what_was_begun_with_another_config_is_looked_at_with_its_own() {
    const WAS: &str = "[nodes.a]\nstep = \"s\"\nwith = { x = 1 }\n";
    const NOW: &str = "[nodes.a]\nstep = \"s\"\nwith = { x = 2 }\n";
    let open = |failure: Option<ErrorRecord>| {
        let mut machine = Machine::new(WAS, Vec::new());
        machine.step(Input::Begin);
        failure.map(|error| machine.step(Input::Applied(id("a"), Err(error))));
        machine
    };
    for failed in [None, Some(failure(ErrorClass::Permanent))] {
        let first = open(failed);
        let old = first.calls[0].clone();
        let take_up = || {
            let mut machine = Machine::new(NOW, first.facts.clone());
            assert_eq!(machine.step(Input::Begin), ["Observe a #1"]);
            assert_eq!((&machine.calls[0].key, &machine.calls[0].config), (&old.key, &old.config));
            machine
        };
        let mut machine = take_up();
        assert_eq!(
            machine.step(Input::Observed(id("a"), Ok(Observation::Absent))),
            ["clear a", "Apply a #2"]
        );
        assert_eq!(machine.calls[1].config, json!({ "x": 2 }));
        assert_ne!(machine.calls[1].key, old.key);
        for (seen, told) in [
            (Ok(Observation::Running { handle: "job-7".to_owned() }), "at work outside: `job-7`"),
            (Ok(Observation::Done { outputs: json!({}) }), "has had its effect"),
            (Ok(Observation::Unknown { reason: "no list".to_owned() }), "can't be told: no list"),
            (Err(failure(ErrorClass::Auth)), "can't be told: no"),
        ] {
            let mut machine = take_up();
            assert_eq!(machine.step(Input::Observed(id("a"), seen)), ["end Failed"]);
            let Some(Fact::Failed { error, disproved: false, .. }) = machine.facts.first() else {
                panic!("{told}")
            };
            assert!(error.message.contains(told), "{}", error.message);
            assert!(error.hint.as_ref().unwrap().contains("migrate resume r --rerun a"));
            // The change is taken back: what runs is joined.
            let facts = [first.facts.clone(), machine.facts].concat();
            let mut machine = Machine::new(WAS, facts);
            assert_eq!(machine.step(Input::Begin), ["Observe a #1"]);
            let running = Observation::Running { handle: "job-7".to_owned() };
            assert_eq!(machine.step(Input::Observed(id("a"), Ok(running))), ["handle a job-7", "Apply a #2"]);
            assert_eq!(machine.calls[1].key, old.key);
        }
    }
}

#[test]
fn a_node_that_ran_before_it_was_skipped_is_observed() {
    let nodes = "[nodes.a]\nstep = \"s\"\n";
    let mut facts = Machine::new(nodes, Vec::new()).begin();
    facts.push(Fact::Skipped { node: id("a"), reason: "`when` was false".to_owned(), wording: None });
    let mut machine = Machine::new(nodes, facts.clone());
    assert_eq!(machine.step(Input::Begin), ["Observe a #1"]);
    let mut machine = Machine::new(&format!("{nodes}with = {{ x = 1 }}\n"), facts);
    assert_eq!(machine.step(Input::Begin), ["Observe a #1"]);
    // Its cursor was that of another config.
    assert_eq!(machine.step(Input::Observed(id("a"), Ok(Observation::Absent))), ["clear a", "Apply a #2"]);
}

#[test]
fn every_prefix_of_a_run_can_be_taken_up_and_ends_done() {
    let nodes = "[nodes.a]\nstep = \"s\"\n[nodes.b]\nstep = \"s\"\nwith = { x = \"${nodes.a.y}\" }\n";
    let finish = |facts: Vec<Fact>| {
        let mut machine = Machine::new(nodes, facts);
        let mut todo = machine.step(Input::Begin);
        let mut calls = Vec::new();
        while machine.end.is_none() {
            let next = todo.remove(0);
            let node = next.split(' ').nth(1).unwrap().to_owned();
            calls.push(next.clone());
            let more = match next.split(' ').next().unwrap() {
                "Observe" => machine.step(Input::Observed(id(&node), Ok(Observation::Absent))),
                "Apply" => machine.step(Input::Applied(id(&node), Ok(json!({ "y": 1 })))),
                "Verify" => machine.verify(&node, true),
                other => panic!("{other}"),
            };
            todo.extend(more.into_iter().filter(|c| !c.starts_with("end")));
        }
        assert_eq!(machine.end, Some(RunState::Done));
        (machine.facts, calls)
    };
    let (facts, _) = finish(Vec::new());
    assert_eq!(facts.len(), 7, "{facts:?}");
    for length in 0..facts.len() {
        let (_, calls) = finish(facts[..length].to_vec());
        // An attempt with an intent and no result is never applied again without a look first.
        for node in ["a", "b"] {
            let begun = facts[..length]
                .iter()
                .any(|f| matches!(f, Fact::Started { node: n, .. } if n.as_str() == node));
            let first = calls.iter().find(|call| call.contains(&format!(" {node} "))).unwrap();
            assert_eq!(first.starts_with("Apply"), !begun, "after {length} facts: {calls:?}");
        }
    }
}

#[test]
fn draining_starts_nothing_and_keeps_what_is_done() {
    let nodes =
        "[nodes.a]\nstep = \"s\"\n[nodes.b]\nstep = \"s\"\n[nodes.c]\nstep = \"s\"\nneeds = [\"b\"]\n";
    let mut machine = Machine::new(nodes, Vec::new());
    machine.step(Input::Begin);
    machine.step(Input::Applied(id("a"), Err(failure(TRANSIENT))));
    assert!(machine.step(Input::Drain).is_empty());
    assert_eq!(machine.apply_ok("b"), ["end Interrupted"]);
    let mut machine = Machine::new(nodes, machine.facts);
    assert_eq!(machine.step(Input::Begin), ["Observe a #1", "Verify b #1"]);
}

/// However the second look at a finished node is cut short, nothing is known of it again.
#[test]
fn a_finished_node_whose_second_look_was_stopped_is_not_done() {
    let nodes = "[nodes.a]\nstep = \"s\"\n[nodes.b]\nstep = \"s\"\n";
    let mut first = Machine::new(nodes, Vec::new());
    first.step(Input::Begin);
    first.apply_ok("a");
    first.verify("a", true);
    first.apply_ok("b");
    let again = || {
        let mut machine = Machine::new(nodes, first.facts.clone());
        assert_eq!(machine.step(Input::Begin), ["Verify a #1", "Verify b #1"]);
        machine
    };
    let draining = || {
        let mut machine = again();
        machine.verify("b", true);
        machine.step(Input::Drain);
        machine
    };
    let mut machine = draining();
    let cancelled = Err(failure(ErrorClass::Cancelled));
    assert_eq!(machine.step(Input::Verified(id("a"), cancelled)), ["end Interrupted"]);
    assert_eq!(draining().verify("a", false), ["end Interrupted"]);
    let mut machine = again();
    machine.step(Input::Verified(id("a"), Err(failure(TRANSIENT))));
    machine.verify("b", true);
    assert_eq!(machine.step(Input::Drain), ["end Interrupted"]);
    // Seen to its end, it counts.
    assert_eq!(draining().verify("a", true), ["end Done"]);
}

#[test]
fn pools_and_the_whole_run_are_bounded() {
    let mut nodes = "[pools]\nwrites = 2\n".to_owned();
    for at in 0..5 {
        nodes.push_str(&format!("[nodes.w{at}]\nstep = \"s\"\npool = \"writes\"\n"));
    }
    let mut machine = Machine::new(&nodes, Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply w0 #1", "Apply w1 #1"]);
    machine.apply_ok("w1");
    assert_eq!(machine.verify("w1", true), ["Apply w2 #1"]);
    let wide: String = (0..40).map(|at| format!("[nodes.n{at}]\nstep = \"s\"\n")).collect();
    assert_eq!(Machine::new(&wide, Vec::new()).step(Input::Begin).len(), MAX_RUNNING);
}

#[test]
fn a_heavy_node_takes_its_places_and_is_not_overtaken() {
    let node = |name: &str, weight: usize| {
        format!("[nodes.{name}]\nstep = \"s\"\npool = {{ name = \"writes\", weight = {weight} }}\n")
    };
    let nodes = ["[pools]\nwrites = 4\n".to_owned(), node("a", 3), node("b", 2), node("c", 1)].concat();
    let mut machine = Machine::new(&nodes, Vec::new());
    // `c` would fit beside `a`, but then others like it could keep `b` waiting for ever.
    assert_eq!(machine.step(Input::Begin), ["Apply a #1"]);
    machine.apply_ok("a");
    assert_eq!(machine.verify("a", true), ["Apply b #1", "Apply c #1"]);
}

#[test]
fn a_wait_that_outlasts_the_nodes_time_is_not_begun() {
    let asked = ErrorClass::Throttled { retry_after_ms: Some(61_000) };
    let mut machine = Machine::new("[nodes.a]\nstep = \"s\"\ntimeout = \"2m\"\n", Vec::new());
    machine.step(Input::Begin);
    assert_eq!(machine.step(Input::Applied(id("a"), Err(failure(asked)))), ["wake a in 61s"]);
    machine.now += Duration::from_secs(61);
    machine.step(Input::Wake(id("a")));
    machine.step(Input::Observed(id("a"), Ok(Observation::Absent)));
    assert_eq!(machine.step(Input::Applied(id("a"), Err(failure(asked)))), ["end Failed"]);
}

#[test]
fn a_plan_of_ten_thousand_nodes_is_quick_enough_to_check_in_a_test() {
    let mut nodes = String::new();
    for at in 0..10_000 {
        nodes.push_str(&format!("[nodes.n{at}]\nstep = \"s\"\n"));
        if at > 0 {
            nodes.push_str(&format!("with = {{ x = \"${{nodes.n{}.y}}\" }}\n", at - 1));
        }
    }
    let mut machine = Machine::new(&nodes, Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply n0 #1"]);
}

/// A network that is down while a finished node is looked at again must not take the run back.
#[test]
fn what_is_finished_and_cant_be_looked_at_undoes_nothing() {
    let nodes = "[nodes.a]\nstep = \"s\"\non_failure = \"undo\"\n[nodes.b]\nstep = \"s\"\nneeds = [\"a\"]\n";
    let mut first = Machine::new(nodes, Vec::new());
    first.step(Input::Begin);
    first.apply_ok("a");
    first.verify("a", true);
    let mut second = Machine::new(nodes, first.facts);
    assert_eq!(second.step(Input::Begin), ["Verify a #1"]);
    let failed = second.step(Input::Verified(id("a"), Err(failure(ErrorClass::Permanent))));
    assert_eq!(failed, ["end Failed"]);
}

/// A person may take longer than any step: what is left of the node's time begins with the answer.
#[test]
fn the_time_of_a_gate_begins_with_its_answer() {
    let nodes = "[nodes.go]\nstep = \"gate\"\nwith = { message = \"?\" }\n[nodes.b]\nstep = \"s\"\n";
    let mut machine = Machine::new(nodes, Vec::new());
    machine.step(Input::Begin);
    let key = machine.core.asked().next().cloned().unwrap();
    machine.now = Duration::from_secs(48 * 3600);
    let (by, host) = ("ana".to_owned(), "laptop".to_owned());
    let decision = GateDecision { key, approved: true, by, host, at: Timestamp::UNIX_EPOCH, note: None };
    machine.step(Input::Decided(Box::new(decision)));
    let whole = Duration::from_secs(24 * 3600);
    assert_eq!(machine.calls.last().unwrap().limit, Limit::Node { whole, left: whole });
}
