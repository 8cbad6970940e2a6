//! `sandbox seed`: the EKS-like estate with its data, and `--reset` back to before a migration.
//!
//! Idempotent: what is there is compared with what should be there and only then written again.
//! Blocks in places; it is the only work of its process.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::cluster::kubeconfig;
use crate::estate::{self, NAMESPACE};
use crate::kubectl::Kubectl;
use crate::layout::{Cluster, Layout};
use crate::process::wait_for;
use crate::{env, images, lock, oci, services, up, velero};

/// The first start pulls images and makes the database; on two busy cores that takes a while.
const READY_TIMEOUT: &str = "--timeout=600s";
/// The API server serves a new kind about a second after its definition.
const KIND_TIMEOUT: Duration = Duration::from_secs(60);

/// Velero's server, and how long its new pod may take to serve.
const VELERO: &str = "deployment/velero";
const VELERO_TIMEOUT: Duration = Duration::from_secs(600);
/// Prints when an object was made.
const CREATED: &str = "jsonpath={.metadata.creationTimestamp}";

/// The pod with the database, and the one with the uploads.
const DATABASE_POD: &str = "postgres-0";
const FILES_POD: &str = "files-0";
/// Holds the digest of the uploads that were unpacked; written last.
const UPLOADS_MARK: &str = "/data/.seeded";

/// Seeds the estate on the EKS side and writes the project folder.
///
/// # Errors
/// When the sandbox isn't up, or an image, a pod or the data can't be made.
pub async fn seed(layout: &Layout) -> Result<()> {
    let _lock = lock::take(layout, "seed")?;
    up::revive(layout).await?;
    let started = Instant::now();
    let say = |what: &str| eprintln!("{what} after {:.0} s", started.elapsed().as_secs_f64());
    push_images(layout).await?;
    say("images pushed");
    let kubectl = Kubectl::new(layout, Cluster::Eks);
    apply(layout, &kubectl).await?;
    let restarted = refresh_velero(&kubectl)?;
    for workload in ["statefulset/postgres", "statefulset/files", "deployment/web"] {
        kubectl.run(&["rollout", "status", "-n", NAMESPACE, workload, READY_TIMEOUT])?;
    }
    say("workloads Ready");
    fill_database(&kubectl)?;
    say("rows written");
    fill_archive(&kubectl)?;
    fill_uploads(&kubectl)?;
    // What Velero copies from under a running database shall be on disk.
    kubectl.exec(NAMESPACE, DATABASE_POD, &["sync"], std::iter::empty())?;
    if restarted {
        kubectl.run(&["rollout", "status", "-n", velero::NAMESPACE, VELERO, READY_TIMEOUT])?;
        let client = kubeconfig::client(layout, Cluster::Eks).await?;
        wait_for("Velero on eks", VELERO_TIMEOUT, || velero::ready(&client)).await?;
    }
    env::write(layout)?;
    say("estate seeded");
    Ok(())
}

async fn push_images(layout: &Layout) -> Result<()> {
    let own = layout.clone();
    let built =
        tokio::task::spawn_blocking(move || images::estate_images(&own)).await.into_diagnostic()??;
    let secrets = services::credentials(layout)?;
    let registry = services::ecr(layout)?;
    for image in &built {
        let repository = image.name.split(':').next().unwrap_or_default();
        services::aws::ensure_repository(&secrets, repository).await?;
        oci::push(&registry, image).await?;
    }
    Ok(())
}

async fn apply(layout: &Layout, kubectl: &Kubectl) -> Result<()> {
    let secrets = services::credentials(layout)?;
    let [cluster, rest @ ..] = estate::MANIFESTS;
    kubectl.apply(cluster)?;
    wait_for("the kind Coupon", KIND_TIMEOUT, || async {
        let kind = kubectl.run(&["get", "coupons.shop.example.com", "-n", NAMESPACE, "--ignore-not-found"]);
        kind.map(drop).map_err(|e| e.to_string())
    })
    .await?;
    for manifest in rest {
        kubectl.apply(&manifest.replace("${DATABASE_PASSWORD}", &secrets.database_password))?;
    }
    Ok(())
}

