//! Reading: every row is checked against its sum, and every set of rows against its head.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use migrate_plugin_api::{NodeId, RunId};
use rusqlite::{Connection, Error, Params, Row, RowIndex, params};
use serde::de::DeserializeOwned;

use super::{corrupt, failed};
use crate::store::chain::Chain;
use crate::store::fact::{LogLine, Place, RunRecord, Stamped, level_named};
use crate::store::sum::{self, Head, Sum, Whole};
use crate::store::{StoreError, time};

/// The heads of all runs.
pub(super) type Heads = BTreeMap<String, Head>;

/// A connection, and what is needed to read from it.
pub(super) struct Rows<'a> {
    pub path: &'a Path,
    pub connection: &'a mut Connection,
    /// Whether there are heads to check against.
    pub headed: bool,
}

impl Rows<'_> {
    /// The store's own row, checked with all heads; `None` if it has none yet.
    pub(super) fn whole(&mut self) -> Result<Option<Whole>, StoreError> {
        Ok(self.whole_and_heads()?.map(|(whole, _)| whole))
    }

    /// The same, and the heads.
    pub(super) fn whole_and_heads(&mut self) -> Result<Option<(Whole, Heads)>, StoreError> {
        let path = self.path;
        let reader = Reader { path, operation: "read the state's own row" };
        // One snapshot for both.
        let transaction = reader.ok(self.connection.transaction())?;
        let own = "select id, epoch, generation, heads_sum, sum from store";
        let own = reader.one(&transaction, own, [], |row| {
            let whole = Whole {
                id: reader.text(row, "id")?.to_owned(),
                epoch: reader.count(row, "epoch")?,
                generation: reader.count(row, "generation")?,
                heads_sum: reader.sum(row, "heads_sum")?,
            };
            Ok((whole, reader.sum(row, "sum")?))
        })?;
        let heads = reader.all(&transaction, "select * from heads", [], |row| reader.head(row))?;
        let Some((whole, sum)) = own else {
            return if heads.is_empty() { Ok(None) } else { Err(corrupt(path, "its own row is lost")) };
        };
        if whole.sum() != sum {
            return Err(corrupt(path, "its own row is altered"));
        }
        let mut all = Sum::default();
        heads.iter().for_each(|head| all.toggle(head.sum()));
        if all != whole.heads_sum {
            return Err(corrupt(path, "a run is lost, or an old state of one is in it"));
        }
        Ok(Some((whole, heads.into_iter().map(|head| (head.run.clone(), head)).collect())))
    }

    pub(super) fn run(&mut self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        let path = self.path;
        let reader = Reader { path, operation: "read a run" };
        let newest = "select id from runs order by started_at desc, id desc limit 1";
        let transaction = reader.ok(self.connection.transaction())?;
        let id = match id {
            Some(id) => Some(id.to_string()),
            // The newest by what the heads say, which are covered by sums; then the run they name.
            None if self.headed => {
                let heads = reader.all(&transaction, "select * from heads", [], |row| reader.head(row))?;
                heads.into_iter().max_by(|one, other| one.age().cmp(&other.age())).map(|head| head.run)
            }
            None => reader.one(&transaction, newest, [], |row| Ok(reader.text(row, 0)?.to_owned()))?,
        };
        let Some(id) = id else { return Ok(None) };
        let head = if self.headed { head_of(path, &transaction, &id)? } else { None };
        let record = reader.one(&transaction, "select * from runs where id = ?", [&id], |row| {
            reader.record(row, head.as_ref())
        })?;
        match (record, head) {
            (None, None) => Ok(None),
            (Some(record), None) if !self.headed => Ok(Some(record)),
            (Some(record), Some(_)) => Ok(Some(record)),
            (None, Some(_)) | (Some(_), None) => Err(corrupt(path, format!("run {id} is half lost"))),
        }
    }

    pub(super) fn runs(&mut self) -> Result<Vec<RunRecord>, StoreError> {
        let path = self.path;
        let reader = Reader { path, operation: "read the runs" };
        let heads = if self.headed { self.whole_and_heads()? } else { None };
        let all = "select * from runs order by started_at desc, id desc";
        let Some((_, heads)) = heads else {
            return reader.all(self.connection, all, [], |row| reader.record(row, None));
        };
        // A run that a writer added meanwhile is none of this reading.
        let records = reader.all(self.connection, all, [], |row| {
            let head = heads.get(reader.text(row, "id")?);
            head.map(|head| reader.record(row, Some(head))).transpose()
        })?;
        let mut records: Vec<RunRecord> = records.into_iter().flatten().collect();
        if records.len() != heads.len() {
            return Err(corrupt(path, "a run is half lost"));
        }
        let age = |record: &RunRecord| heads.get(record.id.as_str()).map(Head::age);
        records.sort_by(|one, other| age(other).cmp(&age(one)));
        Ok(records)
    }

    pub(super) fn facts(&mut self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        let path = self.path;
        let reader = Reader { path, operation: "read what happened" };
        let transaction = reader.ok(self.connection.transaction())?;
        let head = if self.headed { head_of(path, &transaction, run.as_str())? } else { None };
        let (facts, last) = facts_of(path, &transaction, run)?;
        if self.headed {
            let expected = head.map_or((0, None), |head| (head.facts, head.facts_sum));
            if (facts.len() as u64, last) != expected {
                let lost = format!("run {run} has {} facts, and {} were stored", facts.len(), expected.0);
                return Err(corrupt(path, lost));
            }
        }
        Ok(facts)
    }

    pub(super) fn places(&mut self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        let path = self.path;
        let reader = Reader { path, operation: "read the places of nodes" };
        let transaction = reader.ok(self.connection.transaction())?;
        let head = if self.headed { head_of(path, &transaction, run.as_str())? } else { None };
        let (places, sums) = places_of(path, &transaction, run)?;
        if self.headed && sums != head.map_or_else(Sum::default, |head| head.places_sum) {
            return Err(corrupt(path, format!("a cursor or a handle of run {run} is lost or altered")));
        }
        Ok(places)
    }

    pub(super) fn logs(
        &mut self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        let reader = Reader { path: self.path, operation: "read the log" };
        let node = node.map(NodeId::as_str);
        reader.all(
            self.connection,
            "select id, at, node, level, message from logs
             where run = ? and id > ? and (?3 is null or node = ?3) order by id limit ?",
            params![run.as_str(), after, node, limit],
            |row| Ok((reader.ok(row.get("id"))?, reader.line(row)?)),
        )
    }
}

