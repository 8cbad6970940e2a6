//! Writing: each write is one transaction that also moves the heads on, refused when another holder
//! has taken over. After a write that failed nothing more is written: its end is not known.

use std::path::Path;

use migrate_plugin_api::{NodeId, RunId};
use rusqlite::{Connection, OptionalExtension, Params, Transaction, TransactionBehavior, params};

use super::open::{FIRST_GENERATION, fold_wal};
use super::rows::{Heads, Rows, facts_of, places_of};
use super::{corrupt, failed};
use crate::ambient;
use crate::store::fact::{Batch, RunRecord, level_name};
use crate::store::seen::SeenFile;
use crate::store::sum::{self, Head, Sum, Whole};
use crate::store::{StoreError, json};

/// What most writes are, should they fail.
const WRITE: &str = "store what happened";

/// What the one writer knows: as long as its epoch is the current one, nobody else changes it.
struct Held {
    whole: Whole,
    heads: Heads,
}

/// The right to write.
pub(super) struct Writer {
    /// `None` only on a simulated disk, which has no other files.
    seen: Option<SeenFile>,
    held: Option<Held>,
}

impl Writer {
    pub(super) fn new(seen: Option<SeenFile>) -> Self {
        Self { seen, held: None }
    }

    /// Begins an epoch: whoever held the store before is refused from now on.
    pub(super) fn acquire(&mut self, path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
        self.held = None;
        let mut rows = Rows { path, connection, headed: true };
        let Some((before, heads)) = rows.whole_and_heads()? else {
            return Err(corrupt(path, "its own row is lost"));
        };
        let whole = Whole { epoch: before.epoch + 1, generation: before.generation + 1, ..before.clone() };
        let transaction = begin(path, connection)?;
        move_whole(path, &transaction, &before, &whole)?;
        self.commit(path, transaction, Held { whole, heads })
    }

    pub(super) fn create_run(
        &mut self,
        path: &Path,
        connection: &mut Connection,
        run: &RunRecord,
    ) -> Result<(), StoreError> {
        let mut held = self.take_held()?;
        if held.heads.contains_key(run.id.as_str()) {
            let source = format!("there is a run {} already", run.id).into();
            self.held = Some(held);
            return Err(StoreError::Failed { operation: "store a run", source });
        }
        let definition = json("store a run", &run.definition)?;
        let started_at = run.started_at.to_string();
        let before = held.whole.clone();
        held.whole.generation += 1;
        let head = Head {
            run: run.id.to_string(),
            run_sum: sum::of_run(run.id.as_str(), &run.workflow, &definition, &started_at),
            started_at: started_at.clone(),
            created: held.whole.generation,
            facts: 0,
            facts_sum: None,
            places_sum: Sum::default(),
        };
        held.whole.heads_sum.toggle(head.sum());
        let transaction = begin(path, connection)?;
        let insert = "insert into runs (id, workflow, definition, started_at) values (?, ?, ?, ?)";
        let values = params![run.id.as_str(), run.workflow, definition, started_at];
        execute(path, &transaction, "store a run", insert, values)?;
        insert_head(path, &transaction, &head)?;
        held.heads.insert(head.run.clone(), head);
        move_whole(path, &transaction, &before, &held.whole)?;
        self.commit(path, transaction, held)
    }

    pub(super) fn append(
        &mut self,
        path: &Path,
        connection: &mut Connection,
        run: &RunId,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        let mut held = self.take_held()?;
        let Some(head) = held.heads.get_mut(run.as_str()) else {
            let source = format!("there is no run {run}").into();
            self.held = Some(held);
            return Err(StoreError::Failed { operation: WRITE, source });
        };
        let before = held.whole.clone();
        held.whole.heads_sum.toggle(head.sum());
        let transaction = begin(path, connection)?;
        add_places(path, &transaction, run, batch, head)?;
        add_logs(path, &transaction, run, batch)?;
        add_facts(path, &transaction, run, batch, head)?;
        held.whole.heads_sum.toggle(head.sum());
        held.whole.generation += 1;
        move_head(path, &transaction, head)?;
        move_whole(path, &transaction, &before, &held.whole)?;
        self.commit(path, transaction, held)
    }

    /// At the end: leaves nothing in side files that only this process knows.
    pub(super) fn settle(&self, connection: &Connection) {
        fold_wal(connection);
        // What the disk doesn't have yet the system does.
        let _ = self.seen.as_ref().map(SeenFile::sync);
    }

    fn take_held(&mut self) -> Result<Held, StoreError> {
        self.held.take().ok_or_else(|| StoreError::Failed {
            operation: WRITE,
            source: "an earlier write failed, or the right to write was never taken".into(),
        })
    }

