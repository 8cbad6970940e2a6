//! A run that dies or is stopped goes on where it was, and nothing is done twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use migrate_tests::{Sandbox, checks, report_of};
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

/// In the middle of `node`: it has reported progress, or it has at least begun.
fn in_the_middle(node: &str) -> impl Fn(&Value) -> bool {
    move |event| {
        event["node"] == node
            && match event["type"].as_str() {
                Some("node-progress") => true,
                // Nodes that are too short to report anything are killed as they begin.
                Some("node-started") => matches!(node, "inventory" | "storage-classes" | "smoke-test"),
                Some("node-finished") => true,
                _ => false,
            }
    }
}

/// What a finished run must leave, whatever happened on the way.
fn assert_done_once(sandbox: &Sandbox, report: &Value) {
    assert_eq!(report["state"], "done", "{report:#}");
    for (context, kind) in [("eks", "backups.velero.io"), ("aks", "restores.velero.io")] {
        let listed = sandbox.kubectl(context, &["get", kind, "-n", "velero", "-o", "name"]);
        assert_eq!(listed.lines().count(), 1, "{kind} on {context}: {listed}");
    }
    assert_eq!(sandbox.written_twice(), Vec::<String>::new());
    assert!(checks(report).iter().all(|check| check[5] != "failed"), "{:#?}", checks(report));
}

/// The evidence, without what is named by the run itself and without the sizes of a live database
/// and of the repository that holds it: they differ from backup to backup. That both sides were
/// compared, and with what result, stays in; so do digests, rows, hashes and objects.
fn comparable(report: &Value) -> Vec<[String; 6]> {
    let mut found = checks(report);
    let key = |node: &str, field: &str| {
        let nodes = report["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|n| n["node"] == node).expect("the node");
        node["outputs"][field].as_str().expect("a name").to_owned()
    };
    let names = [key("backup", "backup"), key("restore", "restore")];
    for check in found.iter_mut().filter(|check| check[2] == "bytes" || check[0] == "copy-backup") {
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

    let mut states = BTreeMap::new();
    for node in NODES {
        let sandbox = Sandbox::reset();
        let mut running = sandbox.start();
        let event = running.wait_for(in_the_middle(node));
        running.signal("KILL");
        running.end();
        let event = event.unwrap_or_else(|| panic!("the run ended before {node} began"));
        states.insert(*node, event["type"].as_str().unwrap_or_default().to_owned());

        let report = sandbox.report(&["resume"]);
        assert_done_once(&sandbox, &report);
        assert_eq!(comparable(&report), expected, "killed in {node}");
        println!("killed in {node}: resumed to the same evidence");
    }
    println!("killed at: {states:#?}");
}

#[test]
fn ctrl_c_during_the_copy_stops_within_seconds_and_tells_how_to_go_on() {
    let sandbox = Sandbox::reset();
    let mut running = sandbox.start();
    running
        .wait_for(|event| event["node"] == "copy-backup" && event["type"] == "node-progress")
        .expect("it copies");
    let asked = Instant::now();
    running.signal("INT");
    running.wait_for(|event| event["type"] == "report").expect("a report");
    let took = asked.elapsed();
    let output = running.end();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("migrate resume "), "{said}");
    assert!(took < DRAIN_LIMIT, "took {took:?}");

    let report = report_of(&sandbox.migrate(&["resume", "--json"]).output().expect("migrate starts"));
    assert_done_once(&sandbox, &report);
}
