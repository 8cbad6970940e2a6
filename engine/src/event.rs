//! The one typed stream of what happens in a run. The terminal, `--json` and the log are readers.
//!
//! Owns [`Event`] (versioned JSON) and the channel it travels through. The channel never blocks the
//! run: facts are always kept, a node's progress replaces its unread predecessor, and unread log
//! lines are bounded (the number of dropped ones is told).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use migrate_plugin_api::{ErrorRecord, Evidence, LogLevel, NodeId, Progress, RunId, StepPlan};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use crate::ambient::{self, Alarm};
use crate::report::RunState;

/// Version of the JSON form of [`Event`]. Raised when a field changes its meaning or goes away.
pub const EVENT_VERSION: u32 = 1;

/// Unread log lines kept. A reader that is slower than this loses lines, not memory.
const MAX_UNREAD_LOGS: usize = 4_096;

/// How long a reader that waited lets more arrive: to be woken for each event would cost a run of short
/// nodes more than the events, and nobody sees so short a time.
const GATHER: Duration = Duration::from_millis(2);

/// Something that happened. As JSON one flat object: `{"version":1,"at":…,"run":…,"type":…,…}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`EVENT_VERSION`].
    pub version: u32,
    /// When.
    pub at: Timestamp,
    /// In which run.
    pub run: RunId,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum EventKind {
    /// The run holds the lock and begins its preflight.
    RunStarted {
        /// The workflow's name.
        workflow: String,
        /// Whether facts of an earlier process are taken up.
        resumed: bool,
        /// All nodes in an order in which they may run.
        nodes: Vec<NodeId>,
    },
    /// Preflight has looked at a node. Not sent for nodes that are skipped or already finished.
    NodePlanned {
        /// The node.
        node: NodeId,
        /// Its step.
        step: String,
        /// What it would do.
        plan: StepPlan,
    },
    /// The list of a node with `for_each` is known, durably. What follows is about its items, each
    /// under a name of its own: `copy[shop]`.
    NodeExpanded {
        /// The node.
        node: NodeId,
        /// Number of its items. With none, the node is done with nothing.
        items: usize,
        /// Keys that an earlier list of this run did not have.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        added: Vec<String>,
        /// Keys that only an earlier list of this run had. What they did is left as it is.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<String>,
    },
    /// Every item of the node is done, and who waits for it may go on.
    NodeItemsDone {
        /// The node.
        node: NodeId,
        /// Number of its items.
        items: usize,
    },
    /// An attempt begins; its intent is durable.
    NodeStarted {
        /// The node.
        node: NodeId,
        /// Its step.
        step: String,
        /// From 1, counted over all processes of the run.
        attempt: u32,
    },
    /// How far a running node is. Only the newest unread one of a node is kept.
    NodeProgress {
        /// The node.
        node: NodeId,
        /// How far.
        progress: Progress,
    },
    /// A step, or the engine on its behalf, says something.
    NodeLog {
        /// The node.
        node: NodeId,
        /// How much it matters.
        level: LogLevel,
        /// The line.
        message: String,
    },
    /// The effect is there; its proof is being looked for.
    NodeVerifying {
        /// The node.
        node: NodeId,
    },
    /// An attempt failed and another will follow.
    NodeRetrying {
        /// The node.
        node: NodeId,
        /// The attempt that failed.
        attempt: u32,
        /// Why.
        error: ErrorRecord,
        /// Wait before the next one.
        delay_ms: u64,
    },
    /// Applied and verified. Durable.
    NodeFinished {
        /// The node.
        node: NodeId,
        /// Attempts over all processes of the run.
        attempts: u32,
        /// Time spent in this process.
        duration_ms: u64,
        /// Outputs; sensitive ones are masked.
        outputs: Value,
        /// What proves it.
        evidence: Evidence,
    },
    /// No further attempt will be made in this process. Durable.
    NodeFailed {
        /// The node.
        node: NodeId,
        /// Attempts over all processes of the run.
        attempts: u32,
        /// Time spent in this process.
        duration_ms: u64,
        /// Why.
        error: ErrorRecord,
        /// The comparisons, where a failed check is the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Evidence>,
    },
    /// Not run because of `when`, or because it refers to the outputs of a skipped node.
    NodeSkipped {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// Finished by an earlier process, unchanged, and verified again.
    NodeReused {
        /// The node.
        node: NodeId,
        /// What proves it now.
        evidence: Evidence,
    },
    /// Stopped on request before it was done; `resume` goes on with it.
    NodeInterrupted {
        /// The node.
        node: NodeId,
    },
    /// A gate waits for a person.
    NodeWaiting {
        /// The node.
        node: NodeId,
        /// What is to be decided.
        message: String,
    },
    /// From here on the run is taken back. Durable.
    RunUndoing {
        /// Why.
        reason: String,
    },
    /// An undo begins; its intent is durable.
    NodeUndoing {
        /// The node.
        node: NodeId,
        /// Its step.
        step: String,
    },
    /// Its effect is taken back. Durable.
    NodeUndone {
        /// The node.
        node: NodeId,
        /// Time spent on it in this process.
        duration_ms: u64,
    },
    /// The undo leaves it as it is. Durable.
    NodeLeft {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// The last event of a run.
    RunFinished {
        /// How it ended.
        state: RunState,
        /// Time since this process began with it.
        duration_ms: u64,
    },
}

impl EventKind {
    /// The node it is about.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::RunStarted { .. } | Self::RunUndoing { .. } | Self::RunFinished { .. } => None,
            Self::NodePlanned { node, .. }
            | Self::NodeExpanded { node, .. }
            | Self::NodeItemsDone { node, .. }
            | Self::NodeStarted { node, .. }
            | Self::NodeProgress { node, .. }
            | Self::NodeLog { node, .. }
            | Self::NodeVerifying { node }
            | Self::NodeRetrying { node, .. }
            | Self::NodeFinished { node, .. }
            | Self::NodeFailed { node, .. }
            | Self::NodeSkipped { node, .. }
            | Self::NodeReused { node, .. }
            | Self::NodeWaiting { node, .. }
            | Self::NodeUndoing { node, .. }
            | Self::NodeUndone { node, .. }
            | Self::NodeLeft { node, .. }
            | Self::NodeInterrupted { node } => Some(node),
        }
    }

    /// Whether the node will report no more progress after it.
    fn ends_node(&self) -> bool {
        matches!(
            self,
            Self::NodeFinished { .. }
                | Self::NodeFailed { .. }
                | Self::NodeSkipped { .. }
                | Self::NodeReused { .. }
                | Self::NodeWaiting { .. }
                | Self::NodeUndone { .. }
                | Self::NodeLeft { .. }
                | Self::NodeInterrupted { .. }
        )
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    progress: BTreeMap<NodeId, Event>,
    logs: usize,
    dropped_logs: u64,
    closed: bool,
    unread: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
    /// Nothing more will arrive.
    over: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new channel.
pub fn event_channel() -> (EventSink, EventStream) {
    let shared = Arc::new(Shared::default());
    let closer = Arc::new(Closer(Arc::clone(&shared)));
    (
        EventSink { shared: Arc::clone(&shared), _closer: closer },
        EventStream { shared, gather: Alarm::default() },
    )
}

struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.over.notify_one();
        self.0.arrived.notify_one();
    }
}

