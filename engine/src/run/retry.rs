//! When to try again: pure.

use std::time::Duration;

use migrate_plugin_api::ErrorClass;

use crate::workflow::model::Retry;

/// A throttled service wants less for longer than one that hiccuped.
const THROTTLED_FACTOR: u32 = 5;

/// How long to wait after failed attempt number `attempt` (from 1) of this process; `None` when
/// there will be no other. `random` is in [0, 1).
///
/// Exponential with full jitter: a random share of the doubled wait, so that nodes which failed
/// together do not come back together. A service's own wish is a lower bound.
pub(crate) fn delay(retry: &Retry, class: ErrorClass, attempt: u32, random: f64) -> Option<Duration> {
    if !class.is_retryable() || attempt >= retry.attempts {
        return None;
    }
    let factor = if matches!(class, ErrorClass::Throttled { .. }) { THROTTLED_FACTOR } else { 1 };
    let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let ceiling = retry.backoff.saturating_mul(doubled).saturating_mul(factor);
    let ceiling = ceiling.min(retry.max_backoff.saturating_mul(factor));
    Some(ceiling.mul_f64(random.clamp(0.0, 1.0)).max(class.retry_after().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSIENT: ErrorClass = ErrorClass::Transient { retry_after_ms: None };

    #[test]
    fn waits_double_up_to_the_limit_and_then_stop() {
        let retry = Retry { attempts: 10, ..Retry::default() };
        let at = |attempt| delay(&retry, TRANSIENT, attempt, 1.0).map(|d| d.as_secs());
        assert_eq!((at(1), at(2), at(3), at(9)), (Some(1), Some(2), Some(4), Some(60)));
        assert_eq!(at(10), None);
        assert_eq!(delay(&retry, TRANSIENT, 3, 0.5), Some(Duration::from_secs(2)));
    }

    #[test]
    fn the_class_decides() {
        let retry = Retry::default();
        let asked = ErrorClass::Throttled { retry_after_ms: Some(90_000) };
        assert_eq!(delay(&retry, asked, 1, 0.0), Some(Duration::from_secs(90)));
        assert_eq!(
            delay(&retry, ErrorClass::Throttled { retry_after_ms: None }, 1, 1.0),
            Some(Duration::from_secs(5))
        );
        for class in [
            ErrorClass::Auth,
            ErrorClass::Conflict,
            ErrorClass::Permanent,
            ErrorClass::Corrupt,
            ErrorClass::Cancelled,
        ] {
            assert_eq!(delay(&retry, class, 1, 0.5), None, "{class:?}");
        }
    }
}
