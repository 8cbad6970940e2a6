//! Names of AWS in any text: environment, arguments, ConfigMaps, custom resources.
//!
//! Only the reference itself is repeated, never the text around it: a ConfigMap may hold passwords.

use super::strings;
use crate::rules::engine::{Look, Match};
use crate::rules::path::owned;
use crate::workload::{Segment, is_image};

/// Kinds whose references have rules of their own, or are documentation.
const DESCRIBED: [&str; 15] = [
    "CustomResourceDefinition",
    "SecretProviderClass",
    "SecretStore",
    "ClusterSecretStore",
    "ExternalSecret",
    "ScaledObject",
    "ScaledJob",
    "TriggerAuthentication",
    "ClusterTriggerAuthentication",
    "EC2NodeClass",
    "StorageClass",
    "PersistentVolume",
    "ServiceAccount",
    "TargetGroupBinding",
    "NetworkPolicy",
];

/// Domains of labels and paths, at which no service answers.
const LABEL_DOMAINS: [&str; 4] =
    ["eks.amazonaws.com", "pods.eks.amazonaws.com", "vpc.amazonaws.com", "k8s.amazonaws.com"];

/// One of these is in every text with a reference.
const MARKS: [&str; 4] = ["arn:aws", ".amazonaws.com", ".api.aws", "169.254."];

/// What a part of a text refers to.
enum Reference<'a> {
    Arn(&'a str),
    LoadBalancer(&'a str),
    Host(&'a str),
    Metadata(&'a str),
}

/// The references of `text`, without what surrounds them.
fn references(text: &str) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    if !MARKS.iter().any(|mark| text.contains(mark)) {
        return found;
    }
    for token in text.split(|c: char| !(c.is_ascii_alphanumeric() || ":/_.*-".contains(c))) {
        if let Some(at) = token.find("arn:aws") {
            found.push(Reference::Arn(&token[at..]));
            continue;
        }
        for host in token.split(['/', ':']) {
            let is_aws = host.ends_with(".amazonaws.com")
                || host.ends_with(".amazonaws.com.cn")
                || host.ends_with(".api.aws");
            if host == "169.254.169.254" || host == "169.254.170.2" || host == "169.254.170.23" {
                found.push(Reference::Metadata(host));
            } else if is_aws && host.contains(".elb.") {
                found.push(Reference::LoadBalancer(host));
            } else if is_aws
                && !LABEL_DOMAINS.contains(&host)
                && !host.contains(".dkr.ecr")
                && !host.contains(".dkr-ecr")
            {
                found.push(Reference::Host(host));
            }
        }
    }
    found
}

fn look_for(look: &Look<'_>, pick: &dyn for<'a> Fn(Reference<'a>) -> Option<&'a str>) -> Vec<Match> {
    let object = look.object;
    let is_aws_kind = object.group.ends_with(".k8s.aws") || object.group.ends_with(".k8s.amazonaws.com");
    let is_aws_auth = object.kind == "ConfigMap" && object.name == "aws-auth";
    if DESCRIBED.contains(&object.kind.as_str()) || is_aws_kind || is_aws_auth {
        return Vec::new();
    }
    let mut all: Vec<Match> = Vec::new();
    strings(object.node, &mut |path, text| {
        let is_own = match path.first() {
            Some(Segment::Key(first)) => {
                matches!(first.as_ref(), "metadata" | "status" | "apiVersion" | "kind" | "subjects")
            }
            _ => true,
        };
        if is_own || is_image(path) {
            return;
        }
        for reference in references(text).into_iter().filter_map(pick) {
            if !all.iter().any(|m| m.path[..] == *path && m.found.as_deref() == Some(reference)) {
                all.push(Match::at(owned(path)).found(reference));
            }
        }
    });
    all
}

/// ARNs.
pub(super) fn arns(look: &Look<'_>) -> Vec<Match> {
    look_for(look, &|reference| match reference {
        Reference::Arn(arn) => Some(arn),
        _ => None,
    })
}

/// Hosts of AWS's services.
pub(super) fn hosts(look: &Look<'_>) -> Vec<Match> {
    look_for(look, &|reference| match reference {
        Reference::Host(host) => Some(host),
        _ => None,
    })
}

/// Hosts of AWS's load balancers.
pub(super) fn load_balancers(look: &Look<'_>) -> Vec<Match> {
    look_for(look, &|reference| match reference {
        Reference::LoadBalancer(host) => Some(host),
        _ => None,
    })
}

/// The metadata service's address, and those of the credential agents.
pub(super) fn metadata_service(look: &Look<'_>) -> Vec<Match> {
    look_for(look, &|reference| match reference {
        Reference::Metadata(host) => Some(host),
        _ => None,
    })
}
