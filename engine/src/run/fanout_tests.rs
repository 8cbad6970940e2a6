//! Items of `for_each` in the core: how many at once, what waits for them, and that they can be
//! taken up after any fact.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::{ErrorClass, Observation};
use serde_json::{Value, json};

use super::command::Input;
use super::core::MAX_RUNNING;
use super::core_tests::{Machine, failure, id};
use super::state::RunFacts;
use crate::report::RunState;
use crate::store::fact::{Fact, Stamped};

fn list(items: &[&str], more: &str) -> String {
    let items = serde_json::to_string(items).unwrap();
    format!(
        "[nodes.copy]\nstep = \"s\"\nfor_each = {items}\n{more}with = {{ x = \"${{each.value}}\" }}\n\
         [nodes.after]\nstep = \"s\"\nneeds = [\"copy\"]\n"
    )
}

/// Answers every call well until the run ends; the facts and calls of it.
fn finish(nodes: &str, facts: Vec<Fact>, outputs: &dyn Fn(&str) -> Value) -> (Vec<Fact>, Vec<String>) {
    let mut machine = Machine::new(nodes, facts);
    let mut todo = machine.step(Input::Begin);
    let mut calls = Vec::new();
    while machine.end.is_none() {
        let next = todo.remove(0);
        calls.push(next.clone());
        let mut words = next.split(' ');
        let (kind, node) = (words.next().unwrap(), words.next().unwrap());
        let more = match kind {
            "Observe" => machine.step(Input::Observed(id(node), Ok(Observation::Absent))),
            "Apply" => machine.step(Input::Applied(id(node), Ok(outputs(node)))),
            "Verify" => machine.verify(node, true),
            "clear" => Vec::new(),
            other => panic!("{other}"),
        };
        todo.extend(more.into_iter().filter(|command| !command.starts_with("end")));
    }
    assert_eq!(machine.end, Some(RunState::Done), "{calls:?}");
    (machine.facts, calls)
}

