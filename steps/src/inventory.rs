//! What a cluster serves and what its namespaces hold: API discovery and paged listing. Reads only.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, TypeMeta};
use kube::core::{GroupVersionKind, Version};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt, discovery};
use migrate_plugin_api::{Problem, StepContext, StepError};
use serde_json::Value;

use crate::kubernetes::kube_error;

/// Objects a page: what kubectl asks for, small enough that no page weighs on the API server.
pub(crate) const PAGE_OBJECTS: u32 = 500;

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

    /// Its objects in `namespace`; all, where it is in none.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        match self.namespaced {
            true => Api::namespaced_with(client.clone(), namespace, &self.resource),
            false => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// All served kinds, each once, at its most stable version, sorted by [`Served::id`]; and API groups
/// that could not be asked (an aggregated API that is down), which must not hide the others.
pub(crate) async fn served(client: &Client) -> Result<(Vec<Served>, Vec<String>), StepError> {
    let down = unavailable(client).await?;
    let mut kinds = Vec::new();
    let mut broken = Vec::new();
    match aggregated(client).await {
        Some(found) => found.groups().for_each(|group| kinds.extend(of_group(group))),
        None => {
            let groups = client
                .list_api_groups()
                .await
                .map_err(|e| kube_error("failed to ask for the cluster's API groups", e))?;
            for name in [String::new()].into_iter().chain(groups.groups.into_iter().map(|g| g.name)) {
                if down.iter().any(|version| version.split('/').next() == Some(&name)) {
                    continue;
                }
                match discovery::group(client, &name).await {
                    Ok(group) => kinds.extend(of_group(&group)),
                    Err(_) => broken.push(name),
                }
            }
        }
    }
    kinds.retain(|kind| !down.contains(&kind.resource.api_version));
    broken.extend(down);
    kinds.sort_by_key(Served::id);
    Ok((kinds, broken))
}

/// Discovery in two requests; `None` where the API server doesn't offer it (before 1.27, or through
/// some proxies): it then answers in the old form, which reads as "no groups at all".
pub(crate) async fn aggregated(client: &Client) -> Option<Discovery> {
    let found = Discovery::new(client.clone()).run_aggregated().await.ok()?;
    found.has_group(discovery::ApiGroup::CORE_GROUP).then_some(found)
}

/// Versions of API groups that other servers provide and that don't answer: `metrics.k8s.io/v1beta1`.
/// Listing their kinds would fail, though nothing of them could be migrated.
pub(crate) async fn unavailable(client: &Client) -> Result<Vec<String>, StepError> {
    let gvk = GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
    let services = match api.list(&ListParams::default()).await {
        Ok(services) => services,
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => return Ok(Vec::new()),
        Err(e) => return Err(kube_error("failed to list the cluster's API services", e)),
    };
    let is_down = |service: &DynamicObject| {
        let conditions = service.data.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c["type"] == "Available" && c["status"] != "True")
    };
    let version = |service: DynamicObject| {
        let field = |name: &str| service.data.pointer(name).and_then(Value::as_str).unwrap_or_default();
        format!("{}/{}", field("/spec/group"), field("/spec/version"))
    };
    Ok(services.items.into_iter().filter(is_down).map(version).collect())
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

/// Hands every object of `kind` in `namespace` (empty for those in none) to `visit`, with its kind set and without managed
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
    let api = kind.api(client, namespace);
    let place = if kind.namespaced { format!(" of {namespace}") } else { String::new() };
    let mut params = ListParams::default().limit(PAGE_OBJECTS);
    loop {
        ctx.check_cancelled()?;
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => return Ok(false),
            Err(e) => return Err(kube_error(format!("failed to list {}{place}", kind.id()), e)),
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

/// What is wrong with a list of namespaces by itself. An empty one is never meant: it is nothing to some, and the whole
/// cluster to others. Nor is an empty name or a `*`, which stand for all namespaces to some.
pub(crate) fn misnamed_namespaces(names: &[String], field: &str) -> Option<Problem> {
    if names.is_empty() {
        return Some(no_namespace(field));
    }
    let wrong = names.iter().find(|name| !is_label(name))?;
    let problem = Problem::error(format!("`{wrong}` can't name a namespace")).in_field(field);
    Some(problem.with_hint("name each of them: lower-case letters, digits and `-`"))
}

fn no_namespace(field: &str) -> Problem {
    Problem::error("no namespace is named")
        .in_field(field)
        .with_hint("name each of them: an empty list doesn't stand for all")
}

/// Longest name of a namespace.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
const NAMESPACE_LIMIT: usize = 63;

/// Lower-case letters, digits and `-` between letters or digits.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= NAMESPACE_LIMIT
        && text.starts_with(inner)
        && text.ends_with(inner)
        && text.chars().all(|c| inner(c) || c == '-')
}

