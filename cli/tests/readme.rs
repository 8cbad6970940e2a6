//! What the README says can be done can be done: its `migration.toml` is valid for the shipped
//! workflows, and its commands are commands, as are those of the pages about a move.

use std::path::Path;
use std::process::Command;

fn readme() -> String {
    page("README.md")
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(path).expect("the page is there")
}

/// Code blocks of `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn migrate(project: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migrate"));
    command.current_dir(project).env_remove("MIGRATE_PROJECT");
    command
}

#[test]
fn its_migration_toml_is_valid_for_the_shipped_workflows() {
    let project = tempfile::tempdir().unwrap();
    let [site] = blocks(&readme(), "toml").try_into().expect("one TOML block");
    std::fs::write(project.path().join("migration.toml"), site).unwrap();
    for workflow in ["stateful", "stateless"] {
        let output = migrate(project.path())
            .args(["validate", workflow, "--param", "namespaces=shop"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{workflow}: {said}");
        assert!(said.contains("are valid"), "{said}");
    }
}

#[test]
fn its_commands_are_commands() {
    let project = tempfile::tempdir().unwrap();
    let pages = ["README.md", "docs/assess.md", "docs/cutover.md", "docs/prepare-aks.md"];
    let all: String = pages.iter().flat_map(|name| blocks(&page(name), "sh")).collect();
    let commands: Vec<&str> = all
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("migrate "))
        .map(|line| line.split(['#', '>']).next().unwrap_or_default().trim())
        .collect();
    assert!(commands.len() >= 20, "{commands:?}");
    for command in commands {
        // In an empty folder each must fail for want of files or runs, not of words.
        let output = migrate(project.path()).args(command.split_whitespace()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("Usage:"), "migrate {command}: {said}");
        assert!(!said.contains("panicked"), "migrate {command}: {said}");
    }
}

#[test]
fn its_count_of_rules_is_that_of_the_program() {
    let project = tempfile::tempdir().unwrap();
    let output = migrate(project.path()).args(["rules", "--counts"]).output().unwrap();
    let counts = String::from_utf8_lossy(&output.stdout);
    let folded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(counts.starts_with("1"), "{counts}");
    assert!(folded(&readme()).contains(&folded(&counts)), "{counts}");
}
