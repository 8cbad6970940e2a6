//! Rows of a PostgreSQL database: counted and summed in one snapshot, independent of their order.
//!
//! Invariants: SQL goes in by stdin; names are quoted; nothing is written. The sum adds a 64-bit hash
//! of every row as text, with all settings that change how values are written fixed, so that equal
//! sums and counts mean equal rows, whatever the server's configuration.

use migrate_plugin_api::{StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exec::Container;

/// A line a table; a database with more tables than fit is compared in parts.
const OUTPUT_BYTES: usize = 16 * 1024 * 1024;

/// The last line that psql prints: a script or an answer that was cut off lacks it.
const END: &str = "-- whole --";

/// What psql prints first: the server that was read, wherever `PGHOST` led. Every role may ask for it.
const SERVER: &str = "server|";

/// Which tables to compare.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Rows {
    /// The pod's namespace, the same on both sides.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; the pod's only one where not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The database.
    pub database: String,
    /// The role; it must be able to read the tables.
    pub user: String,
    /// `orders` or `schema.orders`; default: all tables of the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Table {
    /// As configured, or `schema.table`.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Sum of the rows' hashes.
    pub checksum: String,
}

/// What one side holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When the server started, to the microsecond: it tells servers apart. Their `system_identifier` doesn't,
    /// since a restore of its files keeps it.
    pub server: String,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// `psql` without the user's settings, without a prompt, stopping at the first error.
///
/// # Errors
/// `Permanent` when `database` is no name but a connection string, which could lead elsewhere.
pub(crate) fn psql(database: &str, user: &str) -> Result<Vec<String>, StepError> {
    if database.is_empty() || database.contains(['=', '/']) {
        return Err(StepError::permanent(format!("`{database}` is no database name")));
    }
    let options = ["psql", "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"];
    let place = [format!("--username={user}"), format!("--dbname={database}")];
    Ok(options.map(str::to_owned).into_iter().chain(place).collect())
}

/// Reads all tables of one side.
///
/// # Errors
/// `Permanent` with psql's words when it fails, and what the container's commands can fail with.
pub(crate) async fn read(
    ctx: &StepContext,
    container: &Container,
    rows: &Rows,
) -> Result<Reading, StepError> {
    let command = psql(&rows.database, &rows.user)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let script = script(&rows.tables)?;
    let (stdout, ended) = container.output(ctx, &command, Some(script.as_bytes()), OUTPUT_BYTES).await?;
    let place = format!("database {} in {}", rows.database, container.describe());
    if ended.code != 0 {
        let message = format!("failed to read {place}: psql ended with {}: {}", ended.code, ended.stderr);
        // 2: the connection failed, which passes while a server starts.
        return Err(if ended.code == 2 {
            StepError::transient(message)
        } else {
            StepError::permanent(message)
        });
    }
    let stdout = String::from_utf8_lossy(&stdout);
    let Some(lines) = whole(&stdout) else {
        return Err(StepError::transient(format!("the answer of {place} was cut off")));
    };
    parse(lines)
        .ok_or_else(|| StepError::permanent(format!("failed to understand what psql says of {place}")))
}

/// Everything in one snapshot, so that counts and sums belong together. Row security is off, which
/// makes rows that the role may not see an error instead of leaving them out. A row is `t.*`: a bare
/// `t` would be the column of that name where a table has one.
fn script(tables: &[String]) -> Result<String, StepError> {
    let mut script = String::from(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n\
         SET LOCAL statement_timeout = 0;\n\
         SET LOCAL row_security = off;\n\
         SET LOCAL timezone = 'UTC';\n\
         SET LOCAL datestyle = 'ISO, YMD';\n\
         SET LOCAL intervalstyle = 'iso_8601';\n\
         SET LOCAL extra_float_digits = 3;\n\
         SET LOCAL bytea_output = 'hex';\n\
         SET LOCAL lc_monetary = 'C';\n\
         SET LOCAL quote_all_identifiers = off;\n",
    );
    script.push_str(&format!("SELECT '{SERVER}' || pg_postmaster_start_time();\n"));
    for table in tables {
        let (from, name) = (quoted_table(table)?, literal(table));
        script.push_str(&format!(
            "SELECT count(*) || '|' || coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0) || '|' || {name} \
             FROM {from} AS t;\n"
        ));
    }
    if tables.is_empty() {
        script.push_str(
            "SELECT format('SELECT count(*) || ''|'' || coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0) \
             || ''|'' || %L FROM %I.%I AS t', n.nspname || '.' || c.relname, n.nspname, c.relname) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' \
             AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' \
             ORDER BY 1 \\gexec\n",
        );
    }
    script.push_str(&format!("COMMIT;\n\\echo '{END}'\n"));
    Ok(script)
}

