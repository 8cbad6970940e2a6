//! Secrets are passed as references and resolved at the moment of use. A reference may be
//! stored and shown; a resolved [`Secret`] may not, and its type makes that hard.

use std::borrow::Cow;
use std::fmt;

use async_trait::async_trait;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::StepError;

/// References that something outside of the engine resolves: see [`SecretProvider`].
const PROVIDED: [&str; 1] = ["keyvault"];

/// The `format` of a field in a JSON Schema that takes a reference. A sensitive parameter may stand
/// in such a field and in no other.
pub const SECRET_FORMAT: &str = "secret-reference";

/// Where a secret is: `env:NAME`, `file:PATH`, `exec:COMMAND` or `keyvault:VAULT/NAME`. Paths and
/// commands start in the project folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// An environment variable of the `migrate` process.
    Env(String),
    /// A file; one trailing line break is not part of the secret.
    File(String),
    /// A program and its arguments, without a shell, whose standard output is the secret; one trailing
    /// line break is not part of it. Written as words, `exec:pass show shop/db`, or as a JSON array,
    /// `exec:["pass", "show", "shop db"]`.
    Exec(Vec<String>),
    /// Somewhere that only its provider knows.
    Provided {
        /// The word before the colon.
        scheme: String,
        /// What follows it.
        place: String,
    },
}

/// Why a string is no secret reference. Never repeats the string: it may be the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretRef {
    /// It begins with nothing that is known.
    #[error(
        "not a secret reference: write `env:NAME`, `file:PATH`, `exec:COMMAND` or `keyvault:VAULT/NAME`, \
         never the secret itself"
    )]
    Unknown,
    /// A command that a shell would be needed for, or none.
    #[error(
        "not a command: write plain words, as in `exec:pass show shop/db`, or an array without a shell, as in \
         `exec:[\"pass\", \"show\", \"shop db\"]`"
    )]
    Command,
}

impl TryFrom<String> for SecretRef {
    type Error = InvalidSecretRef;

    fn try_from(value: String) -> Result<Self, InvalidSecretRef> {
        let (scheme, place) = value.split_once(':').ok_or(InvalidSecretRef::Unknown)?;
        match scheme {
            "exec" => words(place).map(Self::Exec).ok_or(InvalidSecretRef::Command),
            _ if place.is_empty() => Err(InvalidSecretRef::Unknown),
            "env" => Ok(Self::Env(place.to_owned())),
            "file" => Ok(Self::File(place.to_owned())),
            _ if PROVIDED.contains(&scheme) => {
                Ok(Self::Provided { scheme: scheme.to_owned(), place: place.to_owned() })
            }
            _ => Err(InvalidSecretRef::Unknown),
        }
    }
}

/// The words of a command.
fn words(command: &str) -> Option<Vec<String>> {
    let command = command.trim();
    let words: Vec<String> = if command.starts_with('[') {
        serde_json::from_str(command).ok()?
    } else {
        command.split_ascii_whitespace().map(ToOwned::to_owned).collect()
    };
    let is_array = command.starts_with('[');
    let fits = |word: &String| is_array || is_plain(word);
    let is_program = words.first().is_some_and(|program| !program.is_empty());
    (is_program && words.iter().all(fits)).then_some(words)
}

/// Whether a word means the same to every shell and to none.
fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,^".contains(c);
    !word.is_empty() && word.chars().all(plain)
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> String {
        reference.to_string()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Exec(words) if words.iter().all(|word| is_plain(word)) => {
                write!(f, "exec:{}", words.join(" "))
            }
            Self::Exec(words) => write!(f, "exec:{}", serde_json::Value::from(words.clone())),
            Self::Provided { scheme, place } => write!(f, "{scheme}:{place}"),
        }
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": SECRET_FORMAT,
            "pattern": "^(env|file|exec|keyvault):.+",
            "description": "A secret's place: `env:NAME`, `file:PATH`, `exec:COMMAND` or `keyvault:VAULT/NAME`."
        })
    }
}

/// Resolves the references of one kind that the engine itself knows nothing of. It keeps no secret
/// longer than it must, and shows none in an error.
#[async_trait]
pub trait SecretProvider: Send + Sync {
    /// The word before the colon: `keyvault`.
    fn scheme(&self) -> &'static str;

