//! SQLite: one file a project folder, WAL, `synchronous=FULL`, readable by its owner only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use jiff::Timestamp;
use migrate_plugin_api::{LogLevel, NodeId, RunId};
use serde::de::DeserializeOwned;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, Sqlite, Transaction};

use super::fact::{Batch, LogLine, Place, RunRecord, Stamped};
use super::{Store, StoreError};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How long a writer waits for another: only a reader's checkpoint can hold it up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// One writer and a reader or two.
const MAX_CONNECTIONS: u32 = 2;

/// Bytes of the chained checksum that are kept.
const SUM_BYTES: usize = 8;

/// The store of one project.
pub(crate) struct SqliteStore {
    pool: SqlitePool,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// When it can't be made, is damaged, or is newer than this program.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).map_err(|source| open_error(path, source))?;
        let store = Self::connect(path).await?;
        store.check_whole().await?;
        MIGRATIONS.run(&store.pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                StoreError::Newer { path: path.to_owned() }
            }
            MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => StoreError::Corrupt {
                path: path.to_owned(),
                reason: format!("its schema version {version} is not what it says"),
            },
            MigrateError::Execute(error) => store.failed("prepare the state", error),
            error => open_error(path, error),
        })?;
        Ok(store)
    }

    /// Opens the store if there is one.
    ///
    /// # Errors
    /// When it is damaged or newer than this program.
    pub(crate) async fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        match path.try_exists() {
            Ok(true) => Self::open(path).await.map(Some),
            Ok(false) => Ok(None),
            Err(source) => Err(open_error(path, source)),
        }
    }

    async fn connect(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new().max_connections(MAX_CONNECTIONS).connect_with(options).await;
        match pool {
            Ok(pool) => Ok(Self { pool, path: path.to_owned() }),
            Err(error) => match damage(&error) {
                Some(reason) => Err(StoreError::Corrupt { path: path.to_owned(), reason }),
                None => Err(open_error(path, error)),
            },
        }
    }

    async fn check_whole(&self) -> Result<(), StoreError> {
        let answer: String = sqlx::query_scalar("pragma quick_check(1)")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.failed("check the state", error))?;
        if answer == "ok" { Ok(()) } else { Err(self.corrupt(answer)) }
    }

    fn failed(&self, operation: &'static str, error: sqlx::Error) -> StoreError {
        match damage(&error) {
            Some(reason) => self.corrupt(reason),
            None => StoreError::Failed { operation, source: Box::new(error) },
        }
    }

    fn corrupt(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), reason: reason.into() }
    }

    fn json<T: DeserializeOwned>(&self, text: &str, what: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|error| self.corrupt(format!("{what} can't be read: {error}")))
    }

    fn text<'r>(&self, row: &'r SqliteRow, column: &str) -> Result<&'r str, StoreError> {
        row.try_get(column).map_err(|error| self.failed("read a row of the state", error))
    }

    fn time(&self, row: &SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
        let text = self.text(row, column)?;
        text.parse().map_err(|_| self.corrupt(format!("`{text}` is no time")))
    }

    fn record(&self, row: &SqliteRow) -> Result<RunRecord, StoreError> {
        let id = self.text(row, "id")?;
        Ok(RunRecord {
            id: RunId::new(id).map_err(|error| self.corrupt(error.to_string()))?,
            workflow: self.text(row, "workflow")?.to_owned(),
            definition: self.json(self.text(row, "definition")?, &format!("the definition of run {id}"))?,
            started_at: self.time(row, "started_at")?,
        })
    }

    fn line(&self, row: &SqliteRow) -> Result<LogLine, StoreError> {
        let level = match self.text(row, "level")? {
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            other => return Err(self.corrupt(format!("`{other}` is no level of a log line"))),
        };
        Ok(LogLine {
            at: self.time(row, "at")?,
            node: NodeId::new(self.text(row, "node")?).map_err(|error| self.corrupt(error.to_string()))?,
            level,
            message: self.text(row, "message")?.to_owned(),
        })
    }

    async fn add_facts(
        &self,
        transaction: &mut Transaction<'_, Sqlite>,
        run: &RunId,
        facts: &[Stamped],
    ) -> Result<(), sqlx::Error> {
        let last: Option<(i64, Vec<u8>)> =
            sqlx::query_as("select seq, sum from facts where run = ? order by seq desc limit 1")
                .bind(run.as_str())
                .fetch_optional(&mut **transaction)
                .await?;
        let (mut seq, mut sum) = last.unwrap_or_default();
        for stamped in facts {
            let at = stamped.at.to_string();
            let body = serde_json::to_string(&stamped.fact).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
            seq += 1;
            sum = chain(&sum, &at, &body);
            sqlx::query("insert into facts (run, seq, at, body, sum) values (?, ?, ?, ?, ?)")
                .bind(run.as_str())
                .bind(seq)
                .bind(at)
                .bind(body)
                .bind(sum.clone())
                .execute(&mut **transaction)
                .await?;
        }
        Ok(())
    }

    async fn add_batch(&self, run: &RunId, batch: &Batch) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin_with("begin immediate").await?;
        self.add_facts(&mut transaction, run, &batch.facts).await?;
        for node in &batch.cleared {
            sqlx::query("delete from places where run = ? and node = ?")
                .bind(run.as_str())
                .bind(node.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        for (node, cursor) in &batch.cursors {
            sqlx::query(
                "insert into places (run, node, cursor) values (?, ?, ?)
                 on conflict (run, node) do update set cursor = excluded.cursor",
            )
            .bind(run.as_str())
            .bind(node.as_str())
            .bind(cursor.to_string())
            .execute(&mut *transaction)
            .await?;
        }
        for (node, handle) in &batch.handles {
            sqlx::query(
                "insert into places (run, node, handle) values (?, ?, ?)
                 on conflict (run, node) do update set handle = excluded.handle",
            )
            .bind(run.as_str())
            .bind(node.as_str())
            .bind(handle.as_str())
            .execute(&mut *transaction)
            .await?;
        }
        for line in &batch.logs {
            sqlx::query("insert into logs (run, at, node, level, message) values (?, ?, ?, ?, ?)")
                .bind(run.as_str())
                .bind(line.at.to_string())
                .bind(line.node.as_str())
                .bind(format!("{:?}", line.level).to_lowercase())
                .bind(line.message.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        let definition = serde_json::to_string(&run.definition)
            .map_err(|source| StoreError::Failed { operation: "write a run", source: Box::new(source) })?;
        sqlx::query("insert into runs (id, workflow, definition, started_at) values (?, ?, ?, ?)")
            .bind(run.id.as_str())
            .bind(run.workflow.as_str())
            .bind(definition)
            .bind(run.started_at.to_string())
            .execute(&self.pool)
            .await
            .map_err(|error| self.failed("store a run", error))?;
        Ok(())
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.add_batch(run, batch).await.map_err(|error| self.failed("store what happened", error))
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        let row = match id {
            Some(id) => sqlx::query("select * from runs where id = ?").bind(id.as_str()),
            None => sqlx::query("select * from runs order by started_at desc, id desc limit 1"),
        };
        let row = row.fetch_optional(&self.pool).await.map_err(|error| self.failed("read a run", error))?;
        row.map(|row| self.record(&row)).transpose()
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        let rows = sqlx::query("select * from runs order by started_at desc, id desc")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failed("read the runs", error))?;
        rows.iter().map(|row| self.record(row)).collect()
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        let rows = sqlx::query("select seq, at, body, sum from facts where run = ? order by seq")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failed("read what happened", error))?;
        let mut sum = Vec::new();
        let mut facts = Vec::with_capacity(rows.len());
        for (row, expected) in rows.iter().zip(1i64..) {
            let seq: i64 = row.try_get("seq").map_err(|error| self.failed("read a fact", error))?;
            let stored: Vec<u8> = row.try_get("sum").map_err(|error| self.failed("read a fact", error))?;
            let (at, body) = (self.text(row, "at")?, self.text(row, "body")?);
            sum = chain(&sum, at, body);
            if seq != expected || sum != stored {
                return Err(self.corrupt(format!("fact {expected} of run {run} is lost or altered")));
            }
            let fact = self.json(body, &format!("fact {seq} of run {run}"))?;
            facts.push(Stamped { at: self.time(row, "at")?, fact });
        }
        Ok(facts)
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        let rows = sqlx::query("select node, cursor, handle from places where run = ?")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failed("read the places of nodes", error))?;
        let mut places = BTreeMap::new();
        for row in &rows {
            let node =
                NodeId::new(self.text(row, "node")?).map_err(|error| self.corrupt(error.to_string()))?;
            let cursor: Option<String> =
                row.try_get("cursor").map_err(|error| self.failed("read a cursor", error))?;
            let cursor =
                cursor.map(|text| self.json(&text, &format!("the cursor of `{node}`"))).transpose()?;
            let handle = row.try_get("handle").map_err(|error| self.failed("read a handle", error))?;
            places.insert(node, Place { cursor, handle });
        }
        Ok(places)
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        let rows = sqlx::query(
            "select id, at, node, level, message from logs
             where run = ? and id > ? and (? is null or node = ?) order by id limit ?",
        )
        .bind(run.as_str())
        .bind(after)
        .bind(node.map(NodeId::as_str))
        .bind(node.map(NodeId::as_str))
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed("read the log", error))?;
        rows.iter()
            .map(|row| {
                let id = row.try_get("id").map_err(|error| self.failed("read a log line", error))?;
                Ok((id, self.line(row)?))
            })
            .collect()
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

fn chain(before: &[u8], at: &str, body: &str) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    context.update(at.as_bytes());
    context.update(b"\n");
    context.update(body.as_bytes());
    context.finish().as_ref()[..SUM_BYTES].to_vec()
}

/// What SQLite says when the file itself is wrong: SQLITE_CORRUPT (11), SQLITE_NOTADB (26), with
/// their extended codes in the higher bits.
fn damage(error: &sqlx::Error) -> Option<String> {
    let database = error.as_database_error()?;
    let code: u32 = database.code()?.parse().ok()?;
    matches!(code & 0xff, 11 | 26).then(|| database.message().to_owned())
}

fn open_error(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: Box::new(source) }
}

/// Makes the file with its final rights before SQLite writes the first byte; WAL files inherit them.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
