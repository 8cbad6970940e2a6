//! SQLite against the conformance suite, against every damage, and with files of the first version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use migrate_plugin_api::{NodeId, RunId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::store::conformance::{self, Lab, batch, begun, node, record, run_id};
use crate::store::fact::{Fact, Place};

/// SQLite's page size: nothing here sets another.
const PAGE_BYTES: usize = 4096;

/// The flips' seed; a failing variant names itself and repeats.
const SEED: u64 = 20_261_122;

/// Random flips tried in each page.
const FLIPS_A_PAGE: usize = 40;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn db(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.0.path().join(format!("state{ending}"))
    }

    /// Name and content of everything in it.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(Result::unwrap);
        let read = |entry: std::fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        };
        entries.map(read).collect()
    }

    /// A folder of its own with these files.
    fn with(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let folder = Self::new();
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.0.path().join(name), bytes).unwrap());
        folder
    }
}

#[async_trait]
impl Lab for Folder {
    async fn writer(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.db()).await.unwrap())
    }

    async fn reader(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::read(&self.db()).await.unwrap().unwrap())
    }

    async fn expire(&self) {}
}

#[tokio::test]
async fn conforms() {
    conformance::all(async || Folder::new()).await;
}

/// All that a store tells.
#[derive(Debug, PartialEq)]
struct Truth {
    runs: Vec<String>,
    newest: Option<String>,
    facts: Vec<Vec<Stamped>>,
    places: Vec<BTreeMap<NodeId, Place>>,
}

async fn tell(store: &dyn Store) -> Result<Truth, StoreError> {
    let records = store.runs().await?;
    let (mut facts, mut places) = (Vec::new(), Vec::new());
    for run in &records {
        facts.push(store.facts(&run.id).await?);
        places.push(store.places(&run.id).await?);
    }
    let newest = store.run(None).await?.map(|run| format!("{run:?}"));
    Ok(Truth { runs: records.iter().map(|run| format!("{run:?}")).collect(), newest, facts, places })
}

/// `None`: there is no store.
async fn read_all(path: &Path) -> Result<Option<Truth>, StoreError> {
    match SqliteStore::read(path).await? {
        Some(store) => tell(&store).await.map(Some),
        None => Ok(None),
    }
}

async fn write_all(path: &Path) -> Result<Option<Truth>, StoreError> {
    let store = SqliteStore::open(path).await?;
    tell(&store).await.map(Some)
}

/// Three runs with facts, places and large values.
async fn fill(folder: &Folder) -> Arc<dyn Store> {
    let (store, _) = begun(folder, "one").await;
    for (name, second) in [("two", 5), ("three", 9)] {
        store.create_run(&record(name, second)).await.unwrap();
    }
    for (n, name) in ["one", "two", "three", "two", "one"].into_iter().enumerate() {
        let n = n as i64;
        let large = Fact::Applied { node: node("n"), outputs: json!("v".repeat(6_000)), observed: false };
        let mut batch = batch(n * 10, n * 10 + 10);
        batch.facts.push(Stamped { at: conformance::at(n), fact: large });
        batch.cursors = vec![(node("n"), json!(n)), (node(&format!("n{n}")), json!("c".repeat(5_000)))];
        batch.handles = vec![(node("n"), format!("job-{n}"))];
        store.append(&run_id(name), &batch).await.unwrap();
    }
    store
}

/// Every answer is the truth or `Corrupt`; how often it was which.
#[derive(Default)]
struct Verdicts {
    told: usize,
    unharmed: usize,
}

impl Verdicts {
    fn take(&mut self, variant: &str, truth: &Truth, answer: Result<Option<Truth>, StoreError>) {
        match answer {
            Ok(Some(answer)) if answer == *truth => self.unharmed += 1,
            Err(StoreError::Corrupt { .. }) => self.told += 1,
            Ok(_) => panic!("{variant}: other facts than were stored"),
            Err(error) => panic!("{variant}: refused, but not as damaged: {error:?}"),
        }
    }
}

