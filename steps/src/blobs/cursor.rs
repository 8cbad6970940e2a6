//! The step's own place: what a later attempt needs to go on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::ErrorClass;
use serde::{Deserialize, Serialize};

use super::checksum::Spans;
use super::config::CopyOutputs;

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
    pub(super) block: u64,
    pub(super) spans: Spans,
}

/// Durable between attempts. Its size is bounded: a key, the failed objects (at most
/// `MAX_FAILED`) and a few numbers for every object in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Cursor {
    /// The idempotency key under which it was written; another one's place is not ours.
    pub(super) key: String,
    pub(super) phase: usize,
    pub(super) scope: usize,
    /// Every object of the scope up to this key is done or in `failed`.
    pub(super) after: Option<String>,
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
}

impl LowWater {
    /// An object begins; in listing order.
    pub(super) fn begin(&mut self, key: &str) -> u64 {
        // A place in an unordered listing means nothing: such a scope is listed from its start.
        self.unordered |= self.last.as_deref().is_some_and(|last| last >= key);
        self.last = Some(key.to_owned());
        let ticket = self.next;
        self.next += 1;
        self.open.insert(ticket);
        ticket
    }

    /// It ended, well or in the list of the failed. Moves `cursor` as far as it may go.
    pub(super) fn end(&mut self, ticket: u64, key: String, counts: CopyOutputs, cursor: &mut Cursor) {
        self.open.remove(&ticket);
        self.ended.insert(ticket, (key, counts));
        let first_open = self.open.first().copied().unwrap_or(self.next);
        while let Some(entry) = self.ended.first_entry().filter(|e| *e.key() < first_open) {
            let (key, counts) = entry.remove();
            cursor.counts.add(&counts);
            cursor.after = if self.unordered { None } else { Some(key) };
            self.done += 1;
        }
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

    #[test]
    fn the_place_never_passes_an_open_object() {
        let (mut water, mut cursor) = (LowWater::default(), Cursor::default());
        let tickets: Vec<u64> = ["a", "b", "c", "d"].iter().map(|key| water.begin(key)).collect();
        water.end(tickets[1], "b".to_owned(), one(), &mut cursor);
        water.end(tickets[2], "c".to_owned(), one(), &mut cursor);
        assert_eq!((cursor.after.as_deref(), cursor.counts.objects), (None, 0));
        water.end(tickets[0], "a".to_owned(), one(), &mut cursor);
        assert_eq!((cursor.after.as_deref(), cursor.counts.objects), (Some("c"), 3));
        water.end(tickets[3], "d".to_owned(), one(), &mut cursor);
        assert_eq!((cursor.after.as_deref(), cursor.counts.objects), (Some("d"), 4));
    }

    #[test]
    fn an_unordered_listing_has_no_place() {
        let (mut water, mut cursor) = (LowWater::default(), Cursor::default());
        for key in ["a", "c", "b"] {
            let ticket = water.begin(key);
            water.end(ticket, key.to_owned(), one(), &mut cursor);
        }
        assert_eq!((cursor.after.as_deref(), cursor.counts.objects), (None, 3));
    }

    #[test]
    fn a_cursor_survives_its_store() {
        let mut spans = Spans::default();
        spans.insert(0, 3, super::super::checksum::Crc64::of(b"abc"));
        let partial = Partial { etag: "e".to_owned(), block: 3, spans };
        let class = ErrorClass::Conflict;
        let failed = Failed { key: "k".to_owned(), reason: "r".to_owned(), class };
        let cursor = Cursor {
            key: "copy-1".to_owned(),
            after: Some("b".to_owned()),
            failed: vec![failed],
            partial: BTreeMap::from([("k".to_owned(), partial)]),
            ..Cursor::default()
        };
        let stored = serde_json::to_value(&cursor).unwrap();
        assert_eq!(serde_json::from_value::<Cursor>(stored).unwrap(), cursor);
    }
}
