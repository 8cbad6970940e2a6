//! `identity.map` with `apply`, on a strict stand-in of ours for Resource Manager.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::Method;
use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{ErrorClass, LogLevel, Step, Typed, VerifyDepth};

use super::super::map::IdentityMap;
use super::*;

#[path = "make/take_back_tests.rs"]
mod take_back;

const GROUP: &str = "/subscriptions/sub/resourceGroups/shop";
const SCOPE: &str =
    "/subscriptions/sub/resourceGroups/shop/providers/Microsoft.Storage/storageAccounts/files";
/// In another subscription.
const FAR: &str = "/subscriptions/Far/resourceGroups/data/providers/Microsoft.Storage/storageAccounts/far";
const ROLE: &str = "arn:aws:iam::123456789012:role/web";

#[derive(Default)]
struct Inner {
    /// By ID in lower case.
    resources: BTreeMap<String, Value>,
    writes: Vec<String>,
    /// Answers of the next writes of credentials and assignments.
    trouble: Vec<(u16, &'static str)>,
    /// IDs with this in them may not be written.
    refused: Option<&'static str>,
    /// Lists of role assignments with this in their path may not be read.
    hidden: Option<&'static str>,
}

#[derive(Clone, Default)]
struct Stand(Arc<Mutex<Inner>>);

fn refusal(status: u16, code: &str) -> Response {
    let body = json!({ "error": { "code": code, "message": "no" } });
    (StatusCode::from_u16(status).unwrap(), [("retry-after", "0")], axum::Json(body)).into_response()
}

async fn manager(State(stand): State<Stand>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    if parts.headers.get("authorization").is_none_or(|held| held != "Bearer T0KEN") {
        return refusal(401, "InvalidAuthenticationToken");
    }
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let path = parts.uri.path().to_owned();
    // IDs know no case.
    let key = path.to_lowercase();
    let version = match () {
        () if key.contains("microsoft.authorization") => "2022-04-01",
        () if key.contains("microsoft.managedidentity") => "2023-01-31",
        () => "2021-04-01",
    };
    if query.get("api-version").map(String::as_str) != Some(version) {
        return refusal(400, "InvalidApiVersionParameter");
    }
    let mut inner = stand.0.lock().unwrap();
    if path == GROUP {
        return axum::Json(json!({ "id": GROUP })).into_response();
    }
    let scope = path.strip_suffix("/providers/Microsoft.Authorization/roleDefinitions");
    if scope.is_some_and(|scope| [SCOPE, FAR].contains(&scope)) {
        let found: Vec<Value> = match query["$filter"].as_str() {
            "roleName eq 'Storage Blob Data Reader'" => vec![
                json!({ "id": "/subscriptions/sub/providers/Microsoft.Authorization/roleDefinitions/2a2b9908" }),
            ],
            _ => Vec::new(),
        };
        return axum::Json(json!({ "value": found })).into_response();
    }
    let parent =
        path.split_once("/federatedIdentityCredentials/").map(|(identity, _)| identity.to_lowercase());
    let is_list = |kind: &str| key.ends_with(kind);
    match parts.method {
        Method::GET if is_list("/userassignedidentities") || is_list("/federatedidentitycredentials") => {
            list(&inner, &key, query.get("$skiptoken").and_then(|skip| skip.parse().ok()).unwrap_or(0))
        }
        Method::GET if is_list("/roleassignments") => {
            if inner.hidden.is_some_and(|hidden| key.contains(hidden)) {
                return refusal(403, "AuthorizationFailed");
            }
            let within = key.strip_suffix("providers/microsoft.authorization/roleassignments").unwrap();
            let wanted = |(id, body): (&String, &Value)| {
                let filter = format!("principalId eq '{}'", body["properties"]["principalId"].as_str()?);
                let mut body = body.clone();
                (body["id"], body["name"]) = (id.as_str().into(), id.rsplit('/').next()?.into());
                (id.starts_with(within) && id.contains("roleassignments") && query["$filter"] == filter)
                    .then_some(body)
            };
            let found: Vec<Value> = inner.resources.iter().filter_map(wanted).collect();
            axum::Json(json!({ "value": found })).into_response()
        }
        Method::GET => inner.resources.get(&key).map_or_else(
            || refusal(404, "ResourceNotFound"),
            |found| axum::Json(found.clone()).into_response(),
        ),
        Method::DELETE => match inner.resources.remove(&key) {
            Some(_) => {
                inner.resources.retain(|id, _| !id.starts_with(&format!("{key}/")));
                inner.writes.push(format!("DELETE {path}"));
                StatusCode::OK.into_response()
            }
            None => StatusCode::NO_CONTENT.into_response(),
        },
        Method::PUT => {
            let mut body: Value = serde_json::from_slice(&body).unwrap();
            if inner.refused.is_some_and(|refused| key.contains(refused)) {
                return refusal(403, "AuthorizationFailed");
            }
            let is_child = parent.is_some() || key.contains("roleassignments");
            if is_child && !inner.trouble.is_empty() {
                let (status, code) = inner.trouble.remove(0);
                return refusal(status, code);
            }
            if let Some(parent) = &parent {
                if !inner.resources.contains_key(parent) {
                    return refusal(404, "ParentResourceNotFound");
                }
                let count = inner.resources.keys().filter(|id| id.starts_with(&format!("{parent}/"))).count();
                if count >= 20 && !inner.resources.contains_key(&key) {
                    return refusal(400, "TooManyFederatedIdentityCredentials");
                }
                let said = &body["properties"];
                if !said["issuer"].is_string()
                    || !said["subject"].is_string()
                    || said["audiences"] != json!(["api://AzureADTokenExchange"])
                {
                    return refusal(400, "BadRequest");
                }
            } else if key.contains("roleassignments") {
                let said = body["properties"].clone();
                let name = key.rsplit('/').next().unwrap().to_owned();
                if name.len() != 36
                    || said["principalType"] != "ServicePrincipal"
                    || !said["principalId"].is_string()
                {
                    return refusal(400, "InvalidCreateRoleAssignmentRequest");
                }
                if inner.resources.iter().any(|(id, there)| id != &key && there["properties"] == said) {
                    return refusal(409, "RoleAssignmentExists");
                }
            } else {
                let count = inner.writes.len();
                body["properties"] = match inner.resources.get(&key) {
                    Some(there) => there["properties"].clone(),
                    None => {
                        json!({ "clientId": format!("client-{count}"), "principalId": format!("principal-{count}") })
                    }
                };
                let tags = body["tags"].as_object().unwrap();
                let is_tag = |(name, value): (&String, &Value)| {
                    !name.contains(['<', '>', '%', '&', '\\', '?', '/'])
                        && name.len() <= 512
                        && value.as_str().unwrap().len() <= 256
                };
                if tags.len() > 50 || !tags.iter().all(is_tag) {
                    return refusal(400, "InvalidTag");
                }
                if body["location"] != "eastus" {
                    return refusal(400, "LocationRequired");
                }
            }
            inner.writes.push(format!("PUT {path}"));
            inner.resources.insert(key, body.clone());
            (StatusCode::CREATED, axum::Json(body)).into_response()
        }
        _ => refusal(405, "MethodNotAllowed"),
    }
}

/// What is right under `key`, two a page.
fn list(inner: &Inner, key: &str, skip: usize) -> Response {
    let item = |(id, body): (&String, &Value)| {
        let name = id.strip_prefix(&format!("{key}/")).filter(|name| !name.contains('/'))?;
        let mut body = body.clone();
        body["name"] = name.into();
        Some(body)
    };
    let all: Vec<Value> = inner.resources.iter().filter_map(item).collect();
    let mut page = json!({ "value": all.iter().skip(skip).take(2).collect::<Vec<_>>() });
    if skip + 2 < all.len() {
        let version = "api-version=2023-01-31";
        page["nextLink"] =
            format!("https://management.azure.com{key}?{version}&$skiptoken={}", skip + 2).into();
    }
    axum::Json(page).into_response()
}

struct Stage {
    stand: Stand,
    host: Arc<RecordingHost>,
    ctx: StepContext,
    step: Typed<IdentityMap>,
    config: Value,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let stand = Stand::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(manager).with_state(stand.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        let host = Arc::new(RecordingHost::default());
        host.put_secret("env:TOKEN", "T0KEN");
        let ctx = host.context("map", folder.path());
        let config = json!({
            "from": "in", "to": "out", "issuer": "https://issuer/", "resource-group": "shop", "location": "eastus",
            "prefix": "id-", "apply": true,
            "azure": { "subscription": "sub", "resource-group": "other", "arm-endpoint": url, "token": "env:TOKEN" },
            "assignments": [{ "role-arn": ROLE, "role": "Storage Blob Data Reader", "scope": SCOPE }],
        });
        let step = Typed(IdentityMap { limits: Limits { pause: Duration::from_millis(1) } });
        let stage = Self { stand, host, ctx, step, config, folder };
        stage.accounts(&["web", "api"]);
        stage
    }

