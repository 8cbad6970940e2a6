//! Loads, checks and runs workflows; remembers every fact durably.
//!
//! The engine knows the Step contract (`migrate-plugin-api`) and nothing of AWS, Azure, Kubernetes
//! or Velero. Three rooms: [`workflow`] (TOML → [`Checked`], pure), `store` (durable facts) and
//! `run` (a pure core that turns facts and events into commands, and the tasks around it).
//! [`Engine`] is the only way in; it reports through [`Event`]s and [`RunReport`]s.

mod ambient;
mod decide;
mod engine;
mod error;
mod event;
mod history;
mod outlook;
mod readers;
mod report;
mod resume;
mod run;
mod shutdown;
mod store;
pub mod workflow;

pub use decide::{Approval, DecideError, DecideRequest, UndoRequest};
pub use engine::{Engine, ResumeRequest, VerifyRequest};
pub use error::{OpenError, RunError};
pub use jiff::Timestamp;

pub use event::{EVENT_VERSION, Event, EventKind, EventSink, EventStream, event_channel};
pub use history::{HISTORY_VERSION, History, HistoryEntry, HistoryKind, HistoryMark, HistoryRequest};
pub use outlook::{Action, NodeOutlook, ResumePlan};
pub use report::{
    Changes, FieldChange, ItemCounts, ListPlan, NodeChange, NodePlan, NodeReport, NodeState, NodeUndo,
    PlanReport, REPORT_VERSION, RunReport, RunState, RunStatus, RunSummary, UndoAction, UndoPlan,
};
pub use run::GateDecision;
pub use shutdown::{Shutdown, ShutdownLevel};
pub use store::StoreError;
pub use store::holder::{Holder, Pulse};
pub use store::settings::StoreSettings;
pub use workflow::{Checked, Diagnostics, Mistake, Params, ReadError, Source, nearest};
