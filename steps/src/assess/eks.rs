//! What the EKS API says of a cluster, and what the VPC CNI is told in it, as objects that rules look at:
//! `apiVersion: eks.aws/2017-11-01`, `kind: Cluster`, `NodeGroup`, `FargateProfile`, `AddOn`,
//! `PodIdentityAssociation`, `AccessEntry`, `VpcCni`, with the API's fields in `spec`. Reads only.
//!
//! <https://docs.aws.amazon.com/eks/latest/APIReference/>. What these credentials may not ask is named, and
//! the rest is looked at all the same.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Client;
use kube::api::Api as Objects;
use migrate_plugin_api::{Problem, StepContext, StepError};
use serde_json::{Map, Value, json};

use crate::aws::{Api, Denial};
use crate::identity::Association;
use crate::kubernetes::kube_error;
use crate::manifests::tree::problem_of;
use crate::rules::object::EKS_API_GROUP;
use crate::site::AwsAccess;

/// The version of the objects; that of the API.
const API_VERSION: &str = "2017-11-01";

/// Pages of one list that are read, 100 items each: more than EKS lets a cluster have of anything.
const MAX_PAGES: usize = 100;

/// Where the VPC CNI is.
const CNI: (&str, &str) = ("kube-system", "aws-node");

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Eks {
    /// For the rules.
    pub objects: Vec<Value>,
    /// Roles of service accounts, which no manifest has.
    pub associations: Vec<Association>,
    /// What could not be asked, in words.
    pub unreadable: Vec<String>,
}

/// A list of the API: its path below the cluster, the field with the names, the field of one, its kind here.
struct Kind {
    path: &'static str,
    names: &'static str,
    one: &'static str,
    kind: &'static str,
    /// Of an item that is no name: the field with it.
    id: Option<&'static str>,
}

const KINDS: [Kind; 5] = [
    Kind { path: "node-groups", names: "nodegroups", one: "nodegroup", kind: "NodeGroup", id: None },
    Kind {
        path: "fargate-profiles",
        names: "fargateProfileNames",
        one: "fargateProfile",
        kind: "FargateProfile",
        id: None,
    },
    Kind { path: "addons", names: "addons", one: "addon", kind: "AddOn", id: None },
    Kind {
        path: "pod-identity-associations",
        names: "associations",
        one: "association",
        kind: "PodIdentityAssociation",
        id: Some("associationId"),
    },
    Kind {
        path: "access-entries",
        names: "accessEntries",
        one: "accessEntry",
        kind: "AccessEntry",
        id: None,
    },
];

/// Looks at the cluster `name`.
///
/// # Errors
/// When AWS does not answer, or has no such cluster.
pub(crate) async fn look(ctx: &StepContext, access: &AwsAccess, name: &str) -> Result<Eks, StepError> {
    let api = Api::eks(ctx, access).await?;
    let mut eks = Eks::default();
    match read(&api, &["clusters", name], &[]).await? {
        Ok(mut answer) => {
            let mut cluster = answer["cluster"].take();
            // Long, of no use here, and no secret.
            if let Some(fields) = cluster.as_object_mut() {
                fields.shift_remove("certificateAuthority");
            }
            if let Some(support) = support(&api, &cluster, &mut eks.unreadable).await? {
                cluster["support"] = support;
            }
            eks.objects.push(object("Cluster", name, "", cluster));
        }
        Err(denial) if denial.is_missing() => {
            return Err(missing(access, name));
        }
        Err(denial) => eks.note("eks:DescribeCluster", &denial),
    }
    for kind in &KINDS {
        ctx.check_cancelled()?;
        each(&api, name, kind, &mut eks).await?;
    }
    Ok(eks)
}

impl Eks {
    fn note(&mut self, what: &str, denial: &Denial) {
        let said = if denial.code.is_empty() { denial.status.to_string() } else { denial.code.clone() };
        self.unreadable.push(format!("{what} ({said})"));
    }
}

/// Whether AWS knows the cluster and us, before a run. A right that is missing is no reason to stop.
pub(crate) async fn reach(ctx: &StepContext, access: &AwsAccess, name: &str) -> Option<Problem> {
    let answer = match Api::eks(ctx, access).await {
        Ok(api) => read(&api, &["clusters", name], &[]).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(Ok(_)) => None,
        Ok(Err(denial)) if denial.is_missing() => Some(problem_of(&missing(access, name), "eks")),
        Ok(Err(denial)) => {
            let error = denial.into_error(&format!("EKS cluster `{name}` can't be looked at"));
            let problem = Problem::warning(error.message).in_field("aws");
            Some(
                problem.with_hint(
                    "what the EKS API knows will be missing; docs/migration-toml.md has the rights",
                ),
            )
        }
        Err(error) => Some(problem_of(&error, "aws")),
    }
}

fn missing(access: &AwsAccess, name: &str) -> StepError {
    let message = format!("there is no EKS cluster `{name}` in {}", access.region);
    StepError::permanent(message).with_hint("check `eks`, and `region` in `[source.aws]`")
}

/// An object as rules see it.
fn object(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    let mut metadata = Map::from_iter([("name".to_owned(), Value::from(name))]);
    if !namespace.is_empty() {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    json!({ "apiVersion": format!("{EKS_API_GROUP}/{API_VERSION}"), "kind": kind, "metadata": metadata, "spec": spec })
}

async fn read(
    api: &Api,
    segments: &[&str],
    query: &[(&str, &str)],
) -> Result<Result<Value, Denial>, StepError> {
    let unreadable = |e| StepError::permanent("the EKS API's answer is no JSON").with_source(e);
    Ok(match api.get(segments, query).await? {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).map_err(unreadable)?),
        Err(denial) => Err(denial),
    })
}

