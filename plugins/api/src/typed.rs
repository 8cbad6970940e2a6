//! The contract with Rust types: what built-in steps implement.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    Evidence, Idempotency, Observation, Step, StepContext, StepError, StepInfo, StepPlan, VerifyDepth,
};

/// Key of the object that stands for an input not known yet.
pub const UNKNOWN_KEY: &str = "$unknown";

/// The mark of an input that is only known once `reference` has run.
pub fn unknown(reference: &str) -> Value {
    Value::Object(Map::from_iter([(UNKNOWN_KEY.to_owned(), Value::from(reference))]))
}

fn has_unknown(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key(UNKNOWN_KEY) || map.values().any(has_unknown),
        Value::Array(items) => items.iter().any(has_unknown),
        _ => false,
    }
}

/// A config at plan time, in which some inputs may be unknown.
pub struct PlanConfig<C> {
    value: Value,
    known: Option<C>,
}

impl<C: DeserializeOwned> PlanConfig<C> {
    /// Reads `value`.
    ///
    /// # Errors
    /// `Permanent` when everything is known and it is still no `C`.
    pub fn new(value: &Value) -> Result<Self, StepError> {
        let known = if has_unknown(value) { None } else { Some(from_config(value)?) };
        Ok(Self { value: value.clone(), known })
    }

    /// The whole config, if every input is known.
    pub fn known(&self) -> Option<&C> {
        self.known.as_ref()
    }

    /// One top-level field; `None` when it is absent or not wholly known yet.
    ///
    /// # Errors
    /// `Permanent` when it is known and no `T`.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StepError> {
        match self.value.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) if has_unknown(value) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|e| StepError::permanent(format!("field `{name}` is not valid")).with_source(e)),
        }
    }

    /// One top-level list or table as far as it is known: the items before the first that is not wholly
    /// known, the entries that are. `None` when it is absent or nothing is known of it.
    ///
    /// # Errors
    /// `Permanent` when what is known of it is no `T`.
    pub fn part<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StepError> {
        let part = match self.value.get(name) {
            Some(Value::Array(items)) => {
                items.iter().take_while(|item| !has_unknown(item)).cloned().collect::<Value>()
            }
            Some(Value::Object(table)) if !table.contains_key(UNKNOWN_KEY) => {
                let known = table.iter().filter(|(_, value)| !has_unknown(value));
                known.map(|(key, value)| (key.clone(), value.clone())).collect()
            }
            _ => return self.field(name),
        };
        serde_json::from_value(part)
            .map(Some)
            .map_err(|e| StepError::permanent(format!("field `{name}` is not valid")).with_source(e))
    }
}

fn from_config<T: DeserializeOwned>(value: &Value) -> Result<T, StepError> {
    serde_json::from_value(value.clone())
        .map_err(|e| StepError::permanent("the step's config is not valid").with_source(e))
}

fn from_outputs<T: DeserializeOwned>(value: &Value) -> Result<T, StepError> {
    serde_json::from_value(value.clone())
        .map_err(|e| StepError::corrupt("the node's stored outputs can't be read").with_source(e))
}

fn to_outputs<T: Serialize>(outputs: &T) -> Result<Value, StepError> {
    serde_json::to_value(outputs)
        .map_err(|e| StepError::permanent("failed to write the outputs as JSON").with_source(e))
}

/// [`Step`] with a typed config and typed outputs. Wrap it in [`Typed`] to get a [`Step`].
///
/// `Config` should be `deny_unknown_fields` and kebab-case.
#[async_trait]
pub trait TypedStep: Send + Sync + 'static {
    /// As written in a workflow.
    const NAME: &'static str;
    /// Changes whenever results of an earlier version must not be reused.
    const VERSION: &'static str = "1";
    /// One sentence, no period.
    const SUMMARY: &'static str;
    /// What a repeated `apply` does.
    const IDEMPOTENCY: Idempotency;
    /// Whether `undo` is implemented.
    const SUPPORTS_UNDO: bool = false;
    /// See [`Step::keeps_cursor`].
    const KEEPS_CURSOR: bool = false;

    /// `with`.
    type Config: DeserializeOwned + JsonSchema + Send + Sync;
    /// What later nodes may refer to.
    type Outputs: Serialize + DeserializeOwned + JsonSchema + Send + Sync;

    /// See [`Step::plan`].
    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Self::Config>)
    -> Result<StepPlan, StepError>;

    /// See [`Step::observe`].
    async fn observe(
        &self,
        ctx: &StepContext,
        config: &Self::Config,
    ) -> Result<TypedObservation<Self::Outputs>, StepError>;

    /// See [`Step::apply`].
    async fn apply(&self, ctx: &StepContext, config: &Self::Config) -> Result<Self::Outputs, StepError>;

    /// See [`Step::verify`].
    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Self::Config,
        outputs: &Self::Outputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError>;

    /// See [`Step::undo`]: it must bear to be called again.
    async fn undo(
        &self,
        _ctx: &StepContext,
        _config: &Self::Config,
        _outputs: &Self::Outputs,
    ) -> Result<(), StepError> {
        Err(StepError::permanent(format!("step `{}` can't be undone", Self::NAME)))
    }
}

