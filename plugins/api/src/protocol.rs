//! The messages of the plugin protocol, version 1: `docs/plugins/protocol.md` in types, for hosts and
//! plugins alike. Owns the form of the messages and the turning of errors into them and back; reads and
//! writes nothing.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ErrorClass, Idempotency, IdempotencyKey, LogLevel, NodeId, Problem, RunId, StepError, StepInfo,
    VerifyDepth,
};

/// The version of the protocol that is described here.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest line in either direction, LF included: more than any config or outputs should be, and little
/// enough to hold for every node at work.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The number of [`ErrorObject::code`] for a failed operation; its class says what kind.
pub const FAILED: i64 = -32_000;
/// None of the offered protocol versions is spoken.
pub const NO_COMMON_VERSION: i64 = -32_001;
/// A line that is no JSON.
pub const PARSE_ERROR: i64 = -32_700;
/// JSON that is no request.
pub const INVALID_REQUEST: i64 = -32_600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i64 = -32_601;
/// The params are not those of the method.
pub const INVALID_PARAMS: i64 = -32_602;

/// Longest wait that an error may ask for, in seconds: a day.
const MAX_RETRY_AFTER_SECONDS: f64 = 86_400.0;

/// What tells an answer's request from others. The host's are integers; a plugin's may be text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Id {
    /// `7`
    Number(i64),
    /// `"c7"`
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// The word `"2.0"`, as every message has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Two {
    /// JSON-RPC 2.0.
    #[default]
    #[serde(rename = "2.0")]
    V2,
}

/// A request, with the params `P`. Fields are written in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Request<P> {
    /// `"2.0"`.
    pub jsonrpc: Two,
    /// Chosen by whoever asks.
    pub id: Id,
    /// What is asked.
    pub method: String,
    /// About what.
    pub params: P,
}

/// What is said and not answered, with the params `P`. Fields are written in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Notification<P> {
    /// `"2.0"`.
    pub jsonrpc: Two,
    /// What is said.
    pub method: String,
    /// About what.
    pub params: P,
}

/// The answer to a request that was done, with the result `R`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer<R> {
    /// `"2.0"`.
    pub jsonrpc: Two,
    /// Of the request.
    pub id: Id,
    /// What it gave.
    pub result: R,
}

/// The answer to a request that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// `"2.0"`.
    pub jsonrpc: Two,
    /// Of the request; `null` when it could not be read.
    pub id: Option<Id>,
    /// Why.
    pub error: ErrorObject,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorObject {
    /// One of the numbers of this module.
    pub code: i64,
    /// Completes "failed to …" or names the fault: lowercase, no period, no secret.
    pub message: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ErrorData>,
}

/// The kind of an error by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClassName {
    /// May pass by itself.
    Transient,
    /// The service asks for less.
    Throttled,
    /// Credentials are missing, expired or refused.
    Auth,
    /// Something else stands where the effect should go.
    Conflict,
    /// Will fail the same way again.
    #[default]
    Permanent,
    /// Data is not what it was proven to be.
    Corrupt,
    /// Was asked to stop, and did.
    Cancelled,
}

/// What a machine needs to know of an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorData {
    /// The kind; default: `permanent`.
    #[serde(default)]
    pub class: ClassName,
    /// Of `transient` and `throttled`: wait at least this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<f64>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// Of [`NO_COMMON_VERSION`]: what is spoken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocol_versions: Vec<u32>,
}

/// A cause that is only its words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Cause {
    message: String,
    #[source]
    source: Option<Box<Cause>>,
}

