//! Which objects belong to which workload, and which workloads need each other. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::LazyLock;

use crate::rules::document::Node;
use crate::rules::object::Object;
use crate::rules::path::Pattern;

/// Kind, namespace and name.
pub(crate) type Key = (String, String, String);

/// An object, as far as others matter to it.
#[derive(Debug, Clone, Default)]
struct Seen {
    key: Key,
    /// Labels of its pods, where it is a workload.
    pods: Option<BTreeMap<String, String>>,
    /// A Service's selector.
    selector: Option<BTreeMap<String, String>>,
    /// Kinds and names that it refers to.
    refers: BTreeSet<(String, String)>,
    /// Words in its texts that may be the names of Services.
    words: BTreeSet<String>,
}

/// All objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estate {
    seen: Vec<Seen>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Workloads, sorted.
    pub workloads: Vec<Key>,
    /// The workload of each object that has one.
    pub of: HashMap<Key, usize>,
    /// The wave of each workload, from 1: after those that it needs.
    pub waves: Vec<usize>,
    /// The workloads that each workload needs.
    pub needs: Vec<BTreeSet<usize>>,
}

/// Where a pod's spec, an Ingress, a scaler … name other objects.
const REFERENCES: [(&str, &str); 12] = [
    ("ServiceAccount", "{pod}.serviceAccountName"),
    ("ConfigMap", "{pod}.volumes[].configMap.name"),
    ("ConfigMap", "**.configMapKeyRef.name"),
    ("ConfigMap", "**.configMapRef.name"),
    ("Secret", "{pod}.volumes[].secret.secretName"),
    ("Secret", "**.secretKeyRef.name"),
    ("Secret", "**.secretRef.name"),
    ("PersistentVolumeClaim", "{pod}.volumes[].persistentVolumeClaim.claimName"),
    ("SecretProviderClass", "{pod}.volumes[].csi.volumeAttributes.secretProviderClass"),
    ("Service", "**.backend.service.name"),
    ("Service", "**.backendRefs[].name"),
    ("TriggerAuthentication", "spec.triggers[].authenticationRef.name"),
];

static PATTERNS: LazyLock<Vec<(&str, Pattern)>> = LazyLock::new(|| {
    let parsed = REFERENCES.iter().map(|(kind, path)| (*kind, Pattern::parse(path).expect("a constant")));
    parsed.collect()
});

/// Things by a key and a namespace; an empty namespace is in reach of all.
struct Reach<'a, K, T>(HashMap<K, BTreeMap<&'a str, Vec<T>>>);

impl<'a, K: Eq + Hash, T> Reach<'a, K, T> {
    fn insert(&mut self, key: K, namespace: &'a str, value: T) {
        self.0.entry(key).or_default().entry(namespace).or_default().push(value);
    }

    /// What has this key and is in reach of `namespace`.
    fn get<'r>(&'r self, key: &K, namespace: &str) -> impl Iterator<Item = &'r T> + use<'r, 'a, K, T> {
        let there = self.0.get(key);
        let (all, own, shared) = match (there, namespace) {
            (Some(there), "") => (Some(there.values()), None, None),
            (Some(there), namespace) => (None, there.get(namespace), there.get("")),
            (None, _) => (None, None, None),
        };
        all.into_iter().flatten().chain(own).chain(shared).flatten()
    }
}

type ByName<'a> = Reach<'a, (&'a str, &'a str), &'a Seen>;

fn labels(node: Option<&Node>) -> BTreeMap<String, String> {
    let entries = node.map_or(&[][..], Node::entries).iter();
    entries.filter_map(|e| Some((e.key.text()?.to_owned(), e.value.text()?.to_owned()))).collect()
}

