//! A run that dies or is stopped goes on where it was, and nothing is done twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use migrate_tests::{Sandbox, checks, events_of, expect_success, report_of};
use serde_json::Value;

/// Every node of the stateful workflow that has something to do.
const NODES: &[&str] = &[
    "inventory",
    "pull-images",
    "push-images",
    "backup",
    "copy-backup",
    "storage-classes",
    "restore",
    "smoke-test",
    "verify-data",
];

/// A drain lets running steps reach a checkpoint; that is a matter of seconds.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// Nodes that report no progress: they are killed as they begin.
const SILENT: &[&str] = &["inventory", "storage-classes", "smoke-test"];

/// Runs that are tried for one node. Some nodes take milliseconds, and the signal needs some too: a
/// run whose node had ended when it arrived proves nothing, and is tried again from the start.
const MAX_TRIES: u32 = 3;

/// The first sign of `node`, after which it is stopped: its start, or how far it is, and its end,
/// which is too late.
fn sign_of(node: &str, signs: &'static [&'static str]) -> impl Fn(&Value) -> bool {
    move |event| event["node"] == node && event["type"].as_str().is_some_and(|kind| signs.contains(&kind))
}

/// What is durable about each node of the last run.
fn states(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let output = expect_success(&mut sandbox.migrate(&["status", "--json"]));
    let status: Value = serde_json::from_slice(&output.stdout).expect("the status is JSON");
    node_states(&status["report"])
}

fn node_states(report: &Value) -> BTreeMap<String, String> {
    let nodes = report["nodes"].as_array().expect("nodes");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    nodes.iter().map(|node| (text(&node["node"]), text(&node["state"]))).collect()
}

