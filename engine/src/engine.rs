//! The way in: [`Engine`] checks, plans, runs, resumes, verifies and tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use migrate_plugin_api::{
    CancellationToken, LogLevel, NodeId, RunId, Secret, SecretProvider, Step, StepInfo, VerifyDepth,
};
use serde_json::Map;
use tokio::task::JoinSet;

use crate::ambient;
use crate::error::{OpenError, RunError};
use crate::event::{EVENT_VERSION, Event, EventKind, EventSink};
use crate::report::{PlanReport, RunReport, RunState};
use crate::resume::{AGAIN, TakenUp, without};
use crate::run::core::Core;
use crate::run::dispatcher::{Dispatcher, Machine, Session};
use crate::run::gate::Gate;
use crate::run::heartbeat::with_right;
use crate::run::key::run_id;
use crate::run::lock::{LockError, RunLock, holder};
use crate::run::preflight::Preflight;
use crate::run::secrets::Secrets;
#[cfg(test)]
use crate::run::simulation::{Flaw, flawed};
use crate::run::state::RunFacts;
use crate::run::verify::Verifier;
use crate::shutdown::{Shutdown, ShutdownLevel};
use crate::store::fact::{Definition, DefinitionPart, Place, RunRecord};
use crate::store::holder::Holder;
use crate::store::settings::StoreSettings;
use crate::store::{AcquireError, PostgresStore, SqliteStore, Store, StoreError};
use crate::workflow::{
    Catalog, Checked, Described, Diagnostics, Digest, Library, NodeOutline, Params, ReadError, Source, check,
    validate,
};

/// Folder in the project where everything of the engine is.
const STATE_DIR: &str = ".migrate";

/// The store's file in it.
const STATE_FILE: &str = "state.db";

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
    /// Run these and everything downstream of them again. What is downstream, has been tried and is
    /// not idempotent must be named in `rerun` too.
    pub from: Vec<NodeId>,
    /// Keep these as they are although what they are built on was made again: they are verified quickly, and
    /// neither made again nor looked at closely. Holds until their turn has come, also in a later process. Only
    /// what is finished, and has not changed in the files.
    pub keep: Vec<NodeId>,
    /// Parameters that replace stored ones.
    pub params: Params,
}

impl ResumeRequest {
    /// Whether something that is done shall be done again.
    pub fn repeats(&self) -> bool {
        !self.rerun.is_empty() || !self.from.is_empty()
    }
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
    pub(crate) project_dir: PathBuf,
    pub(crate) steps: Arc<BTreeMap<String, Arc<dyn Step>>>,
    pub(crate) catalog: Arc<Catalog>,
    /// `None`: the file in the project folder.
    shared: Option<StoreSettings>,
    pub(crate) secrets: Secrets,
    pub(crate) library: Library,
}

