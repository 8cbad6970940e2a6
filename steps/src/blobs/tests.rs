//! The step against stand-ins of both services, for answers that the sandbox's real ones don't
//! give: refusals, expired credentials, wrong checksums, storms of 503.

use std::num::NonZero;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{CheckStatus, ErrorClass, SecretRef, TypedStep as _, VerifyDepth};
use wiremock::matchers::{header_exists, method, path_regex, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::checksum::{Crc64, md5};
use super::{BlobCopy, CopyConfig, Engine, Order, Overwrite};
use crate::site::{AwsAccess, BucketRef, ContainerRef};

const BODY: &[u8] = b"some bytes";

/// Too many bytes to be at hand with the first piece: they are passed on as they come.
fn long_body() -> Vec<u8> {
    BODY.repeat(50_000)
}

struct Rig {
    s3: MockServer,
    azure: MockServer,
    host: Arc<RecordingHost>,
    config: CopyConfig,
    project: tempfile::TempDir,
}

impl Rig {
    /// A bucket of `objects` objects, all of [`BODY`], and an empty container that takes blobs.
    async fn new(objects: usize) -> Self {
        Self::of(objects, BODY).await
    }

    /// The same of other objects.
    async fn of(objects: usize, body: &[u8]) -> Self {
        let (s3, azure) = (MockServer::start().await, MockServer::start().await);
        let project = tempfile::tempdir().unwrap();
        std::fs::write(
            project.path().join("credentials"),
            "[default]\naws_access_key_id = a\naws_secret_access_key = s\n",
        )
        .unwrap();
        let host = Arc::new(RecordingHost::default());
        host.put_secret("env:SAS", "sv=2022-11-02&sp=rwl&sig=SECRET");
        let config = CopyConfig {
            from: BucketRef {
                bucket: "b".to_owned(),
                prefix: None,
                endpoint: Some(s3.uri().parse().unwrap()),
            },
            aws: AwsAccess {
                region: "us-east-1".to_owned(),
                profile: Some("default".to_owned()),
                credentials_file: Some("credentials".into()),
                ecr_endpoint: None,
                secrets_manager_endpoint: None,
                eks_endpoint: None,
                iam_endpoint: None,
            },
            to: ContainerRef {
                account_url: azure.uri().parse().unwrap(),
                container: "c".to_owned(),
                prefix: None,
                sas: Some(SecretRef::Env("SAS".to_owned())),
                service_principal: None,
            },
            prefixes: None,
            include: None,
            exclude: Vec::new(),
            delete_extra: false,
            bandwidth_mib: None,
            azcopy: None,
            tags: super::Tags::default(),
            tier: None,
            order: Order::Listing,
            engine: Engine::Auto,
            concurrency: NonZero::new(1),
            overwrite: Overwrite::default(),
        };
        let etag = hex::encode(md5(body));
        // In the order of their names.
        let digits = objects.saturating_sub(1).to_string().len();
        let listed: String = (0..objects)
            .map(|n| {
                let size = body.len();
                format!(
                    "<Contents><Key>k{n:0digits$}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>\
                     <ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size></Contents>"
                )
            })
            .collect();
        let listing =
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>");
        Mock::given(method("GET"))
            .and(query_param("list-type", "2"))
            .respond_with(ResponseTemplate::new(200).set_body_string(listing))
            .mount(&s3)
            .await;
        let empty = "<EnumerationResults ContainerName=\"c\"><Blobs/><NextMarker/></EnumerationResults>";
        Mock::given(method("GET"))
            .and(query_param("comp", "list"))
            .respond_with(ResponseTemplate::new(200).set_body_raw(empty, "application/xml"))
            .mount(&azure)
            .await;
        Self { s3, azure, host, config, project }
    }

    async fn object(&self, crc64: &str) {
        self.object_of(BODY, crc64).await;
    }

    async fn object_of(&self, body: &[u8], crc64: &str) {
        let answer = ResponseTemplate::new(200)
            .insert_header("etag", format!("\"{}\"", hex::encode(md5(body))))
            .insert_header("x-amz-checksum-crc64nvme", crc64);
        Mock::given(method("HEAD"))
            .respond_with(answer.clone().insert_header("content-length", body.len().to_string()))
            .mount(&self.s3)
            .await;
        Mock::given(method("GET"))
            .and(path_regex("^/b/k"))
            .respond_with(answer.set_body_bytes(body))
            .mount(&self.s3)
            .await;
    }

    async fn azure_takes_blobs(&self) {
        Mock::given(method("PUT")).respond_with(ResponseTemplate::new(201)).mount(&self.azure).await;
    }

    async fn azure_answers_fetches(&self, status: u16, code: &str) {
        let answer = ResponseTemplate::new(status).insert_header("x-ms-error-code", code);
        Mock::given(method("PUT"))
            .and(header_exists("x-ms-copy-source"))
            .respond_with(answer)
            .with_priority(1)
            .mount(&self.azure)
            .await;
    }

    async fn apply(&self) -> Result<super::CopyOutputs, migrate_plugin_api::StepError> {
        BlobCopy.apply(&self.host.context("copy", self.project.path()), &self.config).await
    }

    /// PUTs that reached Azure: those that were to fetch, and all.
    async fn puts(&self) -> (usize, usize) {
        let requests = self.azure.received_requests().await.unwrap();
        let puts: Vec<_> = requests.iter().filter(|r| r.method.as_str() == "PUT").collect();
        (puts.iter().filter(|r| r.headers.contains_key("x-ms-copy-source")).count(), puts.len())
    }
}

#[tokio::test]
async fn auto_streams_what_azure_does_not_fetch_and_stops_asking() {
    let rig = Rig::new(6).await;
    rig.object(&Crc64::of(BODY).to_string()).await;
    rig.azure_takes_blobs().await;
    rig.azure_answers_fetches(400, "CannotVerifyCopySource").await;
    let outputs = rig.apply().await.unwrap();
    assert_eq!((outputs.streamed, outputs.server_side), (6, 0));
    let reasons: Vec<(&str, u64)> = outputs.reasons.iter().map(|(why, n)| (why.as_str(), *n)).collect();
    let refused = "Azure can't read the source (CannotVerifyCopySource)";
    assert_eq!(reasons, [(refused, 3), ("Azure refused the objects before", 3)]);
    assert_eq!(rig.puts().await, (3, 9));
}

#[tokio::test]
async fn a_fetched_object_is_proven_by_the_md5_that_azure_checks() {
    let rig = Rig::new(2).await;
    rig.object(&Crc64::of(BODY).to_string()).await;
    rig.azure_takes_blobs().await;
    let outputs = rig.apply().await.unwrap();
    assert_eq!((outputs.streamed, outputs.server_side), (0, 2));
    assert_eq!(outputs.checksums, [("md5".to_owned(), 2)].into());
    assert_eq!(rig.puts().await, (2, 2));
    for request in rig.azure.received_requests().await.unwrap().iter().filter(|r| r.method.as_str() == "PUT")
    {
        let header = |name: &str| request.headers[name].to_str().unwrap();
        assert_eq!(header("x-ms-source-content-md5"), BASE64.encode(md5(BODY)));
        assert_eq!(header("x-ms-meta-migrate_source_etag"), hex::encode(md5(BODY)));
    }
}

#[tokio::test]
async fn a_read_that_differs_from_the_sources_checksum_writes_nothing() {
    for body in [BODY.to_vec(), long_body()] {
        let mut rig = Rig::of(1, &body).await;
        rig.config.engine = Engine::Stream;
        rig.object_of(&body, &Crc64::of(b"other bytes").to_string()).await;
        rig.azure_takes_blobs().await;
        let error = rig.apply().await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Corrupt, "{error:?}");
        let (read, source) = (Crc64::of(&body), Crc64::of(b"other bytes"));
        let said = format!("object `k0` was read with CRC64 {read}, but the source has {source}");
        assert_eq!(error.message, format!("1 of the objects could not be copied: {said}"));
        // What was begun to be written never came to its end.
        assert_eq!(rig.puts().await, (0, 0));
    }
}

