//! What people decide about a run: its gates, and that it is undone.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::{NodeId, RunId};
use serde::{Deserialize, Serialize};

use crate::ambient;
use crate::engine::{Engine, find};
use crate::error::{RunError, named};
use crate::event::{EVENT_VERSION, Event, EventKind, EventSink};
use crate::report::{NodeUndo, REPORT_VERSION, RunReport, RunState, UndoAction, UndoPlan};
use crate::run::basis::upstream_of;
use crate::run::dispatcher::Machine;
use crate::run::gate::{GATE, GateDecision, MAX_NOTE_BYTES, question};
use crate::run::heartbeat::with_right;
use crate::run::state::{NodeRecord, Phase, RunFacts};
use crate::run::undo::{Action, Undo, action, blocked, order, rest};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::store::fact::{Batch, Fact, RunRecord, Stamped};
use crate::store::holder::Holder;
use crate::workflow::NodeOutline;

/// A decision about a gate.
#[derive(Debug, Clone)]
pub struct DecideRequest {
    /// The run; default: the one that must be meant, if there is one.
    pub run: Option<RunId>,
    /// The gate.
    pub node: NodeId,
    /// Yes or no.
    pub approved: bool,
    /// Who: the user of the operating system.
    pub by: String,
    /// On which machine.
    pub host: String,
    /// Why.
    pub note: Option<String>,
}

/// What to undo.
#[derive(Debug, Clone, Default)]
pub struct UndoRequest {
    /// The run; default: the newest.
    pub run: Option<RunId>,
    /// Nodes whose steps can't be asked, and which are left as they are all the same.
    pub leave: BTreeSet<NodeId>,
}

/// A decision that was taken, durably.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Approval {
    /// The run.
    pub run: RunId,
    /// The gate.
    pub node: NodeId,
    /// What it asked.
    pub question: String,
    /// As it was recorded.
    pub decision: GateDecision,
    /// The process that works on the run and goes on by itself; without one, `resume` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// The run can't be found or read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// No gate.
    #[error("node `{0}` is no gate")]
    NotAGate(NodeId),
    /// Nothing to decide.
    #[error("gate `{node}` of run {run} does not wait: it {stands}")]
    NotWaiting {
        /// The gate.
        node: NodeId,
        /// The run.
        run: RunId,
        /// How it stands, as the end of a sentence.
        stands: &'static str,
    },
    /// A gate for each item of a list: each asks a question of its own.
    #[error("gate `{node}` of run {run} is asked for each item of a list; {}", which(.waiting))]
    List {
        /// The gate.
        node: NodeId,
        /// The run.
        run: RunId,
        /// The items that wait for a decision.
        waiting: Vec<NodeId>,
    },
    /// Several runs wait for it or come to it: an answer stands, so it must be said which of them is meant.
    #[error("gate `{node}` is not passed in {} runs: {}", .runs.len(), .runs.iter().map(RunId::as_str).collect::<Vec<_>>().join(", "))]
    SeveralRuns {
        /// The gate.
        node: NodeId,
        /// The newest first.
        runs: Vec<RunId>,
    },
    /// Somebody was first.
    #[error("gate `{node}` was already {}", .decision.sentence())]
    Decided {
        /// The gate.
        node: NodeId,
        /// What stands.
        decision: Box<GateDecision>,
    },
    /// The note is too long.
    #[error("the note is longer than {MAX_NOTE_BYTES} bytes")]
    LongNote,
}

fn which(waiting: &[NodeId]) -> String {
    match waiting {
        [] => "none of them waits".to_owned(),
        waiting => format!("these wait: {}", named(waiting)),
    }
}

