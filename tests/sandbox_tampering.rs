//! What is not as it should be is found, and named.

use migrate_tests::{Sandbox, checks, report_of};
use serde_json::Value;

/// A pod may take its whole grace period, and the machine may be busy.
const TIMEOUT: &str = "--timeout=300s";

fn verify_deep(sandbox: &Sandbox) -> (Option<i32>, Value) {
    let output = sandbox.migrate(&["verify", "--deep", "--json"]).output().expect("migrate starts");
    (output.status.code(), report_of(&output))
}

/// Failed checks and errors of `node`, as one text.
fn complaints(report: &Value, node: &str) -> String {
    let failed = checks(report).into_iter().filter(|c| c[0] == node && c[5] == "failed");
    let mut text: Vec<String> = failed.map(|c| c.join(" ")).collect();
    let nodes = report["nodes"].as_array().expect("nodes");
    text.extend(
        nodes
            .iter()
            .filter(|n| n["node"] == node)
            .filter_map(|n| n["error"]["message"].as_str().map(str::to_owned)),
    );
    text.join("\n")
}

#[test]
fn a_deleted_row_and_a_stopped_pod_and_a_changed_blob_are_named() {
    let sandbox = Sandbox::reset();
    sandbox.report(&["run", "stateful", "--param", "namespaces=shop"]);
    let (code, report) = verify_deep(&sandbox);
    assert_eq!(code, Some(0), "{report:#}");

    let sql = "delete from orders where id = (select min(id) from orders)";
    let psql = ["exec", "-n", "shop", "postgres-0", "--", "psql", "-U", "shop", "-d", "shop", "-c", sql];
    assert!(sandbox.kubectl("aks", &psql).contains("DELETE 1"));
    let (code, report) = verify_deep(&sandbox);
    assert_eq!(code, Some(1));
    let said = complaints(&report, "verify-data");
    assert!(said.contains("orders") && said.contains("199999"), "{said}");

    sandbox.kubectl("aks", &["scale", "-n", "shop", "deployment/web", "--replicas=0"]);
    sandbox.kubectl("aks", &["wait", "-n", "shop", "pod", "-l", "app=web", "--for=delete", TIMEOUT]);
    let (code, report) = verify_deep(&sandbox);
    assert_eq!(code, Some(1));
    let said = complaints(&report, "smoke-test");
    assert!(said.contains("web"), "{said}");

    let blob = sandbox.flip_a_byte_of_a_kopia_blob();
    let (code, report) = verify_deep(&sandbox);
    assert_eq!(code, Some(1));
    let said = complaints(&report, "copy-backup");
    assert!(said.contains(&blob), "{blob}: {said}");
}
