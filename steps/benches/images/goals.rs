//! What the image mover is to reach, and whether it does.

use serde_json::{Value, json};

use crate::figures::rounded;
use crate::series::Table;

enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

/// Every goal with its figure. A goal whose peers were left out has none.
pub fn judge(table: &Table, images: usize) -> Vec<Value> {
    let peak = ["ours-cold", "ours-warm", "ours-changed", "ours-link"]
        .into_iter()
        .filter_map(|name| table.median(name, "peak-mib"))
        .reduce(f64::max);
    let requests = table.median("ours-warm", "requests").map(|found| found / images as f64);
    let fastest = ["crane-link", "regsync-link", "skopeo-link"]
        .map(|peer| table.ratio(peer, "ours-link", "wall-s"))
        .into_iter()
        .collect::<Option<Vec<f64>>>()
        .and_then(|ratios| ratios.into_iter().reduce(f64::min));
    vec![
        goal(
            "cold, as a multiple of the floor",
            table.ratio("ours-cold", "floor-cold", "wall-s"),
            Limit::AtMost(1.1),
        ),
        goal(
            "regsync cold, as a multiple of ours",
            table.ratio("regsync-cold", "ours-cold", "wall-s"),
            Limit::AtLeast(1.7),
        ),
        goal("warm, in seconds", table.median("ours-warm", "wall-s"), Limit::Below(0.1)),
        goal("requests an image at the target, warm", requests, Limit::AtMost(1.0)),
        goal("most peak memory, in MiB", peak, Limit::Below(32.0)),
        goal("the fastest peer over the slow link, as a multiple of ours", fastest, Limit::AtLeast(1.5)),
    ]
}

fn goal(what: &str, measured: Option<f64>, limit: Limit) -> Value {
    let (words, met) = match limit {
        Limit::AtMost(most) => (format!("at most {most}"), measured.map(|found| found <= most)),
        Limit::AtLeast(least) => (format!("at least {least}"), measured.map(|found| found >= least)),
        Limit::Below(most) => (format!("below {most}"), measured.map(|found| found < most)),
    };
    json!({ "figure": what, "measured": measured.map(rounded), "goal": words, "met": met })
}
