//! Well-known examples for EKS, written in equivalent form, each field of AWS marked by hand with the
//! rule that must find it (`#! EKS-NET-001`); manifests of no vendor; and what may come as input.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Inputs, RuleSet};
use crate::assess::assess_files;
use crate::manifests::rewrite_files;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(fixtures(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// Everything that the fixtures need.
fn inputs() -> Inputs {
    toml::from_str(include_str!("../../tests/fixtures/inputs.toml")).unwrap()
}

#[test]
fn every_field_of_aws_is_found_and_nothing_else() {
    let rules = RuleSet::shipped();
    let mut wrong = Vec::new();
    for file in files("eks") {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut expected = BTreeSet::new();
        for (at, line) in text.lines().enumerate() {
            let marks = line.split_once("#! ").map_or("", |(_, marks)| marks);
            expected.extend(marks.split_whitespace().map(|rule| (at + 1, rule.to_owned())));
        }
        let found = assess_files(&file, &rules, &Inputs::default()).unwrap().findings;
        let found: BTreeSet<(usize, String)> = found.into_iter().map(|f| (f.line, f.rule)).collect();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        wrong.extend(
            expected.difference(&found).map(|(line, rule)| format!("{name}:{line}: {rule} not found")),
        );
        wrong.extend(found.difference(&expected).map(|(line, rule)| format!("{name}:{line}: {rule} found")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn manifests_of_no_vendor_have_no_findings_and_stay_as_they_are() {
    let (rules, mut objects) = (RuleSet::shipped(), 0);
    for inputs in [Inputs::default(), Inputs { default_storage_class: None, ..inputs() }] {
        let found = assess_files(&fixtures("neutral"), &rules, &inputs).unwrap();
        assert_eq!(found.findings, Vec::new());
        objects = found.objects;
        for file in rewrite_files(&fixtures("neutral"), &rules, &inputs).unwrap().files {
            assert_eq!(file.before, file.after, "{}", file.path);
        }
    }
    assert!(objects >= 30, "{objects}");
}

#[test]
fn rewriting_twice_changes_nothing_and_keeps_every_comment() {
    let (rules, inputs) = (RuleSet::shipped(), inputs());
    let target = tempfile::tempdir().unwrap();
    for file in rewrite_files(&fixtures("eks"), &rules, &inputs).unwrap().files {
        std::fs::write(target.path().join(&file.path), &file.after).unwrap();
    }
    let again = rewrite_files(target.path(), &rules, &inputs).unwrap();
    for file in &again.files {
        assert_eq!(file.before, file.after, "{}", file.path);
    }
    // What is left is for a person, waits for one (an Ingress with a WAF, a pool whose class stays), or has
    // no like (a generation of instances, a health check of a port that is no Service's).
    let left: BTreeSet<&str> = again.findings.iter().map(|f| f.rule.as_str()).collect();
    let manual = |rule: &&str| rules.find(rule).unwrap().kind == super::RuleKind::Manual;
    let other: Vec<_> = left.iter().filter(|rule| !manual(rule)).collect();
    assert_eq!(other, [&"EKS-NET-001", &"EKS-NET-023", &"EKS-NOD-006", &"EKS-NOD-009"]);
}

#[test]
fn hostile_files_are_named_and_nothing_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let bomb: String = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
        text + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "))
    });
    let hostile: [(&str, Vec<u8>, &str); 6] = [
        ("bomb.yaml", bomb.into_bytes(), "expand"),
        ("cycle.yaml", b"a: &a [*a]\n".to_vec(), "inside its own anchor"),
        ("latin.yaml", b"kind: \xe4\n".to_vec(), "UTF-8"),
        ("template.yaml", b"image: {{ .Values.image }}:{{ x }}\n- [".to_vec(), "not valid YAML"),
        ("deep.yaml", vec![b'['; 100_000], "not valid YAML"),
        ("cut.yaml", b"a: \"b\nc: d\n".to_vec(), "not valid YAML"),
    ];
    for (name, bytes, words) in hostile {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for error in [
            assess_files(dir.path(), &RuleSet::shipped(), &Inputs::default()).unwrap_err(),
            rewrite_files(dir.path(), &RuleSet::shipped(), &Inputs::default()).unwrap_err(),
        ] {
            let record = error.to_record();
            let all = format!("{} {}", record.message, record.causes.join(" "));
            assert!(all.contains(name) && all.contains(words), "{all}");
        }
        std::fs::remove_file(path).unwrap();
    }
    // A sparse file of 100 MiB: refused by its size alone.
    let large = std::fs::File::create(dir.path().join("large.yaml")).unwrap();
    large.set_len(100 * 1024 * 1024).unwrap();
    let error = assess_files(dir.path(), &RuleSet::shipped(), &Inputs::default()).unwrap_err();
    assert!(
        error.message.contains("large.yaml") && error.message.contains("bytes long"),
        "{}",
        error.message
    );
}

/// A small generator of our own: a seed makes a text, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }

    fn scalar(&mut self) -> String {
        const SCALARS: [&str; 14] = [
            "plain",
            "'single '' quoted'",
            "\"double \\\" \\u00e4\"",
            "123",
            "true",
            "~",
            "1.5e3",
            "\"\"",
            "a#b",
            "größe",
            "2026-01-01",
            "'yes'",
            "http://x:80/y",
            "multi word value",
        ];
        SCALARS[self.roll(SCALARS.len())].to_owned()
    }

    /// A block map at `indent`, with comments, blank lines and odd spacing.
    fn map(&mut self, indent: usize, depth: usize, out: &mut String) {
        let pad = " ".repeat(indent);
        for at in 0..=self.roll(4) {
            if self.roll(5) == 0 {
                out.push_str(&format!("{pad}# comment {at}\n"));
            }
            out.push_str(&format!("{pad}k{at}{}:", ["", "x", "-y"][self.roll(3)]));
            match self.roll(if depth == 0 { 3 } else { 6 }) {
                0 => out.push_str(&format!(" {}{}\n", self.scalar(), ["", "  # end", " "][self.roll(3)])),
                1 => out.push_str(&format!(" [{}, {}]\n", self.scalar(), self.scalar())),
                2 => out.push_str(&format!(
                    " |{}\n{pad}  text\n\n{pad}  - more # text\n",
                    ["", "-"][self.roll(2)]
                )),
                3 => {
                    out.push('\n');
                    let deeper = indent + 1 + self.roll(4);
                    self.map(deeper, depth - 1, out);
                }
                4 => {
                    out.push('\n');
                    for _ in 0..=self.roll(3) {
                        out.push_str(&format!("{pad}- {}\n", self.scalar()));
                    }
                }
                _ => out.push_str(&format!(" {{a: {}, \"b\": [{}]}}\n", self.scalar(), self.scalar())),
            }
            if self.roll(8) == 0 {
                out.push('\n');
            }
        }
    }
}

#[test]
fn a_thousand_random_files_come_back_byte_for_byte_and_read_the_same() {
    let (rules, inputs) = (RuleSet::shipped(), inputs());
    for seed in 0..1_000 {
        let mut dice = Dice(seed);
        let mut text = String::new();
        for at in 0..=dice.roll(3) {
            if at > 0 || dice.roll(2) == 0 {
                text.push_str("---\n");
            }
            text.push_str("apiVersion: example.com/v1\nkind: Thing\n");
            dice.map(0, 3, &mut text);
        }
        if dice.roll(4) == 0 {
            text = text.replace('\n', "\r\n");
        }
        let documents = super::document::read(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        let parts: String = documents.iter().map(|d| &text[d.range.clone()]).collect();
        assert_eq!(parts, text, "seed {seed}");
        for (document, other) in documents.iter().zip(serde_yaml_ng::Deserializer::from_str(&text)) {
            let other = <serde_json::Value as serde::Deserialize>::deserialize(other).unwrap();
            assert_eq!(document.root.to_value(), other, "seed {seed}\n{text}");
        }
        let done = rules.rewrite(&text, &documents, &super::facts::Facts::default(), &inputs).unwrap();
        assert_eq!(done.text, text, "seed {seed}");
    }
}

#[test]
fn random_edits_change_what_they_name_and_nothing_else() {
    use crate::manifests::edit::{Edit, EditError, apply};
    let mut made = 0;
    for seed in 0..1_000 {
        let mut dice = Dice(seed);
        let mut text = String::new();
        dice.map(0, 3, &mut text);
        let root = super::document::read(&text).unwrap().remove(0).root;
        let places = super::path::Pattern::parse("**").unwrap().find(&root);
        let (path, _) = &places[dice.roll(places.len())];
        let edit = match dice.roll(4) {
            0 => Edit::Delete { path: path.clone() },
            1 => Edit::Set { path: path.clone(), value: "new".into() },
            2 => Edit::Append { path: path.clone(), value: "new".into() },
            _ => {
                Edit::Insert { path: path.clone(), key: "new".into(), value: serde_json::json!({ "a": [1] }) }
            }
        };
        // `apply` proves by itself that nothing else changed; it may refuse what can't be done in place.
        match apply(&text, edit.clone()) {
            Ok(edited) => {
                made += 1;
                let comments = |text: &str| text.matches("# comment").count();
                let is_whole = matches!(edit, Edit::Insert { .. } | Edit::Append { .. });
                assert!(
                    !is_whole || comments(&edited) == comments(&text),
                    "seed {seed}: {edit:?}\n{text}\n{edited}"
                );
            }
            Err(EditError::Unsafe { .. }) => {}
            Err(e) => panic!("seed {seed}: {e}: {edit:?}\n{text}"),
        }
    }
    assert!(made > 400, "{made}");
}
