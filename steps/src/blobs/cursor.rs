//! The step's own place: what a later attempt needs to go on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::ErrorClass;
use serde::{Deserialize, Serialize};

use super::checksum::Spans;
use super::config::CopyOutputs;
use super::range::Range;

/// An object that could not be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Failed {
    pub(super) key: String,
    pub(super) reason: String,
    pub(super) class: ErrorClass,
}

/// An object that Azure has fetched in part: the blocks whose CRC it told. Of streamed blocks the ID
/// says it, so they need no place here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Partial {
    pub(super) etag: String,
    /// See [`Properties`](super::source::Properties).
    #[serde(default)]
    pub(super) written: (i64, Option<String>),
    pub(super) block: u64,
    pub(super) spans: Spans,
}

/// Durable between attempts. Its size is bounded: two keys for each range that is not done, the failed
/// objects (at most `MAX_FAILED`) and a few numbers for every object in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Cursor {
    /// The idempotency key under which it was written; another one's place is not ours.
    pub(super) key: String,
    pub(super) phase: usize,
    pub(super) scope: usize,
    /// What of the scope is left: every object outside of these is done or in `failed`. `None`: all.
    pub(super) ranges: Option<Vec<Range>>,
    /// The bucket doesn't list its keys in their order: its listing is never cut.
    pub(super) disorder: bool,
    /// Velero's repositories were gone through once: what is equal in them is counted already.
    pub(super) again: bool,
    /// The counts when a phase began that every attempt lists from the start.
    pub(super) before: Option<Box<CopyOutputs>>,
    /// Nothing is left to delete either.
    pub(super) deleted: bool,
    /// Of everything up to here.
    pub(super) counts: CopyOutputs,
    /// Of the current phase.
    pub(super) failed: Vec<Failed>,
    pub(super) partial: BTreeMap<String, Partial>,
}

/// Turns ends in any order into a place behind which everything is done.
#[derive(Debug, Default)]
pub(super) struct LowWater {
    next: u64,
    done: u64,
    open: BTreeSet<u64>,
    ended: BTreeMap<u64, (String, CopyOutputs)>,
    last: Option<String>,
    unordered: bool,
    /// The first that the place stays before.
    stuck: Option<u64>,
}

impl LowWater {
    /// An object begins; in listing order.
    pub(super) fn begin(&mut self, key: &str) -> u64 {
        // A place in an unordered listing means nothing: such a scope is listed from its start.
        self.unordered |= self.last.as_deref().is_some_and(|last| last >= key);
        key.clone_into(self.last.get_or_insert_default());
        let ticket = self.next;
        self.next += 1;
        self.open.insert(ticket);
        ticket
    }

    /// It ended, well or in the list of the failed. Moves `range` and adds to `counts` as far as may be.
    pub(super) fn end(
        &mut self,
        ticket: u64,
        key: String,
        counts: CopyOutputs,
        range: &mut Range,
        all: &mut CopyOutputs,
    ) {
        self.open.remove(&ticket);
        if self.stuck.is_some_and(|stuck| stuck < ticket) {
            // The place will not come here: the next attempt lists it again and finds it equal.
            return;
        }
        self.ended.insert(ticket, (key, counts));
        let first_open = self.open.first().copied().unwrap_or(self.next);
        while let Some(entry) = self.ended.first_entry().filter(|e| *e.key() < first_open) {
            let (key, counts) = entry.remove();
            all.add(&counts);
            if !self.unordered {
                range.after = Some(key);
            }
            self.done += 1;
        }
        if self.unordered {
            range.after = None;
        }
    }

    /// The object of `ticket` failed and has no place in the list of the failed: the range's place stays
    /// before it, so that the next attempt meets it again.
    pub(super) fn stay(&mut self, ticket: u64) {
        self.stuck = Some(self.stuck.map_or(ticket, |stuck| stuck.min(ticket)));
    }

    /// Whether nothing is left behind the place.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Objects behind the place.
    pub(super) fn done(&self) -> u64 {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> CopyOutputs {
        CopyOutputs { objects: 1, ..CopyOutputs::default() }
    }

    /// A range, its place, and what is counted.
    #[derive(Default)]
    struct Desk {
        water: LowWater,
        range: Range,
        all: CopyOutputs,
    }

    impl Desk {
        fn end(&mut self, ticket: u64, key: &str) {
            self.water.end(ticket, key.to_owned(), one(), &mut self.range, &mut self.all);
        }

        fn place(&self) -> (Option<&str>, u64) {
            (self.range.after.as_deref(), self.all.objects)
        }
    }

    #[test]
    fn the_place_never_passes_an_open_object() {
        let mut desk = Desk::default();
        let tickets: Vec<u64> = ["a", "b", "c", "d"].iter().map(|key| desk.water.begin(key)).collect();
        desk.end(tickets[1], "b");
        desk.end(tickets[2], "c");
        assert_eq!(desk.place(), (None, 0));
        desk.end(tickets[0], "a");
        assert_eq!(desk.place(), (Some("c"), 3));
        desk.end(tickets[3], "d");
        assert_eq!(desk.place(), (Some("d"), 4));
    }

    #[test]
    fn the_place_stays_before_a_failure_that_is_not_listed_and_keeps_nothing_behind_it() {
        let mut desk = Desk::default();
        let tickets: Vec<u64> = ["a", "b", "c", "d"].iter().map(|key| desk.water.begin(key)).collect();
        desk.water.stay(tickets[1]);
        for (ticket, key) in [(tickets[2], "c"), (tickets[0], "a"), (tickets[3], "d")] {
            desk.end(ticket, key);
        }
        assert_eq!(desk.place(), (Some("a"), 1));
        assert!(desk.water.ended.is_empty() && !desk.water.is_empty());
    }

    #[test]
    fn an_unordered_listing_has_no_place() {
        let mut desk = Desk::default();
        for key in ["a", "c", "b"] {
            let ticket = desk.water.begin(key);
            desk.end(ticket, key);
        }
        assert_eq!(desk.place(), (None, 3));
    }

    #[test]
    fn a_cursor_survives_its_store() {
        let mut spans = Spans::default();
        spans.insert(0, 3, super::super::checksum::Crc64::of(b"abc"));
        let partial = Partial { etag: "e".to_owned(), written: (1, Some("v".to_owned())), block: 3, spans };
        let class = ErrorClass::Conflict;
        let failed = Failed { key: "k".to_owned(), reason: "r".to_owned(), class };
        let cursor = Cursor {
            key: "copy-1".to_owned(),
            ranges: Some(vec![Range { after: Some("b".to_owned()), until: None }]),
            failed: vec![failed],
            partial: BTreeMap::from([("k".to_owned(), partial)]),
            ..Cursor::default()
        };
        let stored = serde_json::to_value(&cursor).unwrap();
        assert_eq!(serde_json::from_value::<Cursor>(stored).unwrap(), cursor);
    }
}
