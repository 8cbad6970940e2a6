//! A project in a folder of its own, and `migrate` in it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A project with nothing in its file.
pub fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "migration.toml", "schema = 1\n");
    dir
}

pub fn write(project: &Path, name: &str, text: &str) {
    fs::write(project.join(name), text).expect("written");
}

/// `migrate ARGS…` in `project`.
pub fn migrate(project: &Path, args: &[&str]) -> Command {
    in_project(Command::new(env!("CARGO_BIN_EXE_migrate")), project, args)
}

/// The same by another program that starts it.
pub fn in_project(mut command: Command, project: &Path, args: &[&str]) -> Command {
    command.args(args).current_dir(project).env_remove("MIGRATE_PROJECT").env("NO_COLOR", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// All that it has printed.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
