//! What is written down about the protocol is so: the JSON Schemas and the recorded conversations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{ErrorClass, Observation, Step, StepContext, VerifyDepth, unknown};
use migrate_plugin_host::{Guard, Launch, Plugin, schemas};
use serde::Deserialize;
use serde_json::{Value, json};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/plugins").canonicalize().unwrap()
}

/// To write them: `MIGRATE_WRITE_SCHEMAS=1 cargo test -p migrate-plugin-host --test documents`.
#[test]
fn the_schemas_are_those_of_the_types() {
    let dir = docs().join("schemas");
    let write = std::env::var_os("MIGRATE_WRITE_SCHEMAS").is_some();
    let mut expected = BTreeSet::new();
    for (name, schema) in schemas::all() {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if write {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(&name), &text).unwrap();
        }
        let found = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        assert!(found == text, "{name} is not current; write it: see this test");
        expected.insert(name);
    }
    let found =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
}

/// One line of a recorded conversation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: String,
    message: Value,
}

fn conversations() -> BTreeMap<String, Vec<Line>> {
    let entries = std::fs::read_dir(docs().join("conversations")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), lines)
        })
        .collect()
}

#[test]
fn every_recorded_message_fits_its_schema() {
    let schemas: BTreeMap<String, Value> = schemas::all().into_iter().collect();
    let mut used = BTreeSet::new();
    for (name, lines) in conversations() {
        // Who asked, with which number, for what.
        let mut asked: BTreeMap<(String, String), String> = BTreeMap::new();
        for Line { from, message } in lines {
            let id = message.get("id").map(Value::to_string);
            let method = message.get("method").and_then(Value::as_str).map(|method| method.replace('_', "-"));
            let other = if from == "host" { "plugin" } else { "host" };
            let file = match (method, id) {
                (Some(method), Some(id)) => {
                    asked.insert((from, id), method.clone());
                    format!("{method}.request.json")
                }
                (Some(method), None) => format!("{method}.notification.json"),
                (None, Some(id)) => {
                    let method = asked.remove(&(other.to_owned(), id)).expect("an answer to a request");
                    if message.get("error").is_some() {
                        "error.json".to_owned()
                    } else {
                        format!("{method}.result.json")
                    }
                }
                (None, None) => panic!("{name}: {message}"),
            };
            let schema = schemas.get(&file).unwrap_or_else(|| panic!("{name}: no schema {file}"));
            let checked = jsonschema::validate(schema, &message);
            assert!(checked.is_ok(), "{name}: {file}: {message}: {checked:?}");
            used.insert(file);
        }
        assert!(asked.is_empty(), "{name}: {asked:?} was not answered");
    }
    let all: BTreeSet<String> = schemas.into_keys().collect();
    assert_eq!(all.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new(), "never spoken");
}

/// A plugin that plays a conversation, and what its calls know.
async fn play(name: &str) -> (Plugin, StepContext, Arc<RecordingHost>) {
    let launch = Launch {
        program: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/replay.py"),
        args: vec![docs().join(format!("conversations/{name}.jsonl")).into()],
        env: BTreeSet::new(),
        memory_bytes: 1 << 30,
    };
    let guard = Guard { program: env!("CARGO_BIN_EXE_migrate-plugin-guard").into(), args: Vec::new() };
    let dir = std::env::temp_dir();
    let host = Arc::new(RecordingHost::default());
    host.put_secret("env:DB_TOKEN", "a-token-of-a-database");
    let ctx = host.context("orders", &dir);
    (Plugin::describe(Some("team.rows"), &guard, launch, &dir).await.unwrap(), ctx, host)
}

fn config() -> Value {
    json!({ "table": "orders", "token": "env:DB_TOKEN" })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_says_what_was_recorded() {
    let (plugin, ctx, _) = play("describe").await;
    assert!(plugin.describe().supports_undo);
    let (plugin, ctx_plan, _) = play("plan").await;
    let plan = plugin.plan(&ctx_plan, &json!({ "table": unknown("nodes.schema.table") })).await.unwrap();
    assert_eq!((plan.problems.len(), plan.destroys.len()), (1, 1));

    let (plugin, _, _) = play("observe").await;
    let seen = plugin.observe(&ctx, &config()).await.unwrap();
    assert_eq!(seen, Observation::Running { handle: "job-17".to_owned() });
    let (plugin, _, _) = play("verify").await;
    let found = plugin.verify(&ctx, &config(), &json!({ "rows": 2000 }), VerifyDepth::Deep).await.unwrap();
    assert_eq!(found.failures().count(), 1);
    let (plugin, _, _) = play("undo").await;
    plugin.undo(&ctx, &config(), &json!({ "rows": 2000 })).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_says_what_was_recorded() {
    let (plugin, ctx, host) = play("apply").await;
    assert_eq!(plugin.apply(&ctx, &config()).await.unwrap(), json!({ "rows": 2000 }));
    let recorded = host.recorded();
    assert_eq!(recorded.cursors, [json!({ "after": 1000 }), json!({ "after": 2000 })]);
    assert_eq!(recorded.handles, ["job-17"]);
    let lines: Vec<_> = recorded.log.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(lines, ["größer als 1000 rows: in two parts", "row counts: reports/rows.csv"]);

    let (plugin, ctx, _) = play("resume").await;
    let ctx = ctx.with_state(Some("job-17".to_owned()), Some(json!({ "after": 1000 })));
    assert_eq!(plugin.apply(&ctx, &config()).await.unwrap(), json!({ "rows": 2000 }));

    let (plugin, ctx, _) = play("secret").await;
    assert_eq!(plugin.apply(&ctx, &config()).await.unwrap(), json!({ "rows": 0 }));

    let (plugin, ctx, _) = play("failure").await;
    let error = plugin.apply(&ctx, &config()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Throttled { retry_after_ms: Some(2_500) });
    assert_eq!(error.to_record().causes, ["too many connections"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_says_what_was_recorded() {
    let (plugin, ctx, host) = play("cancel").await;
    let said = async {
        while host.recorded().progress.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        ctx.cancel.cancel();
    };
    let config = config();
    let (result, ()) = tokio::join!(plugin.apply(&ctx, &config), said);
    let error = result.unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (ErrorClass::Cancelled, "stopped on request"));
    assert_eq!(host.recorded().cursors, [json!({ "after": 500 })]);
}