    /// Another node that maps one account, which no manifest has, to the same role.
    fn other(&self, account: &str) -> (StepContext, Value) {
        std::fs::create_dir_all(self.folder.path().join("none")).unwrap();
        std::fs::write(self.folder.path().join("none/none.yaml"), "").unwrap();
        let mut config = self.config.clone();
        config["from"] = "none".into();
        config["to"] = "other".into();
        config["associations"] =
            json!([{ "namespace": "jobs", "service-account": account, "role-arn": ROLE }]);
        (self.host.context("other", self.folder.path()), config)
    }

    fn accounts(&self, names: &[&str]) {
        let account = |name: &&str| {
            format!(
                "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: shop\n  annotations: {{eks.amazonaws.com/role-arn: '{ROLE}'}}\n---\n"
            )
        };
        let text: String = names.iter().map(account).collect();
        std::fs::write(self.folder.path().join("in/accounts.yaml"), text).unwrap();
    }

    /// Makes everything as the version before did, that told nobody what it had made: no tags and no outputs.
    async fn apply_as_before(&self) -> Value {
        let mut outputs = self.step.apply(&self.ctx, &self.config).await.unwrap();
        for made in outputs["made"].as_array_mut().unwrap() {
            made.as_object_mut().unwrap().remove("added").unwrap();
            for assignment in made["assignments"].as_array_mut().unwrap() {
                assignment.as_object_mut().unwrap().remove("added").unwrap();
            }
        }
        for resource in self.stand.0.lock().unwrap().resources.values_mut() {
            if let Some(tags) = resource["tags"].as_object_mut() {
                tags.retain(|tag, _| !tag.starts_with("migrate-made-by"));
            }
        }
        outputs
    }

