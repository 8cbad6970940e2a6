//! The names of nodes: as a person writes them, and as a run has them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::InvalidId;
use crate::ids::{MAX_ID_CHARS, check};

const KIND: &str = "node name";

/// Longest key of an item: an image with its registry, tag and digest fits.
const MAX_KEY_BYTES: usize = 160;

/// Longest name: eight sub-workflows deep, and an item.
const MAX_BYTES: usize = 8 * (MAX_ID_CHARS + 1) + MAX_KEY_BYTES + 2;

/// Hexadecimal digits that tell apart two names whose letters come out the same.
const LABEL_HEX: usize = 10;

/// One node of a run: a node of the workflow (`copy`), one item of a node with `for_each`
/// (`copy[shop]`), or either of them in a sub-workflow (`images/pull`, `images/copy[shop]`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// Checks and wraps `value`.
    ///
    /// # Errors
    /// When it is none of the forms above.
    pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
        let value = value.into();
        let refuse = |reason| Err(InvalidId::new(KIND, &value, reason));
        if value.len() > MAX_BYTES {
            return refuse("it is too long");
        }
        let path = match value.split_once('[') {
            None => value.as_str(),
            Some((path, rest)) => {
                let Some(key) = rest.strip_suffix(']') else { return refuse("its `[` is not closed") };
                if !Self::is_key(key) {
                    return refuse("between `[` and `]` there must be the key of an item");
                }
                path
            }
        };
        for segment in path.split('/') {
            check(KIND, segment)?;
        }
        Ok(Self(value))
    }

    /// A name as a person gives it to a node: one DNS label.
    ///
    /// # Errors
    /// When it is empty, longer than 63 characters, or holds anything but lowercase letters, digits
    /// and inner `-`.
    pub fn plain(value: impl Into<String>) -> Result<Self, InvalidId> {
        let value = value.into();
        check(KIND, &value)?;
        Ok(Self(value))
    }

    /// As it is written on a command line: shells read an item's brackets as patterns.
    pub fn quoted(&self) -> String {
        if self.key().is_some() { format!("'{}'", self.0.replace('\'', r"'\''")) } else { self.0.clone() }
    }

    /// Whether `key` can name an item: not empty, not longer than 160 bytes, without control
    /// characters and brackets.
    pub fn is_key(key: &str) -> bool {
        let fits = |c: char| !c.is_control() && c != '[' && c != ']';
        !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.chars().all(fits)
    }

    /// The item `key` of this node.
    ///
    /// # Errors
    /// When `key` is none, or this is an item already.
    pub fn item(&self, key: &str) -> Result<Self, InvalidId> {
        Self::new(format!("{self}[{key}]"))
    }

    /// The node `inner` in the sub-workflow that this node is.
    ///
    /// # Errors
    /// When this is an item, or the name gets too long.
    pub fn inner(&self, inner: &Self) -> Result<Self, InvalidId> {
        Self::new(format!("{self}/{inner}"))
    }

    /// The key, where this is an item.
    pub fn key(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once('[')?;
        rest.strip_suffix(']')
    }

    /// The node that this is an item of; itself, where it is none.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self(self.0.split('[').next().unwrap_or_default().to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A DNS label for it, for names and labels of outside things: itself where it is one, else its
    /// letters and a checksum (FNV-1a, cut to 40 bits) that tells apart what has the same letters.
    /// The same for the same name, always.
    pub fn label(&self) -> String {
        if check(KIND, &self.0).is_ok() {
            return self.0.clone();
        }
        let sum = self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let sum = format!("{sum:016x}");
        format!("{}-{}", self.stem(MAX_ID_CHARS - LABEL_HEX - 1), &sum[..LABEL_HEX])
    }

    /// The beginning of a DNS label: its letters, at most `max` of them.
    pub fn stem(&self, max: usize) -> String {
        let mut stem = String::new();
        for c in self.0.chars().map(|c| c.to_ascii_lowercase()) {
            let kept = c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            match (kept, stem.ends_with('-')) {
                (true, _) => stem.push(c),
                (false, false) => stem.push('-'),
                (false, true) => {}
            }
        }
        stem.truncate(max);
        stem.trim_end_matches('-').to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        Self::new(value)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_nodes_items_and_what_is_in_sub_workflows() {
        for good in ["copy", "copy[shop]", "images/pull", "a/b/c[registry.example/shop:1.2@x]", "a[x y]"] {
            let id = NodeId::new(good).unwrap();
            assert_eq!(id.as_str(), good);
            assert_eq!(serde_json::from_value::<NodeId>(serde_json::json!(good)).unwrap(), id);
        }
        for bad in ["", "a[", "a[]", "a[b", "a[b]c", "a[b][c]", "a[b]/c", "/a", "a/", "A", "a[b\nc]", "a//b"]
        {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
        assert!(NodeId::plain("a/b").is_err() && NodeId::plain("a[b]").is_err());
        let item = NodeId::plain("copy").unwrap().item("shop").unwrap();
        assert_eq!((item.key(), item.whole().as_str()), (Some("shop"), "copy"));
        assert_eq!((item.whole().key(), item.whole().whole()), (None, item.whole()));
        assert!(item.item("again").is_err());
    }

    #[test]
    fn labels_are_dns_labels_and_differ_where_names_do() {
        let label = |name: &str| NodeId::new(name).unwrap().label();
        assert_eq!(label("copy"), "copy");
        assert_ne!(label("copy[a.b]"), label("copy[a-b]"));
        for name in ["copy[shop]", "a/b[Ärger]", &format!("a[{}]", "x".repeat(120)), "a[--]"] {
            assert!(NodeId::plain(label(name)).is_ok(), "{}", label(name));
        }
    }
}
