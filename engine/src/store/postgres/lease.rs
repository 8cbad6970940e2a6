//! The lease: who may write, until when, in which epoch, and how often there was a write. All times
//! are the database's.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgTransaction, Row};

use super::{PostgresStore, Right};
use crate::store::holder::{Holder, Pulse};
use crate::store::{AcquireError, StoreError};

/// How long a lease lasts without being renewed: a restart of the database, or a long pause of its
/// network, must not end a migration; and whoever waits for a machine that died waits so long.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// How often it is renewed: one may be lost, and its holder stops well before the lease is over.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// A holder is said to be silent when this many heartbeats are missing.
const SILENT_BEATS: u32 = 2;

const READ: &str = "select epoch, generation, holder, expires > clock_timestamp() as valid,
    (extract(epoch from renewed) * 1000)::bigint as renewed_ms,
    (extract(epoch from clock_timestamp() - renewed) * 1000)::bigint as age_ms
    from leases where project = $1";

impl PostgresStore {
    /// Takes the lease if nobody has it, if it ran out, or if its holder is known to be dead.
    pub(super) async fn take_lease(&self, holder: &Holder) -> Result<(), AcquireError> {
        let failed = |error| self.failed("take the lease", error);
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        sqlx::query(
            "insert into leases (project, epoch, renewed, expires)
             values ($1, 0, clock_timestamp(), clock_timestamp()) on conflict do nothing",
        )
        .bind(&self.project)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        let row = sqlx::query(AssertSqlSafe(format!("{READ} for update")))
            .bind(&self.project)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if let Some(other) = self.holder_in(&row)?
            && other.pulse() != Pulse::Dead
        {
            return Err(AcquireError::Held(Box::new(other)));
        }
        let text = serde_json::to_string(holder)
            .map_err(|source| StoreError::Failed { operation: "take the lease", source: Box::new(source) })?;
        let (epoch, generation): (i64, i64) = sqlx::query_as(
            "update leases set epoch = epoch + 1, holder = $2, renewed = clock_timestamp(),
             expires = clock_timestamp() + make_interval(secs => $3) where project = $1
             returning epoch, generation",
        )
        .bind(&self.project)
        .bind(text)
        .bind(LEASE.as_secs_f64())
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        *self.right.lock().await = Right { epoch: Some(epoch), generation: Some(generation) };
        Ok(())
    }

    pub(super) async fn renew_lease(&self) -> Result<(), StoreError> {
        let failed = |error| self.failed("renew the lease", error);
        let right = self.right.lock().await;
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        self.prove(&mut transaction, &right, 0).await?;
        transaction.commit().await.map_err(failed)
    }

    /// Proves that this handle still has the lease and that its last write is there, counts `writes`
    /// more, prolongs the lease, and keeps everybody else from taking it until the transaction ends.
    pub(super) async fn prove(
        &self,
        transaction: &mut PgTransaction<'_>,
        right: &Right,
        writes: i64,
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("renew the lease", error);
        let (epoch, generation) = right.epoch.zip(right.generation).ok_or_else(|| StoreError::Failed {
            operation: "write to the store",
            source: "an earlier write failed, or the right to write was never taken".into(),
        })?;
        let updated = sqlx::query(
            "update leases set generation = generation + $5, renewed = clock_timestamp(),
             expires = clock_timestamp() + make_interval(secs => $3)
             where project = $1 and epoch = $2 and generation = $4",
        )
        .bind(&self.project)
        .bind(epoch)
        .bind(LEASE.as_secs_f64())
        .bind(generation)
        .bind(writes)
        .execute(&mut **transaction)
        .await
        .map_err(failed)?;
        if updated.rows_affected() == 1 {
            return Ok(());
        }
        let row =
            sqlx::query(READ).bind(&self.project).fetch_optional(&mut **transaction).await.map_err(failed)?;
        let Some(row) = row else { return Err(self.lost("everything of this project is")) };
        let now: i64 = row.try_get("epoch").map_err(failed)?;
        if now > epoch {
            return Err(StoreError::Fenced { holder: self.holder_in(&row)?.map(Box::new) });
        }
        let known: i64 = row.try_get("generation").map_err(failed)?;
        Err(match generation - known {
            1 => self.lost("its last write is"),
            lost if lost > 1 => self.lost(&format!("its last {lost} writes are")),
            _ => self.lost("the right to write that this process took is"),
        })
    }

    fn lost(&self, what: &str) -> StoreError {
        self.corrupt(format!(
            "{what} lost: it failed over to a copy that lagged behind, or an older backup was put back"
        ))
    }

    /// Who has the lease now.
    pub(super) async fn lease_holder(&self) -> Result<Option<Holder>, StoreError> {
        let row = sqlx::query(READ)
            .bind(&self.project)
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| self.failed("read the lease", error))?;
        row.map(|row| self.holder_in(&row)).transpose().map(Option::flatten)
    }

    /// Best effort: what is not given back runs out.
    pub(super) async fn give_lease_back(&self) {
        let Some(epoch) = self.right.lock().await.epoch.take() else { return };
        let _ = sqlx::query(
            "update leases set holder = null, expires = clock_timestamp() where project = $1 and epoch = $2",
        )
        .bind(&self.project)
        .bind(epoch)
        .execute(&self.pool)
        .await;
    }

    /// The holder in a row of leases, while its lease is valid.
    fn holder_in(&self, row: &PgRow) -> Result<Option<Holder>, StoreError> {
        let read = |error| self.failed("read the lease", error);
        let text: Option<&str> = row.try_get("holder").map_err(read)?;
        let valid: bool = row.try_get("valid").map_err(read)?;
        let Some(text) = text.filter(|_| valid) else { return Ok(None) };
        let mut holder: Holder = serde_json::from_str(text)
            .map_err(|error| self.corrupt(format!("the holder of the lease can't be read: {error}")))?;
        let age_ms: i64 = row.try_get("age_ms").map_err(read)?;
        let renewed_ms: i64 = row.try_get("renewed_ms").map_err(read)?;
        if u128::try_from(age_ms).is_ok_and(|age| age > (HEARTBEAT * SILENT_BEATS).as_millis()) {
            holder.silent_since = Timestamp::from_millisecond(renewed_ms).ok();
        }
        Ok(Some(holder))
    }
}