#[tokio::test]
async fn every_truncation_and_every_flip_is_told_or_harmless() {
    let folder = Folder::new();
    fill(&folder).await.close().await;
    let truth = read_all(&folder.db()).await.unwrap().unwrap();
    let whole = folder.content();
    assert_eq!(whole.keys().collect::<Vec<_>>(), ["state.db", "state.seen"], "closed: one file and its mark");
    let pages = whole["state.db"].len() / PAGE_BYTES;
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut variants: Vec<(String, Vec<u8>)> = Vec::new();
    for page in 0..pages {
        let (from, to) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        let mut add = |what: &str, change: &mut dyn FnMut(&mut Vec<u8>)| {
            let mut bytes = whole["state.db"].clone();
            change(&mut bytes);
            variants.push((format!("page {page}: {what}"), bytes));
        };
        add("cut before", &mut |bytes| bytes.truncate(from));
        add("cut within", &mut |bytes| bytes.truncate(from + 1_000));
        add("zeroed", &mut |bytes| bytes[from..to].fill(0));
        let other = (page + 1) % pages * PAGE_BYTES;
        add("another page", &mut |bytes| bytes.copy_within(other..other + PAGE_BYTES, from));
        // The head of a page is where its structure is.
        let places: Vec<usize> = (0..FLIPS_A_PAGE)
            .map(|n| from + random.random_range(0..if n % 4 == 0 { 100 } else { PAGE_BYTES }))
            .collect();
        for place in places {
            let bit = 1 << random.random_range(0..8);
            add(&format!("byte {place} ^ {bit}"), &mut |bytes| bytes[place] ^= bit);
        }
    }
    let mut verdicts = Verdicts::default();
    for (at, (variant, bytes)) in variants.iter().enumerate() {
        let mut files = whole.clone();
        files.insert("state.db".to_owned(), bytes.clone());
        let folder = Folder::with(&files);
        verdicts.take(variant, &truth, read_all(&folder.db()).await);
        assert!(folder.content() == files, "{variant}: a reader changed something");
        if at % 4 == 0 {
            verdicts.take(&format!("{variant}, writing"), &truth, write_all(&folder.db()).await);
        }
    }
    println!("{pages} pages: {} variants told, {} harmless", verdicts.told, verdicts.unharmed);
    assert!(verdicts.told > variants.len() / 2);
}

#[tokio::test]
async fn a_lost_or_cut_wal_and_an_old_copy_are_told() {
    let folder = Folder::new();
    let store = fill(&folder).await;
    let old = folder.content();
    store.append(&run_id("three"), &batch(50, 53)).await.unwrap();
    store
        .append(&run_id("three"), &Batch { cursors: vec![(node("n"), json!(1))], ..Batch::default() })
        .await
        .unwrap();
    let truth = tell(&*store).await.unwrap();
    let mut killed = folder.content();
    // As a killed process leaves it; SQLite makes this one anew from the WAL.
    killed.remove("state.db-shm");
    drop(store);
    let wal = killed["state.db-wal"].clone();
    let frame = PAGE_BYTES + 24;
    let mut verdicts = Verdicts::default();
    let mut look = async |variant: String, files: &BTreeMap<String, Vec<u8>>| {
        verdicts.take(&variant, &truth, read_all(&Folder::with(files).db()).await);
        verdicts.take(&variant, &truth, write_all(&Folder::with(files).db()).await);
        verdicts.unharmed
    };
    assert_eq!(look("as it was".to_owned(), &killed).await, 2, "nothing is lost by the kill itself");
    for cut in (0..wal.len()).step_by(frame / 2) {
        let mut files = killed.clone();
        files.insert("state.db-wal".to_owned(), wal[..cut].to_vec());
        look(format!("the WAL cut at {cut}"), &files).await;
    }
    let mut random = SmallRng::seed_from_u64(SEED);
    for at in (0..wal.len()).step_by(frame / 3) {
        let mut files = killed.clone();
        let place = (at + random.random_range(0..frame / 3)).min(wal.len() - 1);
        files.get_mut("state.db-wal").unwrap()[place] ^= 1 << random.random_range(0..8);
        look(format!("the WAL flipped at {place}"), &files).await;
    }
    let unharmed = look("again".to_owned(), &killed).await;
    for lost in ["state.db-wal", "state.seen", "state.db"] {
        let mut files = killed.clone();
        files.remove(lost);
        assert_eq!(look(format!("no {lost}"), &files).await, unharmed, "{lost}");
    }
    for name in ["state.db-wal", "state.db"] {
        let mut files = killed.clone();
        files.insert(name.to_owned(), old[name].clone());
        look(format!("an old {name}"), &files).await;
    }
    println!("WAL of {} frames: {} told, {} harmless", wal.len() / frame, verdicts.told, verdicts.unharmed);
}

