//! Writing: each write is one transaction that also moves the heads on, refused when another holder
//! has taken over. After a write that failed nothing more is written: its end is not known.

use std::collections::BTreeMap;
use std::path::Path;

use futures::TryStreamExt;
use migrate_plugin_api::{NodeId, RunId};
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Encode, Error, Executor, Row, Sqlite, SqliteTransaction, Type,
};

use super::open::{FIRST_GENERATION, fold_wal};
use super::rows::{Rows, facts_of, places_of};
use super::{corrupt, failed};
use crate::ambient;
use crate::store::fact::{Batch, RunRecord, level_name};
use crate::store::seen::SeenFile;
use crate::store::sum::{self, Head, Sum, Whole};
use crate::store::{StoreError, json};

const BEGIN: &str = "begin immediate";

/// What most writes are, should they fail.
const WRITE: &str = "store what happened";

/// Facts of a usual write: up to here its statements are kept prepared. Each number of facts has its
/// own, so this bounds how many are kept.
const USUAL_FACTS: usize = 16;

/// SQLite takes 32,766 arguments a statement, and a fact has five.
const MAX_FACTS_A_STATEMENT: usize = 1_000;

/// Statements that go to SQLite's thread together: the way there costs as much as a statement.
#[derive(Default)]
struct Piece {
    sql: String,
    arguments: SqliteArguments,
    is_usual: bool,
}

impl Piece {
    fn say(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    fn bind<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> Result<(), Error> {
        self.arguments.add(value).map_err(Error::Encode)
    }

    /// The same as a transaction of its own, all on one way to SQLite's thread: instead of three.
    async fn execute_alone(mut self, connection: &mut SqliteConnection) -> Result<Vec<u64>, Error> {
        self.sql = format!("{BEGIN}; {} commit;", self.sql);
        match self.execute(connection).await {
            Ok(mut counts) => {
                // Neither the first nor the last changes rows.
                counts.pop();
                Ok(counts.split_off(1.min(counts.len())))
            }
            Err(error) => {
                // However far it came, it is not committed; reading goes on.
                let _ = (&mut *connection).execute("rollback").await;
                Err(error)
            }
        }
    }

    /// How many rows each statement changed.
    async fn execute(self, connection: &mut SqliteConnection) -> Result<Vec<u64>, Error> {
        let query = sqlx::query_with(AssertSqlSafe(self.sql), self.arguments).persistent(self.is_usual);
        let results = connection.fetch_many(query);
        results
            .try_filter_map(async |result| Ok(result.left().map(|done| done.rows_affected())))
            .try_collect()
            .await
    }
}

/// What the one writer knows: as long as its epoch is the current one, nobody else changes it.
struct Held {
    whole: Whole,
    heads: BTreeMap<String, Head>,
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
    pub(super) async fn acquire(
        &mut self,
        path: &Path,
        connection: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        self.held = None;
        let mut rows = Rows { path, connection, headed: true };
        let Some((before, heads)) = rows.whole_and_heads().await? else {
            return Err(corrupt(path, "its own row is lost"));
        };
        let whole = Whole { epoch: before.epoch + 1, generation: before.generation + 1, ..before.clone() };
        let mut transaction = begin(path, connection).await?;
        replace_whole(path, &mut transaction, &before, &whole).await?;
        self.commit(path, transaction, Held { whole, heads }).await
    }

    pub(super) async fn create_run(
        &mut self,
        path: &Path,
        connection: &mut SqliteConnection,
        run: &RunRecord,
    ) -> Result<(), StoreError> {
        let write = |error| failed(path, "store a run", error);
        let mut held = self.take_held()?;
        if held.heads.contains_key(run.id.as_str()) {
            let source = format!("there is a run {} already", run.id).into();
            self.held = Some(held);
            return Err(StoreError::Failed { operation: "store a run", source });
        }
        let definition = json("store a run", &run.definition)?;
        let started_at = run.started_at.to_string();
        let head = Head {
            run: run.id.to_string(),
            run_sum: sum::of_run(run.id.as_str(), &run.workflow, &definition, &started_at),
            started_at: started_at.clone(),
            facts: 0,
            facts_sum: None,
            places_sum: Sum::default(),
        };
        let before = held.whole.clone();
        held.whole.generation += 1;
        held.whole.heads_sum.toggle(head.sum());
        let mut transaction = begin(path, connection).await?;
        sqlx::query("insert into runs (id, workflow, definition, started_at) values (?, ?, ?, ?)")
            .bind(run.id.as_str())
            .bind(run.workflow.as_str())
            .bind(definition)
            .bind(started_at)
            .execute(&mut *transaction)
            .await
            .map_err(write)?;
        insert_head(path, &mut transaction, &head).await?;
        held.heads.insert(head.run.clone(), head);
        replace_whole(path, &mut transaction, &before, &held.whole).await?;
        self.commit(path, transaction, held).await
    }

