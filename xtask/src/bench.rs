//! What the product costs, measured. The benches themselves stand with what they measure.

use crate::cargo::{Outcome, cargo};

/// Every bench: its name, what it measures, and its package.
const BENCHES: &[(&str, &str, &str)] = &[
    ("engine", "what a node of a workflow costs, beside make, DBOS and Snakemake", "migrate-engine"),
    (
        "plugins",
        "what a step in a process of its own costs, and how fast its events are taken in",
        "migrate-plugin-host",
    ),
    ("rules", "what assessing and rewriting an estate costs", "migrate-steps"),
    ("images", "what moving images costs, beside crane, regsync and skopeo", "migrate-steps"),
    ("blobs", "what a copy of objects costs, beside rclone and AzCopy", "migrate-steps"),
];

/// Says which benches there are.
pub fn list() -> Outcome {
    for (name, what, _) in BENCHES {
        println!("{name:<10} {what}");
    }
    Ok(())
}

/// Builds one bench, with optimisation and only what it needs, and runs it with `options`.
pub fn run(name: &str, options: &[&str]) -> Outcome {
    let Some((_, _, package)) = BENCHES.iter().find(|(known, _, _)| *known == name) else {
        return Err(format!("there is no bench `{name}`; `cargo xtask bench` lists them"));
    };
    cargo(&[&["bench", "--quiet", "--package", package, "--bench", name, "--"], options].concat())
}
