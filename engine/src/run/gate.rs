//! Gates: nodes that wait for a person. A built-in of the engine: nothing outside is touched.
//!
//! A decision is dropped in the store, whole or not at all, and never replaced: the first one stands.
//! Whoever decides needs no lock; the dispatcher, which alone writes facts, looks there while a gate
//! waits, and makes a fact of what it finds. A decision is for one key: a gate that asks again, or asks
//! something else, has another.

use async_trait::async_trait;
use jiff::Timestamp;
use migrate_plugin_api::{
    Check, Evidence, Idempotency, IdempotencyKey, Observation, Step, StepContext, StepError, StepInfo,
    StepPlan, VerifyDepth,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The name of the step.
pub(crate) const GATE: &str = "gate";

/// Longest note that is kept.
pub(crate) const MAX_NOTE_BYTES: usize = 4 * 1024;

/// What a person decided about a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GateDecision {
    /// Which question of which gate it answers.
    pub key: IdempotencyKey,
    /// Yes or no.
    pub approved: bool,
    /// The user of the operating system.
    pub by: String,
    /// The machine.
    pub host: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl GateDecision {
    /// `approved by ana@laptop: seen the counts`.
    pub fn sentence(&self) -> String {
        let word = if self.approved { "approved" } else { "rejected" };
        let note = self.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("{word} by {}@{}{note}", self.by, self.host)
    }

    /// The outputs of an approved gate.
    pub(crate) fn outputs(&self) -> Value {
        json!({ "by": self.by, "host": self.host, "at": self.at, "note": self.note })
    }
}

/// The step itself: it is planned and verified as any other; the core never applies it.
pub(crate) struct Gate;

#[async_trait]
impl Step for Gate {
    fn describe(&self) -> StepInfo {
        let text = |description: &str| json!({ "type": "string", "description": description });
        StepInfo {
            name: GATE.to_owned(),
            version: "1".to_owned(),
            summary: "Waits until a person says yes: `migrate approve NODE`".to_owned(),
            config_schema: json!({
                "type": "object",
                "additionalProperties": false,
                "required": ["message"],
                "properties": {
                    "message": text("What is to be decided"),
                    "approvers": text("Who should decide; shown with the message, not enforced"),
                },
            }),
            output_schema: json!({
                "type": "object",
                "required": ["by", "host", "at"],
                "properties": {
                    "by": text("Who approved: the user of the operating system"),
                    "host": text("On which machine"),
                    "at": text("When"),
                    "note": { "type": ["string", "null"], "description": "The note given with it" },
                },
            }),
            sensitive: Vec::new(),
            idempotency: Idempotency::Natural,
            supports_undo: false,
        }
    }

    async fn plan(&self, _: &StepContext, config: &Value) -> Result<StepPlan, StepError> {
        Ok(StepPlan::new(format!("wait for a person: {}", question(config))))
    }

    async fn observe(&self, _: &StepContext, _: &Value) -> Result<Observation, StepError> {
        Ok(Observation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, _: &Value) -> Result<Value, StepError> {
        Err(StepError::permanent(format!("gate `{}` is for a person to decide", ctx.node)))
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Value,
        outputs: &Value,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let text = |name: &str| outputs.get(name).and_then(Value::as_str);
        let (by, host) = (text("by").unwrap_or_default(), text("host").unwrap_or_default());
        let at = text("at").unwrap_or_default();
        let who = format!("{by}@{host}");
        let note = text("note").map(|note| format!(": {note}")).unwrap_or_default();
        let check = Check::equal(format!("gate {}", ctx.node), "approved by", &who, &who);
        Ok(Evidence::from_iter([check.with_note(format!("{at}, asked: {}{note}", question(config)))]))
    }

    async fn undo(&self, _: &StepContext, _: &Value, _: &Value) -> Result<(), StepError> {
        Err(StepError::permanent("a decision can't be undone"))
    }
}

/// What a gate asks.
pub(crate) fn question(config: &Value) -> String {
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let approvers = text("approvers").map(|who| format!(" (for {who})")).unwrap_or_default();
    format!("{}{approvers}", text("message").unwrap_or("a value that is not known yet"))
}
