//! A second backup brings over what changed, and the real Velero opens and restores the repository.

use migrate_tests::{Sandbox, checks};
use serde_json::Value;

/// A namespace with volumes may take its while to go.
const TIMEOUT: &str = "--timeout=300s";

/// The source's side of a check of the copied backup.
fn count(report: &Value, what: &str) -> u64 {
    let all = checks(report);
    let check = all.iter().find(|c| c[0] == "copy-backup" && c[2] == what);
    check.and_then(|c| c[3].parse().ok()).unwrap_or_else(|| panic!("no `{what}` in {all:?}"))
}

fn psql(sandbox: &Sandbox, context: &str, sql: &str) -> String {
    let psql = ["exec", "-n", "shop", "postgres-0", "--", "psql", "-U", "shop", "-d", "shop", "-tAc", sql];
    sandbox.kubectl(context, &psql)
}

#[test]
fn a_repository_is_restored_whole_and_again_after_a_delta() {
    let sandbox = Sandbox::reset();
    psql(&sandbox, "eks", "drop table if exists delta");
    let run = ["run", "stateful", "--param", "namespaces=shop"];
    let (copied, objects) = ("objects copied, by the way they went", "objects");
    let first = sandbox.report(&run);
    assert_eq!(count(&first, copied), count(&first, objects), "{first:#}");

    psql(&sandbox, "eks", "create table delta as select * from orders limit 1000");
    sandbox.kubectl("aks", &["delete", "namespace", "shop", "--wait", TIMEOUT]);
    let second = sandbox.report(&run);
    let (new, all) = (count(&second, copied), count(&second, objects));
    assert!(0 < new && new < all, "{new} of {all} objects were copied");
    assert_eq!(psql(&sandbox, "aks", "select count(*) from delta").trim(), "1000");
    psql(&sandbox, "eks", "drop table delta");
}
