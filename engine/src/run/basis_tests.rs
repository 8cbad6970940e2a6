//! What is built on something that was made again.

use jiff::Timestamp;
use migrate_plugin_api::{ErrorClass, Observation};
use serde_json::json;

use super::command::Input;
use super::core_tests::{Machine, failure, id};
use super::gate::GateDecision;
use crate::report::RunState;
use crate::store::fact::Fact;

/// `a` makes something; `b` has the config that it always had.
fn pair(step: &str, with: u32) -> String {
    format!(
        "[nodes.a]\nstep = \"s\"\nwith = {{ x = {with} }}\n[nodes.b]\nstep = \"{step}\"\nneeds = [\"a\"]\n"
    )
}

/// The facts of a run of `nodes` in which everything went well; they are `order`, as they may run.
fn done(nodes: &str, order: &[&str]) -> Vec<Fact> {
    let mut machine = Machine::new(nodes, Vec::new());
    machine.step(Input::Begin);
    for node in order {
        machine.apply_ok(node);
        machine.verify(node, true);
    }
    assert_eq!(machine.end, Some(RunState::Done));
    machine.facts
}

fn asked(node: &str) -> Fact {
    Fact::Asked { node: id(node), look: false }
}

/// A later process, which makes `a` again.
fn a_again(nodes: &str, facts: Vec<Fact>) -> (Machine, Vec<String>) {
    let mut machine = Machine::new(nodes, facts);
    assert_eq!(machine.step(Input::Begin), ["clear a", "Apply a #2"]);
    machine.apply_ok("a");
    let then = machine.verify("a", true);
    (machine, then)
}

fn with(mut facts: Vec<Fact>, fact: Fact) -> Vec<Fact> {
    facts.push(fact);
    facts
}

#[test]
fn what_is_natural_is_made_again_after_what_it_is_built_on() {
    let nodes = pair("natural", 1);
    let first = done(&nodes, &["a", "b"]);
    let (_, then) = a_again(&nodes, with(first.clone(), asked("a")));
    assert_eq!(then, ["clear b", "Apply b #2"]);
    let (_, then) = a_again(&pair("natural", 2), first.clone());
    assert_eq!(then, ["clear b", "Apply b #2"], "an accepted change");
    let mut machine = Machine::new(&nodes, first.clone());
    machine.step(Input::Begin);
    assert_eq!(machine.verify("a", false), ["clear a", "Apply a #2"]);
    machine.apply_ok("a");
    assert_eq!(machine.verify("a", true), ["clear b", "Apply b #2"], "disproved");
    // What was only looked at again was not made again.
    let mut machine = Machine::new(&nodes, first);
    machine.step(Input::Begin);
    assert_eq!(machine.verify("a", true), ["Verify b #1"]);
}

#[test]
fn what_is_not_natural_is_looked_at_closely_after_what_it_is_built_on() {
    let nodes = pair("s", 1);
    let again = with(done(&nodes, &["a", "b"]), asked("a"));
    let (mut machine, then) = a_again(&nodes, again.clone());
    assert_eq!(then, ["Verify deep b #1"]);
    assert_eq!(machine.verify("b", true), ["end Done"]);
    // It holds beside what is new: once is enough.
    let mut next = Machine::new(&nodes, [again.clone(), machine.facts].concat());
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["Verify b #1"]);
    // It is not made again unasked, however often it is looked at.
    let (mut machine, _) = a_again(&nodes, again.clone());
    assert_eq!(machine.verify("b", false), ["end Failed"]);
    let failed = [again, machine.facts].concat();
    let mut next = Machine::new(&nodes, failed.clone());
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["Verify deep b #1"]);
    let mut next = Machine::new(&nodes, with(failed, asked("b")));
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["clear b", "Apply b #2"]);
    assert_eq!(next.apply_ok("b"), ["Verify b #2"], "made from what is new");
}

#[test]
fn what_must_not_be_done_twice_stays_noted_where_nobody_asked_for_it() {
    let nodes = pair("noting", 1);
    let first = done(&nodes, &["a", "b"]);
    let (_, then) = a_again(&nodes, with(first.clone(), asked("a")));
    assert_eq!(then, ["Apply b #2"]);
    let (_, then) = a_again(&nodes, with(with(first, asked("a")), asked("b")));
    assert_eq!(then, ["clear b", "Apply b #2"]);
}

