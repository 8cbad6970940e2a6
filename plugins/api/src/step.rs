//! The contract itself.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Evidence, StepContext, StepError};

/// What happens when `apply` is called twice with the same key and config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Idempotency {
    /// The same as once, by the nature of the effect (copying by digest, applying manifests).
    Natural,
    /// The same as once, because the outside thing is named by the key and found again.
    Keyed,
    /// It would happen twice. After an interruption a person decides unless `observe` knows.
    None,
}

/// The keyword of a field in a step's JSON Schema that names an entry at the top of `migration.toml`, as `"x-env":
/// "rules"`: where a node leaves the field out and the file has the entry, it is `${env.rules}`.
pub const SITE_KEYWORD: &str = "x-env";

/// What a step is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepInfo {
    /// As written in a workflow: `family.verb` or one word.
    pub name: String,
    /// Changes whenever results of an earlier version must not be reused.
    pub version: String,
    /// One sentence for lists, no period.
    pub summary: String,
    /// JSON Schema of `with`.
    pub config_schema: Value,
    /// JSON Schema of the outputs.
    pub output_schema: Value,
    /// JSON Pointers of output fields that must not be stored or shown in clear.
    pub sensitive: Vec<String>,
    /// What a repeated `apply` does.
    pub idempotency: Idempotency,
    /// Whether `undo` can take the effect back.
    pub supports_undo: bool,
}

impl StepInfo {
    /// Replaces in `outputs` what is sensitive, as they are stored, and given to `verify` and `undo`.
    pub fn mask(&self, outputs: &mut Value) {
        for pointer in &self.sensitive {
            if let Some(value) = outputs.pointer_mut(pointer) {
                *value = Value::from("(sensitive)");
            }
        }
    }
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The run must not start.
    Error,
    /// A person should read it before starting.
    Warning,
}

/// Something that stands in the way, found before anything was touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Field of `with` it comes from, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What a plan told, where it is too late for one.
impl From<Problem> for StepError {
    fn from(problem: Problem) -> Self {
        Self { hint: problem.hint, ..Self::permanent(problem.message) }
    }
}

impl Problem {
    /// The run must not start.
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, field: None, message: message.into(), hint: None }
    }

    /// A person should read it.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, field: None, message: message.into(), hint: None }
    }

    /// Names the field of `with`.
    #[must_use]
    pub fn in_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a step would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepPlan {
    /// One line: `copy 12 images to registry.example`.
    pub summary: String,
    /// Items that would be handled, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// Bytes that would move, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Expected time in seconds, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// What it would overwrite or delete, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destroys: Vec<String>,
    /// What stands in the way. One with [`Severity::Error`] keeps the run from starting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl StepPlan {
    /// A plan that is only its summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }
}

/// What became of an attempt whose end the engine did not see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Observation {
    /// Nothing of it exists outside: `apply` may start. A keyed step says so only where it has looked for what
    /// its key names. Another may also mean that doing it again is harmless.
    Absent,
    /// It goes on outside. `apply` is called and must join it by the handle, not start another.
    Running {
        /// The outside thing's ID.
        handle: String,
    },
    /// It is finished; `apply` is not called.
    Done {
        /// As `apply` would have returned them.
        outputs: Value,
    },
    /// Can't be told.
    Unknown {
        /// Why, for the person who must decide.
        reason: String,
    },
}

/// How hard `verify` looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyDepth {
    /// Seconds: listings, digests, states. Run after every `apply` and before any reuse.
    Quick,
    /// Everything again from the data itself. Run by `migrate verify --deep`.
    Deep,
}

/// A kind of work.
///
/// `config` is the node's `with` with every reference resolved, already checked against
/// [`StepInfo::config_schema`]. In `plan` unresolved inputs are marked: see
/// [`PlanConfig`](crate::PlanConfig).
///
/// `plan`, `observe` and `verify` only read. All calls must return soon after
/// [`StepContext::cancel`] is cancelled.
#[async_trait]
pub trait Step: Send + Sync {
    /// What this step is. Constant.
    fn describe(&self) -> StepInfo;

    /// Whether its cursor notes what must not be done twice. Then it outlasts a node that is made again only for the
    /// sake of what it is built on, and not one that a person asked for or whose config has changed.
    fn keeps_cursor(&self) -> bool {
        false
    }

    /// What it would do, and what stands in the way. Works before anything has run.
    async fn plan(&self, ctx: &StepContext, config: &Value) -> Result<StepPlan, StepError>;

    /// What became of an earlier attempt. Asked before anything is done again, with the key and the
    /// config of that attempt, also where the workflow has another config by now.
    async fn observe(&self, ctx: &StepContext, config: &Value) -> Result<Observation, StepError>;

    /// Does the work and returns its outputs. What it made must be durable when it returns.
    async fn apply(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError>;

    /// Compares `outputs` with the world; sensitive ones are masked, as they are stored. An `Ok` with a failed check means "looked, and it is
    /// wrong"; an `Err` means "could not look".
    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Value,
        outputs: &Value,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError>;

    /// Takes the effect back. Only called where [`StepInfo::supports_undo`], with the key, the config
    /// and the outputs of the attempt that made it (sensitive outputs are masked, as they are stored).
    ///
    /// Must be idempotent: after an interruption it is called again, and what is gone already, or was
    /// never wholly there, is no error. `Ok` means that the effect is durably gone.
    async fn undo(&self, ctx: &StepContext, config: &Value, outputs: &Value) -> Result<(), StepError>;
}