/// The head of a run, checked by itself.
pub(super) fn head_of(path: &Path, connection: &Connection, run: &str) -> Result<Option<Head>, StoreError> {
    let reader = Reader { path, operation: "read a run" };
    reader.one(connection, "select * from heads where run = ?", [run], |row| reader.head(row))
}

/// The facts of a run, checked along their chain, and its last link.
pub(super) fn facts_of(
    path: &Path,
    connection: &Connection,
    run: &RunId,
) -> Result<(Vec<Stamped>, Option<Sum>), StoreError> {
    let reader = Reader { path, operation: "read what happened" };
    let select = "select seq, at, body, sum from facts where run = ? order by seq";
    let mut chain = Chain::new(run);
    reader.each(connection, select, [run.as_str()], |row| {
        let row = (reader.ok(row.get(0))?, reader.text(row, 1)?, reader.text(row, 2)?, reader.bytes(row, 3)?);
        chain.take(row).map_err(|reason| corrupt(path, reason))
    })?;
    chain.finish().map_err(|reason| corrupt(path, reason))
}

/// The places of a run, and the sum over them.
pub(super) fn places_of(
    path: &Path,
    connection: &Connection,
    run: &RunId,
) -> Result<(BTreeMap<NodeId, Place>, Sum), StoreError> {
    let reader = Reader { path, operation: "read the places of nodes" };
    let mut places = BTreeMap::new();
    let mut sums = Sum::default();
    reader.each(
        connection,
        "select node, cursor, handle from places where run = ?",
        [run.as_str()],
        |row| {
            let node = NodeId::new(reader.text(row, 0)?).map_err(|error| corrupt(path, error.to_string()))?;
            let (cursor, handle) = (reader.optional(row, 1)?, reader.optional(row, 2)?);
            for (kind, value) in [("cursor", cursor), ("handle", handle)] {
                if let Some(value) = value {
                    sums.toggle(sum::of_place(run, &node, kind, value));
                }
            }
            let what = || format!("the cursor of `{node}`");
            let cursor = cursor.map(|text| reader.json(text, what)).transpose()?;
            places.insert(node, Place { cursor, handle: handle.map(ToOwned::to_owned) });
            Ok(())
        },
    )?;
    Ok((places, sums))
}

