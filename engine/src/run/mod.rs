//! Running: a pure core, and the tasks around it.
//!
//! `state` (the fold over facts) and `core` (facts and inputs → commands, in the words of
//! `command`) are pure; so are
//! `retry`, `key`, `change`, `basis` and `outlook`. `dispatcher` owns a run while a process works on it and alone
//! writes its facts; `executor` makes one call of a step; `host` is what the step sees of us, and
//! `secrets` (with `secret_command`) where its secrets come from;
//! `preflight` asks before anything is touched; `lock` lets one
//! process in, and `heartbeat` keeps it the one; `verify` looks again at what is finished; `undo`
//! (pure too) takes a run back; `gate` is what waits for a person.

pub(crate) mod basis;
#[cfg(test)]
mod basis_tests;
pub(crate) mod change;
pub(crate) mod command;
pub(crate) mod core;
#[cfg(test)]
mod core_tests;
#[cfg(all(test, target_os = "linux"))]
mod crash_tests;
#[cfg(test)]
mod decision_tests;
pub(crate) mod dispatcher;
pub(crate) mod executor;
#[cfg(test)]
mod fanout_tests;
pub(crate) mod gate;
pub(crate) mod heartbeat;
pub(crate) mod host;
pub(crate) mod key;
pub(crate) mod lock;
pub(crate) mod outlook;
pub(crate) mod preflight;
mod retry;
mod secret_command;
pub(crate) mod secrets;
#[cfg(test)]
pub(crate) mod simulation;
pub(crate) mod state;
pub(crate) mod undo;
pub(crate) mod verify;

pub use gate::GateDecision;