/// How long the cluster's version has support, as dates.
async fn support(
    api: &Api,
    cluster: &Value,
    unreadable: &mut Vec<String>,
) -> Result<Option<Value>, StepError> {
    let Some(version) = cluster["version"].as_str() else { return Ok(None) };
    let query = [("clusterVersions", version), ("includeAll", "true")];
    let mut answer = match read(api, &["cluster-versions"], &query).await? {
        Ok(answer) => answer,
        Err(denial) => {
            unreadable.push(format!("eks:DescribeClusterVersions ({})", denial.status));
            return Ok(None);
        }
    };
    let all = answer["clusterVersions"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let Some(mut found) = all.into_iter().find(|one| one["clusterVersion"] == version) else {
        return Ok(None);
    };
    for field in ["endOfStandardSupportDate", "endOfExtendedSupportDate", "releaseDate"] {
        // Seconds since 1970, as JSON has times.
        let date = found[field].as_f64().and_then(|seconds| {
            #[expect(clippy::cast_possible_truncation, reason = "a date of this century")]
            jiff::Timestamp::from_second(seconds as i64).ok()
        });
        if let Some(date) = date {
            found[field] = date.strftime("%Y-%m-%d").to_string().into();
        }
    }
    Ok(Some(found))
}

async fn each(api: &Api, cluster: &str, kind: &Kind, eks: &mut Eks) -> Result<(), StepError> {
    let Some(items) = names(api, cluster, kind, eks).await? else { return Ok(()) };
    for name in items {
        let one = read(api, &["clusters", cluster, kind.path, &name], &[]).await?;
        let mut spec = match one {
            Ok(mut answer) => answer[kind.one].take(),
            // Gone since it was listed.
            Err(denial) if denial.is_missing() => continue,
            Err(denial) => {
                eks.note(&format!("eks: {} {name}", kind.kind), &denial);
                continue;
            }
        };
        let (mut shown, mut namespace) = (name.clone(), String::new());
        match kind.kind {
            "PodIdentityAssociation" => {
                let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
                shown = text("serviceAccount");
                namespace = text("namespace");
                eks.associations.push(Association {
                    namespace: namespace.clone(),
                    service_account: shown.clone(),
                    role_arn: text("roleArn"),
                });
            }
            "AccessEntry" => {
                let path = ["clusters", cluster, kind.path, &name, "access-policies"];
                match read(api, &path, &[]).await? {
                    Ok(mut answer) => spec["accessPolicies"] = answer["associatedAccessPolicies"].take(),
                    Err(denial) => eks.note("eks:ListAssociatedAccessPolicies", &denial),
                }
            }
            _ => {}
        }
        eks.objects.push(object(kind.kind, &shown, &namespace, spec));
    }
    Ok(())
}

/// Names of what there is of a kind; nothing where that may not be asked.
async fn names(
    api: &Api,
    cluster: &str,
    kind: &Kind,
    eks: &mut Eks,
) -> Result<Option<Vec<String>>, StepError> {
    let mut all = Vec::new();
    let mut next = String::new();
    for _ in 0..MAX_PAGES {
        let mut query = vec![("maxResults", "100")];
        if !next.is_empty() {
            query.push(("nextToken", &next));
        }
        let answer = match read(api, &["clusters", cluster, kind.path], &query).await? {
            Ok(answer) => answer,
            Err(denial) => {
                eks.note(&format!("eks: {}", kind.path), &denial);
                return Ok(None);
            }
        };
        let items = answer[kind.names].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |item: &Value| match kind.id {
            Some(id) => item[id].as_str().map(str::to_owned),
            None => item.as_str().map(str::to_owned),
        };
        all.extend(items.iter().filter_map(name));
        match answer["nextToken"].as_str() {
            Some(token) if !token.is_empty() => next = token.to_owned(),
            _ => return Ok(Some(all)),
        }
    }
    Err(StepError::permanent(format!("the EKS API has no end of {}", kind.path)))
}

/// What the VPC CNI is told, where the cluster has one.
///
/// # Errors
/// When the API server does not answer.
pub(crate) async fn vpc_cni(
    client: &Client,
    unreadable: &mut Vec<String>,
) -> Result<Option<Value>, StepError> {
    let api: Objects<DaemonSet> = Objects::namespaced(client.clone(), CNI.0);
    match api.get_opt(CNI.1).await {
        Ok(found) => Ok(found.as_ref().map(cni)),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            unreadable.push(format!("DaemonSet {}/{}", CNI.0, CNI.1));
            Ok(None)
        }
        Err(e) => Err(kube_error(format!("failed to read DaemonSet {}/{}", CNI.0, CNI.1), e)),
    }
}

fn cni(daemon: &DaemonSet) -> Value {
    let pod = daemon.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let mut settings: BTreeMap<String, Value> = BTreeMap::new();
    for container in pod.iter().flat_map(|pod| &pod.containers) {
        let env = container.env.iter().flatten();
        settings.extend(env.filter_map(|env| Some((env.name.clone(), env.value.clone()?.into()))));
        let args = container.args.iter().chain(&container.command).flatten();
        for (name, value) in args.filter_map(|arg| arg.strip_prefix("--")?.split_once('=')) {
            settings.insert(name.to_owned(), value.into());
        }
    }
    object("VpcCni", CNI.1, CNI.0, json!(settings))
}

#[cfg(test)]
#[path = "eks_tests.rs"]
mod tests;
