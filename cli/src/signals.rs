//! Ctrl-C and SIGTERM: the first asks the run to stop where it can go on later, the second ends it.
//! SIGHUP, of a terminal or a session that is lost, only asks, however often it comes: the kernel and
//! the shell may both send it.

use migrate_engine::{Shutdown, ShutdownLevel};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::say::say;

/// Listens until the process ends.
///
/// # Errors
/// When the operating system lets no handler be set.
pub fn listen(shutdown: Shutdown) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Who started this under `nohup` wants it to go on.
    let mut hangup =
        if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
    tokio::spawn(async move {
        loop {
            let level = tokio::select! {
                _ = interrupt.recv() => shutdown.escalate(),
                _ = terminate.recv() => shutdown.escalate(),
                () = received(&mut hangup) => {
                    if shutdown.level() > ShutdownLevel::None {
                        continue;
                    }
                    shutdown.escalate()
                }
            };
            match level {
                ShutdownLevel::Drain => {
                    say!("stopping: letting running steps reach a checkpoint (once more to stop at once)");
                }
                _ => say!("stopping at once"),
            }
        }
    });
    Ok(())
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with `kind` ignored, as Linux tells (proc(5), `SigIgn`).
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}
