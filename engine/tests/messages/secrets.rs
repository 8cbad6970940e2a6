//! What must not be shown, and where a secret may stand.

use migrate_plugin_api::{Observation, StepInfo};
use serde_json::{Value, json};

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

/// A plugin: fields for secrets are what its author wrote into its schema.
struct Notify;

#[async_trait]
impl Step for Notify {
    fn describe(&self) -> StepInfo {
        let config_schema = json!({
            "type": "object", "required": ["text"], "additionalProperties": false,
            "properties": {
                "text": { "type": "string" },
                "url": { "type": "string", "format": "secret-reference" },
                "old": { "type": "string", "pattern": "^(env|file):.+" },
                "hooks": { "type": "object", "additionalProperties": { "type": "array", "items": { "anyOf": [
                    { "type": "string", "format": "secret-reference" }, { "type": "null" }
                ] } } },
                "any": { "anyOf": [{ "type": "string", "format": "secret-reference" }, { "type": "string" }] },
            }
        });
        StepInfo {
            name: "notify.webhook".to_owned(),
            version: "1".to_owned(),
            summary: "Only to be checked against".to_owned(),
            config_schema,
            output_schema: json!({}),
            sensitive: Vec::new(),
            idempotency: Idempotency::None,
            supports_undo: false,
        }
    }
    async fn plan(&self, _: &StepContext, _: &Value) -> Result<StepPlan, StepError> {
        unreachable!("checking calls no step")
    }
    async fn observe(&self, _: &StepContext, _: &Value) -> Result<Observation, StepError> {
        unreachable!("checking calls no step")
    }
    async fn apply(&self, _: &StepContext, _: &Value) -> Result<Value, StepError> {
        unreachable!("checking calls no step")
    }
    async fn verify(
        &self,
        _: &StepContext,
        _: &Value,
        _: &Value,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        unreachable!("checking calls no step")
    }
    async fn undo(&self, _: &StepContext, _: &Value, _: &Value) -> Result<(), StepError> {
        unreachable!("checking calls no step")
    }
}

/// What `validate` says of a node `tell` with `step` and `with`, the plugin being usable or not.
fn told(step: &str, with: &str, site: &str, unusable: bool) -> Result<(), String> {
    let engine = Engine::open(".", vec![Arc::new(Notify) as Arc<dyn Step>]).unwrap();
    let broken = unusable.then(|| ("notify.webhook".to_owned(), "it ends at once".to_owned()));
    let params = "[params.token]\ntype = \"string\"\nsensitive = true\ndefault = \"keyvault:v/hook\"\n";
    let workflow =
        format!("schema = 1\nname = \"w\"\n{params}\n[nodes.tell]\nstep = \"{step}\"\nwith = {{ {with} }}\n");
    let site = Source::new("migration.toml", format!("schema = 1\n{site}"));
    let found =
        engine.with_unusable(broken).validate(&Source::new("w.toml", workflow), Some(&site), &Params::new());
    found.map_err(|diagnostics| render(&diagnostics))
}

/// However a plugin marks the field, and whatever is wrong with the node.
#[test]
fn a_secret_that_was_pasted_into_a_plugins_config_is_not_shown() {
    let hook = "https://hooks.example/T0/hunter2";
    let site = format!("[notify]\nurl = \"{hook}\"\ntext = \"x\"\n");
    let mut seen = Vec::new();
    for (step, with, unusable) in [
        ("notify.webhook", format!("text = \"x\", url = \"{hook}\""), false),
        ("notify.webhook", format!("text = \"x\", old = \"{hook}\""), false),
        ("notify.webhook", "text = \"x\", url = \"${env.notify.url}\"".to_owned(), false),
        ("notify.webhook", "text = \"x\", old = \"${env.notify.url}\"".to_owned(), false),
        ("notify.webhook", "text = \"x\", old = \"${params.token}\"".to_owned(), false),
        ("notify.webhook", format!("text = \"x\", hooks = {{ a = [\"env:A\", \"{hook}\"] }}"), false),
        ("notify.webhook", format!("text = \"x\", ulr = \"{hook}\""), false),
        ("notify.webhok", format!("text = \"x\", url = \"{hook}\", n = \"${{params.token}}\""), false),
        ("notify.webhook", format!("text = \"x\", url = \"{hook}\""), true),
    ] {
        let text = told(step, &with, &site, unusable).expect_err(&with);
        assert!(!text.contains("hunter2"), "{text}");
        seen.push(text);
    }
    insta::assert_snapshot!(seen.join("\n\n---\n\n"));
}

/// References are taken, whatever they begin with, and so is any text where one is taken.
#[test]
fn what_is_no_pasted_secret_is_taken() {
    for field in [
        "url = \"env:HOOK\"",
        "url = \"exec:pass show hook\"",
        "url = \"${params.token}\"",
        "old = \"file:hook\"",
        "hooks = { a = [\"keyvault:v/hook\"] }",
        "any = \"plain\"",
    ] {
        assert_eq!(told("notify.webhook", &format!("text = \"x\", {field}"), "", false), Ok(()), "{field}");
    }
}
