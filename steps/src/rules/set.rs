//! All rules: those that are shipped, and a team's own.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use super::document::{Document, Lines, Node};
use super::engine::{Look, Match};
use super::facts::Facts;
use super::finding::Finding;
use super::inputs::Inputs;
use super::object::objects;
use super::rule::{Compiled, Rule, RuleError, RuleKind, read};

/// The shipped files, in the order in which they look and rewrite.
const SHIPPED: [(&str, &str); 10] = [
    ("addons", include_str!("data/addons.toml")),
    ("identity", include_str!("data/identity.toml")),
    ("images", include_str!("data/images.toml")),
    ("storage", include_str!("data/storage.toml")),
    ("nodes", include_str!("data/nodes.toml")),
    ("network", include_str!("data/network.toml")),
    ("secrets", include_str!("data/secrets.toml")),
    ("rest", include_str!("data/rest.toml")),
    ("target", include_str!("data/target.toml")),
    ("cluster", include_str!("data/cluster.toml")),
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
    by_kind: ByKind,
}

/// Which rules look at objects of a kind, in order.
#[derive(Debug, Clone, Default)]
struct ByKind {
    named: HashMap<String, Vec<usize>>,
    others: Vec<usize>,
}

impl ByKind {
    fn of(rules: &[Compiled]) -> Self {
        let kinds = |rule: &Rule| -> Vec<String> {
            let kind = |kind: &String| kind.rsplit('/').next().unwrap_or_default().to_owned();
            rule.kinds.iter().map(kind).collect()
        };
        let looks_at_all = |compiled: &&Compiled| compiled.rule.kinds.is_empty();
        let mut by_kind = Self::default();
        for kind in rules.iter().flat_map(|compiled| kinds(&compiled.rule)) {
            let looks =
                |compiled: &Compiled| looks_at_all(&compiled) || kinds(&compiled.rule).contains(&kind);
            let at = (0..rules.len()).filter(|at| looks(&rules[*at])).collect();
            by_kind.named.insert(kind, at);
        }
        by_kind.others = (0..rules.len()).filter(|at| looks_at_all(&&rules[*at])).collect();
        by_kind
    }

    fn get(&self, kind: &str) -> &[usize] {
        self.named.get(kind).unwrap_or(&self.others)
    }
}