impl Estate {
    /// Takes one object.
    pub(crate) fn take(&mut self, object: &Object<'_>) {
        let node = object.node;
        let mut seen = Seen {
            key: (object.kind.clone(), object.namespace.clone(), object.name.clone()),
            ..Seen::default()
        };
        seen.pods = match object.kind.as_str() {
            "Pod" => Some(labels(node.at(&["metadata", "labels"]))),
            "CronJob" => pods(node.at(&["spec", "jobTemplate", "spec", "template"])),
            _ => pods(node.at(&["spec", "template"])),
        };
        if object.kind == "Service" {
            seen.selector = node.at(&["spec", "selector"]).map(|selector| labels(Some(selector)));
        }
        for (kind, pattern) in PATTERNS.iter() {
            let found = object.find(pattern).into_iter();
            seen.refers.extend(found.filter_map(|(_, n)| Some(((*kind).to_owned(), n.text()?.to_owned()))));
        }
        if let Some(target) = node.at(&["spec", "scaleTargetRef"]) {
            let kind = target.text_at(&["kind"]).unwrap_or("Deployment").to_owned();
            seen.refers.insert((kind, target.text_at(&["name"]).unwrap_or_default().to_owned()));
        }
        if object.kind == "ExternalSecret" {
            let name = node.text_at(&["spec", "target", "name"]).unwrap_or(&object.name);
            seen.refers.insert(("Secret".to_owned(), name.to_owned()));
        }
        if seen.pods.is_some() || object.kind == "ConfigMap" {
            words(node.get("spec").or_else(|| node.get("data")), &mut seen.words);
        }
        self.seen.push(seen);
    }

    /// Puts the objects together.
    pub(crate) fn groups(&self) -> Groups {
        let mut groups = Groups::default();
        let mut workloads: Vec<&Seen> = self.seen.iter().filter(|seen| seen.pods.is_some()).collect();
        workloads.sort_by(|a, b| (&a.key.1, &a.key.2, &a.key.0).cmp(&(&b.key.1, &b.key.2, &b.key.0)));
        groups.workloads = workloads.iter().map(|seen| seen.key.clone()).collect();
        groups.of = groups.workloads.iter().cloned().enumerate().map(|(at, key)| (key, at)).collect();
        let mut by_name: ByName<'_> = Reach(HashMap::new());
        for seen in &self.seen {
            let (kind, namespace, name) = &seen.key;
            by_name.insert((kind.as_str(), name.as_str()), namespace, seen);
        }
        // What workloads refer to, what selects their pods, and what refers to any of these.
        for (at, workload) in workloads.iter().enumerate() {
            for (kind, name) in &workload.refers {
                for found in by_name.get(&(kind.as_str(), name.as_str()), &workload.key.1) {
                    groups.of.entry(found.key.clone()).or_insert(at);
                }
            }
        }
        let mut by_label: Reach<'_, (&str, &str), usize> = Reach(HashMap::new());
        for (at, workload) in workloads.iter().enumerate() {
            for (key, value) in workload.pods.iter().flatten() {
                by_label.insert((key.as_str(), value.as_str()), &workload.key.1, at);
            }
        }
        let mut services: Reach<'_, &str, usize> = Reach(HashMap::new());
        for service in &self.seen {
            let Some(selector) = &service.selector else { continue };
            let Some((key, value)) = selector.iter().next() else { continue };
            for at in by_label.get(&(key.as_str(), value.as_str()), &service.key.1) {
                let pods = workloads[*at].pods.as_ref();
                if selector.iter().all(|(k, v)| pods.and_then(|pods| pods.get(k)) == Some(v)) {
                    groups.of.entry(service.key.clone()).or_insert(*at);
                    services.insert(&service.key.2, &service.key.1, *at);
                }
            }
        }
        for _ in 0..2 {
            for seen in self.seen.iter().filter(|seen| seen.pods.is_none()) {
                let owner = seen.refers.iter().find_map(|(kind, name)| {
                    let mut found = by_name.get(&(kind.as_str(), name.as_str()), &seen.key.1);
                    found.next().and_then(|found| groups.of.get(&found.key)).copied()
                });
                if let Some(owner) = owner {
                    groups.of.entry(seen.key.clone()).or_insert(owner);
                }
            }
        }
        groups.needs = needs(&workloads, &by_name, &services);
        groups.waves = waves(&groups.needs);
        groups
    }
}

/// A workload needs another whose Service its texts, or those of its ConfigMaps, name.
fn needs(
    workloads: &[&Seen],
    by_name: &ByName<'_>,
    services: &Reach<'_, &str, usize>,
) -> Vec<BTreeSet<usize>> {
    let of = |(at, workload): (usize, &&Seen)| {
        let own = &workload.key.1;
        let maps = workload.refers.iter().filter(|(kind, _)| kind == "ConfigMap");
        let maps = maps.flat_map(|(kind, name)| by_name.get(&(kind.as_str(), name.as_str()), own));
        let mut needed = BTreeSet::new();
        for word in maps.flat_map(|map| &map.words).chain(&workload.words) {
            let mut parts = word.split('.');
            let name = parts.next().unwrap_or_default();
            let namespace = parts.next().unwrap_or(own);
            needed.extend(services.get(&name, namespace).filter(|other| **other != at));
        }
        needed
    };
    workloads.iter().enumerate().map(of).collect()
}

