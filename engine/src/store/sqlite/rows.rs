//! Reading: every row is checked against its sum, and every set of rows against its head.

use std::collections::BTreeMap;
use std::path::Path;

use futures::TryStreamExt;
use jiff::Timestamp;
use migrate_plugin_api::{NodeId, RunId};
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Error, Row};

use super::{corrupt, failed};
use crate::store::chain::Chain;
use crate::store::fact::{LogLine, Place, RunRecord, Stamped, level_named};
use crate::store::sum::{self, Head, Sum, Whole};
use crate::store::{StoreError, time};

/// A connection, and what is needed to read from it.
pub(super) struct Rows<'a> {
    pub path: &'a Path,
    pub connection: &'a mut SqliteConnection,
    /// Whether there are heads to check against.
    pub headed: bool,
}

impl Rows<'_> {
    /// The store's own row, checked with all heads; `None` if it has none yet.
    pub(super) async fn whole(&mut self) -> Result<Option<Whole>, StoreError> {
        Ok(self.whole_and_heads().await?.map(|(whole, _)| whole))
    }

    /// The same, and the heads.
    pub(super) async fn whole_and_heads(
        &mut self,
    ) -> Result<Option<(Whole, BTreeMap<String, Head>)>, StoreError> {
        let path = self.path;
        let read = |error| failed(path, "read the state's own row", error);
        // One snapshot for both.
        let mut transaction = self.connection.begin().await.map_err(read)?;
        let row = sqlx::query("select id, epoch, generation, heads_sum, sum from store")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(read)?;
        let heads = sqlx::query("select * from heads").fetch_all(&mut *transaction).await.map_err(read)?;
        transaction.rollback().await.map_err(read)?;
        let reader = Reader { path };
        let Some(row) = row else {
            return if heads.is_empty() { Ok(None) } else { Err(corrupt(path, "its own row is lost")) };
        };
        let whole = Whole {
            id: reader.text(&row, "id")?.to_owned(),
            epoch: reader.count(&row, "epoch")?,
            generation: reader.count(&row, "generation")?,
            heads_sum: reader.sum(&row, "heads_sum")?,
        };
        if whole.sum() != reader.sum(&row, "sum")? {
            return Err(corrupt(path, "its own row is altered"));
        }
        let mut all = Sum::default();
        let mut known = BTreeMap::new();
        for row in &heads {
            let head = reader.head(row)?;
            all.toggle(head.sum());
            known.insert(head.run.clone(), head);
        }
        if all != whole.heads_sum {
            return Err(corrupt(path, "a run is lost, or an old state of one is in it"));
        }
        Ok(Some((whole, known)))
    }

    pub(super) async fn run(&mut self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        let path = self.path;
        let read = |error| failed(path, "read a run", error);
        // The newest by what the heads say, which are covered by sums; then the run they name.
        let newest = if self.headed {
            "select run from heads order by started_at desc, run desc limit 1"
        } else {
            "select id from runs order by started_at desc, id desc limit 1"
        };
        let mut transaction = self.connection.begin().await.map_err(read)?;
        let id: Option<String> = match id {
            Some(id) => Some(id.to_string()),
            None => sqlx::query_scalar(newest).fetch_optional(&mut *transaction).await.map_err(read)?,
        };
        let Some(id) = id else { return Ok(None) };
        let row = sqlx::query("select * from runs where id = ?")
            .bind(&id)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(read)?;
        let head = if self.headed { head_of(path, &mut transaction, &id).await? } else { None };
        let reader = Reader { path };
        match (row, head) {
            (None, None) => Ok(None),
            (Some(row), None) if !self.headed => reader.record(&row, None).map(Some),
            (Some(row), Some(head)) => reader.record(&row, Some(&head)).map(Some),
            (None, Some(_)) | (Some(_), None) => Err(corrupt(path, format!("run {id} is half lost"))),
        }
    }

    pub(super) async fn runs(&mut self) -> Result<Vec<RunRecord>, StoreError> {
        let path = self.path;
        let heads = if self.headed { self.whole_and_heads().await? } else { None };
        let rows = sqlx::query("select * from runs order by started_at desc, id desc")
            .fetch_all(&mut *self.connection)
            .await
            .map_err(|error| failed(path, "read the runs", error))?;
        let reader = Reader { path };
        let Some((_, heads)) = heads else {
            return rows.iter().map(|row| reader.record(row, None)).collect();
        };
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            // A run that a writer added meanwhile is none of this reading.
            if let Some(head) = heads.get(reader.text(row, "id")?) {
                records.push(reader.record(row, Some(head))?);
            }
        }
        if records.len() != heads.len() {
            return Err(corrupt(path, "a run is half lost"));
        }
        Ok(records)
    }

    pub(super) async fn facts(&mut self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        let path = self.path;
        let read = |error| failed(path, "read what happened", error);
        let mut transaction = self.connection.begin().await.map_err(read)?;
        let head = if self.headed { head_of(path, &mut transaction, run.as_str()).await? } else { None };
        let (facts, last) = facts_of(path, &mut transaction, run).await?;
        if self.headed {
            let expected = head.map_or((0, None), |head| (head.facts, head.facts_sum));
            if (facts.len() as u64, last) != expected {
                let lost = format!("run {run} has {} facts, and {} were stored", facts.len(), expected.0);
                return Err(corrupt(path, lost));
            }
        }
        Ok(facts)
    }

    pub(super) async fn places(&mut self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        let path = self.path;
        let read = |error| failed(path, "read the places of nodes", error);
        let mut transaction = self.connection.begin().await.map_err(read)?;
        let head = if self.headed { head_of(path, &mut transaction, run.as_str()).await? } else { None };
        let (places, sums) = places_of(path, &mut transaction, run).await?;
        if self.headed && sums != head.map_or_else(Sum::default, |head| head.places_sum) {
            return Err(corrupt(path, format!("a cursor or a handle of run {run} is lost or altered")));
        }
        Ok(places)
    }

    pub(super) async fn logs(
        &mut self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        let path = self.path;
        let read = |error| failed(path, "read the log", error);
        let rows = sqlx::query(
            "select id, at, node, level, message from logs
             where run = ? and id > ? and (? is null or node = ?) order by id limit ?",
        )
        .bind(run.as_str())
        .bind(after)
        .bind(node.map(NodeId::as_str))
        .bind(node.map(NodeId::as_str))
        .bind(limit)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(read)?;
        let reader = Reader { path };
        rows.iter().map(|row| Ok((row.try_get("id").map_err(read)?, reader.line(row)?))).collect()
    }
}

