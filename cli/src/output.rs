//! stdout: data for people or, with `--json`, for programs. Every JSON document, and every line of
//! a stream of them, is an object with `version` and `type`; see `docs/json.md`.

use std::io::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Version of the documents whose own form has none.
const VERSION: u32 = 1;

/// Prints text. That a reader goes away before the end, as `head` does, is no failure.
///
/// # Errors
/// When stdout can't take it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Stdout(error)),
        _ => Ok(()),
    }
}

/// Prints a JSON object on one line. What has a `type` and a `version` of its own keeps them.
///
/// # Errors
/// When stdout can't take it.
pub fn print_json(kind: &str, body: &impl Serialize) -> Result<(), Failure> {
    let body = serde_json::to_value(body).map_err(|e| Failure::Stdout(e.into()))?;
    print(&format!("{}\n", document(kind, body)))
}

fn document(kind: &str, body: Value) -> Value {
    let mut whole =
        Map::from_iter([("version".to_owned(), VERSION.into()), ("type".to_owned(), Value::from(kind))]);
    match body {
        Value::Object(fields) => whole.extend(fields),
        other => drop(whole.insert("value".to_owned(), other)),
    }
    Value::Object(whole)
}
