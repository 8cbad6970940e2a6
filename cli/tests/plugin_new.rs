//! `migrate plugin new`: what it makes works, and nothing that is there is written over.

use std::fs;
use std::path::Path;
use std::process::Command;

fn migrate(project: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .args(args)
        .current_dir(project)
        .env_remove("MIGRATE_PROJECT")
        .env("NO_COLOR", "1")
        .output()
        .expect("migrate starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let code = output.status.code().expect("an exit code");
    format!("exit {code}\n--- stdout\n{}\n--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

fn succeeds(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_next_commands_are_told() {
    let project = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(migrate(project.path(), &["plugin", "new", "--lang", "rust", "team.greet"]), @r"
    exit 0
    --- stdout

    --- stderr
    the step `team.greet` is in plugins/team.greet; next:
      (cd plugins/team.greet && cargo test)
      (cd plugins/team.greet && cargo build --release && cp target/release/team-greet migrate-step-team.greet)
      migrate plugin test plugins/team.greet/migrate-step-team.greet
      migrate steps team.greet
    ");
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let project = tempfile::tempdir().unwrap();
    let new = |name: &str| migrate(project.path(), &["plugin", "new", "--lang", "sh", name]);
    let folder = project.path().join("plugins/team.greet");
    fs::create_dir_all(&folder).unwrap();
    let link = project.path().join("plugins/migrate-step-team.other");
    fs::write(&link, "mine").unwrap();
    let said = [new("team.greet"), new("team.other"), new("exec"), new("Team/x")].map(|said| said + "\n");
    insta::assert_snapshot!(said.concat(), @r"
    exit 1
    --- stdout

    --- stderr
    error: ./plugins/team.greet is there already, and is left as it is
    exit 1
    --- stdout

    --- stderr
    error: ./plugins/migrate-step-team.other is there already, and is left as it is
    exit 2
    --- stdout

    --- stderr
    error: there is a step `exec` already
    exit 2
    --- stdout

    --- stderr
    error: `Team/x` is no name for a step: write `word` or `family.verb`, of lowercase letters, digits and inner `-`
    ");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(link).unwrap(), "mine");
    assert!(!project.path().join("plugins/team.other").exists());
}

#[test]
fn python_and_sh_plugins_pass_their_own_tests() {
    let project = tempfile::tempdir().unwrap();
    for (language, name, interpreter, test) in
        [("python", "team.greet", "python3", "test.py"), ("sh", "touch-file", "sh", "test.sh")]
    {
        let said = migrate(project.path(), &["plugin", "new", "--lang", language, name]);
        assert!(said.starts_with("exit 0"), "{said}");
        let folder = project.path().join("plugins").join(name);
        succeeds(Command::new(interpreter).arg(folder.join(test)));
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(readme.starts_with(&format!("# {name}\n")) && !readme.contains("example"), "{readme}");
        assert!(project.path().join("plugins").join(format!("migrate-step-{name}")).exists());
    }
}

/// Builds without a network, with what this workspace was built with.
#[test]
fn a_rust_plugin_builds_and_passes_its_own_test() {
    let project = tempfile::tempdir().unwrap();
    let said = migrate(project.path(), &["plugin", "new", "--lang", "rust", "team.greet"]);
    assert!(said.starts_with("exit 0"), "{said}");
    let folder = project.path().join("plugins/team.greet");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // The same versions as here, which are there without a network.
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let target = root.join("target/plugin-template");
    let cargo = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION");
        cargo
    };
    succeeds(cargo().args(["test", "--offline", "--quiet"]));
    succeeds(cargo().args(["build", "--offline", "--quiet"]));
    // Started by hand it says what it is.
    let output = Command::new(target.join("debug/team-greet")).arg("--help").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("for the step `team.greet`"), "{said}");
}
