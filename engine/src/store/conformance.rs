//! What every store must do, written once and run on each of them.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use migrate_plugin_api::{IdempotencyKey, LogLevel, NodeId, RunId};
use serde_json::{Map, json};

use super::fact::{Batch, Definition, Fact, LogLine, Place, RunRecord, Stamped};
use super::holder::Holder;
use super::{Store, StoreError};
use crate::report::RunState;
use crate::run::GateDecision;
use crate::workflow::Digest;

/// A place where stores of one kind are made: all handles of one lab see the same data.
#[async_trait]
pub(crate) trait Lab: Send + Sync {
    /// Another handle that may write once it has acquired.
    async fn writer(&self) -> Arc<dyn Store>;
    /// Another handle that only reads.
    async fn reader(&self) -> Arc<dyn Store>;
    /// The holder's lease runs out, where there is one.
    async fn expire(&self);
}

/// Every case, by name.
pub(crate) async fn all<L: Lab, F: Future<Output = L>>(mut lab: impl FnMut() -> F) {
    facts_come_back_in_order_and_survive_reopening(&lab().await).await;
    runs_are_apart_and_the_newest_is_the_default(&lab().await).await;
    runs_are_in_the_order_in_which_they_were_made(&lab().await).await;
    a_batch_is_stored_whole_or_not_at_all(&lab().await).await;
    a_batch_of_any_size_is_stored(&lab().await).await;
    many_lines_of_a_batch_come_back_in_order(&lab().await).await;
    places_are_replaced_cleared_and_set_in_that_order(&lab().await).await;
    large_and_odd_values_come_back_unchanged(&lab().await).await;
    an_unknown_run_takes_nothing(&lab().await).await;
    readers_see_whole_batches_while_a_writer_works(&lab().await).await;
    who_lost_the_right_to_write_writes_nothing_more(&lab().await).await;
    without_the_right_to_write_nothing_is_written(&lab().await).await;
    the_first_decision_stands_and_needs_no_right_to_write(&lab().await).await;
}

pub(crate) fn run_id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap() + std::time::Duration::from_nanos(5)
}

pub(crate) fn record(name: &str, second: i64) -> RunRecord {
    RunRecord {
        id: run_id(name),
        workflow: "w".to_owned(),
        definition: Definition {
            workflow_path: "w.toml".to_owned(),
            workflow_text: "schema = 1".to_owned(),
            parts: Vec::new(),
            environment_path: "migration.toml".to_owned(),
            environment_digest: Digest::of(&json!({})),
            params: Map::new(),
            nodes: Vec::new(),
        },
        started_at: at(second),
    }
}

pub(crate) fn facts(from: i64, to: i64) -> Vec<Stamped> {
    let fact = |n| Fact::Skipped { node: node("n"), reason: format!("reason {n}"), wording: None };
    (from..to).map(|n| Stamped { at: at(n), fact: fact(n) }).collect()
}

pub(crate) fn batch(from: i64, to: i64) -> Batch {
    Batch { facts: facts(from, to), ..Batch::default() }
}

/// A handle that may write, and a run in it.
pub(crate) async fn begun(lab: &impl Lab, name: &str) -> (Arc<dyn Store>, RunId) {
    let store = lab.writer().await;
    store.acquire(&Holder::here(&run_id(name))).await.unwrap();
    store.create_run(&record(name, 0)).await.unwrap();
    (store, run_id(name))
}

async fn facts_come_back_in_order_and_survive_reopening(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    store.append(&run, &Batch::default()).await.unwrap();
    assert_eq!(store.facts(&run).await.unwrap(), []);
    for from in [0, 3, 6] {
        store.append(&run, &batch(from, from + 3)).await.unwrap();
    }
    assert_eq!(store.facts(&run).await.unwrap(), facts(0, 9), "the writer reads what it wrote");
    store.close().await;
    let reader = lab.reader().await;
    assert_eq!(reader.facts(&run).await.unwrap(), facts(0, 9));
    let store = lab.writer().await;
    store.acquire(&Holder::here(&run)).await.unwrap();
    store.append(&run, &batch(9, 10)).await.unwrap();
    assert_eq!(lab.reader().await.facts(&run).await.unwrap(), facts(0, 10));
}

