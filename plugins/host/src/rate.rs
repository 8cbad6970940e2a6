//! So many lines of a plugin's log in a second, and no more; what is left out is counted.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::MAX_LINES_A_SECOND;

/// What has passed.
pub(crate) struct Rate {
    second: Option<Instant>,
    passed: u32,
    left_out: u64,
}

/// Whether a line passes.
pub(crate) enum Pass {
    Yes {
        /// Lines before this one that did not pass.
        left_out: u64,
    },
    No,
}

impl Rate {
    pub(crate) fn new() -> Self {
        Self { second: None, passed: 0, left_out: 0 }
    }

    /// Whether a line that comes now passes.
    pub(crate) fn pass(&mut self, now: Instant) -> Pass {
        if self.second.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            (self.second, self.passed) = (Some(now), 0);
        }
        self.passed += 1;
        if self.passed > MAX_LINES_A_SECOND {
            self.left_out += 1;
            return Pass::No;
        }
        Pass::Yes { left_out: self.take_left_out() }
    }

    /// How many lines did not pass since this was last told.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_lines_than_fit_into_a_second_are_counted() {
        let mut rate = Rate::new();
        let now = Instant::now();
        let passed = (0..5_000).filter(|_| matches!(rate.pass(now), Pass::Yes { .. })).count();
        assert_eq!(passed, MAX_LINES_A_SECOND as usize);
        let Pass::Yes { left_out } = rate.pass(now + Duration::from_secs(1)) else { panic!("passes") };
        assert_eq!(left_out, 4_000);
    }
}
