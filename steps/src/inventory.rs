//! What a cluster serves and what its namespaces hold: API discovery and paged listing. Reads only.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, TypeMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt, discovery};
use migrate_plugin_api::{Problem, StepContext, StepError};
use serde_json::Value;

use crate::kubernetes::kube_error;

/// Objects a page: what kubectl asks for, small enough that no page weighs on the API server.
const PAGE_OBJECTS: u32 = 500;

/// How alike a name must be to be suggested (Jaro-Winkler).
const SUGGEST_SIMILARITY: f64 = 0.8;

/// A kind that the cluster serves.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// How it is addressed.
    pub resource: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether it can be listed.
    pub listable: bool,
}

impl Served {
    /// `apps/v1/Deployment`, `v1/Pod`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.resource.api_version, self.resource.kind)
    }
}

/// All served kinds, each once, at its most stable version, sorted by [`Served::id`]; and API groups
/// that could not be asked (an aggregated API that is down), which must not hide the others.
pub(crate) async fn served(client: &Client) -> Result<(Vec<Served>, Vec<String>), StepError> {
    let mut kinds = Vec::new();
    let mut broken = Vec::new();
    match Discovery::new(client.clone()).run_aggregated().await {
        Ok(found) => found.groups().for_each(|group| kinds.extend(of_group(group))),
        Err(_) => {
            let groups = client
                .list_api_groups()
                .await
                .map_err(|e| kube_error("failed to ask for the cluster's API groups", e))?;
            for name in [String::new()].into_iter().chain(groups.groups.into_iter().map(|g| g.name)) {
                match discovery::group(client, &name).await {
                    Ok(group) => kinds.extend(of_group(&group)),
                    Err(_) => broken.push(name),
                }
            }
        }
    }
    kinds.sort_by_key(Served::id);
    Ok((kinds, broken))
}

fn of_group(group: &discovery::ApiGroup) -> Vec<Served> {
    let resources = group.resources_by_stability().into_iter();
    resources
        .map(|(resource, can)| Served {
            resource,
            namespaced: can.scope == Scope::Namespaced,
            listable: can.supports_operation(verbs::LIST),
        })
        .collect()
}

/// Hands every object of `kind` in `namespace` to `visit`, with its kind set and without managed
/// fields. `Ok(false)` when the kind can't be listed by these credentials (or at all).
///
/// # Errors
/// What the API server says, naming kind and namespace; `Cancelled` on request; errors of `visit`.
pub(crate) async fn each_object(
    ctx: &StepContext,
    client: &Client,
    kind: &Served,
    namespace: &str,
    mut visit: impl FnMut(Value) -> Result<(), StepError> + Send,
) -> Result<bool, StepError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let mut params = ListParams::default().limit(PAGE_OBJECTS);
    loop {
        ctx.check_cancelled()?;
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => return Ok(false),
            Err(e) => return Err(kube_error(format!("failed to list {} of {namespace}", kind.id()), e)),
        };
        for mut object in page.items {
            object.types = Some(TypeMeta {
                api_version: kind.resource.api_version.clone(),
                kind: kind.resource.kind.clone(),
            });
            object.metadata.managed_fields = None;
            let value = serde_json::to_value(object)
                .map_err(|e| StepError::permanent("failed to read an object as JSON").with_source(e))?;
            visit(value)?;
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok(true),
        }
    }
}

/// The namespaces of `wanted` that the cluster lacks, each as a problem of `field` with a name that
/// is meant perhaps.
///
/// # Errors
/// When the cluster can't be asked.
pub(crate) async fn missing_namespaces(
    client: &Client,
    wanted: &[String],
    field: &str,
) -> Result<Vec<Problem>, StepError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let known = api.list_metadata(&ListParams::default()).await;
    let known: Vec<String> = known
        .map_err(|e| kube_error("failed to list the cluster's namespaces", e))?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    Ok(wanted.iter().filter_map(|name| missing(name, &known, field)).collect())
}

fn missing(name: &str, known: &[String], field: &str) -> Option<Problem> {
    if known.iter().any(|k| k == name) {
        return None;
    }
    let problem = Problem::error(format!("the cluster has no namespace `{name}`")).in_field(field);
    let alike = known
        .iter()
        .map(|k| (strsim::jaro_winkler(k, name), k))
        .filter(|(similarity, _)| *similarity >= SUGGEST_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    Some(match alike {
        Some((_, k)) => problem.with_hint(format!("did you mean `{k}`?")),
        None => problem,
    })
}

/// Kinds by `apiVersion` and `kind`, at every version that is served.
pub(crate) struct Catalog {
    kinds: HashMap<(String, String), Served>,
}

impl Catalog {
    /// Asks the cluster.
    ///
    /// # Errors
    /// When discovery fails.
    pub(crate) async fn of(client: &Client) -> Result<Self, StepError> {
        let found = match Discovery::new(client.clone()).run_aggregated().await {
            Ok(found) => found,
            Err(_) => Discovery::new(client.clone())
                .run()
                .await
                .map_err(|e| kube_error("failed to ask for the kinds that the cluster serves", e))?,
        };
        let mut kinds = HashMap::new();
        for group in found.groups() {
            for version in group.versions() {
                for (resource, can) in group.versioned_resources(version) {
                    let served = Served {
                        namespaced: can.scope == Scope::Namespaced,
                        listable: can.supports_operation(verbs::LIST),
                        resource,
                    };
                    kinds.insert((served.resource.api_version.clone(), served.resource.kind.clone()), served);
                }
            }
        }
        Ok(Self { kinds })
    }

    /// The kind, where the cluster serves it at that version.
    pub(crate) fn get(&self, api_version: &str, kind: &str) -> Option<&Served> {
        self.kinds.get(&(api_version.to_owned(), kind.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_named_with_the_one_that_was_meant() {
        let known = ["default".to_owned(), "shop".to_owned()];
        assert!(missing("shop", &known, "namespaces").is_none());
        let problem = missing("shopp", &known, "namespaces").unwrap();
        assert_eq!(problem.message, "the cluster has no namespace `shopp`");
        assert_eq!(problem.hint.as_deref(), Some("did you mean `shop`?"));
        assert_eq!(missing("billing", &known, "namespaces").unwrap().hint, None);
    }
}