/// Nodes in `state`, in one line.
fn all_in(states: &BTreeMap<String, String>, state: &str) -> String {
    let found: Vec<&str> =
        states.iter().filter(|(_, s)| *s == state).map(|(node, _)| node.as_str()).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

/// Starts a run in an emptied sandbox and kills it while `node` is in flight: its intent is durable
/// and its end is not, which is asserted. Says where the kill fell.
fn kill_in(node: &str) -> (Sandbox, String) {
    let mut seen = Vec::new();
    for attempt in 1..=MAX_TRIES {
        let sandbox = Sandbox::reset();
        let mut running = sandbox.start();
        // In the middle, where there is one; as it begins, where it was over before.
        let signs: &[&str] = if SILENT.contains(&node) || attempt > 1 {
            &["node-started", "node-finished"]
        } else {
            &["node-progress", "node-finished"]
        };
        let Some(event) = running.wait_for(sign_of(node, signs)) else {
            let output = running.end();
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("the run ended ({}) before {node} began:\n{said}", output.status);
        };
        let killed = running.kill();
        let event = event["type"].as_str().expect("a type").to_owned();
        let states = states(&sandbox);
        let state = states[node].as_str();
        let fell = format!("try {attempt}: killed at {event}, {node} is {state}");
        println!("{node}: {fell}; interrupted with it: {}", all_in(&states, "interrupted"));
        if killed && state == "interrupted" {
            return (sandbox, fell);
        }
        // Killed too late. Anything else would be an effect without a durable intent.
        assert_eq!(state, "finished", "{node}: {fell}");
        seen.push(fell);
    }
    panic!("{node} could not be killed in flight: {seen:#?}");
}

/// What a resumed run did with each node: run (and for the how manieth time), or only verified.
fn done_again(events: &[Value]) -> String {
    let of = |kind: &str, field: &str| -> Vec<String> {
        let found = events.iter().filter(|event| event["type"] == kind);
        found
            .map(|event| match event[field].as_u64() {
                Some(n) => format!("{} ({n})", event["node"].as_str().unwrap_or_default()),
                None => event["node"].as_str().unwrap_or_default().to_owned(),
            })
            .collect()
    };
    let (ran, reused) = (of("node-started", "attempt"), of("node-reused", "-"));
    format!("ran, with their attempt: {}; reused: {}", ran.join(", "), reused.join(", "))
}

/// What a finished run must leave, whatever happened on the way.
fn assert_done_once(sandbox: &Sandbox, report: &Value) {
    assert_eq!(report["state"], "done", "{report:#}");
    for (context, kind) in [("eks", "backups.velero.io"), ("aks", "restores.velero.io")] {
        let listed = sandbox.kubectl(context, &["get", kind, "-n", "velero", "-o", "name"]);
        assert_eq!(listed.lines().count(), 1, "{kind} on {context}: {listed}");
    }
    assert_eq!(sandbox.written_twice(), Vec::<String>::new());
    let checks = checks(report);
    assert!(!checks.is_empty() && checks.iter().all(|check| check[5] != "failed"), "{checks:#?}");
}

/// The evidence, without what is named by the run itself, without the sizes of a live database and of
/// the repository that holds it, which differ from backup to backup, and without Velero's warnings,
/// which are about what the target's controllers did meanwhile (an EndpointSlice that was theirs is
/// gone again). Nor with the number of what is in the backup: Velero counts Events, which the source
/// forgets after an hour. That both sides were compared, and with what result, stays in; so do digests,
/// rows, hashes and, kind by kind, the objects restored.
fn comparable(report: &Value) -> Vec<[String; 6]> {
    let mut found = checks(report);
    found.retain(|check| !(check[0] == "restore" && check[2] == "warning"));
    let key = |node: &str, field: &str| {
        let nodes = report["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|n| n["node"] == node).expect("the node");
        node["outputs"][field].as_str().expect("a name").to_owned()
    };
    let names = [key("backup", "backup"), key("restore", "restore")];
    let varies = |[node, _, what, ..]: &[String; 6]| match node.as_str() {
        "copy-backup" => true,
        "backup" => matches!(what.as_str(), "bytes" | "objects"),
        _ => what == "bytes",
    };
    for check in found.iter_mut().filter(|check| varies(check)) {
        check[3].clear();
        check[4].clear();
    }
    for cell in found.iter_mut().flatten() {
        for name in &names {
            *cell = cell.replace(name.as_str(), "NAME");
        }
    }
    found.sort();
    found
}

#[test]
fn killed_in_each_node_in_turn_it_ends_with_the_same_evidence() {
    let sandbox = Sandbox::reset();
    let whole = sandbox.report(&["run", "stateful", "--param", "namespaces=shop"]);
    assert_done_once(&sandbox, &whole);
    let expected = comparable(&whole);

    // To repeat one of them: `MIGRATE_KILL_NODES=restore,verify-data`.
    let only = std::env::var("MIGRATE_KILL_NODES").ok();
    let wanted = |node: &&&str| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == **node));
    let mut fallen = Vec::new();
    for node in NODES.iter().filter(wanted) {
        let started = Instant::now();
        let (sandbox, fell) = kill_in(node);
        let output = expect_success(&mut sandbox.migrate(&["resume", "--json"]));
        println!("{node}: resumed: {}", done_again(&events_of(&output)));
        let report = report_of(&output);
        assert_done_once(&sandbox, &report);
        assert_eq!(comparable(&report), expected, "killed in {node}");
        println!("{node}: the same evidence after {:.0} s", started.elapsed().as_secs_f64());
        fallen.push(format!("{node}: {fell}"));
    }
    assert!(!fallen.is_empty(), "no node is called {only:?}");
    println!("where each kill fell:\n  {}", fallen.join("\n  "));
}

#[test]
fn ctrl_c_during_the_copy_stops_within_seconds_and_tells_how_to_go_on() {
    for attempt in 1..=MAX_TRIES {
        let sandbox = Sandbox::reset();
        let mut running = sandbox.start();
        running.wait_for(sign_of("copy-backup", &["node-progress"])).expect("it copies");
        let asked = Instant::now();
        running.interrupt();
        running.wait_for(|event| event["type"] == "report").expect("a report");
        let took = asked.elapsed();
        let output = running.end();
        let states = states(&sandbox);
        println!(
            "Ctrl-C: try {attempt}: report after {:.1} s; interrupted: {}; finished: {}",
            took.as_secs_f64(),
            all_in(&states, "interrupted"),
            all_in(&states, "finished"),
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("migrate resume "), "{said}");
        assert!(took < DRAIN_LIMIT, "took {took:?}");
        // A copy that was over when the signal came is no copy that was stopped.
        if states["copy-backup"] == "finished" {
            continue;
        }
        assert_eq!(states["copy-backup"], "interrupted");
        let output = expect_success(&mut sandbox.migrate(&["resume", "--json"]));
        println!("Ctrl-C: resumed: {}", done_again(&events_of(&output)));
        assert_done_once(&sandbox, &report_of(&output));
        return;
    }
    panic!("the copy was over before the signal in each of {MAX_TRIES} runs");
}