/// File after file, as `cp` and backups do, while a run writes. In the order that the documentation
/// gives, what was copied is a store of that time; in any other it is one, or it is told.
#[tokio::test]
async fn a_copy_made_beside_a_living_run_is_a_store_of_that_time_or_told() {
    const RIGHT: [&str; 3] = ["state.seen", "state.db", "state.db-wal"];
    let folder = Folder::new();
    let store = fill(&folder).await;
    let (mut copies, mut truths) = (Vec::new(), vec![tell(&*store).await.unwrap()]);
    let mut next = 100;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for checkpoint in [false, true] {
            let mut files = BTreeMap::new();
            let began = truths.len() - 1;
            for file in order.map(|at| RIGHT[at]) {
                files.insert(file.to_owned(), std::fs::read(folder.0.path().join(file)).unwrap());
                for _ in 0..2 {
                    store.append(&run_id("three"), &batch(next, next + 3)).await.unwrap();
                    next += 3;
                    truths.push(tell(&*store).await.unwrap());
                }
                if checkpoint {
                    // SQLite does so by itself when the WAL has a thousand pages, and begins it anew.
                    let restart = "pragma wal_checkpoint(restart)";
                    raw(&folder).query_row(restart, [], |_| Ok(())).unwrap();
                }
            }
            copies.push((order, checkpoint, began, files));
        }
    }
    let (mut taken, mut told) = (0, 0);
    for (order, checkpoint, began, files) in copies {
        for writing in [false, true] {
            let copy = Folder::with(&files);
            let answer = if writing { write_all(&copy.db()).await } else { read_all(&copy.db()).await };
            match answer {
                Ok(Some(truth)) => {
                    let at = truths.iter().position(|known| *known == truth);
                    assert!(at.is_some_and(|at| at >= began), "{order:?} {checkpoint}: {at:?} after {began}");
                    taken += 1;
                }
                Err(StoreError::Corrupt { reason, .. }) => {
                    assert!(checkpoint || order != [0, 1, 2], "the right order: {reason}");
                    told += 1;
                }
                other => panic!("{order:?} {checkpoint}: {other:?}"),
            }
        }
    }
    assert!(taken > 0 && told > 0, "{taken} taken, {told} told");
}

#[tokio::test]
async fn rows_lost_or_brought_back_are_told() {
    let folder = Folder::new();
    fill(&folder).await.close().await;
    let truth = read_all(&folder.db()).await.unwrap().unwrap();
    let whole = folder.content();
    let mut verdicts = Verdicts::default();
    let changes = [
        "delete from facts where run = 'two' and seq > 20",
        "delete from facts where run = 'two' and seq = 22",
        "delete from facts where run = 'three'",
        "delete from places where run = 'one' and node = 'n'",
        "update places set cursor = '7' where run = 'one' and node = 'n'",
        "update places set handle = null where run = 'one' and node = 'n'",
        "update places set node = 'm' where run = 'one' and node = 'n'",
        "insert into places (run, node, cursor) values ('one', 'extra', '1')",
        "delete from runs where id = 'three'",
        "update runs set workflow = 'v' where id = 'three'",
        "update runs set started_at = '2020-01-01T00:00:00Z' where id = 'three'",
        "delete from heads where run = 'three'",
        "delete from heads",
        "update heads set started_at = '2020-01-01T00:00:00Z' where run = 'three'",
        "update heads set created = created + 9 where run = 'two'",
        "update heads set created = 0 where run = 'three'",
        "delete from store",
        "update store set generation = generation + 1",
        "update _sqlx_migrations set version = 7 where version = 2",
        "delete from _sqlx_migrations where version = 2",
        "delete from _sqlx_migrations",
        "drop table places",
        "alter table facts rename column body to text",
    ];
    for change in changes {
        let folder = Folder::with(&whole);
        raw(&folder).execute_batch(change).unwrap();
        verdicts.take(change, &truth, read_all(&folder.db()).await);
    }
    assert_eq!(verdicts.told, changes.len());
}