/// Where events go in. Cheap to clone; the stream ends when the last clone is dropped.
#[derive(Clone)]
pub struct EventSink {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

impl EventSink {
    /// A sink that nobody reads.
    pub fn discard() -> Self {
        event_channel().0
    }

    /// Never blocks.
    pub(crate) fn send(&self, event: Event) {
        let mut queue = self.shared.lock();
        if queue.unread {
            return;
        }
        match &event.kind {
            EventKind::NodeProgress { node, .. } => {
                queue.progress.insert(node.clone(), event);
            }
            EventKind::NodeLog { .. } if queue.logs >= MAX_UNREAD_LOGS => queue.dropped_logs += 1,
            kind => {
                if kind.ends_node()
                    && let Some(node) = kind.node()
                {
                    queue.progress.remove(node);
                }
                queue.logs += usize::from(matches!(kind, EventKind::NodeLog { .. }));
                queue.events.push_back(event);
            }
        }
        drop(queue);
        self.shared.arrived.notify_one();
    }
}

/// Where events come out. One reader.
pub struct EventStream {
    shared: Arc<Shared>,
    gather: Alarm,
}

impl EventStream {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        let shared = Arc::clone(&self.shared);
        loop {
            let arrived = shared.arrived.notified();
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if shared.lock().closed {
                return self.try_next();
            }
            arrived.await;
            let more = ambient::instant() + GATHER;
            tokio::select! {
                () = shared.over.notified() => {}
                () = self.gather.ring(Some(more)) => {}
            }
        }
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        let mut queue = self.shared.lock();
        if let Some(event) = queue.events.pop_front() {
            if matches!(event.kind, EventKind::NodeLog { .. }) {
                queue.logs -= 1;
            }
            return Some(event);
        }
        queue.progress.pop_first().map(|(_, event)| event)
    }