/// The run was done, and what it made may be in use.
#[test]
fn what_nobody_asked_to_make_again_undoes_nothing() {
    let nodes = pair("natural", 1) + "on_failure = \"undo\"\n";
    let again = with(done(&nodes, &["a", "b"]), asked("a"));
    let (mut machine, then) = a_again(&nodes, again.clone());
    assert_eq!(then, ["clear b", "Apply b #2"]);
    assert_eq!(machine.step(Input::Applied(id("b"), Err(failure(ErrorClass::Permanent)))), ["end Failed"]);
    // Nor later.
    let mut next = Machine::new(&nodes, [again.clone(), machine.facts].concat());
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["Observe b #2"]);
    assert_eq!(next.step(Input::Observed(id("b"), Err(failure(ErrorClass::Permanent)))), ["end Failed"]);
    // Nor when it was disproved, and is once more.
    let (mut machine, _) = a_again(&nodes, again.clone());
    machine.apply_ok("b");
    assert_eq!(machine.verify("b", false), ["clear b", "end Failed"]);
    let mut next = Machine::new(&nodes, [again.clone(), machine.facts].concat());
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["clear b", "Apply b #3"]);
    next.apply_ok("b");
    assert_eq!(next.verify("b", false), ["clear b", "end Failed"]);
    // Somebody asked.
    let mut asked = Machine::new(&nodes, with(again, asked("b")));
    asked.step(Input::Begin);
    asked.apply_ok("a");
    asked.verify("a", true);
    assert_eq!(asked.step(Input::Applied(id("b"), Err(failure(ErrorClass::Permanent)))), ["undo"]);
}

#[test]
fn what_no_longer_holds_and_fails_as_it_is_made_again_undoes_nothing() {
    let nodes = pair("s", 1) + "on_failure = \"undo\"\n";
    let mut machine = Machine::new(&nodes, done(&nodes, &["a", "b"]));
    machine.step(Input::Begin);
    machine.verify("a", true);
    assert_eq!(machine.verify("b", false), ["clear b", "Apply b #2"]);
    assert_eq!(machine.step(Input::Applied(id("b"), Err(failure(ErrorClass::Permanent)))), ["end Failed"]);
}

/// What it takes from the other comes out differently: nobody has changed it.
#[test]
fn what_is_made_again_of_something_else_undoes_nothing() {
    let nodes =
        pair("s", 1).replace("needs = [\"a\"]", "with = { x = \"${nodes.a.x}\" }\non_failure = \"undo\"");
    let made = |facts: Vec<Fact>, x: u32| {
        let mut machine = Machine::new(&nodes, facts);
        machine.step(Input::Begin);
        machine.step(Input::Applied(id("a"), Ok(json!({ "x": x }))));
        let then = machine.verify("a", true);
        (machine, then)
    };
    let (mut machine, _) = made(Vec::new(), 1);
    machine.apply_ok("b");
    machine.verify("b", true);
    let (mut machine, then) = made(with(machine.facts, asked("a")), 2);
    assert_eq!(then, ["clear b", "Apply b #2"]);
    assert_eq!(machine.step(Input::Applied(id("b"), Err(failure(ErrorClass::Permanent)))), ["end Failed"]);
}

/// What it takes from the other comes out as something that it can't take.
#[test]
fn what_is_there_and_can_not_be_begun_as_it_is_now_undoes_nothing() {
    let made = |machine: &mut Machine, outputs| machine.step(Input::Applied(id("a"), Ok(outputs)));
    for (b, first) in [
        ("with = { x = \"${nodes.a.x}\" }\n", "b"),
        ("for_each = \"${nodes.a.x}\"\nwith = { x = \"${each.value}\" }\n", "b[one]"),
    ] {
        let nodes = format!("[nodes.a]\nstep = \"s\"\n[nodes.b]\nstep = \"s\"\non_failure = \"undo\"\n{b}");
        let mut machine = Machine::new(&nodes, Vec::new());
        machine.step(Input::Begin);
        made(&mut machine, json!({ "x": ["one"] }));
        machine.verify("a", true);
        machine.apply_ok(first);
        assert_eq!(machine.verify(first, true), ["end Done"]);
        let mut next = Machine::new(&nodes, with(machine.facts, asked("a")));
        next.step(Input::Begin);
        made(&mut next, json!({}));
        assert_eq!(next.verify("a", true), ["end Failed"], "{b}");
        // Nothing of it is there: the run is undone, as it says.
        let mut machine = Machine::new(&nodes, Vec::new());
        machine.step(Input::Begin);
        made(&mut machine, json!({}));
        assert_eq!(machine.verify("a", true), ["undo"], "{b}");
    }
}

