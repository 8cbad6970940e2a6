//! What the rules change of what a chart makes, where it stands word for word in the chart's values: the values are
//! rewritten, and the chart is rendered again to see that this and nothing else came of it. Templates are
//! not rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use migrate_plugin_api::StepError;
use serde_json::Value;

use super::difference::texts;
use super::edit::{Edit, Sheet};
use super::render::{self, Rendered};
use super::rewrite::FileChange;
use super::source::Chart;
use crate::rules::document::{Node, read};
use crate::rules::facts::Facts;
use crate::rules::object::objects;
use crate::rules::path::Path as Place;
use crate::rules::{Finding, Inputs, RuleSet};
use crate::workload::Segment;

/// Values of a chart.
pub(super) const VALUES: &str = "values.yaml";

/// Times that the chart is rendered to find which values mean something else too.
const MAX_ROUNDS: usize = 8;

/// The shortest text that is looked for in values: a shorter one stands there for other things too.
const MIN_CHARS: usize = 4;

/// What became of a chart.
#[derive(Debug, Default, Clone)]
struct Values {
    /// `values.yaml` before and after; none where it stays.
    text: Option<(String, String)>,
    /// What was changed in it: where, from and to.
    changes: Vec<(String, String, String)>,
    /// What the chart makes with it.
    rendered: Vec<Rendered>,
}

/// What is to be done about a chart, with its files named from the root of what was read.
pub(crate) struct Solved {
    /// What the rules find in its templates.
    pub findings: Vec<Finding>,
    /// Its values, where they change.
    pub values: Option<NewValues>,
}

/// A chart's values as they become.
pub(crate) struct NewValues {
    /// The file.
    pub path: String,
    /// Its text.
    pub before: String,
    /// Its text with everything done.
    pub after: String,
    /// What was done.
    pub changes: Vec<FileChange>,
}

/// Solves in its values what can be solved there.
///
/// # Errors
/// As [`values`]; `Permanent` where what it makes is no YAML.
pub(crate) fn solve(
    chart: &Chart,
    rules: &RuleSet,
    facts: &Facts,
    inputs: &Inputs,
) -> Result<Solved, StepError> {
    let done = values(&chart.absolute, &chart.rendered, rules, facts, inputs)?;
    let mut all = Vec::new();
    for (before, after) in chart.rendered.iter().zip(&done.rendered) {
        let file = format!("{}{}", chart.path, before.template);
        let found = findings(before, after, rules, facts, inputs)?;
        all.extend(found.into_iter().map(|finding| Finding { file: file.clone(), ..finding }));
    }
    let path = format!("{}{VALUES}", chart.path);
    let values = done.text.map(|(before, after)| {
        let change = |(place, old, new)| FileChange {
            file: path.clone(),
            rule: "values".to_owned(),
            object: String::new(),
            path: place,
            old,
            new,
        };
        let changes = done.changes.into_iter().map(change).collect();
        NewValues { path: path.clone(), before, after, changes }
    });
    Ok(Solved { findings: all, values })
}

/// A text of the values and what it becomes.
type Pair = (String, String);

/// Rewrites the values of the chart at `folder`, which makes `rendered`.
///
/// # Errors
/// `Permanent` where the values are no YAML, or the chart can't be rendered with the new ones.
fn values(
    folder: &Path,
    rendered: &[Rendered],
    rules: &RuleSet,
    facts: &Facts,
    inputs: &Inputs,
) -> Result<Values, StepError> {
    let file = folder.join(VALUES);
    let stays = || Values { rendered: rendered.to_vec(), ..Values::default() };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(stays()),
        Err(e) => {
            return Err(StepError::permanent(format!("failed to read {}", file.display())).with_source(e));
        }
    };
    let failed = |e: &dyn std::fmt::Display| {
        StepError::permanent(format!("failed to rewrite {}: {e}", file.display()))
    };
    // Per document, every place that the rules change, and to what.
    let mut wanted: Vec<BTreeMap<String, (Value, Value)>> = Vec::new();
    for one in rendered {
        wanted.push(changed(one, rules, facts, inputs).map_err(|e| failed(&e))?);
    }
    let mut pairs: BTreeSet<Pair> = wanted
        .iter()
        .flat_map(BTreeMap::values)
        .flat_map(|(before, after)| candidates(before, after))
        .collect();
    for _ in 0..MAX_ROUNDS {
        let (edited, changes) = edit(&text, &pairs).map_err(|e| failed(&e))?;
        if changes.is_empty() {
            break;
        }
        let again = render::chart(folder, Some(&edited), render::NAMESPACE)?;
        let strays = strays(rendered, &again, &wanted);
        if strays.is_empty() {
            return Ok(Values { text: Some((text, edited)), changes, rendered: again });
        }
        let count = pairs.len();
        pairs.retain(|(before, after)| {
            !strays.iter().any(|(b, a)| b.contains(before.as_str()) && a.contains(after.as_str()))
        });
        if pairs.len() == count {
            break;
        }
    }
    Ok(stays())
}