/// Exactly one checksum goes along: both would be refused.
#[tokio::test]
async fn what_arrives_is_checked_by_crc_and_at_azurite_by_md5() {
    let servers = [("Windows-Azure-Blob/1.0", "x-ms-content-crc64"), ("Azurite-Blob/3.37.0", "content-md5")];
    let cases = servers.into_iter().flat_map(|case| [BODY.to_vec(), long_body()].map(|body| (case, body)));
    for ((server, checksum), body) in cases {
        let mut rig = Rig::of(1, &body).await;
        rig.config.engine = Engine::Stream;
        rig.object_of(&body, &Crc64::of(&body).to_string()).await;
        Mock::given(method("GET"))
            .and(query_param("comp", "list"))
            .respond_with(ResponseTemplate::new(200).insert_header("server", server).set_body_raw(
                "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>",
                "application/xml",
            ))
            .with_priority(1)
            .mount(&rig.azure)
            .await;
        rig.azure_takes_blobs().await;
        assert_eq!(rig.apply().await.unwrap().copied, 1);
        let requests = rig.azure.received_requests().await.unwrap();
        let put = requests.iter().find(|r| r.method.as_str() == "PUT").unwrap();
        let sent =
            ["x-ms-content-crc64", "content-md5"].into_iter().filter(|name| put.headers.contains_key(*name));
        assert_eq!(sent.collect::<Vec<_>>(), [checksum], "{server}");
        assert_eq!(
            (&put.body, put.headers["content-length"].to_str().unwrap()),
            (&body, &*body.len().to_string())
        );
        assert_eq!(put.headers["x-ms-meta-migrate_md5"].to_str().unwrap(), hex::encode(md5(&body)));
        let md5 = BASE64.encode(md5(&body));
        let crc64 = BASE64.encode(Crc64::of(&body).to_azure());
        let wanted = if checksum == "content-md5" { md5 } else { crc64 };
        assert_eq!(put.headers[checksum].to_str().unwrap(), wanted);
    }
}