impl RuleSet {
    /// The shipped rules.
    pub fn shipped() -> Self {
        Self { rules: ALL.clone(), by_kind: ByKind::of(&ALL) }
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
        set.by_kind = ByKind::of(&set.rules);
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

    /// A person's hours for one finding, by rule.
    pub(crate) fn hours(&self) -> BTreeMap<&str, f32> {
        self.rules().map(|rule| (rule.id.as_str(), rule.hours)).collect()
    }

    /// What the rules find in the documents of `text`.
    pub(crate) fn findings_of_text(
        &self,
        text: &str,
        documents: &[Document],
        facts: &Facts,
        inputs: &Inputs,
    ) -> Vec<Finding> {
        let lines = Lines::of(text);
        documents.iter().flat_map(|d| self.findings(&d.root, Some(&lines), facts, inputs)).collect()
    }

    /// What the rules find in a document or a live object; `lines` are those of the text that it is in.
    pub(crate) fn findings(
        &self,
        root: &Node,
        lines: Option<&Lines>,
        facts: &Facts,
        inputs: &Inputs,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for object in objects(root) {
            let look = Look { object: &object, facts, inputs };
            let rules = self.by_kind.get(&object.kind).iter().map(|at| &self.rules[*at]);
            let found: Vec<(&Rule, Match)> = rules
                .flat_map(|rule| rule.matches(&look).into_iter().map(|found| (&rule.rule, found)))
                .collect();
            let acts = |id: &str| found.iter().any(|(rule, m)| rule.id == id && !m.effects.is_empty());
            findings.extend(found.iter().map(|(rule, m)| {
                let goes = !m.is_left && rule.goes_with.as_deref().is_some_and(acts);
                let finding = Finding::of(rule, &object, m, lines);
                Finding { rewritten: finding.rewritten || goes, ..finding }
            }));
        }
        findings
    }

    /// Whether a rule would change something of a document.
    pub(super) fn changes(&self, root: &Node, facts: &Facts, inputs: &Inputs) -> bool {
        objects(root).iter().any(|object| {
            let look = Look { object, facts, inputs };
            let rules = self.by_kind.get(&object.kind).iter().map(|at| &self.rules[*at]);
            rules.flat_map(|rule| rule.matches(&look)).any(|found| !found.effects.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::document::read;

    /// Everything that a team's rule may say, in two rules.
    const OURS: &str = r#"
[[rule]]
id = "SHOP-001"
title = "Old price service"
why = "it stays behind"
azure = "the new one"
kind = "automatic"
severity = "error"
links = []
kinds = ["Deployment"]
paths = ["{pod}.containers[].env[].value"]
value = '^http://prices\.old\.example\.com(/.*)?$'
do = [{ op = "set", to = "http://prices.shop.svc${1}" }]

[[rule]]
id = "SHOP-002"
title = "Cost centre"
why = "Finance counts by another"
azure = "by [rewrite.custom.centres]"
kind = "input"
severity = "warning"
links = ["https://example.com/centres"]
paths = ["metadata.labels.centre"]
lookup = "custom.centres"
do = [{ op = "set", to = "${lookup}" }]
"#;

    const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {centre: eu-1}} # theirs
spec:
  template:
    spec:
      containers:
        - name: web
          env:
            - {name: PRICES, value: 'http://prices.old.example.com/v1'}
";

    fn files(texts: &[&str]) -> (tempfile::TempDir, Result<RuleSet, RuleError>) {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..texts.len()).map(|at| dir.path().join(format!("{at}.toml"))).collect();
        for (path, text) in paths.iter().zip(texts) {
            std::fs::write(path, text).unwrap();
        }
        let set = RuleSet::with_files(&paths);
        (dir, set)
    }

    #[test]
    fn rules_of_a_team_look_and_rewrite_like_the_shipped_ones() {
        let set = files(&[OURS]).1.unwrap();
        assert_eq!(set.rules().count(), RuleSet::shipped().rules().count() + 2);
        let (documents, facts) = (read(WEB).unwrap(), Facts::default());
        let found = set.findings_of_text(WEB, &documents, &facts, &Inputs::default());
        let seen: Vec<_> =
            found.iter().map(|f| (f.rule.as_str(), f.line, f.rewritten, f.needs.clone())).collect();
        let needs = vec!["rewrite.custom.centres.eu-1".to_owned()];
        assert_eq!(seen, [("SHOP-001", 10, true, Vec::new()), ("SHOP-002", 3, false, needs)]);

        let mut inputs = Inputs::default();
        inputs.custom.entry("centres".to_owned()).or_default().insert("eu-1".to_owned(), "az-7".to_owned());
        let done = set.rewrite(WEB, &documents, &facts, &inputs).unwrap();
        let expected = WEB.replace("prices.old.example.com", "prices.shop.svc").replace("eu-1", "az-7");
        assert_eq!(done.text, expected);
        let again = set.rewrite(&done.text, &read(&done.text).unwrap(), &facts, &inputs).unwrap();
        assert_eq!(again.text, done.text);
    }

    #[test]
    fn a_wrong_rule_is_told_with_its_file_and_id() {
        let one = |from: &str, to: &str| OURS.replacen(from, to, 1);
        let told = |texts: &[&str]| {
            let (dir, set) = files(texts);
            let error = set.err().unwrap().to_string();
            error.replace(&format!("{}/", dir.path().display()), "").lines().next().unwrap().to_owned()
        };
        let cases = [
            (
                one("kind = \"automatic\"", "kind = \"magic\""),
                "0.toml is no file of rules: TOML parse error at line 7",
            ),
            (one("why", "wy"), "0.toml is no file of rules: TOML parse error at line 5"),
            (
                one("op = \"set\"", "op = \"shell\""),
                "0.toml is no file of rules: TOML parse error at line 13",
            ),
            (one("SHOP-002", "SHOP-001"), "rule SHOP-001 of 0.toml: its ID is there twice"),
            (one("SHOP-001", "EKS-NET-001"), "rule EKS-NET-001 of 0.toml: another rule has this ID"),
            (
                one("{pod}.", "{pod}.."),
                "rule SHOP-001 of 0.toml: `{pod}..containers[].env[].value`: an empty name",
            ),
            (
                one("(/.*)?$", "(/.*"),
                "rule SHOP-001 of 0.toml: `^http://prices\\.old\\.example\\.com(/.*` is no regular",
            ),
            (
                one("custom.centres\"\ndo", "centres\"\ndo"),
                "rule SHOP-002 of 0.toml: there is no input `centres`",
            ),
            (
                one("kind = \"automatic\"", "kind = \"manual\""),
                "rule SHOP-001 of 0.toml: what is for a person has no effects",
            ),
            (
                one("kind = \"automatic\"", "kind = \"input\""),
                "rule SHOP-001 of 0.toml: `kind = \"input\"` goes with",
            ),
        ];
        for (text, words) in cases {
            let told = told(&[&text]);
            assert!(told.starts_with(words), "{told}\n{words}");
        }
        assert!(told(&[OURS, OURS]).starts_with("rule SHOP-001 of 1.toml: another rule has this ID"));
        let missing = RuleSet::with_files(&["nowhere.toml"]).err().unwrap().to_string();
        assert!(missing.starts_with("nowhere.toml is no file of rules: No such file"), "{missing}");
        let endless = "#".repeat(usize::try_from(FILE_BYTES).unwrap() + 1);
        assert!(told(&[&endless]).contains("bytes long"));
    }
}