async fn runs_are_apart_and_the_newest_is_the_default(lab: &impl Lab) {
    let (store, first) = begun(lab, "first").await;
    assert_eq!(store.runs().await.unwrap().len(), 1);
    store.create_run(&record("second", 10)).await.unwrap();
    let second = run_id("second");
    let place = |value: i64| Batch {
        facts: facts(value, value + 2),
        cursors: vec![(node("n"), json!(value))],
        ..Batch::default()
    };
    store.append(&first, &place(1)).await.unwrap();
    store.append(&second, &place(5)).await.unwrap();
    store.append(&first, &Batch { cleared: vec![node("n")], ..Batch::default() }).await.unwrap();
    for handle in [store, lab.reader().await] {
        assert_eq!(handle.facts(&first).await.unwrap(), facts(1, 3));
        assert_eq!(handle.facts(&second).await.unwrap(), facts(5, 7));
        assert_eq!(handle.places(&first).await.unwrap().len(), 0);
        assert_eq!(handle.places(&second).await.unwrap()[&node("n")].cursor, Some(json!(5)));
        let ids: Vec<_> = handle.runs().await.unwrap().into_iter().map(|run| run.id).collect();
        assert_eq!(ids, [second.clone(), first.clone()]);
        let newest = handle.run(None).await.unwrap().unwrap();
        assert_eq!((newest.id, newest.started_at), (second.clone(), at(10)));
        assert_eq!(
            handle.run(Some(&first)).await.unwrap().unwrap().definition,
            record("first", 0).definition
        );
        assert!(handle.run(Some(&run_id("third"))).await.unwrap().is_none());
    }
}

/// A clock that is set back, or is another machine's, makes no old run the newest.
async fn runs_are_in_the_order_in_which_they_were_made(lab: &impl Lab) {
    let (store, first) = begun(lab, "m").await;
    for (name, second) in [("z", -50), ("a", -50), ("k", -10)] {
        store.create_run(&record(name, second)).await.unwrap();
        store.append(&first, &batch(second, second + 1)).await.unwrap();
    }
    store.close().await;
    let next = lab.writer().await;
    next.acquire(&Holder::here(&run_id("b"))).await.unwrap();
    next.create_run(&record("b", -90)).await.unwrap();
    for handle in [next, lab.reader().await] {
        let ids: Vec<_> = handle.runs().await.unwrap().into_iter().map(|run| run.id.to_string()).collect();
        assert_eq!(ids, ["b", "k", "a", "z", "m"]);
        assert_eq!(handle.run(None).await.unwrap().unwrap().id, run_id("b"));
    }
}

async fn a_batch_is_stored_whole_or_not_at_all(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    store.append(&run, &batch(0, 2)).await.unwrap();
    // The same run once more: refused, and nothing of it stays.
    assert!(store.create_run(&record("a", 5)).await.is_err());
    assert_eq!(lab.reader().await.run(None).await.unwrap().unwrap().started_at, at(0));
    let logs = vec![LogLine { at: at(3), node: node("n"), level: LogLevel::Info, message: "x".to_owned() }];
    let all = Batch {
        facts: facts(2, 4),
        cursors: vec![(node("n"), json!({ "place": 1 }))],
        handles: vec![(node("n"), "job".to_owned())],
        cleared: vec![],
        logs,
    };
    store.append(&run, &all).await.unwrap();
    let reader = lab.reader().await;
    let lines = reader.logs(&run, None, 0, 10).await.unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].1.message.as_str(), lines[0].1.level), ("x", LogLevel::Info));
    assert!(reader.logs(&run, Some(&node("m")), 0, 10).await.unwrap().is_empty());
    assert!(reader.logs(&run, Some(&node("n")), lines[0].0, 10).await.unwrap().is_empty());
    let place = Place { cursor: Some(json!({ "place": 1 })), handle: Some("job".to_owned()) };
    assert_eq!(reader.places(&run).await.unwrap()[&node("n")], place);
    assert_eq!(reader.facts(&run).await.unwrap(), facts(0, 4));
}