/// The namespaces of `wanted` that the cluster lacks, each as a problem of `field` with a name that
/// is meant perhaps; and that none is wanted.
///
/// # Errors
/// When the cluster can't be asked.
pub(crate) async fn missing_namespaces(
    client: &Client,
    wanted: &[String],
    field: &str,
) -> Result<Vec<Problem>, StepError> {
    if wanted.is_empty() {
        return Ok(vec![no_namespace(field)]);
    }
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
        let found = match aggregated(client).await {
            Some(found) => found,
            None => Discovery::new(client.clone())
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

    /// Every kind at every version: `apps/v1/Deployment`.
    pub(crate) fn ids(&self) -> std::collections::BTreeSet<String> {
        self.kinds.values().map(Served::id).collect()
    }

    /// The kind at its most stable version.
    pub(crate) fn of_group(&self, group: &str, kind: &str) -> Option<&Served> {
        let same = self.kinds.values().filter(|k| k.resource.group == group && k.resource.kind == kind);
        same.max_by_key(|k| Version::parse(&k.resource.version).priority())
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
    fn a_list_that_names_no_namespaces_or_all_of_them_is_told() {
        let told = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            misnamed_namespaces(&names, "namespaces").map(|problem| problem.message)
        };
        assert_eq!(told(&["shop", "team-a", "0"]), None);
        assert_eq!(told(&[]).unwrap(), "no namespace is named");
        for wrong in ["", "*", "shop-*", "Shop", "shop/web", "-a", "a b"] {
            assert_eq!(told(&["shop", wrong]).unwrap(), format!("`{wrong}` can't name a namespace"));
        }
    }

    #[test]
    fn a_missing_namespace_is_named_with_the_one_that_was_meant() {
        let known = ["default".to_owned(), "shop".to_owned()];
        assert!(missing("shop", &known, "namespaces").is_none());
        let problem = missing("shopp", &known, "namespaces").unwrap();
        assert_eq!(problem.message, "the cluster has no namespace `shopp`");
        assert_eq!(problem.hint.as_deref(), Some("did you mean `shop`?"));
        assert_eq!(missing("billing", &known, "namespaces").unwrap().hint, None);
    }

    use kube::Config;
    use migrate_plugin_api::testing::RecordingHost;
    use serde_json::json;
    use std::sync::Arc;
    use wiremock::matchers::{method, path, query_param, query_param_is_missing};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    async fn cluster() -> (MockServer, Client, StepContext) {
        let server = MockServer::start().await;
        let mut config = Config::new(server.uri().parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("inventory", ".");
        (server, client, ctx)
    }

    fn secrets() -> Served {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
        Served { resource, namespaced: true, listable: true }
    }

    fn status(code: u16) -> ResponseTemplate {
        let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no" });
        ResponseTemplate::new(code).set_body_json(body)
    }

    #[tokio::test]
    async fn every_page_is_visited_with_kinds_set() {
        let (server, client, ctx) = cluster().await;
        let page = |name: &str, token: &str| {
            ResponseTemplate::new(200).set_body_json(json!({ "kind": "SecretList", "apiVersion": "v1",
                "metadata": { "continue": token }, "items": [{ "metadata": { "name": name, "managedFields": [] } }] }))
        };
        let list = || Mock::given(method("GET")).and(path("/api/v1/namespaces/shop/secrets"));
        list()
            .and(query_param_is_missing("continue"))
            .respond_with(page("a", "next"))
            .expect(1)
            .mount(&server)
            .await;
        list()
            .and(query_param("continue", "next"))
            .respond_with(page("b", ""))
            .expect(1)
            .mount(&server)
            .await;
        let mut seen = Vec::new();
        let kind = secrets();
        let listed = each_object(&ctx, &client, &kind, "shop", |object| {
            seen.push((object["kind"].clone(), object["metadata"]["name"].clone()));
            Ok(())
        });
        assert!(listed.await.unwrap());
        assert_eq!(seen, [(json!("Secret"), json!("a")), (json!("Secret"), json!("b"))]);
    }

    #[tokio::test]
    async fn what_may_not_be_listed_is_told_from_what_fails() {
        let (server, client, ctx) = cluster().await;
        let list = || Mock::given(method("GET")).and(path("/api/v1/namespaces/shop/secrets"));
        list().respond_with(status(403)).up_to_n_times(1).mount(&server).await;
        list().respond_with(status(500)).mount(&server).await;
        assert!(!each_object(&ctx, &client, &secrets(), "shop", |_| Ok(())).await.unwrap());
        let error = each_object(&ctx, &client, &secrets(), "shop", |_| Ok(())).await.unwrap_err();
        assert_eq!(error.message, "failed to list v1/Secret of shop");
        assert!(error.class.is_retryable());
    }

    #[tokio::test]
    async fn an_api_that_is_down_does_not_hide_the_others() {
        let (server, client, _ctx) = cluster().await;
        let get = |at: &str, body: serde_json::Value| {
            Mock::given(method("GET"))
                .and(path(at))
                .respond_with(ResponseTemplate::new(200).set_body_json(body))
        };
        let group = |name: &str| {
            let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
            json!({ "name": name, "versions": [version.clone()], "preferredVersion": version })
        };
        let resource = |kind: &str, plural: &str| json!({ "name": plural, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["list"] });
        let service = |group: &str, available: &str| {
            json!({ "metadata": { "name": format!("v1.{group}") }, "spec": { "group": group, "version": "v1" },
                "status": { "conditions": [{ "type": "Available", "status": available }] } })
        };
        let services = [service("apps", "True"), service("metrics.k8s.io", "False")];
        get("/apis/apiregistration.k8s.io/v1/apiservices", json!({ "metadata": {}, "items": services }))
            .mount(&server)
            .await;
        let groups =
            json!({ "kind": "APIGroupList", "groups": [group("apps"), group("broken.example.com")] });
        get("/apis", groups).mount(&server).await;
        get("/api", json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
            .mount(&server)
            .await;
        get("/api/v1", json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [resource("Pod", "pods")] }))
            .mount(&server)
            .await;
        let apps = json!({ "kind": "APIResourceList", "groupVersion": "apps/v1",
            "resources": [resource("Deployment", "deployments")] });
        get("/apis/apps/v1", apps).mount(&server).await;
        Mock::given(method("GET"))
            .and(path("/apis/broken.example.com/v1"))
            .respond_with(status(503))
            .mount(&server)
            .await;
        let (kinds, broken) = served(&client).await.unwrap();
        assert_eq!(kinds.iter().map(Served::id).collect::<Vec<_>>(), ["apps/v1/Deployment", "v1/Pod"]);
        assert_eq!(broken, ["broken.example.com", "metrics.k8s.io/v1"]);
    }
}
