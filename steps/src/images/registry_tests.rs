use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use wiremock::matchers::{header, header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::super::content::RegistryContent;
use super::super::meter::Sent;
use super::super::reference::ImageRef;
use super::super::stand::{Fault, Proxy, Stand, client, cursor, limits, noise};
use super::super::upload::BlobSource;
use super::*;

fn anonymous(server: &MockServer) -> Arc<Registry> {
    let endpoint = Url::parse(&server.uri()).unwrap();
    Registry::new("registry.example", Some(&endpoint), Credentials::Anonymous, limits()).unwrap()
}

async fn read(registry: &Arc<Registry>, blob: &Descriptor) -> Result<Vec<u8>, StepError> {
    registry
        .read_blob("a", blob, 0)
        .try_fold(Vec::new(), |mut all, bytes| async move {
            all.extend_from_slice(&bytes);
            Ok(all)
        })
        .await
}

fn blob(bytes: &Bytes) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_survives_cuts_and_stalls() {
    let stand = Stand::start().await;
    let bytes = noise(1, 2_000_000);
    stand.put_blob("a", bytes.clone()).await;
    let faults =
        vec![Fault::StallDown(700_000), Fault::CutDown(1), Fault::CutDown(900_000), Fault::CutDown(300_000)];
    let proxy = Proxy::start(&stand.host, faults).await;
    let read = read(&client("registry.example", &proxy.address), &blob(&bytes)).await.unwrap();
    assert!(read == bytes);
    assert_eq!(proxy.left(), 0, "every fault happened");
}

#[tokio::test]
async fn what_was_asked_ahead_is_asked_once_and_a_later_question_anew() {
    let server = MockServer::start().await;
    let digest = Digest::of(b"image").to_string();
    let there = ResponseTemplate::new(200)
        .insert_header("docker-content-digest", digest.as_str())
        .set_body_raw("", manifest::OCI_MANIFEST);
    Mock::given(method("HEAD"))
        .and(path("/v2/a/manifests/1"))
        .respond_with(there.insert_header("content-length", "7"))
        .mount(&server)
        .await;
    Mock::given(method("HEAD")).respond_with(ResponseTemplate::new(404)).mount(&server).await;
    let registry = anonymous(&server);
    let place = |repository: &str| (repository.to_owned(), "1".to_owned());
    registry.look_ahead(vec![place("a"), place("b")]).await;
    let asked = async || server.received_requests().await.unwrap().len();
    assert_eq!(asked().await, 2);
    let found = registry.head_manifest("a", "1").await.unwrap().unwrap();
    assert_eq!(found.digest.to_string(), digest);
    assert!(registry.head_manifest("b", "1").await.unwrap().is_none());
    assert_eq!(asked().await, 2, "an answer that was there was asked for again");
    // Whoever asks once more wants to know what is there now.
    registry.head_manifest("a", "1").await.unwrap();
    assert_eq!(asked().await, 3);
}

fn source(from: &Stand, bytes: &Bytes) -> BlobSource {
    BlobSource {
        content: Arc::new(RegistryContent(from.client())),
        image: ImageRef::parse("registry.example/a:1").unwrap(),
        blob: blob(bytes),
    }
}

/// distribution gives an upload up when a chunk ends early ("upload resumed at wrong offset,
/// canceling upload"): there the blob starts again, and must still end right.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_cuts_and_stalls() {
    let (from, to) = tokio::join!(Stand::start(), Stand::start());
    let bytes = noise(2, 3_000_000);
    from.put_blob("a", bytes.clone()).await;
    let faults = vec![Fault::StallUp(600_000), Fault::CutUp(400_000), Fault::CutUp(900_000)];
    let proxy = Proxy::start(&to.host, faults).await;
    let all = Arc::new(AtomicU64::new(0));
    let upload = client("registry.example", &proxy.address);
    upload.upload("b", &source(&from, &bytes), None, &Sent::new(&all), &cursor()).await.unwrap();
    assert_eq!(proxy.left(), 0, "every fault happened");
    assert_eq!(all.load(Ordering::Relaxed), bytes.len() as u64, "progress counts nothing twice");
    assert!(read_from(&to, "b", &bytes).await == bytes);
}

