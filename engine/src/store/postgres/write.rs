//! Writing: one transaction, in which the lease is proved first. After a commit whose end is not known
//! nothing more is written.

use migrate_plugin_api::RunId;
use sqlx::{Error, PgTransaction};

use super::{PostgresStore, Right};
use crate::store::fact::{Batch, LogLine, RunRecord, Stamped, level_name};
use crate::store::sum::Sum;
use crate::store::{StoreError, json};

impl PostgresStore {
    pub(super) async fn add_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        let failed = |error| self.failed("store a run", error);
        let mut right = self.right.lock().await;
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        self.prove(&mut transaction, &right, 1).await?;
        sqlx::query(
            "insert into runs (project, id, workflow, definition, started_at, created)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&self.project)
        .bind(run.id.as_str())
        .bind(&run.workflow)
        .bind(json("store a run", &run.definition)?)
        .bind(run.started_at.to_string())
        // What this write is, which was just proved.
        .bind(right.generation.unwrap_or_default() + 1)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        self.commit(transaction, &mut right).await.map_err(failed)
    }

    /// Ends a write.
    async fn commit(&self, transaction: PgTransaction<'_>, right: &mut Right) -> Result<(), Error> {
        let before = right.generation.take();
        transaction.commit().await?;
        right.generation = before.map(|generation| generation + 1);
        Ok(())
    }

    pub(super) async fn add_batch(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        let failed = |error| self.failed("store what happened", error);
        let mut right = self.right.lock().await;
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        self.prove(&mut transaction, &right, 1).await?;
        self.add_facts(&mut transaction, run, &batch.facts).await?;
        self.add_places(&mut transaction, run, batch).await?;
        self.add_logs(&mut transaction, run, &batch.logs).await?;
        self.commit(transaction, &mut right).await.map_err(failed)
    }

    async fn add_facts(
        &self,
        transaction: &mut PgTransaction<'_>,
        run: &RunId,
        facts: &[Stamped],
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("store what happened", error);
        let head: Option<(i64, Vec<u8>)> =
            sqlx::query_as("select facts, facts_sum from runs where project = $1 and id = $2")
                .bind(&self.project)
                .bind(run.as_str())
                .fetch_optional(&mut **transaction)
                .await
                .map_err(failed)?;
        let Some((count, end)) = head else {
            let source = format!("there is no run {run}").into();
            return Err(StoreError::Failed { operation: "store what happened", source });
        };
        if facts.is_empty() {
            return Ok(());
        }
        let mut last = Sum::read(&end);
        let (mut seqs, mut times, mut bodies, mut sums) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (stamped, seq) in facts.iter().zip(count + 1..) {
            let (at, body) = (stamped.at.to_string(), json("store what happened", &stamped.fact)?);
            let sum = Sum::chain(last, &at, &body);
            last = Some(sum);
            seqs.push(seq);
            times.push(at);
            bodies.push(body);
            sums.push(sum.bytes().to_vec());
        }
        sqlx::query(
            "insert into facts (project, run, seq, at, body, sum)
             select $1, $2, * from unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[])",
        )
        .bind(&self.project)
        .bind(run.as_str())
        .bind(seqs)
        .bind(times)
        .bind(bodies)
        .bind(sums)
        .execute(&mut **transaction)
        .await
        .map_err(failed)?;
        sqlx::query("update runs set facts = $3, facts_sum = $4 where project = $1 and id = $2")
            .bind(&self.project)
            .bind(run.as_str())
            .bind(count + facts.len() as i64)
            .bind(last.as_ref().map_or(&[][..], Sum::bytes))
            .execute(&mut **transaction)
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// All at once, however far away the database is: a renewal of the lease waits meanwhile.
    async fn add_logs(
        &self,
        transaction: &mut PgTransaction<'_>,
        run: &RunId,
        lines: &[LogLine],
    ) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        let texts = |text: fn(&LogLine) -> String| lines.iter().map(text).collect::<Vec<_>>();
        sqlx::query(
            "insert into logs (project, run, at, node, level, message)
             select $1, $2, at, node, level, message
             from unnest($3::text[], $4::text[], $5::text[], $6::text[])
             with ordinality as line (at, node, level, message, place) order by place",
        )
        .bind(&self.project)
        .bind(run.as_str())
        .bind(texts(|line| line.at.to_string()))
        .bind(texts(|line| line.node.to_string()))
        .bind(texts(|line| level_name(line.level).to_owned()))
        // The one character that PostgreSQL's text can't hold.
        .bind(texts(|line| line.message.replace('\0', "\u{fffd}")))
        .execute(&mut **transaction)
        .await
        .map_err(|error| self.failed("store what happened", error))?;
        Ok(())
    }

    async fn add_places(
        &self,
        transaction: &mut PgTransaction<'_>,
        run: &RunId,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("store a node's place", error);
        for node in &batch.cleared {
            sqlx::query("delete from places where project = $1 and run = $2 and node = $3")
                .bind(&self.project)
                .bind(run.as_str())
                .bind(node.as_str())
                .execute(&mut **transaction)
                .await
                .map_err(failed)?;
        }
        const CURSOR: &str = "insert into places (project, run, node, cursor) values ($1, $2, $3, $4)
            on conflict (project, run, node) do update set cursor = excluded.cursor";
        const HANDLE: &str = "insert into places (project, run, node, handle) values ($1, $2, $3, $4)
            on conflict (project, run, node) do update set handle = excluded.handle";
        let cursors = batch.cursors.iter().map(|(node, cursor)| (CURSOR, node, cursor.to_string()));
        let handles = batch.handles.iter().map(|(node, handle)| (HANDLE, node, handle.clone()));
        for (put, node, value) in cursors.chain(handles) {
            sqlx::query(put)
                .bind(&self.project)
                .bind(run.as_str())
                .bind(node.as_str())
                .bind(value)
                .execute(&mut **transaction)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }
}
