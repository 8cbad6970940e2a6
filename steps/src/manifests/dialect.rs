//! Manifests as `kubectl` reads them: plain scalars of YAML 1.1 as what YAML 1.2 calls them. Pure.
//!
//! Goes by the resolver that `kubectl`, `helm` and the API server read with:
//! <https://github.com/kubernetes-sigs/yaml/blob/master/goyaml.v2/resolve.go>. A merge key, which YAML 1.2 has not, is
//! refused, since a reader that doesn't know it takes it for a field.

use std::borrow::Cow;

use granit_parser::{Event, Parser, ScalarStyle};

/// Why a text can't be read so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialectError {
    /// It is no YAML.
    #[error("line {line}, column {column}: {reason}")]
    Invalid {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The parser's words.
        reason: String,
    },
    /// `<<: *base`.
    #[error(
        "line {line}: `<<` merges a map into another, which is not done here: write out what it merges (`kubectl create \
         --dry-run=client -o yaml -f FILE` does)"
    )]
    Merge {
        /// From 1.
        line: usize,
    },
}

/// `text` with each plain scalar that YAML 1.2 reads otherwise replaced by what it is to `kubectl`: `0755` by `493`, `yes`
/// by `true`, `1_000` by `1000`. Lines stay where they are.
///
/// # Errors
/// See [`DialectError`].
pub(crate) fn as_kubectl_reads(text: &str) -> Result<Cow<'_, str>, DialectError> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_.+-<".contains(c);
    let is_in_question = |word: &str| word.ends_with(MERGE) || other_meaning(word).is_some();
    // Most texts have no such word: they need no second reader.
    if !text.split(|c| !is_word(c)).any(is_in_question) {
        return Ok(Cow::Borrowed(text));
    }
    let mut options = granit_parser::options! { emit_anchor_events: false };
    options.set_emit_comments(false);
    let mut places = Places::default();
    let (mut read, mut done) = (String::with_capacity(text.len()), 0);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| DialectError::Invalid {
            line: e.marker().line(),
            column: e.marker().col() + 1,
            reason: e.info(),
        })?;
        let is_key = places.take(&event);
        let Event::Scalar(word, ScalarStyle::Plain, _, None) = event else { continue };
        if is_key && word == MERGE {
            return Err(DialectError::Merge { line: span.start.line() });
        }
        let range = span.byte_range().unwrap_or_default();
        if let Some(meaning) = other_meaning(&word)
            && text.get(range.clone()) == Some(&*word)
        {
            read.push_str(&text[done..range.start]);
            read.push_str(&meaning);
            done = range.end;
        }
    }
    read.push_str(&text[done..]);
    Ok(Cow::Owned(read))
}

const MERGE: &str = "<<";

/// What a plain scalar is to `kubectl`, where it is something else in YAML 1.2.
fn other_meaning(word: &str) -> Option<String> {
    match word {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some("true".to_owned()),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some("false".to_owned()),
        _ => {}
    }
    if !word.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c)) {
        return None;
    }
    let plain = word.replace('_', "");
    let (sign, digits) = match plain.strip_prefix(['+', '-']) {
        Some(digits) => (if plain.starts_with('-') { "-" } else { "" }, digits),
        None => ("", plain.as_str()),
    };
    let is_padded = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    let is_capital = digits.starts_with("0X") || digits.starts_with("0O") || digits.starts_with("0B");
    if plain.len() == word.len() && !is_padded && !is_capital {
        return None;
    }
    let number = integer(digits).or_else(|| float(digits))?;
    Some(if number == "0" { number } else { format!("{sign}{number}") })
}

/// As Go's `strconv.ParseInt(digits, 0, 64)` has it, or `ParseUint`.
fn integer(digits: &str) -> Option<String> {
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        _ if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let number =
        digits.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| u64::from_str_radix(digits, radix));
    number?.ok().map(|number| number.to_string())
}

/// As that resolver's `yamlStyleFloat` has it.
fn float(digits: &str) -> Option<String> {
    let is_float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let number: f64 = is_float.then(|| digits.parse().ok())??;
    number.is_finite().then(|| number.to_string())
}

/// Where in lists and maps the reader is.
#[derive(Default)]
struct Places(Vec<Place>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    List,
    Key,
    Value,
}

impl Places {
    /// Whether what begins with `event`, or is it, is a key.
    fn take(&mut self, event: &Event<'_>) -> bool {
        let opened = match event {
            Event::MappingStart(..) => Some(Place::Key),
            Event::SequenceStart(..) => Some(Place::List),
            Event::Scalar(..) | Event::Alias(_) => None,
            Event::MappingEnd | Event::SequenceEnd => {
                self.0.pop();
                return false;
            }
            _ => return false,
        };
        let is_key = self.0.last() == Some(&Place::Key);
        if let Some(place) = self.0.last_mut() {
            *place = match place {
                Place::Key => Place::Value,
                Place::Value => Place::Key,
                Place::List => Place::List,
            };
        }
        self.0.extend(opened);
        is_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_they_are_to_kubectl() {
        for (word, meaning) in [
            ("0755", "493"),
            ("-0644", "-420"),
            ("00", "0"),
            ("089", "89"),
            ("1_000", "1000"),
            ("+1_0", "10"),
            ("0X1f", "31"),
            ("0x_1F", "31"),
            ("1_0.5", "10.5"),
            ("2024_01_31", "20240131"),
            ("yes", "true"),
            ("Off", "false"),
            ("y", "true"),
            ("N", "false"),
        ] {
            assert_eq!(other_meaning(word).as_deref(), Some(meaning), "{word}");
        }
        let same = "0 0x1F 0o14 0b11 1e3 01.5 .5 1:30 2001-01-01 true ~ yEs nO a_1 1_a 0xg 0_8_ _1 - + 10.0.0.1 1.2.3";
        // `0_8_` is no octal, and so decimal.
        for word in same.split(' ').filter(|word| *word != "0_8_") {
            assert_eq!(other_meaning(word), None, "{word}");
        }
        assert_eq!(other_meaning("0_8_").as_deref(), Some("8"));
    }

    #[test]
    fn what_is_quoted_tagged_or_in_a_text_stays() {
        let text =
            "a: 'yes' # on\nb: \"0755\"\nc: !!str no\nd: |\n  yes\n  0755\ne: say yes\nf: [x-on, 0755m]\n";
        assert_eq!(as_kubectl_reads(text).unwrap(), text);
        let text = "on: [no, {mode: 0755, x: 'on'}]\nü: &a yes # no\nb: *a\n---\n- off\n";
        let read = "true: [false, {mode: 493, x: 'on'}]\nü: &a true # no\nb: *a\n---\n- false\n";
        assert_eq!(as_kubectl_reads(text).unwrap(), read);
    }

    #[test]
    fn a_merge_key_is_refused_with_its_line() {
        let error = as_kubectl_reads("base: &base {a: 1}\nweb:\n  <<: *base\n").unwrap_err();
        assert!(matches!(error, DialectError::Merge { line: 3 }), "{error}");
        for text in ["a: <<\n", "- <<\n", "'<<': 1\n", "a: |\n  cat <<EOF\n"] {
            assert_eq!(as_kubectl_reads(text).unwrap(), text);
        }
        assert!(matches!(as_kubectl_reads("a: [yes").unwrap_err(), DialectError::Invalid { .. }));
    }
}