impl ErrorObject {
    /// An error of the protocol itself.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The contract's error that is meant.
    pub fn into_step_error(self) -> StepError {
        let data = self.data.unwrap_or_default();
        let seconds = data.retry_after_seconds.filter(|seconds| *seconds >= 0.0);
        let retry_after_ms = seconds.map(|seconds| (seconds.min(MAX_RETRY_AFTER_SECONDS) * 1_000.0) as u64);
        let class = match data.class {
            ClassName::Transient => ErrorClass::Transient { retry_after_ms },
            ClassName::Throttled => ErrorClass::Throttled { retry_after_ms },
            ClassName::Auth => ErrorClass::Auth,
            ClassName::Conflict => ErrorClass::Conflict,
            ClassName::Permanent => ErrorClass::Permanent,
            ClassName::Corrupt => ErrorClass::Corrupt,
            ClassName::Cancelled => ErrorClass::Cancelled,
        };
        let cause = |source: Option<Box<Cause>>, message| Some(Box::new(Cause { message, source }));
        let causes = data.causes.into_iter().rev().fold(None, cause);
        let mut error = StepError::new(class, self.message);
        error.hint = data.hint;
        error.source = causes.map(|cause| cause as _);
        error
    }
}

impl From<&StepError> for ErrorObject {
    fn from(error: &StepError) -> Self {
        let record = error.to_record();
        let class = match record.class {
            ErrorClass::Transient { .. } => ClassName::Transient,
            ErrorClass::Throttled { .. } => ClassName::Throttled,
            ErrorClass::Auth => ClassName::Auth,
            ErrorClass::Conflict => ClassName::Conflict,
            ErrorClass::Permanent => ClassName::Permanent,
            ErrorClass::Corrupt => ClassName::Corrupt,
            ErrorClass::Cancelled => ClassName::Cancelled,
        };
        let data = ErrorData {
            class,
            retry_after_seconds: record.class.retry_after().as_ref().map(Duration::as_secs_f64),
            hint: record.hint,
            causes: record.causes,
            protocol_versions: Vec::new(),
        };
        Self { code: FAILED, message: record.message, data: Some(data) }
    }
}

/// Nothing: params of what needs none, and results that only say "done".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// Params of `initialize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InitializeParams {
    /// Versions of the protocol that the host speaks, best first.
    pub protocol_versions: Vec<u32>,
    /// Who asks; for logs only.
    pub host: HostInfo,
    /// What the process is held to.
    pub limits: Limits,
}

/// The host by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostInfo {
    /// `migrate`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a plugin's process is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Longest line.
    pub message_bytes: u64,
    /// Most that may be written to stdout in all.
    pub output_bytes: u64,
    /// Time to answer after `cancel`.
    pub cancel_grace_seconds: u64,
}

/// Result of `initialize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InitializeResult {
    /// One of those that were offered.
    pub protocol_version: u32,
    /// Whether `cancel` is read while a call is at work.
    #[serde(default)]
    pub cancel: bool,
}

/// Result of `describe`: [`StepInfo`] with what may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// As written in a workflow: `family.verb` or one word.
    pub name: String,
    /// Changes whenever results of an earlier version must not be reused.
    pub version: String,
    /// One sentence for lists, no period.
    pub summary: String,
    /// JSON Schema of `with`.
    #[serde(default = "anything")]
    pub config_schema: Value,
    /// JSON Schema of the outputs.
    #[serde(default = "anything")]
    pub output_schema: Value,
    /// JSON Pointers of output fields that must not be stored or shown in clear.
    #[serde(default)]
    pub sensitive: Vec<String>,
    /// What a repeated `apply` does; default: `none`.
    #[serde(default = "not_idempotent")]
    pub idempotency: Idempotency,
    /// Whether `undo` can take the effect back.
    #[serde(default)]
    pub supports_undo: bool,
}

fn anything() -> Value {
    Value::Object(Map::new())
}

fn not_idempotent() -> Idempotency {
    Idempotency::None
}

impl From<Description> for StepInfo {
    fn from(described: Description) -> Self {
        let Description { name, version, summary, config_schema, output_schema, .. } = described;
        let Description { sensitive, idempotency, supports_undo, .. } = described;
        Self { name, version, summary, config_schema, output_schema, sensitive, idempotency, supports_undo }
    }
}

impl From<StepInfo> for Description {
    fn from(info: StepInfo) -> Self {
        let StepInfo { name, version, summary, config_schema, output_schema, .. } = info;
        let StepInfo { sensitive, idempotency, supports_undo, .. } = info;
        Self { name, version, summary, config_schema, output_schema, sensitive, idempotency, supports_undo }
    }
}

