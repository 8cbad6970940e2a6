//! `images = "import"`: Azure fetches the images itself, asked by an application of Entra.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use migrate_tests::{Sandbox, checks, expect_success, state};
use serde_json::Value;

/// Every kind of manifest that the estate has.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";

/// The inventory and the import of the shipped workflow, word for word, without what comes after.
fn images_only() -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflows/stateful.toml");
    let text = fs::read_to_string(shipped).unwrap();
    let (head, rest) = text.split_once("[nodes.pull-images]").expect("the shipped workflow pulls images");
    let (_, rest) = rest.split_once("[nodes.import-images]").expect("and imports them");
    let (import, _) = rest.split_once("[nodes.backup]").expect("and makes a backup");
    format!("{head}[nodes.import-images]{import}")
}

/// A registry as anybody reads it.
struct Registry {
    endpoint: String,
    login: (String, String),
}

impl Registry {
    fn of(sandbox: &Sandbox, side: &str) -> Self {
        let read = |path: &Path| fs::read_to_string(path).unwrap().trim().to_owned();
        let site: toml::Table = read(&sandbox.project().join("migration.toml")).parse().unwrap();
        let registry = &site[side]["registry"];
        let endpoint = registry["endpoint"].as_str().unwrap().trim_end_matches('/').to_owned();
        let login = match registry.get("username") {
            Some(user) => (user.as_str().unwrap().to_owned(), read(&sandbox.project().join("acr-password"))),
            None => ("AWS".to_owned(), read(&state("ecr").join("password"))),
        };
        Self { endpoint, login }
    }

    async fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let url = format!("{}/v2/{repository}/manifests/{reference}", self.endpoint);
        let request = reqwest::Client::new().get(url).header("accept", MANIFESTS);
        let answer = request.basic_auth(&self.login.0, Some(&self.login.1)).send().await.unwrap();
        match answer.status().as_u16() {
            200 => Some(answer.bytes().await.unwrap().to_vec()),
            404 => None,
            status => panic!("{repository}@{reference}: {status}"),
        }
    }
}

/// Compares an image on both sides byte by byte, with all that is below it and what refers to it.
/// How many manifests there are.
async fn compare(source: &Registry, target: &Registry, repository: &str, tag: &str, digest: &str) -> usize {
    // Referrers are under the fallback tag of the distribution specification.
    let fallback = digest.replace(':', "-");
    let mut left = vec![tag.to_owned(), digest.to_owned(), fallback.clone()];
    let mut compared = 0;
    while let Some(reference) = left.pop() {
        let found = source.manifest(repository, &reference).await;
        let Some(found) = found else {
            assert_eq!(reference, fallback, "{repository}: the source has no {reference}");
            continue;
        };
        let arrived = target.manifest(repository, &reference).await;
        assert!(arrived.as_ref() == Some(&found), "{repository}@{reference} is another at the target");
        let document: Value = serde_json::from_slice(&found).unwrap();
        let children = document["manifests"].as_array().into_iter().flatten();
        left.extend(children.map(|child| child["digest"].as_str().unwrap().to_owned()));
        compared += 1;
    }
    compared
}

fn ways(report: &Value) -> Vec<(String, String)> {
    let nodes = report["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["node"] == "import-images").expect("the node");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let images = node["outputs"]["images"].as_array().expect("images");
    images.iter().map(|image| (text(&image["source"]), text(&image["way"]))).collect()
}

#[tokio::test]
async fn azure_imports_every_image_once_and_all_of_it() {
    let sandbox = Sandbox::reset();
    let workflow = sandbox.project().join("images-only.toml");
    fs::write(&workflow, images_only()).unwrap();
    let run = ["run", "images-only.toml", "--param", "namespaces=shop", "--param", "images=import"];

    // A wrong secret is told before anything is touched, and never shown.
    let file = sandbox.project().join("azure-secret");
    let secret = fs::read_to_string(&file).unwrap();
    fs::write(&file, "not-the-secret").unwrap();
    let refused = sandbox.migrate(&run).output().unwrap();
    fs::write(&file, &secret).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("AADSTS7000215") && said.contains("nothing was touched"), "{said}");
    assert!(!said.contains("not-the-secret"), "{said}");
    assert_eq!(sandbox.imports(), [] as [String; 0]);

    let report = sandbox.report(&run);
    assert_eq!(report["state"], "done", "{report:#}");
    let images = ways(&report);
    assert!(images.len() >= 4 && images.iter().all(|(_, way)| way == "import"), "{images:?}");
    let digests: Vec<_> = checks(&report).into_iter().filter(|c| c[0] == "import-images").collect();
    assert_eq!(digests.len(), images.len(), "{digests:?}");
    assert!(digests.iter().all(|c| c[5] == "passed" && c[2] == "digest" && c[3] == c[4]), "{digests:?}");

    let asked = sandbox.imports();
    assert_eq!(asked.len(), images.len(), "{asked:?}");
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), images.len(), "{asked:?}");
    let (source, target) = (Registry::of(&sandbox, "source"), Registry::of(&sandbox, "target"));
    let mut manifests = 0;
    for (image, check) in images.iter().map(|(image, _)| image).zip(&digests) {
        let (_, name) = image.split_once('/').expect("a host");
        let (repository, tag) = name.split_once(':').expect("a tag");
        let found = compare(&source, &target, repository, tag, &check[3]).await;
        println!("{name}: {found} manifests equal, {}", check[3]);
        // Tag and digest; the report: its index twice, two platforms, the referrer and its index.
        assert!(found >= if repository == "shop/report" { 6 } else { 2 }, "{name}: {found}");
        manifests += found;
    }
    assert_eq!(sandbox.written_twice_to(&["acr"]), Vec::<String>::new());

    // What is there is neither imported again nor asked about.
    let again = sandbox.report(&run);
    assert!(ways(&again).iter().all(|(_, way)| way == "present"), "{:?}", ways(&again));
    let rerun = expect_success(&mut sandbox.migrate(&["resume", "--rerun", "import-images", "--json"]));
    assert!(ways(&migrate_tests::report_of(&rerun)).iter().all(|(_, way)| way == "present"));
    assert_eq!(sandbox.imports(), asked);
    println!("{} imports for {} images, {manifests} manifests compared", asked.len(), images.len());

    let passwords = [secret, source.login.1, target.login.1];
    for daemon in ["azure", "acr"] {
        let log = sandbox.log_since(daemon);
        assert!(passwords.iter().all(|password| !log.contains(password.trim())), "{daemon} logs a secret");
    }
    fs::remove_file(workflow).unwrap();
}
