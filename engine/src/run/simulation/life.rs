//! All lives of one seed: a process begins, works until it ends or dies, and what survives is
//! looked at by the next, until the run is done.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, Idempotency, NodeId, RunId, Step};
use tempfile::TempDir;

use super::dice::Dice;
use super::disk::{self, Disk, Platter, Trouble};
use super::scenario::Scenario;
use super::step::Simulated;
use super::witness::Witness;
use super::world::World;
use crate::ambient::{self, simulated};
use crate::engine::{Engine, ResumeRequest};
use crate::error::RunError;
use crate::event::EventSink;
use crate::report::{NodeState, RunReport, RunState};
use crate::run::key::run_id;
use crate::run::state::{NodeRecord, RunFacts};
use crate::shutdown::{Shutdown, ShutdownLevel};
use crate::store::{Store, StoreError};
use crate::workflow::{Params, Source};

/// A process that is still at work after this much simulated time will never end.
const LONGEST_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Disk operations of a typical life: troubles are spread over them.
const OPERATIONS: u64 = 150;

/// How often people look at the gates of a living run, and the longest time between two looks.
const LOOKS: usize = 3;
const LONGEST_LOOK_MS: u64 = 40_000;

/// How long a person waits before an undo goes on: longer than what goes on outside.
const UNDO_PATIENCE: Duration = Duration::from_secs(70);

/// A mistake that the simulator must find. Made only in a simulated world that is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The dispatcher acts, and stores afterwards.
    EffectBeforeIntent,
    /// An attempt whose end is not known is applied again without a look.
    ObserveSkipped,
    /// The idempotency key is another one for every attempt.
    KeyOfAttempt,
    /// The disk says that data is durable when it is not.
    LyingSync,
    /// The run goes on when its store has failed.
    StoreErrorIgnored,
    /// A failed check does not count.
    VerificationIgnored,
    /// An answer counts for every question that the gate asks.
    AnswerToAnotherQuestion,
    /// What was decided between two lives is taken in answer by answer, and the run may end after each.
    DecisionAlone,
    /// A run that is being undone is taken up as if it were not.
    UndoForgotten,
    /// What was built first is undone first.
    UndoForwards,
    /// What is undone is undone again.
    UndoRepeated,
    /// What is built on something that was made again is reused as if it were not.
    OutdatedReused,
}

/// What goes wrong beside what the seed says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub flaw: Option<Flaw>,
    /// Keep the lines of the trace.
    pub traced: bool,
    /// Nothing else goes wrong than this, in the first life.
    pub only: Option<(u64, Trouble)>,
    /// A small workflow of so many nodes.
    pub nodes: Option<usize>,
}

/// What came of a seed.
pub(super) struct Outcome {
    pub digest: u64,
    pub trace: Vec<String>,
    pub broken: Vec<String>,
    pub lives: u64,
    /// Disk operations of the first life.
    pub operations: u64,
}

/// What one thread needs to simulate: kept from seed to seed.
pub(super) struct Bench {
    project: TempDir,
    /// The file layer of its disks.
    vfs: String,
    mounts: Cell<u64>,
}

impl Bench {
    pub(super) fn new() -> Self {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        let thread = THREADS.fetch_add(1, Ordering::Relaxed);
        let vfs = format!("simulated-{thread}");
        disk::register(&vfs);
        Self { project: tempfile::tempdir().unwrap(), vfs, mounts: Cell::new(thread << 40) }
    }

    /// Lives through `seed`.
    pub(super) fn simulate(&self, seed: u64, options: Options) -> Outcome {
        let scenario =
            options.nodes.map_or_else(|| Scenario::new(seed), |nodes| Scenario::quiet(seed, nodes));
        let world = World::new(seed, scenario, options.traced);
        world.clock.set_flaw(options.flaw);
        simulated::enter(Some(Arc::clone(&world.clock)));
        let mut lives = Lives {
            bench: self,
            world: Arc::clone(&world),
            options,
            dice: Dice::new(seed, 3),
            platter: Platter::default(),
            version: 1,
            person: Vec::new(),
            operations: None,
        };
        let count = lives.all();
        simulated::enter(None);
        let (digest, trace) = world.trace();
        let broken = std::mem::take(&mut world.lock().broken);
        Outcome { digest, trace, broken, lives: count, operations: lives.operations.unwrap_or_default() }
    }
}

struct Lives<'a> {
    bench: &'a Bench,
    world: Arc<World>,
    options: Options,
    dice: Dice,
    platter: Platter,
    /// Of the environment file.
    version: u64,
    /// What a person has decided to run again.
    person: Vec<NodeId>,
    operations: Option<u64>,
}

