//! The JSON Schemas for editors take everything that we ship and show; references name all that there is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use migrate_engine::{Action, HistoryKind, UndoAction};
use migrate_plugin_host::PluginSettings;
use serde_json::{Value, json};

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
    let inside = ["items", "additionalProperties"].into_iter().filter_map(|key| schema.get(key));
    choices.chain(inside).for_each(|inner| fields(root, inner, depth + 1, found));
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

/// What the program reads itself is in the schema, as it is read.
#[test]
fn the_plugins_and_rules_of_migration_toml_are_in_its_schema() {
    let schema = schema(&["--environment"]);
    let site = |path: &str| {
        format!(
            "schema = 1\nrules = [\"ours.toml\"]\n[plugins.\"team.notify\"]\n{path} = \"n.py\"\nsha256 = \"{}\"\n",
            "0".repeat(64)
        )
    };
    assert_valid(&schema, "[plugins]", &site("path"));
    let slip: Value = toml::from_str(&site("paht")).unwrap();
    assert!(!jsonschema::is_valid(&schema, &slip));
    let plugin = &schema["properties"]["plugins"]["additionalProperties"]["properties"];
    let told: BTreeSet<&String> = plugin.as_object().unwrap().keys().collect();
    let read = variants::<PluginSettings>(json!({ "unheard-of": 1 }));
    assert_eq!(told, read.iter().collect());
    assert_eq!(schema["properties"]["rules"]["type"], "array");
}

/// All that a `T` can be, from what serde says to one that it can't.
fn variants<T: serde::de::DeserializeOwned>(unknown: Value) -> Vec<String> {
    let error = serde_json::from_value::<T>(unknown).err().expect("there is none of that name").to_string();
    let (_, all) = error.split_once("expected one of ").expect("serde names what it expects");
    all.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_reference_of_json_names_every_action_and_type() {
    let reference = read("docs/json.md");
    let row = |command: &str| {
        let begin = format!("| {command} |");
        reference.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no row {command}"))
    };
    let unknown = || json!("unheard-of");
    for (command, all, least) in [
        ("`plan [RUN]`", variants::<Action>(unknown()), 9),
        ("`undo` without `--yes`", variants::<UndoAction>(unknown()), 4),
        ("`logs`", variants::<HistoryKind>(json!({ "type": "unheard-of" })), 20),
    ] {
        assert!(all.len() >= least, "{command}: {all:?}");
        let missing: Vec<_> =
            all.iter().filter(|name| !row(command).contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/json.md: {command} doesn't name {missing:?}");
    }
}
