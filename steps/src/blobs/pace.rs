//! How much a service is asked for at the same time, and when it wants to be left alone.
//!
//! One of these stands before each service. It begins with few requests at once, allows one more
//! for every round of good answers, and half as many when the service says that it has too many
//! (429, 503). A `Retry-After` holds for all requests to that service, to the second: a storm is
//! not answered with a storm. Bytes pass at most as fast as the cap says.
//!
//! The decisions are [`State`]'s and pure; time is given to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, StepError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

/// Requests at once to begin with: enough to hide the latency of small objects, few enough for a
/// small account.
const FIRST: usize = 16;
/// Times a request is sent before its object's own attempts count.
const REQUEST_ATTEMPTS: u32 = 5;
/// First pause where the service names none; doubled, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(20);
/// The longest wait that a service may ask for and get: an hour is a mistake or a day's quota.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The pure part.
#[derive(Debug)]
struct State {
    /// Requests allowed at once.
    limit: usize,
    most: usize,
    /// Permits to take away as they come back.
    debt: usize,
    /// Good answers since the limit last changed.
    good: usize,
    /// Requests begun before this don't halve again: they met the same trouble.
    halved: Option<Instant>,
    /// Nothing is sent before.
    quiet_until: Option<Instant>,
}

/// What has to be done with the semaphore.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    More,
    /// This many fewer.
    Fewer(usize),
}

impl State {
    fn good(&mut self) -> Change {
        self.good += 1;
        if self.good < self.limit || self.limit >= self.most {
            return Change::None;
        }
        (self.good, self.limit) = (0, self.limit + 1);
        Change::More
    }

    /// When a request may be sent that is ready at `now`, if not at once.
    fn quiet(&self, now: Instant) -> Option<Instant> {
        self.quiet_until.filter(|until| *until > now)
    }

    fn throttled(&mut self, begun: Instant, now: Instant, wait: Option<Duration>) -> Change {
        if let Some(wait) = wait {
            let until = now + wait.min(LONGEST_WAIT);
            self.quiet_until = Some(self.quiet_until.map_or(until, |known| known.max(until)));
        }
        if self.halved.is_some_and(|halved| begun <= halved) {
            return Change::None;
        }
        let less = self.limit / 2;
        (self.halved, self.good, self.limit) = (Some(now), 0, self.limit - less);
        if less == 0 { Change::None } else { Change::Fewer(less) }
    }
}

/// A cap of bytes a second, shared by all transfers.
#[derive(Debug)]
pub(super) struct Cap {
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Cap {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(None) }
    }

    /// When `bytes` may pass, which are then spoken for.
    fn reserve(&self, now: Instant, bytes: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free_at = Some(start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        start
    }

    /// Until `bytes` may pass.
    pub(super) async fn pass(&self, bytes: u64) {
        sleep_until(self.reserve(Instant::now(), bytes)).await;
    }
}

