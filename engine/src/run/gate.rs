//! Gates: nodes that wait for a person. A built-in of the engine: nothing outside is touched.
//!
//! A decision comes by a file of its own under `.migrate/decisions`, written whole or not at all and
//! never replaced: the first one stands. Whoever decides needs no lock; the dispatcher, which alone
//! writes facts, looks there while a gate waits, and makes a fact of what it finds. A decision is for
//! one key: a gate that asks again, or asks something else, has another.

use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use jiff::Timestamp;
use migrate_plugin_api::{
    Check, Evidence, Idempotency, IdempotencyKey, Observation, RunId, Step, StepContext, StepError, StepInfo,
    StepPlan, VerifyDepth,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The name of the step.
pub(crate) const GATE: &str = "gate";

/// Longest note that is kept.
pub(crate) const MAX_NOTE_BYTES: usize = 4 * 1024;

/// Largest file that is taken for a decision.
const MAX_FILE_BYTES: u64 = 64 * 1024;

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

/// Why a decision was not taken.
#[derive(Debug)]
pub(crate) enum DropError {
    /// Somebody else was first.
    Decided(Box<GateDecision>),
    Io(std::io::Error),
}

/// Where decisions about the gates of one run are dropped.
#[derive(Debug, Clone)]
pub(crate) struct DecisionBox {
    dir: PathBuf,
}

impl DecisionBox {
    pub(crate) fn new(state_dir: &Path, run: &RunId) -> Self {
        Self { dir: state_dir.join("decisions").join(run.as_str()) }
    }

    fn path(&self, key: &IdempotencyKey) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// Drops a decision. Durable when it returns.
    pub(crate) fn put(&self, decision: &GateDecision) -> Result<(), DropError> {
        let io = DropError::Io;
        std::fs::create_dir_all(&self.dir).map_err(io)?;
        let new = self.dir.join(format!("{}.{}.new", decision.key, std::process::id()));
        let mut file = std::fs::File::create(&new).map_err(io)?;
        let text = serde_json::to_vec(decision).map_err(|error| DropError::Io(error.into()))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io)?;
        let linked = std::fs::hard_link(&new, self.path(&decision.key));
        let removed = std::fs::remove_file(&new);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let first = self.get(&decision.key).map_err(io)?;
                return Err(first.map_or(DropError::Io(error), |first| DropError::Decided(Box::new(first))));
            }
            Err(error) => return Err(DropError::Io(error)),
        }
        removed.map_err(io)?;
        std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io)
    }

    /// The decision about `key`, if there is one.
    pub(crate) fn get(&self, key: &IdempotencyKey) -> std::io::Result<Option<GateDecision>> {
        use std::io::Read;
        let file = match std::fs::File::open(self.path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        let decision: GateDecision = serde_json::from_slice(&text)?;
        Ok(Some(decision).filter(|decision| decision.key == *key))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(approved: bool) -> GateDecision {
        GateDecision {
            key: IdempotencyKey::new("gate-0123456789").unwrap(),
            approved,
            by: "ana".to_owned(),
            host: "laptop".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            note: Some("seen".to_owned()),
        }
    }

    #[test]
    fn the_first_decision_stands() {
        let dir = tempfile::tempdir().unwrap();
        let decisions = DecisionBox::new(dir.path(), &RunId::new("r").unwrap());
        let first = decision(false);
        assert_eq!(decisions.get(&first.key).unwrap(), None);
        decisions.put(&first).unwrap();
        let Err(DropError::Decided(stands)) = decisions.put(&decision(true)) else { panic!("replaced") };
        assert_eq!(*stands, first);
        assert_eq!(decisions.get(&first.key).unwrap(), Some(first.clone()));
        assert_eq!(first.sentence(), "rejected by ana@laptop: seen");
        assert_eq!(std::fs::read_dir(dir.path().join("decisions/r")).unwrap().count(), 1);
    }
}
