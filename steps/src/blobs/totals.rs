//! How much a pass will take, for its progress. Counted by a listing of its own only where the pass's
//! listing takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::names::Phase;
use super::source::Source;

/// Totals are worth a listing of their own only in a pass that takes longer than this.
pub(super) const COUNT_AFTER: Duration = Duration::from_secs(3);

/// The totals, counted by a listing of its own that runs ahead.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) objects: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) known: AtomicBool,
}

/// Counts what the pass will take, `all` of it, unless its own listing is over by then. A failure leaves the totals
/// unknown; the pass will meet it too.
pub(super) async fn count(source: Arc<Source>, all: Phase, totals: Arc<Totals>) {
    tokio::time::sleep(COUNT_AFTER).await;
    let (mut objects, mut bytes) = (0, 0);
    for scope in &all.scopes {
        let mut pages = source.list(scope, None);
        while !totals.known.load(Ordering::Relaxed)
            && let Some(page) = pages.recv().await
        {
            let Ok(page) = page else { return };
            for object in page.iter().filter(|o| all.takes(&o.key) && !o.is_folder_marker()) {
                objects += 1;
                bytes += object.size;
            }
        }
    }
    totals.tell(objects, bytes);
}

impl Totals {
    /// Only the first counts.
    pub(super) fn tell(&self, objects: u64, bytes: u64) {
        if !self.known.load(Ordering::Relaxed) {
            self.objects.store(objects, Ordering::Relaxed);
            self.bytes.store(bytes, Ordering::Relaxed);
            self.known.store(true, Ordering::Relaxed);
        }
    }
}
