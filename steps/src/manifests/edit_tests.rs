use super::*;
use crate::rules::document::ReadError;
use crate::rules::path::{plain, with_index};
use serde_json::json;

const FILE: &str = r#"# The shop's front
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {source: "old.io/web:1"}}   # not an image field
spec:
    template:
        metadata:
            annotations:
                # Why it is there
                one: '1'   # first
                two: "2"
        spec:
            containers:
              -   image:   "old.io/web:1"     # pinned by release
                  name: web
              - name: side
                image: &side old.io/side@sha256:0f
                args:
                - --first
                - --second   # of two
              - name: again
                image: *side
              - name: folded
                image: >-
                  old.io/folded:1
              - name: escaped
                image: "old\u002eio/escaped:1"
            tolerations: []
            nodeSelector:
"#;

fn container(at: usize, field: &str) -> Path {
    let mut path = plain("spec.template.spec.containers");
    path = with_index(&path, at);
    path.extend(plain(field));
    path
}

/// What differs between the texts, line by line.
fn difference(before: &str, after: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(before), lines(after));
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let gone = old[start..old.len() - tail].iter().map(|line| format!("-{line}"));
    let came = new[start..new.len() - tail].iter().map(|line| format!("+{line}"));
    gone.chain(came).collect::<Vec<_>>().join("\n")
}

fn edited(edit: Edit) -> String {
    difference(FILE, &apply(FILE, edit).unwrap())
}

#[test]
fn values_change_in_their_own_quotes() {
    let set = |path: Path, value: &str| edited(Edit::Set { path, value: value.into() });
    let one = with(&plain("spec.template.metadata.annotations"), "one");
    assert_eq!(
        set(one, "it's"),
        "-                one: '1'   # first\n+                one: 'it''s'   # first"
    );
    assert_eq!(
        set(container(0, "image"), "new.io/web:1"),
        "-              -   image:   \"old.io/web:1\"     # pinned by release\n+              -   image:   \"new.io/web:1\"     # pinned by release"
    );
    assert!(
        set(container(1, "image"), "new.io/side:1").contains("+                image: &side new.io/side:1")
    );
    assert!(set(container(3, "image"), "new.io/folded:1").contains("+                  new.io/folded:1"));
    assert!(set(container(4, "image"), "new.io/a:1").ends_with("\"new.io/a:1\""));
    assert!(set(container(0, "name"), "true").ends_with("name: \"true\""));
}

use crate::rules::path::with;

#[test]
fn an_alias_changes_what_it_stands_for() {
    let through = edited(Edit::Set { path: container(2, "image"), value: "new.io/side:1".into() });
    assert!(through.contains("&side new.io/side:1"), "{through}");
}

#[test]
fn keys_are_renamed_added_and_removed_on_their_lines() {
    let annotations = plain("spec.template.metadata.annotations");
    let rename = Edit::Rename { path: with(&annotations, "two"), to: "a.b/three".into() };
    assert_eq!(edited(rename), "-                two: \"2\"\n+                a.b/three: \"2\"");
    let insert =
        Edit::Insert { path: annotations.clone(), key: "a.b/c".into(), value: json!({ "d": ["e", 1] }) };
    assert_eq!(
        edited(insert),
        "+                a.b/c:\n+                  d:\n+                  - e\n+                  - 1"
    );
    let delete = Edit::Delete { path: with(&annotations, "one") };
    assert_eq!(edited(delete), "-                one: '1'   # first");
    let flow = Edit::Delete { path: plain("metadata.annotations.source") };
    assert_eq!(
        edited(flow),
        "-metadata: {name: web, annotations: {source: \"old.io/web:1\"}}   # not an image field\n+metadata: {name: web}   # not an image field"
    );
    let missing = Edit::Insert { path: plain("metadata.labels"), key: "a".into(), value: "true".into() };
    assert!(edited(missing).contains("annotations: {source: \"old.io/web:1\"}, labels: {a: \"true\"}}"));
    let null =
        Edit::Insert { path: plain("spec.template.spec.nodeSelector"), key: "a".into(), value: "b".into() };
    assert_eq!(edited(null), "+              a: b");
}