#[tokio::test]
async fn bytes_that_arrive_damaged_are_sent_again() {
    let mut rig = Rig::new(1).await;
    rig.config.engine = Engine::Stream;
    rig.object(&Crc64::of(BODY).to_string()).await;
    let damaged = ResponseTemplate::new(400).insert_header("x-ms-error-code", "Md5Mismatch");
    Mock::given(method("PUT"))
        .respond_with(damaged)
        .up_to_n_times(1)
        .with_priority(1)
        .mount(&rig.azure)
        .await;
    rig.azure_takes_blobs().await;
    assert_eq!(rig.apply().await.unwrap().copied, 1);
    assert_eq!(rig.puts().await.1, 2);
}

#[tokio::test]
async fn what_changed_later_is_told_by_the_buckets_clock() {
    let rig = Rig::new(1).await;
    rig.s3.reset().await;
    // A bucket whose clock is years ahead of ours, and whose `Date` is a second old: its object is no
    // later change for that.
    let listing = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k0</Key>\
                   <LastModified>2099-01-01T00:00:02Z</LastModified><ETag>&quot;e&quot;</ETag><Size>10</Size>\
                   </Contents></ListBucketResult>";
    let answer = ResponseTemplate::new(200).insert_header("date", "Thu, 01 Jan 2099 00:00:01 GMT");
    Mock::given(method("GET"))
        .and(query_param("list-type", "2"))
        .respond_with(answer.set_body_string(listing))
        .mount(&rig.s3)
        .await;
    rig.object(&Crc64::of(BODY).to_string()).await;
    rig.azure_takes_blobs().await;
    let outputs = rig.apply().await.unwrap();
    assert_eq!(outputs.copied, 1);
    Mock::given(method("HEAD")).respond_with(ResponseTemplate::new(404)).mount(&rig.azure).await;
    let ctx = rig.host.context("copy", rig.project.path());
    let evidence = BlobCopy.verify(&ctx, &rig.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.failures().any(|c| c.subject == "blob k0"), "{evidence:?}");
}

