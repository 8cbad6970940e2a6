//! Spans of time as people write them: `90s`, `2m`, `1h 30m`.

use std::borrow::Cow;
use std::time::Duration;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A span of time in a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(pub Duration);

/// Why a text is no span.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no span of time: write `90s`, `2m` or `1h 30m`")]
pub(crate) struct InvalidSpan(String);

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        let parsed = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
        parsed.map(Self).ok_or(InvalidSpan(text))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let signed = SignedDuration::try_from(span.0).unwrap_or(SignedDuration::MAX);
        format!("{signed:#}")
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A span of time: `90s`, `2m`, `1h 30m`." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        let read = |text: &str| serde_json::from_value::<Span>(text.into()).map(|s| s.0.as_secs());
        assert_eq!(read("90s").unwrap(), 90);
        assert_eq!(read("2m").unwrap(), 120);
        assert_eq!(read("1h 30m").unwrap(), 5400);
        assert!(read("-1s").is_err() && read("soon").is_err() && read("5").is_err());
        let text = String::from(Span(Duration::from_secs(90)));
        assert_eq!(read(&text).unwrap(), 90);
    }
}
