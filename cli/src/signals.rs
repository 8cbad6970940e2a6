//! Ctrl-C and SIGTERM: the first asks the run to stop where it can go on later, the second ends it.

use migrate_engine::{Shutdown, ShutdownLevel};
use tokio::signal::unix::{SignalKind, signal};

use crate::say::say;

/// Listens until the process ends.
///
/// # Errors
/// When the operating system lets no handler be set.
pub fn listen(shutdown: Shutdown) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match shutdown.escalate() {
                ShutdownLevel::Drain => {
                    say!("stopping: letting running steps reach a checkpoint (once more to stop at once)");
                }
                _ => say!("stopping at once"),
            }
        }
    });
    Ok(())
}
