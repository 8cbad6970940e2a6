//! Images in ECR.

use std::sync::LazyLock;

use regex::Regex;

use super::strings;
use crate::manifests::edit::Edit;
use crate::rules::engine::{Look, Match};
use crate::rules::path::{Path, owned};
use crate::workload::{Segment, is_image, renamed};

/// A private registry, in text too. Groups: host.
static ECR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b([0-9]{12}\.dkr[.-]ecr(?:-fips)?\.[a-z0-9-]+\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn))")
        .expect("a constant")
});

/// Accounts in which EKS keeps its add-ons' images, by region.
/// <https://docs.aws.amazon.com/eks/latest/userguide/add-ons-images.html>
const ADDON_ACCOUNTS: [&str; 19] = [
    "602401143452",
    "800184023465",
    "877085696533",
    "558608220178",
    "590381155156",
    "900889452093",
    "455263428931",
    "066635153087",
    "491585149902",
    "296578399912",
    "900612956339",
    "761377655185",
    "759879836304",
    "151742754352",
    "013241004608",
    "918309763551",
    "961992271922",
    "455260339416",
    "730335286997",
];

fn images<'a>(look: &Look<'a>) -> Vec<(Path, &'a str)> {
    let mut found = Vec::new();
    if !look.object.keys.has("image") {
        return found;
    }
    strings(look.object.node, &mut |path, text| {
        if is_image(path) && !text.is_empty() {
            found.push((owned(path), text));
        }
    });
    found
}

fn new_name(look: &Look<'_>, image: &str) -> Option<String> {
    let fitting = look.inputs.registries.iter();
    let fitting = fitting.filter_map(|(from, to)| Some((from.len(), renamed(image, from, to)?)));
    fitting.max_by_key(|(length, _)| *length).map(|(_, new)| new)
}

fn host(image: &str) -> Option<&str> {
    let found = ECR.captures(image)?.get(1)?;
    (found.start() == 0).then(|| found.as_str())
}

fn is_addon(image: &str) -> bool {
    host(image).is_some_and(|host| ADDON_ACCOUNTS.contains(&&host[..12]))
}

/// Images of a private registry, and of every registry that the site renames.
pub(super) fn ecr(look: &Look<'_>) -> Vec<Match> {
    let mut found = Vec::new();
    for (path, image) in images(look) {
        let at = Match::at(path.clone()).found(image);
        match (new_name(look, image), host(image)) {
            (Some(new), _) if new != image => found.push(at.edit(Edit::Set { path, value: new.into() })),
            (None, Some(host)) if !is_addon(image) => {
                let mut at = at;
                at.need(look.inputs.entry("registries", host));
                found.push(at);
            }
            _ => {}
        }
    }
    found
}

/// Images of ECR Public, which answers from Azure too.
pub(super) fn public(look: &Look<'_>) -> Vec<Match> {
    let images = images(look).into_iter();
    images
        .filter(|(_, image)| image.starts_with("public.ecr.aws/") && new_name(look, image).is_none())
        .map(|(path, image)| Match::at(path).found(image))
        .collect()
}

/// Workloads all of whose images are those of an add-on.
pub(super) fn addon(look: &Look<'_>) -> Vec<Match> {
    let images = images(look);
    match images.first() {
        Some((path, first)) if images.iter().all(|(_, image)| is_addon(image)) => {
            let mut found = Match::at(path.clone()).found(first);
            found.effects.drop = true;
            vec![found]
        }
        _ => Vec::new(),
    }
}

/// References to images of a private registry outside of image fields: environment, arguments,
/// ConfigMaps, custom resources.
pub(super) fn ecr_text(look: &Look<'_>) -> Vec<Match> {
    let mut found: Vec<Match> = Vec::new();
    strings(look.object.node, &mut |path, text| {
        let is_own =
            matches!(path.first(), Some(Segment::Key(first)) if first == "metadata" || first == "status");
        if is_own || is_image(path) || !text.contains("ecr") {
            return;
        }
        for captures in ECR.captures_iter(text) {
            let Some(host) = captures.get(1).map(|host| host.as_str()) else { continue };
            if found.iter().any(|m| m.path[..] == *path && m.found.as_deref() == Some(host)) {
                continue;
            }
            let mut at = Match::at(owned(path)).found(host);
            if let Some(new) = at.need(look.inputs.entry("registries", host)) {
                at = at.edit(Edit::Replace { path: owned(path), from: host.to_owned(), to: new });
            }
            found.push(at);
        }
    });
    found
}
