//! Claims: their classes, sizes and volumes.

use std::sync::LazyLock;

use regex::Regex;

use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::path::{Path, Pattern, key, with};

/// Classes that exist on EKS by custom.
static CUSTOMARY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("^(gp2|gp3|io1|io2|st1|sc1|(auto-)?ebs(-.*)?|efs(-.*)?)$").expect("a constant")
});

/// A name that the provisioner gave.
static PROVISIONED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^pvc-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$").expect("a constant"));

static TEMPLATES: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::parse("spec.volumeClaimTemplates[]").expect("a constant"));

/// Where a class is named.
static CLASSES: LazyLock<[Pattern; 3]> = LazyLock::new(|| {
    [
        "**.storageClassName",
        "**.metadata.annotations[\"volume.beta.kubernetes.io/storage-class\"]",
        "metadata.annotations[\"volume.beta.kubernetes.io/storage-class\"]",
    ]
    .map(|pattern| Pattern::parse(pattern).expect("a constant"))
});

/// The smallest NFS share of Azure Files on provisioned premium storage, in GiB.
const SHARE_GIB: u64 = 100;

/// Claims and claim templates of the object, with the names that they are looked up by.
pub(super) fn claims<'a>(look: &Look<'a>) -> Vec<(Path, &'a Node, String)> {
    let object = look.object;
    if object.kind == "PersistentVolumeClaim" {
        let spec = object.node.get("spec");
        return spec.map(|spec| (vec![key("spec")], spec, object.name.clone())).into_iter().collect();
    }
    object
        .find(&TEMPLATES)
        .into_iter()
        .filter_map(|(path, template)| {
            let name = template.text_at(&["metadata", "name"]).unwrap_or_default();
            Some((with(&path, "spec"), template.get("spec")?, format!("{name}-{}", object.name)))
        })
        .collect()
}

/// Whether a class is one of AWS, by what is known of it or by its name.
pub(super) fn is_of_aws(look: &Look<'_>, class: &str) -> bool {
    look.facts.classes.contains_key(class) || CUSTOMARY.is_match(class)
}

/// A class by name.
pub(super) fn class(look: &Look<'_>) -> Vec<Match> {
    let mut all: Vec<Match> = Vec::new();
    for pattern in CLASSES.iter() {
        for (path, node) in look.object.find(pattern) {
            let Some(name) = node.text().filter(|name| !name.is_empty() && !node.is_null()) else { continue };
            if all.iter().any(|m| m.path == path) {
                continue;
            }
            let mut found = Match::at(path.clone()).found(name);
            match look.inputs.storage_classes.get(name) {
                Some(new) if new != name => {
                    all.push(found.edit(Edit::Set { path, value: new.as_str().into() }));
                }
                Some(_) => {}
                // A class that is among the files is rewritten itself, and keeps its name.
                None if look.facts.classes.contains_key(name) && !look.facts.is_live => {}
                None if is_of_aws(look, name) => {
                    found.need(look.inputs.entry("storage-classes", name));
                    all.push(found);
                }
                None => {}
            }
        }
    }
    all
}

/// A claim that takes the cluster's default class.
pub(super) fn default_class(look: &Look<'_>) -> Vec<Match> {
    let is_given = look.inputs.default_storage_class.is_some();
    if !look.facts.aws_default_class && !is_given {
        return Vec::new();
    }
    let annotation = ["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"];
    let mut all = Vec::new();
    for (path, spec, _) in claims(look) {
        if spec.get("storageClassName").is_some() || look.object.node.at(&annotation).is_some() {
            continue;
        }
        let mut found = Match::at(path.clone());
        if let Some(class) = found.need(look.inputs.single("default-storage-class")) {
            found =
                found.edit(Edit::Insert { path, key: "storageClassName".to_owned(), value: class.into() });
        }
        all.push(found);
    }
    all
}

/// A claim on EFS, whose size is fiction there and real on Azure Files.
pub(super) fn size(look: &Look<'_>) -> Vec<Match> {
    let mut all = Vec::new();
    for (path, spec, name) in claims(look) {
        let class = spec.text_at(&["storageClassName"]).unwrap_or_default();
        let by = look.facts.classes.get(class).map(String::as_str);
        let is_efs =
            by == Some("efs.csi.aws.com") || (by.is_none() && (class == "efs" || class.starts_with("efs-")));
        let size = spec.text_at(&["resources", "requests", "storage"]);
        let Some(size) = size.filter(|size| is_efs && gib(size).is_some_and(|gib| gib < SHARE_GIB)) else {
            continue;
        };
        let path = [path, vec![key("resources"), key("requests"), key("storage")]].concat();
        let mut found = Match::at(path.clone()).found(size);
        let full = match look.object.namespace.as_str() {
            "" => name.clone(),
            namespace => format!("{namespace}/{name}"),
        };
        let short = look.inputs.entry("claim-sizes", &name);
        let wanted = look.inputs.entry("claim-sizes", &full).or_else(|missing| short.map_err(|_| missing));
        match found.need(wanted) {
            Some(new) if new != size => all.push(found.edit(Edit::Set { path, value: new.into() })),
            Some(_) => {}
            None => all.push(found),
        }
    }
    all
}

fn gib(size: &str) -> Option<u64> {
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let number: u64 = size[..digits].parse().ok()?;
    Some(match &size[digits..] {
        "Ti" | "T" => number.saturating_mul(1024),
        "Pi" | "P" => number.saturating_mul(1024 * 1024),
        "Gi" | "G" => number,
        "Mi" | "M" => number / 1024,
        "Ki" | "k" => number / 1024 / 1024,
        "" => number / 1024 / 1024 / 1024,
        _ => return None,
    })
}

/// A claim that is bound to a volume of AWS by name.
pub(super) fn volume(look: &Look<'_>) -> Vec<Match> {
    let Some(name) = look.object.node.text_at(&["spec", "volumeName"]) else { return Vec::new() };
    if !PROVISIONED.is_match(name) && !look.facts.volumes.contains(name) {
        return Vec::new();
    }
    let path = vec![key("spec"), key("volumeName")];
    vec![Match::at(path.clone()).found(name).edit(Edit::Delete { path })]
}
