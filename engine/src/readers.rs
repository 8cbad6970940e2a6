//! What readers ask: they change nothing and need no lock, so they work while a run is alive.

use migrate_plugin_api::RunId;

use crate::engine::{Engine, find};
use crate::error::RunError;
use crate::history::{History, HistoryRequest, story};
use crate::report::{RunReport, RunStatus, RunSummary};
use crate::run::state::RunFacts;
use crate::store::fact::RunRecord;
use crate::store::holder::Holder;
use crate::workflow::{Diagnostics, Params, Source};

/// Log lines read at once: a few megabytes.
const MAX_LINES: u32 = 10_000;

impl Engine {
    /// The JSON Schema of workflow files with the known steps, for editors.
    pub fn workflow_schema(&self) -> serde_json::Value {
        crate::workflow::workflow_schema(&self.catalog)
    }

    /// The JSON Schema of `migration.toml`, as far as `workflows` refer to it, for editors.
    ///
    /// # Errors
    /// When a workflow can't be read: every mistake in their form.
    pub fn environment_schema(&self, workflows: &[Source]) -> Result<serde_json::Value, Diagnostics> {
        crate::workflow::environment_schema(&self.catalog, workflows)
    }

    /// What is no mistake of a valid workflow and still worth a look, a line each: parameters that a run
    /// will need, and what stands in the environment for neither it nor one of `others`.
    pub fn remarks(
        &self,
        workflow: &Source,
        environment: Option<&Source>,
        params: &Params,
        others: &[Source],
    ) -> Vec<String> {
        crate::workflow::remarks((&self.catalog, &self.library), workflow, environment, params, others)
    }

    /// A run as it stands, by default the newest. Needs no lock.
    ///
    /// # Errors
    /// When there is no such run or the store can't be read.
    pub async fn status(&self, run: Option<&RunId>) -> Result<RunStatus, RunError> {
        let (run, facts, holder) = self.standing(run).await?;
        Ok(RunStatus { report: facts.report(&run, holder.is_some()), holder })
    }

    /// A run, what is known of it, and who works on it.
    pub(crate) async fn standing(
        &self,
        run: Option<&RunId>,
    ) -> Result<(RunRecord, RunFacts, Option<Holder>), RunError> {
        let Some(store) = self.existing_store().await? else { return Err(RunError::NoRuns) };
        let run = find(&*store, run).await?;
        // Looked for before the facts are read: a process that ends meanwhile has stored its end.
        let holder = self.holder_of(&*store, &run.id).await?;
        let facts = RunFacts::fold(store.facts(&run.id).await?);
        let holder = holder.filter(|_| facts.ended.is_none());
        Ok((run, facts, holder))
    }

    /// All runs, newest first. Needs no lock.
    ///
    /// # Errors
    /// When the store can't be read. A project without a store has no runs.
    pub async fn runs(&self) -> Result<Vec<RunSummary>, RunError> {
        let Some(store) = self.existing_store().await? else { return Ok(Vec::new()) };
        let holder = self.holder(&*store).await?;
        let mut summaries = Vec::new();
        for run in store.runs().await? {
            let facts = RunFacts::fold(store.facts(&run.id).await?);
            let alive = holder.as_ref().is_some_and(|holder| holder.run.as_ref() == Some(&run.id));
            let report = facts.report(&run, alive);
            let RunReport { run, workflow, state, started_at, ended_at, .. } = report;
            summaries.push(RunSummary { run, workflow, state, started_at, ended_at });
        }
        Ok(summaries)
    }

    /// What has happened to a run, or to one of its nodes, and what was said. Needs no lock. To
    /// follow a run, ask again with [`History::mark`].
    ///
    /// # Errors
    /// When there is no such run or node, or the store can't be read.
    pub async fn history(&self, request: &HistoryRequest) -> Result<History, RunError> {
        let Some(store) = self.existing_store().await? else { return Err(RunError::NoRuns) };
        let run = find(&*store, request.run.as_ref()).await?;
        // Looked for first: what a process stores before it ends is then read below.
        let alive = self.holder_of(&*store, &run.id).await?.is_some();
        let facts = store.facts(&run.id).await?;
        let state = RunFacts::fold(&facts);
        let alive = alive && state.ended.is_none();
        if let Some(node) = &request.node {
            let nodes = &state.definition.as_ref().unwrap_or(&run.definition).nodes;
            if !nodes.iter().any(|outline| outline.node == *node) && !state.nodes.contains_key(node) {
                return Err(RunError::unknown_node(node, nodes.iter().map(|outline| &outline.node)));
            }
        }
        let (mut lines, mut after) = (Vec::new(), request.after.line);
        loop {
            let page = store.logs(&run.id, request.node.as_ref(), after, MAX_LINES).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            lines.extend(page);
        }
        let (entries, mark) = story(request, facts, lines);
        Ok(History { run: run.id, entries, mark, alive })
    }
}
