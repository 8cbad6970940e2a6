//! The rooms depend on each other as `docs/architecture.md` says, and no other way.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Every workspace crate with the workspace crates that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("migrate-plugin-api", &[]),
    ("migrate-plugin-sdk", &["migrate-plugin-api"]),
    ("migrate-engine", &["migrate-plugin-api"]),
    ("migrate-steps", &["migrate-plugin-api"]),
    ("migrate", &["migrate-engine", "migrate-plugin-api", "migrate-steps"]),
    ("sandbox", &[]),
    ("migrate-tests", &["migrate-plugin-api", "migrate-steps"]),
    ("xtask", &[]),
];

#[test]
fn rooms_depend_only_as_the_architecture_says() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");

    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let found: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let inner = dependencies.iter().filter_map(|d| d["name"].as_str()).filter(|d| names.contains(d));
            (package["name"].as_str().expect("a name"), inner.collect())
        })
        .collect();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, inner)| (*name, inner.iter().copied().collect())).collect();
    assert_eq!(found, allowed);
}
