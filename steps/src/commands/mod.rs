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

use migrate_plugin_api::{Problem, SecretRef, Step, StepContext, StepError, Typed, TypedObservation};
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

/// How a plan takes what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// The node fails.
    Fails,
    /// The node waits for outputs of another, which may make it first.
    MayCome,
}

impl Missing {
    fn problem(self, error: StepError, field: &str) -> Problem {
        let problem = match self {
            Self::Fails => Problem::error(error.message),
            Self::MayCome => Problem::warning(error.message).with_hint("another node must make it first"),
        };
        Problem { hint: error.hint.or(problem.hint), field: Some(field.to_owned()), ..problem }
    }

    /// Of secrets. No node sets a variable of `migrate` itself.
    async fn secrets<'a>(
        self,
        ctx: &StepContext,
        references: impl IntoIterator<Item = &'a SecretRef>,
        field: &str,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for reference in references {
            let missing = if matches!(reference, SecretRef::Env(_)) { Self::Fails } else { self };
            problems.extend(ctx.secret(reference).await.err().map(|e| missing.problem(e, field)));
        }
        problems
    }
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
