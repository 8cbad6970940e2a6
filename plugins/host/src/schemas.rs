//! JSON Schemas of every message of the protocol, made from its types.

use migrate_plugin_api::protocol::{
    Answer, ApplyResult, ArtifactParams, CallParams, CancelParams, CheckpointParams, Description, Empty,
    HandleParams, InitializeParams, InitializeResult, LogParams, Notification, Refusal, Request,
    SecretParams, SecretResult, UndoParams, ValidateResult, VerifyParams,
};
use migrate_plugin_api::{Evidence, Observation, Progress, StepPlan};
use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};

/// Who sends a message, and what it is.
fn named<T: JsonSchema>(file: &str, method: &str, title: &str) -> (String, Value) {
    let mut schema = schema_for!(T).to_value();
    schema["title"] = json!(title);
    if !method.is_empty() {
        schema["properties"]["method"] = json!({ "const": method });
    }
    (format!("{file}.json"), schema)
}

/// A request and its result.
fn pair<P: JsonSchema, R: JsonSchema>(method: &str, by: &str) -> [(String, Value); 2] {
    let file = method.replace('_', "-");
    [
        named::<Request<P>>(&format!("{file}.request"), method, &format!("`{method}`, asked by the {by}")),
        named::<Answer<R>>(&format!("{file}.result"), "", &format!("What `{method}` gives")),
    ]
}

fn told<P: JsonSchema>(method: &str, by: &str) -> (String, Value) {
    named::<Notification<P>>(
        &format!("{method}.notification"),
        method,
        &format!("`{method}`, said by the {by}"),
    )
}

/// Every schema with its file's name in `docs/plugins/schemas`.
pub fn all() -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = [
        pair::<InitializeParams, InitializeResult>("initialize", "host"),
        pair::<Empty, Description>("describe", "host"),
        pair::<CallParams, ValidateResult>("validate", "host"),
        pair::<CallParams, StepPlan>("plan", "host"),
        pair::<CallParams, Observation>("observe", "host"),
        pair::<CallParams, ApplyResult>("apply", "host"),
        pair::<VerifyParams, Evidence>("verify", "host"),
        pair::<UndoParams, Empty>("undo", "host"),
        pair::<CheckpointParams, Empty>("checkpoint", "plugin"),
        pair::<HandleParams, Empty>("set_handle", "plugin"),
        pair::<SecretParams, SecretResult>("secret", "plugin"),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.extend([
        told::<CancelParams>("cancel", "host"),
        told::<Empty>("shutdown", "host"),
        told::<Progress>("progress", "plugin"),
        told::<LogParams>("log", "plugin"),
        told::<ArtifactParams>("artifact", "plugin"),
        told::<Empty>("heartbeat", "plugin"),
        named::<Refusal>("error", "", "The answer to a request that failed, of either side"),
    ]);
    all
}
