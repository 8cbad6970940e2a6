//! One task that owns a run: it alone writes facts, starts calls and emits their events.
//!
//! Everything reaches it through one channel; each turn takes what has arrived, asks the core,
//! stores all of it in one transaction, and only then acts. So an intent is durable before its
//! effect, and a step's `checkpoint` returns only when it is. Only what nothing but reading follows may
//! wait a moment: that a finished node still holds, and an effect that is about to be verified.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::{CancellationToken, IdempotencyKey, NodeId, RunId, Step, StepContext};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::command::{Call, CallKind, Command, Input};
use super::core::{Core, millis};
use super::executor::execute;
use super::host::{Host, Line, Message, Put};
use super::secrets::Secrets;
#[cfg(test)]
use super::simulation::{Flaw, flawed};
use super::state::RunFacts;
use super::undo::Undo;
use crate::ambient::{self, Alarm};
use crate::event::{EVENT_VERSION, Event, EventKind, EventSink};
use crate::report::RunState;
use crate::shutdown::ShutdownLevel;
use crate::store::fact::{Batch, Fact, Place, Stamped};
use crate::store::{Store, StoreError};

/// Messages that wait for the dispatcher. Steps wait when it is full, which bounds memory.
const QUEUE: usize = 1_024;

/// Messages taken in one turn, and so stored in one transaction.
const MAX_TURN: usize = 256;

/// Time that steps have to reach a checkpoint after the first request to stop.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(60);

/// How long what only confirms what is known may wait to be stored with more of its kind.
const HOLD: Duration = Duration::from_millis(100);

/// How long an effect may wait to be stored with the result of its verification. Most verifications
/// take less, and then a node costs one commit less.
const VERIFY_HOLD: Duration = Duration::from_millis(1);

/// Facts that are held at most: as many as one statement of the store takes.
const MAX_HELD: usize = 1_000;

/// How often decisions are looked for while a gate waits: a person notices no second.
const DECISION_POLL: Duration = Duration::from_secs(1);

/// What a dispatcher works with.
pub(crate) struct Session {
    pub run: RunId,
    pub project_dir: PathBuf,
    pub secrets: Secrets,
    pub steps: Arc<BTreeMap<String, Arc<dyn Step>>>,
    pub store: Arc<dyn Store>,
    pub events: EventSink,
    pub places: BTreeMap<NodeId, Place>,
    pub shutdown: watch::Receiver<ShutdownLevel>,
}

/// Which pure machine decides.
pub(crate) enum Machine {
    Run(Box<Core>),
    Undo(Box<Undo>),
}

impl Machine {
    fn step(&mut self, input: Input, now: Duration, at: jiff::Timestamp) -> Vec<Command> {
        match self {
            Self::Run(core) => core.step(input, now, at),
            Self::Undo(undo) => undo.step(input, now, at),
        }
    }

    fn facts_mut(&mut self) -> &mut RunFacts {
        match self {
            Self::Run(core) => core.facts_mut(),
            Self::Undo(undo) => undo.facts_mut(),
        }
    }

    /// All that is known.
    pub(crate) fn facts(&self) -> &RunFacts {
        match self {
            Self::Run(core) => core.facts(),
            Self::Undo(undo) => undo.facts(),
        }
    }

    fn asked(&self) -> Vec<IdempotencyKey> {
        match self {
            Self::Run(core) => core.asked().cloned().collect(),
            Self::Undo(_) => Vec::new(),
        }
    }

    fn into_undo(self) -> Self {
        match self {
            Self::Run(core) => Self::Undo(Box::new(core.into_undo())),
            Self::Undo(undo) => Self::Undo(undo),
        }
    }
}

/// The task's state.
pub(crate) struct Dispatcher {
    session: Session,
    core: Machine,
    started: Instant,
    tasks: JoinSet<()>,
    /// Calls that have not ended: which, and how it is told to stop.
    tokens: BTreeMap<NodeId, (u64, CancellationToken)>,
    calls: u64,
    sender: mpsc::Sender<Message>,
    receiver: mpsc::Receiver<Message>,
    abort_at: Option<Instant>,
    next_look: Instant,
    /// When what is held must be stored.
    store_at: Option<Instant>,
    store_alarm: Alarm,
}