#[tokio::test]
async fn nothing_copied_is_not_shown_as_equal() {
    for (order, status) in [(Order::Listing, CheckStatus::Warning), (Order::Velero, CheckStatus::Failed)] {
        let mut rig = Rig::new(0).await;
        rig.config.order = order;
        rig.config.prefixes = Some(vec!["kopia/shop/".to_owned()]);
        let outputs = rig.apply().await.unwrap();
        let ctx = rig.host.context("copy", rig.project.path());
        let evidence = BlobCopy.verify(&ctx, &rig.config, &outputs, VerifyDepth::Quick).await.unwrap();
        let check = evidence.checks.iter().find(|c| c.subject == "prefix kopia/shop/").unwrap();
        assert_eq!(check.status, status);
    }
}

#[tokio::test]
async fn expired_credentials_end_the_attempt_at_once_and_keep_the_place() {
    let mut rig = Rig::new(50).await;
    rig.config.engine = Engine::Stream;
    rig.object(&Crc64::of(BODY).to_string()).await;
    Mock::given(method("PUT"))
        .respond_with(ResponseTemplate::new(201))
        .up_to_n_times(10)
        .mount(&rig.azure)
        .await;
    let expired = ResponseTemplate::new(403).insert_header("x-ms-error-code", "AuthenticationFailed");
    Mock::given(method("PUT")).respond_with(expired).mount(&rig.azure).await;
    let error = rig.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    // Once more with the SAS as it is now, which is no other.
    assert_eq!(rig.puts().await.1, 12);
    let cursor = rig.host.recorded().cursors.last().cloned().unwrap();
    assert_eq!((&cursor["counts"]["copied"], &cursor["failed"]), (&10.into(), &serde_json::json!([])));
    let shown = format!("{error:?}{:?}{:?}", error.to_record(), rig.host.recorded());
    let shown = shown.replace("sv=2022-11-02&sp=rwl&sig=SECRET", "");
    assert!(!shown.contains("SECRET"));
}

#[tokio::test]
async fn a_failed_object_is_listed_and_tried_again_alone() {
    let mut rig = Rig::new(4).await;
    rig.config.engine = Engine::Stream;
    rig.object(&Crc64::of(BODY).to_string()).await;
    let refused = ResponseTemplate::new(400).insert_header("x-ms-error-code", "InvalidInput");
    Mock::given(method("PUT"))
        .and(path_regex("k2$"))
        .respond_with(refused)
        .up_to_n_times(1)
        .with_priority(1)
        .mount(&rig.azure)
        .await;
    rig.azure_takes_blobs().await;
    let error = rig.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(
        error.message.contains("failed to write blob `k2`: Blob Storage answered 400: InvalidInput"),
        "{error}"
    );
    let cursor = rig.host.recorded().cursors.last().cloned();
    assert_eq!(cursor.as_ref().unwrap()["failed"][0]["key"], "k2");

    Mock::given(method("HEAD")).respond_with(ResponseTemplate::new(404)).mount(&rig.azure).await;
    rig.azure.reset().await;
    Mock::given(method("HEAD")).respond_with(ResponseTemplate::new(404)).mount(&rig.azure).await;
    rig.azure_takes_blobs().await;
    let ctx = rig.host.context("copy", rig.project.path()).with_state(None, cursor);
    let outputs = BlobCopy.apply(&ctx, &rig.config).await.unwrap();
    assert_eq!((outputs.objects, outputs.copied), (4, 4), "{outputs:?}");
    assert_eq!(rig.puts().await.1, 1);
}
