//! What a service answered, judged by what its author expects.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};
use jiff::Timestamp;
use migrate_plugin_api::{Check, ErrorClass, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest wait that a service may ask for; a node's own `timeout` is usually shorter.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// So much of a value or of a refusal is shown.
const SHOWN_CHARS: usize = 200;

/// What an answer must be.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Expect {
    /// Statuses that mean success; default: 200 to 299
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// Values in the answer, each by its JSON Pointer: `{ "/state" = "ready" }`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, Value>,
}

/// An answer that was read.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The request: `GET https://shop.example/healthz`.
    pub name: String,
    pub status: StatusCode,
    /// Without secrets, and not all of it if `is_cut`.
    pub text: String,
    pub is_cut: bool,
    pub wait: Option<Duration>,
}

impl Answer {
    /// Null where it is no JSON.
    pub(super) fn json(&self) -> Value {
        if self.is_cut { Value::Null } else { serde_json::from_str(&self.text).unwrap_or_default() }
    }

    fn has_status(&self, expect: &Expect) -> bool {
        if expect.status.is_empty() {
            self.status.is_success()
        } else {
            expect.status.contains(&self.status.as_u16())
        }
    }

    /// What was compared.
    pub(super) fn checks(&self, expect: &Expect) -> Vec<Check> {
        let found = self.status.as_u16().to_string();
        let expected = if self.has_status(expect) {
            found.clone()
        } else if expect.status.is_empty() {
            "200 to 299".to_owned()
        } else {
            expect.status.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
        };
        let mut checks = vec![Check::equal(&self.name, "status", expected, found)];
        let json = self.json();
        for (pointer, expected) in &expect.json {
            let found = json.pointer(pointer).map_or_else(|| "nothing".to_owned(), shown);
            checks.push(Check::equal(&self.name, format!("JSON at {pointer}"), shown(expected), found));
        }
        checks
    }

    /// Why the answer is none about the resource: the service is busy, or doesn't know us.
    pub(super) fn unusable(&self, expect: &Expect) -> Option<StepError> {
        let refusal = (!self.has_status(expect)).then(|| self.refusal())?;
        (refusal.class.is_retryable() || refusal.class == ErrorClass::Auth).then_some(refusal)
    }

    /// # Errors
    /// What the status means where it is another than expected. A value that is another one is
    /// `Transient` for who only reads (`is_read`): it may come.
    pub(super) fn judge(&self, expect: &Expect, is_read: bool) -> Result<(), StepError> {
        if !self.has_status(expect) {
            return Err(self.refusal());
        }
        let is_other = |check: &Check| check.what != "status" && check.source != check.target;
        let Some(other) = self.checks(expect).into_iter().find(is_other) else { return Ok(()) };
        let (name, Check { what, source, target, .. }) = (&self.name, other);
        let message = format!("the answer to `{name}` has {target}, not {source}, as {what}");
        let error = if is_read { StepError::transient(message) } else { StepError::permanent(message) };
        Err(match self.is_cut {
            true => error.with_hint("the answer is too long to be read as JSON"),
            false => error,
        })
    }

    fn refusal(&self) -> StepError {
        let mut message = format!("`{}` was answered with {}", self.name, self.status);
        let words = one_line(&self.text);
        if !words.is_empty() {
            message = format!("{message}: {words}");
        }
        let retry_after_ms = self.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let class = match self.status.as_u16() {
            401 | 403 | 407 => ErrorClass::Auth,
            409 | 412 => ErrorClass::Conflict,
            408 | 425 | 500 | 502 | 503 | 504 => ErrorClass::Transient { retry_after_ms },
            429 => ErrorClass::Throttled { retry_after_ms },
            _ => ErrorClass::Permanent,
        };
        StepError::new(class, message)
    }
}

fn shown(value: &Value) -> String {
    one_line(&value.to_string())
}

fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    wait(text, Timestamp::now())
}

fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            // A date that has passed asks for no wait.
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, text: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        let name = "GET https://shop.example/".to_owned();
        Answer { name, status, text: text.to_owned(), is_cut: false, wait: Some(Duration::from_secs(7)) }
    }

    fn expect(value: Value) -> Expect {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_wait_is_read_in_both_forms() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        let seconds = |text| wait(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:48:37 GMT"), Some(0));
        assert_eq!(seconds("99999999"), Some(3600));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn statuses_have_their_classes() {
        let class = |status| answer(status, "").judge(&Expect::default(), true).map_err(|e| e.class);
        let wait = Some(7000);
        assert_eq!(class(204), Ok(()));
        assert_eq!(class(302), Err(ErrorClass::Permanent));
        assert_eq!(class(401), Err(ErrorClass::Auth));
        assert_eq!(class(409), Err(ErrorClass::Conflict));
        assert_eq!(class(422), Err(ErrorClass::Permanent));
        assert_eq!(class(429), Err(ErrorClass::Throttled { retry_after_ms: wait }));
        assert_eq!(class(503), Err(ErrorClass::Transient { retry_after_ms: wait }));
        assert_eq!(class(501), Err(ErrorClass::Permanent));
    }

    #[test]
    fn expected_values_are_compared_and_named() {
        let ready = expect(json!({ "status": [200], "json": { "/state": "ready", "/pods/0": 3 } }));
        assert!(answer(200, r#"{"state":"ready","pods":[3]}"#).judge(&ready, true).is_ok());
        let early = answer(200, r#"{"state":"starting","pods":[3]}"#);
        let read = early.judge(&ready, true).unwrap_err();
        assert!(read.class.is_retryable());
        assert!(!early.judge(&ready, false).unwrap_err().class.is_retryable());
        let messages = [
            read.message,
            answer(200, "no JSON").judge(&ready, true).unwrap_err().message,
            answer(404, "no\nsuch thing").judge(&ready, true).unwrap_err().message,
        ];
        insta::assert_snapshot!(messages.join("\n"), @r#"
        the answer to `GET https://shop.example/` has "starting", not "ready", as JSON at /state
        the answer to `GET https://shop.example/` has nothing, not 3, as JSON at /pods/0
        `GET https://shop.example/` was answered with 404 Not Found: no such thing
        "#);
    }
}