/// What one turn must store and then do.
#[derive(Default)]
struct Turn {
    batch: Batch,
    acknowledge: Vec<oneshot::Sender<()>>,
    act: Vec<Command>,
}

impl Turn {
    /// How long it may wait to be stored with what comes next; `None` if something that is to be done
    /// depends on it. Of what is lost by waiting, a finished node is asked again, a change of the files told again,
    /// and an effect is looked for as one whose end is not known.
    fn patience(&self) -> Option<Duration> {
        let Batch { facts, cursors, handles, cleared, logs: _ } = &self.batch;
        let waits = |stamped: &Stamped| match stamped.fact {
            Fact::Reused { .. } | Fact::Reworded { .. } => Some(HOLD),
            Fact::Applied { .. } => Some(VERIFY_HOLD),
            _ => None,
        };
        let reads = |command: &Command| match command {
            Command::Emit(_) => true,
            Command::Call(call) => call.kind == CallKind::Verify,
            _ => false,
        };
        let may_wait = facts.len() < MAX_HELD
            && cursors.is_empty()
            && handles.is_empty()
            && cleared.is_empty()
            && self.acknowledge.is_empty()
            && self.act.iter().all(reads);
        let shortest = facts.iter().map(waits).min()?;
        shortest.filter(|_| may_wait)
    }
}