    /// Ends a write, and remembers, also outside of the store, how far it is.
    fn commit(&mut self, path: &Path, transaction: Transaction<'_>, held: Held) -> Result<(), StoreError> {
        transaction.commit().map_err(|error| failed(path, WRITE, error))?;
        if let Some(seen) = &mut self.seen {
            seen.write(&held.whole).map_err(|source| StoreError::Failed {
                operation: "write state.seen",
                source: Box::new(source),
            })?;
        }
        self.held = Some(held);
        Ok(())
    }
}

/// Gives heads to a store that is new, or was written by the first version, all or none.
pub(super) fn adopt(path: &Path, connection: &mut Connection) -> Result<Whole, StoreError> {
    const PREPARE: &str = "prepare the state";
    let mut rows = Rows { path, connection, headed: false };
    let runs = rows.runs()?;
    let transaction = begin(path, connection)?;
    let mut whole = Whole {
        id: (0..4).map(|_| format!("{:04x}", ambient::random_tag())).collect(),
        epoch: 0,
        generation: FIRST_GENERATION,
        heads_sum: Sum::default(),
    };
    for run in runs {
        let select = "select workflow, definition, started_at from runs where id = ?";
        let row: (String, String, String) = transaction
            .query_row(select, [run.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .map_err(|error| failed(path, PREPARE, error))?;
        let (facts, facts_sum) = facts_of(path, &transaction, &run.id)?;
        let (_, places_sum) = places_of(path, &transaction, &run.id)?;
        let head = Head {
            run: run.id.to_string(),
            run_sum: sum::of_run(run.id.as_str(), &row.0, &row.1, &row.2),
            started_at: row.2,
            created: 0,
            facts: facts.len() as u64,
            facts_sum,
            places_sum,
        };
        adopt_places(path, &transaction, &run.id)?;
        insert_head(path, &transaction, &head)?;
        whole.heads_sum.toggle(head.sum());
    }
    let insert = "insert into store (one, id, epoch, generation, heads_sum, sum) values (1, ?, ?, ?, ?, ?)";
    let (epoch, generation, sum) = (whole.epoch as i64, whole.generation as i64, whole.sum());
    let values = params![whole.id, epoch, generation, whole.heads_sum.bytes(), sum.bytes()];
    execute(path, &transaction, PREPARE, insert, values)?;
    transaction.commit().map_err(|error| failed(path, PREPARE, error))?;
    Ok(whole)
}

/// Each place's own sums, which a later change takes out of the head.
fn adopt_places(path: &Path, transaction: &Transaction<'_>, run: &RunId) -> Result<(), StoreError> {
    let read = || {
        let mut statement = transaction.prepare("select node, cursor, handle from places where run = ?")?;
        let rows = statement.query_map([run.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect::<rusqlite::Result<Vec<(String, Option<String>, Option<String>)>>>()
    };
    for (node, cursor, handle) in read().map_err(|error| failed(path, "prepare the state", error))? {
        let node = NodeId::new(node).map_err(|error| corrupt(path, error.to_string()))?;
        let sum = |kind, value: Option<String>| {
            value.map(|value| sum::of_place(run, &node, kind, &value).bytes().to_vec())
        };
        let update = "update places set cursor_sum = ?, handle_sum = ? where run = ? and node = ?";
        let values = params![sum("cursor", cursor), sum("handle", handle), run.as_str(), node.as_str()];
        execute(path, transaction, "prepare the state", update, values)?;
    }
    Ok(())
}

fn begin<'a>(path: &Path, connection: &'a mut Connection) -> Result<Transaction<'a>, StoreError> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    begun.map_err(|error| failed(path, "begin to write", error))
}

/// Runs one statement; how many rows it changed. `operation`: what it is for, should it fail.
fn execute(
    path: &Path,
    transaction: &Transaction<'_>,
    operation: &'static str,
    statement: &str,
    values: impl Params,
) -> Result<usize, StoreError> {
    let done = transaction.prepare_cached(statement).and_then(|mut statement| statement.execute(values));
    done.map_err(|error| failed(path, operation, error))
}

/// Moves the store's own row on, if it is still where this writer left it.
fn move_whole(
    path: &Path,
    transaction: &Transaction<'_>,
    before: &Whole,
    after: &Whole,
) -> Result<(), StoreError> {
    let update = "update store set epoch = ?, generation = ?, heads_sum = ?, sum = ?
                  where generation = ? and epoch = ?";
    let (epoch, generation) = (after.epoch as i64, after.generation as i64);
    let (before_epoch, before_generation) = (before.epoch as i64, before.generation as i64);
    let (heads_sum, sum) = (after.heads_sum, after.sum());
    let values = params![epoch, generation, heads_sum.bytes(), sum.bytes(), before_generation, before_epoch];
    match execute(path, transaction, WRITE, update, values)? {
        1 => Ok(()),
        _ => Err(StoreError::Fenced { holder: None }),
    }
}

fn insert_head(path: &Path, transaction: &Transaction<'_>, head: &Head) -> Result<(), StoreError> {
    let insert = "insert into heads (run, started_at, created, run_sum, facts, facts_sum, places_sum, sum)
                  values (?, ?, ?, ?, ?, ?, ?, ?)";
    let sum = head.sum();
    let values = params![
        head.run,
        head.started_at,
        head.created as i64,
        head.run_sum.bytes(),
        head.facts as i64,
        head.facts_bytes(),
        head.places_sum.bytes(),
        sum.bytes()
    ];
    execute(path, transaction, "store a run", insert, values).map(drop)
}

fn move_head(path: &Path, transaction: &Transaction<'_>, head: &Head) -> Result<(), StoreError> {
    let update = "update heads set facts = ?, facts_sum = ?, places_sum = ?, sum = ? where run = ?";
    let (facts, sum) = (head.facts as i64, head.sum());
    let values = params![facts, head.facts_bytes(), head.places_sum.bytes(), sum.bytes(), head.run];
    match execute(path, transaction, WRITE, update, values)? {
        1 => Ok(()),
        _ => Err(corrupt(path, format!("the head of run {} is lost", head.run))),
    }
}

fn add_facts(
    path: &Path,
    transaction: &Transaction<'_>,
    run: &RunId,
    batch: &Batch,
    head: &mut Head,
) -> Result<(), StoreError> {
    for stamped in &batch.facts {
        let (at, body) = (stamped.at.to_string(), json(WRITE, &stamped.fact)?);
        let sum = Sum::chain(head.facts_sum, &at, &body);
        (head.facts, head.facts_sum) = (head.facts + 1, Some(sum));
        let insert = "insert into facts (run, seq, at, body, sum) values (?, ?, ?, ?, ?)";
        let values = params![run.as_str(), head.facts as i64, at, body, sum.bytes()];
        execute(path, transaction, WRITE, insert, values)?;
    }
    Ok(())
}

fn add_places(
    path: &Path,
    transaction: &Transaction<'_>,
    run: &RunId,
    batch: &Batch,
    head: &mut Head,
) -> Result<(), StoreError> {
    const PLACE: &str = "store a node's place";
    for node in &batch.cleared {
        for kind in ["cursor", "handle"] {
            take_out(path, transaction, run, node, kind, head)?;
        }
        let delete = "delete from places where run = ? and node = ?";
        execute(path, transaction, PLACE, delete, [run.as_str(), node.as_str()])?;
    }
    let cursors = batch.cursors.iter().map(|(node, cursor)| (node, "cursor", cursor.to_string()));
    let handles = batch.handles.iter().map(|(node, handle)| (node, "handle", handle.clone()));
    for (node, kind, value) in cursors.chain(handles) {
        take_out(path, transaction, run, node, kind, head)?;
        let sum = sum::of_place(run, node, kind, &value);
        head.places_sum.toggle(sum);
        let put = match kind {
            "cursor" => {
                "insert into places (run, node, cursor, cursor_sum) values (?, ?, ?, ?) on conflict (run, node)
                 do update set cursor = excluded.cursor, cursor_sum = excluded.cursor_sum"
            }
            _ => {
                "insert into places (run, node, handle, handle_sum) values (?, ?, ?, ?) on conflict (run, node)
                 do update set handle = excluded.handle, handle_sum = excluded.handle_sum"
            }
        };
        execute(path, transaction, PLACE, put, params![run.as_str(), node.as_str(), value, sum.bytes()])?;
    }
    Ok(())
}

/// Takes what is stored out of the sum over a run's places.
fn take_out(
    path: &Path,
    transaction: &Transaction<'_>,
    run: &RunId,
    node: &NodeId,
    kind: &str,
    head: &mut Head,
) -> Result<(), StoreError> {
    let select = match kind {
        "cursor" => "select cursor_sum from places where run = ? and node = ?",
        _ => "select handle_sum from places where run = ? and node = ?",
    };
    let stored = transaction.prepare_cached(select).and_then(|mut statement| {
        let row = statement.query_row([run.as_str(), node.as_str()], |row| row.get::<_, Option<Vec<u8>>>(0));
        row.optional()
    });
    if let Some(bytes) = stored.map_err(|error| failed(path, "read a node's place", error))?.flatten() {
        let altered = || corrupt(path, format!("the {kind} of `{node}` is altered"));
        head.places_sum.toggle(Sum::read(&bytes).ok_or_else(altered)?);
    }
    Ok(())
}

fn add_logs(
    path: &Path,
    transaction: &Transaction<'_>,
    run: &RunId,
    batch: &Batch,
) -> Result<(), StoreError> {
    for line in &batch.logs {
        let insert = "insert into logs (run, at, node, level, message) values (?, ?, ?, ?, ?)";
        let (at, node) = (line.at.to_string(), line.node.as_str());
        let values = params![run.as_str(), at, node, level_name(line.level), line.message];
        execute(path, transaction, "store a line of a log", insert, values)?;
    }
    Ok(())
}
