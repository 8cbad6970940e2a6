//! HTTP/2 as real registries speak it: CNCF distribution with TLS on both sides, by a process of its own that
//! trusts the certificate as a machine would.

use std::path::Path;

use migrate_plugin_api::{Step as _, Typed};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::copy::Copy;
use super::stand::{self, Stand, USER, noise};

const CHILD: &str = "MIGRATE_TEST_HTTP2";

/// A CA, and a certificate of it for this machine: `ca.pem`, `server.pem`, `server.key`.
fn certificates(folder: &Path) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    std::fs::write(folder.join("server.pem"), server.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other process of `images_move_between_registries_that_speak_http2`"]
async fn the_process_that_trusts_the_certificate() {
    let Ok(config) = std::env::var(CHILD) else { return };
    let config: Value = serde_json::from_str(&config).unwrap();
    Typed(Copy).apply(&stand::host().context("copy", "."), &config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_move_between_registries_that_speak_http2() {
    let (source, target) = tokio::join!(Stand::start(), Stand::start());
    let base = noise(1, 3_000_000);
    // More images than connections that a client of HTTP/1.1 would share.
    let images: Vec<String> = (0..20).map(|number| format!("shop/app{number:02}")).collect();
    for (number, image) in (10..).zip(&images) {
        source.image(image, "1", &[base.clone(), noise(number, 100_000)]).await;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    let (from, to) = tokio::join!(source.serve_tls(&certificate, &key), target.serve_tls(&certificate, &key));
    let registry = |host: &str| json!({ "host": host, "username": USER, "password": "env:STAND" });
    let names: Vec<String> = images.iter().map(|image| format!("{}/{image}:1", from.host)).collect();
    let config = json!({ "from": registry(&from.host), "to": registry(&to.host), "images": names });
    let copied = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "images::http2_tests::the_process_that_trusts_the_certificate",
            "--exact",
            "--ignored",
            "--quiet",
        ])
        .env(CHILD, config.to_string())
        .env("SSL_CERT_FILE", folder.path().join("ca.pem"))
        .output()
        .await
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stdout));
    for image in &images {
        let wanted = source.digest(image, "1").await;
        assert!(wanted.is_some());
        assert_eq!(target.digest(image, "1").await, wanted, "{image}");
    }
    for side in [from, to] {
        let requests = side.requests();
        let other: Vec<_> = requests.iter().filter(|request| !request.ends_with(" HTTP/2.0")).collect();
        assert!(requests.len() > 60 && other.is_empty(), "{} requests, {other:?}", requests.len());
    }
}
