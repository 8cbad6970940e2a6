//! What `docs/workflow.md` shows is valid: every workflow in it, with the README's `migration.toml`.

use std::path::Path;
use std::process::Command;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(path).expect("the page is there")
}

/// TOML blocks, each with the name of the file that its first line may say.
fn blocks(text: &str) -> Vec<(String, String)> {
    let block = |(at, rest): (usize, &str)| {
        let body = rest.split("```").next().unwrap_or_default();
        let first = body.lines().next().unwrap_or_default();
        let name = first.strip_prefix("# ").filter(|name| name.ends_with(".toml"));
        (name.map_or_else(|| format!("w{at}.toml"), str::to_owned), body.to_owned())
    };
    text.split("```toml\n").skip(1).enumerate().map(block).collect()
}

#[test]
fn its_workflows_are_valid() {
    let project = tempfile::tempdir().unwrap();
    let (_, site) = blocks(&read("README.md")).remove(0);
    std::fs::write(project.path().join("migration.toml"), site).unwrap();
    let workflows = blocks(&read("docs/workflow.md"));
    assert!(workflows.len() >= 2, "{}", workflows.len());
    for (name, body) in &workflows {
        std::fs::write(project.path().join(name), body).unwrap();
    }
    for (name, body) in &workflows {
        let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
            .args(["validate", name])
            .current_dir(project.path())
            .env_remove("MIGRATE_PROJECT")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}\n{body}");
    }
}