/// What goes wrong with one life from outside.
struct Fate {
    disk: Option<(u64, Trouble)>,
    moment: Option<(u64, Trouble)>,
    drain: Option<Duration>,
    kill: Option<Duration>,
}

impl Lives<'_> {
    /// Lives until the run is done; the number of lives.
    fn all(&mut self) -> u64 {
        let nodes = self.world.scenario.nodes.len() as u64;
        let troubled = self.world.scenario.troubled_lives;
        // Each node may need a person once, be disproved once, and wait at a gate once for each item.
        let most = troubled + 3 + 3 * nodes;
        for life in 0..most {
            let trouble = life < troubled;
            self.world.lock().troubled = trouble && self.options.only.is_none();
            if self.one(life, trouble) && !trouble || !self.world.lock().broken.is_empty() {
                return life + 1;
            }
        }
        self.world.broken(format!("the run is not done after {most} lives"));
        most
    }

    fn fate(&mut self, trouble: bool) -> Fate {
        let mut fate = Fate { disk: None, moment: None, drain: None, kill: None };
        if let Some(only) = self.options.only {
            fate.disk = trouble.then_some(only);
            return fate;
        }
        if !trouble {
            return fate;
        }
        let dice = &mut self.dice;
        match dice.below(10) {
            0..5 => {
                let what =
                    [Trouble::Death, Trouble::PowerLoss, Trouble::PowerLoss, Trouble::Error, Trouble::Full];
                fate.disk = Some((1 + dice.below(OPERATIONS), dice.pick(&what)));
            }
            5..8 => {
                fate.moment = Some((1 + dice.below(60), dice.pick(&[Trouble::Death, Trouble::PowerLoss])))
            }
            8 => {
                fate.drain = Some(Duration::from_millis(dice.below(60_000)));
                fate.kill = dice.chance(300).then(|| Duration::from_millis(dice.below(90_000)));
            }
            _ => {}
        }
        fate
    }

    /// One process. `true` when it has said that the run is done.
    fn one(&mut self, life: u64, trouble: bool) -> bool {
        let fate = self.fate(trouble);
        self.between_lives(trouble);
        let world = Arc::clone(&self.world);
        world.say(format!("life {life} begins, disk {:?}, moment {:?}", fate.disk, fate.moment));
        world.birth(fate.moment);
        let dying = Arc::clone(&world);
        let how = fate.disk.map_or(Trouble::Death, |(_, how)| how);
        let lying = self.options.flaw == Some(Flaw::LyingSync);
        let disk = Disk::new(&self.platter, fate.disk, lying, Box::new(move || dying.death(how)));
        let shutdown = Shutdown::new();
        let ended = self.process(&fate, &disk, &shutdown);
        self.operations.get_or_insert(disk.operations());
        let death = world.lock().death;
        if let Some(how) = death {
            disk.kill(how);
        }
        // Some machines are turned off when the program has ended.
        let power_loss = match death {
            Some(how) => how == Trouble::PowerLoss,
            None => trouble && self.dice.chance(300),
        };
        self.platter = disk.survivors(power_loss, &mut self.dice);
        world.say(format!("life {life} ends, power loss: {power_loss}"));
        match ended {
            Some(result) if death.is_none() => {
                // Only what has really struck excuses a failure.
                let failing =
                    |(at, how)| matches!(how, Trouble::Error | Trouble::Full) && at <= disk.operations();
                let stopped = shutdown.level() > ShutdownLevel::None;
                self.judge(result, fate.disk.is_some_and(failing), stopped)
            }
            _ => false,
        }
    }

    /// What people and chance do while no process is alive.
    fn between_lives(&mut self, trouble: bool) {
        let change = trouble && self.options.only.is_none() && self.dice.chance(150);
        if change {
            self.version += 1;
            self.world.say(format!("the environment is now of version {}", self.version));
        }
        if change && self.dice.chance(300) {
            let at = self.dice.below(self.world.scenario.nodes.len() as u64) as usize;
            let name = self.world.scenario.nodes[at].name.clone();
            self.world.say(format!("somebody breaks {name}"));
            self.world.lock().outside.node(&name).damaged = true;
        }
        let path = self.bench.project.path();
        let write = |name: &str, text: String| std::fs::write(path.join(name), text).unwrap();
        write("w.toml", self.world.scenario.workflow());
        write("migration.toml", Scenario::environment(self.version));
    }

    fn process(
        &mut self,
        fate: &Fate,
        disk: &Arc<Disk>,
        shutdown: &Shutdown,
    ) -> Option<Result<RunReport, RunError>> {
        let clock = Arc::clone(&self.world.clock);
        let (parked, began) = (Arc::clone(&self.world), self.world.clock.elapsed());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .on_thread_park(move || {
                if clock.elapsed() - began > LONGEST_LIFE || !clock.jump() {
                    parked.stalled.notify_one();
                }
            })
            .build()
            .unwrap();
        let (drain, kill, stop) = (fate.drain, fate.kill, shutdown.clone());
        let world = Arc::clone(&self.world);
        let people = Arc::clone(&self.world);
        runtime.block_on(async move {
            tokio::spawn(async move {
                if let Some(after) = drain {
                    ambient::sleep(after).await;
                    stop.drain();
                }
                if let Some(after) = kill {
                    ambient::sleep(after).await;
                    stop.kill();
                }
            });
            tokio::spawn(async move {
                for _ in 0..LOOKS {
                    let time = people.lock().people.below(LONGEST_LOOK_MS);
                    ambient::sleep(Duration::from_millis(time)).await;
                    people.people_decide();
                }
            });
            tokio::select! {
                biased;
                () = world.died.notified() => None,
                result = self.work(disk, shutdown) => Some(result),
                () = world.stalled.notified() => {
                    world.broken("nothing moves any more, and the run has not ended".to_owned());
                    None
                }
            }
        })
    }

    /// What the program does: opens the store, and begins or takes up the run.
    async fn work(&mut self, disk: &Arc<Disk>, shutdown: &Shutdown) -> Result<RunReport, RunError> {
        let world = Arc::clone(&self.world);
        self.bench.mounts.set(self.bench.mounts.get() + 1);
        let witness = Witness::open(&self.bench.vfs, &world, disk, self.bench.mounts.get());
        world.only_alive().await;
        let witness = Arc::new(witness?);
        let (run, contents) = witness.contents().await?;
        let told = world.lock().ledger.found(run.as_ref(), &contents);
        if let Err(lost) = told {
            world.broken(format!("what was acknowledged is lost or altered: {lost}"));
            return Err(RunError::Cancelled);
        }
        let engine = engine(&world, self.bench.project.path());
        let Some(id) = run else {
            let read = |name: &str| Source::read(self.bench.project.path().join(name));
            let (workflow, environment) = (read("w.toml")?, read("migration.toml")?);
            let checked = engine.check(&workflow, &environment, &Params::new())?;
            let at = ambient::now();
            let id = run_id(at, ambient::random_tag());
            return engine.begin(witness, id, at, &checked, EventSink::discard(), shutdown).await;
        };
        let store: Arc<dyn Store> = witness;
        let undoes = world.scenario.undone && world.lock().troubled && self.dice.chance(100);
        if undoes || world.lock().ledger.state().undo.is_some() {
            ambient::sleep(UNDO_PATIENCE).await;
        }
        if undoes {
            world.say("a person has it undone");
            let run = store.run(Some(&id)).await?.ok_or(RunError::NoRuns)?;
            let facts = RunFacts::fold(store.facts(&id).await?);
            return engine
                .go_on_undoing(&run, store, facts, BTreeSet::new(), EventSink::discard(), shutdown)
                .await;
        }
        self.resume(&engine, store, id, shutdown).await
    }

    /// Takes the run up, and accepts what has changed.
    async fn resume(
        &mut self,
        engine: &Engine,
        store: Arc<dyn Store>,
        id: RunId,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let world = Arc::clone(&self.world);
        let person = std::mem::take(&mut self.person);
        let mut request = ResumeRequest { run: Some(id.clone()), rerun: person, ..Default::default() };
        if world.lock().ledger.state().undo.is_some() {
            // Nothing of it is done again.
            request.rerun.clear();
        } else if world.lock().troubled && self.dice.chance(50) {
            request.rerun.extend(self.whim());
        } else if world.scenario.fickle && world.lock().troubled && self.dice.chance(150) {
            request.from.extend(self.whim());
        }
        for node in request.rerun.iter().chain(&request.from) {
            world.lock().outside.node(node.as_str()).approved += 1;
            world.say(format!("a person says: again {node}"));
        }
        let calls = world.lock().calls;
        let take_up = async |request: &ResumeRequest| {
            engine
                .take_up(Arc::clone(&store), id.clone(), request.clone(), EventSink::discard(), shutdown)
                .await
        };
        let mut first = take_up(&request).await;
        if let Err(RunError::NotRepeatable { nodes }) = &first {
            world.say(format!("it is not asked for again because of {nodes:?}"));
            request.from.clear();
            first = take_up(&request).await;
        }
        let Err(RunError::Changed(_, changes)) = first else { return first };
        if world.lock().calls != calls {
            world.broken("something was touched before changes were accepted".to_owned());
        }
        world.say(format!("accepts {} changes", changes.nodes.len()));
        request.accept_changes = true;
        take_up(&request).await
    }

    /// A node that a person wants to see again for no reason.
    fn whim(&mut self) -> Option<NodeId> {
        let at = self.dice.below(self.world.scenario.nodes.len() as u64) as usize;
        NodeId::new(self.world.scenario.nodes[at].name.clone()).ok()
    }

    /// Holds what the process has said to what is true.
    fn judge(&mut self, result: Result<RunReport, RunError>, excused: bool, stopped: bool) -> bool {
        let world = Arc::clone(&self.world);
        let refused = world.lock().refused;
        match result {
            Ok(report) => {
                world.say(format!("the run is {:?}", report.state));
                if refused {
                    world.broken(format!("the store has failed, and the run is {:?}", report.state));
                }
                let waits = || world.lock().ledger.state().nodes.values().any(NodeRecord::is_waiting);
                match report.state {
                    RunState::Done => self.done(&report),
                    RunState::Undone => world.undone(),
                    RunState::Waiting if waits() => world.people_decide(),
                    RunState::Interrupted if !stopped => {
                        world.broken("the run was interrupted by nobody".to_owned());
                    }
                    RunState::Running => world.broken("a run that has ended says it runs".to_owned()),
                    RunState::Waiting => world.broken("no gate waits, but the run does".to_owned()),
                    RunState::Failed | RunState::Interrupted => self.ask_person(&report),
                }
                matches!(report.state, RunState::Done | RunState::Undone)
            }
            Err(RunError::AlreadyUndone(_)) => {
                let state = world.lock().ledger.state();
                if !matches!(state.ended, Some((RunState::Undone, _))) {
                    world.broken("a run that is not undone is said to be".to_owned());
                }
                world.undone();
                true
            }
            Err(RunError::AlreadyDone(_)) => {
                let state = world.lock().ledger.state();
                if !matches!(state.ended, Some((RunState::Done, _))) {
                    world.broken("a run that is not done is said to be".to_owned());
                }
                true
            }
            Err(RunError::Cancelled) if stopped => false,
            Err(RunError::Store(StoreError::Corrupt { reason, .. })) => {
                world.broken(format!("the store is damaged: {reason}"));
                false
            }
            Err(RunError::Store(error)) if excused => {
                world.say(format!("the process says: {error}"));
                false
            }
            Err(error) => {
                world.broken(format!("the process says without reason: {error}: {error:?}"));
                false
            }
        }
    }

    fn done(&self, report: &RunReport) {
        let now = self.world.clock.elapsed();
        let mut broken = Vec::new();
        {
            let state = self.world.lock();
            for entry in &report.nodes {
                let name = entry.node.as_str();
                let Some(node) = self.world.scenario.node(name) else { continue };
                if node.gate
                    && entry.items.is_none()
                    && !matches!(entry.state, NodeState::Skipped | NodeState::Removed)
                {
                    if !self.world.is_passed(&state, &state.ledger.state(), &entry.node) {
                        broken.push(format!("the run is done, and nobody has passed {name}"));
                    }
                    continue;
                }
                let config = state.outside.nodes.get(name).and_then(|made| made.config.clone());
                let holds = config.is_some_and(|config| state.outside.holds(name, node.kind, &config, now));
                let is_list = entry.items.is_some();
                match entry.state {
                    NodeState::Skipped | NodeState::Removed => {}
                    NodeState::Finished | NodeState::Reused if is_list => {}
                    NodeState::Finished | NodeState::Reused if holds => {}
                    other => broken.push(format!("the run is done, {name} is {other:?}, made: {holds}")),
                }
            }
        }
        broken.into_iter().for_each(|what| self.world.broken(what));
    }

    /// A person reads the report, looks, and decides about what only a person may decide.
    fn ask_person(&mut self, report: &RunReport) {
        for entry in &report.nodes {
            let Some(error) = &entry.error else { continue };
            let asked = error.hint.as_deref().is_some_and(|hint| hint.contains("--rerun"));
            let none = |node: &super::scenario::Node| node.kind == Idempotency::None;
            // Also about what can be repeated, where something of another config may be there, or what is there
            // does not hold beside something new.
            let changed = ["has changed", "is to be made again", "was made again since"]
                .iter()
                .any(|why| error.message.contains(why));
            if asked && !changed && !self.world.scenario.node(entry.node.as_str()).is_some_and(none) {
                self.world.broken(format!("a person is asked about {}, which can be repeated", entry.node));
            }
            if asked && error.class == ErrorClass::Conflict {
                self.person.push(entry.node.clone());
            }
        }
    }
}

fn engine(world: &Arc<World>, project: &Path) -> Engine {
    let steps = [Idempotency::Natural, Idempotency::Keyed, Idempotency::None]
        .map(|kind| Arc::new(Simulated { kind, world: Arc::clone(world) }) as Arc<dyn Step>);
    Engine::open(PathBuf::from(project), steps.to_vec()).unwrap()
}