/// Restarts Velero if it is older than the estate's own kind: it asks the API server for its kinds
/// only every five minutes, and a backup made before would be without them. Doesn't wait.
fn refresh_velero(kubectl: &Kubectl) -> Result<bool> {
    let made = kubectl.run(&["get", "crd", "coupons.shop.example.com", "-o", CREATED])?;
    let pods = ["get", "pods", "-n", velero::NAMESPACE, "-l", "deploy=velero", "-o"];
    let started = kubectl.run(&[&pods[..], &["jsonpath={.items[*].status.startTime}"]].concat())?;
    // Times of one form and zone: they sort as text.
    if started.split_whitespace().all(|started| started > made.trim()) {
        return Ok(false);
    }
    kubectl.run(&["rollout", "restart", "-n", velero::NAMESPACE, VELERO])?;
    Ok(true)
}

/// Fills the tables unless they hold exactly what was written into them.
fn fill_database(kubectl: &Kubectl) -> Result<()> {
    const UNCHANGED: &str = "select (select count(*) from customers) = 5000 \
        and (select md5(string_agg(md5(o::text), '' order by o.id)) from orders as o) \
            = (select value from fingerprint)";
    let psql = ["psql", "-U", "shop", "-d", "shop", "-q", "-A", "-t"];
    let query = [&psql[..], &["-c", UNCHANGED]].concat();
    // Fails where the tables are not there yet.
    let unchanged = kubectl.exec(NAMESPACE, DATABASE_POD, &query, std::iter::empty());
    if unchanged.is_ok_and(|answer| answer.trim() == "t") {
        return Ok(());
    }
    let script = std::iter::once(estate::ORDERS_SQL.as_bytes().to_vec());
    kubectl
        .exec(NAMESPACE, DATABASE_POD, &[&psql[..], &["-f", "-"]].concat(), script)
        .wrap_err("can't fill the database")?;
    Ok(())
}

/// Writes the archive unless it is there with the right hash.
fn fill_archive(kubectl: &Kubectl) -> Result<()> {
    let expected = estate::archive_sha256();
    let found = kubectl.exec(NAMESPACE, DATABASE_POD, &["sha256sum", estate::ARCHIVE], std::iter::empty());
    if found.is_ok_and(|sum| sum.starts_with(&expected)) {
        return Ok(());
    }
    // The hash comes from the same shell: a command that gives its stdout away gets no more stdin,
    // since containerd ends an attached stdin with the first output stream that ends.
    let write = format!("mkdir -p \"$(dirname {0})\" && cat > {0} && sha256sum {0}", estate::ARCHIVE);
    let written = kubectl
        .exec(NAMESPACE, DATABASE_POD, &["sh", "-c", &write], estate::archive())
        .wrap_err("can't write the archive")?;
    match written {
        sum if sum.starts_with(&expected) => Ok(()),
        sum => bail!("the archive is {} and not {expected}", sum.trim()),
    }
}

/// Unpacks the uploads unless these very ones were unpacked before.
fn fill_uploads(kubectl: &Kubectl) -> Result<()> {
    let uploads = estate::uploads()?;
    let mark = hex::encode(digest(&SHA256, &uploads));
    let read = kubectl.exec(NAMESPACE, FILES_POD, &["cat", UPLOADS_MARK], std::iter::empty());
    if read.is_ok_and(|found| found == mark) {
        return Ok(());
    }
    let unpack = "find /data -mindepth 1 -maxdepth 1 -exec rm -rf {} + && tar -x -p -f - -C /data";
    kubectl
        .exec(NAMESPACE, FILES_POD, &["sh", "-c", unpack], std::iter::once(uploads))
        .wrap_err("can't unpack the uploads")?;
    let write = format!("cat > {UPLOADS_MARK} && cat {UPLOADS_MARK}");
    let mark = std::iter::once(mark.into_bytes());
    kubectl.exec(NAMESPACE, FILES_POD, &["sh", "-c", &write], mark).map(drop)
}
