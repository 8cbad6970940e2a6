//! What the engine is to reach, and whether it does.

use serde_json::{Value, json};

use crate::figures::rounded;
use crate::series::Table;

const OURS: [&str; 2] = ["row-40", "row-1000"];
const MAKE: [&str; 2] = ["make-40", "make-1000"];
const DBOS: [&str; 2] = ["dbos-40", "dbos-1000"];
const SNAKEMAKE: [&str; 2] = ["snakemake-default-40", "snakemake-default-1000"];
const FAST_SNAKEMAKE: [&str; 2] = ["snakemake-fastest-40", "snakemake-fastest-1000"];

enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

/// Every goal with its figure. A goal whose peers were left out has none.
pub fn judge(table: &Table) -> Vec<Value> {
    let bare = table.ratio("row-1000", "bare-commits-1000", "run-s");
    let mut goals = vec![
        goal("a node in a row, as a multiple of its own bare commits", bare, Limit::AtMost(1.5)),
        goal("a node of DBOS, as a multiple of ours", table.times(DBOS, OURS), Limit::AtLeast(4.0)),
        goal(
            "a node of Snakemake as it is, as a multiple of ours",
            table.times(SNAKEMAKE, OURS),
            Limit::AtLeast(50.0),
        ),
        goal(
            "a node of Snakemake at its fastest, as a multiple of ours",
            table.times(FAST_SNAKEMAKE, OURS),
            Limit::AtLeast(50.0),
        ),
        goal("a node of ours, as a multiple of make's", table.times(OURS, MAKE), Limit::Below(1.0)),
    ];
    // With its start, which is what a person waits for.
    for (peer, rows, least) in [
        ("DBOS", DBOS, 4.0),
        ("Snakemake as it is", SNAKEMAKE, 50.0),
        ("Snakemake at its fastest", FAST_SNAKEMAKE, 50.0),
    ] {
        for (nodes, at) in [("40", 0), ("1,000", 1)] {
            let whole = format!("a whole run of {nodes} nodes of {peer}, as a multiple of ours");
            goals.push(goal(&whole, table.ratio(rows[at], OURS[at], "wall-s"), Limit::AtLeast(least)));
        }
    }
    for (what, name, figure, limit) in [
        ("a plan of 10,000 nodes, in seconds", "plan-10000", "wall-s", 1.0),
        ("the same with a condition on every node", "plan-conditions-10000", "wall-s", 1.0),
        ("the same with another condition on each", "plan-distinct-conditions-10000", "wall-s", 1.0),
        ("resume of a run with 100,000 facts, in seconds", "resume-100000-facts", "wall-s", 1.0),
        ("peak memory of 10,000 wide, in MiB", "wide-10000", "peak-mib", 200.0),
    ] {
        goals.push(goal(what, table.median(name, figure), Limit::Below(limit)));
    }
    for (what, pair) in [
        ("a node of ours, in milliseconds", OURS),
        ("a node of make's, in milliseconds", MAKE),
        ("a node of DBOS, in milliseconds", DBOS),
        ("a node of Snakemake as it is, in milliseconds", SNAKEMAKE),
        ("a node of Snakemake at its fastest, in milliseconds", FAST_SNAKEMAKE),
    ] {
        goals.push(json!({ "figure": what, "measured": table.node_ms(pair[0], pair[1]).map(rounded) }));
    }
    goals
}

fn goal(what: &str, measured: Option<f64>, limit: Limit) -> Value {
    let (words, met) = match limit {
        Limit::AtMost(most) => (format!("at most {most}"), measured.map(|found| found <= most)),
        Limit::AtLeast(least) => (format!("at least {least}"), measured.map(|found| found >= least)),
        Limit::Below(most) => (format!("below {most}"), measured.map(|found| found < most)),
    };
    json!({ "figure": what, "measured": measured.map(rounded), "goal": words, "met": met })
}
