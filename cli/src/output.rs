//! stdout: data for people or, with `--json`, for programs. Every JSON document, and every line of
//! a stream of them, is an object with `version` and `type`; see `docs/json.md`.

use std::io::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Version of the documents whose own form has none.
const VERSION: u32 = 1;

/// Whether somebody still reads stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    There,
    /// As `head` when it has enough, which is no failure.
    Gone,
}

/// Prints text for people: what would steer their terminal is shown as such.
///
/// # Errors
/// When stdout can't take it.
pub fn print(text: &str) -> Result<Reader, Failure> {
    print_document(&harmless(text))
}

/// Prints a document as it is.
///
/// # Errors
/// When stdout can't take it.
pub fn print_document(text: &str) -> Result<Reader, Failure> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::Stdout(error)),
    }
}

/// Prints a JSON object on one line. What has a `type` and a `version` of its own keeps them.
///
/// # Errors
/// When stdout can't take it.
pub fn print_json(kind: &str, body: &impl Serialize) -> Result<Reader, Failure> {
    let body = serde_json::to_value(body).map_err(|e| Failure::Stdout(e.into()))?;
    print_document(&format!("{}\n", document(kind, body)))
}

/// `text` with all control characters but ends of lines and tabs shown as such. What pods, services and
/// plugins say comes from whoever runs there: it must not be able to write over what we say.
pub fn harmless(text: &str) -> String {
    let steers = |(at, c): (usize, char)| match c {
        '\n' | '\t' => false,
        // In front of its end it leaves the line as it is.
        '\r' => !text[at + 1..].starts_with('\n'),
        c => c.is_control(),
    };
    text.char_indices().map(|(at, c)| if steers((at, c)) { char::REPLACEMENT_CHARACTER } else { c }).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        let hostile = "ü\x1b[2K\x1b[1A\rrun: done\u{9b}2J\x07\x7f\n\tnext\r\n";
        assert_eq!(
            harmless(hostile),
            "ü\u{fffd}[2K\u{fffd}[1A\u{fffd}run: done\u{fffd}2J\u{fffd}\u{fffd}\n\tnext\r\n"
        );
    }
}