impl Engine {
    /// An engine for the project in `project_dir` (the folder of `migration.toml`). Touches nothing.
    ///
    /// # Errors
    /// When two steps have one name or a step's schema is none.
    pub fn open(project_dir: impl Into<PathBuf>, steps: Vec<Arc<dyn Step>>) -> Result<Self, OpenError> {
        let mut known = BTreeMap::new();
        let mut catalog = Catalog::new();
        let gate: Arc<dyn Step> = Arc::new(Gate);
        for step in steps.into_iter().chain([gate]) {
            let info = step.describe();
            let invalid = |error: jsonschema::ValidationError<'_>| OpenError::InvalidSchema {
                step: info.name.clone(),
                reason: error.to_string(),
            };
            let validator = jsonschema::validator_for(&info.config_schema).map_err(invalid)?;
            let keeps_cursor = step.keeps_cursor();
            if known.insert(info.name.clone(), step).is_some() {
                return Err(OpenError::DuplicateStep(info.name));
            }
            catalog.insert(info.name.clone(), Described { info, validator, keeps_cursor, unusable: None });
        }
        let project_dir = absolute(&project_dir.into());
        Ok(Self {
            secrets: Secrets::of(&project_dir),
            project_dir,
            steps: Arc::new(known),
            catalog: Arc::new(catalog),
            shared: None,
            library: Library::default(),
        })
    }

    /// Keeps facts in a shared store instead of the project folder.
    pub fn with_store(self, shared: Option<StoreSettings>) -> Self {
        Self { shared, ..self }
    }

    /// With what resolves the references to secrets that the engine itself knows nothing of.
    #[must_use]
    pub fn with_secrets(mut self, providers: impl IntoIterator<Item = Arc<dyn SecretProvider>>) -> Self {
        self.secrets = self.secrets.with(providers);
        self
    }

    /// With workflows that others may hold by these names, wherever they are: `with = { file = NAME }`.
    #[must_use]
    pub fn with_workflows(mut self, texts: impl IntoIterator<Item = (String, String)>) -> Self {
        self.library.shipped.extend(texts);
        self
    }

    /// With what is wrong with steps that can't be used, by name: plugins that don't start, say. What a run
    /// has made with one is not taken for something that can't be undone.
    #[must_use]
    pub fn with_unusable(mut self, steps: impl IntoIterator<Item = (String, String)>) -> Self {
        // Nobody shares it before the engine is put to use.
        if let Some(catalog) = Arc::get_mut(&mut self.catalog) {
            for (name, why) in steps {
                catalog.entry(name).and_modify(|described| described.unusable = Some(why));
            }
        }
        self
    }

    /// The project folder, absolute.
    pub fn project_dir(&self) -> &Path {
        &self.project_dir
    }

    /// Every known step, by name.
    pub fn steps(&self) -> impl Iterator<Item = &StepInfo> {
        self.catalog.values().map(|described| &described.info)
    }

    /// Checks everything that can be checked without asking any service: the workflow, the
    /// environment and the parameters together.
    ///
    /// # Errors
    /// Every mistake found, not only the first.
    pub fn check(
        &self,
        workflow: &Source,
        environment: &Source,
        params: &Params,
    ) -> Result<Checked, Diagnostics> {
        check(&self.catalog, &self.library, workflow, environment, params)
    }

    /// Checks a workflow alone, or with as much of its surroundings as there is: what is not given
    /// counts as unknown, not as missing.
    ///
    /// # Errors
    /// Every mistake found, not only the first.
    pub fn validate(
        &self,
        workflow: &Source,
        environment: Option<&Source>,
        params: &Params,
    ) -> Result<(), Diagnostics> {
        validate(&self.catalog, &self.library, workflow, environment, params)
    }

    /// Asks every step what it would do. Reads only; needs no lock and no store.
    pub async fn plan(&self, checked: &Checked, cancel: &CancellationToken) -> PlanReport {
        let run = run_id(ambient::now(), ambient::random_tag());
        self.preflight(&run, checked, &RunFacts::default(), cancel).await
    }

    /// Runs a workflow from its beginning.
    ///
    /// # Errors
    /// When it did not begin or could not go on; a failed or interrupted run is `Ok`.
    pub async fn run(
        &self,
        checked: &Checked,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let started_at = ambient::now();
        let id = run_id(started_at, ambient::random_tag());
        let (store, _lock) = self.hold(&id).await?;
        let work = self.begin(Arc::clone(&store), id, started_at, checked, events, shutdown);
        with_right(&*store, work).await
    }

    /// Begins a run in `store`, whose only writer this process is.
    pub(crate) async fn begin(
        &self,
        store: Arc<dyn Store>,
        id: RunId,
        started_at: Timestamp,
        checked: &Checked,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let facts = RunFacts::default();
        self.admit(&id, checked, &facts, false, &events, shutdown).await.map_err(|error| match error {
            RunError::Cancelled => RunError::NotBegun,
            error => error,
        })?;
        let definition = definition(&self.project_dir, checked);
        let run = RunRecord { id, workflow: checked.name().to_owned(), definition, started_at };
        store.create_run(&run).await?;
        let machine = self.machine(&run, checked, facts);
        self.dispatch(&run, machine, store, BTreeMap::new(), events, shutdown).await
    }

    /// Goes on with a run from its durable facts, with the current workflow and environment files.
    ///
    /// # Errors
    /// When it did not begin or could not go on; a failed or interrupted run is `Ok`.
    pub async fn resume(
        &self,
        request: ResumeRequest,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let (id, store, _lock) = self.hold_existing(request.run.as_ref()).await?;
        let work = self.take_up(Arc::clone(&store), id, request, events, shutdown);
        with_right(&*store, work).await
    }

    /// Goes on with run `id` in `store`, whose only writer this process is.
    pub(crate) async fn take_up(
        &self,
        store: Arc<dyn Store>,
        id: RunId,
        request: ResumeRequest,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let run = find(&*store, Some(&id)).await?;
        let facts = RunFacts::fold(store.facts(&id).await?);
        let is_done = matches!(facts.ended, Some((RunState::Done, _))) && !request.repeats();
        let is_undone = facts.undo.is_some();
        #[cfg(test)]
        let is_undone = is_undone && !flawed(Flaw::UndoForgotten);
        if is_undone {
            if request.repeats() {
                return Err(RunError::Undoing(id));
            }
            return self.go_on_undoing(&run, store, facts, BTreeSet::new(), events, shutdown).await;
        }
        let taken = self.ready(&*store, &run, facts, &request).await?;
        if !taken.changed.is_empty() && !request.accept_changes {
            return Err(RunError::Changed(id, Box::new(taken.changed)));
        }
        if is_done && self.is_complete(&taken) {
            return Err(RunError::AlreadyDone(id));
        }
        let ahead = without(&taken, &self.catalog);
        self.admit(&id, &taken.checked, &ahead, true, &events, shutdown).await?;
        drop(ahead);
        let TakenUp { checked, facts, places, batch, changed, again } = taken;
        // Who accepts changes accepts all of them, so all are told.
        let accepted = changed.nodes.iter().flat_map(|change| {
            let sentences = change.sentences().into_iter();
            sentences.map(move |sentence| (change.node.clone(), format!("accepted: {sentence}")))
        });
        for (node, message) in accepted.chain(again.into_iter().map(|node| (node, AGAIN.to_owned()))) {
            let kind = EventKind::NodeLog { node, level: LogLevel::Info, message };
            events.send(Event { version: EVENT_VERSION, at: ambient::now(), run: id.clone(), kind });
        }
        store.append(&id, &batch).await?;
        let machine = self.machine(&run, &checked, facts);
        self.dispatch(&run, machine, store, places, events, shutdown).await
    }

    /// Verifies all finished nodes of a run again. Changes nothing, needs no lock.
    /// A node with a failed check is reported as failed.
    ///
    /// # Errors
    /// When the run or its files can't be read.
    pub async fn verify(
        &self,
        request: VerifyRequest,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let (run, facts, holder) = self.standing(request.run.as_ref()).await?;
        let cancel = CancellationToken::new();
        let verifier = Verifier {
            run: &run,
            steps: &self.steps,
            project_dir: &self.project_dir,
            secrets: &self.secrets,
            events,
            depth: request.depth,
            cancel: &cancel,
        };
        let level = shutdown.subscribe();
        tokio::pin! { let work = verifier.verify(facts, holder.is_some()); }
        tokio::select! {
            report = &mut work => Ok(report),
            () = stop_requested(level) => {
                cancel.cancel();
                Err(RunError::Cancelled)
            }
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.project_dir.join(STATE_DIR)
    }

    /// The store as a reader has it: it is not changed, and nobody is kept from anything.
    pub(crate) async fn existing_store(&self) -> Result<Option<Arc<dyn Store>>, RunError> {
        Ok(match &self.shared {
            None => SqliteStore::read(&self.state_dir().join(STATE_FILE)).await?.map(|s| Arc::new(s) as _),
            Some(shared) => {
                let url = self.store_url(shared).await?;
                PostgresStore::read(&url, &shared.project).await?.map(|s| Arc::new(s) as _)
            }
        })
    }

    async fn store_url(&self, shared: &StoreSettings) -> Result<Secret, RunError> {
        self.secrets.resolve(&shared.url, |_| {}).await.map_err(RunError::StoreUrl)
    }

    /// Takes the project for `run`: the lock of this machine, then the right to write.
    pub(crate) async fn hold(&self, run: &RunId) -> Result<(Arc<dyn Store>, RunLock), RunError> {
        let lock = self.lock(run).await?;
        let store: Arc<dyn Store> = match &self.shared {
            None => Arc::new(SqliteStore::open(&self.state_dir().join(STATE_FILE)).await?),
            Some(shared) => {
                let url = self.store_url(shared).await?;
                Arc::new(PostgresStore::open(&url, &shared.project).await?)
            }
        };
        match store.acquire(&Holder::here(run)).await {
            Ok(()) => Ok((store, lock)),
            Err(AcquireError::Held(holder)) => Err(RunError::Locked(*holder)),
            Err(AcquireError::Store(error)) => Err(error.into()),
        }
    }

    /// Takes the project for a run that is there, by default the newest.
    pub(crate) async fn hold_existing(
        &self,
        run: Option<&RunId>,
    ) -> Result<(RunId, Arc<dyn Store>, RunLock), RunError> {
        // Found first without the lock, so that the lock can say which run it is for.
        let Some(reader) = self.existing_store().await? else { return Err(RunError::NoRuns) };
        let id = find(&*reader, run).await?.id;
        reader.close().await;
        let (store, lock) = self.hold(&id).await?;
        Ok((id, store, lock))
    }

    /// Who works on the project now, if it is on `run`.
    pub(crate) async fn holder_of(
        &self,
        store: &dyn Store,
        run: &RunId,
    ) -> Result<Option<Holder>, StoreError> {
        Ok(self.holder(store).await?.filter(|holder| holder.run.as_ref() == Some(run)))
    }

    /// Who works on the project now.
    pub(crate) async fn holder(&self, store: &dyn Store) -> Result<Option<Holder>, StoreError> {
        if self.shared.is_some() { store.holder().await } else { Ok(holder(&self.state_dir())) }
    }

    pub(crate) async fn lock(&self, run: &RunId) -> Result<RunLock, RunError> {
        let dir = self.state_dir();
        let failed = |source| RunError::Lock { path: dir.join("lock"), source };
        make_private_dir(&dir).map_err(failed)?;
        RunLock::acquire(&dir, run).await.map_err(|error| match error {
            LockError::Held(holder) => RunError::Locked(holder),
            LockError::Io(source) => failed(source),
        })
    }

    /// The workflow and the environment as they are now; the stored workflow if its file is gone.
    pub(crate) fn current(
        &self,
        run: &RunRecord,
        facts: &RunFacts,
        params: &Params,
    ) -> Result<Checked, RunError> {
        let definition = facts.definition.as_ref().unwrap_or(&run.definition);
        let path = self.project_dir.join(&definition.workflow_path);
        let workflow = match Source::read(&path) {
            Ok(source) => source,
            Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                // Beside the file that is gone: what it holds is looked for there.
                Source::new(&path, definition.workflow_text.as_str())
            }
            Err(error) => return Err(error.into()),
        };
        let environment = Source::read(self.project_dir.join(&definition.environment_path))?;
        let mut library = self.library.clone();
        for part in &definition.parts {
            library.stored.insert(self.project_dir.join(&part.path), part.text.clone());
        }
        let params = params.over(&definition.params);
        Ok(check(&self.catalog, &library, &workflow, &environment, &params)?)
    }

    pub(crate) async fn preflight(
        &self,
        run: &RunId,
        checked: &Checked,
        facts: &RunFacts,
        cancel: &CancellationToken,
    ) -> PlanReport {
        let (catalog, steps) = (&*self.catalog, &*self.steps);
        let (project_dir, secrets) = (&*self.project_dir, &self.secrets);
        Preflight { run, checked, catalog, steps, project_dir, secrets, facts, cancel }.plan().await
    }

    /// Says that the run begins, and lets it pass only if nothing stands in its way.
    async fn admit(
        &self,
        run: &RunId,
        checked: &Checked,
        facts: &RunFacts,
        resumed: bool,
        events: &EventSink,
        shutdown: &Shutdown,
    ) -> Result<(), RunError> {
        let emit = |kind| {
            events.send(Event { version: EVENT_VERSION, at: ambient::now(), run: run.clone(), kind });
        };
        let cancel = CancellationToken::new();
        let _stop = cancel.clone().drop_guard();
        let report = tokio::select! {
            report = self.preflight(run, checked, facts, &cancel) => report,
            () = stop_requested(shutdown.subscribe()) => return Err(RunError::Cancelled),
        };
        if report.refuses() {
            return Err(RunError::Refused(Box::new(report)));
        }
        let nodes = checked.nodes().map(|(node, _)| node.clone()).collect();
        emit(EventKind::RunStarted { workflow: checked.name().to_owned(), resumed, nodes });
        for planned in &report.nodes {
            if let Some(plan) = &planned.plan {
                let (node, step) = (planned.node.clone(), planned.step.clone());
                emit(EventKind::NodePlanned { node, step, plan: plan.clone() });
            }
        }
        Ok(())
    }

    fn machine(&self, run: &RunRecord, checked: &Checked, facts: RunFacts) -> Machine {
        let (checked, catalog) = (Arc::new(checked.clone()), Arc::clone(&self.catalog));
        let random = Box::new(ambient::random);
        Machine::Run(Box::new(Core::new(run.id.clone(), checked, catalog, facts, random)))
    }

    pub(crate) async fn dispatch(
        &self,
        run: &RunRecord,
        machine: Machine,
        store: Arc<dyn Store>,
        places: BTreeMap<NodeId, Place>,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let session = Session {
            run: run.id.clone(),
            project_dir: self.project_dir.clone(),
            secrets: self.secrets.clone(),
            steps: Arc::clone(&self.steps),
            store,
            events,
            places,
            shutdown: shutdown.subscribe(),
        };
        // A task, beside those of the steps: who waits here may be on a thread of its own, which would
        // have to be woken for each end of a call.
        let mut tasks = JoinSet::new();
        tasks.spawn(Dispatcher::new(session, machine).work());
        let machine = match tasks.join_next().await {
            Some(Ok(result)) => result?,
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            None => unreachable!("one task was started"),
        };
        Ok(machine.facts().report(run, false))
    }
}

