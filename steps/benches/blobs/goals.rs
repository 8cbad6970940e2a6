//! What the mover is to reach, and whether it does.

use serde_json::{Value, json};

use crate::figures::rounded;
use crate::room::LISTED;
use crate::series::Table;

/// Every goal with its figure. A goal whose peers were left out has none.
pub fn judge(table: &Table) -> Vec<Value> {
    let mut goals = Vec::new();
    let sets = ["small", "middle", "large", "huge"];
    for set in sets {
        let (ours, rclone) = (format!("ours sink {set} cold"), format!("rclone sink {set} cold"));
        let wall = table.ratio(&rclone, &ours, "wall-s");
        goals.push(at_least(&format!("sink, {set}, cold: rclone's time as a multiple of ours"), wall, 2.0));
        let cpu = table.ratio(&ours, &rclone, "cpu-s");
        goals.push(at_most(&format!("sink, {set}, cold: our CPU as a multiple of rclone's"), cpu, 0.5));
    }
    for (set, pass) in sets.iter().flat_map(|set| ["cold", "no-op", "changed"].map(|pass| (*set, pass))) {
        let (ours, rclone) = (format!("ours azurite {set} {pass}"), format!("rclone azurite {set} {pass}"));
        for (figure, what) in [("wall-s", "time"), ("requests", "requests")] {
            if let Some(ratio) = table.ratio(&ours, &rclone, figure) {
                let what = format!("Azurite, {set}, {pass}: our {what} as a multiple of rclone's");
                goals.push(at_most(&what, Some(ratio), 1.0));
            }
        }
    }
    for target in ["sink", "azurite"] {
        let again = table.median(&format!("ours {target} small no-op"), "wall-s");
        goals.push(at_most(&format!("{target}: nothing to do for the small, in seconds"), again, 0.3));
        let peak = table.most(&format!("ours {target}"), "peak-mib");
        goals.push(at_most(&format!("{target}: most memory, in MiB"), peak, 96.0));
    }
    for set in sets {
        let (ours, azcopy) =
            (format!("ours server-side {set} cold"), format!("azcopy server-side {set} cold"));
        for (figure, what) in [("wall-s", "time"), ("requests", "requests to Blob")] {
            let ratio = table.ratio(&ours, &azcopy, figure);
            goals.push(at_most(
                &format!("server-side, {set}: our {what} as a multiple of AzCopy's"),
                ratio,
                1.0,
            ));
        }
    }
    let [short, long] = LISTED.map(|count| format!("ours plan {count}"));
    goals.push(at_most("a plan of the long listing, in MiB", table.most(&long, "peak-mib"), 64.0));
    let per_key =
        table.ratio(&long, &short, "cpu-s").map(|ratio| ratio * LISTED[0] as f64 / LISTED[1] as f64);
    goals.push(at_most("a key of the long listing, as a multiple of the short's, in CPU", per_key, 1.0));
    goals
}

fn at_most(what: &str, measured: Option<f64>, limit: f64) -> Value {
    goal(what, measured, format!("at most {limit}"), measured.map(|found| found <= limit))
}

fn at_least(what: &str, measured: Option<f64>, limit: f64) -> Value {
    goal(what, measured, format!("at least {limit}"), measured.map(|found| found >= limit))
}

fn goal(what: &str, measured: Option<f64>, goal: String, met: Option<bool>) -> Value {
    json!({ "figure": what, "measured": measured.map(rounded), "goal": goal, "met": met })
}
