//! What Resource Manager refuses of identities, credentials and role assignments, and that it keeps the rest.

use http::Method;
use serde_json::{Value, json};

use super::tests::Stage;

const GROUP: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/sandbox";
const READER: &str = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1";

struct Desk {
    stage: Stage,
    token: String,
}

impl Desk {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let token = stage.forged(|_| ());
        Self { stage, token }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String, Value) {
        let (status, _, body) = self.stage.exchange(method, path, &self.token, body.as_ref()).await;
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), body)
    }

    async fn put(&self, path: &str, version: &str, body: Value) -> (u16, String, Value) {
        self.ask(Method::PUT, &format!("{GROUP}{path}?api-version={version}"), Some(body)).await
    }
}

const IDENTITY: &str = "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web";

fn credential(subject: &str) -> Value {
    json!({ "properties": { "issuer": "https://issuer/", "subject": subject, "audiences": ["api://AzureADTokenExchange"] } })
}

#[tokio::test]
async fn credentials_are_twenty_and_each_for_another_subject() {
    let desk = Desk::new().await;
    let path = |name: &str| format!("{IDENTITY}/federatedIdentityCredentials/{name}");
    let put = |name: String, body| {
        let desk = &desk;
        async move { desk.put(&path(&name), "2023-01-31", body).await }
    };
    assert_eq!(put("a".into(), credential("a")).await.1, "ParentResourceNotFound");
    assert_eq!(
        desk.put(IDENTITY, "2019-01-01", json!({ "location": "x" })).await.1,
        "InvalidApiVersionParameter"
    );
    assert_eq!(desk.put(IDENTITY, "2023-01-31", json!({ "location": "" })).await.1, "LocationRequired");
    let (status, _, made) =
        desk.put(IDENTITY, "2023-01-31", json!({ "location": "eastus", "tags": { "a": "b" } })).await;
    assert_eq!(status, 201);
    // Made again it is the same one.
    let (status, _, again) = desk.put(IDENTITY, "2023-01-31", json!({ "location": "eastus" })).await;
    assert_eq!((status, &again["properties"]), (200, &made["properties"]));
    for at in 0..20 {
        assert_eq!(put(format!("c{at}"), credential(&format!("s{at}"))).await.0, 201);
    }
    assert_eq!(put("more".into(), credential("more")).await.0, 400);
    assert_eq!(put("c0".into(), credential("s1")).await.0, 409);
    assert_eq!(put("c0".into(), credential("other")).await.0, 200);
    let wrong = json!({ "properties": { "issuer": "http://issuer/", "subject": "s", "audiences": ["a"] } });
    assert_eq!(put("c0".into(), wrong).await.0, 400);
    let names = |list: &Value| -> Vec<String> {
        list["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let listed = format!("{GROUP}{IDENTITY}/federatedIdentityCredentials?api-version=2023-01-31");
    let credentials = names(&desk.ask(Method::GET, &listed, None).await.2);
    assert_eq!((credentials.len(), credentials[0].as_str()), (20, "c0"));
    let all = IDENTITY.trim_end_matches("/web");
    let listed = format!("{GROUP}{all}?api-version=2023-01-31");
    assert_eq!(names(&desk.ask(Method::GET, &listed, None).await.2), ["web"]);
    // With the identity its credentials go.
    let id = format!("{GROUP}{IDENTITY}?api-version=2023-01-31");
    assert_eq!(desk.ask(Method::DELETE, &id, None).await.0, 200);
    assert_eq!(desk.ask(Method::DELETE, &id, None).await.0, 204);
    let gone = format!("{GROUP}{}?api-version=2023-01-31", path("c0"));
    assert_eq!(desk.ask(Method::GET, &gone, None).await.1, "ResourceNotFound");
}

#[tokio::test]
async fn a_role_is_assigned_once_by_a_guid_to_somebody_who_is_there() {
    let desk = Desk::new().await;
    let (_, _, made) = desk.put(IDENTITY, "2023-01-31", json!({ "location": "eastus" })).await;
    let principal = made["properties"]["principalId"].as_str().unwrap().to_owned();
    let body = |role: &str, principal: &str| {
        json!({ "properties": { "principalId": principal, "principalType": "ServicePrincipal",
            "roleDefinitionId": format!("/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions/{role}") } })
    };
    let assign = |name: &'static str, body| {
        let desk = &desk;
        async move {
            desk.put(
                &format!("/providers/Microsoft.Authorization/roleAssignments/{name}"),
                "2022-04-01",
                body,
            )
            .await
        }
    };
    const ONE: &str = "11111111-2222-3333-4444-555555555555";
    const TWO: &str = "11111111-2222-3333-4444-666666666666";
    assert_eq!(assign("web", body(READER, &principal)).await.1, "InvalidRoleAssignmentId");
    assert_eq!(assign(ONE, body("none", &principal)).await.1, "RoleDefinitionDoesNotExist");
    assert_eq!(assign(ONE, body(READER, ONE)).await.1, "PrincipalNotFound");
    assert_eq!(assign(ONE, body(READER, &principal)).await.0, 201);
    assert_eq!(assign(TWO, body(READER, &principal)).await.1, "RoleAssignmentExists");
    let filter = "$filter=roleName%20eq%20'Storage%20Blob%20Data%20Reader'";
    let roles =
        format!("{GROUP}/providers/Microsoft.Authorization/roleDefinitions?api-version=2022-04-01&{filter}");
    let (_, _, found) = desk.ask(Method::GET, &roles, None).await;
    assert!(found["value"][0]["id"].as_str().unwrap().ends_with(READER), "{found}");
    let elsewhere = "/subscriptions/other/resourceGroups/sandbox?api-version=2021-04-01";
    assert_eq!(desk.ask(Method::GET, elsewhere, None).await.0, 404);
}
