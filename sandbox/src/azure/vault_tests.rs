//! What the vault refuses, and that it keeps what it takes.

use http::Method;
use serde_json::{Value, json};

use super::tests::Stage;
use super::vault::RESOURCE;

struct Desk {
    stage: Stage,
    token: String,
}

impl Desk {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let token = stage.forged(|claims| claims.aud = RESOURCE.to_owned());
        Self { stage, token }
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> (u16, Value) {
        let (status, _, body) = self.stage.exchange(method, path, token, body.as_ref()).await;
        (status, body)
    }

    async fn set(&self, name: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PUT, &format!("/secrets/{name}?api-version=7.4"), &self.token, Some(body)).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, &format!("/{path}?api-version=7.4"), &self.token, None).await
    }
}

#[tokio::test]
async fn what_a_vault_would_refuse_is_refused() {
    let desk = Desk::new().await;
    let arm = desk.stage.forged(|_| ());
    let late = desk.stage.forged(|claims| (claims.aud, claims.exp) = (RESOURCE.to_owned(), 1));
    for (token, number) in [("", "AKV10000"), ("x.y.z", "AKV10001"), (&arm, "AKV10022"), (&late, "AKV10005")]
    {
        let (status, body) = desk.ask(Method::GET, "/secrets/a?api-version=7.4", token, None).await;
        assert_eq!(status, 401);
        assert!(body["error"]["message"].as_str().unwrap().starts_with(number), "{body}");
    }
    for path in ["/secrets/a", "/secrets/a?api-version=1", "/secrets/a_b?api-version=7.4"] {
        assert_eq!(desk.ask(Method::GET, path, &desk.token, None).await.0, 400, "{path}");
    }
    let long = "x".repeat(128);
    let tags: serde_json::Map<String, Value> = (0..16).map(|at| (format!("t{at}"), "".into())).collect();
    for (name, body) in [
        (long.as_str(), json!({ "value": "v" })),
        ("a", json!({ "value": "x".repeat(25_601) })),
        ("a", json!({ "value": "v", "tags": tags })),
        ("a", json!({ "value": "v", "contenttype": "typo" })),
        ("a", json!({})),
    ] {
        assert_eq!(desk.set(name, body).await.0, 400);
    }
    assert_eq!(desk.get("secrets/a").await.0, 404);
    assert_eq!(desk.ask(Method::PATCH, "/secrets/a?api-version=7.4", &desk.token, None).await.0, 405);
}

#[tokio::test]
async fn each_set_is_a_version_and_a_deleted_name_is_taken_until_it_is_purged() {
    let desk = Desk::new().await;
    let (status, first) =
        desk.set("Db", json!({ "value": "one", "contentType": "text/plain", "tags": { "a": "b" } })).await;
    assert_eq!(status, 200);
    let (_, second) = desk.set("db", json!({ "value": "two" })).await;
    assert_ne!(first["id"], second["id"]);
    // Names know no case and keep the first.
    let id = first["id"].as_str().unwrap();
    let version = id.strip_prefix("https://migratesandbox.vault.azure.net/secrets/Db/").unwrap();
    assert_eq!(desk.get(&format!("secrets/db/{version}")).await.1["value"], "one");
    assert_eq!(desk.get("secrets/DB").await.1["value"], "two");
    let (_, versions) = desk.get("secrets/db/versions").await;
    assert_eq!(versions["value"].as_array().unwrap().len(), 2);
    assert!(!versions.to_string().contains("one"), "a list has no values");
    assert_eq!(versions["value"][0]["tags"], json!({ "a": "b" }));

    desk.set("off", json!({ "value": "v", "attributes": { "enabled": false } })).await;
    assert_eq!(desk.get("secrets/off").await.0, 403);

    let delete = |path: &'static str| desk.ask(Method::DELETE, path, &desk.token, None);
    assert_eq!(delete("/secrets/db?api-version=7.4").await.0, 200);
    assert_eq!((desk.get("secrets/db").await.0, desk.get("deletedsecrets/db").await.0), (404, 200));
    let (status, body) = desk.set("db", json!({ "value": "three" })).await;
    assert_eq!((status, body["error"]["code"].as_str()), (409, Some("Conflict")));
    let recover = "/deletedsecrets/db/recover?api-version=7.4";
    assert_eq!(desk.ask(Method::POST, recover, &desk.token, None).await.0, 200);
    assert_eq!(desk.get("secrets/db").await.1["value"], "two");
    delete("/secrets/db?api-version=7.4").await;
    assert_eq!(delete("/deletedsecrets/db?api-version=7.4").await.0, 204);
    assert_eq!(desk.set("db", json!({ "value": "three" })).await.0, 200);
    assert_eq!(desk.get("secrets/db/versions").await.1["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let desk = Desk::new().await;
    for at in 0..30 {
        desk.set(&format!("s-{at:02}"), json!({ "value": "v" })).await;
    }
    let (_, page) = desk.get("secrets").await;
    assert_eq!(page["value"].as_array().unwrap().len(), 25);
    let next: url::Url = page["nextLink"].as_str().unwrap().parse().unwrap();
    let next = format!("{}?{}", next.path(), next.query().unwrap());
    let (_, rest) = desk.ask(Method::GET, &next, &desk.token, None).await;
    assert_eq!((rest["value"].as_array().unwrap().len(), &rest["nextLink"]), (5, &Value::Null));
}
