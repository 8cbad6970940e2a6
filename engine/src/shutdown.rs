//! How a run is asked to stop. Owned by the caller (the CLI's signal handler); the dispatcher only
//! listens. A level is replaced only by a greater one.

use tokio::sync::watch;

/// How hard the run is asked to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownLevel {
    /// Go on.
    #[default]
    None,
    /// Start nothing more, let running steps reach a checkpoint, then end.
    Drain,
    /// Abort what runs, now.
    Kill,
}

/// A handle that asks a run to stop. Clones share one level.
#[derive(Debug, Clone)]
pub struct Shutdown {
    level: watch::Sender<ShutdownLevel>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A handle that has asked for nothing yet.
    pub fn new() -> Self {
        Self { level: watch::Sender::new(ShutdownLevel::None) }
    }

    /// First Ctrl-C.
    pub fn drain(&self) {
        self.raise(ShutdownLevel::Drain);
    }

    /// Second Ctrl-C.
    pub fn kill(&self) {
        self.raise(ShutdownLevel::Kill);
    }

    /// One level up: what a signal handler calls at each signal. Returns the level reached.
    pub fn escalate(&self) -> ShutdownLevel {
        let next = match self.level() {
            ShutdownLevel::None => ShutdownLevel::Drain,
            _ => ShutdownLevel::Kill,
        };
        self.raise(next);
        next
    }

    /// The level now.
    pub fn level(&self) -> ShutdownLevel {
        *self.level.borrow()
    }

    /// Sees every later change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<ShutdownLevel> {
        self.level.subscribe()
    }

    fn raise(&self, to: ShutdownLevel) {
        self.level.send_if_modified(|level| {
            let greater = to > *level;
            if greater {
                *level = to;
            }
            greater
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_only_ever_raised() {
        let shutdown = Shutdown::new();
        shutdown.kill();
        shutdown.drain();
        assert_eq!(shutdown.level(), ShutdownLevel::Kill);
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.escalate(), ShutdownLevel::Drain);
        assert_eq!(shutdown.escalate(), ShutdownLevel::Kill);
    }
}