fn pods(template: Option<&Node>) -> Option<BTreeMap<String, String>> {
    let template = template?;
    template.at(&["spec", "containers"])?;
    Some(labels(template.at(&["metadata", "labels"])))
}

/// Host names in texts: `http://cart:80/x` → `cart`.
fn words(node: Option<&Node>, found: &mut BTreeSet<String>) {
    let Some(node) = node else { return };
    if let Some(text) = node.text() {
        let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c)));
        found.extend(parts.filter(|part| !part.is_empty() && part.len() < 254).map(str::to_owned));
    }
    node.items().iter().for_each(|item| words(Some(item), found));
    node.entries().iter().for_each(|entry| words(Some(&entry.value), found));
}

/// Each after those that it needs; who need each other go together.
fn waves(needs: &[BTreeSet<usize>]) -> Vec<usize> {
    let mut search = Search {
        needs,
        found: vec![None; needs.len()],
        lowest: vec![0; needs.len()],
        waves: vec![0; needs.len()],
        open: Vec::new(),
        count: 0,
    };
    (0..needs.len()).for_each(|start| search.from(start));
    search.waves
}

/// Tarjan's search for circles, without recursion: each circle ends after all that it needs.
struct Search<'a> {
    needs: &'a [BTreeSet<usize>],
    /// In which order each was found.
    found: Vec<Option<usize>>,
    /// The first found of those that it reaches.
    lowest: Vec<usize>,
    /// 0 while the circle is open.
    waves: Vec<usize>,
    open: Vec<usize>,
    count: usize,
}

impl Search<'_> {
    fn from(&mut self, start: usize) {
        if self.found[start].is_some() {
            return;
        }
        let mut way = vec![(start, self.enter(start))];
        while let Some((at, below)) = way.last_mut() {
            let at = *at;
            match below.next() {
                Some(next) => match self.found[next] {
                    None => way.push((next, self.enter(next))),
                    Some(found) if self.waves[next] == 0 => self.lowest[at] = self.lowest[at].min(found),
                    Some(_) => {}
                },
                None => {
                    way.pop();
                    if let Some((above, _)) = way.last() {
                        self.lowest[*above] = self.lowest[*above].min(self.lowest[at]);
                    }
                    if Some(self.lowest[at]) == self.found[at] {
                        self.close(at);
                    }
                }
            }
        }
    }

    fn enter(&mut self, at: usize) -> std::vec::IntoIter<usize> {
        self.found[at] = Some(self.count);
        self.lowest[at] = self.count;
        self.count += 1;
        self.open.push(at);
        self.needs[at].iter().copied().collect::<Vec<_>>().into_iter()
    }

    fn close(&mut self, first: usize) {
        let from = self.open.iter().rposition(|at| *at == first).unwrap_or(0);
        let circle = self.open.split_off(from);
        // What is not closed yet is of the circle itself, and has no wave.
        let below = circle.iter().flat_map(|at| &self.needs[*at]).map(|other| self.waves[*other]);
        let wave = below.max().unwrap_or(0) + 1;
        circle.iter().for_each(|at| self.waves[*at] = wave);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_follow_needs_and_circles_go_together() {
        let needs = |list: &[&[usize]]| -> Vec<BTreeSet<usize>> {
            list.iter().map(|n| n.iter().copied().collect()).collect()
        };
        assert_eq!(waves(&needs(&[&[1], &[2], &[]])), [3, 2, 1]);
        assert_eq!(waves(&needs(&[&[1], &[0], &[0]])), [1, 1, 2]);
        assert_eq!(waves(&needs(&[&[], &[]])), [1, 1]);
        // A circle behind a circle, and one that needs both.
        assert_eq!(waves(&needs(&[&[1, 2], &[0], &[3], &[2], &[0, 3]])), [2, 2, 1, 1, 3]);
    }

    #[test]
    fn a_long_row_costs_no_stack_and_no_square() {
        let row: Vec<BTreeSet<usize>> =
            (0..100_000_usize).map(|at| at.checked_sub(1).into_iter().collect()).collect();
        assert_eq!(waves(&row), (1..=100_000).collect::<Vec<_>>());
    }
}
