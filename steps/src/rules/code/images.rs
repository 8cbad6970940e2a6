//! Images in ECR.

use std::sync::LazyLock;

use regex::Regex;

use super::{items, pods, strings};
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

/// Agents that send to CloudWatch or X-Ray and know no other place.
/// <https://docs.aws.amazon.com/xray/latest/devguide/xray-daemon.html>
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Container-Insights-setup-EKS-addon.html>
static AGENT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("(^|/)((amazon-)?cloudwatch-agent|aws-xray-daemon)(:|@|$)").expect("a constant")
});

/// A command that logs in to ECR, or asks for the password.
static LOGIN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("ecr +get-(login|authorization-token)").expect("a constant"));

/// A command that makes a pull secret, or gives it to service accounts.
static PULL_SECRET: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("kubectl.*(docker-registry|imagePullSecrets|dockerc(onfigjson|fg))").expect("a constant")
});

/// What a job that only refreshes a pull secret does not do: work with images, or with running workloads.
static OTHER_WORK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"\b(docker|podman|nerdctl|helm) +[a-z]|\b(buildah|buildctl|kaniko|crane|skopeo|oras|regctl)\b",
        r"|\bkubectl [^;&|]*\b(rollout|scale|exec|cp|set +(image|env|resources)|apply +-[fk] +[^-\s])",
    ))
    .expect("a constant")
});

/// Which service the CLI of AWS is asked for.
static AWS_CLI: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\baws +([a-z0-9-]+)").expect("a constant"));

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

/// Images of a private registry, and of every registry that the site renames. Those of an add-on too, beside
/// others: such a workload is not dropped, and nobody pulls them without AWS's credentials.
pub(super) fn ecr(look: &Look<'_>) -> Vec<Match> {
    let mut found = Vec::new();
    let images = images(look);
    let is_dropped = images.iter().all(|(_, image)| is_addon(image));
    for (path, image) in images {
        let at = Match::at(path.clone()).found(image);
        match (new_name(look, image), host(image)) {
            (Some(new), _) if new != image => found.push(at.edit(Edit::Set { path, value: new.into() })),
            (None, Some(host)) if !is_dropped => {
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

/// DaemonSets all of whose images are agents of AWS.
pub(super) fn agent(look: &Look<'_>) -> Vec<Match> {
    let images = images(look);
    if images.is_empty() || !images.iter().all(|(_, image)| AGENT.is_match(image)) {
        return Vec::new();
    }
    let mut found = Match::at(Vec::new());
    found.effects.drop = true;
    vec![found]
}

/// Agents of AWS in everything else, and beside other containers.
pub(super) fn agent_beside(look: &Look<'_>) -> Vec<Match> {
    if look.object.kind == "DaemonSet" && !agent(look).is_empty() {
        return Vec::new();
    }
    let agents = images(look).into_iter().filter(|(_, image)| AGENT.is_match(image));
    agents.map(|(path, image)| Match::at(path).found(image)).collect()
}

/// Where containers log in to ECR, and whether the pod does nothing but refresh a pull secret: each of its
/// containers fetches the password or makes the secret, and none works with images.
fn logins(look: &Look<'_>) -> (Vec<Match>, bool) {
    let (mut found, mut refreshes) = (Vec::new(), true);
    if !look.object.keys.has("containers") {
        return (found, false);
    }
    let mut has_secret = false;
    for (pod, spec) in pods(look.object) {
        for list in ["initContainers", "containers"] {
            for (path, container) in items(spec, &pod, list) {
                let (mut all, mut places) = (String::new(), Vec::new());
                for field in ["command", "args"] {
                    for (path, word) in items(container, &path, field) {
                        let Some(word) = word.text() else { continue };
                        if word.contains("get-login") || word.contains("get-authorization-token") {
                            places.push(path);
                        }
                        // A script: each line is a command, or goes on.
                        all.push_str(&word.replace("\\\n", " ").replace('\n', ";"));
                        all.push(' ');
                    }
                }
                let (logs_in, makes_secret) = (LOGIN.is_match(&all), PULL_SECRET.is_match(&all));
                if logs_in {
                    found.extend(places.into_iter().map(Match::at));
                }
                has_secret |= makes_secret;
                refreshes &= (makes_secret || logs_in) && !does_other_work(&all);
            }
        }
    }
    (found, refreshes && has_secret)
}

fn does_other_work(commands: &str) -> bool {
    let services = AWS_CLI.captures_iter(commands).filter_map(|found| found.get(1));
    OTHER_WORK.is_match(commands)
        || services
            .map(|service| service.as_str())
            .any(|service| !matches!(service, "ecr" | "sts" | "configure") && !service.starts_with('-'))
}

/// Jobs that do nothing but refresh a pull secret for ECR.
pub(super) fn refresh(look: &Look<'_>) -> Vec<Match> {
    let (mut found, refreshes) = logins(look);
    found.truncate(usize::from(refreshes));
    found.iter_mut().for_each(|found| found.effects.drop = true);
    found
}

/// Log-ins to ECR in whatever does more than that.
pub(super) fn login(look: &Look<'_>) -> Vec<Match> {
    let (found, refreshes) = logins(look);
    let is_job = matches!(look.object.kind.as_str(), "CronJob" | "Job");
    if is_job && refreshes { Vec::new() } else { found }
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