/// What the rules find in a document of a chart; what its values solve is not in `after` any more.
fn findings(
    before: &Rendered,
    after: &Rendered,
    rules: &RuleSet,
    facts: &Facts,
    inputs: &Inputs,
) -> Result<Vec<Finding>, StepError> {
    let look = |rendered: &Rendered| {
        let documents = read(&rendered.text).map_err(|e| {
            StepError::permanent(format!("what {} makes is no YAML", rendered.template)).with_source(e)
        })?;
        let found = documents.iter().flat_map(|document| rules.findings(&document.root, None, facts, inputs));
        Ok::<Vec<Finding>, StepError>(found.collect())
    };
    let left = look(after)?;
    let mut found = look(before)?;
    for finding in &mut found {
        // In the template, and no line of it: what is found is what it makes.
        finding.line = 1;
        let is_left = left.iter().any(|left| left.rule == finding.rule && left.path == finding.path);
        finding.rewritten &= !is_left;
    }
    Ok(found)
}

/// Where a document changes, as a JSON pointer, and how.
fn changed(
    one: &Rendered,
    rules: &RuleSet,
    facts: &Facts,
    inputs: &Inputs,
) -> Result<BTreeMap<String, (Value, Value)>, Box<dyn std::error::Error>> {
    let documents = read(&one.text)?;
    let done = rules.rewrite(&one.text, &documents, facts, inputs)?;
    let (before, after) = (first(&one.text)?, first(&done.text)?);
    let same = before["kind"] == after["kind"] && before["metadata"]["name"] == after["metadata"]["name"];
    if !same {
        return Ok(BTreeMap::new());
    }
    Ok(texts(&before, &after).into_iter().map(|(path, before, after)| (path, (before, after))).collect())
}

fn first(text: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let documents = read(text)?;
    let root = documents.iter().map(|document| &document.root).find(|root| !objects(root).is_empty());
    Ok(root.map(Node::to_value).unwrap_or_default())
}

/// What may stand in the values for this change: the whole text, an image without its tag, a registry alone.
fn candidates(before: &Value, after: &Value) -> Vec<Pair> {
    let (Some(before), Some(after)) = (before.as_str(), after.as_str()) else { return Vec::new() };
    let mut all = vec![(before.to_owned(), after.to_owned())];
    for mark in [':', '/', '@'] {
        let parts =
            |text: &str| text.rsplit_once(mark).map(|(start, end)| (start.to_owned(), end.to_owned()));
        if let (Some((b, b_end)), Some((a, a_end))) = (parts(before), parts(after))
            && b_end == a_end
        {
            all.push((b, a));
        }
        let parts = |text: &str| text.split_once(mark).map(|(start, end)| (start.to_owned(), end.to_owned()));
        if let (Some((b, b_end)), Some((a, a_end))) = (parts(before), parts(after))
            && b_end == a_end
        {
            all.push((b, a));
        }
    }
    all.retain(|(before, after)| before.chars().count() >= MIN_CHARS && before != after);
    all
}

/// Where a value was replaced, and by what: its path, before, after.
type Replaced = (String, String, String);

/// The values with every text of `pairs` replaced that is a whole value, and what was replaced.
fn edit(text: &str, pairs: &BTreeSet<Pair>) -> Result<(String, Vec<Replaced>), Box<dyn std::error::Error>> {
    let unchanged = || (text.to_owned(), Vec::new());
    let Some(mut sheet) = Sheet::read(text.to_owned())? else { return Ok(unchanged()) };
    let mut places: Vec<(Place, Pair)> = Vec::new();
    gather(&sheet.root, &mut Vec::new(), pairs, &mut places);
    let mut changes = Vec::new();
    for (path, (before, after)) in places {
        changes.push((crate::workload::display(&path), before, after.clone()));
        sheet.edit(Edit::Set { path, value: after.into() })?;
    }
    Ok((sheet.text, changes))
}