/// As when thousands of nodes are skipped at once.
async fn a_batch_of_any_size_is_stored(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    store.append(&run, &batch(0, 12_345)).await.unwrap();
    store.append(&run, &batch(12_345, 12_346)).await.unwrap();
    assert_eq!(store.facts(&run).await.unwrap(), facts(0, 12_346));
}

/// A batch of `count` lines that a step has said.
pub(crate) fn lines(count: usize) -> Batch {
    let line =
        |n| LogLine { at: at(0), node: node("n"), level: LogLevel::Info, message: format!("line {n}") };
    Batch { logs: (0..count).map(line).collect(), ..Batch::default() }
}

async fn many_lines_of_a_batch_come_back_in_order(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    store.append(&run, &lines(300)).await.unwrap();
    let read = store.logs(&run, None, 0, 1000).await.unwrap();
    assert!(read.is_sorted_by_key(|(mark, _)| *mark));
    assert!(read.into_iter().map(|(_, line)| line).eq(lines(300).logs));
}

async fn places_are_replaced_cleared_and_set_in_that_order(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    let places = |cursors: &[(&str, i64)], handles: &[(&str, &str)], cleared: &[&str]| Batch {
        cursors: cursors.iter().map(|(name, value)| (node(name), json!(value))).collect(),
        handles: handles.iter().map(|(name, value)| (node(name), (*value).to_owned())).collect(),
        cleared: cleared.iter().map(|name| node(name)).collect(),
        ..Batch::default()
    };
    let now = async || {
        let places = lab.reader().await.places(&run).await.unwrap();
        let shown: Vec<_> = places
            .into_iter()
            .map(|(node, place)| {
                format!("{node} {} {}", place.cursor.unwrap_or_default(), place.handle.unwrap_or_default())
            })
            .collect();
        shown.join(", ")
    };
    store.append(&run, &places(&[("x", 1), ("y", 2)], &[("y", "job")], &[])).await.unwrap();
    assert_eq!(now().await, "x 1 , y 2 job");
    store.append(&run, &places(&[("x", 3), ("x", 4)], &[("x", "job")], &[])).await.unwrap();
    assert_eq!(now().await, "x 4 job, y 2 job", "the last one counts, and a cursor leaves the handle");
    store.append(&run, &places(&[("x", 5)], &[], &["x", "absent"])).await.unwrap();
    assert_eq!(now().await, "x 5 , y 2 job", "cleared first, then set");
    store.append(&run, &places(&[], &[("z", "")], &["x", "y"])).await.unwrap();
    assert_eq!(now().await, "z null ");
}

async fn large_and_odd_values_come_back_unchanged(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    let large = "0123456789abcdef".repeat(64 * 1024);
    // Every kind of character that a store could fold, escape or cut at: NUL among them.
    let odd = "ä\u{0}\u{1}\n\r\t\"'\\%_$1?\u{202e}\u{feff}\u{fffd}e\u{301}\u{1f600}\u{10ffff}";
    let value =
        json!({ "large": large, "odd": odd, "float": 0.1, "big": u64::MAX, "small": i64::MIN, "null": null });
    let fact = Stamped {
        at: at(0),
        fact: Fact::Applied { node: node("n"), outputs: value.clone(), observed: true },
    };
    let batch = Batch {
        facts: vec![fact.clone()],
        cursors: vec![(node("n"), value.clone())],
        handles: vec![(node("n"), odd.replace('\u{0}', ""))],
        logs: vec![LogLine { at: at(0), node: node("n"), level: LogLevel::Warn, message: odd.to_owned() }],
        ..Batch::default()
    };
    store.append(&run, &batch).await.unwrap();
    store.append(&run, &batch).await.unwrap();
    store.close().await;
    let reader = lab.reader().await;
    assert_eq!(reader.facts(&run).await.unwrap(), [fact.clone(), fact]);
    let place = &reader.places(&run).await.unwrap()[&node("n")];
    assert_eq!(place.cursor, Some(value));
    assert_eq!(place.handle, Some(odd.replace('\u{0}', "")));
}

