//! How many requests a registry bears at once, found out by trying: one more after each round of
//! answers, half as many after a refusal. A registry's reads and its writes have a pace each, since
//! services limit them apart (ACR: 1,000 reads and 100 writes a minute in Basic).
//!
//! Never sends or retries anything: it only says when.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Bounds of one pace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub start: usize,
    pub most: usize,
}

/// Small reads. With [`WRITES`] and the blobs that are being read it stays at 64 streams a
/// connection; registries announce 100 to 128.
pub(crate) const READS: Bounds = Bounds { start: 16, most: 32 };

/// Uploads, mounts and manifests.
pub(crate) const WRITES: Bounds = Bounds { start: 8, most: 24 };

struct State {
    limit: f64,
    in_flight: usize,
    /// Requests begun so far; the number of the next one.
    begun: u64,
    /// Refusals of requests with lower numbers are answered already.
    slowed_before: u64,
    /// The registry asked for silence until then.
    silent_until: Option<Instant>,
}

impl State {
    /// Begins a request and gives its number, or says why not.
    fn begin(&mut self, now: Instant) -> Result<u64, Wait> {
        if let Some(until) = self.silent_until.filter(|until| *until > now) {
            return Err(Wait::Until(until));
        }
        // At least one, whatever was refused: otherwise nothing would ever be tried again.
        if self.in_flight as f64 >= self.limit.max(1.0).floor() {
            return Err(Wait::ForAnother);
        }
        self.in_flight += 1;
        self.begun += 1;
        Ok(self.begun - 1)
    }

    fn silence(&mut self, until: Instant) {
        self.silent_until = Some(self.silent_until.map_or(until, |known| known.max(until)));
    }

    fn succeeded(&mut self, most: usize) {
        self.limit = (self.limit + 1.0 / self.limit).min(most as f64);
    }

    /// One burst of refusals halves once: those that were under way with the first tell nothing new.
    fn refused(&mut self, number: u64) {
        if number >= self.slowed_before {
            self.limit = (self.limit / 2.0).max(1.0);
            self.slowed_before = self.begun;
        }
    }
}

/// What a request waits for.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Until(Instant),
    ForAnother,
}

/// One pace. Cheap to ask.
pub(crate) struct Pace {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

/// The right to have one request under way.
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    number: u64,
}

impl Pace {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let state = State {
            limit: bounds.start as f64,
            in_flight: 0,
            begun: 0,
            slowed_before: 0,
            silent_until: None,
        };
        Self { most: bounds.most, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        loop {
            // Made before the look, so that no change between both is missed.
            let changed = self.changed.notified();
            let begun = self.state().begin(Instant::now());
            match begun {
                Ok(number) => return Turn { pace: self, number },
                Err(Wait::Until(until)) => tokio::time::sleep_until(until).await,
                Err(Wait::ForAnother) => changed.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The registry answered, and not that it was too much.
    pub(crate) fn succeeded(&self) {
        self.pace.state().succeeded(self.pace.most);
    }

    /// The registry said that it was too much (429, 503); with `wait`, for how long.
    pub(crate) fn refused(&self, wait: Option<Duration>) {
        let mut state = self.pace.state();
        state.refused(self.number);
        if let Some(wait) = wait {
            state.silence(Instant::now() + wait);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.state().in_flight -= 1;
        self.pace.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const BOUNDS: Bounds = Bounds { start: 4, most: 6 };

    async fn free(pace: &Pace) -> usize {
        let mut held = Vec::new();
        while let Some(turn) = pace.turn().now_or_never() {
            held.push(turn);
        }
        held.len()
    }

    #[tokio::test]
    async fn it_grows_by_one_a_round_and_halves_once_a_burst() {
        let pace = Pace::new(BOUNDS);
        assert_eq!(free(&pace).await, 4);
        for _ in 0..5 {
            pace.turn().await.succeeded();
        }
        assert_eq!(free(&pace).await, 5);
        for _ in 0..100 {
            pace.turn().await.succeeded();
        }
        assert_eq!(free(&pace).await, 6, "never more than the most");

        let burst = [pace.turn().await, pace.turn().await, pace.turn().await];
        burst.iter().for_each(|turn| turn.refused(None));
        drop(burst);
        assert_eq!(free(&pace).await, 3);
        for _ in 0..20 {
            pace.turn().await.refused(None);
        }
        assert_eq!(free(&pace).await, 1, "one is always tried");
    }

    #[test]
    fn nobody_asks_while_the_registry_wants_silence() {
        let pace = Pace::new(BOUNDS);
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut state = pace.state();
        state.silence(now + 7 * second);
        state.silence(now + 3 * second);
        assert_eq!(state.begin(now + 6 * second), Err(Wait::Until(now + 7 * second)));
        assert_eq!(state.begin(now + 7 * second), Ok(0));
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_a_turn_ends() {
        let pace = Pace::new(Bounds { start: 1, most: 1 });
        let first = pace.turn().await;
        let mut second = Box::pin(pace.turn());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        second.await.succeeded();
    }
}