    /// The secret at `place`, which is what follows the colon.
    ///
    /// # Errors
    /// `Auth` when it is not there or may not be read; another class when asking again may help.
    async fn secret(&self, place: &str) -> Result<Secret, StepError>;
}

/// A resolved secret. `Debug` shows no part of it, and it cannot be serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, to hand to the service that needs it and to nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `text`, at most its first `limit` bytes, with `mask` in the place of each of `secrets`.
///
/// One that begins within the limit is hidden whole, where `text` has its end: read as far beyond a limit as
/// the longest of them is long. Those that lie over one another are hidden as one.
pub fn hide_secrets<'s>(
    text: &str,
    secrets: impl IntoIterator<Item = &'s str>,
    mask: &str,
    limit: usize,
) -> String {
    let places = |secret: &'s str| text.match_indices(secret).map(|(at, found)| (at, at + found.len()));
    let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
    let mut places: Vec<(usize, usize)> = secrets.flat_map(places).filter(|(at, _)| *at < limit).collect();
    places.sort_unstable();
    let (mut hidden, mut at) = (String::with_capacity(text.len().min(limit)), 0);
    for (start, end) in places {
        if start >= at {
            hidden.push_str(&text[at..start]);
            hidden.push_str(mask);
        }
        at = at.max(end);
    }
    let end = text.floor_char_boundary(limit);
    hidden.push_str(text.get(at..end).unwrap_or_default());
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reference_is_not_shown() {
        let error = serde_json::from_str::<SecretRef>("\"hunter2\"").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn a_secret_is_hidden_whole_wherever_the_text_is_cut() {
        let hide = |text: &str, limit| hide_secrets(text, ["hunter2-secret", "secret-3", ""], "***", limit);
        let all = usize::MAX;
        assert_eq!(hide("a hunter2-secret, secret-3secret-3 b", all), "a ***, ****** b");
        assert_eq!(hide("no secret", all), "no secret");
        // One over the other.
        assert_eq!(hide("a hunter2-secret-3 b", all), "a *** b");
        // The first makes room, into which nothing of the second may come.
        let text = "hunter2-secret hunter2-secret hunter2-sec";
        assert_eq!(hide(text, 27), "*** ***");
        for limit in 0..text.len() - "hunter2-sec".len() {
            let shown = hide(text, limit);
            assert!(!shown.contains('h') && shown.len() <= limit + 3, "{limit}: {shown}");
        }
        assert_eq!(hide("äöü", 3), "ä");
    }

    #[test]
    fn references_are_read_and_written_the_same() {
        let words = |words: &[&str]| SecretRef::Exec(words.iter().map(|word| (*word).to_owned()).collect());
        for (text, reference) in [
            ("env:A:B", SecretRef::Env("A:B".to_owned())),
            ("exec:pass show shop/db", words(&["pass", "show", "shop/db"])),
            ("exec:[\"pass\",\"\",\"$HOME | x\"]", words(&["pass", "", "$HOME | x"])),
            (
                "keyvault:https://v.vault.azure.net/db",
                SecretRef::Provided {
                    scheme: "keyvault".to_owned(),
                    place: "https://v.vault.azure.net/db".to_owned(),
                },
            ),
        ] {
            assert_eq!(SecretRef::try_from(text.to_owned()), Ok(reference.clone()));
            assert_eq!(reference.to_string(), text);
        }
        assert_eq!(SecretRef::try_from("exec:  a   b ".to_owned()), Ok(words(&["a", "b"])));
    }

    #[test]
    fn what_needs_a_shell_or_is_nothing_is_no_reference() {
        for text in ["hunter2", "vault:x", "env:", "keyvault:", ":x"] {
            assert_eq!(SecretRef::try_from(text.to_owned()), Err(InvalidSecretRef::Unknown), "{text}");
        }
        for text in
            ["", " ", "cat x | head", "echo $X", "a 'b c'", "a > b", "~/a", "[]", "[\"\"]", "[1]", "[\"a\""]
        {
            let text = format!("exec:{text}");
            assert_eq!(SecretRef::try_from(text.clone()), Err(InvalidSecretRef::Command), "{text}");
        }
    }
}
