//! Who we are to the two services: tokens of Entra's and sessions of directory buckets, which end while
//! an object is copied and which nobody gets to see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use migrate_plugin_api::{ErrorClass, StepError, TypedStep as _, VerifyDepth};
use serde_json::{Value, json};

use super::BlobCopy;
use super::stand::sink::Sink;
use super::stand::{MIB, World, multipart, noise};

const CLIENT_SECRET: &str = "S3CRET-OF-OURS";
/// What every token begins with.
const TOKEN: &str = "T0KEN-";

/// Entra's token endpoint for one application. What it gives, the container takes.
struct Entra {
    sink: Arc<Sink>,
    given: AtomicU64,
    /// Seconds that a token lasts.
    lasts: AtomicU64,
}

async fn give(State(entra): State<Arc<Entra>>, asked: Bytes) -> (StatusCode, Json<Value>) {
    let asked: BTreeMap<String, String> = url::form_urlencoded::parse(&asked).into_owned().collect();
    let known = [
        ("client_id", "my-app"),
        ("grant_type", "client_credentials"),
        ("scope", "https://storage.azure.com/.default"),
    ];
    if asked.len() != 4 || known.iter().any(|(name, value)| asked.get(*name).is_none_or(|is| is != value)) {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_request" })));
    }
    if asked.get("client_secret").is_none_or(|secret| secret != CLIENT_SECRET) {
        let words = "AADSTS7000215: Invalid client secret provided.";
        let denied = json!({ "error": "invalid_client", "error_description": words });
        return (StatusCode::UNAUTHORIZED, Json(denied));
    }
    let token = format!("{TOKEN}{}", entra.given.fetch_add(1, Ordering::Relaxed) + 1);
    entra.sink.gate.open_to(&token);
    let lasts = entra.lasts.load(Ordering::Relaxed);
    (StatusCode::OK, Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": lasts })))
}

/// A world whose container takes nothing but tokens of this Entra.
async fn world_with_entra() -> (World, Arc<Entra>) {
    let mut world = World::new(None).await;
    world.sink.gate.close();
    let entra =
        Entra { sink: Arc::clone(&world.sink), given: AtomicU64::new(0), lasts: AtomicU64::new(3_600) };
    let entra = Arc::new(entra);
    let router =
        Router::new().route("/my-tenant/oauth2/v2.0/token", post(give)).with_state(Arc::clone(&entra));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    world.host.put_secret("env:CLIENT_SECRET", CLIENT_SECRET);
    let principal = json!({ "tenant": "my-tenant", "client-id": "my-app", "client-secret": "env:CLIENT_SECRET",
                            "authority": authority });
    world.config.to.service_principal = Some(serde_json::from_value(principal).unwrap());
    world.config.to.sas = None;
    (world, entra)
}

/// All that anybody gets to see: logs, progress, cursors, and the error.
fn assert_silent(world: &World, error: Option<&StepError>) {
    let recorded = world.host.recorded();
    let mut shown = format!("{:?} {:?} {:?}", recorded.progress, recorded.log, recorded.cursors);
    if let Some(error) = error {
        shown += &format!("{error:?} {:?}", error.to_record());
    }
    for secret in [TOKEN, CLIENT_SECRET, "SESS10N-"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

fn tokens(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("{TOKEN}{number}")).collect()
}

/// One small, one that is passed on, one in blocks.
fn fill(world: &World) {
    world.bucket.put("small", "x");
    world.bucket.put("middle", noise(MIB, 1));
    world.bucket.put_object("large", multipart(noise(60 * MIB, 2), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_bears_the_one_token_that_was_asked_for() {
    let (world, entra) = world_with_entra().await;
    fill(&world);
    let outputs = world.apply().await.unwrap();
    assert_eq!(outputs.copied, 3);
    world.assert_equal();
    let seen = world.sink.gate.seen();
    let kinds: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["get-block-list", "list", "put-blob", "put-block", "put-block-list"]);
    assert!(seen.values().all(|seen| *seen == tokens([1])), "{seen:?}");
    assert_eq!((entra.given.load(Ordering::Relaxed), world.sink.gate.refused()), (1, 0));

    let ctx = world.context();
    let evidence = BlobCopy.verify(&ctx, &world.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    assert!(world.plan().await.problems.is_empty());
    assert_silent(&world, None);
    assert!(!format!("{evidence:?} {outputs:?}").contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_in_the_middle_of_an_object_is_renewed_once_for_all() {
    let (world, entra) = world_with_entra().await;
    world.bucket.put_object("large", multipart(noise(100 * MIB, 1), 1));
    let sink = Arc::clone(&world.sink);
    world.sink.set_faults(Some(Box::new(move |kind, _, before| {
        if kind == "put-block" && before == 3 {
            sink.gate.close();
        }
        None
    })));
    assert_eq!(world.apply().await.unwrap().copied, 1);
    world.assert_equal();
    assert!(world.sink.gate.refused() > 0, "nothing was refused");
    assert_eq!(entra.given.load(Ordering::Relaxed), 2);
    assert_eq!(world.sink.gate.seen()["put-block"], tokens(1..=2));
    assert!(world.sink.arrivals().values().all(|times| *times == 1), "a block was sent twice");
    assert_silent(&world, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_near_its_end_is_renewed_before_it_is_refused() {
    let (world, entra) = world_with_entra().await;
    // No longer than the margin: each request would come too late with the one before it.
    entra.lasts.store(300, Ordering::Relaxed);
    fill(&world);
    assert_eq!(world.apply().await.unwrap().copied, 3);
    world.assert_equal();
    assert_eq!(world.sink.gate.refused(), 0);
    assert!(world.sink.gate.seen()["put-block"].len() > 1, "{:?}", world.sink.gate.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_sent_and_the_error_says_what_to_do() {
    let (world, _) = world_with_entra().await;
    fill(&world);
    world.host.put_secret("env:CLIENT_SECRET", "S3CRET-OF-OURS-and-wrong");
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    let record = error.to_record();
    assert!(record.message.starts_with("failed to list container `c` at http://127.0.0.1:"), "{record:?}");
    let causes = "failed to get an Entra token for Blob Storage: Entra answered 401: invalid_client AADSTS7000215: \
                  Invalid client secret provided.";
    assert_eq!(record.causes, [causes]);
    assert!(record.hint.unwrap().contains("check `service-principal`"), "{error:?}");
    assert!(world.sink.gate.seen().is_empty());
    assert_silent(&world, Some(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_without_the_right_ends_the_attempt_and_shows_no_token() {
    let (world, entra) = world_with_entra().await;
    fill(&world);
    world.refuse(403, "AuthorizationPermissionMismatch", |kind, _, _| kind.starts_with("put"));
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    assert!(format!("{:?}", error.to_record()).contains("AuthorizationPermissionMismatch"), "{error:?}");
    assert!(entra.given.load(Ordering::Relaxed) >= 2, "it was not tried with a fresh token");
    assert_silent(&world, Some(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_to_nobody_over_an_open_line_and_two_logins_are_one_too_many() {
    let (mut world, entra) = world_with_entra().await;
    world.config.to.account_url = "http://account.example".parse().unwrap();
    let error = world.apply().await.unwrap_err();
    let message = "no Entra token is sent to `http://account.example/`: others could read it on the way";
    assert_eq!((error.class, error.message.as_str()), (ErrorClass::Permanent, message));
    assert_eq!(entra.given.load(Ordering::Relaxed), 0);

    world.config.to.sas = Some(serde_json::from_value(json!("env:SAS")).unwrap());
    let error = world.apply().await.unwrap_err();
    let message =
        "there are both a `sas` and a `service-principal` for container `c` at http://account.example";
    assert_eq!(error.message, message);
}

/// A bucket with a signature of its own: requests bear the token of a session that is asked for first.
async fn world_with_sessions() -> World {
    let mut world = World::new(None).await;
    world.config.from.bucket = "shop--use1-az4--x-s3".to_owned();
    world.bucket.gate.close();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_bucket_is_read_by_urls_of_its_own_signature() {
    let world = world_with_sessions().await;
    fill(&world);
    let outputs = world.apply().await.unwrap();
    assert_eq!(outputs.copied, 3);
    world.assert_equal();
    let counts = world.bucket.counts();
    assert_eq!(counts.get("create-session"), Some(&1), "{counts:?}");
    assert_eq!(world.bucket.gate.refused(), 0);
    assert!(world.bucket.gate.seen().contains_key("get"), "objects were read without a session");
    // The version and its checksum are asked for in the signed request too.
    assert_eq!(outputs.checksums, [("crc64nvme".to_owned(), 3)].into());
    assert_silent(&world, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_in_the_middle_of_an_object_is_renewed_once_for_all() {
    let world = world_with_sessions().await;
    world.bucket.put_object("large", multipart(noise(100 * MIB, 1), 1));
    let bucket = Arc::clone(&world.bucket);
    world.bucket.set_faults(Some(Box::new(move |kind, _, before| {
        if kind == "get" && before == 3 {
            bucket.gate.close();
        }
        None
    })));
    assert_eq!(world.apply().await.unwrap().copied, 1);
    world.assert_equal();
    assert!(world.bucket.gate.refused() > 0, "nothing was refused");
    assert_eq!(world.bucket.counts()["create-session"], 2);
    assert!(world.sink.arrivals().values().all(|times| *times == 1), "a block was sent twice");
    assert_silent(&world, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn azcopy_gets_the_applications_secret_by_its_environment_and_nothing_on_its_command_line() {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut world, _) = world_with_entra().await;
    world.bucket.put("small", "x");
    let (program, seen) = (world.project.path().join("azcopy"), world.project.path().join("seen"));
    let script =
        format!("#!/bin/sh\nenv | grep ^AZCOPY_ | sort > {0}\necho \"$@\" >> {0}\nexit 1\n", seen.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (world.config.engine, world.config.azcopy) = (super::Engine::Azcopy, Some(program));
    let error = world.apply().await.unwrap_err();
    let seen = std::fs::read_to_string(seen).unwrap();
    for wanted in [
        "AZCOPY_AUTO_LOGIN_TYPE=SPN",
        "AZCOPY_TENANT_ID=my-tenant",
        "AZCOPY_SPA_APPLICATION_ID=my-app",
        "AZCOPY_SPA_CLIENT_SECRET=S3CRET-OF-OURS",
        "AZCOPY_ACTIVE_DIRECTORY_ENDPOINT=http://127.0.0.1:",
    ] {
        assert!(seen.lines().any(|line| line.starts_with(wanted)), "{wanted} is not in {seen}");
    }
    let words = seen.lines().last().unwrap();
    assert!(
        words.starts_with("copy ") && !words.contains(CLIENT_SECRET) && !words.contains(TOKEN),
        "{words}"
    );
    assert_silent(&world, Some(&error));
}
