//! Work that needs no plugin: a command of this machine, a request over HTTP.
//!
//! Invariants: a secret reaches the program or the service that it was given to, and no log, output
//! or error; what may have had its effect is never done again unless its author says that this is
//! harmless, or gives a command that can tell. Where it is harmless only by the node's key, nothing else
//! is begun beside it under another.

mod answer;
mod exec;
#[cfg(test)]
mod exec_tests;
mod http;
#[cfg(test)]
mod http_tests;
mod mask;
mod process;
mod request;

use std::sync::Arc;

use migrate_plugin_api::{Step, StepContext, Typed, TypedObservation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(exec::Exec)), Arc::new(Typed(http::Http))]
}

/// Most that is kept of what a command prints or a service answers: outputs are stored with the run
/// and passed to other nodes; data belongs into a file.
const KEPT_BYTES: usize = 64 * 1024;

/// What its author says about doing the same twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Repeated {
    /// It would happen twice.
    None,
    /// It is the same as once.
    Natural,
    /// It is the same as once, because it is named by the node's key and found again.
    Keyed,
}

/// What is known of an attempt's effect.
enum Effect {
    None,
    /// There may be one, and why that can't be told.
    Unclear(String),
}

/// What an attempt has left that is not at work on this machine any more.
fn left<O>(ctx: &StepContext, repeated: Repeated, effect: Effect) -> TypedObservation<O> {
    match (repeated, effect) {
        (Repeated::Natural, _) | (Repeated::None, Effect::None) => TypedObservation::Absent,
        // A handle is from an earlier attempt that may have had an effect.
        (Repeated::Keyed, Effect::None) if ctx.handle().is_none() => TypedObservation::Absent,
        // The same request finds it again by this key; a changed one would have another.
        (Repeated::Keyed, _) => TypedObservation::Running { handle: ctx.key.to_string() },
        (Repeated::None, Effect::Unclear(reason)) => TypedObservation::Unknown { reason },
    }
}
