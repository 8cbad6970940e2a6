//! Why there is no engine, and why a run did not begin or could not go on.

use std::path::PathBuf;

use migrate_plugin_api::{NodeId, RunId, StepError};

use crate::report::{Changes, PlanReport};
use crate::store::StoreError;
use crate::store::holder::Holder;
use crate::workflow::{Diagnostics, ReadError};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two steps of one name.
    #[error("two steps are called `{0}`")]
    DuplicateStep(String),
    /// A step whose schemas are no JSON Schemas.
    #[error("step `{step}` describes itself with an invalid JSON Schema: {reason}")]
    InvalidSchema {
        /// The step.
        step: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a run did not begin, or could not go on. A failed node is no error: see [`RunReport`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process runs here. Nothing was touched.
    #[error("another run holds this project: {0}")]
    Locked(Holder),
    /// The lock file can't be used.
    #[error("failed to lock {}", .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Preflight found what stands in the way. Nothing was touched.
    #[error("preflight found problems; nothing was started")]
    Refused(Box<PlanReport>),
    /// The workflow or the environment has mistakes now.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
    /// A file that the run was started from can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Finished or begun nodes of this run have another config now; nothing was touched.
    #[error("the files of run `{0}` have changed since these nodes ran")]
    Changed(RunId, Box<Changes>),
    /// There is no run to resume, or not this one.
    #[error("there is no run `{0}`")]
    UnknownRun(String),
    /// No run at all.
    #[error("this project has no run yet")]
    NoRuns,
    /// The run is already done, and its files lead to nothing more.
    #[error("run `{0}` is done; there is nothing to resume")]
    AlreadyDone(RunId),
    /// The run is undone.
    #[error("run `{0}` is undone; start a new one")]
    AlreadyUndone(RunId),
    /// The run is being undone, and nothing of it is done again.
    #[error("run `{0}` is being undone; nothing of it can be done again")]
    Undoing(RunId),
    /// Steps that are needed for the undo can't be used. Nothing was changed.
    #[error("run `{run}` can't be undone now: {}; nothing was changed", whys(.nodes))]
    UndoBlocked {
        /// The run.
        run: RunId,
        /// Whose steps, and why.
        nodes: Vec<(NodeId, String)>,
    },
    /// Only what can't be undone now is left on request.
    #[error("nothing keeps `{0}` from being undone, so it can't be left")]
    NotBlocked(NodeId),
    /// The run has no such node.
    #[error("the workflow has no node `{node}`{}", .near.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownNode {
        /// As asked for.
        node: NodeId,
        /// The one that was probably meant.
        near: Option<NodeId>,
    },
    /// Going on from a node would repeat others that can't be repeated unasked. Nothing was touched.
    #[error("this would do {} again, which may have had an effect that repeating it would double", named(.nodes))]
    NotRepeatable {
        /// What a person must name to have it repeated.
        nodes: Vec<NodeId>,
    },
    /// What has no result, or is asked for again, can't be kept. Nothing was touched.
    #[error("`{0}` is not finished, or is to be made again, so it can't be kept as it is")]
    NotKept(NodeId),
    /// What has changed in the files can't be kept. Nothing was touched.
    #[error(
        "the files say something else of `{0}` now, so it can't be kept as it is: take that back, or let it run again"
    )]
    KeptChanged(NodeId),
    /// Asked to stop before anything was started.
    #[error("stopped on request before anything was started")]
    Cancelled,
    /// Asked to stop while a new run was still looked at: there is none.
    #[error("stopped on request before the run began; there is nothing of it to resume")]
    NotBegun,
    /// The URL of the shared store isn't where `[store]` says.
    #[error("the store's URL: {}", .0.message)]
    StoreUrl(StepError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn whys(nodes: &[(NodeId, String)]) -> String {
    nodes.iter().map(|(node, why)| format!("`{node}`: {why}")).collect::<Vec<_>>().join("; ")
}

pub(crate) fn named(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ")
}
