//! Claims: their classes, sizes and volumes.

use std::sync::LazyLock;

use regex::Regex;

use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::inputs::{Inputs, Lookup};
use crate::rules::object::Object;
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

/// Provisioners of EBS: the old one in the tree, the add-on's, that of Auto Mode.
const EBS: [&str; 3] = ["kubernetes.io/aws-ebs", "ebs.csi.aws.com", "ebs.csi.eks.amazonaws.com"];

const EFS: &str = "efs.csi.aws.com";

/// How a key of KMS is named: its driver reads parameters in any case.
/// <https://github.com/kubernetes-sigs/aws-ebs-csi-driver/blob/master/docs/parameters.md>
const KMS_KEYS: [&str; 3] = ["kmsKeyId", "kmsKeyID", "kmskeyid"];

/// Claims and claim templates of the object, with the names that they are looked up by.
pub(crate) fn claims<'a>(object: &Object<'a>) -> Vec<(Path, &'a Node, String)> {
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

/// A class by name. A claim on EFS keeps its class until its size is given: by that it is found.
pub(super) fn class(look: &Look<'_>) -> Vec<Match> {
    let mut all: Vec<Match> = Vec::new();
    let unsized_claims: Vec<(Path, Lookup)> = claims(look.object)
        .into_iter()
        .filter_map(|(path, spec, name)| {
            Some((with(&path, "storageClassName"), share_size(look, spec, &name)?))
        })
        .filter(|(_, size)| size.is_err())
        .collect();
    for pattern in CLASSES.iter() {
        for (path, node) in look.object.find(pattern) {
            let Some(name) = node.text().filter(|name| !name.is_empty() && !node.is_null()) else { continue };
            if all.iter().any(|m| m.path == path) {
                continue;
            }
            let mut found = Match::at(path.clone()).found(name);
            match look.inputs.storage_classes.get(name) {
                Some(new) if new != name => {
                    if let Some((_, size)) = unsized_claims.iter().find(|(claim, _)| *claim == path) {
                        found.need(size.clone());
                    }
                    all.push(found.edit(Edit::Set { path, value: new.as_str().into() }));
                }
                Some(_) => {}
                // A class that is among the files is rewritten itself, and keeps its name.
                None if look.facts.has_made("StorageClass", name) && !look.facts.is_live => {}
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
    for (path, spec, _) in claims(look.object) {
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

/// The size that the site gives a claim on EFS; `None` for claims on anything else.
fn share_size(look: &Look<'_>, spec: &Node, name: &str) -> Option<Lookup> {
    let class = spec.text_at(&["storageClassName"]).unwrap_or_default();
    let is_efs = match look.facts.classes.get(class) {
        Some(by) => by == EFS,
        None => class == "efs" || class.starts_with("efs-"),
    };
    is_efs.then(|| claim_size(look.inputs, &look.object.namespace, name))
}

/// The size of a claim, by its namespace and name or by its name.
fn claim_size(inputs: &Inputs, namespace: &str, name: &str) -> Lookup {
    let full = match namespace {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    };
    let by_name = |missing| inputs.entry("claim-sizes", name).map_err(|_| missing);
    inputs.entry("claim-sizes", &full).or_else(by_name)
}

/// A claim on EFS, whose size is fiction there, however large, and real on Azure Files.
pub(super) fn size(look: &Look<'_>) -> Vec<Match> {
    let mut all = Vec::new();
    for (path, spec, name) in claims(look.object) {
        let Some(size) = spec.text_at(&["resources", "requests", "storage"]) else { continue };
        let Some(wanted) = share_size(look, spec, &name) else { continue };
        let path = [path, vec![key("resources"), key("requests"), key("storage")]].concat();
        let mut found = Match::at(path.clone()).found(size);
        match found.need(wanted) {
            Some(new) if new != size => all.push(found.edit(Edit::Set { path, value: new.into() })),
            Some(_) => {}
            None => all.push(found),
        }
    }
    all
}

/// A class of EBS. It stays one while a setting of it waits for an input: Azure's driver refuses what it
/// does not know, and of a class that is Azure's already no rule would tell.
pub(super) fn ebs_class(look: &Look<'_>) -> Vec<Match> {
    let node = look.object.node;
    let Some(by) = node.text_at(&["provisioner"]).filter(|by| EBS.contains(by)) else { return Vec::new() };
    let path = vec![key("provisioner")];
    let mut found = Match::at(path.clone()).found(by);
    for arn in KMS_KEYS.iter().filter_map(|key| node.text_at(&["parameters", key])) {
        found.need(look.inputs.entry("disk-encryption-sets", arn));
    }
    if matches!(node.text_at(&["parameters", "type"]), Some("io1" | "io2")) {
        found.need(look.inputs.single("provisioned-iops-sku"));
    }
    vec![found.edit(Edit::Set { path, value: "disk.csi.azure.com".into() })]
}

/// A class of EFS. It stays one while a claim that names it lacks its size: of a claim on a class that is Azure's
/// already nobody would ask it.
pub(super) fn efs_class(look: &Look<'_>) -> Vec<Match> {
    let Some(by) = look.object.node.text_at(&["provisioner"]).filter(|by| *by == EFS) else {
        return Vec::new();
    };
    let path = vec![key("provisioner")];
    let mut found = Match::at(path.clone()).found(by);
    for (namespace, name) in look.facts.claims.get(&look.object.name).into_iter().flatten() {
        found.need(claim_size(look.inputs, namespace, name));
    }
    found = found.edit(Edit::Set { path, value: "file.csi.azure.com".into() });
    for (name, value) in [("protocol", "nfs"), ("skuName", "Premium_LRS")] {
        let path = vec![key("parameters")];
        found = found.edit(Edit::Insert { path, key: name.to_owned(), value: value.into() });
    }
    vec![found]
}

/// Whether the claim asks for no class, which is another thing than to name none: nothing is provisioned.
fn is_classless(spec: &Node) -> bool {
    spec.get("storageClassName").is_some_and(|class| class.text() == Some("") && !class.is_null())
}

/// A claim of no class, and no volume among the objects that it could have on AKS.
pub(super) fn classless(look: &Look<'_>) -> Vec<Match> {
    let mut all = Vec::new();
    for (path, spec, _) in claims(look.object).into_iter().filter(|(_, spec, _)| is_classless(spec)) {
        let volume = spec.text_at(&["volumeName"]).filter(|name| !name.is_empty());
        let others = &look.facts.other_volumes;
        let is_there = volume.map_or(!others.is_empty(), |name| others.contains(name));
        if !is_there {
            let found = Match::at(with(&path, "storageClassName"));
            all.push(match volume {
                Some(volume) => found.found(volume),
                None => found,
            });
        }
    }
    all
}

/// A claim that is bound to a volume of AWS by name. One of no class would not get another.
pub(super) fn volume(look: &Look<'_>) -> Vec<Match> {
    let Some(spec) = look.object.node.get("spec").filter(|spec| !is_classless(spec)) else {
        return Vec::new();
    };
    let Some(name) = spec.text_at(&["volumeName"]) else { return Vec::new() };
    if !PROVISIONED.is_match(name) && !look.facts.volumes.contains(name) {
        return Vec::new();
    }
    let path = vec![key("spec"), key("volumeName")];
    vec![Match::at(path.clone()).found(name).edit(Edit::Delete { path })]
}
