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
                .args([
                    "test",
                    "--workspace",
                    "--features",
                    SANDBOX_TESTS,
                    "--test",
                    "sandbox_*",
                    "--no-fail-fast",
                ])
                // They share one estate and change it, and say how far they are.
                .args(["--", "--test-threads=1", "--nocapture"])
                .env("MIGRATE_SANDBOX_PROJECT", cargo::project()),
        )
    });
    if result.is_err() {
        keep_evidence();
    }
    // Also after a failure: nothing may be left behind.
    let down = cargo::sandbox(&["down"]);
    result.and(down)
}

/// After a failure: how each part of the sandbox is, and its logs, before they go with it.
fn keep_evidence() {
    let sandbox = cargo::target().join("sandbox");
    let (logs, kept) = (sandbox.join("logs"), sandbox.join("failed-logs"));
    // Fails where a part has failed, which is what it is to tell.
    let _ = cargo::sandbox(&["status"]);
    // There may be none of an earlier failure.
    let _ = std::fs::remove_dir_all(&kept);
    match std::fs::rename(&logs, &kept) {
        Ok(()) => eprintln!("test: the sandbox's logs are kept in {}", kept.display()),
        Err(error) => eprintln!("test: the sandbox's logs can't be kept: {error}"),
    }
}

/// The version that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// Licenses and sources of all dependencies, and those that are banned, by `deny.toml`. Installs cargo-deny the first
/// time.
fn dependencies() -> Outcome {
    let root = cargo::target().join("tools").join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        let root = root.to_string_lossy();
        // To optimize it would take longer than all that it will ever do.
        cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug", "--root", &root])?;
    }
    cargo::run(Command::new(program).args(["check", "bans", "licenses", "sources"]))
}

/// The dependencies; and clippy with every warning refused, in what is shipped also `unwrap`, which is good enough for
/// tests.
pub fn lint() -> Outcome {
    dependencies()?;
    let clippy = |targets: &[&str], refused: &[&str]| {
        cargo(&[&["clippy", "--workspace"], targets, &["--", "-D", "warnings"], refused].concat())
    };
    clippy(&["--lib", "--bins"], &["-D", "clippy::unwrap_used"])?;
    clippy(&["--all-targets", "--features", SANDBOX_TESTS], &[])
}
