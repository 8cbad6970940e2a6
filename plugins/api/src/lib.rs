//! The Step contract: what the engine asks of a step and what a step may ask of the engine.
//!
//! This crate owns the words that both sides speak and does no I/O of its own. Built-in and
//! out-of-process steps implement the same [`Step`]; built-in ones usually through [`TypedStep`],
//! which adds the JSON Schemas and the checked conversion.

mod context;
mod error;
mod evidence;
mod ids;
mod node_id;
mod progress;
pub mod protocol;
mod secret;
mod step;
pub mod testing;
mod typed;

pub use context::{LogLevel, StepContext, StepHost};
pub use error::{ErrorClass, ErrorRecord, StepError};
pub use evidence::{Check, CheckStatus, Evidence};
pub use ids::{IdempotencyKey, InvalidId, RunId};
pub use node_id::NodeId;
pub use progress::{Amount, Progress};
pub use secret::{InvalidSecretRef, SECRET_FORMAT, Secret, SecretProvider, SecretRef, hide_secrets};
pub use step::{
    Idempotency, Observation, Problem, SITE_KEYWORD, Severity, Step, StepInfo, StepPlan, VerifyDepth,
};
pub use typed::{PlanConfig, Typed, TypedObservation, TypedStep, UNKNOWN_KEY, unknown};

pub use async_trait::async_trait;
pub use tokio_util::sync::CancellationToken;
