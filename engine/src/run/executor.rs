//! Makes one call of a step, within its limits, and turns whatever comes of it into a result. A
//! step that panics or hangs costs its node, never the run.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use migrate_plugin_api::{CancellationToken, ErrorRecord, Observation, Step, StepContext, StepError};
use serde_json::Value;

use super::command::{Call, CallKind, Input};
use super::host::{Beat, check_handle};
use crate::ambient;
use crate::workflow::duration;

/// Longest `plan` of one node: reads only, and a person waits for it.
pub(crate) const PLAN_LIMIT: Duration = Duration::from_secs(120);

/// Longest `observe`: a few reads, over a slow network. Tried again after it, as what fails in passing.
const OBSERVE_LIMIT: Duration = Duration::from_secs(600);

/// Time a step has to return after it was told that its time is over, before it is aborted.
const LATE_GRACE: Duration = Duration::from_secs(10);

/// How long a call may take, and whose time that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// What is left of the node's time.
    Node {
        /// The node's `timeout`, or the engine's where it says nothing.
        whole: Duration,
        left: Duration,
    },
    /// What all calls of its kind for a node may take.
    Call { whole: Duration, left: Duration },
}

impl Limit {
    /// The longest call of its kind.
    pub(crate) fn call(whole: Duration) -> Self {
        Self::Call { whole, left: whole }
    }

    fn left(self) -> Duration {
        match self {
            Self::Node { left, .. } | Self::Call { left, .. } => left,
        }
    }

    /// This one, unless it ends later than a call that takes `longest`.
    fn at_most(self, longest: Duration) -> Self {
        if longest < self.left() { Self::call(longest) } else { self }
    }
}

/// Makes `call` and reports it as the core's input.
pub(crate) async fn execute(step: Arc<dyn Step>, ctx: StepContext, call: Call, beat: Beat) -> Input {
    let (node, limit) = (call.node.clone(), call.limit);
    match call.kind {
        CallKind::Observe => {
            let work = step.observe(&ctx, &call.config);
            let limit = limit.at_most(OBSERVE_LIMIT);
            Input::Observed(node, bounded("observe", &ctx.cancel, limit, work).await.and_then(seen))
        }
        CallKind::Apply => {
            let work = step.apply(&ctx, &call.config);
            let (attempt, silence) = (call.attempt_limit, call.heartbeat);
            let over = async {
                tokio::select! {
                    () = ambient::sleep(limit.left()) => late("apply", limit),
                    () = attempt_over(attempt) => long_attempt(attempt.unwrap_or_default()),
                    () = silent(&beat, silence) => silent_step(silence.unwrap_or_default()),
                }
            };
            Input::Applied(node, supervised("apply", &ctx.cancel, over, work).await)
        }
        CallKind::Verify => {
            let outputs = call.outputs.unwrap_or(Value::Null);
            let work = step.verify(&ctx, &call.config, &outputs, call.depth);
            Input::Verified(node, bounded("verify", &ctx.cancel, limit, work).await)
        }
        CallKind::Undo => {
            let outputs = call.outputs.unwrap_or(Value::Null);
            let work = step.undo(&ctx, &call.config, &outputs);
            Input::Undone(node, bounded("undo", &ctx.cancel, limit, work).await)
        }
    }
}

/// What was observed, if it can be kept.
fn seen(observation: Observation) -> Result<Observation, ErrorRecord> {
    if let Observation::Running { handle } = &observation {
        check_handle(handle).map_err(|error| error.to_record())?;
    }
    Ok(observation)
}

async fn attempt_over(limit: Option<Duration>) {
    match limit {
        Some(limit) => ambient::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn silent(beat: &Beat, limit: Option<Duration>) {
    match limit {
        Some(limit) => beat.silence(limit).await,
        None => std::future::pending().await,
    }
}

fn late(what: &str, limit: Limit) -> StepError {
    match limit {
        Limit::Node { whole, .. } => {
            let whole = duration::format(whole);
            StepError::permanent(format!(
                "timed out: `{what}` had not ended when the node's {whole} were over"
            ))
            .with_hint("give the node a longer `timeout`; what is done is kept")
        }
        Limit::Call { whole, .. } => {
            let text = format!("timed out: `{what}` took longer than {}", duration::format(whole));
            // It only reads, and a service that was slow once may be fast the next time.
            let error =
                if what == "observe" { StepError::transient(text) } else { StepError::permanent(text) };
            error.with_hint("see whether what it asks answers at all, and go on then")
        }
    }
}

fn long_attempt(limit: Duration) -> StepError {
    let limit = duration::format(limit);
    StepError::transient(format!("timed out: the attempt took longer than its `attempt_timeout` of {limit}"))
}

fn silent_step(limit: Duration) -> StepError {
    let limit = duration::format(limit);
    StepError::transient(format!("the step was silent for longer than its `heartbeat` of {limit}"))
}

/// Runs `work` for at most `limit`, then asks it to stop, then drops it.
pub(crate) async fn bounded<T>(
    what: &str,
    cancel: &CancellationToken,
    limit: Limit,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, ErrorRecord> {
    let over = async {
        ambient::sleep(limit.left()).await;
        late(what, limit)
    };
    supervised(what, cancel, over, work).await
}

/// Runs `work` until `over` says why it has to end; then asks it to stop, then drops it.
async fn supervised<T>(
    what: &str,
    cancel: &CancellationToken,
    over: impl Future<Output = StepError>,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, ErrorRecord> {
    let mut work = std::pin::pin!(AssertUnwindSafe(work).catch_unwind());
    let result = tokio::select! {
        biased;
        result = &mut work => result,
        error = over => {
            cancel.cancel();
            // What it says now counts only if it is done.
            match ambient::timeout(LATE_GRACE, &mut work).await {
                Ok(Ok(Ok(value))) => Ok(Ok(value)),
                _ => Ok(Err(error)),
            }
        }
    };
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_record()),
        Err(panic) => {
            Err(StepError::permanent(format!("the step panicked in `{what}`: {}", panic_text(&*panic)))
                .with_hint("this is a bug in the step")
                .to_record())
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_stopped_says_whose_time_is_over() {
        let (seconds, hours) = (Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));
        let node = Limit::Node { whole: hours(6), left: seconds(3) };
        let told = |what, limit: Limit| {
            let error = late(what, limit).to_record();
            format!("{:?}: {}\n  {}", error.class, error.message, error.hint.unwrap_or_default())
        };
        insta::assert_snapshot!(
            [
                told("apply", node),
                // So little is left that no look may take its usual time.
                told("observe", node.at_most(OBSERVE_LIMIT)),
                told("observe", Limit::Node { whole: hours(6), left: hours(5) }.at_most(OBSERVE_LIMIT)),
                told("verify", node),
                told("plan", Limit::call(PLAN_LIMIT)),
                told("undo", Limit::Call { whole: hours(6), left: seconds(3) }),
                long_attempt(seconds(90)).to_string(),
                silent_step(seconds(90)).to_string(),
            ]
            .join("\n")
        );
    }
}
