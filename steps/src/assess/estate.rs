//! Which objects belong to which workload, and which workloads need each other. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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

thread_local! {
    static PATTERNS: Vec<(&'static str, Pattern)> = REFERENCES
        .iter()
        .filter_map(|(kind, path)| Some((*kind, Pattern::parse(path).ok()?)))
        .collect();
}

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
        PATTERNS.with(|patterns| {
            for (kind, pattern) in patterns {
                let found = pattern.find(node).into_iter();
                seen.refers
                    .extend(found.filter_map(|(_, n)| Some(((*kind).to_owned(), n.text()?.to_owned()))));
            }
        });
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
        let mut by_name: HashMap<(&str, &str), Vec<&Seen>> = HashMap::new();
        for seen in &self.seen {
            by_name.entry((seen.key.0.as_str(), seen.key.2.as_str())).or_default().push(seen);
        }
        let in_reach = |a: &Key, b: &Key| a.1 == b.1 || a.1.is_empty() || b.1.is_empty();
        // What workloads refer to, what selects their pods, and what refers to any of these.
        for (at, workload) in workloads.iter().enumerate() {
            for (kind, name) in &workload.refers {
                for found in by_name.get(&(kind.as_str(), name.as_str())).into_iter().flatten() {
                    if in_reach(&found.key, &workload.key) {
                        groups.of.entry(found.key.clone()).or_insert(at);
                    }
                }
            }
        }
        let mut by_label: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for (at, workload) in workloads.iter().enumerate() {
            for (key, value) in workload.pods.iter().flatten() {
                by_label.entry((key.as_str(), value.as_str())).or_default().push(at);
            }
        }
        let mut services: HashMap<String, Vec<(String, usize)>> = HashMap::new();
        for service in &self.seen {
            let Some(selector) = service.selector.as_ref().filter(|selector| !selector.is_empty()) else {
                continue;
            };
            let Some((key, value)) = selector.iter().next() else { continue };
            let fitting = by_label.get(&(key.as_str(), value.as_str())).into_iter().flatten();
            for at in fitting {
                let pods = workloads[*at].pods.as_ref();
                let selects = selector.iter().all(|(k, v)| pods.and_then(|pods| pods.get(k)) == Some(v));
                if selects && in_reach(&service.key, &workloads[*at].key) {
                    groups.of.entry(service.key.clone()).or_insert(*at);
                    services.entry(service.key.2.clone()).or_default().push((service.key.1.clone(), *at));
                }
            }
        }
        for _ in 0..2 {
            for seen in self.seen.iter().filter(|seen| seen.pods.is_none()) {
                let owner = seen.refers.iter().find_map(|(kind, name)| {
                    let found = by_name.get(&(kind.as_str(), name.as_str()))?;
                    found
                        .iter()
                        .find(|f| in_reach(&f.key, &seen.key))
                        .and_then(|f| groups.of.get(&f.key))
                        .copied()
                });
                if let Some(owner) = owner {
                    groups.of.entry(seen.key.clone()).or_insert(owner);
                }
            }
        }
        groups.needs = self.needs(&workloads, &by_name, &services);
        groups.waves = waves(&groups.needs);
        groups
    }

    /// A workload needs another whose Service its texts, or those of its ConfigMaps, name.
    fn needs(
        &self,
        workloads: &[&Seen],
        by_name: &HashMap<(&str, &str), Vec<&Seen>>,
        services: &HashMap<String, Vec<(String, usize)>>,
    ) -> Vec<BTreeSet<usize>> {
        let of = |(at, workload): (usize, &&Seen)| {
            let maps = workload.refers.iter().filter(|(kind, _)| kind == "ConfigMap");
            let maps = maps.filter_map(|(kind, name)| by_name.get(&(kind.as_str(), name.as_str()))).flatten();
            let all = maps.flat_map(|map| &map.words).chain(&workload.words);
            let mut needed = BTreeSet::new();
            for word in all {
                let mut parts = word.split('.');
                let name = parts.next().unwrap_or_default();
                let namespace = parts.next().unwrap_or(&workload.key.1);
                for (in_namespace, other) in services.get(name).into_iter().flatten() {
                    let is_there =
                        in_namespace == namespace || in_namespace.is_empty() || namespace.is_empty();
                    if is_there && *other != at {
                        needed.insert(*other);
                    }
                }
            }
            needed
        };
        workloads.iter().enumerate().map(of).collect()
    }
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
    let reach: Vec<BTreeSet<usize>> = (0..needs.len())
        .map(|from| {
            let mut seen = BTreeSet::new();
            let mut open: Vec<usize> = needs[from].iter().copied().collect();
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(&needs[next]);
                }
            }
            seen
        })
        .collect();
    // Longest way down, where a circle is one place.
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|at| reach[*at].len());
    let mut waves = vec![1; needs.len()];
    for at in order {
        let below = reach[at].iter().filter(|other| !reach[**other].contains(&at));
        waves[at] = below.map(|other| waves[*other] + 1).max().unwrap_or(1);
    }
    waves
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
    }
}