impl Engine {
    /// Decides about a gate that waits. Needs no lock: a process that works on the run takes it up
    /// within a second, and without one `resume` does. Durable when it returns; the first one stands.
    ///
    /// # Errors
    /// When the gate does not wait, several runs could be meant, or somebody was first.
    pub async fn decide(&self, request: DecideRequest) -> Result<Approval, DecideError> {
        if request.note.as_ref().is_some_and(|note| note.len() > MAX_NOTE_BYTES) {
            return Err(DecideError::LongNote);
        }
        let store = self.existing_store().await?.ok_or(RunError::NoRuns)?;
        let named = match request.run {
            Some(run) => Some(run),
            None => the_one_that_is_meant(&*store, &request.node).await?,
        };
        let run = find(&*store, named.as_ref()).await?;
        let facts = RunFacts::fold(store.facts(&run.id).await.map_err(RunError::from)?);
        let outlines = &facts.definition.as_ref().unwrap_or(&run.definition).nodes;
        let node = request.node;
        let Some(outline) = outlines.iter().find(|outline| outline.node == node.whole()) else {
            return Err(RunError::unknown_node(&node, outlines.iter().map(|outline| &outline.node)).into());
        };
        if outline.step != GATE {
            return Err(DecideError::NotAGate(node));
        }
        if outline.for_each && node.key().is_none() {
            let waiting =
                facts.items_of(&node).filter(|(_, record)| record.is_waiting() && facts.undo.is_none());
            let waiting = waiting.map(|(item, _)| item.clone()).collect();
            return Err(DecideError::List { node, run: run.id, waiting });
        }
        let record = facts.nodes.get(&node).cloned().unwrap_or_default();
        let key = record.key.clone().filter(|_| record.is_waiting() && facts.undo.is_none());
        let Some(key) = key else {
            let stands = match &record.decision {
                _ if facts.undo.is_some() => "is part of a run that is being undone",
                _ if record.again.is_some() => "is asked again when its turn comes",
                Some(decision) if decision.approved => "was approved",
                Some(_) => "was rejected; `migrate resume` asks again",
                None => "has not been reached",
            };
            return Err(DecideError::NotWaiting { node, run: run.id, stands });
        };
        let DecideRequest { approved, by, host, note, .. } = request;
        let decision = GateDecision { key, approved, by, host, at: ambient::now(), note };
        if let Some(first) = store.decide(&run.id, &decision).await.map_err(RunError::from)? {
            return Err(DecideError::Decided { node, decision: Box::new(first) });
        }
        let holder = self.holder_of(&*store, &run.id).await.map_err(RunError::from)?;
        let (question, holder) =
            (question(&record.config.unwrap_or_default()), holder.filter(|_| facts.ended.is_none()));
        Ok(Approval { run: run.id, node, question, decision, holder })
    }

    /// What undoing a run would do. Changes nothing, needs no lock.
    ///
    /// # Errors
    /// When the run can't be read, or is undone already.
    pub async fn plan_undo(&self, run: Option<&RunId>) -> Result<UndoPlan, RunError> {
        let (run, facts) = self.facts_of(run).await?;
        if matches!(facts.ended, Some((RunState::Undone, _))) {
            return Err(RunError::AlreadyUndone(run.id));
        }
        let nodes = order(&facts, &needs(&run, &facts)).into_iter().filter_map(|node| {
            let record = facts.nodes.get(&node)?;
            let left = || record.reason.clone().filter(|_| record.left);
            let (action, reason) = match action(record, &self.catalog) {
                Action::Nothing => (UndoAction::Leave, Some(left()?)),
                Action::Leave(reason) => (UndoAction::Leave, Some(reason)),
                Action::Blocked(why) => (UndoAction::Blocked, Some(why)),
                Action::Look => (UndoAction::Look, rest(record, &self.catalog)),
                Action::Undo => (UndoAction::Undo, rest(record, &self.catalog)),
            };
            Some(NodeUndo { node, step: record.step.clone().unwrap_or_default(), action, reason })
        });
        let nodes = nodes.collect();
        Ok(UndoPlan { version: REPORT_VERSION, run: run.id, workflow: run.workflow, nodes })
    }

    /// Takes a run back: every effect whose step can, in reverse order. Goes on with an undo that
    /// failed or was interrupted. From the first fact on, the run never goes forward again.
    ///
    /// # Errors
    /// When it did not begin or could not go on; a failed or interrupted undo is `Ok`.
    pub async fn undo(
        &self,
        request: UndoRequest,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        let (id, store, _lock) = self.hold_existing(request.run.as_ref()).await?;
        let undo = async {
            let run = find(&*store, Some(&id)).await?;
            let facts = RunFacts::fold(store.facts(&id).await?);
            self.go_on_undoing(&run, store.clone(), facts, request.leave, events, shutdown).await
        };
        with_right(&*store, undo).await
    }

