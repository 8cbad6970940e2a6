//! Takes secrets out of text that comes back from whom they were given to.

use migrate_plugin_api::{Secret, hide_secrets};

/// What stands in a secret's place.
const MASK: &str = "********";

/// A line of a longer secret (a key file) is masked by itself from this length on; shorter ones are
/// ordinary words.
const MIN_LINE_CHARS: usize = 8;

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
        assert_eq!(mask.margin_bytes(), "-----BEGIN-----\nQUJDREVGRw==\nok".len());
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        let mask = Mask::new([&Secret::new("s3")]);
        assert_eq!(mask.cut("aäb", 2), ("a".to_owned(), true));
        assert_eq!(mask.cut("aäb", 4), ("aäb".to_owned(), false));
        assert_eq!(mask.cut("a s3", 4), ("a **".to_owned(), true));
    }
}
