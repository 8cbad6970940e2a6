//! The way in: [`Engine`] checks, plans, runs, resumes, verifies and tells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_plugin_api::{CancellationToken, NodeId, RunId, Step, StepInfo, VerifyDepth};

use crate::event::EventSink;
use crate::report::{Changes, PlanReport, RunReport, RunStatus, RunSummary};
use crate::run::Holder;
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::workflow::{Checked, Diagnostics, Params, ReadError, Source};

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
    #[error("failed to lock {path}")]
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
    /// Finished or begun nodes have another config now; nothing was touched.
    #[error("the workflow or the environment has changed since the run")]
    Changed(Box<Changes>),
    /// There is no run to resume, or not this one.
    #[error("there is no run `{0}`")]
    UnknownRun(String),
    /// No run at all.
    #[error("this project has no run yet")]
    NoRuns,
    /// The run is already done.
    #[error("run `{0}` is done; there is nothing to resume")]
    AlreadyDone(RunId),
    /// The run has no such node.
    #[error("the workflow has no node `{0}`")]
    UnknownNode(NodeId),
    /// Asked to stop before anything was started.
    #[error("stopped on request before anything was started")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to resume, and how.
#[derive(Debug, Clone, Default)]
pub struct ResumeRequest {
    /// The run; default: the newest.
    pub run: Option<RunId>,
    /// Rerun what has changed.
    pub accept_changes: bool,
    /// Run these again whatever is known of them; the way on when a person has decided about an
    /// attempt whose end can't be told.
    pub rerun: Vec<NodeId>,
    /// Parameters that replace stored ones.
    pub params: Params,
}

/// What to verify again.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// The run; default: the newest.
    pub run: Option<RunId>,
    /// How hard to look.
    pub depth: VerifyDepth,
}

/// One project folder and the steps that are known.
pub struct Engine {
    project_dir: PathBuf,
    steps: BTreeMap<String, Arc<dyn Step>>,
    infos: BTreeMap<String, StepInfo>,
}

impl Engine {
    /// An engine for the project in `project_dir` (the folder of `migration.toml`). Touches nothing.
    ///
    /// # Errors
    /// When two steps have one name or a step's schema is none.
    pub fn open(project_dir: impl Into<PathBuf>, steps: Vec<Arc<dyn Step>>) -> Result<Self, OpenError> {
        let _ = (project_dir.into(), steps);
        todo!()
    }

    /// The project folder.
    pub fn project_dir(&self) -> &Path {
        &self.project_dir
    }

    /// Every known step, by name.
    pub fn steps(&self) -> impl Iterator<Item = &StepInfo> {
        self.infos.values()
    }

    /// Checks everything that can be checked without asking any service: the workflow, the
    /// environment and the parameters together.
    ///
    /// # Errors
    /// Every mistake found, not only the first.
    pub fn check(
        &self,
        _workflow: &Source,
        _environment: &Source,
        _params: &Params,
    ) -> Result<Checked, Diagnostics> {
        todo!()
    }

    /// Checks a workflow alone, or with as much of its surroundings as there is: what is not given
    /// counts as unknown, not as missing.
    ///
    /// # Errors
    /// Every mistake found, not only the first.
    pub fn validate(
        &self,
        _workflow: &Source,
        _environment: Option<&Source>,
        _params: &Params,
    ) -> Result<(), Diagnostics> {
        todo!()
    }

    /// Asks every step what it would do. Reads only; needs no lock and no store.
    pub async fn plan(&self, _checked: &Checked, _cancel: &CancellationToken) -> PlanReport {
        todo!()
    }

    /// Runs a workflow from its beginning.
    ///
    /// # Errors
    /// When it did not begin or could not go on; a failed or interrupted run is `Ok`.
    pub async fn run(
        &self,
        _checked: &Checked,
        _events: EventSink,
        _shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        todo!()
    }

    /// Goes on with a run from its durable facts, with the current workflow and environment files.
    ///
    /// # Errors
    /// When it did not begin or could not go on; a failed or interrupted run is `Ok`.
    pub async fn resume(
        &self,
        _request: ResumeRequest,
        _events: EventSink,
        _shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        todo!()
    }

    /// Verifies all finished nodes of a run again. Changes nothing, needs no lock.
    /// A node with a failed check is reported as failed.
    ///
    /// # Errors
    /// When the run or its files can't be read.
    pub async fn verify(
        &self,
        _request: VerifyRequest,
        _events: EventSink,
        _shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        todo!()
    }

    /// A run as it stands, by default the newest. Needs no lock.
    ///
    /// # Errors
    /// When there is no such run or the store can't be read.
    pub async fn status(&self, _run: Option<&RunId>) -> Result<RunStatus, RunError> {
        todo!()
    }

    /// All runs, newest first. Needs no lock.
    ///
    /// # Errors
    /// When the store can't be read. A project without a store has no runs.
    pub async fn runs(&self) -> Result<Vec<RunSummary>, RunError> {
        todo!()
    }
}