/// The head of a run, checked by itself.
pub(super) async fn head_of(
    path: &Path,
    connection: &mut SqliteConnection,
    run: &str,
) -> Result<Option<Head>, StoreError> {
    let row = sqlx::query("select * from heads where run = ?")
        .bind(run)
        .fetch_optional(connection)
        .await
        .map_err(|error| failed(path, "read a run", error))?;
    row.map(|row| Reader { path }.head(&row)).transpose()
}

/// The facts of a run, checked along their chain, and its last link.
pub(super) async fn facts_of(
    path: &Path,
    connection: &mut SqliteConnection,
    run: &RunId,
) -> Result<(Vec<Stamped>, Option<Sum>), StoreError> {
    let read = |error| failed(path, "read what happened", error);
    let mut rows = sqlx::query("select seq, at, body, sum from facts where run = ? order by seq")
        .bind(run.as_str())
        .fetch(connection);
    let mut chain = Chain::default();
    while let Some(row) = rows.try_next().await.map_err(read)? {
        let column = |at| row.try_get(at).map_err(read);
        let row = (row.try_get(0).map_err(read)?, column(1)?, column(2)?, row.try_get(3).map_err(read)?);
        chain.take(run, row).map_err(|reason| corrupt(path, reason))?;
    }
    Ok((chain.facts, chain.last))
}

