//! PostgreSQL: one database for a team; projects in it are kept apart by a key.
//!
//! The right to write is a lease with an epoch, in the database's own time. Every write holds the
//! lease's row and proves its epoch, so a holder that slept through the end of its lease stores nothing
//! more. `synchronous_commit` is on, whatever the server says. The URL is a secret and never shown.

mod decisions;
mod lease;
mod rows;
#[cfg(test)]
mod tests;
mod url;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use migrate_plugin_api::{IdempotencyKey, NodeId, RunId, Secret};
use sqlx::Error;
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use tokio::sync::Mutex;

use super::fact::{Batch, LogLine, Place, RunRecord, Stamped};
use super::holder::Holder;
use super::{AcquireError, Store, StoreError, version};
use crate::run::GateDecision;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// The schema in the database that is all ours.
const SCHEMA: &str = "migrate";

/// Migrations before the order of runs was kept.
const UNORDERED: usize = 3;

/// A write, a renewal and a reader.
const MAX_CONNECTIONS: u32 = 3;

/// How long a connection may take: longer than a failover's first seconds, shorter than a lease.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the database keeps a transaction whose process says nothing, in milliseconds: a few
/// round trips of a slow network, and less than a lease.
const IDLE_TIMEOUT_MS: &str = "30000";

/// The store of one project in a database.
pub(crate) struct PostgresStore {
    pool: PgPool,
    /// What is said of the database: host and name, never the URL.
    name: PathBuf,
    project: String,
    /// Whether the order of runs is kept: not in a store of an earlier version that is only read.
    ordered: bool,
    right: Mutex<Right>,
}

/// The right to write, and how far this handle has written: one write or renewal at a time.
#[derive(Default)]
struct Right {
    /// Set once it is taken.
    epoch: Option<i64>,
    /// The last write that the database has acknowledged. `None` after a commit whose end is not known:
    /// then nothing more is written.
    generation: Option<i64>,
}

impl PostgresStore {
    /// Opens the store to write to it, and migrates it if need be.
    ///
    /// # Errors
    /// When it can't be reached, or is newer than this program.
    pub(crate) async fn open(url: &Secret, project: &str) -> Result<Self, StoreError> {
        let store = Self::connect(url, project, false).await?;
        let mut connection = store.pool.acquire().await.map_err(|error| open_error(&store.name, error))?;
        if store.applied(&mut connection).await? < MIGRATIONS.iter().len() {
            migrate(&mut connection).await.map_err(|error| open_error(&store.name, error))?;
        }
        drop(connection);
        Ok(store)
    }

    /// Opens the store to read it, if there is one. Changes nothing.
    ///
    /// # Errors
    /// When it can't be reached, or is newer than this program.
    pub(crate) async fn read(url: &Secret, project: &str) -> Result<Option<Self>, StoreError> {
        let mut store = Self::connect(url, project, true).await?;
        let mut connection = store.pool.acquire().await.map_err(|error| open_error(&store.name, error))?;
        let applied = store.applied(&mut connection).await?;
        drop(connection);
        store.ordered = applied > UNORDERED;
        Ok((applied > 0).then_some(store))
    }

    async fn connect(url: &Secret, project: &str, read_only: bool) -> Result<Self, StoreError> {
        let (options, name) = url::read(url)
            .map_err(|why| open_error("the URL of the store", Error::InvalidArgument(why.to_owned())))?;
        let read_only = if read_only { "on" } else { "off" };
        let options = options.application_name("migrate").options([
            ("search_path", SCHEMA),
            ("synchronous_commit", "on"),
            ("default_transaction_read_only", read_only),
            // A holder that vanished in the middle of a write must not keep its row locked for hours.
            ("idle_in_transaction_session_timeout", IDLE_TIMEOUT_MS),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|error| open_error(&name, error))?;
        Ok(Self { pool, name, project: project.to_owned(), ordered: true, right: Mutex::default() })
    }

    /// How many migrations the database has had.
    async fn applied(&self, connection: &mut PgConnection) -> Result<usize, StoreError> {
        let read = |error| self.failed("read the version of the store", error);
        let there: bool = sqlx::query_scalar("select to_regclass('migrate._sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await
            .map_err(read)?;
        if !there {
            return Ok(0);
        }
        let rows: Vec<version::Row> =
            sqlx::query_as(version::READ).fetch_all(connection).await.map_err(read)?;
        version::applied(&self.name, &MIGRATIONS, &rows)
    }

    fn corrupt(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt { path: self.name.clone(), reason: reason.into() }
    }

    fn failed(&self, operation: &'static str, error: Error) -> StoreError {
        match error {
            Error::Decode(_) | Error::ColumnDecode { .. } | Error::ColumnNotFound(_) => {
                self.corrupt(error.to_string())
            }
            error => StoreError::Failed { operation, source: Box::new(error) },
        }
    }
}

/// Makes the schema and what is in it. One at a time: the migrator takes an advisory lock.
async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    connection.lock().await?;
    connection.create_schema_if_not_exists(SCHEMA).await?;
    // The lock counts how often it is taken.
    MIGRATIONS.run_direct(None, connection, false).await?;
    connection.unlock().await
}

fn open_error(
    name: impl Into<PathBuf>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Open { path: name.into(), source: Box::new(source) }
}

#[async_trait]
impl Store for PostgresStore {
    async fn acquire(&self, holder: &Holder) -> Result<(), AcquireError> {
        self.take_lease(holder).await
    }

    fn heartbeat(&self) -> Option<Duration> {
        Some(lease::HEARTBEAT)
    }

    async fn renew(&self) -> Result<(), StoreError> {
        self.renew_lease().await
    }

    async fn holder(&self) -> Result<Option<Holder>, StoreError> {
        self.lease_holder().await
    }

    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.add_run(run).await
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() { Ok(()) } else { self.add_batch(run, batch).await }
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        self.one_run(id).await
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.all_runs().await
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        self.facts_of(run).await
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        self.places_of(run).await
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        self.lines_of(run, node, after, limit).await
    }

    async fn decide(&self, run: &RunId, decision: &GateDecision) -> Result<Option<GateDecision>, StoreError> {
        self.add_decision(run, decision).await
    }

    async fn decision(&self, run: &RunId, key: &IdempotencyKey) -> Result<Option<GateDecision>, StoreError> {
        self.decision_of(run, key).await
    }

    async fn close(&self) {
        self.give_lease_back().await;
        self.pool.close().await;
    }
}