    fn tags(&self) -> Vec<String> {
        let inner = self.stand.0.lock().unwrap();
        let tags = inner.resources.values().filter_map(|resource| resource["tags"].as_object());
        tags.flat_map(|tags| tags.keys().cloned()).collect()
    }

    /// What is there, without roles: names of identities and credentials.
    fn names(&self) -> Vec<String> {
        let inner = self.stand.0.lock().unwrap();
        let named = inner.resources.keys().filter(|id| id.contains("userassignedidentities"));
        named.map(|id| id.rsplit('/').next().unwrap().to_owned()).collect()
    }

    fn assignments(&self) -> usize {
        let inner = self.stand.0.lock().unwrap();
        inner.resources.keys().filter(|id| id.contains("roleassignments")).count()
    }

    fn warnings(&self) -> Vec<String> {
        let log = self.host.recorded().log;
        log.into_iter().filter(|(level, _)| *level == LogLevel::Warn).map(|(_, line)| line).collect()
    }

    fn writes(&self) -> Vec<String> {
        self.stand.0.lock().unwrap().writes.clone()
    }

    fn resources(&self) -> usize {
        self.stand.0.lock().unwrap().resources.len()
    }

    fn trouble(&self, trouble: &[(u16, &'static str)]) {
        self.stand.0.lock().unwrap().trouble = trouble.to_vec();
    }
}

#[tokio::test]
async fn identities_credentials_and_roles_are_made_once_and_taken_back() {
    let stage = Stage::new().await;
    let plan = stage.step.plan(&stage.ctx, &stage.config).await.unwrap();
    assert_eq!(plan.problems, [] as [migrate_plugin_api::Problem; 0]);
    assert_eq!(plan.summary, "make 1 managed identities in shop, of which 0 are there");
    assert_eq!(stage.writes(), [] as [String; 0]);

    let outputs = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    let made: Vec<String> = stage.writes().iter().map(|write| write.replace(GROUP, "")).collect();
    let identity = "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-web";
    assert_eq!(made[0], format!("PUT {identity}"));
    assert_eq!(made[1], format!("PUT {identity}/federatedIdentityCredentials/shop_api"));
    assert_eq!(made[2], format!("PUT {identity}/federatedIdentityCredentials/shop_web"));
    assert!(made[3].contains("/storageAccounts/files/providers/Microsoft.Authorization/roleAssignments/"));
    assert_eq!(made.len(), 4);
    assert_eq!(outputs["client-ids"], json!({ "shop/api": "client-0", "shop/web": "client-0" }));

    let evidence = stage.step.verify(&stage.ctx, &stage.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    let checked = evidence.checks.iter().filter(|check| check.subject == "identity id-web").count();
    assert_eq!(checked, 4);
    // Repeating is no doubling.
    assert_eq!(stage.step.apply(&stage.ctx, &stage.config).await.unwrap(), outputs);
    assert_eq!(stage.writes().len(), 4);

    for _ in 0..2 {
        stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
        assert_eq!(stage.resources(), 0);
    }
    assert!(!stage.folder.path().join("out").exists());
    let evidence = stage.step.verify(&stage.ctx, &stage.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.failures().count() >= 4, "{evidence:?}");
}

#[tokio::test]
async fn what_azure_is_not_ready_for_is_tried_again_and_an_interruption_is_gone_on_from() {
    let stage = Stage::new().await;
    stage.trouble(&[
        (409, "ConcurrentFederatedIdentityCredentialsWritesForSingleManagedIdentity"),
        (403, "AuthorizationFailed"),
    ]);
    // The first credential is tried again and then refused: an interruption as good as any.
    let error = stage.step.apply(&stage.ctx, &stage.config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    assert_eq!(stage.writes().len(), 1);
    stage.trouble(&[(429, "TooManyRequests")]);
    let outputs = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    assert_eq!(stage.writes().len(), 4);
    assert_eq!(outputs["made"][0]["client-id"], "client-0");

    let stage = Stage::new().await;
    let config = {
        let mut config = stage.config.clone();
        config["associations"] = json!([]);
        config
    };
    std::fs::write(stage.folder.path().join("in/accounts.yaml"), "").unwrap();
    let mut config = config;
    config["associations"] = json!([{ "namespace": "shop", "service-account": "web", "role-arn": ROLE }]);
    // The principal of a new identity is not known everywhere at once: the assignment is tried until it is.
    stage
        .step
        .apply(&stage.ctx, &{
            let mut bare = config.clone();
            bare["assignments"] = json!([]);
            bare
        })
        .await
        .unwrap();
    stage.trouble(&[(400, "PrincipalNotFound"), (400, "PrincipalNotFound")]);
    stage.step.apply(&stage.ctx, &config).await.unwrap();
    assert_eq!(stage.writes().len(), 3);
}

#[tokio::test]
async fn what_is_there_and_is_something_else_stays_and_is_told_before_anything_is_made() {
    let stage = Stage::new().await;
    let id =
        format!("{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-web").to_lowercase();
    let theirs = json!({ "location": "eastus", "properties": { "clientId": "c", "principalId": "p" } });
    stage.stand.0.lock().unwrap().resources.insert(id.clone(), theirs.clone());
    let problems = stage.step.plan(&stage.ctx, &stage.config).await.unwrap().problems;
    assert!(
        problems[0].message.contains("identity id-web is there and was not made for role"),
        "{problems:?}"
    );
    let error = stage.step.apply(&stage.ctx, &stage.config).await.unwrap_err();
    assert_eq!((error.class, stage.writes().len()), (ErrorClass::Conflict, 0));

    // Ours, with a credential for another cluster.
    let mut ours = theirs;
    ours["tags"] = json!({ "migrate-role": ROLE });
    let other = json!({ "properties": { "issuer": "https://other/", "subject": "system:serviceaccount:shop:web", "audiences": ["api://AzureADTokenExchange"] } });
    stage
        .stand
        .0
        .lock()
        .unwrap()
        .resources
        .extend([(id.clone(), ours), (format!("{id}/federatedidentitycredentials/shop_web"), other)]);
    let error = stage.step.apply(&stage.ctx, &stage.config).await.unwrap_err();
    assert!(
        error.message.contains("credential shop_web of identity id-web is there with another issuer"),
        "{error}"
    );
    assert_eq!((error.class, stage.writes().len()), (ErrorClass::Conflict, 0));
}

#[tokio::test]
async fn a_role_that_somebody_has_assigned_is_left_to_them() {
    let stage = Stage::new().await;
    let mut config = stage.config.clone();
    config["assignments"] = json!([]);
    stage.step.apply(&stage.ctx, &config).await.unwrap();
    let theirs = format!("{SCOPE}/providers/Microsoft.Authorization/roleAssignments/theirs").to_lowercase();
    let said = json!({ "properties": { "roleDefinitionId": "/subscriptions/sub/providers/Microsoft.Authorization/roleDefinitions/2a2b9908",
        "principalId": "principal-0", "principalType": "ServicePrincipal" } });
    stage.stand.0.lock().unwrap().resources.insert(theirs.clone(), said);
    let outputs = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    assert_eq!(outputs["made"][0]["assignments"][0]["id"], "");
    let evidence = stage.step.verify(&stage.ctx, &stage.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed());
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert!(stage.stand.0.lock().unwrap().resources.contains_key(&theirs));
}

#[tokio::test]
async fn what_can_not_be_assigned_is_told_in_the_plan() {
    let stage = Stage::new().await;
    for (role, scope, words) in [
        ("Cosmos DB Built-in Data Reader", SCOPE, "role of Cosmos DB itself"),
        ("Storage Blob Data Reader", "files", "no ID of a resource"),
        ("Storage Blob Data Reader", "/subscriptions/../x", "no ID of a resource"),
    ] {
        let mut config = stage.config.clone();
        config["assignments"] = json!([{ "role-arn": ROLE, "role": role, "scope": scope }]);
        let problems = stage.step.plan(&stage.ctx, &config).await.unwrap().problems;
        assert!(problems[0].message.contains(words), "{problems:?}");
    }
    let stray = "arn:aws:iam::123456789012:role/team/web";
    let mut config = stage.config.clone();
    config["assignments"][0]["role-arn"] = stray.into();
    let problems = stage.step.plan(&stage.ctx, &config).await.unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].message, format!("no service account has the role {stray}"));
    assert_eq!(problems[0].hint, Some(format!("did you mean `{ROLE}`?")));
    assert_eq!(problems[0].field.as_deref(), Some("assignments"));
    let error = stage.step.apply(&stage.ctx, &config).await.unwrap_err();
    assert_eq!((error.class, stage.writes().len()), (ErrorClass::Permanent, 0));
    let mut config = stage.config.clone();
    config["azure"] = Value::Null;
    assert_eq!(
        stage.step.plan(&stage.ctx, &config).await.unwrap().problems[0].field.as_deref(),
        Some("azure")
    );
    let mut config = stage.config.clone();
    config["assignments"][0]["role"] = "No Such Role".into();
    let error = stage.step.apply(&stage.ctx, &config).await.unwrap_err();
    assert_eq!(
        (error.message.as_str(), stage.writes().len()),
        ("there is no role `No Such Role` in Azure", 0)
    );
}

#[tokio::test]
async fn an_account_that_comes_later_goes_where_there_is_room() {
    let stage = Stage::new().await;
    std::fs::write(stage.folder.path().join("in/accounts.yaml"), "").unwrap();
    let accounts = |first: &str| -> Value {
        let names = std::iter::once(first.to_owned()).chain((0..19).map(|at| format!("m{at:02}")));
        names.map(|name| json!({ "namespace": "shop", "service-account": name, "role-arn": ROLE })).collect()
    };
    let mut config = stage.config.clone();
    config["associations"] = accounts("z");
    let before = stage.step.apply(&stage.ctx, &config).await.unwrap();
    assert_eq!(before["made"].as_array().unwrap().len(), 1);
    let mut more = accounts("a");
    more.as_array_mut().unwrap().extend(config["associations"].as_array().unwrap()[..1].iter().cloned());
    config["associations"] = more;
    let plan = stage.step.plan(&stage.ctx, &config).await.unwrap();
    assert_eq!(plan.problems, [] as [migrate_plugin_api::Problem; 0]);
    assert_eq!(plan.summary, "make 2 managed identities in shop, of which 1 are there");
    let after = stage.step.apply(&stage.ctx, &config).await.unwrap();
    for (account, id) in before["client-ids"].as_object().unwrap() {
        assert_eq!(&after["client-ids"][account], id, "{account}");
    }
    assert_eq!(after["made"][1]["credentials"], json!(["shop_a"]));
    let evidence = stage.step.verify(&stage.ctx, &config, &after, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    assert_eq!(stage.step.apply(&stage.ctx, &config).await.unwrap(), after);
    stage.step.undo(&stage.ctx, &config, &after).await.unwrap();
    assert_eq!(stage.resources(), 0);
}
