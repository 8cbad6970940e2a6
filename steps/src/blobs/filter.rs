//! Which keys `include` and `exclude` take. Pure.

/// Both lists of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    include: Option<Vec<String>>,
    exclude: Vec<String>,
}

impl Filter {
    pub(super) fn new(include: Option<&[String]>, exclude: &[String]) -> Self {
        Self { include: include.map(<[String]>::to_vec), exclude: exclude.to_vec() }
    }

    /// Whether `key` is included and not excluded.
    pub(super) fn takes(&self, key: &str) -> bool {
        let one_of = |patterns: &[String]| patterns.iter().any(|p| matches(p.as_bytes(), key.as_bytes()));
        self.include.as_deref().is_none_or(one_of) && !one_of(&self.exclude)
    }
}

/// `*` is any run without a slash, `**` any run, `?` one character of a segment. In one pass with one
/// place to go back to for each kind of star, so that no pattern takes more than their product.
fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut p, mut k) = (0, 0);
    // Behind the last star of its kind, and the key's place that it has eaten up to.
    let mut star: Option<(usize, usize)> = None;
    let mut stars: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(b'*') if pattern.get(p + 1) == Some(&b'*') => {
                p += 2;
                (star, stars) = (None, Some((p, k)));
                continue;
            }
            Some(b'*') => {
                p += 1;
                star = Some((p, k));
                continue;
            }
            Some(b'?') if key.get(k).is_some_and(|c| *c != b'/') => {
                p += 1;
                k = next_character(key, k);
                continue;
            }
            Some(c) if key.get(k) == Some(c) && *c != b'?' => {
                (p, k) = (p + 1, k + 1);
                continue;
            }
            None if k == key.len() => return true,
            _ => {}
        }
        // One more byte for the last star that may have it.
        if let Some((behind, eaten)) = star.filter(|(_, eaten)| key.get(*eaten).is_some_and(|c| *c != b'/')) {
            (p, k) = (behind, eaten + 1);
            star = Some((p, k));
        } else if let Some((behind, eaten)) = stars.filter(|(_, eaten)| *eaten < key.len()) {
            (p, k) = (behind, eaten + 1);
            (star, stars) = (None, Some((p, k)));
        } else {
            return false;
        }
    }
}

fn next_character(key: &[u8], at: usize) -> usize {
    let follows = key.iter().skip(at + 1).take_while(|byte| **byte & 0xC0 == 0x80).count();
    at + 1 + follows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(pattern: &str, key: &str) -> bool {
        matches(pattern.as_bytes(), key.as_bytes())
    }

    #[test]
    fn stars_stop_at_slashes_and_double_ones_do_not() {
        for (pattern, key) in [
            ("a", "a"),
            ("*", "a"),
            ("*.log", "x.log"),
            ("a/*/c", "a/b/c"),
            ("**", "a/b/c"),
            ("**/*.log", "a/b/c.log"),
            ("a/**", "a/b/c"),
            ("**b*d", "a/b/bcd"),
            ("?b", "üb"),
            ("*a*b", "xaxab"),
            ("**/x/*.y", "x/x/a/x/b.y"),
        ] {
            assert!(is(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in [
            ("*", "a/b"),
            ("a?c", "a/c"),
            ("*.log", "x.logs"),
            ("", "a"),
            ("a", ""),
            ("**/a", "a"),
            ("?", ""),
        ] {
            assert!(!is(pattern, key), "{pattern} {key}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let (pattern, key) = ("*a".repeat(500) + "b", "a".repeat(1_024));
        assert!(!is(&pattern, &key));
        assert!(!is(&("**a".repeat(300) + "b"), &key));
    }

    #[test]
    fn exclude_wins() {
        let filter = Filter::new(Some(&["a/**".to_owned()]), &["**.tmp".to_owned()]);
        assert!(filter.takes("a/b/c"));
        assert!(!filter.takes("a/b.tmp") && !filter.takes("b/c"));
        assert!(Filter::default().takes("anything"));
    }
}