async fn an_unknown_run_takes_nothing(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    assert!(store.append(&run_id("b"), &batch(0, 1)).await.is_err());
    assert_eq!(store.facts(&run_id("b")).await.unwrap(), []);
    store.append(&run, &batch(0, 1)).await.unwrap();
}

async fn readers_see_whole_batches_while_a_writer_works(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    let readers = [lab.reader().await, lab.reader().await];
    let write = async {
        for n in 0..100 {
            let batch = Batch { cursors: vec![(node("n"), json!(n))], ..batch(n * 5, n * 5 + 5) };
            store.append(&run, &batch).await.unwrap();
        }
    };
    let read = async |reader: &Arc<dyn Store>| {
        let mut seen = 0;
        while seen < 500 {
            let now = reader.facts(&run).await.unwrap();
            assert!(now.len() >= seen && now.len() % 5 == 0, "{} after {seen}", now.len());
            seen = now.len();
            assert_eq!(now, facts(0, seen as i64));
            let cursor = reader.places(&run).await.unwrap().remove(&node("n")).and_then(|place| place.cursor);
            assert!(cursor.and_then(|c| c.as_u64()).is_none_or(|n| (n as usize + 1) * 5 >= seen));
        }
    };
    tokio::join!(write, read(&readers[0]), read(&readers[1]));
}

async fn who_lost_the_right_to_write_writes_nothing_more(lab: &impl Lab) {
    let (first, run) = begun(lab, "a").await;
    first.append(&run, &batch(0, 1)).await.unwrap();
    let second = lab.writer().await;
    lab.expire().await;
    second.acquire(&Holder::here(&run)).await.unwrap();
    // The first was asleep, and wakes up.
    let error = first.append(&run, &batch(1, 2)).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    assert!(first.create_run(&record("b", 1)).await.is_err());
    let end = Stamped { at: at(1), fact: Fact::Ended { state: RunState::Done } };
    second.append(&run, &Batch { facts: vec![end.clone()], ..Batch::default() }).await.unwrap();
    assert!(first.append(&run, &batch(1, 2)).await.is_err());
    let all = lab.reader().await.facts(&run).await.unwrap();
    assert_eq!(all, [facts(0, 1), vec![end]].concat());
    assert_eq!(second.runs().await.unwrap().len(), 1);
}

async fn without_the_right_to_write_nothing_is_written(lab: &impl Lab) {
    let store = lab.writer().await;
    assert!(store.create_run(&record("a", 0)).await.is_err());
    assert!(lab.reader().await.run(None).await.unwrap().is_none());
}

/// Whoever decides may be on another machine, while another works on the run.
async fn the_first_decision_stands_and_needs_no_right_to_write(lab: &impl Lab) {
    let (store, run) = begun(lab, "a").await;
    store.create_run(&record("b", 1)).await.unwrap();
    let (one, two) = (lab.reader().await, lab.reader().await);
    let key = |name: &str| IdempotencyKey::new(name).unwrap();
    let decision = |approved, note: &str| GateDecision {
        key: key("go-0123456789"),
        approved,
        by: "ana".to_owned(),
        host: "laptop".to_owned(),
        at: at(0),
        note: Some(note.to_owned()),
    };
    let (yes, no) = (decision(true, "seen \u{1f600}\n"), decision(false, "no"));
    assert_eq!(store.decision(&run, &yes.key).await.unwrap(), None);
    assert_eq!(one.decide(&run, &no).await.unwrap(), None);
    assert_eq!(two.decide(&run, &yes).await.unwrap(), Some(no.clone()), "the first one stands");
    store.append(&run, &batch(0, 1)).await.unwrap();
    for handle in [store, one, two, lab.reader().await] {
        assert_eq!(handle.decision(&run, &no.key).await.unwrap(), Some(no.clone()));
        assert_eq!(handle.decision(&run, &key("go-9876543210")).await.unwrap(), None);
        assert_eq!(handle.decision(&run_id("b"), &no.key).await.unwrap(), None, "of another run");
        assert_eq!(handle.facts(&run).await.unwrap(), facts(0, 1));
    }
}
