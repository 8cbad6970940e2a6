//! Whom the services of ours answer: at first everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Inner {
    /// `None`: whatever comes.
    taken: Option<BTreeSet<String>>,
    /// By kind of request.
    seen: BTreeMap<String, BTreeSet<String>>,
}

/// The credentials that one service takes.
#[derive(Default)]
pub struct Gate {
    inner: Mutex<Inner>,
    refused: AtomicU64,
}

impl Gate {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing more, until [`open_to`](Self::open_to).
    pub fn close(&self) {
        self.inner().taken = Some(BTreeSet::new());
    }

    /// Takes `credential` too, and nothing that it was not opened to.
    pub fn open_to(&self, credential: &str) {
        self.inner().taken.get_or_insert_default().insert(credential.to_owned());
    }

    /// Whether a request of `kind` with this credential is answered.
    pub fn passes(&self, kind: &str, credential: Option<&str>) -> bool {
        let mut inner = self.inner();
        if let Some(credential) = credential {
            inner.seen.entry(kind.to_owned()).or_default().insert(credential.to_owned());
        }
        let passes = inner.taken.as_ref().is_none_or(|taken| credential.is_some_and(|c| taken.contains(c)));
        self.refused.fetch_add(u64::from(!passes), Ordering::Relaxed);
        passes
    }

    /// The credentials that requests came with, by kind of request.
    pub fn seen(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.inner().seen.clone()
    }

    /// Requests that were not answered.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
