//! IAM roles of service accounts and what becomes of them.

use super::pods as pod_specs;
use crate::manifests::edit::Edit;
use crate::rules::engine::{Look, Match};
use crate::rules::inputs::Lookup;
use crate::rules::path::{Path, key, with, with_index};
use crate::workload::Segment;

const ROLE: &str = "eks.amazonaws.com/role-arn";
const CLIENT: &str = "azure.workload.identity/client-id";
const USE: &str = "azure.workload.identity/use";

/// The client ID for a service account, by its name or by its role.
pub(super) fn client_id(look: &Look<'_>, namespace: &str, account: &str, role: Option<&str>) -> Lookup {
    let full = if namespace.is_empty() { account.to_owned() } else { format!("{namespace}/{account}") };
    let by_name = look.inputs.entry("identities", &full);
    let by_role = || role.and_then(|role| look.inputs.entry("identities", role).ok());
    let by_end = || {
        if !namespace.is_empty() {
            return None;
        }
        let end = format!("/{account}");
        let mut fitting = look
            .inputs
            .identities
            .iter()
            .filter(|(name, _)| !name.starts_with("arn:") && name.ends_with(&end));
        let first = fitting.next()?;
        fitting.next().is_none().then(|| first.1.clone())
    };
    by_name.clone().ok().or_else(by_role).or_else(by_end).map_or(by_name, Ok)
}

/// A service account with a role.
pub(super) fn role(look: &Look<'_>) -> Vec<Match> {
    let object = look.object;
    let annotations = vec![key("metadata"), key("annotations")];
    let Some(role) = object.node.text_at(&["metadata", "annotations", ROLE]) else { return Vec::new() };
    let path = with(&annotations, ROLE);
    let mut found = Match::at(path.clone()).found(role);
    if let Some(client) = found.need(client_id(look, &object.namespace, &object.name, Some(role))) {
        if object.node.at(&["metadata", "annotations", CLIENT]).is_some() {
            found = found.edit(Edit::Delete { path });
        } else {
            found = found.edit(Edit::Set { path: path.clone(), value: client.into() });
            found = found.edit(Edit::Rename { path, to: CLIENT.to_owned() });
        }
    }
    vec![found]
}

/// A service account that gets an identity though it has no role: a Pod Identity association, which
/// only the EKS API knows.
pub(super) fn association(look: &Look<'_>) -> Vec<Match> {
    let object = look.object;
    let has = |name: &str| object.node.at(&["metadata", "annotations", name]).is_some();
    if has(ROLE) || has(CLIENT) {
        return Vec::new();
    }
    let Ok(client) = client_id(look, &object.namespace, &object.name, None) else { return Vec::new() };
    let path = vec![key("metadata"), key("annotations")];
    vec![Match::at(path.clone()).edit(Edit::Insert { path, key: CLIENT.to_owned(), value: client.into() })]
}

/// Pods that run as a service account with a role.
pub(super) fn pods(look: &Look<'_>) -> Vec<Match> {
    let object = look.object;
    let mut all = Vec::new();
    for (path, spec) in pod_specs(object) {
        let Some((_, template)) = path.split_last() else { continue };
        let is_template = matches!(template.last(), Some(Segment::Key(name)) if name == "template");
        if !is_template && object.kind != "Pod" {
            continue;
        }
        let account = spec.text_at(&["serviceAccountName"]).or_else(|| spec.text_at(&["serviceAccount"]));
        let account = account.unwrap_or("default");
        let role = look.facts.roles.get(&object.namespace, account).map(String::as_str);
        let is_known = || look.inputs.identities.contains_key(&format!("{}/{account}", object.namespace));
        if role.is_none() && !is_known() {
            continue;
        }
        let labels: Path = [template, &[key("metadata"), key("labels")]].concat();
        let label = with(&labels, USE);
        if object.node.follow(&label).and_then(|label| label.text()) == Some("true") {
            continue;
        }
        let mut found = Match::at(with(&path, "serviceAccountName")).found(account);
        if found.need(client_id(look, &object.namespace, account, role)).is_some() {
            found = found.edit(Edit::Insert { path: labels, key: USE.to_owned(), value: "true".into() });
        }
        all.push(found);
    }
    all
}

/// Subjects of bindings that only `aws-auth` or an access entry gives a meaning.
pub(super) fn groups(look: &Look<'_>) -> Vec<Match> {
    let subjects = look.object.node.get("subjects").map_or(&[][..], |subjects| subjects.items());
    let mut all = Vec::new();
    for (at, subject) in subjects.iter().enumerate() {
        let name = subject.text_at(&["name"]).unwrap_or_default();
        let is_person = matches!(subject.text_at(&["kind"]), Some("User" | "Group"));
        let is_aws =
            name.starts_with("arn:aws") || name.starts_with("eks:") || look.facts.iam_subjects.contains(name);
        if is_person && is_aws {
            let path = with(&with_index(&[key("subjects")], at), "name");
            all.push(Match::at(path).found(name));
        }
    }
    all
}
