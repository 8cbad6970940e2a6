//! A bound on bytes a second, shared by everything that goes through one registry client.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes that may pass at once after a pause; small enough that a second's average holds.
const BURST: Duration = Duration::from_millis(100);

/// The bound.
pub(crate) struct Rate {
    bytes_per_second: f64,
    /// When everything that was let through so far has used up its time.
    paid_until: Mutex<Option<Instant>>,
}

impl Rate {
    /// `bytes_per_second` of 0 counts as 1.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1) as f64, paid_until: Mutex::new(None) }
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn pass(&self, bytes: usize) {
        tokio::time::sleep_until(self.book(bytes, Instant::now())).await;
    }

    /// When `bytes` may pass that are there `now`.
    fn book(&self, bytes: usize, now: Instant) -> Instant {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let start = paid_until.map_or(now, |paid| paid.max(now.checked_sub(BURST).unwrap_or(now)));
        let until = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *paid_until = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_stay_below_it_and_a_pause_is_no_credit() {
        let rate = Rate::new(1_000_000);
        let now = Instant::now();
        let last = (0..40).map(|_| rate.book(100_000, now)).last().unwrap();
        assert_eq!(last - now, Duration::from_secs(4));
        let later = now + Duration::from_secs(60);
        let last = (0..11).map(|_| rate.book(100_000, later)).last().unwrap();
        assert_eq!(last - later, Duration::from_secs(1));
    }
}
