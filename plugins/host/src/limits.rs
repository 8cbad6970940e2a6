//! What a plugin's process is held to, and why.

use std::time::Duration;

pub(crate) use migrate_plugin_api::protocol::MAX_MESSAGE_BYTES;

/// Longest answer to `initialize` and `describe`: an interpreter starts in a second, and on a machine that is
/// busy twenty times over in twenty.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);

/// Time to answer after `cancel`: less than the engine leaves (10 s), so that the plugin's own word counts.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(8);

/// Time between SIGTERM and SIGKILL.
pub(crate) const TERM_GRACE: Duration = Duration::from_secs(2);

/// Time to exit after `shutdown`: nothing is left to do.
pub(crate) const EXIT_GRACE: Duration = Duration::from_secs(2);

/// Time that the guard has to end what is left; it needs milliseconds.
pub(crate) const GUARD_GRACE: Duration = Duration::from_millis(500);

/// Time between two signs of life that the host gives to its guards.
#[cfg(target_os = "linux")]
pub(crate) const BEAT: Duration = Duration::from_secs(2);

/// How long a guard waits for one before it ends the plugin, in whole seconds. A host that is stopped has renewed
/// its lease of 60 s at the latest 30 s before, one failed renewal included: there are 30 s left. A busy machine
/// keeps a thread waiting for a second, not for ten times the beat.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// Most that a process may write to stdout, and to stderr: a day of ten messages a second, ten times over.
pub(crate) const MAX_OUTPUT_BYTES: u64 = 256 * 1024 * 1024;

/// Lines for the log in a second: more than anybody reads, less than keeps the store busy.
pub(crate) const MAX_LINES_A_SECOND: u32 = 1_000;

/// Longest line for the log; the engine's own limit.
pub(crate) const MAX_LINE_BYTES: usize = 4 * 1024;

/// How much of stderr is kept for the error: its end, where programs say why they stop.
pub(crate) const STDERR_KEPT_BYTES: usize = 4 * 1024;

/// Data of one process (`RLIMIT_DATA`, which counts what can be written, not what runtimes only
/// reserve as `RLIMIT_AS` would: Node and Go reserve more than any sensible limit).
pub(crate) const MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes that wait for a plugin that doesn't read, before nothing more is read from it.
pub(crate) const MAX_OUTBOX_BYTES: usize = 2 * MAX_MESSAGE_BYTES;

/// Shortest secret that is looked for in what a plugin says: shorter ones are everywhere.
pub(crate) const MIN_MASKED_BYTES: usize = 6;

/// Plugins asked to describe themselves at once.
pub(crate) const MAX_DESCRIBING: usize = 8;

/// Largest program whose digest is taken: compiled ones have tens of megabytes.
pub(crate) const MAX_PROGRAM_BYTES: u64 = 1024 * 1024 * 1024;