/// Another connection, which closes when it is dropped.
fn raw(folder: &Folder) -> Connection {
    let raw = Connection::open(folder.db()).unwrap();
    raw.pragma_update(None, "foreign_keys", false).unwrap();
    raw
}

#[tokio::test]
async fn messages_say_what_is_wrong() {
    let folder = Folder::new();
    let store = fill(&folder).await;
    let old = folder.content();
    store.append(&run_id("one"), &batch(50, 53)).await.unwrap();
    store.append(&run_id("one"), &batch(53, 54)).await.unwrap();
    store.close().await;
    let whole = folder.content();
    let mut said = Vec::new();
    let mut look = async |what: &str, folder: &Folder| {
        let error = read_all(&folder.db()).await.unwrap_err().to_string();
        said.push(format!("{what}\n  {}", error.replace(&folder.db().display().to_string(), "DIR/state.db")));
    };
    let with = |name: &str, bytes: &[u8]| {
        let mut files = whole.clone();
        files.insert(name.to_owned(), bytes.to_vec());
        files
    };
    look(
        "an old copy",
        &Folder::with(&BTreeMap::from([
            ("state.db".to_owned(), old["state.db"].clone()),
            ("state.db-wal".to_owned(), old["state.db-wal"].clone()),
            ("state.seen".to_owned(), whole["state.seen"].clone()),
        ])),
    )
    .await;
    look("cut off", &Folder::with(&with("state.db", &whole["state.db"][..3 * PAGE_BYTES]))).await;
    look("no database", &Folder::with(&with("state.db", b"nothing that SQLite knows"))).await;
    look("no mark", &Folder::with(&with("state.seen", b"nothing"))).await;
    look(
        "no state.seen",
        &Folder::with(&BTreeMap::from([("state.db".to_owned(), whole["state.db"].clone())])),
    )
    .await;
    look(
        "no state.db",
        &Folder::with(&BTreeMap::from([("state.seen".to_owned(), whole["state.seen"].clone())])),
    )
    .await;
    for change in ["delete from facts where run = 'one' and seq > 20", "update places set cursor = '7'"] {
        let folder = Folder::with(&whole);
        raw(&folder).execute_batch(change).unwrap();
        look(change, &folder).await;
    }
    insta::assert_snapshot!(said.join("\n"));
}

#[tokio::test]
async fn the_first_version_is_read_as_it_is_and_migrated_by_a_writer() {
    let first = include_bytes!("../fixtures/first.db");
    let files = BTreeMap::from([("state.db".to_owned(), first.to_vec())]);
    let folder = Folder::with(&files);
    let truth = read_all(&folder.db()).await.unwrap().unwrap();
    assert!(folder.content() == files, "a reader migrates nothing");
    assert_eq!(truth.runs.len(), 2);
    let stopped = &truth.places[0][&node("b")];
    assert_eq!(stopped, &Place { cursor: Some(json!({ "place": 5 })), handle: Some("job-1".to_owned()) });
    let last = truth.facts[1].last().unwrap();
    assert!(matches!(&last.fact, Fact::Ended { state } if *state == crate::report::RunState::Done));
    assert_eq!(truth.facts.iter().map(Vec::len).collect::<Vec<_>>(), FIRST_FACTS);

    let store = SqliteStore::open(&folder.db()).await.unwrap();
    assert_eq!(tell(&store).await.unwrap(), truth);
    let run: RunId = store.run(None).await.unwrap().unwrap().id;
    store.acquire(&Holder::here(&run)).await.unwrap();
    let cleared = Batch { cleared: vec![node("b")], ..batch(0, 2) };
    store.append(&run, &cleared).await.unwrap();
    store.close().await;
    let now = read_all(&folder.db()).await.unwrap().unwrap();
    assert_eq!((now.facts[0].len(), now.places[0].len()), (FIRST_FACTS[0] + 2, 0));
    assert_eq!(now.facts[1], truth.facts[1]);
}

