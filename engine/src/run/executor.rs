//! Makes one call of a step, within its limits, and turns whatever comes of it into a result. A
//! step that panics or hangs costs its node, never the run.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use migrate_plugin_api::{CancellationToken, ErrorRecord, Step, StepContext, StepError, VerifyDepth};
use serde_json::Value;

use super::command::{Call, CallKind, Input};
use super::host::Beat;
use crate::ambient;
use crate::workflow::duration;

/// Longest `plan` of one node: reads only, and a person waits for it.
pub(crate) const PLAN_LIMIT: Duration = Duration::from_secs(120);

/// Longest `observe`: a few reads, over a slow network.
const OBSERVE_LIMIT: Duration = Duration::from_secs(600);

/// Time a step has to return after it was told that its time is over, before it is aborted.
const LATE_GRACE: Duration = Duration::from_secs(10);

/// Makes `call` and reports it as the core's input.
pub(crate) async fn execute(step: Arc<dyn Step>, ctx: StepContext, call: Call, beat: Beat) -> Input {
    let node = call.node.clone();
    let limit = match call.kind {
        CallKind::Observe => OBSERVE_LIMIT.min(call.limit),
        CallKind::Apply | CallKind::Verify | CallKind::Undo => call.limit,
    };
    match call.kind {
        CallKind::Observe => {
            let work = step.observe(&ctx, &call.config);
            Input::Observed(node, bounded("observe", &ctx.cancel, limit, work).await)
        }
        CallKind::Apply => {
            let work = step.apply(&ctx, &call.config);
            let (attempt, silence) = (call.attempt_limit, call.heartbeat);
            let over = async {
                tokio::select! {
                    () = ambient::sleep(limit) => late("apply", limit),
                    () = attempt_over(attempt) => long_attempt(attempt.unwrap_or_default()),
                    () = silent(&beat, silence) => silent_step(silence.unwrap_or_default()),
                }
            };
            Input::Applied(node, supervised("apply", &ctx.cancel, over, work).await)
        }
        CallKind::Verify => {
            let outputs = call.outputs.unwrap_or(Value::Null);
            let work = step.verify(&ctx, &call.config, &outputs, VerifyDepth::Quick);
            Input::Verified(node, bounded("verify", &ctx.cancel, limit, work).await)
        }
        CallKind::Undo => {
            let outputs = call.outputs.unwrap_or(Value::Null);
            let work = step.undo(&ctx, &call.config, &outputs);
            Input::Undone(node, bounded("undo", &ctx.cancel, limit, work).await)
        }
    }
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

fn late(what: &str, limit: Duration) -> StepError {
    let limit = duration::format(limit);
    StepError::permanent(format!("timed out: `{what}` took longer than the node's time of {limit}"))
        .with_hint("raise the node's `timeout`; what is done is kept")
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
    limit: Duration,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, ErrorRecord> {
    let over = async {
        ambient::sleep(limit).await;
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
