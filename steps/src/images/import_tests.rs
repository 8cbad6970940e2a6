//! `acr.import` against two real registries and a strict stand-in of ours for Azure Resource
//! Manager, which really fetches: with the credentials it was given, by digest, from the source.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, Step, StepError, Typed, VerifyDepth};
use serde_json::{Value, json};
use wiremock::matchers::path_regex;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::arm::{ArmLimits, ImportRequest};
use super::content::RegistryContent;
use super::deliver::Delivery;
use super::graph::{self, Depth};
use super::import::Import;
use super::meter::Meter;
use super::reference::ImageRef;
use super::registry::Registry;
use super::stand::{self, PASSWORD, Stand, USER, noise};

const RESOURCE: &str =
    "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.ContainerRegistry/registries/production";

/// How the stand-in behaves towards one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    /// Says `Running` for ever (Azure/acr #549).
    Hangs,
    /// Accepts and fails later.
    Fails,
    /// 403.
    Forbids,
}

#[derive(Clone)]
struct Azure {
    source: Arc<Registry>,
    target: Arc<Registry>,
    mood: fn(&str) -> Mood,
    operations: Arc<Mutex<Vec<(Mood, bool)>>>,
    asked: Arc<AtomicU64>,
    uri: String,
}

impl Azure {
    async fn start(source: &Stand, target: &Stand, mood: fn(&str) -> Mood) -> (MockServer, Self) {
        let server = MockServer::start().await;
        let azure = Self {
            source: source.client(),
            target: target.client(),
            mood,
            operations: Arc::default(),
            asked: Arc::default(),
            uri: server.uri(),
        };
        Mock::given(path_regex(".*")).respond_with(azure.clone()).mount(&server).await;
        (server, azure)
    }

    fn import(&self, request: &Request) -> ResponseTemplate {
        let Ok(body) = serde_json::from_slice::<ImportRequest>(&request.body) else {
            return refuse(400, "InvalidRequestBody");
        };
        let credentials = body.source.credentials.as_ref();
        if credentials.is_none_or(|c| c.username != USER || c.password != PASSWORD) {
            return refuse(401, "SourceUnauthorized");
        }
        let image = format!("{}/{}", body.source.registry_uri, body.source.source_image);
        let Ok(mut image) = ImageRef::parse(&image) else { return refuse(400, "InvalidSourceImage") };
        let targets = body.target_tags.len() + body.untagged_target_repositories.len();
        if body.source.registry_uri != self.source.host || targets != 1 || body.mode != "NoForce" {
            return refuse(400, "InvalidParameters");
        }
        image.tag = body.target_tags.first().and_then(|tag| Some(tag.rsplit_once(':')?.1.to_owned()));
        let mood = (self.mood)(&image.repository);
        if mood == Mood::Forbids {
            return refuse(403, "AuthorizationFailed");
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let number = {
            let mut operations = self.operations.lock().unwrap();
            operations.push((mood, false));
            operations.len() - 1
        };
        if mood == Mood::Works {
            tokio::spawn(fetch(self.clone(), image, number));
        }
        ResponseTemplate::new(202)
            .insert_header("location", format!("{}/operations/{number}", self.uri).as_str())
    }
}

/// What Azure does out of our sight.
async fn fetch(azure: Azure, image: ImageRef, number: usize) {
    let content = Arc::new(RegistryContent(Arc::clone(&azure.source)));
    let images = vec![graph::read(&*content, &image, Depth::Own).await.unwrap()];
    let target = Arc::clone(&azure.target);
    let meter = Meter::default();
    let cursor = stand::cursor();
    let delivery = Delivery {
        source: content,
        target,
        images: &images,
        overwrite: false,
        meter: &meter,
        cursor: &cursor,
    };
    delivery.run().await.unwrap();
    azure.operations.lock().unwrap()[number].1 = true;
}

impl Respond for Azure {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        if request.headers.get("authorization").is_none_or(|value| value != "Bearer arm-token") {
            return refuse(401, "InvalidAuthenticationToken");
        }
        let path = request.url.path();
        if let Some(number) = path.strip_prefix("/operations/") {
            let (mood, done) = self.operations.lock().unwrap()[number.parse::<usize>().unwrap()];
            return match (mood, done) {
                (Mood::Fails, _) => ResponseTemplate::new(200).set_body_json(json!({
                    "status": "Failed", "error": { "code": "SourceNotReachable", "message": "no route" } })),
                (_, true) => ResponseTemplate::new(200),
                (_, false) => ResponseTemplate::new(202),
            };
        }
        if !request.url.query().unwrap_or("").contains("api-version=2023-07-01") {
            return refuse(400, "MissingApiVersionParameter");
        }
        match (request.method.as_str(), path) {
            ("GET", RESOURCE) => ResponseTemplate::new(200).set_body_json(json!({ "name": "production" })),
            ("POST", path) if path == format!("{RESOURCE}/importImage") => self.import(request),
            _ => refuse(404, "ResourceNotFound"),
        }
    }
}

fn refuse(status: u16, code: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .set_body_json(json!({ "error": { "code": code, "message": "said the stand-in" } }))
}

struct Site {
    source: Stand,
    target: Stand,
    server: MockServer,
    azure: Azure,
    project: tempfile::TempDir,
}

impl Site {
    async fn start(mood: fn(&str) -> Mood) -> Self {
        let (source, target) = tokio::join!(Stand::start(), Stand::start());
        let (server, azure) = Azure::start(&source, &target, mood).await;
        Self { source, target, server, azure, project: tempfile::tempdir().unwrap() }
    }