/// Its effect is there, but was never verified; a person keeps it all the same.
#[test]
fn what_is_kept_and_does_not_hold_is_neither_made_again_nor_taken_back() {
    let nodes = pair("s", 1) + "on_failure = \"undo\"\n";
    let mut machine = Machine::new(&nodes, Vec::new());
    machine.step(Input::Begin);
    machine.apply_ok("a");
    machine.verify("a", true);
    assert_eq!(machine.apply_ok("b"), ["Verify b #1"]);
    let kept = with(with(machine.facts, asked("a")), Fact::Kept { node: id("b") });
    for result in [Ok(false), Err(failure(ErrorClass::Permanent))] {
        let mut next = Machine::new(&nodes, kept.clone());
        next.step(Input::Begin);
        next.apply_ok("a");
        assert_eq!(next.verify("a", true), ["Verify b #1"]);
        let then = match result {
            Ok(passed) => next.verify("b", passed),
            Err(error) => next.step(Input::Verified(id("b"), Err(error))),
        };
        assert_eq!(then, ["end Failed"]);
    }
}

#[test]
fn what_was_made_again_counts_through_what_lies_between() {
    let nodes = "[nodes.a]\nstep = \"s\"\n[nodes.b]\nstep = \"s\"\nneeds = [\"a\"]\n\
                 [nodes.c]\nstep = \"natural\"\nneeds = [\"b\"]\n";
    let (mut machine, then) = a_again(nodes, with(done(nodes, &["a", "b", "c"]), asked("a")));
    assert_eq!(then, ["Verify deep b #1"]);
    assert_eq!(machine.verify("b", true), ["clear c", "Apply c #2"]);
}

#[test]
fn an_item_that_is_made_again_counts_for_what_waits_for_all() {
    let nodes = "[nodes.a]\nstep = \"s\"\nfor_each = [\"x\", \"y\"]\n\
                 [nodes.b]\nstep = \"natural\"\nneeds = [\"a\"]\n";
    let again = with(done(nodes, &["a[x]", "a[y]", "b"]), asked("a[y]"));
    let mut machine = Machine::new(nodes, again);
    assert_eq!(machine.step(Input::Begin), ["Verify a[x] #1", "clear a[y]", "Apply a[y] #2"]);
    machine.verify("a[x]", true);
    machine.apply_ok("a[y]");
    assert_eq!(machine.verify("a[y]", true), ["clear b", "Apply b #2"]);
    let nodes = "[nodes.a]\nstep = \"s\"\n\
                 [nodes.b]\nstep = \"natural\"\nneeds = [\"a\"]\nfor_each = [\"x\", \"y\"]\n";
    let (_, then) = a_again(nodes, with(done(nodes, &["a", "b[x]", "b[y]"]), asked("a")));
    assert_eq!(then, ["clear b[x]", "Apply b[x] #2", "clear b[y]", "Apply b[y] #2"]);
}

/// The order of facts is what counts, so a stop in between loses nothing.
#[test]
fn what_was_made_again_before_a_stop_counts_after_it() {
    let nodes = pair("natural", 1);
    let again = with(done(&nodes, &["a", "b"]), asked("a"));
    let mut machine = Machine::new(&nodes, again.clone());
    machine.step(Input::Begin);
    machine.step(Input::Drain);
    assert_eq!(machine.apply_ok("a"), ["end Interrupted"]);
    let stopped = [again, machine.facts].concat();
    let mut machine = Machine::new(&nodes, stopped.clone());
    assert_eq!(machine.step(Input::Begin), ["Verify a #2"]);
    assert_eq!(machine.verify("a", true), ["clear b", "Apply b #2"]);
    // An attempt that began with what is new goes on as any other.
    let mut next = Machine::new(&nodes, [stopped, machine.facts].concat());
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["Observe b #2"]);
    assert_eq!(
        next.step(Input::Observed(id("b"), Ok(Observation::Done { outputs: json!({}) }))),
        ["Verify b #2"]
    );
}

#[test]
fn an_attempt_that_began_before_is_no_proof_after() {
    let nodes = pair("natural", 1);
    let mut first = Machine::new(&nodes, Vec::new());
    first.step(Input::Begin);
    first.apply_ok("a");
    first.verify("a", true);
    let again = with(first.facts, asked("a"));
    let observed = |seen| {
        let (mut machine, then) = a_again(&nodes, again.clone());
        assert_eq!(then, ["Observe b #1"]);
        (machine.step(Input::Observed(id("b"), seen)), machine.facts)
    };
    let (then, _) = observed(Ok(Observation::Done { outputs: json!({}) }));
    assert_eq!(then, ["clear b", "Apply b #2"]);
    let (then, _) = observed(Ok(Observation::Absent));
    assert_eq!(then, ["clear b", "Apply b #2"]);
    let (then, facts) = observed(Ok(Observation::Running { handle: "job-7".to_owned() }));
    assert_eq!(then, ["end Failed"]);
    let told = facts.iter().find_map(|fact| match fact {
        Fact::Failed { error, .. } => Some(error.message.as_str()),
        _ => None,
    });
    assert_eq!(
        told,
        Some("what it is built on was made again while an earlier attempt is at work outside: `job-7`")
    );
    // It may be repeated, so nobody is asked because it could not be looked at.
    let (then, facts) = observed(Err(failure(ErrorClass::Auth)));
    assert_eq!(then, ["end Failed"]);
    let asks =
        |fact: &Fact| matches!(fact, Fact::Failed { error, .. } if error.class == ErrorClass::Conflict);
    assert!(!facts.iter().any(asks));
}

