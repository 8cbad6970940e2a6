//! The engine's simulator over many seeds, or over one.

use std::process::Command;

use crate::cargo::{self, Outcome};

/// Options, and the variables through which the test is told.
const OPTIONS: [(&str, &str); 5] = [
    ("--seeds", "MIGRATE_SIMULATE_SEEDS"),
    ("--from", "MIGRATE_SIMULATE_FROM"),
    ("--seed", "MIGRATE_SIMULATE_SEED"),
    ("--at", "MIGRATE_SIMULATE_AT"),
    ("--trouble", "MIGRATE_SIMULATE_TROUBLE"),
];

/// The test that runs what it is told; it is part of the engine, whose core nobody else can see.
const TEST: &str = "run::simulation::tests::simulate";

/// `simulate ARGS…`.
pub fn run(args: &[&str]) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Of the whole workspace, as everything is built: for a part of it cargo would choose other features
    // of the dependencies, and build them again.
    command.args(["test", "--workspace", "--lib", "--", "--ignored", "--nocapture"]);
    command.args(["--exact", TEST]);
    for pair in args.chunks(2) {
        let known = OPTIONS.iter().find(|(option, _)| *option == pair[0]);
        match (known, pair) {
            (Some((_, variable)), [_, value]) => command.env(variable, value),
            _ => return Err(format!("simulate: `{}` is no option with a value", pair.join(" "))),
        };
    }
    cargo::run(&mut command)
}