/// A stand-in of ours for a registry that keeps an upload over a broken chunk, as the
/// specification describes: it takes half of every third chunk and then fails.
#[derive(Clone, Default)]
struct KeepsUploads {
    taken: Arc<std::sync::Mutex<Vec<u8>>>,
    chunks: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl wiremock::Respond for KeepsUploads {
    fn respond(&self, request: &wiremock::Request) -> ResponseTemplate {
        let mut taken = self.taken.lock().unwrap();
        let range = |taken: &Vec<u8>| format!("0-{}", taken.len().saturating_sub(1));
        let here = |code: u16, taken: &Vec<u8>| {
            ResponseTemplate::new(code)
                .insert_header("location", "/v2/b/blobs/uploads/1?_state=x")
                .insert_header("range", range(taken).as_str())
        };
        match request.method.as_str() {
            "POST" => here(202, &taken),
            "GET" => here(204, &taken),
            "PATCH" => {
                self.received.fetch_add(request.body.len() as u64, Ordering::Relaxed);
                let start = format!("{}-", taken.len());
                assert!(request.headers["content-range"].to_str().unwrap().starts_with(&start));
                if self.chunks.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                    taken.extend_from_slice(&request.body[..request.body.len() / 2]);
                    return ResponseTemplate::new(503);
                }
                taken.extend_from_slice(&request.body);
                here(202, &taken)
            }
            _ => {
                let digest = Digest::of(&taken).to_string();
                let asked =
                    request.url.query_pairs().find(|(name, _)| name == "digest").unwrap().1.into_owned();
                ResponseTemplate::new(if digest == asked { 201 } else { 400 })
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_costs_that_chunk_where_the_registry_keeps_the_upload() {
    let (from, server) = tokio::join!(Stand::start(), MockServer::start());
    let bytes = noise(3, 2_000_000);
    from.put_blob("a", bytes.clone()).await;
    let keeps = KeepsUploads::default();
    Mock::given(path("/v2/")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    Mock::given(wiremock::matchers::path_regex("^/v2/b/blobs/uploads/"))
        .respond_with(keeps.clone())
        .mount(&server)
        .await;
    anonymous(&server)
        .upload("b", &source(&from, &bytes), None, &Sent::new(&Arc::default()), &cursor())
        .await
        .unwrap();
    assert!(*keeps.taken.lock().unwrap() == bytes);
    let broken = keeps.chunks.load(Ordering::Relaxed) / 3;
    assert!(broken >= 2);
    let twice = keeps.received.load(Ordering::Relaxed) - bytes.len() as u64;
    assert!(twice <= broken * limits().chunk_bytes / 2, "{twice} bytes were sent twice");
}

async fn read_from(stand: &Stand, repository: &str, bytes: &Bytes) -> Vec<u8> {
    let stream = stand.client().read_blob(repository, &blob(bytes), 0);
    stream.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lies_is_named_and_nothing_is_committed() {
    let (from, to) = tokio::join!(Stand::start(), Stand::start());
    for len in [1_000, 1_000_000] {
        let bytes = noise(3, len);
        let digest = from.put_blob("a", bytes.clone()).await;
        let mut wrong = bytes.to_vec();
        wrong[len / 2] ^= 1;
        std::fs::write(from.blob_file(&digest.to_string()), &wrong).unwrap();
        let error = to
            .client()
            .upload("b", &source(&from, &bytes), None, &Sent::new(&Arc::default()), &cursor())
            .await
            .unwrap_err();
        assert_eq!(error.class, ErrorClass::Corrupt, "{error}");
        assert_eq!(to.client().head_blob("b", &digest).await.unwrap(), None);
    }
}

#[tokio::test]
async fn authorization_stays_with_the_registry() {
    let (registry, storage) = tokio::join!(MockServer::start(), MockServer::start());
    let bytes = Bytes::from_static(b"layer");
    let digest = Digest::of(&bytes);
    Mock::given(path(format!("/v2/a/blobs/{digest}")))
        .and(header_exists("authorization"))
        .respond_with(
            ResponseTemplate::new(307).insert_header("location", format!("{}/signed", storage.uri())),
        )
        .expect(1)
        .mount(&registry)
        .await;
    Mock::given(path(format!("/v2/a/blobs/{digest}")))
        .respond_with(ResponseTemplate::new(401).insert_header("www-authenticate", "Basic realm=\"r\""))
        .mount(&registry)
        .await;
    // As S3: two ways to be somebody are one too many.
    Mock::given(path("/signed"))
        .and(header_exists("authorization"))
        .respond_with(ResponseTemplate::new(400))
        .expect(0)
        .mount(&storage)
        .await;
    Mock::given(path("/signed"))
        .respond_with(ResponseTemplate::new(200).set_body_bytes(bytes.to_vec()))
        .mount(&storage)
        .await;
    let read =
        read(&client("registry.example", &registry.address().to_string()), &blob(&bytes)).await.unwrap();
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn storms_are_waited_out_and_have_an_end() {
    let server = MockServer::start().await;
    let answer = |code: u16| ResponseTemplate::new(code);
    Mock::given(path("/v2/a/manifests/1"))
        .respond_with(answer(429).insert_header("retry-after", "0"))
        .up_to_n_times(2)
        .mount(&server)
        .await;
    Mock::given(path("/v2/a/manifests/1")).respond_with(answer(503)).up_to_n_times(2).mount(&server).await;
    Mock::given(path("/v2/a/manifests/1")).respond_with(answer(404)).mount(&server).await;
    Mock::given(path("/v2/b/manifests/1"))
        .respond_with(answer(429).insert_header("retry-after", "0"))
        .mount(&server)
        .await;
    Mock::given(path("/v2/c/manifests/1")).respond_with(answer(500)).mount(&server).await;
    let registry = anonymous(&server);
    assert_eq!(registry.head_manifest("a", "1").await.unwrap(), None);
    let error = registry.head_manifest("b", "1").await.unwrap_err();
    assert!(matches!(error.class, ErrorClass::Throttled { .. }), "{error:?}");
    let error = registry.head_manifest("c", "1").await.unwrap_err();
    assert!(matches!(error.class, ErrorClass::Transient { .. }), "{error:?}");
}

#[tokio::test]
async fn refusals_have_their_class() {
    let server = MockServer::start().await;
    let manifest = Manifest::read("a:1", OCI, Bytes::from_static(b"{\"schemaVersion\":2}"), None).unwrap();
    for (repository, code, body, class) in [
        ("locked", 405, r#"{"errors":[{"code":"UNSUPPORTED","message":"locked"}]}"#, ErrorClass::Conflict),
        ("exists", 409, "", ErrorClass::Conflict),
        (
            "ecr",
            400,
            r#"{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}"#,
            ErrorClass::Conflict,
        ),
        (
            "denied",
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#,
            ErrorClass::Auth,
        ),
        ("bad", 400, r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}"#, ErrorClass::Permanent),
    ] {
        Mock::given(method("PUT"))
            .and(path(format!("/v2/{repository}/manifests/1")))
            .respond_with(ResponseTemplate::new(code).set_body_string(body))
            .mount(&server)
            .await;
        let error = anonymous(&server).put_manifest(repository, "1", &manifest).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        if repository == "denied" {
            insta::assert_snapshot!(error, @"failed to write manifest denied:1 at registry.example: 403 DENIED requested access is denied");
        }
    }
}

const OCI: &str = manifest::OCI_MANIFEST;

#[tokio::test]
async fn a_registry_that_lies_about_a_digest_is_caught() {
    let server = MockServer::start().await;
    let said = Digest::of(b"other");
    Mock::given(path("/v2/a/manifests/1"))
        .respond_with(
            ResponseTemplate::new(200)
                .insert_header("docker-content-digest", said.to_string().as_str())
                .set_body_raw(r#"{"schemaVersion":2}"#, OCI),
        )
        .mount(&server)
        .await;
    let error = anonymous(&server).get_manifest("a", "1").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt);
}

#[tokio::test]
async fn referrers_come_page_by_page_and_an_absent_api_is_remembered() {
    let server = MockServer::start().await;
    let digest = Digest::of(b"subject");
    let page = |of: &[u8]| {
        let index = Index::new(vec![Descriptor::new(OCI, Digest::of(of), 1)]);
        ResponseTemplate::new(200).set_body_json(index)
    };
    let at = format!("/v2/a/referrers/{digest}");
    Mock::given(path(at.as_str()))
        .and(query_param("page", "2"))
        .respond_with(page(b"2"))
        .mount(&server)
        .await;
    let link = format!("<{at}?page=2>; rel=\"next\"");
    Mock::given(path(at.as_str()))
        .respond_with(page(b"1").insert_header("link", link.as_str()))
        .mount(&server)
        .await;
    let registry = anonymous(&server);
    assert_eq!(registry.referrers("a", &digest).await.unwrap().len(), 2);

    Mock::given(path(format!("/v2/b/referrers/{digest}")))
        .respond_with(ResponseTemplate::new(404))
        .expect(1)
        .mount(&server)
        .await;
    let registry = anonymous(&server);
    assert!(registry.referrers("b", &digest).await.unwrap().is_empty());
    assert!(registry.referrers("b", &digest).await.unwrap().is_empty());
    assert_eq!(
        registry.referrers("a", &digest).await.unwrap().len(),
        2,
        "another repository is another matter"
    );
}

/// As ECR where it can't log in to the upstream of a pull-through cache.
#[tokio::test]
async fn referrers_that_are_refused_are_an_error_and_leave_other_repositories_alone() {
    let server = MockServer::start().await;
    let digest = Digest::of(b"subject");
    let words = r#"{"errors":[{"code":"UNKNOWN","message":"upstream login"}]}"#;
    let refused = || ResponseTemplate::new(400).set_body_string(words);
    let at = |repository: &str| format!("/v2/{repository}/referrers/{digest}");
    let page = || {
        let index = Index::new(vec![Descriptor::new(OCI, Digest::of(b"sbom"), 1)]);
        ResponseTemplate::new(200).set_body_json(index)
    };
    Mock::given(path(at("cached"))).respond_with(refused()).mount(&server).await;
    Mock::given(path(at("own"))).respond_with(page()).mount(&server).await;
    Mock::given(path(at("gone")))
        .respond_with(ResponseTemplate::new(404))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path(at("gone"))).respond_with(page()).mount(&server).await;
    let next = format!("<{}?page=2>; rel=\"next\"", at("long"));
    for code in [400, 404] {
        let second = ResponseTemplate::new(code).set_body_string(words);
        let second = Mock::given(path(at("long"))).and(query_param("page", "2")).respond_with(second);
        second.up_to_n_times(1).mount(&server).await;
    }
    Mock::given(path(at("long")))
        .respond_with(page().insert_header("link", next.as_str()))
        .mount(&server)
        .await;
    let ecr = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
    let endpoint = Url::parse(&server.uri()).unwrap();
    let ecr = Registry::new(ecr, Some(&endpoint), Credentials::Anonymous, limits()).unwrap();
    let error = ecr.referrers("cached", &digest).await.unwrap_err();
    let text = error.to_string().replace(&digest.to_string(), "DIGEST");
    insta::assert_snapshot!(text, @"failed to list the referrers of cached@DIGEST at 123456789012.dkr.ecr.us-east-1.amazonaws.com: 400 UNKNOWN upstream login");
    // Elsewhere it may mean that there is no such API, until that has answered.
    let registry = anonymous(&server);
    assert!(anonymous(&server).referrers("cached", &digest).await.unwrap().is_empty());
    assert_eq!(registry.referrers("own", &digest).await.unwrap().len(), 1);
    registry.referrers("cached", &digest).await.unwrap_err();
    // A registry that has answered has the API, whatever it says of one repository.
    assert!(registry.referrers("gone", &digest).await.unwrap().is_empty());
    assert_eq!(registry.referrers("gone", &digest).await.unwrap().len(), 1);
    for _ in 0..2 {
        registry.referrers("long", &digest).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_once() {
    let server = MockServer::start().await;
    let challenge = format!("Bearer realm=\"{}/token\",service=\"s\"", server.uri());
    let refused = || ResponseTemplate::new(401).insert_header("www-authenticate", challenge.as_str());
    let token = |value: &str| {
        ResponseTemplate::new(200).set_body_json(serde_json::json!({ "token": value, "expires_in": 300 }))
    };
    Mock::given(path("/token"))
        .and(query_param("scope", "repository:a:pull"))
        .and(query_param("service", "s"))
        .respond_with(token("old"))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path("/token")).respond_with(token("new")).expect(1).mount(&server).await;
    Mock::given(header("authorization", "Bearer new"))
        .respond_with(ResponseTemplate::new(404))
        .expect(2)
        .mount(&server)
        .await;
    Mock::given(path("/v2/")).respond_with(refused()).mount(&server).await;
    Mock::given(path("/v2/a/manifests/1")).respond_with(refused()).mount(&server).await;
    let registry = anonymous(&server);
    for _ in 0..2 {
        assert_eq!(registry.head_manifest("a", "1").await.unwrap(), None);
    }
}
