//! Following what goes on inside a cluster: how often we look, when we give up, and what a phase
//! means. Owns every interval and limit of the Velero steps.

use std::time::Duration;

use migrate_plugin_api::{ErrorClass, StepContext, StepError};
use tokio::time::Instant;

/// How often and how long. One value for all steps; tests make it fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two looks. Velero writes its own progress about once a second.
    pub poll: Duration,
    /// Without any change in items, bytes or phases before we call it stuck: longer than pulling a
    /// big image or provisioning a zonal disk takes, shorter than Velero's own 4 hours.
    pub stall: Duration,
    /// For Velero to discover a copied backup: it looks every minute by default.
    pub sync: Duration,
    /// For the volumes of a discovered backup: Velero creates them right after the backup.
    pub volumes: Duration,
    /// For Velero to answer a request for a file's URL.
    pub download: Duration,
    /// An API server that doesn't answer, before the engine hears of it: a control plane's upgrade
    /// takes minutes, and losing it costs nothing but the look.
    pub outage: Duration,
    /// For all answers of one look, however many objects they list: a connection that was lost in between, as by a
    /// laptop's sleep, gives none for ever.
    pub answer: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            stall: Duration::from_secs(15 * 60),
            sync: Duration::from_secs(5 * 60),
            volumes: Duration::from_secs(30),
            download: Duration::from_secs(60),
            outage: Duration::from_secs(5 * 60),
            answer: Duration::from_secs(120),
        }
    }
}

impl Pace {
    /// What `look` finds.
    ///
    /// # Errors
    /// `Transient` when it is not answered in time.
    pub(super) async fn in_time<T>(
        &self,
        look: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        let seconds = self.answer.as_secs();
        let late = || StepError::transient(format!("the cluster has not answered for {seconds} s"));
        tokio::time::timeout(self.answer, look).await.unwrap_or_else(|_| Err(late()))
    }

    /// Waits for the next look.
    ///
    /// # Errors
    /// `Cancelled` as soon as the run is asked to stop.
    pub(super) async fn pause(&self, ctx: &StepContext) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => Err(StepError::cancelled()),
            () = tokio::time::sleep(self.poll) => Ok(()),
        }
    }
}

/// Notices when nothing changes any more.
pub(super) struct Stall {
    limit: Duration,
    seen: Option<String>,
    since: Instant,
}

impl Stall {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, seen: None, since: Instant::now() }
    }

    /// Whether `fingerprint` has been the same for longer than the limit.
    pub(super) fn is_stalled(&mut self, fingerprint: String, now: Instant) -> bool {
        if self.seen.as_ref() == Some(&fingerprint) {
            return now.duration_since(self.since) >= self.limit;
        }
        self.seen = Some(fingerprint);
        self.since = now;
        false
    }

    /// Starts over: what it waits for isn't its own turn yet.
    pub(super) fn reset(&mut self) {
        self.seen = None;
    }
}

/// Bears an API server that is away for a while, so that hours of waiting survive a restart of it.
pub(super) struct Patience {
    limit: Duration,
    failing_since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, failing_since: None }
    }

    /// `Some` for an answer, `None` for a failure that is worth waiting out.
    ///
    /// # Errors
    /// The failure, once it isn't.
    pub(super) fn bear<T>(
        &mut self,
        answer: Result<T, StepError>,
        now: Instant,
    ) -> Result<Option<T>, StepError> {
        match answer {
            Ok(value) => {
                self.failing_since = None;
                Ok(Some(value))
            }
            Err(e) if matches!(e.class, ErrorClass::Transient { .. } | ErrorClass::Throttled { .. }) => {
                let since = *self.failing_since.get_or_insert(now);
                if now.duration_since(since) >= self.limit { Err(e) } else { Ok(None) }
            }
            Err(e) => Err(e),
        }
    }
}

/// What the phase of a Backup or a Restore means for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not its turn yet.
    Queued,
    /// Velero is at it.
    Working,
    /// As it should be.
    Completed,
    /// Over, and not as it should be.
    Failed,
}

/// The stage of a Backup or a Restore in `phase`. A phase we don't know counts as work: later
/// versions have added such, and each still ends in one of the known ones.
pub(super) fn stage(phase: &str) -> Stage {
    match phase {
        "" | "New" | "Queued" | "ReadyToStart" => Stage::Queued,
        "Completed" => Stage::Completed,
        "PartiallyFailed" | "Failed" | "FailedValidation" | "Deleting" => Stage::Failed,
        _ => Stage::Working,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_its_stage() {
        for phase in ["", "New", "Queued", "ReadyToStart"] {
            assert_eq!(stage(phase), Stage::Queued, "{phase}");
        }
        for phase in [
            "InProgress",
            "WaitingForPluginOperations",
            "WaitingForPluginOperationsPartiallyFailed",
            "Finalizing",
            "FinalizingPartiallyFailed",
            "SomethingNew",
        ] {
            assert_eq!(stage(phase), Stage::Working, "{phase}");
        }
        assert_eq!(stage("Completed"), Stage::Completed);
        for phase in ["PartiallyFailed", "Failed", "FailedValidation", "Deleting"] {
            assert_eq!(stage(phase), Stage::Failed, "{phase}");
        }
    }

    #[test]
    fn a_stall_is_time_without_change() {
        let start = Instant::now();
        let mut stall = Stall::new(Duration::from_secs(10));
        assert!(!stall.is_stalled("a".to_owned(), start));
        assert!(!stall.is_stalled("a".to_owned(), start + Duration::from_secs(9)));
        assert!(!stall.is_stalled("b".to_owned(), start + Duration::from_secs(11)));
        assert!(stall.is_stalled("b".to_owned(), start + Duration::from_secs(21)));
        stall.reset();
        assert!(!stall.is_stalled("b".to_owned(), start + Duration::from_secs(99)));
    }

    #[test]
    fn an_outage_is_borne_until_it_is_too_long() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(10));
        let away = || Err::<u8, _>(StepError::transient("away"));
        assert_eq!(patience.bear(away(), start).unwrap(), None);
        assert_eq!(patience.bear(Ok(1), start + Duration::from_secs(9)).unwrap(), Some(1));
        assert_eq!(patience.bear(away(), start + Duration::from_secs(11)).unwrap(), None);
        assert!(patience.bear(away(), start + Duration::from_secs(21)).is_err());
        assert!(patience.bear(Err::<u8, _>(StepError::auth("no")), start).is_err());
    }
}
