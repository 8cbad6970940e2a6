//! Images in ECR.

use std::sync::LazyLock;

use regex::Regex;

use super::shell::{self, Command};
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

/// Shells that are given a script.
const SHELLS: [&str; 4] = ["sh", "bash", "ash", "dash"];

/// Where the programs of an image are.
const PROGRAMS: [&str; 3] = ["/usr/local/bin/", "/usr/bin/", "/bin/"];

/// Commands that change nothing outside of their container.
const WITHIN: [&str; 32] = [
    ":", "[", "[[", "apk", "apt-get", "base64", "break", "cat", "continue", "cut", "date", "echo", "exit",
    "export", "false", "for", "grep", "head", "jq", "local", "printf", "read", "return", "set", "shift",
    "sleep", "test", "tr", "true", "unset", "wait", "yum",
];

/// Options of the CLI of AWS before a service that take a word of their own.
/// <https://docs.aws.amazon.com/cli/latest/reference/>
const AWS_OPTIONS: [&str; 7] =
    ["--region", "--profile", "--output", "--query", "--endpoint-url", "--color", "--ca-bundle"];

/// Options of kubectl that take a word of their own.
/// <https://kubernetes.io/docs/reference/kubectl/generated/kubectl_options/>
const KUBECTL_OPTIONS: [&str; 16] = [
    "-n",
    "--namespace",
    "--context",
    "--kubeconfig",
    "--cluster",
    "--user",
    "-s",
    "--server",
    "--token",
    "-o",
    "--output",
    "-f",
    "--filename",
    "-p",
    "--patch",
    "--type",
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
/// containers fetches the password or makes the secret, and each command of it is known to be for that.
fn logins(look: &Look<'_>) -> (Vec<Match>, bool) {
    let (mut found, mut refreshes) = (Vec::new(), true);
    if !look.object.keys.has("containers") {
        return (found, false);
    }
    let mut has_secret = false;
    for (pod, spec) in pods(look.object) {
        for list in ["initContainers", "containers"] {
            for (path, container) in items(spec, &pod, list) {
                let (mut words, mut places) = (Vec::new(), Vec::new());
                for field in ["command", "args"] {
                    for (path, word) in items(container, &path, field) {
                        let Some(word) = word.text() else { continue };
                        if word.contains("get-login") || word.contains("get-authorization-token") {
                            places.push(path);
                        }
                        words.push(word);
                    }
                }
                // A script: each line is a command, or goes on.
                let all = words.join(" ").replace("\\\n", " ").replace('\n', ";");
                let (logs_in, makes_secret) = (LOGIN.is_match(&all), PULL_SECRET.is_match(&all));
                if logs_in {
                    found.extend(places.into_iter().map(Match::at));
                }
                has_secret |= makes_secret;
                let is_more = container.get("lifecycle").is_some();
                refreshes &= (makes_secret || logs_in) && !is_more && only_refreshes(&words);
            }
        }
    }
    (found, refreshes && has_secret)
}

/// Whether each command is one of those that refresh a pull secret for ECR, or changes nothing.
fn only_refreshes(words: &[&str]) -> bool {
    let Some(all) = commands(words) else { return false };
    all.iter().all(|command| {
        let words = &command.words;
        match words.first().map(|word| program(word)) {
            None => true,
            Some("aws") => only_logs_in(words),
            Some("kubectl") => is_for_pull_secret(command, &all),
            Some(name) => WITHIN.contains(&name),
        }
    })
}

/// The commands that a container runs: those of the script that a shell is given, or one.
fn commands(words: &[&str]) -> Option<Vec<Command>> {
    let (first, rest) = words.split_first()?;
    if !SHELLS.contains(&program(first)) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        return Some(vec![Command { words, reads: None }]);
    }
    let (mut rest, mut is_script) = (rest.iter(), false);
    loop {
        let word = rest.next()?;
        match word.strip_prefix('-') {
            Some(long) if long.starts_with('-') => {}
            Some(flags) => {
                is_script |= flags.contains('c');
                // `-o pipefail`
                if flags.ends_with('o') {
                    rest.next()?;
                }
            }
            None => return if is_script { shell::commands(word) } else { None },
        }
    }
}