/// `"schema"."table"`. Names are taken as they are written: `Orders` is not `orders`.
fn quoted_table(table: &str) -> Result<String, StepError> {
    let parts: Vec<&str> = table.split('.').collect();
    let is_fine =
        parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && !part.contains(['\0', '\n']));
    if !is_fine {
        return Err(StepError::permanent(format!("`{table}` is no table: write `table` or `schema.table`")));
    }
    Ok(parts.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join("."))
}

fn literal(text: &str) -> String {
    // Backslashes are literal in standard strings; psql's own variables (`:name`) aren't replaced in quotes.
    format!("'{}'", text.replace('\'', "''"))
}

/// What stands before [`END`].
fn whole(text: &str) -> Option<&str> {
    text.trim_end().strip_suffix(END).filter(|lines| lines.is_empty() || lines.ends_with('\n'))
}

fn parse(text: &str) -> Option<Reading> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let server = lines.next()?.strip_prefix(SERVER)?.to_owned();
    let tables: Option<Vec<Table>> = lines
        .map(|line| {
            let mut parts = line.splitn(3, '|');
            let (rows, checksum, table) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Table { table: table.to_owned(), rows: rows.parse().ok()?, checksum: checksum.to_owned() })
        })
        .collect();
    Some(Reading { server, tables: tables? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_break_out() {
        assert_eq!(quoted_table("orders").unwrap(), r#""orders""#);
        assert_eq!(quoted_table("sales.Orders").unwrap(), r#""sales"."Orders""#);
        assert_eq!(quoted_table(r#"a"; drop table b; --"#).unwrap(), r#""a""; drop table b; --""#);
        assert!(quoted_table("a.b.c").is_err() && quoted_table("").is_err() && quoted_table("a.").is_err());
        assert_eq!(literal("it's"), "'it''s'");
        assert!(psql("host=evil dbname=a", "u").is_err() && psql("postgres://evil/a", "u").is_err());
    }

    #[test]
    fn the_script_reads_one_snapshot() {
        insta::assert_snapshot!(script(&["orders".to_owned()]).unwrap());
    }

    #[test]
    fn what_psql_prints_is_read() {
        let server = "server|2026-11-24 10:02:11.123456+00\n";
        let reading =
            parse(&format!("{server}200000|-12345678901234567890|orders\n\n0|0|odd|name\n")).unwrap();
        let Reading { server: started, tables } = reading;
        assert_eq!(started, "2026-11-24 10:02:11.123456+00");
        assert_eq!(
            tables[0],
            Table { table: "orders".into(), rows: 200_000, checksum: "-12345678901234567890".into() }
        );
        assert_eq!(tables[1].table, "odd|name");
        assert!(parse(server).unwrap().tables.is_empty());
        for odd in ["", "ERROR", "1|2|orders\n", &format!("{server}ERROR")] {
            assert!(parse(odd).is_none(), "{odd:?}");
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        assert_eq!(whole("1|2|orders\n-- whole --\n"), Some("1|2|orders\n"));
        assert_eq!(whole("-- whole --\n"), Some(""));
        for cut in ["", "1|2|orders\n", "1|2|ord", "1|2|orders\n-- who", "1|2|odd -- whole --\n"] {
            assert_eq!(whole(cut), None, "{cut:?}");
        }
    }
}
