//! Every shipped rule is held to its examples.

use super::document::read;
use super::facts::Facts;
use super::object::objects;
use super::*;

/// What the rules know of `text` alone.
fn facts(text: &str) -> Facts {
    let mut facts = Facts::default();
    for document in read(text).unwrap() {
        objects(&document.root).iter().for_each(|object| facts.take(object));
    }
    facts
}

fn found(text: &str, inputs: &Inputs) -> Vec<Finding> {
    let (set, facts) = (RuleSet::shipped(), facts(text));
    let documents = read(text).unwrap();
    documents.iter().flat_map(|d| set.findings(&d.root, Some(text), &facts, inputs)).collect()
}

#[test]
fn every_rule_finds_and_rewrites_its_examples() {
    let set = RuleSet::shipped();
    let mut wrong = Vec::new();
    for rule in set.rules() {
        if rule.examples.is_empty() {
            wrong.push(format!("{}: no example", rule.id));
        }
        for example in &rule.examples {
            let before = example.before.trim_start_matches('\n');
            let after = example.after.as_deref().map_or(before, |after| after.trim_start_matches('\n'));
            let finding = found(before, &example.inputs).into_iter().find(|f| f.rule == rule.id);
            match finding {
                None => wrong.push(format!("{}: does not find its example", rule.id)),
                Some(finding)
                    if rule.kind != RuleKind::Manual
                        && example.after.is_some()
                        && !finding.needs.is_empty() =>
                {
                    wrong.push(format!("{}: misses {:?}", rule.id, finding.needs));
                }
                Some(_) => {}
            }
            match set.rewrite(before, &facts(before), &example.inputs) {
                Ok(done) if done.text != after => {
                    wrong.push(format!("{}: is\n{}\nand should be\n{after}", rule.id, done.text));
                }
                Ok(done) => {
                    let again = set.rewrite(&done.text, &facts(&done.text), &example.inputs).unwrap();
                    if again.text != done.text {
                        wrong.push(format!("{}: twice is another than once:\n{}", rule.id, again.text));
                    }
                }
                Err(e) => wrong.push(format!("{}: {e}", rule.id)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_rule_that_needs_an_input_asks_for_it_by_name() {
    let set = RuleSet::shipped();
    for rule in set.rules().filter(|rule| rule.kind == RuleKind::Input && rule.id != "EKS-IMG-003") {
        let given = rule.examples.iter().find(|example| example.after.is_some());
        let before = given
            .unwrap_or_else(|| panic!("{}: no example with an effect", rule.id))
            .before
            .trim_start_matches('\n');
        let needs: Vec<String> = found(before, &Inputs::default())
            .into_iter()
            .filter(|f| f.rule == rule.id)
            .flat_map(|f| f.needs)
            .collect();
        // These are found by what the input says.
        if matches!(rule.id.as_str(), "EKS-ID-008" | "EKS-STO-017") {
            continue;
        }
        assert!(
            needs.iter().all(|need| need.starts_with("rewrite.")) && !needs.is_empty(),
            "{}: {needs:?}",
            rule.id
        );
    }
}

#[test]
fn ids_are_unique_and_texts_are_whole() {
    let set = RuleSet::shipped();
    let mut ids: Vec<&str> = set.rules().map(|rule| rule.id.as_str()).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count);
    for rule in set.rules() {
        assert!(!rule.why.is_empty() && !rule.azure.is_empty() && !rule.links.is_empty(), "{}", rule.id);
        assert!(rule.links.iter().all(|link| link.starts_with("https://")), "{}", rule.id);
    }
}

#[test]
fn a_secret_is_never_looked_into() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nstringData: {key: \"arn:aws:iam::1:role/hunter2\", host: \
                123456789012.dkr.ecr.us-east-1.amazonaws.com/a}\n";
    assert_eq!(found(text, &Inputs::default()), Vec::new());
}

#[test]
fn of_a_text_only_the_reference_is_repeated() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata:\n  a: |\n    password: hunter2\n    topic: \
                arn:aws:sns:us-east-1:123456789012:orders hunter2\n    url: https://user:hunter2@sqs.us-east-1.amazonaws.com/1\n";
    let all = format!("{:?}", found(text, &Inputs::default()));
    assert!(all.contains("orders") && !all.contains("hunter2"), "{all}");
}
