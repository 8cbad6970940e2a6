//! Everything that must hold, cheapest first.

use std::process::Command;

use crate::cargo::{self, Outcome, SANDBOX_TESTS, cargo};

/// Formatting, then all tests that need programs (registries among them) but no running sandbox.
pub fn quick() -> Outcome {
    crate::prerequisites::check()?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo::build()?;
    cargo::sandbox(&["tools"])?;
    cargo(&["test", "--workspace", "--no-fail-fast"])
}

/// [`quick`], the rehearsal, the end-to-end tests in the sandbox it leaves, and its end.
pub fn everything() -> Outcome {
    quick()?;
    let result = crate::rehearse::run().and_then(|()| {
        cargo::run(
            Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .args(["test", "--workspace", "--features", SANDBOX_TESTS, "--test", "sandbox_*"])
                // They share one estate and change it, and say how far they are.
                .args(["--", "--test-threads=1", "--nocapture"])
                .env("MIGRATE_SANDBOX_PROJECT", cargo::project()),
        )
    });
    // Also after a failure: nothing may be left behind.
    let down = cargo::sandbox(&["down"]);
    result.and(down)
}

/// clippy with every warning refused; in what is shipped also `unwrap`, which is good enough for tests.
pub fn lint() -> Outcome {
    let clippy = |targets: &[&str], refused: &[&str]| {
        cargo(&[&["clippy", "--workspace"], targets, &["--", "-D", "warnings"], refused].concat())
    };
    clippy(&["--lib", "--bins"], &["-D", "clippy::unwrap_used"])?;
    clippy(&["--all-targets", "--features", SANDBOX_TESTS], &[])
}
