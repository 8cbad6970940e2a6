//! Runs cargo and what cargo has built. Owns the one way in which the tree is built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The feature behind which the tests stand that need a running sandbox.
pub const SANDBOX_TESTS: &str = "migrate-tests/sandbox";

/// What every command here returns: the message of a failure, ready to print.
pub type Outcome = Result<(), String>;

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A program that cargo has built.
pub fn built(program: &str) -> PathBuf {
    target().join("debug").join(program)
}

/// The sandbox's project folder: where `migrate` is run from.
pub fn project() -> PathBuf {
    target().join("sandbox").join("project")
}

/// Runs `command` in the workspace's root and waits for its end.
pub fn run(command: &mut Command) -> Outcome {
    let program = command.get_program().to_string_lossy().into_owned();
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    let status = command.status().map_err(|e| format!("failed to start {program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}

/// `cargo ARGS…`.
pub fn cargo(args: &[&str]) -> Outcome {
    run(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args))
}

/// Builds all programs and all tests. Always both, and always the whole workspace: features are
/// then resolved the same way each time, and nothing is built twice.
pub fn build() -> Outcome {
    cargo(&["build", "--workspace", "--all-targets", "--features", SANDBOX_TESTS])
}

/// `sandbox ARGS…`.
pub fn sandbox(args: &[&str]) -> Outcome {
    run(Command::new(built("sandbox")).args(args))
}
