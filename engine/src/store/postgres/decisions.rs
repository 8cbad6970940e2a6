//! Decisions: a table that anybody may add to, without the lease, and nobody changes.

use migrate_plugin_api::{IdempotencyKey, RunId};
use sqlx::{Connection, PgConnection};

use super::{MIGRATIONS, PostgresStore, migrate, open_error};
use crate::run::GateDecision;
use crate::store::{StoreError, json};

/// PostgreSQL's code for a table that isn't there.
const UNDEFINED_TABLE: &str = "42P01";

impl PostgresStore {
    pub(super) async fn add_decision(
        &self,
        run: &RunId,
        decision: &GateDecision,
    ) -> Result<Option<GateDecision>, StoreError> {
        let failed = |error| self.failed("store the decision", error);
        // Of its own, because those of a reader don't write.
        let mut connection = self.pool.acquire().await.map_err(failed)?.detach();
        let added = self.add_with(&mut connection, run, decision).await;
        // What was committed stays, however the connection ends.
        let _ = connection.close().await;
        if added? { Ok(None) } else { self.decision_of(run, &decision.key).await }
    }

    /// Whether it is the first.
    async fn add_with(
        &self,
        connection: &mut PgConnection,
        run: &RunId,
        decision: &GateDecision,
    ) -> Result<bool, StoreError> {
        let failed = |error| self.failed("store the decision", error);
        sqlx::query("set default_transaction_read_only = off")
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        if self.applied(connection).await? < MIGRATIONS.iter().len() {
            migrate(connection).await.map_err(|error| open_error(&self.name, error))?;
        }
        let added = sqlx::query(
            "insert into decisions (project, run, key, body) values ($1, $2, $3, $4) on conflict do nothing",
        )
        .bind(&self.project)
        .bind(run.as_str())
        .bind(decision.key.as_str())
        .bind(json("store the decision", decision)?)
        .execute(connection)
        .await
        .map_err(failed)?;
        Ok(added.rows_affected() == 1)
    }

    pub(super) async fn decision_of(
        &self,
        run: &RunId,
        key: &IdempotencyKey,
    ) -> Result<Option<GateDecision>, StoreError> {
        let body: Result<Option<String>, sqlx::Error> =
            sqlx::query_scalar("select body from decisions where project = $1 and run = $2 and key = $3")
                .bind(&self.project)
                .bind(run.as_str())
                .bind(key.as_str())
                .fetch_optional(&self.pool)
                .await;
        let body = match body {
            Ok(body) => body,
            // A store of an earlier version, which is only read.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => None,
            Err(error) => return Err(self.failed("read the decision", error)),
        };
        body.map(|body| serde_json::from_str(&body))
            .transpose()
            .map_err(|error| self.corrupt(format!("the decision about `{key}` can't be read: {error}")))
    }
}
