//! `migration.toml`: what differs from site to site. Opaque to the engine, which only follows
//! references into it; its places are kept, so that a step's complaint points at the right line.

use serde_json::Value;

use super::diagnostic::{Mistakes, Source};
use super::tree::{Kind, Tree};

/// The version of the file's form that is understood.
const SCHEMA: i64 = 1;

/// A read `migration.toml`.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub file: Source,
    pub tree: Tree,
    pub value: Value,
}

impl Environment {
    /// Reads `file`.
    pub(crate) fn parse(file: &Source, mistakes: &mut Mistakes) -> Option<Self> {
        let mut tree = Tree::parse(file, mistakes)?;
        check_schema(&tree, file, mistakes);
        if let Kind::Table(entries) = &mut tree.kind {
            entries.retain(|entry| entry.key != "schema");
        }
        let value = tree.to_json();
        Some(Self { file: file.clone(), tree, value })
    }
}

/// `schema = 1` must be there, so that a later form is told from this one.
pub(crate) fn check_schema(tree: &Tree, file: &Source, mistakes: &mut Mistakes) {
    match tree.get("schema") {
        None => {
            mistakes
                .add(file, 0..0, "schema-version", "the file doesn't say which form it has")
                .help("begin it with `schema = 1`");
        }
        Some(entry) if matches!(entry.value.kind, Kind::Integer(SCHEMA)) => {}
        Some(entry) => {
            mistakes
                .add(file, entry.value.span.clone(), "schema-version", "this form of the file is not known")
                .label("this version of migrate reads `1`")
                .help("a newer migrate may be needed");
        }
    }
}