impl Dispatcher {
    pub(crate) fn new(session: Session, core: Machine) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self {
            session,
            core,
            started: ambient::instant(),
            tasks: JoinSet::new(),
            tokens: BTreeMap::new(),
            calls: 0,
            sender,
            receiver,
            abort_at: None,
            next_look: ambient::instant(),
            store_at: None,
            store_alarm: Alarm::default(),
        }
    }

    /// Works until the run ends. Returns the machine with all that is known.
    ///
    /// # Errors
    /// When the store fails; everything that ran is aborted then.
    pub(crate) async fn work(mut self) -> Result<Machine, StoreError> {
        let mut turn = Turn::default();
        // Decided since the last process ended.
        let open = self.core.facts().nodes.values().filter(|record| record.is_waiting());
        let open = open.filter_map(|record| record.key.clone()).collect();
        self.look_for_decisions(open, &mut turn).await;
        self.ask(Input::Begin, &mut turn);
        loop {
            if turn.patience().is_some_and(|patience| self.may_hold(patience)) {
                self.call_held(&mut turn);
                if self.wait(&mut turn).await == Next::Abort {
                    return self.abort(turn).await;
                }
                continue;
            }
            self.store_at = None;
            match self.finish_turn(turn).await? {
                After::Go => {}
                After::Undo => {
                    self.core = self.core.into_undo();
                    turn = Turn::default();
                    self.ask(Input::Begin, &mut turn);
                    continue;
                }
                After::End(state) => {
                    self.emit(EventKind::RunFinished { state, duration_ms: millis(self.elapsed()) });
                    return Ok(self.core);
                }
            }
            turn = Turn::default();
            if self.wait(&mut turn).await == Next::Abort {
                return self.abort(turn).await;
            }
        }
    }

    /// Whether there is time to hold a turn that has so much patience.
    fn may_hold(&mut self, patience: Duration) -> bool {
        let now = ambient::instant();
        let store_at = self.store_at.map_or(now + patience, |at| at.min(now + patience));
        self.store_at = Some(store_at);
        now < store_at
    }

    /// Starts the calls of a turn that is held: they only read. Its events wait until it is stored.
    fn call_held(&mut self, turn: &mut Turn) {
        for command in std::mem::take(&mut turn.act) {
            match command {
                Command::Call(call) => self.call(*call),
                other => turn.act.push(other),
            }
        }
    }

    /// Waits for something to happen and takes in all of it.
    async fn wait(&mut self, turn: &mut Turn) -> Next {
        let level = *self.session.shutdown.borrow_and_update();
        match (level, self.abort_at) {
            (ShutdownLevel::Kill, _) => return Next::Abort,
            (ShutdownLevel::Drain, None) => {
                self.abort_at = Some(ambient::instant() + DRAIN_GRACE);
                self.tokens.values().for_each(|(_, token)| token.cancel());
                self.ask(Input::Drain, turn);
                return Next::Turn;
            }
            _ => {}
        }
        let patience = until(self.abort_at);
        let mut shutdown = self.session.shutdown.clone();
        let asked = self.core.asked();
        let look = (!asked.is_empty()).then_some(self.next_look);
        tokio::select! {
            biased;
            () = patience => return Next::Abort,
            () = self.store_alarm.ring(self.store_at) => {}
            () = changed(&mut shutdown) => {}
            () = until(look) => self.look_for_decisions(asked, turn).await,
            // The dispatcher keeps a sender, so the channel never ends.
            Some(message) = self.receiver.recv() => {
                self.take(message, turn);
                for _ in 1..MAX_TURN {
                    let Ok(message) = self.receiver.try_recv() else { break };
                    self.take(message, turn);
                }
            }
        }
        while self.tasks.try_join_next().is_some() {}
        Next::Turn
    }

    /// Takes in what people have decided about `keys`.
    async fn look_for_decisions(&mut self, keys: Vec<IdempotencyKey>, turn: &mut Turn) {
        self.next_look = ambient::instant() + DECISION_POLL;
        for key in keys {
            match self.session.store.decision(&self.session.run, &key).await {
                Ok(None) => {}
                Ok(Some(decision)) => self.ask(Input::Decided(Box::new(decision)), turn),
                // What can't be read is no decision: the gate goes on waiting, and `migrate approve` says
                // what is wrong.
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, message: Message, turn: &mut Turn) {
        match message {
            Message::Input(input) => {
                if let Input::Observed(node, _)
                | Input::Applied(node, _)
                | Input::Verified(node, _)
                | Input::Undone(node, _) = &*input
                {
                    self.tokens.remove(node);
                }
                self.ask(*input, turn);
            }
            // What a call leaves running behind it may say this when another has begun, whose place it is
            // not. It is never acknowledged.
            Message::Place { node, call, .. } if self.tokens.get(&node).is_none_or(|at| at.0 != call) => {}
            Message::Place { node, place, done, .. } => {
                match place {
                    Put::Cursor(cursor) => {
                        self.place(&node).cursor = Some(cursor.clone());
                        turn.batch.cursors.push((node, cursor));
                    }
                    Put::Handle(handle) => {
                        self.place(&node).handle = Some(handle.clone());
                        turn.batch.handles.push((node, handle));
                    }
                }
                turn.acknowledge.push(done);
            }
            Message::Log(line) => turn.batch.logs.push(line),
        }
    }

    fn place(&mut self, node: &NodeId) -> &mut Place {
        self.session.places.entry(node.clone()).or_default()
    }

    fn ask(&mut self, input: Input, turn: &mut Turn) {
        let at = ambient::now();
        for command in self.core.step(input, self.elapsed(), at) {
            match command {
                Command::Record(fact) => turn.batch.facts.push(Stamped { at, fact }),
                Command::Clear(node) => {
                    self.session.places.remove(&node);
                    turn.batch.cursors.retain(|(other, _)| *other != node);
                    turn.batch.handles.retain(|(other, _)| *other != node);
                    turn.batch.cleared.push(node);
                }
                Command::SetHandle(node, handle) => {
                    self.place(&node).handle = Some(handle.clone());
                    turn.batch.handles.push((node, handle));
                }
                other => turn.act.push(other),
            }
        }
    }

    /// Stores, then acknowledges and acts.
    async fn finish_turn(&mut self, turn: Turn) -> Result<After, StoreError> {
        #[cfg(test)]
        let turn = self.flawed_turn(turn);
        let stored = self.session.store.append(&self.session.run, &turn.batch).await;
        #[cfg(test)]
        let stored =
            stored.or_else(|error| if flawed(Flaw::StoreErrorIgnored) { Ok(()) } else { Err(error) });
        if let Err(error) = stored {
            // Nothing may go on that can't be remembered.
            self.tasks.shutdown().await;
            return Err(error);
        }
        for done in turn.acknowledge {
            // A step that no longer waits has been aborted.
            let _ = done.send(());
        }
        let mut after = After::Go;
        for command in turn.act {
            match command {
                Command::Emit(kind) => self.emit(kind),
                Command::Call(call) => self.call(*call),
                Command::Wake(node, delay) => {
                    let sender = self.sender.clone();
                    self.tasks.spawn(async move {
                        ambient::sleep(delay).await;
                        let _ = sender.send(Message::Input(Box::new(Input::Wake(node)))).await;
                    });
                }
                Command::Undo => after = After::Undo,
                Command::End(state) => after = After::End(state),
                Command::Record(_) | Command::Clear(_) | Command::SetHandle(..) => {}
            }
        }
        Ok(after)
    }

    /// The mistake that "stores, then acts" avoids.
    #[cfg(test)]
    fn flawed_turn(&mut self, mut turn: Turn) -> Turn {
        if flawed(Flaw::EffectBeforeIntent) {
            let (calls, rest) =
                turn.act.into_iter().partition::<Vec<_>, _>(|command| matches!(command, Command::Call(_)));
            turn.act = rest;
            calls.into_iter().for_each(|command| {
                if let Command::Call(call) = command {
                    self.call(*call)
                }
            });
        }
        turn
    }

    fn call(&mut self, call: Call) {
        let Some(step) = self.session.steps.get(&call.step).cloned() else { return };
        let token = CancellationToken::new();
        if self.abort_at.is_some() {
            token.cancel();
        }
        self.calls += 1;
        self.tokens.insert(call.node.clone(), (self.calls, token.clone()));
        let session = &self.session;
        let host = Host::new(
            session.run.clone(),
            call.node.clone(),
            session.secrets.clone(),
            session.events.clone(),
            Some(Line { sender: self.sender.clone(), call: self.calls }),
        );
        let beat = host.beat();
        let place = session.places.get(&call.node).cloned().unwrap_or_default();
        let ctx = StepContext::new(
            session.run.clone(),
            call.node.clone(),
            call.attempt,
            call.key.clone(),
            session.project_dir.clone(),
            Arc::new(host),
        )
        .with_state(place.handle, place.cursor)
        .with_cancel(token);
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let input = execute(step, ctx, call, beat).await;
            let _ = sender.send(Message::Input(Box::new(input))).await;
        });
    }

    /// Ends now. What ran stays indeterminate, and is observed when the run is resumed.
    async fn abort(mut self, held: Turn) -> Result<Machine, StoreError> {
        self.tasks.shutdown().await;
        let at = ambient::now();
        let state = RunState::Interrupted;
        let fact = Fact::Ended { state };
        self.core.facts_mut().apply(&fact, at);
        let mut batch = held.batch;
        batch.facts.push(Stamped { at, fact });
        self.session.store.append(&self.session.run, &batch).await?;
        for command in held.act {
            if let Command::Emit(kind) = command {
                self.emit(kind);
            }
        }
        for node in std::mem::take(&mut self.tokens).into_keys() {
            self.emit(EventKind::NodeInterrupted { node });
        }
        self.emit(EventKind::RunFinished { state, duration_ms: millis(self.elapsed()) });
        Ok(self.core)
    }

    fn elapsed(&self) -> Duration {
        ambient::instant() - self.started
    }

    fn emit(&self, kind: EventKind) {
        let run = self.session.run.clone();
        self.session.events.send(Event { version: EVENT_VERSION, at: ambient::now(), run, kind });
    }
}

/// What follows a turn.
enum After {
    Go,
    Undo,
    End(RunState),
}

#[derive(PartialEq, Eq)]
enum Next {
    Turn,
    Abort,
}

/// Waits until `at`; for ever without.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => ambient::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for a change; for ever when nobody is left to make one.
async fn changed(shutdown: &mut watch::Receiver<ShutdownLevel>) {
    if shutdown.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
