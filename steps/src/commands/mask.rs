//! Takes secrets out of text that comes back from whom they were given to.

use std::collections::BTreeSet;

use migrate_plugin_api::{Secret, hide_secrets};
use serde_json::Value;

/// What stands in a secret's place.
const MASK: &str = "********";

/// A line of a longer secret (a key file) is masked by itself from this length on; shorter ones are
/// ordinary words.
const MIN_LINE_CHARS: usize = 8;

/// Which characters a writer of JSON spells as `\uXXXX`, beside those that it must.
type Escaped = fn(char) -> bool;

/// Whether Go's writer does, and those of others that care for HTML.
const OF_HTML: Escaped = |c| "&<>\u{2028}\u{2029}".contains(c);

/// Whether Python's and PHP's do.
const BEYOND_ASCII: Escaped = |c| !matches!(c, ' '..='~');

/// What the common writers do.
const WRITERS: [Escaped; 6] = [
    |_| false,
    OF_HTML,
    BEYOND_ASCII,
    |c| OF_HTML(c) || BEYOND_ASCII(c),
    // Gson's.
    |c| OF_HTML(c) || "='".contains(c),
    // .NET's.
    |c| OF_HTML(c) || BEYOND_ASCII(c) || "'\"+`".contains(c),
];

/// `text` as writers of JSON spell it, without the quotes around it; most texts have one spelling.
fn spellings(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for escaped in WRITERS {
        for (is_upper, is_slash_escaped) in [(false, false), (false, true), (true, false), (true, true)] {
            all.insert(text.chars().map(|c| spelt(c, escaped, is_upper, is_slash_escaped)).collect());
        }
    }
    all
}

fn spelt(c: char, escaped: Escaped, is_upper: bool, is_slash_escaped: bool) -> String {
    let short = match c {
        '"' if escaped(c) => None,
        '"' | '\\' => Some(c),
        '/' => is_slash_escaped.then_some(c),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        _ => None,
    };
    match short {
        Some(short) => format!("\\{short}"),
        None if c < ' ' || escaped(c) => {
            let spell = |unit: &u16| match is_upper {
                true => format!("\\u{unit:04X}"),
                false => format!("\\u{unit:04x}"),
            };
            c.encode_utf16(&mut [0; 2]).iter().map(spell).collect()
        }
        None => c.to_string(),
    }
}

/// The secrets of one node.
#[derive(Default)]
pub(super) struct Mask {
    hidden: Vec<String>,
}

