//! All rules: those that are shipped, and a team's own.

use std::path::Path;
use std::sync::LazyLock;

use super::document::{self, Node, ReadError};
use super::engine::Look;
use super::facts::Facts;
use super::finding::Finding;
use super::inputs::Inputs;
use super::object::objects;
use super::rule::{Compiled, Rule, RuleError, RuleKind, read};

/// The shipped files, in the order in which they look and rewrite.
const SHIPPED: [(&str, &str); 8] = [
    ("addons", include_str!("data/addons.toml")),
    ("identity", include_str!("data/identity.toml")),
    ("images", include_str!("data/images.toml")),
    ("storage", include_str!("data/storage.toml")),
    ("nodes", include_str!("data/nodes.toml")),
    ("network", include_str!("data/network.toml")),
    ("secrets", include_str!("data/secrets.toml")),
    ("rest", include_str!("data/rest.toml")),
];

/// The longest file of rules that is read.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

static ALL: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    let files = SHIPPED
        .iter()
        .flat_map(|(name, text)| read(&format!("{name}.toml"), text).expect("shipped rules are tested"));
    files.collect()
});

/// Rules, in the order in which they look and rewrite.
#[derive(Debug, Clone)]
pub struct RuleSet {
    pub(super) rules: Vec<Compiled>,
}

impl RuleSet {
    /// The shipped rules.
    pub fn shipped() -> Self {
        Self { rules: ALL.clone() }
    }

    /// The shipped rules and those of `files`, which come after them.
    ///
    /// # Errors
    /// When a file can't be read, is no file of rules, or takes an ID that is taken.
    pub fn with_files<P: AsRef<Path>>(files: &[P]) -> Result<Self, RuleError> {
        let mut set = Self::shipped();
        for path in files {
            let file = path.as_ref().display().to_string();
            let form = |reason: String| RuleError::Form { file: file.clone(), reason };
            let bytes = std::fs::metadata(path).map_err(|e| form(e.to_string()))?.len();
            if bytes > FILE_BYTES {
                return Err(form(format!("it is {bytes} bytes long")));
            }
            let text = std::fs::read_to_string(path).map_err(|e| form(e.to_string()))?;
            for rule in read(&file, &text)? {
                if set.find(&rule.rule.id).is_some() {
                    let reason = "another rule has this ID".to_owned();
                    return Err(RuleError::Rule { file, id: rule.rule.id, reason });
                }
                set.rules.push(rule);
            }
        }
        Ok(set)
    }

    /// Every rule.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|compiled| &compiled.rule)
    }

    /// The rule `id`, in any case.
    pub fn find(&self, id: &str) -> Option<&Rule> {
        self.rules().find(|rule| rule.id.eq_ignore_ascii_case(id))
    }

    /// How many rules there are of a kind.
    pub fn count(&self, kind: RuleKind) -> usize {
        self.rules().filter(|rule| rule.kind == kind).count()
    }

    /// What the rules find in all documents of a text.
    ///
    /// # Errors
    /// When it is no YAML.
    pub(crate) fn findings_of_text(
        &self,
        text: &str,
        facts: &Facts,
        inputs: &Inputs,
    ) -> Result<Vec<Finding>, ReadError> {
        let documents = document::read(text)?;
        let found = documents.iter().flat_map(|d| self.findings(&d.root, Some(text), facts, inputs));
        Ok(found.collect())
    }

    /// What the rules find in a document or a live object; `text` is what its bytes are in.
    pub(crate) fn findings(
        &self,
        root: &Node,
        text: Option<&str>,
        facts: &Facts,
        inputs: &Inputs,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for object in objects(root) {
            let look = Look { object: &object, facts, inputs };
            for rule in &self.rules {
                let found = rule.matches(&look);
                findings.extend(found.iter().map(|m| Finding::of(&rule.rule, &object, m, text)));
            }
        }
        findings
    }
}