fn gather(node: &Node, path: &mut Place, pairs: &BTreeSet<Pair>, places: &mut Vec<(Place, Pair)>) {
    if let Some(text) = node.text() {
        let pair = pairs.iter().find(|(before, _)| before == text);
        places.extend(pair.map(|pair| (path.clone(), pair.clone())));
    }
    for (at, item) in node.items().iter().enumerate() {
        path.push(Segment::Index(at));
        gather(item, path, pairs, places);
        path.pop();
    }
    for entry in node.entries() {
        let Some(key) = entry.key.text() else { continue };
        path.push(Segment::Key(key.to_owned().into()));
        gather(&entry.value, path, pairs, places);
        path.pop();
    }
}

/// Changes of what the chart makes that the rules did not want.
fn strays(before: &[Rendered], after: &[Rendered], wanted: &[BTreeMap<String, (Value, Value)>]) -> Vec<Pair> {
    if before.len() != after.len() {
        return vec![(String::new(), String::new())];
    }
    let mut all = Vec::new();
    for ((before, after), wanted) in before.iter().zip(after).zip(wanted) {
        let (Ok(before), Ok(after)) = (first(&before.text), first(&after.text)) else { continue };
        for (path, before, after) in texts(&before, &after) {
            let is_wanted = wanted.get(&path).is_some_and(|(_, wanted)| *wanted == after);
            if !is_wanted {
                all.push((
                    before.as_str().unwrap_or_default().to_owned(),
                    after.as_str().unwrap_or_default().to_owned(),
                ));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_may_stand_in_the_values_in_parts() {
        let pairs = candidates(
            &"1.dkr.ecr.us-east-1.amazonaws.com/shop/web:1.0".into(),
            &"shop.azurecr.io/shop/web:1.0".into(),
        );
        let expected = [
            ("1.dkr.ecr.us-east-1.amazonaws.com/shop/web:1.0", "shop.azurecr.io/shop/web:1.0"),
            ("1.dkr.ecr.us-east-1.amazonaws.com/shop/web", "shop.azurecr.io/shop/web"),
            ("1.dkr.ecr.us-east-1.amazonaws.com/shop", "shop.azurecr.io/shop"),
            ("1.dkr.ecr.us-east-1.amazonaws.com", "shop.azurecr.io"),
        ];
        assert_eq!(
            pairs.into_iter().collect::<BTreeSet<_>>(),
            expected.map(|(b, a)| (b.to_owned(), a.to_owned())).into()
        );
        assert_eq!(candidates(&"gp3".into(), &"x".into()), []);
        assert_eq!(candidates(&1.into(), &2.into()), []);
    }

    #[test]
    fn values_keep_their_comments_and_only_whole_values_are_replaced() {
        let text = "# ours\nzone: us-east-1a # here\nlist: [us-east-1a, 'not us-east-1a']\nus-east-1a: key\n";
        let pairs = [("us-east-1a".to_owned(), "eastus-1".to_owned())].into();
        let (edited, changes) = edit(text, &pairs).unwrap();
        assert_eq!(
            edited,
            "# ours\nzone: eastus-1 # here\nlist: [eastus-1, 'not us-east-1a']\nus-east-1a: key\n"
        );
        assert_eq!(changes.len(), 2);
    }

    #[test]
    fn what_the_rules_did_not_want_is_a_stray() {
        let one = |zone: &str, name: &str| Rendered {
            template: "a".to_owned(),
            text: format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{zone: {zone}, name: {name}}}\n"
            ),
        };
        let wanted = [BTreeMap::from([("/data/zone".to_owned(), ("us-east-1a".into(), "eastus-1".into()))])];
        let before = [one("us-east-1a", "us-east-1a")];
        assert_eq!(strays(&before, &[one("eastus-1", "us-east-1a")], &wanted), []);
        assert_eq!(
            strays(&before, &[one("eastus-1", "eastus-1")], &wanted),
            [("us-east-1a".to_owned(), "eastus-1".to_owned())]
        );
    }
}