impl Mask {
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut hidden: Vec<String> = Vec::new();
        for secret in secrets {
            let whole = secret.expose().trim();
            hidden.extend((!whole.is_empty()).then(|| whole.to_owned()));
            let lines = whole.lines().map(str::trim).filter(|line| line.chars().count() >= MIN_LINE_CHARS);
            hidden.extend(lines.map(str::to_owned));
        }
        // As they stand in JSON, of which there may be a part only.
        let in_json: Vec<String> = hidden.iter().flat_map(|text| spellings(text)).collect();
        hidden.extend(in_json);
        hidden.sort();
        hidden.dedup();
        Self { hidden }
    }

    /// At most `limit` bytes of `text` without a secret or a part of one, and whether that is not all of it.
    /// Of what is longer, there must be [`margin_bytes`](Self::margin_bytes) more than the limit.
    pub(super) fn cut(&self, text: &str, limit: usize) -> (String, bool) {
        let mut shown = hide_secrets(text, self.hidden.iter().map(String::as_str), MASK, limit);
        let is_cut = text.len() > limit || shown.len() > limit;
        shown.truncate(shown.floor_char_boundary(limit));
        (shown, is_cut)
    }

    /// `text` itself, or, where it is JSON that says a secret in any of JSON's spellings, the same without it.
    pub(super) fn read(&self, text: String) -> String {
        let Ok(mut value) = serde_json::from_str(&text) else { return text };
        if self.hide(&mut value) { value.to_string() } else { text }
    }

    /// Takes the secrets out of all texts and names in `value`; whether there was one.
    fn hide(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => self.hide_in(text),
            Value::Array(items) => items.iter_mut().fold(false, |found, item| self.hide(item) | found),
            Value::Object(fields) => {
                let mut found = false;
                let shown = std::mem::take(fields).into_iter().map(|(mut name, mut value)| {
                    found |= self.hide_in(&mut name) | self.hide(&mut value);
                    (name, value)
                });
                *fields = shown.collect();
                found
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn hide_in(&self, text: &mut String) -> bool {
        let (shown, _) = self.cut(text, usize::MAX);
        let found = shown != *text;
        *text = shown;
        found
    }

    /// How much must be read beyond a limit, so that no secret is cut in two by it.
    pub(super) fn margin_bytes(&self) -> usize {
        self.hidden.iter().map(String::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_whole_and_line_by_line() {
        let (short, key) = (Secret::new("s3"), Secret::new("-----BEGIN-----\nQUJDREVGRw==\nok\n"));
        let mask = Mask::new([&short, &key, &Secret::new("s3cret"), &Secret::new("")]);
        let (shown, is_cut) = mask.cut("a s3cret, s3 and QUJDREVGRw== ok", 100);
        assert_eq!((shown.as_str(), is_cut), ("a ********, ******** and ******** ok", false));
        assert_eq!(mask.margin_bytes(), r"-----BEGIN-----\nQUJDREVGRw\u003d\u003d\nok".len());
    }

    #[test]
    fn secrets_are_masked_in_every_spelling_of_json() {
        let mask = Mask::new([&Secret::new("ca\"na/ry=é")]);
        for spelt in [r#"ca\"na/ry=é"#, r#"ca\"na\/ry=é"#, r#"ca\u0022na/ry\u003d\u00e9"#] {
            let text = format!(r#"{{"t":["a {spelt} b"],"{spelt}":1,"n":2}}"#);
            let shown = mask.read(mask.cut(&text, 1_000).0);
            assert_eq!(shown, r#"{"t":["a ******** b"],"********":1,"n":2}"#);
        }
        // What can't be read as a whole.
        let part = r#"{"a":"ca\"na\/ry=é","b":"ca\"na/ry=é"#;
        assert_eq!(mask.cut(part, 100).0, r#"{"a":"********","b":"********"#);
        let plain = r#"{ "n": 2.50, "n": 3 }"#;
        assert_eq!(mask.read(plain.to_owned()), plain, "nothing is written anew without a reason");
    }

    #[test]
    fn secrets_are_masked_in_a_part_of_json_by_whoever_wrote_it() {
        let mask = Mask::new([&Secret::new("a&b</é😀+=\u{1b}'")]);
        for spelt in [
            r"a\u0026b\u003c/é😀+=\u001b'",
            r"a\u0026b\u003C/é😀+=\u001B'",
            r"a&b</\u00e9\ud83d\ude00+=\u001b'",
            r"a&b<\/\u00e9\ud83d\ude00+=\u001b'",
            r"a\u0026b\u003c/\u00e9\ud83d\ude00+=\u001b'",
            r"a\u0026b\u003c/é😀+\u003d\u001b\u0027",
            r"a\u0026b\u003C/\u00E9\uD83D\uDE00\u002B=\u001B\u0027",
        ] {
            assert_eq!(mask.cut(&format!(r#"{{"p":"{spelt}"#), 100).0, r#"{"p":"********"#, "{spelt}");
        }
        assert_eq!(spellings("s3cret-Token_1").len(), 1);
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        let mask = Mask::new([&Secret::new("s3")]);
        assert_eq!(mask.cut("aäb", 2), ("a".to_owned(), true));
        assert_eq!(mask.cut("aäb", 4), ("aäb".to_owned(), false));
        assert_eq!(mask.cut("a s3", 4), ("a **".to_owned(), true));
    }
}
