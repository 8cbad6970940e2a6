//! What must not be shown, and where a secret may stand.

use super::*;

/// Whatever is wrong, and wherever: a secret that stands where a reference belongs is never shown.
#[test]
fn a_secret_in_place_of_a_reference_is_not_shown() {
    let node = "schema = 1\nname = \"w\"\n\n[nodes.a]\nstep = \"velero.backup\"\n";
    let with = "cluster = { context = \"x\" }, namespaces = []";
    let from_site = format!("{node}with = {{ {with}, registry = \"${{env.registry}}\" }}\n");
    let site = |rest: &str| format!("schema = 1\n\n[registry]\nhost = \"h\"\n{rest}\n");
    let mut seen = Vec::new();
    let mut look = |workflow: &str, environment: &str| {
        let text = wrong_in(workflow, environment, &[]);
        assert!(!text.contains("hunter"), "{text}");
        let checked = engine().check(
            &Source::new("w.toml", workflow),
            &Source::new("migration.toml", environment),
            &Params::new(),
        );
        assert!(!format!("{checked:?}").contains("hunter"), "{environment}");
        seen.push(text);
    };
    look(&from_site, &site("password = \"hunter2\"\npin = \"hunter3\""));
    look(&from_site, &site("pin = 1234\npasword = \"hunter2\""));
    look(&from_site, &site("password = \"hunter2\"").replace("host =", "hots ="));
    look(&from_site, &site("password = { value = \"hunter2\" }"));
    look(&from_site, &site("password = \"hunter2"));
    look(
        &format!("{node}with = {{ {with}, registry = {{ host = \"h\", pin = \"hunter2\" }} }}\n"),
        ENVIRONMENT,
    );
    insta::assert_snapshot!(seen.join("\n\n---\n\n"));
}

/// Where a sensitive parameter may stand, and places where it may not.
const NODES: &str = r#"[nodes.right]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = [], password = "${params.password}" }

[nodes.wrong]
step = "velero.backup"
with = { cluster = { context = "${params.password}" }, namespaces = ["a", "${params.password}", "x-${params.password}"] }

[nodes.ask]
step = "gate"
with = { message = "Is it ${params.password}?" }
"#;

/// A reference to a secret is resolved only where a step asks for one.
#[test]
fn secrets() {
    let head = r#"schema = 1
name = "w"

[params.password]
type = "string"
sensitive = true
default = "exec:pass show shop/db"

[params.token]
type = "string"
sensitive = true
default = "exec:pass show shop/db | head -1"

"#;
    insta::assert_snapshot!(wrong_in(&format!("{head}{NODES}"), ENVIRONMENT, &[]));
}

/// What is sensitive in a file stays so where another holds it, whatever it is given.
#[test]
fn a_secret_that_is_passed_to_a_sub_workflow_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let head = r#"schema = 1
name = "sub"

[params.password]
type = "string"
sensitive = true
default = "env:DB"

"#;
    let sub = format!("{head}{NODES}");
    let outer = "schema = 1\nname = \"outer\"\n[params.given]\ntype = \"string\"\n\
                 [nodes.sub]\nstep = \"workflow\"\nwith = { file = \"sub.toml\", params = { password = \"${params.given}\" } }\n";
    std::fs::write(dir.path().join("sub.toml"), &sub).unwrap();
    std::fs::write(dir.path().join("outer.toml"), outer).unwrap();
    let found = |name: &str, workflow: &str| {
        let (workflow, environment) =
            (Source::new(dir.path().join(name), workflow), Source::new("migration.toml", ENVIRONMENT));
        let wrong = engine().check(&workflow, &environment, &Params::new()).unwrap_err();
        let place = |mistake: &Mistake| (mistake.position(), mistake.message.clone());
        let mut places: Vec<_> =
            wrong.mistakes().iter().filter(|mistake| mistake.code == "sensitive").map(place).collect();
        places.sort();
        places
    };
    let alone = found("sub.toml", &sub);
    assert_eq!(alone.len(), 4, "{alone:?}");
    let plain = "[params.plain]\ntype = \"string\"\ndefault = \"env:OTHER\"\n";
    let holds = |file: &str, params: &str| {
        format!(
            "schema = 1\nname = \"top\"\n{plain}[nodes.sub]\nstep = \"workflow\"\nwith = {{ file = \"{file}\"{params} }}\n"
        )
    };
    for (file, params) in [
        ("sub.toml", ""),
        ("sub.toml", ", params = { password = \"env:OTHER\" }"),
        ("sub.toml", ", params = { password = \"${params.plain}\" }"),
        ("outer.toml", ", params = { given = \"env:OTHER\" }"),
    ] {
        assert_eq!(found("top.toml", &holds(file, params)), alone, "{file}{params}");
    }
}
