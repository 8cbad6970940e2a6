//! Ranges of keys, and where to cut one in two. Pure.

use serde::{Deserialize, Serialize};

/// The keys behind `after` up to and with `until`; without one of them, from the start or to the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Range {
    pub(super) after: Option<String>,
    pub(super) until: Option<String>,
}

impl Range {
    /// Everything.
    pub(super) fn all() -> Self {
        Self::default()
    }

    /// Whether `key` lies in it.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.after.as_deref().is_none_or(|after| key > after) && self.reaches(key)
    }

    /// Whether `key` lies in front of the end.
    pub(super) fn reaches(&self, key: &str) -> bool {
        self.until.as_deref().is_none_or(|until| key <= until)
    }
}

/// The last character that keys usually hold: a cut is looked for before it.
pub(super) const LAST: u8 = b'~';

/// Where `low` may be left for a later key: the places behind `scope` at which a greater character would
/// do, from the front.
pub(super) fn turns(scope: &str, low: &str) -> Vec<usize> {
    let bytes = low.as_bytes().iter().enumerate().skip(scope.len());
    bytes.filter(|(at, byte)| low.is_char_boundary(*at) && **byte < LAST).map(|(at, _)| at).collect()
}

/// `low` up to its turn, and then `character`: it lies behind everything that starts with `low`.
pub(super) fn turned(low: &str, turn: usize, character: u8) -> String {
    let mut key = low.get(..turn).unwrap_or_default().to_owned();
    key.push(char::from(character));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_lies_behind_its_key_and_the_earlier_the_further() {
        let low = "p/a~ü1";
        let turns = turns("p/", low);
        assert_eq!(turns, [2, 6]);
        let turned: Vec<String> =
            turns.iter().map(|turn| turned(low, *turn, low.as_bytes()[*turn] + 1)).collect();
        assert_eq!(turned, ["p/b", "p/a~ü2"]);
        assert!(turned.iter().all(|key| key.as_str() > low) && turned[0] > turned[1]);
    }

    #[test]
    fn a_range_holds_what_is_behind_its_start_up_to_its_end() {
        let range = Range { after: Some("b".to_owned()), until: Some("d".to_owned()) };
        let held: Vec<&str> =
            ["a", "b", "ba", "d", "da"].into_iter().filter(|key| range.holds(key)).collect();
        assert_eq!(held, ["ba", "d"]);
        assert!(Range::all().holds(""));
    }
}
