//! Is Velero there, new enough, and able to work? Asked before anything starts; reads only.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, ResourceExt};
use migrate_plugin_api::{Problem, StepContext, StepError};

use super::api::{BackupStorageLocation, Velero, list_all};
use crate::kubernetes::{kube_error, reach};
use crate::site::ClusterRef;

/// The oldest Velero we support, as (major, minor): 1.17 runs pod volume operations in pods of
/// their own and drops unmapped selected-node annotations of claims.
const OLDEST: (u32, u32) = (1, 17);

/// What Velero is asked to do in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Writes backups.
    Source,
    /// Restores what was copied.
    Target,
}

/// What was found.
pub(super) struct Preflight {
    /// None when there is none to talk to.
    pub velero: Option<Velero>,
    /// The server's version, where its image tells.
    pub kubernetes: Option<(u32, u32)>,
    /// All that stands in the way.
    pub problems: Vec<Problem>,
}

/// Looks at Velero in `cluster`. `location` is the storage location; the default one if `None`.
pub(super) async fn preflight(
    ctx: &StepContext,
    cluster: &ClusterRef,
    namespace: &str,
    location: Option<&str>,
    role: Role,
) -> Preflight {
    let (client, version) = match reach(ctx, cluster, "cluster").await {
        Ok(reached) => reached,
        Err(problem) => {
            return Preflight { velero: None, kubernetes: None, problems: vec![*problem] };
        }
    };
    let velero = Velero { client, namespace: namespace.to_owned() };
    let mut problems = Vec::new();
    match look(&velero, &cluster.context, location, role).await {
        Ok(found) => problems.extend(found),
        Err(e) => problems.push(to_problem(&e)),
    }
    let has_error = problems.iter().any(|p| p.severity == migrate_plugin_api::Severity::Error);
    let kubernetes = version_in(&format!("{}.{}", version.major, version.minor));
    Preflight { velero: (!has_error).then_some(velero), kubernetes, problems }
}