#[test]
fn only_so_many_items_are_at_work_and_who_waits_waits_for_all() {
    let mut machine = Machine::new(&list(&["a", "b", "c"], "max_parallel = 2\n"), Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply copy[a] #1", "Apply copy[b] #1"]);
    assert!(matches!(&machine.facts[0], Fact::Expanded { items, .. } if items.len() == 3));
    assert_eq!(machine.apply_ok("copy[b]"), ["Verify copy[b] #1"]);
    assert_eq!(machine.verify("copy[b]", true), ["Apply copy[c] #1"]);
    machine.apply_ok("copy[c]");
    assert!(machine.verify("copy[c]", true).is_empty(), "`a` is not done");
    machine.apply_ok("copy[a]");
    assert_eq!(machine.verify("copy[a]", true), ["Apply after #1"]);

    let many: Vec<String> = (0..100).map(|at| format!("n{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(Machine::new(&list(&many, ""), Vec::new()).step(Input::Begin).len(), MAX_RUNNING);
}

#[test]
fn items_take_places_in_their_pool() {
    let nodes = format!("[pools]\nwrites = 1\n{}", list(&["a", "b"], "pool = \"writes\"\n"));
    let mut machine = Machine::new(&nodes, Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply copy[a] #1"]);
    machine.apply_ok("copy[a]");
    assert_eq!(machine.verify("copy[a]", true), ["Apply copy[b] #1"]);
}

#[test]
fn a_failed_item_fails_the_node_and_the_others_go_on_if_told() {
    let fail = |machine: &mut Machine| {
        machine.step(Input::Applied(id("copy[a]"), Err(failure(ErrorClass::Permanent))))
    };
    let mut machine = Machine::new(&list(&["a", "b", "c"], "max_parallel = 2\n"), Vec::new());
    machine.step(Input::Begin);
    assert!(fail(&mut machine).is_empty());
    machine.apply_ok("copy[b]");
    assert_eq!(machine.verify("copy[b]", true), ["end Failed"]);

    let more = "max_parallel = 2\non_failure = \"continue\"\n";
    let mut machine = Machine::new(&list(&["a", "b", "c"], more), Vec::new());
    machine.step(Input::Begin);
    assert_eq!(fail(&mut machine), ["Apply copy[c] #1"]);
    for item in ["copy[b]", "copy[c]"] {
        machine.apply_ok(item);
    }
    assert!(machine.verify("copy[b]", true).is_empty());
    assert_eq!(machine.verify("copy[c]", true), ["end Failed"], "`after` is not begun");
    // Taken up, only what failed is done again.
    let mut machine = Machine::new(&list(&["a", "b", "c"], more), machine.facts);
    assert_eq!(machine.step(Input::Begin), ["Observe copy[a] #1", "Verify copy[b] #1"]);
}

#[test]
fn an_empty_list_is_done_and_told() {
    let mut machine = Machine::new(&list(&[], ""), Vec::new());
    assert_eq!(machine.step(Input::Begin), ["Apply after #1"]);
    assert!(matches!(&machine.facts[0], Fact::Expanded { items, .. } if items.is_empty()));
}

#[test]
fn every_prefix_of_a_fan_out_can_be_taken_up_and_ends_done() {
    let nodes = "[nodes.list]\nstep = \"s\"\n\
        [nodes.copy]\nstep = \"s\"\nfor_each = \"${nodes.list.names}\"\nwith = { x = \"${each.value}\" }\n\
        [nodes.after]\nstep = \"s\"\nwith = { all = \"${nodes.copy[*].y}\", one = '${nodes.copy[\"b\"].y}' }\n";
    let outputs = |node: &str| match node {
        "list" => json!({ "names": ["a", "b", "c"] }),
        node => json!({ "y": format!("of {node}") }),
    };
    let (facts, _) = finish(nodes, Vec::new(), &outputs);
    let config = facts.iter().find_map(|fact| match fact {
        Fact::Started { node, config, .. } if node.as_str() == "after" => Some(config.clone()),
        _ => None,
    });
    let all = json!({ "all": ["of copy[a]", "of copy[b]", "of copy[c]"], "one": "of copy[b]" });
    assert_eq!(config, Some(all));
    let expansions =
        |facts: &[Fact]| facts.iter().filter(|fact| matches!(fact, Fact::Expanded { .. })).count();
    assert_eq!((facts.len(), expansions(&facts)), (3 * 5 + 2, 1), "{facts:?}");
    for length in 0..facts.len() {
        let before = &facts[..length];
        let (after, calls) = finish(nodes, before.to_vec(), &outputs);
        assert_eq!(expansions(before) + expansions(&after), 1, "the list is a fact once");
        let mut applied = BTreeMap::new();
        for fact in before.iter().chain(&after) {
            if let Fact::Applied { node, .. } = fact {
                *applied.entry(node.clone()).or_insert(0) += 1;
            }
        }
        assert_eq!(applied.len(), 5, "after {length} facts: {calls:?}");
        assert!(applied.values().all(|count| *count == 1), "after {length} facts: {calls:?}");
        for node in ["copy[a]", "copy[b]", "copy[c]"] {
            let begun =
                before.iter().any(|f| matches!(f, Fact::Started { node: n, .. } if n.as_str() == node));
            let first = calls.iter().find(|call| call.contains(&format!(" {node} "))).unwrap();
            assert_eq!(first.starts_with("Apply"), !begun, "after {length} facts: {calls:?}");
        }
    }
}

#[test]
fn items_keep_their_names_and_keys_when_the_list_is_reordered() {
    let keys = |facts: &[Fact]| -> BTreeMap<String, String> {
        let key = |fact: &Fact| match fact {
            Fact::Started { node, key, .. } => Some((node.to_string(), key.to_string())),
            _ => None,
        };
        facts.iter().filter_map(key).collect()
    };
    let (facts, _) = finish(&list(&["a", "b"], ""), Vec::new(), &|_| json!({}));
    let (turned, _) = finish(&list(&["b", "a"], ""), Vec::new(), &|_| json!({}));
    assert_eq!(keys(&facts), keys(&turned));
    assert_eq!(keys(&facts).values().collect::<BTreeSet<_>>().len(), 3);
    let (again, calls) = finish(&list(&["b", "a"], ""), facts, &|_| json!({}));
    assert!(!calls.iter().any(|call| call.starts_with("Apply")), "{calls:?}");
    assert!(matches!(&again[0], Fact::Expanded { items, .. } if items[0].key == "b"));
}

#[test]
fn ten_thousand_items_are_gone_through_quickly_and_one_by_one() {
    const COUNT: usize = 10_000;
    let names: Vec<String> = (0..COUNT).map(|at| format!("n{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let began = std::time::Instant::now();
    let (facts, _) = finish(&list(&names, ""), Vec::new(), &|_| json!({}));
    assert_eq!(facts.len(), 1 + 3 * (COUNT + 1) + 1);
    let stamped = facts.into_iter().map(|fact| Stamped { at: jiff::Timestamp::UNIX_EPOCH, fact });
    assert_eq!(RunFacts::fold(stamped).nodes.len(), COUNT + 1);
    // A step that looks at every item would take minutes.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}