#[test]
fn a_key_that_is_there_is_not_made_twice() {
    let text = "a:\n  old: 'x' # first\n  new: y # second\nb: {old: x, new: y}\n";
    let rename = |path: &str| Edit::Rename { path: plain(path), to: "new".into() };
    let out = apply(text, rename("a.old")).unwrap();
    assert_eq!(out, "a:\n  new: y # second\nb: {old: x, new: y}\n");
    assert_eq!(apply(&out, rename("b.old")).unwrap(), "a:\n  new: y # second\nb: {new: y}\n");
    // To its own name.
    assert_eq!(apply(&out, rename("a.new")).unwrap(), out);
    // What was there twice before is not ours.
    let twice = "a: 1\na: 2\nb: 3\n";
    let set = Edit::Set { path: plain("b"), value: 4.into() };
    assert_eq!(apply(twice, set).unwrap(), "a: 1\na: 2\nb: 4\n");
}

#[test]
fn items_are_added_and_removed() {
    let first = Edit::Delete { path: with_index(&container(1, "args"), 0) };
    assert_eq!(edited(first), "-                - --first");
    let last = Edit::Delete { path: with_index(&container(1, "args"), 1) };
    assert_eq!(edited(last), "-                - --second   # of two");
    let append = Edit::Append { path: container(1, "args"), value: "--third".into() };
    assert_eq!(edited(append), "+                - \"--third\"");
    let empty = Edit::Append { path: plain("spec.template.spec.tolerations"), value: json!({ "key": "a" }) };
    assert_eq!(edited(empty), "-            tolerations: []\n+            tolerations: [{key: a}]");
    let key_after_dash = Edit::Delete { path: container(1, "name") };
    assert!(edited(key_after_dash).contains("+              - image: &side"));
}

#[test]
fn an_empty_rest_goes_too() {
    let text =
        "spec:\n  a: 1\n  affinity:\n    nodeAffinity:\n      terms:\n      - key: x\nmetadata:\n  only: 1\n";
    let path = with(&with_index(&plain("spec.affinity.nodeAffinity.terms"), 0), "key");
    let out = apply(text, Edit::Delete { path }).unwrap();
    assert_eq!(out, "spec:\n  a: 1\nmetadata:\n  only: 1\n");
    let out = apply(&out, Edit::Delete { path: plain("metadata.only") }).unwrap();
    assert_eq!(out, "spec:\n  a: 1\nmetadata:\n  {}\n");
}

#[test]
fn line_ends_and_a_missing_last_one_are_kept() {
    let text = "kind: List\r\nitems:\r\n- a: 1 # x";
    let path = with_index(&plain("items"), 0);
    let out = apply(text, Edit::Insert { path, key: "b".into(), value: 2.into() }).unwrap();
    assert_eq!(out, "kind: List\r\nitems:\r\n- a: 1 # x\r\n  b: 2");
}

#[test]
fn json_stays_json() {
    let text = "{\n  \"a\": {\n    \"b\": \"c\"\n  },\n  \"d\": [1, 2]\n}\n";
    let out = apply(text, Edit::Insert { path: plain("a"), key: "e".into(), value: json!(["f"]) }).unwrap();
    let out = apply(&out, Edit::Delete { path: with_index(&plain("d"), 1) }).unwrap();
    assert_eq!(out, "{\n  \"a\": {\n    \"b\": \"c\",\n    \"e\": [\"f\"]\n  },\n  \"d\": [1]\n}\n");
    assert!(serde_json::from_str::<Value>(&out).is_ok());
}

#[test]
fn what_stands_elsewhere_too_is_refused() {
    // The anchor would go with its value, and leave its alias without one.
    let text = "a: &x {b: 1}\nc: *x\nd: 2\n";
    assert!(matches!(
        apply(text, Edit::Delete { path: plain("a") }),
        Err(EditError::Read(ReadError::Invalid { .. }))
    ));
    let twice = "a: 1\n---\nb: 2\n";
    assert!(matches!(apply(twice, Edit::Delete { path: plain("a") }), Err(EditError::Unsafe { .. })));
}

#[test]
fn texts_in_blocks_are_replaced_in_place() {
    let text = "data:\n  x: |\n    # keep\n    image: old.io/a\n    also: old.io/b\n\n  y: 'old.io/c' # z\n";
    let replace = |text: &str, path: &str| {
        apply(text, Edit::Replace { path: plain(path), from: "old.io".into(), to: "new.io".into() }).unwrap()
    };
    assert_eq!(replace(&replace(text, "data.x"), "data.y"), text.replace("old.io", "new.io"));
}