/// Only fails without a current folder, where a relative path leads nowhere anyway.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What a run is started from, as it is stored. Files in the project are named from there, so that a
/// moved or copied project is resumed with its own.
pub(crate) fn definition(project_dir: &Path, checked: &Checked) -> Definition {
    let place = |path: &Path| {
        let path = absolute(path);
        path.strip_prefix(project_dir).unwrap_or(&path).to_string_lossy().into_owned()
    };
    let workflow = &checked.workflow;
    let part = |source: Source| DefinitionPart { path: place(source.path()), text: source.text().to_owned() };
    let outline = |(node, step): (&NodeId, &str)| NodeOutline {
        node: node.clone(),
        step: step.to_owned(),
        needs: workflow.dependencies[node].iter().cloned().collect(),
        for_each: workflow.node(node).is_some_and(|node| node.for_each.is_some()),
    };
    let params = checked.params.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    Definition {
        workflow_path: place(workflow.file.path()),
        workflow_text: workflow.file.text().to_owned(),
        parts: workflow.parts.iter().map(|part| part.source.clone()).map(part).collect(),
        environment_path: place(checked.environment.file.path()),
        environment_digest: Digest::of(&checked.environment.value),
        params: params.collect::<Map<_, _>>(),
        nodes: checked.nodes().map(outline).collect(),
    }
}

pub(crate) async fn find(store: &dyn Store, id: Option<&RunId>) -> Result<RunRecord, RunError> {
    let missing = || id.map_or(RunError::NoRuns, |id| RunError::UnknownRun(id.to_string()));
    store.run(id).await?.ok_or_else(missing)
}

pub(crate) async fn stop_requested(mut level: tokio::sync::watch::Receiver<ShutdownLevel>) {
    if level.wait_for(|level| *level > ShutdownLevel::None).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    // The folder's own name is durable too, or a power loss could take everything in it.
    #[cfg(unix)]
    if let Some(parent) = dir.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}
