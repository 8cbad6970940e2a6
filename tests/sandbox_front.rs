//! The sandbox's own front of Azurite against the real Azurite: what is put by URL is there, whole,
//! and what Azurite checks is refused by its own codes. Needs a running, seeded sandbox.

use std::path::PathBuf;

use reqwest::{Client, Method, Response, StatusCode};

/// Under a folder that Velero's storage location allows, or it would become unavailable.
const PREFIX: &str = "metadata/front-test";
/// Ten bytes and their CRC64 in Azure's byte order, and their MD5.
const CONTENT: &str = "123456789\n";
const CRC64_OF_NINE: &str = "iJh5CoYUi64=";

struct Container {
    http: Client,
    url: String,
    sas: String,
}

impl Container {
    fn of_the_sandbox() -> Self {
        let project = std::env::var_os("MIGRATE_SANDBOX_PROJECT").expect("cargo xtask test sets it");
        let project = PathBuf::from(project);
        let site = std::fs::read_to_string(project.join("migration.toml")).unwrap();
        let site: toml::Table = site.parse().unwrap();
        let objects = &site["target"]["objects"];
        let text = |name: &str| objects[name].as_str().unwrap().trim_end_matches('/').to_owned();
        let url = format!("{}/{}", text("account-url"), text("container"));
        let sas = std::fs::read_to_string(project.join("sas")).unwrap();
        Self { http: Client::new(), url, sas }
    }

    fn blob(&self, name: &str, query: &str) -> String {
        format!("{}/{PREFIX}/{name}?{query}{}", self.url, self.sas)
    }

    async fn send(&self, method: Method, name: &str, query: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.http.request(method.clone(), self.blob(name, query));
        if method == Method::PUT {
            request = request.header("content-length", "0");
        }
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        request.send().await.unwrap()
    }

    async fn put(&self, name: &str, content: &'static str) {
        let request = self.http.put(self.blob(name, "")).header("x-ms-blob-type", "BlockBlob");
        let answer = request.header("content-type", "text/plain").body(content).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
    }

    async fn block_from(&self, name: &str, id: &str, source: &str, headers: &[(&str, &str)]) -> Response {
        let headers = [&[("x-ms-copy-source", source)], headers].concat();
        self.send(Method::PUT, name, &format!("comp=block&blockid={id}&"), &headers).await
    }

    async fn text(&self, name: &str) -> String {
        self.send(Method::GET, name, "", &[]).await.text().await.unwrap()
    }

    async fn clear(&self, names: &[&str]) {
        for name in names {
            self.send(Method::DELETE, name, "", &[]).await;
        }
    }
}

fn code(response: &Response) -> &str {
    response.headers().get("x-ms-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_blob_put_by_url_is_whole_and_keeps_its_properties() {
    let container = Container::of_the_sandbox();
    container.put("blob-source", CONTENT).await;
    let source = container.blob("blob-source", "");
    let headers =
        [("x-ms-copy-source", source.as_str()), ("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-team", "shop")];
    let answer = container.send(Method::PUT, "blob", "", &headers).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", code(&answer));
    assert_eq!(container.text("blob").await, CONTENT);
    let head = container.send(Method::HEAD, "blob", "", &[]).await;
    assert_eq!(head.headers()["content-length"], "10");
    assert_eq!(head.headers()["content-type"], "text/plain");
    assert_eq!(head.headers()["x-ms-meta-team"], "shop");

    // The bytes of another object: Azurite computes the MD5 itself and refuses.
    let wrong = ("x-ms-source-content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    let answer = container.send(Method::PUT, "refused", "", &[&headers[..], &[wrong]].concat()).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::BAD_REQUEST, "Md5Mismatch"));
    let head = container.send(Method::HEAD, "refused", "", &[]).await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    container.clear(&["blob", "blob-source"]).await;
}

#[tokio::test]
async fn blocks_put_by_url_are_checked_by_crc64_and_commit_to_the_source() {
    let container = Container::of_the_sandbox();
    container.put("block-source", CONTENT).await;
    let source = container.blob("block-source", "");
    let nine = [("x-ms-source-range", "bytes=0-8"), ("x-ms-source-content-crc64", CRC64_OF_NINE)];
    let answer = container.block_from("blocks", "MDE%3D", &source, &nine).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", code(&answer));
    assert_eq!(answer.headers()["x-ms-content-crc64"], CRC64_OF_NINE);
    let answer =
        container.block_from("blocks", "MDI%3D", &source, &[("x-ms-source-range", "bytes=9-9")]).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", code(&answer));

    let other = [("x-ms-source-range", "bytes=1-9"), ("x-ms-source-content-crc64", CRC64_OF_NINE)];
    let answer = container.block_from("blocks", "MDM%3D", &source, &other).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::BAD_REQUEST, "Crc64Mismatch"));
    let answer = container.block_from("blocks", "MDAwMDAw", &source, &[]).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::BAD_REQUEST, "InvalidBlobOrBlock"));

    let list = "<BlockList><Latest>MDE=</Latest><Latest>MDI=</Latest></BlockList>";
    let commit = container.http.put(container.blob("blocks", "comp=blocklist&")).body(list);
    assert_eq!(commit.send().await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(container.text("blocks").await, CONTENT);
    container.clear(&["blocks", "block-source"]).await;
}

#[tokio::test]
async fn a_missing_source_and_a_wrong_signature_are_told_apart() {
    let container = Container::of_the_sandbox();
    let source = container.blob("nothing-here", "");
    let answer = container.block_from("missing", "MDE%3D", &source, &[]).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::NOT_FOUND, "CannotVerifyCopySource"));

    container.put("signed", CONTENT).await;
    let good = container.blob("signed", "");
    let unsigned = good.replace("sig=", "sig=A");
    let answer = container.block_from("missing", "MDE%3D", &unsigned, &[]).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::FORBIDDEN, "CannotVerifyCopySource"));

    // The caller's own signature is Azurite's to check.
    let target = container.blob("missing", "comp=block&blockid=MDE%3D&").replace("sig=", "sig=A");
    let put = container.http.put(target).header("content-length", "0").header("x-ms-copy-source", good);
    let answer = put.send().await.unwrap();
    assert_eq!((answer.status(), code(&answer)), (StatusCode::FORBIDDEN, "AuthorizationFailure"));
    container.clear(&["signed"]).await;
}