/// It goes on under its key with what was begun before; that a process began it anew proves nothing of it.
#[test]
fn an_attempt_that_goes_on_after_what_it_is_built_on_was_made_again_is_looked_at_closely() {
    let nodes = pair("s", 1);
    let mut first = Machine::new(&nodes, Vec::new());
    first.step(Input::Begin);
    first.apply_ok("a");
    first.verify("a", true);
    let again = with(first.facts, asked("a"));
    let seen = |seen: Observation, then: &[&str]| {
        let (mut machine, looks) = a_again(&nodes, again.clone());
        assert_eq!(looks, ["Observe b #1"]);
        assert_eq!(machine.step(Input::Observed(id("b"), Ok(seen))), then);
        [again.clone(), machine.facts].concat()
    };
    let running = Observation::Running { handle: "job-7".to_owned() };
    let unknown = Observation::Unknown { reason: "?".to_owned() };
    let done = || Input::Observed(id("b"), Ok(Observation::Done { outputs: json!({}) }));
    for facts in [seen(running, &["handle b job-7", "Apply b #2"]), seen(unknown, &["Apply b #2"])] {
        // Killed again.
        let mut next = Machine::new(&nodes, facts);
        next.step(Input::Begin);
        assert_eq!(next.verify("a", true), ["Observe b #2"]);
        assert_eq!(next.step(done()), ["Verify deep b #2"]);
    }
    // What is begun from nothing is made from what is new.
    let facts = seen(Observation::Absent, &["clear b", "Apply b #2"]);
    let mut next = Machine::new(&nodes, facts);
    next.step(Input::Begin);
    assert_eq!(next.verify("a", true), ["Observe b #2"]);
    assert_eq!(next.step(done()), ["Verify b #2"]);
}

#[test]
fn a_gate_asks_again_after_what_it_is_built_on_was_made_again() {
    let nodes = "[nodes.a]\nstep = \"s\"\n[nodes.go]\nstep = \"gate\"\nneeds = [\"a\"]\nwith = { message = \"?\" }\n\
                 [nodes.b]\nstep = \"s\"\nneeds = [\"go\"]\n";
    let mut first = Machine::new(nodes, Vec::new());
    first.step(Input::Begin);
    first.apply_ok("a");
    first.verify("a", true);
    let waiting = first.facts.clone();
    assert_eq!(first.end, Some(RunState::Waiting));
    let key = first.core.asked().next().cloned().unwrap();
    let (by, host) = ("ana".to_owned(), "laptop".to_owned());
    let decision =
        GateDecision { key: key.clone(), approved: true, by, host, at: Timestamp::UNIX_EPOCH, note: None };
    let mut second = Machine::new(nodes, waiting.clone());
    second.step(Input::Decided(Box::new(decision.clone())));
    second.step(Input::Begin);
    second.verify("a", true);
    second.verify("go", true);
    second.apply_ok("b");
    assert_eq!(second.verify("b", true), ["end Done"]);
    let passed = [waiting.clone(), second.facts].concat();
    for before in [waiting, passed] {
        let mut machine = Machine::new(nodes, with(before, asked("a")));
        // The answer to the question of before, given since.
        machine.step(Input::Decided(Box::new(decision.clone())));
        machine.step(Input::Begin);
        machine.apply_ok("a");
        assert_eq!(machine.verify("a", true), ["clear go", "end Waiting"]);
        assert_ne!(machine.core.asked().next(), Some(&key));
    }
}

/// As often as it is made again, and however it comes out: an answer is about what there was then.
#[test]
fn a_gate_that_shows_what_it_showed_once_is_not_passed_by_the_answer_of_then() {
    let nodes = "[nodes.a]\nstep = \"s\"\n[nodes.go]\nstep = \"gate\"\n\
                 with = { message = \"copied ${nodes.a.count}\" }\n";
    let mut facts = Vec::new();
    let mut keys = Vec::new();
    for count in [10, 12, 10] {
        let mut machine = Machine::new(nodes, facts.clone());
        machine.step(Input::Begin);
        machine.step(Input::Applied(id("a"), Ok(json!({ "count": count }))));
        machine.verify("a", true);
        assert_eq!(machine.end, Some(RunState::Waiting));
        keys.extend(machine.core.asked().next().cloned());
        facts = with([facts, machine.facts].concat(), asked("a"));
    }
    assert!(keys.len() == 3 && keys[0] != keys[2], "{keys:?}");
}