    /// Log lines that were dropped because they were not read in time.
    pub fn dropped_logs(&self) -> u64 {
        self.shared.lock().dropped_logs
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.unread = true;
        queue.events.clear();
        queue.progress.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind) -> Event {
        let run = RunId::new("r").unwrap();
        Event { version: EVENT_VERSION, at: Timestamp::UNIX_EPOCH, run, kind }
    }

    fn node() -> NodeId {
        NodeId::new("n").unwrap()
    }

    fn progress(items: u64) -> Event {
        event(EventKind::NodeProgress { node: node(), progress: Progress::default().items(items, None) })
    }

    #[tokio::test]
    async fn a_slow_reader_gets_every_fact_the_newest_progress_and_bounded_logs() {
        let (sink, mut stream) = event_channel();
        for at in 0..MAX_UNREAD_LOGS + 5 {
            let message = at.to_string();
            sink.send(event(EventKind::NodeLog { node: node(), level: LogLevel::Info, message }));
            sink.send(progress(at as u64));
        }
        sink.send(event(EventKind::NodeVerifying { node: node() }));
        drop(sink);
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event);
        }
        assert_eq!(events.len(), MAX_UNREAD_LOGS + 2);
        assert_eq!(stream.dropped_logs(), 5);
        assert_eq!(events.last(), Some(&progress(MAX_UNREAD_LOGS as u64 + 4)));
    }

    #[tokio::test]
    async fn a_waiting_reader_takes_what_arrives_together_at_once_and_ends_without_waiting() {
        async fn settle() {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
        let world = ambient::simulated::Simulated::new(1);
        ambient::simulated::enter(Some(Arc::clone(&world)));
        let (sink, mut stream) = event_channel();
        let seen = Arc::new(Mutex::new(0));
        let count = Arc::clone(&seen);
        let reader = tokio::spawn(async move {
            while stream.next().await.is_some() {
                *count.lock().unwrap() += 1;
            }
        });
        settle().await;
        for _ in 0..2 {
            sink.send(event(EventKind::NodeVerifying { node: node() }));
            settle().await;
        }
        assert_eq!(*seen.lock().unwrap(), 0);
        assert!(world.jump(), "the reader waits for more");
        settle().await;
        assert_eq!((*seen.lock().unwrap(), world.elapsed()), (2, GATHER));
        sink.send(event(EventKind::NodeInterrupted { node: node() }));
        settle().await;
        drop(sink);
        reader.await.unwrap();
        assert_eq!((*seen.lock().unwrap(), world.elapsed()), (3, GATHER));
        ambient::simulated::enter(None);
    }

    #[tokio::test]
    async fn no_progress_follows_the_end_of_its_node() {
        let (sink, mut stream) = event_channel();
        sink.send(progress(1));
        sink.send(event(EventKind::NodeInterrupted { node: node() }));
        drop(sink);
        assert!(matches!(stream.next().await.unwrap().kind, EventKind::NodeInterrupted { .. }));
        assert_eq!(stream.next().await, None);
    }

    #[test]
    fn nothing_is_kept_for_a_reader_that_is_gone() {
        let (sink, stream) = event_channel();
        drop(stream);
        sink.send(progress(1));
        assert!(sink.shared.lock().progress.is_empty());
    }

    #[test]
    fn the_json_form_is_flat_and_named() {
        let json = serde_json::to_value(progress(2)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "version": 1, "at": "1970-01-01T00:00:00Z", "run": "r", "type": "node-progress",
                "node": "n", "progress": { "items": { "done": 2 } },
            })
        );
    }
}
