//! One run at a time: an OS lock on `.migrate/lock`, freed by the death of its holder.
//!
//! Who holds it is written beside it, in `.migrate/holder.json`, replaced whole. That file may be
//! stale and is only believed when the process it names is alive. Readers never touch the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use migrate_plugin_api::RunId;

use crate::store::holder::{Holder, Pulse};

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum LockError {
    Held(Holder),
    Io(std::io::Error),
}

/// How often, and how long apart, a holder is looked for that holds the lock and has not said so
/// yet: it does so within microseconds.
const HOLDER_TRIES: u32 = 20;
const HOLDER_PAUSE: Duration = Duration::from_millis(10);

impl RunLock {
    /// Takes the lock in `state_dir` for `run`, or says who has it. Never waits for the lock.
    pub(crate) async fn acquire(state_dir: &Path, run: &RunId) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(wait_for_holder(state_dir).await)),
        }
        write_holder(state_dir, &Holder::here(run)).map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }
}

fn write_holder(state_dir: &Path, holder: &Holder) -> std::io::Result<()> {
    let new = state_dir.join("holder.json.new");
    std::fs::write(&new, serde_json::to_vec(holder)?)?;
    std::fs::rename(new, state_dir.join("holder.json"))
}

async fn wait_for_holder(state_dir: &Path) -> Holder {
    for _ in 0..HOLDER_TRIES {
        if let Some(holder) = holder(state_dir) {
            return holder;
        }
        tokio::time::sleep(HOLDER_PAUSE).await;
    }
    Holder::unknown()
}

/// The living process that last took the lock. It may have given it back since.
pub(crate) fn holder(state_dir: &Path) -> Option<Holder> {
    let text = std::fs::read(state_dir.join("holder.json")).ok()?;
    serde_json::from_slice::<Holder>(&text).ok().filter(|holder| holder.pulse() != Pulse::Dead)
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The OS frees the lock itself; `holder.json` is only believed together with a live process.
        let _ = self._file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lock_goes_with_its_holder_and_a_dead_one_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (RunId::new("first").unwrap(), RunId::new("second").unwrap());
        let lock = RunLock::acquire(dir.path(), &first).await.unwrap();
        let Err(LockError::Held(by)) = RunLock::acquire(dir.path(), &second).await else {
            panic!("not held")
        };
        assert_eq!((by.pid, by.run), (std::process::id(), Some(first)));
        drop(lock);
        let _lock = RunLock::acquire(dir.path(), &second).await.unwrap();
        let mut dead = holder(dir.path()).unwrap();
        assert_eq!(dead.run, Some(second));
        // The same process ID, given to a process that started at another time.
        dead.process_start = dead.process_start.map(|ticks| ticks + 1);
        write_holder(dir.path(), &dead).unwrap();
        assert_eq!(holder(dir.path()), None);
    }
}