/// What a call knows about its surroundings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallContext {
    /// The run.
    #[schemars(with = "String")]
    pub run: RunId,
    /// The node.
    #[schemars(with = "String")]
    pub node: NodeId,
    /// From 1.
    pub attempt: u32,
    /// Deterministic name for the outside thing.
    #[schemars(with = "String")]
    pub key: IdempotencyKey,
    /// The folder of `migration.toml`, absolute.
    pub project_dir: String,
    /// What was last given to `set_handle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// What was last given to `checkpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Value>,
}

/// Params of `validate`, `plan`, `observe` and `apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallParams {
    /// Its surroundings.
    pub context: CallContext,
    /// The node's `with`.
    pub config: Value,
}

/// Params of `verify`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyParams {
    /// Its surroundings.
    pub context: CallContext,
    /// The node's `with`.
    pub config: Value,
    /// As `apply` returned them; what is sensitive is masked.
    pub outputs: Value,
    /// How hard to look.
    pub depth: VerifyDepth,
}

/// Params of `undo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UndoParams {
    /// Its surroundings.
    pub context: CallContext,
    /// The node's `with`.
    pub config: Value,
    /// As `apply` returned them; what is sensitive is masked.
    pub outputs: Value,
}

/// Result of `validate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ValidateResult {
    /// What stands in the way.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// Result of `apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApplyResult {
    /// What later nodes may refer to.
    pub outputs: Map<String, Value>,
}

/// Params of `cancel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelParams {
    /// The call that is to end.
    pub call: i64,
}

/// Params of `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogParams {
    /// How much it matters.
    pub level: LogLevel,
    /// One line.
    pub message: String,
}

/// Params of `artifact`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArtifactParams {
    /// What it is, a few words.
    pub name: String,
    /// The file; relative to the project's folder.
    pub path: String,
}

/// Params of `checkpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointParams {
    /// The step's own place.
    pub cursor: Value,
}

/// Params of `set_handle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandleParams {
    /// The ID of the outside thing.
    pub handle: String,
}

/// Params of `secret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretParams {
    /// `env:NAME` or `file:PATH`, as it stands in the config.
    pub reference: String,
}

/// Result of `secret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretResult {
    /// A file that holds the secret and nothing else; gone when the process ends.
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_way_there_and_back() {
        let error =
            StepError::throttled("failed to send to hooks.example", Some(Duration::from_millis(2_500)))
                .with_hint("send less")
                .with_source(std::io::Error::other("status 429"));
        let object = ErrorObject::from(&error);
        let text = serde_json::to_string(&object).unwrap();
        assert_eq!(
            text,
            r#"{"code":-32000,"message":"failed to send to hooks.example","data":{"class":"throttled","retry_after_seconds":2.5,"hint":"send less","causes":["status 429"]}}"#
        );
        let back = serde_json::from_str::<ErrorObject>(&text).unwrap().into_step_error();
        assert_eq!(back.to_record(), error.to_record());
    }

    #[test]
    fn an_error_without_a_class_is_permanent_and_no_wait_is_absurd() {
        let read = |text: &str| serde_json::from_str::<ErrorObject>(text).unwrap().into_step_error().class;
        assert_eq!(read(r#"{"code":-1,"message":"no"}"#), ErrorClass::Permanent);
        let wait = |seconds: &str| {
            let text =
                r#"{"code":-32000,"message":"no","data":{"class":"transient","retry_after_seconds":N}}"#;
            read(&text.replace('N', seconds))
        };
        assert_eq!(wait("-1"), ErrorClass::Transient { retry_after_ms: None });
        assert_eq!(wait("1e300"), ErrorClass::Transient { retry_after_ms: Some(86_400_000) });
    }

    #[test]
    fn requests_begin_as_the_protocol_says() {
        let (jsonrpc, id) = (Two::V2, Id::Number(2));
        let request = Request { jsonrpc, id, method: "describe".to_owned(), params: Empty {} };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"jsonrpc":"2.0","id":2,"method":"describe","params":{}}"#);
    }
}
