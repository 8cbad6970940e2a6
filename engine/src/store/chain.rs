//! The chain over a run's facts as it is read: every fact is checked against the one before, by one
//! rule for all stores.

use migrate_plugin_api::RunId;

use super::fact::Stamped;
use super::sum::Sum;
use super::time;

/// The facts read so far, and the last link.
#[derive(Default)]
pub(super) struct Chain {
    pub facts: Vec<Stamped>,
    pub last: Option<Sum>,
}

impl Chain {
    /// Takes the next row: its number, time, text and stored sum.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn take(
        &mut self,
        run: &RunId,
        (seq, at, body, stored): (i64, &str, &str, &[u8]),
    ) -> Result<(), String> {
        let expected = self.facts.len() as i64 + 1;
        let sum = Sum::chain(self.last, at, body);
        if seq != expected || sum.bytes() != stored {
            return Err(format!("fact {expected} of run {run} is lost or altered"));
        }
        let fact = serde_json::from_str(body)
            .map_err(|error| format!("fact {seq} of run {run} can't be read: {error}"))?;
        self.facts.push(Stamped { at: time(at)?, fact });
        self.last = Some(sum);
        Ok(())
    }
}