/// Asks for rows and takes them apart.
struct Reader<'a> {
    path: &'a Path,
    /// What it is for, should it fail.
    operation: &'static str,
}

impl Reader<'_> {
    fn ok<T>(&self, value: Result<T, Error>) -> Result<T, StoreError> {
        value.map_err(|error| failed(self.path, self.operation, error))
    }

    /// Calls `take` with each row.
    fn each(
        &self,
        connection: &Connection,
        select: &str,
        with: impl Params,
        mut take: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.ok(connection.prepare_cached(select))?;
        let mut rows = self.ok(statement.query(with))?;
        while let Some(row) = self.ok(rows.next())? {
            take(row)?;
        }
        Ok(())
    }

    fn all<T>(
        &self,
        connection: &Connection,
        select: &str,
        with: impl Params,
        take: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        self.each(connection, select, with, |row| {
            all.push(take(row)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The one row that there may be.
    fn one<T>(
        &self,
        connection: &Connection,
        select: &str,
        with: impl Params,
        take: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(connection, select, with, take)?.pop())
    }

    fn text<'r>(&self, row: &'r Row<'_>, column: impl RowIndex) -> Result<&'r str, StoreError> {
        self.ok(row.get_ref(column).and_then(|value| Ok(value.as_str()?)))
    }

    fn optional<'r>(&self, row: &'r Row<'_>, column: usize) -> Result<Option<&'r str>, StoreError> {
        self.ok(row.get_ref(column).and_then(|value| Ok(value.as_str_or_null()?)))
    }

    fn bytes<'r>(&self, row: &'r Row<'_>, column: impl RowIndex) -> Result<&'r [u8], StoreError> {
        self.ok(row.get_ref(column).and_then(|value| Ok(value.as_blob()?)))
    }

    fn count(&self, row: &Row<'_>, column: &str) -> Result<u64, StoreError> {
        let value: i64 = self.ok(row.get(column))?;
        u64::try_from(value).map_err(|_| corrupt(self.path, format!("{column} is {value}")))
    }

    fn sum(&self, row: &Row<'_>, column: &str) -> Result<Sum, StoreError> {
        let bytes = self.bytes(row, column)?;
        Sum::read(bytes).ok_or_else(|| corrupt(self.path, format!("{column} is no checksum")))
    }

    fn head(&self, row: &Row<'_>) -> Result<Head, StoreError> {
        let facts_sum = self.bytes(row, "facts_sum")?;
        let head = Head {
            run: self.text(row, "run")?.to_owned(),
            started_at: self.text(row, "started_at")?.to_owned(),
            created: self.created(row)?,
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

    /// A reader may be before the first writer that keeps it.
    fn created(&self, row: &Row<'_>) -> Result<u64, StoreError> {
        match row.get_ref("created") {
            Err(Error::InvalidColumnName(_)) => Ok(0),
            _ => self.count(row, "created"),
        }
    }

    fn line(&self, row: &Row<'_>) -> Result<LogLine, StoreError> {
        let (node, level) = (self.text(row, "node")?, self.text(row, "level")?);
        let unknown = || corrupt(self.path, format!("`{level}` is no level of a log line"));
        Ok(LogLine {
            at: self.time(self.text(row, "at")?)?,
            node: NodeId::new(node).map_err(|error| corrupt(self.path, error.to_string()))?,
            level: level_named(level).ok_or_else(unknown)?,
            message: self.text(row, "message")?.to_owned(),
        })
    }

    fn record(&self, row: &Row<'_>, head: Option<&Head>) -> Result<RunRecord, StoreError> {
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
