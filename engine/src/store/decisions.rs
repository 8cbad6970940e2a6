//! Decisions beside a store that is a file: one file each, below `.migrate/decisions`.
//!
//! Written whole or not at all and never replaced, by whoever decides, while another process may hold
//! the store. Never a fact: that is made of it by the process that works on the run.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use migrate_plugin_api::{IdempotencyKey, RunId};

use crate::run::GateDecision;

/// Largest file that is taken for a decision: some times the longest note.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where decisions about the gates of one run are dropped.
#[derive(Debug)]
pub(super) struct DecisionBox {
    dir: PathBuf,
}

impl DecisionBox {
    pub(super) fn new(state_dir: &Path, run: &RunId) -> Self {
        Self { dir: state_dir.join("decisions").join(run.as_str()) }
    }

    fn path(&self, key: &IdempotencyKey) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// Drops a decision. Durable when it returns; `Some`: the one that was there before, and stands.
    pub(super) fn put(&self, decision: &GateDecision) -> std::io::Result<Option<GateDecision>> {
        std::fs::create_dir_all(&self.dir)?;
        let new = self.dir.join(format!("{}.{}.new", decision.key, std::process::id()));
        let mut file = std::fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(decision)?).and_then(|()| file.sync_all())?;
        let linked = std::fs::hard_link(&new, self.path(&decision.key));
        let removed = std::fs::remove_file(&new);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return self.get(&decision.key)?.map(Some).ok_or(error);
            }
            Err(error) => return Err(error),
        }
        removed?;
        std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all())?;
        Ok(None)
    }

    /// The decision about `key`, if there is one.
    pub(super) fn get(&self, key: &IdempotencyKey) -> std::io::Result<Option<GateDecision>> {
        let file = match std::fs::File::open(self.path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        let decision: GateDecision = serde_json::from_slice(&text)?;
        Ok(Some(decision).filter(|decision| decision.key == *key))
    }
}