/// [`Observation`] with typed outputs.
#[derive(Debug, Clone, PartialEq)]
pub enum TypedObservation<O> {
    /// Nothing of it exists, or, where the step is not keyed, doing it again is harmless.
    Absent,
    /// It goes on outside.
    Running {
        /// The outside thing's ID.
        handle: String,
    },
    /// It is finished.
    Done(O),
    /// Can't be told.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Makes a [`Step`] of a [`TypedStep`].
pub struct Typed<S>(pub S);

#[async_trait]
impl<S: TypedStep> Step for Typed<S> {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: S::NAME.to_owned(),
            version: S::VERSION.to_owned(),
            summary: S::SUMMARY.to_owned(),
            config_schema: schemars::schema_for!(S::Config).to_value(),
            output_schema: schemars::schema_for!(S::Outputs).to_value(),
            sensitive: Vec::new(),
            idempotency: S::IDEMPOTENCY,
            supports_undo: S::SUPPORTS_UNDO,
        }
    }

    fn keeps_cursor(&self) -> bool {
        S::KEEPS_CURSOR
    }

    async fn plan(&self, ctx: &StepContext, config: &Value) -> Result<StepPlan, StepError> {
        self.0.plan(ctx, &PlanConfig::new(config)?).await
    }

    async fn observe(&self, ctx: &StepContext, config: &Value) -> Result<Observation, StepError> {
        Ok(match self.0.observe(ctx, &from_config(config)?).await? {
            TypedObservation::Absent => Observation::Absent,
            TypedObservation::Running { handle } => Observation::Running { handle },
            TypedObservation::Done(outputs) => Observation::Done { outputs: to_outputs(&outputs)? },
            TypedObservation::Unknown { reason } => Observation::Unknown { reason },
        })
    }

    async fn apply(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError> {
        to_outputs(&self.0.apply(ctx, &from_config(config)?).await?)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Value,
        outputs: &Value,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        self.0.verify(ctx, &from_config(config)?, &from_outputs(outputs)?, depth).await
    }

    async fn undo(&self, ctx: &StepContext, config: &Value, outputs: &Value) -> Result<(), StepError> {
        self.0.undo(ctx, &from_config(config)?, &from_outputs(outputs)?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Config {
        name: String,
    }

    #[test]
    fn unknown_inputs_are_told_from_wrong_ones() {
        let value = serde_json::json!({ "name": unknown("nodes.backup.name"), "count": 3 });
        let config = PlanConfig::<Config>::new(&value).unwrap();
        assert!(config.known().is_none());
        assert_eq!(config.field::<String>("name").unwrap(), None);
        assert_eq!(config.field::<u32>("count").unwrap(), Some(3));
        assert!(config.field::<bool>("count").is_err());
        assert!(PlanConfig::<Config>::new(&serde_json::json!({ "name": 1 })).is_err());
        let whole = PlanConfig::<Config>::new(&serde_json::json!({ "name": "a" })).unwrap();
        assert_eq!(whole.known().map(|c| c.name.as_str()), Some("a"));
    }

    #[test]
    fn of_a_list_or_a_table_the_known_part_is_told() {
        let unknown = unknown("nodes.a.b");
        let value = serde_json::json!({
            "list": ["a", [&unknown], "c"], "first": [&unknown, "b"], "table": { "a": "1", "b": &unknown },
            "whole": &unknown, "text": "t",
        });
        let config = PlanConfig::<Config>::new(&value).unwrap();
        let list = |name: &str| config.part::<Vec<String>>(name);
        assert_eq!(list("list").unwrap(), Some(vec!["a".to_owned()]));
        assert_eq!(list("first").unwrap(), Some(Vec::new()));
        assert_eq!((list("whole").unwrap(), list("none").unwrap()), (None, None));
        let table = config.part::<std::collections::BTreeMap<String, String>>("table").unwrap();
        assert_eq!(table, Some([("a".to_owned(), "1".to_owned())].into()));
        assert_eq!(config.part::<String>("text").unwrap().as_deref(), Some("t"));
        assert!(list("table").is_err());
    }
}
