//! Chance from a seed, the same on every machine and for ever.

use crate::ambient::simulated::split_mix;

/// A stream of chance.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// The stream called `purpose` of `seed`. Streams don't disturb each other: a change in how one
    /// part of the world uses chance leaves the others as they were.
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        let mut state = seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93);
        split_mix(&mut state);
        Self(state)
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    /// True `per_mille` times of a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of them; there is one.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