    pub(super) async fn append(
        &mut self,
        path: &Path,
        connection: &mut SqliteConnection,
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
        if batch.is_only_facts() {
            let piece = facts_and_heads(run, batch, &before, &mut held.whole, head)?;
            let counts = piece.execute_alone(connection).await.map_err(|error| failed(path, WRITE, error))?;
            judge(path, run, &counts)?;
        } else {
            let mut transaction = begin(path, connection).await?;
            add_places(path, &mut transaction, run, batch, head).await?;
            add_logs(path, &mut transaction, run, batch).await?;
            let piece = facts_and_heads(run, batch, &before, &mut held.whole, head)?;
            let counts = piece.execute(&mut transaction).await.map_err(|error| failed(path, WRITE, error))?;
            judge(path, run, &counts)?;
            transaction.commit().await.map_err(|error| failed(path, WRITE, error))?;
        }
        self.committed(held)
    }

    /// At the end: leaves nothing in side files that only this process knows.
    pub(super) async fn settle(&self, connection: &mut SqliteConnection) {
        fold_wal(connection).await;
        // What the disk doesn't have yet the system does.
        let _ = self.seen.as_ref().map(SeenFile::sync);
    }

    fn take_held(&mut self) -> Result<Held, StoreError> {
        self.held.take().ok_or_else(|| StoreError::Failed {
            operation: WRITE,
            source: "an earlier write failed, or the right to write was never taken".into(),
        })
    }

    async fn commit(
        &mut self,
        path: &Path,
        transaction: SqliteTransaction<'_>,
        held: Held,
    ) -> Result<(), StoreError> {
        transaction.commit().await.map_err(|error| failed(path, WRITE, error))?;
        self.committed(held)
    }

