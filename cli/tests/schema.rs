//! The JSON Schemas for editors take everything that we ship and show.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn schema(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_migrate")).arg("schema").args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

fn assert_valid(schema: &Value, what: &str, text: &str) {
    let value: Value = toml::from_str(text).unwrap();
    let validator = jsonschema::validator_for(schema).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{what}: {wrong:#?}");
}

#[test]
fn every_shipped_workflow_is_valid() {
    let schema = schema(&[]);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflows");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            assert_valid(&schema, &path.display().to_string(), &std::fs::read_to_string(&path).unwrap());
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
}

#[test]
fn the_migration_toml_of_the_readme_is_valid_and_a_slip_in_it_is_not() {
    let schema = schema(&["--environment"]);
    let readme = read("README.md");
    let site = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_valid(&schema, "README", site);
    let slip: Value = toml::from_str(&site.replace("account-url", "acount-url")).unwrap();
    assert!(!jsonschema::is_valid(&schema, &slip));
}