/// What a program is called, wherever it is usual to be.
fn program(word: &str) -> &str {
    PROGRAMS.iter().find_map(|folder| word.strip_prefix(folder)).unwrap_or(word)
}

/// The words after the command that are no options, nor of one.
fn plain_words<'a>(words: &'a [String], options: &[&str]) -> Vec<&'a str> {
    let mut plain = Vec::new();
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        if options.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            plain.push(word.as_str());
        }
    }
    plain
}

fn only_logs_in(words: &[String]) -> bool {
    match plain_words(words, &AWS_OPTIONS).as_slice() {
        [] | ["configure", ..] => true,
        ["ecr", what, ..] => matches!(*what, "get-login" | "get-login-password" | "get-authorization-token"),
        ["sts", what, ..] => *what == "get-caller-identity" || what.starts_with("assume-role"),
        _ => false,
    }
}

/// Whether a command of kubectl makes the pull secret, looks for it or takes it away before, gives it to service
/// accounts, or looks where these are.
fn is_for_pull_secret(command: &Command, all: &[Command]) -> bool {
    let words = &command.words;
    match plain_words(words, &KUBECTL_OPTIONS).as_slice() {
        ["create", "secret", ..] => makes_pull_secret(words),
        ["apply" | "create" | "replace"] => {
            let read = command.reads.and_then(|at| all.get(at));
            takes_input_only(words) && read.is_some_and(|read| makes_pull_secret(&read.words))
        }
        ["get", what, ..] if is_account(what) || matches!(*what, "ns" | "namespace" | "namespaces") => true,
        ["patch", what, ..] if is_account(what) => words.iter().any(|word| word.contains("imagePullSecrets")),
        ["delete" | "get", "secret" | "secrets", names @ ..] => are_made(names, all),
        ["delete" | "get", name] => match name.split_once('/') {
            Some(("secret" | "secrets", name)) => are_made(&[name], all),
            _ => false,
        },
        _ => false,
    }
}

fn is_account(what: &str) -> bool {
    matches!(what.split('/').next(), Some("sa" | "serviceaccount" | "serviceaccounts"))
}

/// Whether some secret is named, and each is one that is made here.
fn are_made(names: &[&str], all: &[Command]) -> bool {
    let is_made = |name: &&str| {
        let is_word = |word: &String| word == name;
        !name.contains(shell::UNKNOWN)
            && all.iter().any(|other| makes_pull_secret(&other.words) && other.words.iter().any(is_word))
    };
    !names.is_empty() && names.iter().all(is_made)
}

/// Whether a command makes a pull secret, and not for another registry by name.
fn makes_pull_secret(words: &[String]) -> bool {
    let is_kubectl = words.first().is_some_and(|word| program(word) == "kubectl");
    let is_docker = |word: &String| word.contains("dockerconfigjson") || word.contains("dockercfg");
    let makes = match plain_words(words, &KUBECTL_OPTIONS).as_slice() {
        ["create", "secret", "docker-registry", ..] => true,
        ["create", "secret", ..] => words.iter().any(is_docker),
        _ => false,
    };
    let is_elsewhere = |server: &str| !server.contains("ecr") && !server.contains('$');
    is_kubectl && makes && !values(words, "--docker-server").any(is_elsewhere)
}

/// Whether a command of kubectl takes objects from its input, and from nowhere else.
fn takes_input_only(words: &[String]) -> bool {
    let files: Vec<&str> = values(words, "-f").chain(values(words, "--filename")).collect();
    let is_other = |word: &String| word.starts_with("-k") || word.starts_with("--kustomize");
    !files.is_empty() && files.iter().all(|file| *file == "-") && !words.iter().any(is_other)
}

/// What an option is given, each time.
fn values<'a>(words: &'a [String], option: &'static str) -> impl Iterator<Item = &'a str> {
    words.iter().enumerate().filter_map(move |(at, word)| {
        let rest = word.strip_prefix(option)?;
        if rest.is_empty() {
            return Some(words.get(at + 1).map_or("", String::as_str));
        }
        let is_short = !option.starts_with("--");
        rest.strip_prefix('=').or_else(|| is_short.then_some(rest))
    })
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
