//! What the engine takes from its surroundings: the time, and chance.
//!
//! Everything in a run asks here, and nothing asks the system itself. So a test can put a
//! [`Simulated`](simulated::Simulated) world around a thread, in which hours pass at once and the
//! same seed always gives the same run. Without one, all of it is the system's.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, Sleep};

/// The time on the wall.
pub(crate) fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        return world.wall();
    }
    Timestamp::now()
}

/// A moment of the clock that never goes back.
pub(crate) fn instant() -> Instant {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        return world.instant();
    }
    Instant::now()
}

/// A number in [0, 1).
pub(crate) fn random() -> f64 {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        return world.random();
    }
    rand::random()
}

/// The end of a run's ID.
pub(crate) fn random_tag() -> u16 {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        return (world.random() * f64::from(u16::MAX)) as u16;
    }
    rand::random()
}

/// Waits for `at`.
pub(crate) async fn sleep_until(at: Instant) {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        return world.nap_until(at).await;
    }
    tokio::time::sleep_until(at).await;
}

/// Waits for `time`.
pub(crate) async fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        return world.nap(time).await;
    }
    tokio::time::sleep(time).await;
}

/// Waits that are begun again and again, and mostly given up before their end. They share one entry among
/// the runtime's timers, which is only moved: a new one for each would wake the thread that keeps them.
#[derive(Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Waits for `at`; for ever without.
    pub(crate) async fn ring(&mut self, at: Option<Instant>) {
        let Some(at) = at else { return std::future::pending().await };
        #[cfg(test)]
        if let Some(world) = simulated::here() {
            return world.nap_until(at).await;
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        sleep.as_mut().reset(at);
        sleep.await;
    }
}

/// `work` was not done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late;

/// Waits for `work`, for at most `limit`.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
    #[cfg(test)]
    if let Some(world) = simulated::here() {
        tokio::select! {
            biased;
            value = work => return Ok(value),
            () = world.nap(limit) => return Err(Late),
        }
    }
    tokio::time::timeout(limit, work).await.map_err(|_| Late)
}

/// A clock that stands still while anything can happen, and jumps when nothing can.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, MutexGuard};
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use jiff::{SignedDuration, Timestamp};
    use tokio::time::Instant;

    use crate::run::simulation::Flaw;

    /// Where all simulated runs begin, in seconds since the epoch: 2030-01-01.
    const BEGINNING: i64 = 1_893_456_000;

    /// Longest nap that is told from for ever.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    thread_local! {
        static HERE: RefCell<Option<Arc<Simulated>>> = const { RefCell::new(None) };
    }

    /// The world around this thread.
    pub(crate) fn here() -> Option<Arc<Simulated>> {
        HERE.with(|here| here.borrow().clone())
    }

    /// Puts `world` around this thread.
    pub(crate) fn enter(world: Option<Arc<Simulated>>) {
        HERE.with(|here| *here.borrow_mut() = world);
    }

    struct State {
        now: Duration,
        naps: BTreeMap<(Duration, u64), Waker>,
        made: u64,
        chance: u64,
    }

    /// Time and chance of one simulated world.
    pub(crate) struct Simulated {
        base: Instant,
        flaw: Mutex<Option<Flaw>>,
        state: Mutex<State>,
    }

    /// Whether this thread is to make the mistake `flaw`.
    pub(crate) fn has(flaw: Flaw) -> bool {
        here().is_some_and(|world| *world.flaw.lock().unwrap() == Some(flaw))
    }

    impl Simulated {
        pub(crate) fn new(seed: u64) -> Arc<Self> {
            let state = State { now: Duration::ZERO, naps: BTreeMap::new(), made: 0, chance: seed };
            Arc::new(Self { base: Instant::now(), flaw: Mutex::default(), state: Mutex::new(state) })
        }

        /// From now on, this mistake is made in this world.
        pub(crate) fn set_flaw(&self, flaw: Option<Flaw>) {
            *self.flaw.lock().unwrap() = flaw;
        }

        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        /// Time since the world began.
        pub(crate) fn elapsed(&self) -> Duration {
            self.lock().now
        }

        pub(super) fn wall(&self) -> Timestamp {
            let begin = Timestamp::from_second(BEGINNING).unwrap();
            // An odd number of milliseconds is always written with three digits, and so equally long.
            let millis = i64::try_from(self.elapsed().as_millis()).unwrap() | 1;
            begin + SignedDuration::from_millis(millis)
        }

        pub(super) fn instant(&self) -> Instant {
            self.base + self.elapsed()
        }

        pub(super) fn random(&self) -> f64 {
            let mut state = self.lock();
            (split_mix(&mut state.chance) >> 11) as f64 / (1u64 << 53) as f64
        }

        pub(super) fn nap_until(self: Arc<Self>, at: Instant) -> Nap {
            let until = at.saturating_duration_since(self.base);
            Nap { world: self, until, key: None }
        }

        pub(super) fn nap(self: Arc<Self>, time: Duration) -> Nap {
            let until = self.elapsed() + time.min(LONGEST);
            Nap { world: self, until, key: None }
        }

        /// Nothing can happen now: jumps to the end of the next nap. `false` when nobody naps.
        pub(crate) fn jump(&self) -> bool {
            let mut state = self.lock();
            let Some((key, waker)) = state.naps.pop_first() else { return false };
            state.now = state.now.max(key.0);
            drop(state);
            waker.wake();
            true
        }
    }

    /// One step of SplitMix64: small, and the same for ever.
    pub(crate) fn split_mix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Wakes when the world's clock has come there.
    pub(crate) struct Nap {
        world: Arc<Simulated>,
        until: Duration,
        key: Option<(Duration, u64)>,
    }

    impl Future for Nap {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let world = Arc::clone(&self.world);
            let mut state = world.lock();
            if state.now >= self.until {
                return Poll::Ready(());
            }
            let key = match self.key {
                Some(key) => key,
                None => {
                    state.made += 1;
                    (self.until, state.made)
                }
            };
            self.key = Some(key);
            state.naps.insert(key, context.waker().clone());
            Poll::Pending
        }
    }

    impl Drop for Nap {
        fn drop(&mut self) {
            if let Some(key) = self.key {
                self.world.lock().naps.remove(&key);
            }
        }
    }
}