    fn config(&self, images: &[&str]) -> Value {
        let images: Vec<String> =
            images.iter().map(|image| format!("{}/{image}", self.source.host)).collect();
        json!({
            "from": self.source.reference(), "images": images, "to": self.target.reference(),
            "azure": { "subscription": "sub", "resource-group": "rg", "arm-endpoint": self.server.uri(),
                       "token": "env:ARM" },
            "registry-name": "production",
        })
    }

    fn context(&self, token: &str, cursor: Option<Value>) -> migrate_plugin_api::StepContext {
        let host = stand::host();
        host.put_secret("env:ARM", token);
        host.context("import", self.project.path()).with_state(None, cursor)
    }

    async fn apply(&self, config: &Value) -> Result<Value, StepError> {
        step().apply(&self.context("arm-token", None), config).await
    }
}

fn step() -> Typed<Import> {
    Typed(Import::with_limits(ArmLimits {
        poll: Duration::from_millis(10),
        // Long enough for what works on a busy machine; only the one that hangs waits for it.
        hang: Duration::from_secs(8),
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_fetches_what_it_can_and_the_rest_is_streamed() {
    let site = Site::start(|repository| match repository {
        "shop/hangs" => Mood::Hangs,
        "shop/fails" => Mood::Fails,
        "shop/forbidden" => Mood::Forbids,
        _ => Mood::Works,
    })
    .await;
    let web = site.source.index("shop/web", "1.0", false, &noise(1, 10_000)).await;
    let [signature, _] = site.source.sign("shop/web", &web).await;
    for repository in ["shop/hangs", "shop/fails", "shop/forbidden", "shop/bare"] {
        site.source.image(repository, "1", &[noise(2, 1_000)]).await;
    }
    let bare = format!("shop/bare@{}", site.source.digest("shop/bare", "1").await.unwrap());
    let images = ["shop/web:1.0", "shop/hangs:1", "shop/fails:1", "shop/forbidden:1", &bare];
    let config = site.config(&images);
    assert!(step().plan(&site.context("arm-token", None), &config).await.unwrap().problems.is_empty());

    let outputs = site.apply(&config).await.unwrap();
    let ways: Vec<_> =
        outputs["images"].as_array().unwrap().iter().map(|i| i["way"].as_str().unwrap()).collect();
    assert_eq!(ways, ["import", "stream", "stream", "stream", "import"]);
    let reasons: Vec<_> = outputs["images"].as_array().unwrap()[1..4].iter().map(|i| &i["reason"]).collect();
    let digest = site.source.digest("shop/forbidden", "1").await.unwrap();
    let reasons = serde_json::to_string_pretty(&reasons).unwrap().replace(&digest, "DIGEST");
    insta::assert_snapshot!(reasons, @r#"
    [
      "the import was still running after 0 minutes",
      "the import failed: SourceNotReachable no route",
      "failed to ask for the import of shop/forbidden@DIGEST: 403 AuthorizationFailed said the stand-in"
    ]
    "#);
    // Two by Azure, the first with both platforms; what is attached comes by stream.
    assert_eq!(site.target.digest("shop/web", &signature).await, Some(signature));
    let evidence =
        step().verify(&site.context("arm-token", None), &config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert!(evidence.passed(), "{evidence:#?}");

    let asked = site.azure.asked.load(Ordering::Relaxed);
    let again = site.apply(&config).await.unwrap();
    assert_eq!(site.azure.asked.load(Ordering::Relaxed), asked, "what is there is not imported again");
    assert!(again["images"].as_array().unwrap().iter().all(|image| image["way"] == "present"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_is_joined() {
    let site = Site::start(|_| Mood::Works).await;
    site.source.image("shop/web", "1", &[noise(3, 1_000)]).await;
    let image = ImageRef::parse(&format!("{}/shop/web:1", site.source.host)).unwrap();
    site.azure.operations.lock().unwrap().push((Mood::Works, false));
    tokio::spawn(fetch(site.azure.clone(), image.clone(), 0));
    let cursor =
        json!({ "operations": { image.to_string(): format!("{}/operations/0", site.server.uri()) } });
    let config = site.config(&["shop/web:1"]);
    let outputs = step().apply(&site.context("arm-token", Some(cursor)), &config).await.unwrap();
    assert_ne!(outputs["images"][0]["way"], "stream");
    assert_eq!(site.azure.asked.load(Ordering::Relaxed), 0, "Azure was not asked a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_or_resource_is_no_reason_to_stream() {
    let site = Site::start(|_| Mood::Works).await;
    site.source.image("shop/web", "1", &[noise(4, 1_000)]).await;
    let mut config = site.config(&["shop/web:1"]);
    let error = step().apply(&site.context("wrong", None), &config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth, "{error}");
    assert_eq!(site.target.digest("shop/web", "1").await, None);

    let secret = json!({ "tenant": "t", "client-id": "c", "client-secret": "env:ARM" });
    config["azure"]["service-principal"] = secret;
    let plan = step().plan(&site.context("arm-token", None), &config).await.unwrap();
    assert_eq!(plan.problems[0].message, "there are both a `token` and a `service-principal` for Azure");

    config["azure"].as_object_mut().unwrap().remove("service-principal");
    config["azure"]["resource-group"] = json!("other");
    let plan = step().plan(&site.context("arm-token", None), &config).await.unwrap();
    assert_eq!(plan.problems[0].field.as_deref(), Some("azure"));
}
