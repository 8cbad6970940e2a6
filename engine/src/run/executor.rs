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
use crate::ambient;
use crate::workflow::duration;

/// Longest `plan` of one node: reads only, and a person waits for it.
pub(crate) const PLAN_LIMIT: Duration = Duration::from_secs(120);

/// Longest `observe`: a few reads, over a slow network.
const OBSERVE_LIMIT: Duration = Duration::from_secs(600);

/// Time a step has to return after it was told that its time is over, before it is aborted.
const LATE_GRACE: Duration = Duration::from_secs(10);

/// Makes `call` and reports it as the core's input.
pub(crate) async fn execute(step: Arc<dyn Step>, ctx: StepContext, call: Call) -> Input {
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
            Input::Applied(node, bounded("apply", &ctx.cancel, limit, work).await)
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

/// Runs `work` for at most `limit`, then asks it to stop, then drops it.
pub(crate) async fn bounded<T>(
    what: &str,
    cancel: &CancellationToken,
    limit: Duration,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, ErrorRecord> {
    let mut work = std::pin::pin!(AssertUnwindSafe(work).catch_unwind());
    let result = match ambient::timeout(limit, &mut work).await {
        Ok(result) => result,
        Err(_) => {
            cancel.cancel();
            // What it says now counts only if it is done.
            match ambient::timeout(LATE_GRACE, &mut work).await {
                Ok(Ok(Ok(value))) => Ok(Ok(value)),
                _ => Ok(Err(StepError::permanent(format!(
                    "timed out: `{what}` took longer than the node's time of {}",
                    duration::format(limit)
                ))
                .with_hint("raise the node's `timeout`; what is done is kept"))),
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