/// A failed look as a problem: it keeps the run from starting just as well.
pub(super) fn to_problem(error: &StepError) -> Problem {
    let record = error.to_record();
    let message = std::iter::once(record.message).chain(record.causes).collect::<Vec<_>>().join(": ");
    let problem = Problem::error(message).in_field("cluster");
    match record.hint {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

async fn look(
    velero: &Velero,
    context: &str,
    location: Option<&str>,
    role: Role,
) -> Result<Vec<Problem>, StepError> {
    let namespace = &velero.namespace;
    let locations = match list_all(&velero.locations(), "").await {
        Ok(locations) => locations,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let message =
                format!("Velero isn't installed in cluster `{context}`: it has no velero.io/v1 API");
            let hint = "install Velero 1.17 or later with its node-agent, on both clusters";
            return Ok(vec![Problem::error(message).in_field("cluster").with_hint(hint)]);
        }
        Err(e) => return Err(kube_error("failed to list Velero's storage locations", e)),
    };
    let mut problems = Vec::new();
    problems.extend(location_problems(&locations, location, role, namespace, context));
    let deployments: Api<Deployment> = Api::namespaced(velero.client.clone(), namespace);
    let deployments = list_all(&deployments, "").await;
    let deployments = deployments.map_err(|e| kube_error("failed to list Velero's deployments", e))?;
    problems.extend(server_problems(&deployments, namespace, context));
    let agents: Api<DaemonSet> = Api::namespaced(velero.client.clone(), namespace);
    let agents = list_all(&agents, "").await;
    let agents = agents.map_err(|e| kube_error("failed to list Velero's node agents", e))?;
    problems.extend(agent_problems(&agents, namespace, context));
    Ok(problems)
}

fn location_problems(
    locations: &[BackupStorageLocation],
    wanted: Option<&str>,
    role: Role,
    namespace: &str,
    context: &str,
) -> Vec<Problem> {
    let names: Vec<String> = locations.iter().map(ResourceExt::name_any).collect();
    let found = match wanted {
        Some(name) => locations.iter().find(|l| l.name_any() == name),
        None => locations.iter().find(|l| l.spec.default).or(match locations {
            [only] => Some(only),
            _ => None,
        }),
    };
    let Some(found) = found else {
        let which =
            wanted.map_or("default storage location".to_owned(), |n| format!("storage location `{n}`"));
        let problem = Problem::error(format!("Velero in cluster `{context}` has no {which}"));
        return vec![
            problem.in_field(if wanted.is_some() { "storage-location" } else { "cluster" }).with_hint(
                if names.is_empty() {
                    "it has none at all".to_owned()
                } else {
                    format!("it has: {}", names.join(", "))
                },
            ),
        ];
    };
    let name = found.name_any();
    let mut problems = Vec::new();
    let status = found.status.clone().unwrap_or_default();
    if status.phase != "Available" {
        let phase = if status.phase.is_empty() { "not checked yet" } else { &status.phase };
        let why = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
        problems.push(
            Problem::error(format!("storage location `{name}` of cluster `{context}` is {phase}{why}"))
                .in_field("cluster"),
        );
    }
    let read_only = found.spec.access_mode == "ReadOnly";
    let patch = |body: &str| {
        let object = format!("backupstoragelocation {name} --type merge -p '{body}'");
        format!("kubectl --context {context} -n {namespace} patch {object}")
    };
    match role {
        Role::Source if read_only => problems.push(
            Problem::error(format!("storage location `{name}` of cluster `{context}` is read-only"))
                .in_field("cluster"),
        ),
        Role::Target if !read_only => problems.push(
            Problem::warning(format!(
                "storage location `{name}` of cluster `{context}` is not read-only: Velero's maintenance would \
                 change the copied repositories, and later copies would no longer fit"
            ))
            .with_hint(patch(r#"{"spec":{"accessMode":"ReadOnly"}}"#)),
        ),
        _ => {}
    }
    let sync = found.spec.backup_sync_period.as_deref().and_then(super::api::go_duration_seconds);
    if role == Role::Target && sync == Some(0) {
        problems.push(
            Problem::error(format!(
                "storage location `{name}` of cluster `{context}` never looks for backups (backupSyncPeriod 0)"
            ))
            .in_field("cluster")
            .with_hint(patch(r#"{"spec":{"backupSyncPeriod":"1m"}}"#)),
        );
    }
    problems
}

fn server_problems(deployments: &[Deployment], namespace: &str, context: &str) -> Vec<Problem> {
    let image_of = |d: &Deployment| {
        let containers = &d.spec.as_ref()?.template.spec.as_ref()?.containers;
        let is_server = |c: &&k8s_openapi::api::core::v1::Container| {
            let mut words = c.command.iter().flatten().chain(c.args.iter().flatten());
            c.name == "velero" || words.any(|w| w == "server")
        };
        containers.iter().find(is_server)?.image.clone()
    };
    let Some((server, image)) = deployments.iter().find_map(|d| Some((d, image_of(d)?))) else {
        let message = format!("namespace `{namespace}` of cluster `{context}` has no Velero server");
        return vec![
            Problem::error(message).in_field("velero-namespace").with_hint("where is Velero's deployment?"),
        ];
    };
    let mut problems = Vec::new();
    if server.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0) < 1 {
        let message = format!("the Velero server of cluster `{context}` isn't ready");
        let hint = format!("see: kubectl --context {context} -n {namespace} get pods");
        problems.push(Problem::error(message).in_field("cluster").with_hint(hint));
    }
    match image_version(&image) {
        Some(version) if version < OLDEST => problems.push(
            Problem::error(format!(
                "Velero of cluster `{context}` is {}.{}, older than {}.{}",
                version.0, version.1, OLDEST.0, OLDEST.1
            ))
            .in_field("cluster"),
        ),
        Some(_) => {}
        None => problems.push(Problem::warning(format!(
            "the version of Velero in cluster `{context}` can't be told from its image `{image}`; {}.{} or later is needed",
            OLDEST.0, OLDEST.1
        ))),
    }
    problems
}

fn agent_problems(agents: &[DaemonSet], namespace: &str, context: &str) -> Vec<Problem> {
    let agents: Vec<&DaemonSet> = agents.iter().filter(|d| d.name_any().contains("node-agent")).collect();
    if agents.is_empty() {
        let message =
            format!("Velero of cluster `{context}` has no node-agent, so no volume can be read or written");
        let hint =
            "install it: `velero install --use-node-agent`, or `deployNodeAgent: true` in the Helm chart";
        return vec![Problem::error(message).in_field("cluster").with_hint(hint)];
    }
    let counts = agents.iter().filter_map(|d| d.status.as_ref());
    let (ready, wanted) =
        counts.fold((0, 0), |sum, s| (sum.0 + s.number_ready, sum.1 + s.desired_number_scheduled));
    let message = format!("{ready} of {wanted} node-agents of cluster `{context}` are ready");
    let hint = format!("see: kubectl --context {context} -n {namespace} get pods -o wide");
    if ready == 0 {
        vec![Problem::error(message).in_field("cluster").with_hint(hint)]
    } else if ready < wanted {
        vec![Problem::warning(message).with_hint(hint)]
    } else {
        Vec::new()
    }
}

/// Major and minor version in the tag of `image`.
fn image_version(image: &str) -> Option<(u32, u32)> {
    let name = image.split('@').next()?;
    let (_, tag) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
    version_in(tag)
}

/// Major and minor of `v1.17.2`, `1.36+`.
pub(super) fn version_in(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use migrate_plugin_api::Severity;
    use serde_json::{Value, json};

    use super::*;

    fn location(name: &str, spec: Value, phase: &str) -> BackupStorageLocation {
        serde_json::from_value(json!({
            "metadata": { "name": name }, "spec": spec, "status": { "phase": phase, "message": "no bucket" },
        }))
        .unwrap()
    }

    fn texts(problems: &[Problem]) -> Vec<(Severity, &str)> {
        problems.iter().map(|p| (p.severity, p.message.as_str())).collect()
    }

    #[test]
    fn versions_are_read_from_tags_only() {
        assert_eq!(image_version("velero/velero:v1.18.3"), Some((1, 18)));
        assert_eq!(image_version("reg.example:5000/velero:v1.9.0-rc@sha256:00"), Some((1, 9)));
        assert_eq!(image_version("reg.example:5000/velero"), None);
        assert_eq!(image_version("velero:main"), None);
        assert_eq!(version_in("1.33+"), Some((1, 33)));
        assert!((1, 9) < OLDEST && (1, 17) >= OLDEST);
    }

    #[test]
    fn a_location_must_be_there_available_and_fit_its_role() {
        let locations = [
            location("a", json!({ "default": true }), "Available"),
            location("b", json!({ "accessMode": "ReadOnly", "backupSyncPeriod": "0s" }), "Unavailable"),
        ];
        let look = |name, role| location_problems(&locations, name, role, "velero", "aks");
        assert!(look(None, Role::Source).is_empty());
        assert_eq!(look(None, Role::Target).len(), 1);
        assert_eq!(look(None, Role::Target)[0].severity, Severity::Warning);
        let missing = look(Some("c"), Role::Source);
        assert_eq!(texts(&missing)[0].1, "Velero in cluster `aks` has no storage location `c`");
        assert_eq!(missing[0].hint.as_deref(), Some("it has: a, b"));
        let found = look(Some("b"), Role::Source);
        assert_eq!(
            texts(&found),
            [
                (Severity::Error, "storage location `b` of cluster `aks` is Unavailable: no bucket"),
                (Severity::Error, "storage location `b` of cluster `aks` is read-only"),
            ]
        );
        let found = look(Some("b"), Role::Target);
        assert!(texts(&found)[1].1.contains("never looks for backups"));
    }

    #[test]
    fn node_agents_must_run() {
        let agent = |ready: u32, wanted: u32| -> DaemonSet {
            serde_json::from_value(json!({ "metadata": { "name": "node-agent" }, "status": {
                "numberReady": ready, "desiredNumberScheduled": wanted,
                "currentNumberScheduled": wanted, "numberMisscheduled": 0,
            } }))
            .unwrap()
        };
        assert_eq!(agent_problems(&[], "velero", "aks")[0].severity, Severity::Error);
        assert_eq!(agent_problems(&[agent(0, 2)], "velero", "aks")[0].severity, Severity::Error);
        assert_eq!(agent_problems(&[agent(1, 2)], "velero", "aks")[0].severity, Severity::Warning);
        assert!(agent_problems(&[agent(2, 2)], "velero", "aks").is_empty());
    }
}
