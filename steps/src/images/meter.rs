//! Progress of a transfer, and its end when the run is asked to stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migrate_plugin_api::{Progress, StepContext, StepError};

/// As often as a person can read it.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// What is done so far. Totals of 0 are not known yet.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub bytes: Arc<AtomicU64>,
    pub bytes_total: AtomicU64,
    pub items: AtomicU64,
    pub items_total: AtomicU64,
}

impl Meter {
    /// Sets what there is to do.
    pub(crate) fn expect(&self, items: u64, bytes: u64) {
        self.items_total.store(items, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// One more item is done.
    pub(crate) fn item(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self, ctx: &StepContext, message: &str) {
        let total = |value: &AtomicU64| Some(value.load(Ordering::Relaxed)).filter(|total| *total > 0);
        let progress = Progress::message(message)
            .bytes(self.bytes.load(Ordering::Relaxed), total(&self.bytes_total))
            .items(self.items.load(Ordering::Relaxed), total(&self.items_total));
        ctx.progress(progress);
    }
}

/// The bytes of one blob on its way, which also count in a [`Meter`].
#[derive(Debug)]
pub(crate) struct Sent {
    blob: AtomicU64,
    all: Arc<AtomicU64>,
}

impl Sent {
    /// None yet.
    pub(crate) fn new(all: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { blob: AtomicU64::new(0), all: Arc::clone(all) })
    }

    /// So many more.
    pub(crate) fn add(&self, bytes: u64) {
        self.blob.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what did not arrive: only `bytes` of the blob count.
    pub(crate) fn rewind(&self, bytes: u64) {
        let before = self.blob.swap(bytes, Ordering::Relaxed);
        self.all.fetch_sub(before.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// How many of this blob.
    pub(crate) fn bytes(&self) -> u64 {
        self.blob.load(Ordering::Relaxed)
    }
}

/// Runs `work`, showing `meter`, until it ends or the run is asked to stop. What `work` does must
/// bear being dropped at any point.
pub(crate) async fn drive<T>(
    ctx: &StepContext,
    meter: &Meter,
    message: &str,
    work: impl Future<Output = Result<T, StepError>> + Send,
) -> Result<T, StepError> {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(StepError::cancelled()),
            result = &mut work => {
                meter.report(ctx, message);
                return result;
            }
            _ = ticks.tick() => meter.report(ctx, message),
        }
    }
}
