//! The schema: which migrations a file has had, and how it gets the rest. The table that remembers
//! them is the one of sqlx, with which the first versions were written.

use std::path::Path;

use rusqlite::{Connection, Error, TransactionBehavior};
use sqlx::migrate::Migrator;

use super::failed;
use crate::store::{StoreError, version};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

const MAKE_TABLE: &str = "create table if not exists _sqlx_migrations (
    version bigint primary key,
    description text not null,
    installed_on timestamp not null default current_timestamp,
    success boolean not null,
    checksum blob not null,
    execution_time bigint not null
)";

/// How many migrations the file has had; 0 in one that is new.
///
/// # Errors
/// When it is newer than this program, or is damaged.
pub(super) fn applied(path: &Path, connection: &Connection) -> Result<usize, StoreError> {
    let read = || {
        let is_new: bool =
            connection.query_row("select count(*) = 0 from sqlite_schema", [], |row| row.get(0))?;
        if is_new {
            return Ok(Vec::new());
        }
        let mut statement = connection.prepare(version::READ)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect::<Result<Vec<version::Row>, Error>>()
    };
    let rows = read().map_err(|error| failed(path, "read the version of the state", error))?;
    version::applied(path, &MIGRATIONS, &rows)
}

/// Gives the file the migrations after the first `applied`, each in a transaction of its own.
pub(super) fn migrate(path: &Path, connection: &mut Connection, applied: usize) -> Result<(), StoreError> {
    let mut write = || {
        connection.execute_batch(MAKE_TABLE)?;
        for migration in MIGRATIONS.iter().skip(applied) {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(migration.sql.as_str())?;
            transaction.execute(
                "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                 values (?, ?, true, ?, 0)",
                (migration.version, &*migration.description, &*migration.checksum),
            )?;
            transaction.commit()?;
        }
        Ok(())
    };
    write().map_err(|error| failed(path, "prepare the state", error))
}