/// The places of a run, and the sum over them.
pub(super) async fn places_of(
    path: &Path,
    connection: &mut SqliteConnection,
    run: &RunId,
) -> Result<(BTreeMap<NodeId, Place>, Sum), StoreError> {
    let reader = Reader { path };
    let read = |error| failed(path, "read the places of nodes", error);
    let rows = sqlx::query("select node, cursor, handle from places where run = ?")
        .bind(run.as_str())
        .fetch_all(connection)
        .await
        .map_err(read)?;
    let mut places = BTreeMap::new();
    let mut sums = Sum::default();
    for row in &rows {
        let node =
            NodeId::new(reader.text(row, "node")?).map_err(|error| corrupt(path, error.to_string()))?;
        let cursor: Option<&str> = row.try_get("cursor").map_err(read)?;
        let handle: Option<&str> = row.try_get("handle").map_err(read)?;
        for (kind, value) in [("cursor", cursor), ("handle", handle)] {
            if let Some(value) = value {
                sums.toggle(sum::of_place(run, &node, kind, value));
            }
        }
        let what = || format!("the cursor of `{node}`");
        let cursor = cursor.map(|text| reader.json(text, what)).transpose()?;
        places.insert(node, Place { cursor, handle: handle.map(ToOwned::to_owned) });
    }
    Ok((places, sums))
}

/// Takes rows apart.
struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn read<T>(&self, value: Result<T, Error>) -> Result<T, StoreError> {
        value.map_err(|error| failed(self.path, "read a row of the state", error))
    }

    fn text<'r>(&self, row: &'r SqliteRow, column: &str) -> Result<&'r str, StoreError> {
        self.read(row.try_get(column))
    }

    fn count(&self, row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
        let value: i64 = self.read(row.try_get(column))?;
        u64::try_from(value).map_err(|_| corrupt(self.path, format!("{column} is {value}")))
    }

    fn sum(&self, row: &SqliteRow, column: &str) -> Result<Sum, StoreError> {
        let bytes: &[u8] = self.read(row.try_get(column))?;
        Sum::read(bytes).ok_or_else(|| corrupt(self.path, format!("{column} is no checksum")))
    }

    fn head(&self, row: &SqliteRow) -> Result<Head, StoreError> {
        let facts_sum: &[u8] = self.read(row.try_get("facts_sum"))?;
        let head = Head {
            run: self.text(row, "run")?.to_owned(),
            started_at: self.text(row, "started_at")?.to_owned(),
            run_sum: self.sum(row, "run_sum")?,
            facts: self.count(row, "facts")?,
            facts_sum: if facts_sum.is_empty() { None } else { Some(self.sum(row, "facts_sum")?) },
            places_sum: self.sum(row, "places_sum")?,
        };
        if head.sum() == self.sum(row, "sum")? {
            Ok(head)
        } else {
            Err(corrupt(self.path, format!("the head of run {} is altered", head.run)))
        }
    }

    fn line(&self, row: &SqliteRow) -> Result<LogLine, StoreError> {
        let (node, level) = (self.text(row, "node")?, self.text(row, "level")?);
        let unknown = || corrupt(self.path, format!("`{level}` is no level of a log line"));
        Ok(LogLine {
            at: self.time(self.text(row, "at")?)?,
            node: NodeId::new(node).map_err(|error| corrupt(self.path, error.to_string()))?,
            level: level_named(level).ok_or_else(unknown)?,
            message: self.text(row, "message")?.to_owned(),
        })
    }

    fn record(&self, row: &SqliteRow, head: Option<&Head>) -> Result<RunRecord, StoreError> {
        let (id, workflow) = (self.text(row, "id")?, self.text(row, "workflow")?);
        let (definition, started_at) = (self.text(row, "definition")?, self.text(row, "started_at")?);
        let now = sum::of_run(id, workflow, definition, started_at);
        if head.is_some_and(|head| head.run_sum != now || head.run != id) {
            return Err(corrupt(self.path, format!("run {id} is altered")));
        }
        Ok(RunRecord {
            id: RunId::new(id).map_err(|error| corrupt(self.path, error.to_string()))?,
            workflow: workflow.to_owned(),
            definition: self.json(definition, || format!("the definition of run {id}"))?,
            started_at: self.time(started_at)?,
        })
    }

    fn json<T: DeserializeOwned>(&self, text: &str, what: impl FnOnce() -> String) -> Result<T, StoreError> {
        serde_json::from_str(text)
            .map_err(|error| corrupt(self.path, format!("{} can't be read: {error}", what())))
    }

    fn time(&self, text: &str) -> Result<Timestamp, StoreError> {
        time(text).map_err(|reason| corrupt(self.path, reason))
    }
}