/// The gate before one service.
#[derive(Debug)]
pub(super) struct Pace {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

impl Pace {
    /// At most `most` requests at once.
    pub(super) fn new(most: usize) -> Self {
        let limit = FIRST.min(most);
        let state = State { limit, most, debt: 0, good: 0, halved: None, quiet_until: None };
        Self { permits: Arc::new(Semaphore::new(limit)), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request when the service may be asked, and again where that may help: what is
    /// throttled or broken by the line, with the pause that the service wants.
    pub(super) async fn request<T, F>(&self, mut send: impl FnMut() -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let permit = self.enter().await?;
            let begun = Instant::now();
            let error = match send().await {
                Ok(answer) => {
                    let change = self.state().good();
                    self.leave(permit, &change);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let change = match error.class {
                ErrorClass::Throttled { .. } => {
                    self.state().throttled(begun, Instant::now(), error.class.retry_after())
                }
                _ => Change::None,
            };
            self.leave(permit, &change);
            if !error.class.is_retryable() || attempt >= REQUEST_ATTEMPTS {
                return Err(error);
            }
            sleep(wait(error.class, jittered(pause))).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        unreachable!("the loop returns at its last attempt")
    }

    async fn enter(&self) -> Result<OwnedSemaphorePermit, StepError> {
        // Never closed; were it, the pass would be over.
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StepError::cancelled())?;
        loop {
            let quiet = self.state().quiet(Instant::now());
            match quiet {
                Some(until) => sleep_until(until).await,
                None => return Ok(permit),
            }
        }
    }

    fn leave(&self, permit: OwnedSemaphorePermit, change: &Change) {
        let mut state = self.state();
        match change {
            Change::None => {}
            Change::More if state.debt > 0 => state.debt -= 1,
            Change::More => self.permits.add_permits(1),
            Change::Fewer(less) => state.debt += less,
        }
        if state.debt > 0 {
            state.debt -= 1;
            permit.forget();
        }
    }
}

/// How long a failed request is held back: at least as long as the service wants.
fn wait(class: ErrorClass, pause: Duration) -> Duration {
    class.retry_after().unwrap_or_default().min(LONGEST_WAIT).max(pause)
}

/// Up to half more, so that what failed together doesn't come back together.
fn jittered(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    pause + pause.mul_f64(f64::from(nanos % 1_000) / 2_000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn state(limit: usize) -> State {
        State { limit, most: 20, debt: 0, good: 0, halved: None, quiet_until: None }
    }

    #[test]
    fn a_round_of_good_answers_allows_one_more_and_a_refusal_halves_once() {
        let (mut state, start) = (state(16), Instant::now());
        for _ in 0..15 {
            assert_eq!(state.good(), Change::None);
        }
        assert_eq!((state.good(), state.limit), (Change::More, 17));
        let now = start + Duration::from_secs(1);
        assert_eq!(state.throttled(start, now, None), Change::Fewer(8));
        assert_eq!(state.limit, 9);
        // Of the same storm.
        assert_eq!(state.throttled(start, now, None), Change::None);
        let later = now + Duration::from_secs(1);
        for limit in [5, 3, 2, 1] {
            let begun = later + Duration::from_secs(10 - limit as u64);
            state.throttled(begun, begun, None);
            assert_eq!(state.limit, limit);
        }
        assert_eq!(
            state.throttled(later + LAST_PAUSE, later + LAST_PAUSE, None),
            Change::None,
            "one is left"
        );
    }

    #[test]
    fn the_limit_ends_at_the_most() {
        let mut state = state(20);
        assert!((0..100).all(|_| state.good() == Change::None));
    }

    #[test]
    fn a_cap_spaces_bytes_over_time() {
        let (cap, start) = (Cap::new(1_000), Instant::now());
        assert_eq!(cap.reserve(start, 500), start);
        assert_eq!(cap.reserve(start, 2_000), start + Duration::from_millis(500));
        assert_eq!(cap.reserve(start, 1), start + Duration::from_millis(2_500));
        let later = start + Duration::from_secs(60);
        assert_eq!(cap.reserve(later, 1), later, "an idle line saves nothing up");
    }

    #[test]
    fn retry_after_is_obeyed_by_everybody_to_the_second() {
        let (mut state, start) = (state(16), Instant::now());
        let seconds = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(state.quiet(start), None);
        let storm = |seconds: u64| ErrorClass::Throttled { retry_after_ms: Some(seconds * 1_000) };
        state.throttled(start, start, storm(17).retry_after());
        // Whoever comes in the meantime waits for the same second, and nobody longer.
        assert_eq!(state.quiet(start), Some(seconds(17)));
        assert_eq!(state.quiet(seconds(16)), Some(seconds(17)));
        assert_eq!(state.quiet(seconds(17)), None);
        // Another answer of the storm may ask for longer, not for less.
        state.throttled(start, seconds(2), storm(3).retry_after());
        assert_eq!(state.quiet(seconds(2)), Some(seconds(17)));
        state.throttled(start, seconds(5), storm(30).retry_after());
        assert_eq!(state.quiet(seconds(17)), Some(seconds(35)));
        // And the request itself.
        assert_eq!(wait(storm(17), FIRST_PAUSE), Duration::from_secs(17));
        assert_eq!(wait(ErrorClass::Transient { retry_after_ms: None }, FIRST_PAUSE), FIRST_PAUSE);
        assert_eq!(wait(storm(86_400), FIRST_PAUSE), LONGEST_WAIT);
    }

    #[tokio::test]
    async fn what_cannot_help_is_not_sent_again() {
        let pace = Pace::new(4);
        for class in [ErrorClass::Permanent, ErrorClass::Auth, ErrorClass::Conflict] {
            let sent = AtomicUsize::new(0);
            let outcome: Result<(), StepError> = pace
                .request(|| async {
                    sent.fetch_add(1, Ordering::Relaxed);
                    Err(StepError::new(class, "no"))
                })
                .await;
            assert_eq!((outcome.unwrap_err().class, sent.into_inner()), (class, 1));
        }
        assert_eq!(pace.permits.available_permits(), 4);
    }
}