    /// Remembers, also outside of the store, how far it is.
    fn committed(&mut self, held: Held) -> Result<(), StoreError> {
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
pub(super) async fn adopt(path: &Path, connection: &mut SqliteConnection) -> Result<Whole, StoreError> {
    let write = |error| failed(path, "prepare the state", error);
    let mut rows = Rows { path, connection, headed: false };
    let runs = rows.runs().await?;
    let mut transaction = begin(path, connection).await?;
    let mut whole = Whole {
        id: (0..4).map(|_| format!("{:04x}", ambient::random_tag())).collect(),
        epoch: 0,
        generation: FIRST_GENERATION,
        heads_sum: Sum::default(),
    };
    for run in runs {
        let row = sqlx::query("select workflow, definition, started_at from runs where id = ?")
            .bind(run.id.as_str())
            .fetch_one(&mut *transaction)
            .await
            .map_err(write)?;
        let text = |column| row.try_get::<&str, _>(column).map_err(write);
        let started_at = text("started_at")?;
        let (facts, facts_sum) = facts_of(path, &mut transaction, &run.id).await?;
        let (_, places_sum) = places_of(path, &mut transaction, &run.id).await?;
        let head = Head {
            run: run.id.to_string(),
            started_at: started_at.to_owned(),
            run_sum: sum::of_run(run.id.as_str(), text("workflow")?, text("definition")?, started_at),
            facts: facts.len() as u64,
            facts_sum,
            places_sum,
        };
        adopt_places(path, &mut transaction, &run.id).await?;
        insert_head(path, &mut transaction, &head).await?;
        whole.heads_sum.toggle(head.sum());
    }
    sqlx::query("insert into store (one, id, epoch, generation, heads_sum, sum) values (1, ?, ?, ?, ?, ?)")
        .bind(whole.id.as_str())
        .bind(whole.epoch as i64)
        .bind(whole.generation as i64)
        .bind(whole.heads_sum.bytes())
        .bind(whole.sum().bytes())
        .execute(&mut *transaction)
        .await
        .map_err(write)?;
    transaction.commit().await.map_err(write)?;
    Ok(whole)
}

/// Each place's own sums, which a later change takes out of the head.
async fn adopt_places(
    path: &Path,
    transaction: &mut SqliteTransaction<'_>,
    run: &RunId,
) -> Result<(), StoreError> {
    let write = |error| failed(path, "prepare the state", error);
    let rows: Vec<(String, Option<String>, Option<String>)> =
        sqlx::query_as("select node, cursor, handle from places where run = ?")
            .bind(run.as_str())
            .fetch_all(&mut **transaction)
            .await
            .map_err(write)?;
    for (node, cursor, handle) in rows {
        let node = NodeId::new(node).map_err(|error| corrupt(path, error.to_string()))?;
        let sum = |kind, value: Option<String>| {
            value.map(|value| sum::of_place(run, &node, kind, &value).bytes().to_vec())
        };
        sqlx::query("update places set cursor_sum = ?, handle_sum = ? where run = ? and node = ?")
            .bind(sum("cursor", cursor))
            .bind(sum("handle", handle))
            .bind(run.as_str())
            .bind(node.as_str())
            .execute(&mut **transaction)
            .await
            .map_err(write)?;
    }
    Ok(())
}

async fn begin<'a>(
    path: &Path,
    connection: &'a mut SqliteConnection,
) -> Result<SqliteTransaction<'a>, StoreError> {
    connection.begin_with(BEGIN).await.map_err(|error| failed(path, "begin to write", error))
}

/// Moves the store's own row on, if it is still where this writer left it.
async fn replace_whole(
    path: &Path,
    transaction: &mut SqliteTransaction<'_>,
    before: &Whole,
    after: &Whole,
) -> Result<(), StoreError> {
    let write = |error| failed(path, "store what happened", error);
    let mut piece = Piece { is_usual: true, ..Piece::default() };
    move_whole(&mut piece, before, after).map_err(write)?;
    match piece.execute(transaction).await.map_err(write)?.as_slice() {
        [1] => Ok(()),
        _ => Err(StoreError::Fenced { holder: None }),
    }
}

fn move_whole(piece: &mut Piece, before: &Whole, after: &Whole) -> Result<(), Error> {
    piece.say(
        "update store set epoch = ?, generation = ?, heads_sum = ?, sum = ? where generation = ? and epoch = ?;",
    );
    piece.bind(after.epoch as i64)?;
    piece.bind(after.generation as i64)?;
    piece.bind(after.heads_sum.bytes())?;
    piece.bind(after.sum().bytes())?;
    piece.bind(before.generation as i64)?;
    piece.bind(before.epoch as i64)
}

async fn insert_head(
    path: &Path,
    transaction: &mut SqliteTransaction<'_>,
    head: &Head,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into heads (run, started_at, run_sum, facts, facts_sum, places_sum, sum)
         values (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(head.run.as_str())
    .bind(head.started_at.as_str())
    .bind(head.run_sum.bytes())
    .bind(head.facts as i64)
    .bind(head.facts_bytes())
    .bind(head.places_sum.bytes())
    .bind(head.sum().bytes())
    .execute(&mut **transaction)
    .await
    .map_err(|error| failed(path, "store a run", error))?;
    Ok(())
}

/// The write of a batch's facts: moves the store's own row on, if it is still where this writer left
/// it, then the head, then adds the facts. Each takes effect only if the one before it did: a writer
/// that was fenced changes nothing, even where all of it is one transaction with its commit.
fn facts_and_heads(
    run: &RunId,
    batch: &Batch,
    before: &Whole,
    whole: &mut Whole,
    head: &mut Head,
) -> Result<Piece, StoreError> {
    let mut rows = Vec::with_capacity(batch.facts.len());
    for stamped in &batch.facts {
        let (at, body) = (stamped.at.to_string(), json(WRITE, &stamped.fact)?);
        let sum = Sum::chain(head.facts_sum, &at, &body);
        (head.facts, head.facts_sum) = (head.facts + 1, Some(sum));
        rows.push((head.facts, at, body, sum));
    }
    whole.heads_sum.toggle(head.sum());
    whole.generation += 1;
    let mut piece = Piece { is_usual: rows.len() <= USUAL_FACTS, ..Piece::default() };
    let bound = move_whole(&mut piece, before, whole)
        .and_then(|()| move_head(&mut piece, head))
        .and_then(|()| add_facts(&mut piece, run, rows));
    bound.map_err(|error| StoreError::Failed { operation: WRITE, source: Box::new(error) })?;
    Ok(piece)
}

/// What became of it.
fn judge(path: &Path, run: &RunId, counts: &[u64]) -> Result<(), StoreError> {
    match counts {
        [1, 1, ..] => Ok(()),
        [1, ..] => Err(corrupt(path, format!("the head of run {run} is lost"))),
        _ => Err(StoreError::Fenced { holder: None }),
    }
}

fn move_head(piece: &mut Piece, head: &Head) -> Result<(), Error> {
    piece.say(
        "update heads set facts = ?, facts_sum = ?, places_sum = ?, sum = ? where run = ? and changes() = 1;",
    );
    piece.bind(head.facts as i64)?;
    piece.bind(head.facts_bytes())?;
    piece.bind(head.places_sum.bytes())?;
    piece.bind(head.sum().bytes())?;
    piece.bind(head.run.as_str())
}

/// Numbers, times, texts and sums of facts.
fn add_facts(piece: &mut Piece, run: &RunId, rows: Vec<(u64, String, String, Sum)>) -> Result<(), Error> {
    const INTO: &str = "insert into facts (run, seq, at, body, sum) select * from (values (?, ?, ?, ?, ?)";
    const DONE: &str = ") where changes() > 0;";
    let is_any = !rows.is_empty();
    for (at, (seq, time, body, sum)) in rows.into_iter().enumerate() {
        // A statement holds no more, and each has its own count of them.
        match at % MAX_FACTS_A_STATEMENT {
            0 => {
                piece.say(if at > 0 { DONE } else { "" });
                piece.say(INTO);
            }
            _ => piece.say(", (?, ?, ?, ?, ?)"),
        }
        piece.bind(run.as_str())?;
        piece.bind(seq as i64)?;
        piece.bind(time)?;
        piece.bind(body)?;
        piece.bind(sum.bytes())?;
    }
    piece.say(if is_any { DONE } else { "" });
    Ok(())
}

async fn add_places(
    path: &Path,
    transaction: &mut SqliteTransaction<'_>,
    run: &RunId,
    batch: &Batch,
    head: &mut Head,
) -> Result<(), StoreError> {
    let write = |error| failed(path, "store a node's place", error);
    for node in &batch.cleared {
        for kind in ["cursor", "handle"] {
            take_out(path, transaction, run, node, kind, head).await?;
        }
        sqlx::query("delete from places where run = ? and node = ?")
            .bind(run.as_str())
            .bind(node.as_str())
            .execute(&mut **transaction)
            .await
            .map_err(write)?;
    }
    let cursors = batch.cursors.iter().map(|(node, cursor)| (node, "cursor", cursor.to_string()));
    let handles = batch.handles.iter().map(|(node, handle)| (node, "handle", handle.clone()));
    for (node, kind, value) in cursors.chain(handles) {
        take_out(path, transaction, run, node, kind, head).await?;
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
        sqlx::query(put)
            .bind(run.as_str())
            .bind(node.as_str())
            .bind(value)
            .bind(sum.bytes())
            .execute(&mut **transaction)
            .await
            .map_err(write)?;
    }
    Ok(())
}

/// Takes what is stored out of the sum over a run's places.
async fn take_out(
    path: &Path,
    transaction: &mut SqliteTransaction<'_>,
    run: &RunId,
    node: &NodeId,
    kind: &str,
    head: &mut Head,
) -> Result<(), StoreError> {
    let select = match kind {
        "cursor" => "select cursor_sum from places where run = ? and node = ?",
        _ => "select handle_sum from places where run = ? and node = ?",
    };
    let stored: Option<Option<Vec<u8>>> = sqlx::query_scalar(select)
        .bind(run.as_str())
        .bind(node.as_str())
        .fetch_optional(&mut **transaction)
        .await
        .map_err(|error| failed(path, "read a node's place", error))?;
    if let Some(bytes) = stored.flatten() {
        let altered = || corrupt(path, format!("the {kind} of `{node}` is altered"));
        head.places_sum.toggle(Sum::read(&bytes).ok_or_else(altered)?);
    }
    Ok(())
}

async fn add_logs(
    path: &Path,
    transaction: &mut SqliteTransaction<'_>,
    run: &RunId,
    batch: &Batch,
) -> Result<(), StoreError> {
    for line in &batch.logs {
        sqlx::query("insert into logs (run, at, node, level, message) values (?, ?, ?, ?, ?)")
            .bind(run.as_str())
            .bind(line.at.to_string())
            .bind(line.node.as_str())
            .bind(level_name(line.level))
            .bind(line.message.as_str())
            .execute(&mut **transaction)
            .await
            .map_err(|error| failed(path, "store a line of a log", error))?;
    }
    Ok(())
}
