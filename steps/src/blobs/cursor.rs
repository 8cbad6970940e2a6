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
    /// All phases were gone through: only the repositories are gone through again, before anything is deleted.
    pub(super) settling: bool,
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

/// Ended objects, one right after the other.
#[derive(Debug)]
struct Run {
    objects: u64,
    /// Of the last of them.
    key: String,
    counts: CopyOutputs,
}

impl Run {
    fn go_on_with(&mut self, next: Self) {
        self.objects += next.objects;
        self.key = next.key;
        self.counts.add(&next.counts);
    }
}

/// Turns ends in any order into a place behind which everything is done. Its size is that of what is open,
/// however much ends behind a slow object.
#[derive(Debug, Default)]
pub(super) struct LowWater {
    next: u64,
    done: u64,
    open: BTreeSet<u64>,
    /// What ended behind the first open object, by its first ticket; between two runs something is open.
    ended: BTreeMap<u64, Run>,
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
        let run = Run { objects: 1, key, counts };
        if self.open.first().is_some_and(|first| *first < ticket) {
            self.keep(ticket, run);
        } else {
            // Up to what is open now everything has ended: it is one run.
            let next = self.ended.remove(&(ticket + 1));
            for run in std::iter::once(run).chain(next) {
                all.add(&run.counts);
                range.after = Some(run.key);
                self.done += run.objects;
            }
        }
        if self.unordered {
            range.after = None;
        }
    }

    /// Joins what ended with what ended right before and right after it.
    fn keep(&mut self, ticket: u64, mut run: Run) {
        if let Some(next) = self.ended.remove(&(ticket + run.objects)) {
            run.go_on_with(next);
        }
        match self.ended.range_mut(..ticket).next_back() {
            Some((first, before)) if first + before.objects == ticket => before.go_on_with(run),
            _ => _ = self.ended.insert(ticket, run),
        }
    }

    /// The object of `ticket` failed and has no place in the list of the failed: the range's place stays
    /// before it, so that the next attempt meets it again.
    pub(super) fn stay(&mut self, ticket: u64) {
        let stuck = self.stuck.unwrap_or(ticket);
        self.stuck = Some(stuck.min(ticket));
        if stuck != ticket {
            // The first of them holds the place.
            self.open.remove(&stuck.max(ticket));
        }
    }

    /// Whether nothing is left behind the place.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether what was begun came in an order of its own, in which there is no place.
    pub(super) fn is_unordered(&self) -> bool {
        self.unordered
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
    fn of_failures_that_are_not_listed_only_the_first_is_kept() {
        let mut desk = Desk::default();
        let tickets: Vec<u64> = (0..1000).map(|n| desk.water.begin(&format!("{n:03}"))).collect();
        for ticket in tickets[1..].iter().rev() {
            desk.water.stay(*ticket);
        }
        assert_eq!((desk.water.open.len(), desk.place()), (2, (None, 0)));
        desk.end(tickets[0], "000");
        assert_eq!((desk.place(), desk.water.is_empty()), ((Some("000"), 1), false));
    }

    #[test]
    fn what_ends_behind_an_open_object_takes_no_memory_of_its_own() {
        let mut desk = Desk::default();
        let slow = desk.water.begin("a");
        for n in 0..100_000 {
            let key = format!("b{n:06}");
            let ticket = desk.water.begin(&key);
            desk.end(ticket, &key);
            assert_eq!((desk.water.ended.len(), desk.water.open.len()), (1, 1));
        }
        assert_eq!((desk.place(), desk.water.done()), ((None, 0), 0));
        desk.end(slow, "a");
        assert_eq!((desk.place(), desk.water.done()), ((Some("b099999"), 100_001), 100_001));
        assert!(desk.water.ended.is_empty() && desk.water.is_empty());
    }

    #[test]
    fn in_whatever_order_objects_end_the_place_is_behind_the_last_before_the_first_open_one() {
        const COUNT: u64 = 101;
        let reason = "why".to_owned();
        for stride in 1..COUNT {
            let mut desk = Desk::default();
            let keys: Vec<String> = (0..COUNT).map(|n| format!("{n:03}")).collect();
            let tickets: Vec<u64> = keys.iter().map(|key| desk.water.begin(key)).collect();
            let mut open: BTreeSet<u64> = (0..COUNT).collect();
            // Prime: each comes once.
            for at in (0..COUNT).map(|n| (n * stride + 7) % COUNT) {
                let key = &keys[usize::try_from(at).unwrap()];
                let streamed_objects = BTreeMap::from([(reason.clone(), vec![key.clone()])]);
                let counts = CopyOutputs { streamed_objects, ..one() };
                let ticket = tickets[usize::try_from(at).unwrap()];
                desk.water.end(ticket, key.clone(), counts, &mut desk.range, &mut desk.all);
                open.remove(&at);
                let done = open.first().copied().unwrap_or(COUNT);
                let last = done.checked_sub(1).map(|last| format!("{last:03}"));
                assert_eq!(desk.place(), (last.as_deref(), done), "stride {stride}");
                assert_eq!(desk.water.done(), done);
                assert!(desk.water.ended.len() <= open.len());
            }
            let first: Vec<String> = (0..20).map(|n| format!("{n:03}")).collect();
            assert_eq!(desk.all.streamed_objects[&reason], first);
        }
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
