//! What the commands say of a `migration.toml` that is wrong.

use std::path::Path;
use std::process::Output;

use support::{migrate, project, said, write};

mod support;

const SECRET: &str = "hunter2secret";

fn ran(project: &Path, args: &[&str]) -> Output {
    migrate(project, args).output().expect("migrate starts")
}

/// A project in which `text` follows the third line of `migration.toml`.
fn with(text: &str) -> tempfile::TempDir {
    let project = project();
    std::fs::create_dir(project.path().join("in")).expect("made");
    write(project.path(), "migration.toml", &format!("schema = 1\n\n# The site.\n{text}\n"));
    project
}

/// Nobody knows what is a secret in a file that is no TOML: its lines are shown by no command.
#[test]
fn a_secret_in_a_file_that_is_no_toml_is_not_shown() {
    let broken = [
        format!("[target.registry]\npassword = {SECRET}"),
        format!("[target.registry]\npassword = \"{SECRET}"),
        format!("[target.registry]\npassword = \"env:PASSWORD\" {SECRET}"),
        format!("[target.registry]\npassword: {SECRET}"),
        format!("[target.registry]\nhost = \"a\"\nhost = \"{SECRET}\""),
        format!("[store]\nurl = postgresql://ada:{SECRET}@db/x"),
    ];
    let commands: [&[&str]; 8] = [
        &["assess", "in"],
        &["rewrite", "in"],
        &["rules"],
        &["validate", "stateless"],
        &["plan", "stateless"],
        &["run", "stateless"],
        &["status"],
        &["runs"],
    ];
    for text in &broken {
        let project = with(text);
        let expected = said(&ran(project.path(), &["validate", "stateless"]));
        assert!(expected.starts_with("error: migration.toml, line "), "{text}: {expected}");
        for command in commands {
            for option in [&[][..], &["--json"]] {
                let output = ran(project.path(), &[command, option].concat());
                let said = said(&output);
                assert!(!said.contains(SECRET), "{command:?}: {said}");
                assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
                if option.is_empty() {
                    assert_eq!(said, expected, "{command:?}");
                } else {
                    assert!(said.contains(r#""code":"invalid""#), "{command:?}: {said}");
                }
            }
        }
    }
}

#[test]
fn what_other_commands_refuse_is_not_called_valid() {
    let cases = [
        ("[rewrite]\ningress = \"agic\"", "error: migration.toml, line 5: unknown variant `agic`", "assess"),
        ("[rewrite]\nzone = { a = \"b\" }", "error: migration.toml, line 5: unknown field `zone`", "rewrite"),
        ("rules = [\"rules/none.toml\"]", "error: ./rules/none.toml is no file of rules", "rules"),
        (
            "[store]\nurl = \"postgresql://ada:hunter2secret@db/x\"\nproject = \"shop\"",
            "[store] takes",
            "runs",
        ),
    ];
    let workflow = "schema = 1\nname = \"w\"\n[nodes.look]\nstep = \"assess.manifests\"\n\
                    with = { from = \"in\", rules = [] }\n";
    for (text, told, other) in cases {
        let project = with(text);
        write(project.path(), "w.toml", workflow);
        let other: &[&str] = if ["rules", "runs"].contains(&other) { &[other] } else { &[other, "in"] };
        for command in [other, &["validate", "w.toml"], &["plan", "w.toml"], &["run", "w.toml"]] {
            let output = ran(project.path(), command);
            let said = said(&output);
            assert!(said.contains(told) && !said.contains(SECRET), "{command:?}: {said}");
            assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
        }
        assert!(!project.path().join(".migrate").exists(), "{text}");
    }
    let project = with("[rewrite]\ningress = \"nginx\"\n[store]\nurl = \"env:URL\"\nproject = \"shop\"");
    write(project.path(), "w.toml", workflow);
    for command in ["validate", "plan"] {
        let output = ran(project.path(), &[command, "w.toml"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
}
