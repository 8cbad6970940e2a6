//! Reading: facts are checked along their chain, up to the end that their run says.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use jiff::Timestamp;
use migrate_plugin_api::{NodeId, RunId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use crate::store::chain::Chain;
use crate::store::fact::{LogLine, Place, RunRecord, Stamped, level_named};
use crate::store::sum::Sum;
use crate::store::{StoreError, time};

/// One moment for several statements.
const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// At most so many runs of a project, newest first.
const RUNS: &str = "select * from runs where project = $1
    order by created desc, started_at collate \"C\" desc, id collate \"C\" desc limit $2";

/// The same where their order is not kept yet.
const RUNS_BY_TIME: &str = "select * from runs where project = $1
    order by started_at collate \"C\" desc, id collate \"C\" desc limit $2";

impl PostgresStore {
    fn newest_first(&self) -> &'static str {
        if self.ordered { RUNS } else { RUNS_BY_TIME }
    }

    pub(super) async fn one_run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        let query = match id {
            Some(id) => sqlx::query("select * from runs where project = $1 and id = $2")
                .bind(&self.project)
                .bind(id.as_str()),
            None => sqlx::query(self.newest_first()).bind(&self.project).bind(1_i64),
        };
        let row = query.fetch_optional(&self.pool).await.map_err(|error| self.failed("read a run", error))?;
        row.map(|row| self.record(&row)).transpose()
    }

    pub(super) async fn all_runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        // `limit null`: all of them.
        let rows = sqlx::query(self.newest_first())
            .bind(&self.project)
            .bind(None::<i64>)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failed("read the runs", error))?;
        rows.iter().map(|row| self.record(row)).collect()
    }

    pub(super) async fn facts_of(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        let read = |error| self.failed("read what happened", error);
        let mut transaction = self.pool.begin_with(SNAPSHOT).await.map_err(read)?;
        let head: Option<(i64, Vec<u8>)> =
            sqlx::query_as("select facts, facts_sum from runs where project = $1 and id = $2")
                .bind(&self.project)
                .bind(run.as_str())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(read)?;
        let mut rows =
            sqlx::query("select seq, at, body, sum from facts where project = $1 and run = $2 order by seq")
                .bind(&self.project)
                .bind(run.as_str())
                .fetch(&mut *transaction);
        let mut chain = Chain::new(run);
        while let Some(row) = rows.try_next().await.map_err(read)? {
            let column = |at| row.try_get(at).map_err(read);
            let row = (row.try_get(0).map_err(read)?, column(1)?, column(2)?, row.try_get(3).map_err(read)?);
            chain.take(row).map_err(|reason| self.corrupt(reason))?;
        }
        let (facts, last) = chain.finish().map_err(|reason| self.corrupt(reason))?;
        let (count, end) = head.unwrap_or_default();
        if facts.len() as i64 != count || last.as_ref().map_or(&[][..], Sum::bytes) != end {
            return Err(self.corrupt(format!("run {run} has {} facts, and {count} were stored", facts.len())));
        }
        Ok(facts)
    }

    pub(super) async fn places_of(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        let read = |error| self.failed("read the places of nodes", error);
        let rows = sqlx::query("select node, cursor, handle from places where project = $1 and run = $2")
            .bind(&self.project)
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(read)?;
        let mut places = BTreeMap::new();
        for row in &rows {
            let node: &str = row.try_get("node").map_err(read)?;
            let node = NodeId::new(node).map_err(|error| self.corrupt(error.to_string()))?;
            let cursor: Option<&str> = row.try_get("cursor").map_err(read)?;
            let cursor = cursor
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| self.corrupt(format!("the cursor of `{node}` can't be read: {error}")))?;
            let handle: Option<String> = row.try_get("handle").map_err(read)?;
            places.insert(node, Place { cursor, handle });
        }
        Ok(places)
    }

    pub(super) async fn lines_of(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        let read = |error| self.failed("read the log", error);
        let rows = sqlx::query(
            "select id, at, node, level, message from logs where project = $1 and run = $2 and id > $3
             and ($4::text is null or node = $4) order by id limit $5",
        )
        .bind(&self.project)
        .bind(run.as_str())
        .bind(after)
        .bind(node.map(NodeId::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(read)?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in &rows {
            let node: &str = row.try_get("node").map_err(read)?;
            let level: &str = row.try_get("level").map_err(read)?;
            let unknown = || self.corrupt(format!("`{level}` is no level of a log line"));
            let line = LogLine {
                at: self.time(row.try_get("at").map_err(read)?)?,
                node: NodeId::new(node).map_err(|error| self.corrupt(error.to_string()))?,
                level: level_named(level).ok_or_else(unknown)?,
                message: row.try_get("message").map_err(read)?,
            };
            lines.push((row.try_get("id").map_err(read)?, line));
        }
        Ok(lines)
    }

    fn record(&self, row: &PgRow) -> Result<RunRecord, StoreError> {
        let read = |error| self.failed("read a run", error);
        let id: &str = row.try_get("id").map_err(read)?;
        let definition: &str = row.try_get("definition").map_err(read)?;
        Ok(RunRecord {
            id: RunId::new(id).map_err(|error| self.corrupt(error.to_string()))?,
            workflow: row.try_get("workflow").map_err(read)?,
            definition: serde_json::from_str(definition).map_err(|error| {
                self.corrupt(format!("the definition of run {id} can't be read: {error}"))
            })?,
            started_at: self.time(row.try_get("started_at").map_err(read)?)?,
        })
    }

    fn time(&self, text: &str) -> Result<Timestamp, StoreError> {
        time(text).map_err(|reason| self.corrupt(reason))
    }
}
