//! What a person sees: stdout, stderr and the exit code of each command that needs no cluster.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs `migrate ARGS…` in `project`.
fn migrate(project: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .args(args)
        .current_dir(project)
        .env_remove("MIGRATE_PROJECT")
        .env("NO_COLOR", "1")
        .output()
        .expect("migrate starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!(
        "exit {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code().expect("an exit code"),
        text(&output.stdout),
        text(&output.stderr)
    )
}

fn project() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn steps_are_listed() {
    insta::assert_snapshot!(migrate(project().path(), &["steps"]));
}

#[test]
fn a_step_is_shown_with_its_fields() {
    insta::assert_snapshot!(migrate(project().path(), &["steps", "storage-class.map"]));
}

#[test]
fn an_unknown_step_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["steps", "storage-class.mop"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: there is no step `storage-class.mop`; `migrate steps` lists them
    ");
}

#[test]
fn a_project_without_its_file_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["run", "stateful"]), @r"
    exit 3
    --- stdout

    --- stderr
    error: there is no ./migration.toml
      help: run in the folder of migration.toml, or name it: migrate -C DIR …
    ");
}

#[test]
fn an_unknown_workflow_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["validate", "statefull"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: there is no workflow `statefull`: neither a file nor one of stateful, stateless
    ");
}

#[test]
fn a_parameter_without_a_value_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["validate", "stateful", "--param", "namespaces"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: --param namespaces: write NAME=VALUE
    ");
}

#[test]
fn a_project_without_runs_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["status"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: this project has no run yet
      help: start one: migrate run WORKFLOW
    ");
}

#[test]
fn every_mistake_of_a_file_is_shown_at_once() {
    let project = project();
    let workflow = r#"schema = 1
name = "broken"

[nodes.inventory]
step = "assess.clustre"
with = {}

[nodes.backup]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${params.namespace}" }
timeuot = "6h"
"#;
    fs::write(project.path().join("broken.toml"), workflow).expect("written");
    insta::assert_snapshot!(migrate(project.path(), &["validate", "broken.toml"]));
}

#[test]
fn a_reader_that_went_away_costs_no_exit_code() {
    let project = project();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .arg("status")
        .current_dir(project.path())
        .env_remove("MIGRATE_PROJECT")
        .stderr(writer)
        .status()
        .expect("migrate starts");
    assert_eq!(status.code(), Some(2));
}

#[test]
fn the_way_on_that_the_engine_names_is_a_command() {
    insta::assert_snapshot!(migrate(project().path(), &["resume", "20260131-235959-3f9a", "--rerun", "pay"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: this project has no run yet
      help: start one: migrate run WORKFLOW
    ");
}

/// What a person sees of a gate, from the first run to the end.
#[test]
fn a_gate_from_the_run_to_its_end() {
    let project = project();
    let workflow = r#"schema = 1
name = "cutover"

[nodes.ready]
step = "gate"
with = { message = "Switch the shop over?", approvers = "the shop team" }
"#;
    fs::write(project.path().join("cutover.toml"), workflow).expect("written");
    fs::write(project.path().join("migration.toml"), "schema = 1\n").expect("written");
    let mut seen = Vec::new();
    for args in [
        &["run", "cutover.toml"][..],
        &["approve", "ready", "--note", "counts are equal"],
        &["approve", "ready", "--reject"],
        &["resume"],
        &["resume"],
        &["approve", "ready"],
        &["undo"],
        &["undo", "--yes"],
        &["resume"],
    ] {
        seen.push(format!("$ migrate {}\n{}", args.join(" "), migrate(project.path(), args)));
    }
    insta::assert_snapshot!(plain(&seen.join("\n\n")));
}

/// `text` without what differs from machine to machine and from run to run: names, times, widths.
fn plain(text: &str) -> String {
    text.lines().map(plain_line).collect::<Vec<_>>().join("\n")
}

fn plain_line(line: &str) -> String {
    let word = |word: &str| {
        let (tick, bare) = word.strip_prefix('`').map_or(("", word), |bare| ("`", bare));
        let end = bare.find(|c: char| !(c.is_ascii_hexdigit() || c == '-')).unwrap_or(bare.len());
        let parts: Vec<usize> = bare[..end].split('-').map(str::len).collect();
        if parts == [8, 6, 4] {
            return format!("{tick}RUN{}", &bare[end..]);
        }
        match bare.split_once('@') {
            Some((_, host)) => format!("USER@HOST{}", &host[host.find(':').unwrap_or(host.len())..]),
            None if bare.contains('.') && bare.parse::<f64>().is_ok() => "0.0".to_owned(),
            None => word.to_owned(),
        }
    };
    line.split(' ').filter(|part| !part.is_empty()).map(word).collect::<Vec<_>>().join(" ")
}

/// A second `migrate run stateful`, perhaps of a newer version, must leave alone what the first runs.
#[test]
fn a_refused_run_writes_nothing() {
    let project = project();
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("read");
    let site = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    fs::write(project.path().join("migration.toml"), site).expect("written");
    let state = project.path().join(".migrate");
    fs::create_dir(&state).expect("made");
    let lock = fs::File::create(state.join("lock")).expect("made");
    lock.lock().expect("locked");
    let said = migrate(project.path(), &["run", "stateful", "--param", "namespaces=shop"]);
    assert!(said.starts_with("exit 6\n"), "{said}");
    let left: Vec<_> =
        fs::read_dir(&state).expect("read").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["lock"]);
}
