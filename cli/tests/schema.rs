//! The JSON Schemas for editors take everything that we ship and show.

use std::collections::BTreeSet;
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

/// Names of all fields in a schema, whatever holds them.
fn fields(root: &Value, schema: &Value, depth: usize, found: &mut BTreeSet<String>) {
    if depth == 12 {
        return;
    }
    if let Some(target) = schema["$ref"].as_str().and_then(|r| root.pointer(r.strip_prefix('#')?)) {
        fields(root, target, depth + 1, found);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(name.clone());
        fields(root, field, depth + 1, found);
    }
    let choices = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    choices.chain(schema.get("items")).for_each(|inner| fields(root, inner, depth + 1, found));
}

#[test]
fn the_reference_of_migration_toml_names_every_field() {
    let reference = read("docs/migration-toml.md");
    let schema = schema(&["--environment"]);
    let mut named = BTreeSet::new();
    fields(&schema, &schema, 0, &mut named);
    assert!(named.contains("kubeconfig") && named.contains("tables") && named.len() > 40, "{named:?}");
    let is_told = |name: &&String| {
        let inner = format!(".{name}]`");
        [format!("`{name}`"), format!("`[{name}]`"), format!("`[[{name}]]`"), format!("`[{name}."), inner]
            .iter()
            .any(|written| reference.contains(written))
    };
    let missing: Vec<&String> = named.iter().filter(|name| !is_told(name)).collect();
    assert!(missing.is_empty(), "docs/migration-toml.md doesn't name {missing:?}");
}
