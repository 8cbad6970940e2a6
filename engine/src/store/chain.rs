//! The chain over a run's facts as it is read: every fact is checked against the one before, by one
//! rule for all stores. What many facts say is read on a thread of its own, while more are fetched.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use migrate_plugin_api::RunId;

use super::fact::Stamped;
use super::sum::Sum;
use super::time;

/// Facts that go to the other thread together. A run with fewer needs none.
const CHUNK: usize = 1_024;

/// Chunks that wait for it at most, which bounds memory.
const CHUNKS_AHEAD: usize = 4;

/// A fact as it is stored.
struct Line {
    at: String,
    body: String,
}

/// The facts read so far.
pub(super) struct Chain {
    run: RunId,
    count: u64,
    last: Option<Sum>,
    /// Checked, and not yet read.
    lines: Vec<Line>,
    others: Option<Others>,
}

/// The other thread, and the facts that it has.
struct Others {
    lines: SyncSender<Vec<Line>>,
    facts: JoinHandle<Result<Vec<Stamped>, String>>,
}

impl Chain {
    pub(super) fn new(run: &RunId) -> Self {
        Self { run: run.clone(), count: 0, last: None, lines: Vec::new(), others: None }
    }

    /// Takes the next row: its number, time, text and stored sum.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn take(&mut self, (seq, at, body, stored): (i64, &str, &str, &[u8])) -> Result<(), String> {
        let (run, expected) = (&self.run, self.count + 1);
        let sum = Sum::chain(self.last, at, body);
        if u64::try_from(seq) != Ok(expected) || sum.bytes() != stored {
            return Err(format!("fact {expected} of run {run} is lost or altered"));
        }
        (self.count, self.last) = (expected, Some(sum));
        self.lines.push(Line { at: at.to_owned(), body: body.to_owned() });
        if self.lines.len() == CHUNK {
            let full = std::mem::replace(&mut self.lines, Vec::with_capacity(CHUNK));
            let run = &self.run;
            // If it has ended, it has found a mistake, which `finish` tells.
            let _ = self.others.get_or_insert_with(|| Others::start(run.clone())).lines.send(full);
        }
        Ok(())
    }

    /// All facts, and the last link.
    ///
    /// # Errors
    /// Which can't be read.
    pub(super) fn finish(self) -> Result<(Vec<Stamped>, Option<Sum>), String> {
        let mut facts = match self.others {
            Some(Others { lines, facts }) => {
                drop(lines);
                facts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
            }
            None => Vec::new(),
        };
        read(&self.run, self.lines, &mut facts)?;
        Ok((facts, self.last))
    }
}

impl Others {
    fn start(run: RunId) -> Self {
        let (lines, chunks): (_, Receiver<Vec<Line>>) = sync_channel(CHUNKS_AHEAD);
        let facts = thread::spawn(move || {
            let mut facts = Vec::new();
            for chunk in chunks {
                read(&run, chunk, &mut facts)?;
            }
            Ok(facts)
        });
        Self { lines, facts }
    }
}

fn read(run: &RunId, lines: Vec<Line>, facts: &mut Vec<Stamped>) -> Result<(), String> {
    facts.reserve(lines.len());
    for Line { at, body } in lines {
        let fact = serde_json::from_str(&body).map_err(|error| {
            let seq = facts.len() + 1;
            format!("fact {seq} of run {run} can't be read: {error}")
        })?;
        facts.push(Stamped { at: time(&at)?, fact });
    }
    Ok(())
}
