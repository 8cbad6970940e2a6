//! Which migrations a store has had, checked by one rule for all stores.

use std::path::Path;

use sqlx::migrate::Migrator;

use super::StoreError;

/// What sqlx remembers of the migrations, in their order.
pub(super) const READ: &str = "select version, success, checksum from _sqlx_migrations order by version";

/// A row of [`READ`].
pub(super) type Row = (i64, bool, Vec<u8>);

/// How many migrations the store at `place` has had: the first ones of `known`, as they are there.
///
/// # Errors
/// When it is newer than this program, or its migrations are not what they say.
pub(super) fn applied(place: &Path, known: &Migrator, rows: &[Row]) -> Result<usize, StoreError> {
    let mut migrations = known.iter();
    for ((version, success, checksum), expected) in rows.iter().zip(1..) {
        let is_known = migrations.next().is_none_or(|migration| *migration.checksum == **checksum);
        if *version != expected || !success || !is_known {
            let reason = format!("its schema version {version} is not what it says");
            return Err(StoreError::Corrupt { path: place.to_owned(), reason });
        }
    }
    if rows.len() > known.iter().len() {
        return Err(StoreError::Newer { path: place.to_owned() });
    }
    Ok(rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    static KNOWN: Migrator = sqlx::migrate!("migrations/sqlite");

    #[test]
    fn only_the_first_migrations_as_they_are_known_are_taken() {
        let good = |count: usize| -> Vec<Row> {
            let known = KNOWN.iter().take(count);
            known.map(|migration| (migration.version, true, migration.checksum.to_vec())).collect()
        };
        let take = |rows: &[Row]| applied(Path::new("db"), &KNOWN, rows);
        assert!((0..=3).all(|count| take(&good(count)).unwrap() == count));
        let with = |change: fn(&mut Vec<Row>)| {
            let mut rows = good(3);
            change(&mut rows);
            take(&rows).unwrap_err()
        };
        let later = with(|rows| rows.push((4, true, Vec::new())));
        assert!(matches!(later, StoreError::Newer { .. }));
        for error in [
            with(|rows| rows[1].2[0] ^= 1),
            with(|rows| rows[1].1 = false),
            with(|rows| drop(rows.remove(0))),
            with(|rows| rows.push((9, true, Vec::new()))),
        ] {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        }
    }
}
