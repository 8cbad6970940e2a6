//! Takes secrets out of text that comes back from whom they were given to.

use migrate_plugin_api::Secret;

/// What stands in a secret's place.
const MASK: &str = "********";

/// A line of a longer secret (a key file) is masked by itself from this length on; shorter ones are
/// ordinary words.
const MIN_LINE_CHARS: usize = 8;

/// The secrets of one node.
#[derive(Default)]
pub(super) struct Mask {
    /// Longest first, so that no secret is left over as the rest of another.
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
        hidden.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        hidden.dedup();
        Self { hidden }
    }

    /// `text` without a secret.
    pub(super) fn apply(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }

    /// How much must be read beyond a limit, so that no secret is cut in two by it.
    pub(super) fn margin_bytes(&self) -> usize {
        self.hidden.first().map_or(0, String::len)
    }
}

/// At most `limit` bytes of `text`, and whether that is not all of it.
pub(super) fn cut(mut text: String, limit: usize) -> (String, bool) {
    let is_cut = text.len() > limit;
    text.truncate(text.floor_char_boundary(limit));
    (text, is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_whole_and_line_by_line() {
        let (short, key) = (Secret::new("s3"), Secret::new("-----BEGIN-----\nQUJDREVGRw==\nok\n"));
        let mask = Mask::new([&short, &key, &Secret::new("s3cret"), &Secret::new("")]);
        assert_eq!(mask.apply("a s3cret, s3 and QUJDREVGRw== ok"), "a ********, ******** and ******** ok");
        assert_eq!(mask.margin_bytes(), "-----BEGIN-----\nQUJDREVGRw==\nok".len());
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        assert_eq!(cut("aäb".to_owned(), 2), ("a".to_owned(), true));
        assert_eq!(cut("aäb".to_owned(), 4), ("aäb".to_owned(), false));
    }
}