    /// With the lock held.
    pub(crate) async fn go_on_undoing(
        &self,
        run: &RunRecord,
        store: std::sync::Arc<dyn Store>,
        mut facts: RunFacts,
        leave: BTreeSet<NodeId>,
        events: EventSink,
        shutdown: &Shutdown,
    ) -> Result<RunReport, RunError> {
        if matches!(facts.ended, Some((RunState::Undone, _))) {
            return Err(RunError::AlreadyUndone(run.id.clone()));
        }
        let stuck = blocked(&facts, &self.catalog);
        // Said again of an undo that was interrupted, it asks for what is already so.
        let is_left = |node: &NodeId| facts.nodes.get(node).is_some_and(|record| record.left);
        let is_stuck = |node: &NodeId| stuck.iter().any(|(stuck, _)| stuck == node);
        if let Some(node) = leave.iter().find(|node| !is_stuck(node) && !is_left(node)) {
            return Err(RunError::NotBlocked(node.clone()));
        }
        let nodes: Vec<_> = stuck.into_iter().filter(|(node, _)| !leave.contains(node)).collect();
        if !nodes.is_empty() {
            return Err(RunError::UndoBlocked { run: run.id.clone(), nodes });
        }
        let places = store.places(&run.id).await?;
        let definition = facts.definition.clone().unwrap_or_else(|| run.definition.clone());
        let mut begun = vec![Fact::Resumed { definition: Box::new(definition) }];
        if facts.undo.is_none() {
            begun.push(Fact::UndoBegun { reason: "asked for".to_owned() });
        }
        let at = ambient::now();
        begun.iter().for_each(|fact| facts.apply(fact, at));
        let begun = begun.into_iter().map(|fact| Stamped { at, fact }).collect();
        store.append(&run.id, &Batch { facts: begun, ..Batch::default() }).await?;
        let emit = |kind| {
            events.send(Event { version: EVENT_VERSION, at, run: run.id.clone(), kind });
        };
        let definition = facts.definition.as_ref().unwrap_or(&run.definition);
        let nodes = definition.nodes.iter().map(|outline| outline.node.clone()).collect();
        emit(EventKind::RunStarted { workflow: run.workflow.clone(), resumed: true, nodes });
        emit(EventKind::RunUndoing { reason: facts.undo.clone().unwrap_or_default() });
        let random = Box::new(ambient::random);
        let catalog = std::sync::Arc::clone(&self.catalog);
        let needs = needs(run, &facts);
        let undo = Undo::new(run.id.clone(), catalog, facts, &needs, random).leaving(leave);
        self.dispatch(run, Machine::Undo(Box::new(undo)), store, places, events, shutdown).await
    }

    /// A run and its facts, as a reader has them.
    pub(crate) async fn facts_of(&self, run: Option<&RunId>) -> Result<(RunRecord, RunFacts), RunError> {
        let Some(store) = self.existing_store().await? else { return Err(RunError::NoRuns) };
        let run = find(&*store, run).await?;
        let facts = RunFacts::fold(store.facts(&run.id).await?);
        Ok((run, facts))
    }
}

/// The run that must be meant where none is named: the newest that has the gate still before it, if no other asks.
/// `None` if no run has.
///
/// # Errors
/// Where an answer could be meant for several. It stands, so nobody may have to guess.
async fn the_one_that_is_meant(store: &dyn Store, gate: &NodeId) -> Result<Option<RunId>, DecideError> {
    let (mut ahead, mut asking) = (Vec::new(), Vec::new());
    for run in store.runs().await.map_err(RunError::from)? {
        let facts = RunFacts::fold(store.facts(&run.id).await.map_err(RunError::from)?);
        let outlines = &facts.definition.as_ref().unwrap_or(&run.definition).nodes;
        let is_gate = |outline: &NodeOutline| outline.node == gate.whole() && outline.step == GATE;
        let is_over = facts.undo.is_some() || matches!(facts.ended, Some((RunState::Done, _)));
        if is_over || !outlines.iter().any(is_gate) {
            continue;
        }
        let records = facts.nodes.iter().filter(|(node, _)| *node == gate || node.whole() == *gate);
        let records: Vec<_> = records.map(|(_, record)| record).collect();
        let upstream = upstream_of(&facts, outlines, &gate.whole());
        // And it is not asked again when its turn comes.
        let is_passed = |record: &&NodeRecord| match record.phase {
            _ if record.again.is_some() => false,
            Phase::Finished => !record.is_outdated(upstream),
            phase => phase == Phase::Skipped,
        };
        if !records.is_empty() && records.iter().all(is_passed) {
            continue;
        }
        let mut asks = false;
        for key in
            records.iter().filter(|record| record.is_waiting()).filter_map(|record| record.key.as_ref())
        {
            asks |= store.decision(&run.id, key).await.map_err(RunError::from)?.is_none();
        }
        if asks {
            asking.push(run.id.clone());
        }
        ahead.push(run.id);
    }
    // Older ones than the one that asks wait for nobody.
    let runs = match asking.as_slice() {
        [] => return Ok(ahead.into_iter().next()),
        [one] => {
            let newer = ahead.iter().position(|run| run == one).unwrap_or_default();
            ahead[..=newer].to_vec()
        }
        _ => asking,
    };
    match runs.as_slice() {
        [one] => Ok(Some(one.clone())),
        _ => Err(DecideError::SeveralRuns { node: gate.clone(), runs }),
    }
}

/// What each node of a run waits for, as it was last begun.
fn needs(run: &RunRecord, facts: &RunFacts) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let definition = facts.definition.as_ref().unwrap_or(&run.definition);
    let needs = |outline: &NodeOutline| (outline.node.clone(), outline.needs.iter().cloned().collect());
    definition.nodes.iter().map(needs).collect()
}
