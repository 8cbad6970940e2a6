//! The URL of the store, which holds a password: read strictly, so that no part of it is taken for
//! something else, and shown.

use std::path::PathBuf;

use migrate_plugin_api::Secret;
use sqlx::postgres::PgConnectOptions;

/// Parameters that mean something here. The driver would ignore any other, and write it to its log.
const PARAMETERS: [&str; 13] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// How to connect, and what may be said of the database: host and name.
///
/// # Errors
/// What is wrong, without a part of the URL: a password in which `/`, `?`, `#` or `@` stands as it is
/// ends the host too early, and what follows would look like a database's name.
pub(super) fn read(url: &Secret) -> Result<(PgConnectOptions, PathBuf), &'static str> {
    let (scheme, rest) = url.expose().split_once("://").ok_or("it is no PostgreSQL URL")?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err("it is no PostgreSQL URL");
    }
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(authority);
    if after.contains('@') || authority.matches('@').count() > 1 {
        return Err(
            "its user or password has a `/`, `?`, `#` or `@` in it: write them as `%2F`, `%3F`, `%23` or `%40`",
        );
    }
    if after.contains('#') {
        return Err("it has a `#` in it: write it as `%23`");
    }
    let (path, query) = after.split_once('?').unwrap_or((after, ""));
    if path.trim_start_matches('/').contains('/') {
        return Err("the name of its database has a `/` in it: write it as `%2F`");
    }
    let mut names = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next());
    if !names.all(|name| name.is_some_and(|name| PARAMETERS.contains(&name))) {
        return Err(
            "it has an unknown parameter after its `?`; an `&` in a value is written as `%26` (see docs/design/store.md)",
        );
    }
    let options: PgConnectOptions = url.expose().parse().map_err(|_| "it is no PostgreSQL URL")?;
    let place =
        options.get_socket().map_or_else(|| options.get_host().to_owned(), |s| s.display().to_string());
    let name = PathBuf::from(format!("{place}/{}", options.get_database().unwrap_or_default()));
    Ok((options, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_password_is_taken_for_a_name() {
        // As people write them, with the password `12/hunter2` and its like not encoded.
        for url in [
            "postgresql://ada:12/hunter2@db/shop",
            "postgresql://ada:12?hunter2@db/shop",
            "postgresql://ada:12#hunter2@db/shop",
            "postgresql://ada:x@12/hunter2@db/shop",
            "postgresql://ada:x@hunter2@db/shop",
            "postgresql://db/shop?user=ada&password=x&hunter2",
            "postgresql://db/shop?user=ada&password=x#hunter2",
            "postgresql://db/shop?user=ada&pasword=hunter2",
            "postgresql://db/shop/hunter2",
            "postgresql://ada:hunter2@[db/shop",
            "ada:hunter2@db/shop",
            "hunter2://db/shop",
        ] {
            let why = read(&Secret::new(url)).map(|(_, name)| name).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn what_is_encoded_is_read_and_only_host_and_database_are_shown() {
        for (url, shown) in [
            ("postgresql://ada:12%2Fhunter2%40@db/shop", "db/shop"),
            ("postgres://db:5433/shop?user=ada&password=hunter2&sslmode=verify-full", "db/shop"),
            ("postgresql:///shop?user=ada&host=/run/postgresql", "/run/postgresql/shop"),
        ] {
            let (_, name) = read(&Secret::new(url)).unwrap();
            assert_eq!(name, PathBuf::from(shown), "{url}");
        }
    }
}