/// Made before the order of runs was kept: `older` and `newer`, both at a gate.
#[tokio::test]
async fn the_second_version_keeps_its_order_and_what_comes_later_is_newer() {
    let (second, seen) = (include_bytes!("../fixtures/second.db"), include_bytes!("../fixtures/second.seen"));
    let files =
        BTreeMap::from([("state.db".to_owned(), second.to_vec()), ("state.seen".to_owned(), seen.to_vec())]);
    let folder = Folder::with(&files);
    let truth = read_all(&folder.db()).await.unwrap().unwrap();
    assert!(folder.content() == files, "a reader migrates nothing");
    let store = SqliteStore::open(&folder.db()).await.unwrap();
    assert_eq!(tell(&store).await.unwrap(), truth);
    store.acquire(&Holder::here(&run_id("late"))).await.unwrap();
    // By a clock that is years behind.
    store
        .create_run(&RunRecord { workflow: "late".to_owned(), ..record("late", -1_700_000_000) })
        .await
        .unwrap();
    store.close().await;
    let reader = SqliteStore::read(&folder.db()).await.unwrap().unwrap();
    let names: Vec<_> = reader.runs().await.unwrap().into_iter().map(|run| run.workflow).collect();
    assert_eq!(names, ["late", "newer", "older"]);
    assert_eq!(reader.run(None).await.unwrap().unwrap().workflow, "late");
}

/// Facts of the stopped and of the finished run in the file of the first version.
const FIRST_FACTS: [usize; 2] = [6, 10];

#[tokio::test]
async fn a_newer_version_is_refused_and_left_alone() {
    let folder = Folder::new();
    fill(&folder).await.close().await;
    let add = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
               values (4, 'later', true, x'00', 0)";
    raw(&folder).execute_batch(add).unwrap();
    let before = folder.content();
    let newer = |result| matches!(result, Err(StoreError::Newer { .. }));
    assert!(newer(read_all(&folder.db()).await));
    assert_eq!(folder.content()["state.db"], before["state.db"]);
    assert!(newer(write_all(&folder.db()).await));
    assert_eq!(folder.content()["state.db"], before["state.db"]);
}

#[tokio::test]
async fn readers_leave_no_trace_beside_a_killed_writer() {
    let folder = Folder::new();
    let store = fill(&folder).await;
    let truth = tell(&*store).await.unwrap();
    let mut killed = folder.content();
    drop(store);
    killed.remove("state.db-shm");
    let folder = Folder::with(&killed);
    assert_eq!(read_all(&folder.db()).await.unwrap().unwrap(), truth);
    let after = folder.content();
    assert_eq!((&after["state.db"], &after["state.db-wal"]), (&killed["state.db"], &killed["state.db-wal"]));
    // No lock is waited for: a writer in the middle of a transaction keeps no reader out.
    let raw = raw(&folder);
    raw.execute_batch("begin immediate; delete from facts").unwrap();
    assert_eq!(read_all(&folder.db()).await.unwrap().unwrap(), truth);
}

/// `cargo test -p migrate-engine --lib a_hundred_thousand -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures; holds nothing"]
async fn a_hundred_thousand_facts() {
    let folder = Folder::new();
    let (store, run) = begun(&folder, "a").await;
    let began = std::time::Instant::now();
    for n in 0..100 {
        store.append(&run, &batch(n * 1_000, (n + 1) * 1_000)).await.unwrap();
    }
    println!("written in {:?}", began.elapsed());
    store.close().await;
    println!("{} bytes", std::fs::metadata(folder.file(".db")).unwrap().len());
    let began = std::time::Instant::now();
    let reader = SqliteStore::read(&folder.db()).await.unwrap().unwrap();
    println!("opened to read in {:?}", began.elapsed());
    let began = std::time::Instant::now();
    let facts = reader.facts(&run).await.unwrap();
    let took = began.elapsed();
    println!(
        "{} facts read in {took:?}: {:.0} a second",
        facts.len(),
        facts.len() as f64 / took.as_secs_f64()
    );
    let began = std::time::Instant::now();
    SqliteStore::open(&folder.db()).await.unwrap();
    println!("opened to write in {:?}", began.elapsed());
}
