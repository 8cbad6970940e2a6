//! The services on the host that stand for AWS's and Azure's, and what must be in them first.
//!
//! Owns their daemons, and the bucket, container and repositories that exist before the estate is
//! seeded. versitygw, Azurite, moto and the CNCF registry are other people's programs; ours are the
//! front of Azurite (`sandbox front`, see [`crate::front`]) and the stand-in for Entra and Azure
//! Resource Manager (`sandbox azure`, see [`crate::azure`]).

pub mod aws;
mod credentials;
mod registries;
mod sas;

use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode};
use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::layout::{Cluster, Layout, Tool, host, host_url, ports};
use crate::process::{Daemon, Probe, own_program};

pub use credentials::{Credentials, credentials, uuid};
pub use registries::{acr, ecr};
pub use sas::{AccountSas, container_sas};

/// The only region of the sandbox.
pub const REGION: &str = "us-east-1";
/// The bucket of the source's BackupStorageLocation.
pub const BUCKET: &str = "velero";
/// The container of the target's.
pub const CONTAINER: &str = "velero";
/// How ECR is called in image references.
pub const ECR_HOST: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
/// How ACR is called in image references.
pub const ACR_HOST: &str = "migratesandbox.azurecr.io";
/// The subscription that ACR is in.
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";
/// The resource group that ACR is in.
pub const RESOURCE_GROUP: &str = "sandbox";
/// ACR's name as a resource.
pub const ACR_NAME: &str = "migratesandbox";

/// The vault's name.
pub const VAULT_NAME: &str = "migratesandbox";

/// Each takes seconds, but moto reads all of Python's AWS world before it answers, beside two clusters that start.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Starts every service, waits until it serves, and makes the bucket, the container and the two
/// registries' accounts. What is there already stays.
///
/// # Errors
/// When a service doesn't come up, with the end of its log.
pub async fn up(layout: &Layout) -> Result<()> {
    let secrets = credentials(layout)?;
    // ECR's password is what moto hands out, so moto comes before the registries.
    for daemon in [s3(layout, &secrets)?, azurite(layout, &secrets)?, moto(layout)] {
        daemon.start(layout)?;
    }
    moto(layout).wait_ready(layout, START_TIMEOUT).await?;
    let password = aws::ecr_password(&secrets).await?;
    registries::configure(layout, &secrets, &password)?;
    for cluster in Cluster::ALL {
        registries::containerd_hosts(layout, cluster)?;
    }
    let daemons = daemons(layout)?;
    for daemon in &daemons {
        daemon.start(layout)?;
    }
    for daemon in &daemons {
        daemon.wait_ready(layout, START_TIMEOUT).await?;
    }
    aws::ensure_bucket(&secrets).await?;
    ensure_container(&secrets).await
}

/// Every service in the order in which it starts.
///
/// # Errors
/// When the credentials can't be read or made.
pub fn daemons(layout: &Layout) -> Result<Vec<Daemon>> {
    let secrets = credentials(layout)?;
    Ok(vec![
        s3(layout, &secrets)?,
        azurite(layout, &secrets)?,
        moto(layout),
        front()?,
        gateway(layout, &secrets),
        registries::daemon(layout, "ecr", ports::ECR),
        registries::daemon(layout, "acr", ports::ACR),
        azure()?,
    ])
}

/// Where clients reach the Blob account: the front.
pub fn account_url(secrets: &Credentials) -> String {
    format!("{}/{}", host_url(ports::FRONT), secrets.azure_account)
}

fn s3(layout: &Layout, secrets: &Credentials) -> Result<Daemon> {
    let objects = layout.state_of("s3");
    std::fs::create_dir_all(&objects)
        .into_diagnostic()
        .wrap_err_with(|| format!("can't create {}", objects.display()))?;
    Ok(Daemon::new("s3", layout.bin(Tool::Versitygw, "versitygw"))
        .args(["--port", &host(ports::S3).to_string(), "--region", REGION, "--quiet", "--keep-alive"])
        .args(["posix", &objects.to_string_lossy()])
        .env("ROOT_ACCESS_KEY_ID", &secrets.aws_access_key)
        .env("ROOT_SECRET_ACCESS_KEY", &secrets.aws_secret_key)
        .probe(Probe::Http(host_url(ports::S3))))
}

fn azurite(layout: &Layout, secrets: &Credentials) -> Result<Daemon> {
    let blobs = layout.state_of("azurite");
    std::fs::create_dir_all(&blobs)
        .into_diagnostic()
        .wrap_err_with(|| format!("can't create {}", blobs.display()))?;
    let node = find("node")?;
    Ok(Daemon::new("azurite", node)
        .args([layout.azurite_blob().to_string_lossy()])
        .args(["--blobHost", &host(ports::AZURITE).ip().to_string()])
        .args(["--blobPort", &ports::AZURITE.to_string()])
        .args(["--location", &blobs.to_string_lossy()])
        .args(["--skipApiVersionCheck", "--loose", "--silent", "--disableTelemetry"])
        .env("AZURITE_ACCOUNTS", format!("{}:{}", secrets.azure_account, secrets.azure_key))
        .probe(Probe::Http(host_url(ports::AZURITE))))
}

fn moto(layout: &Layout) -> Daemon {
    Daemon::new("moto", layout.moto_server())
        .args(["--host", &host(ports::MOTO).ip().to_string(), "--port", &ports::MOTO.to_string()])
        .probe(Probe::Http(format!("{}/moto-api/", host_url(ports::MOTO))))
}

fn front() -> Result<Daemon> {
    Ok(Daemon::new("front", own_program()?).args(["front"]).probe(Probe::Http(host_url(ports::FRONT))))
}

fn azure() -> Result<Daemon> {
    Ok(Daemon::new("azure", own_program()?).args(["azure"]).probe(Probe::Http(host_url(ports::AZURE))))
}

/// The S3 face of Azurite for the AKS side's Velero, since its Azure plugin can't be had here.
fn gateway(layout: &Layout, secrets: &Credentials) -> Daemon {
    let endpoint = format!("{}/{}", host_url(ports::AZURITE), secrets.azure_account);
    Daemon::new("versitygw-azure", layout.bin(Tool::Versitygw, "versitygw"))
        .args(["--port", &host(ports::VERSITYGW_AZURE).to_string(), "--region", REGION])
        .args(["--quiet", "--keep-alive", "azure"])
        .env("ROOT_ACCESS_KEY_ID", &secrets.gateway_access_key)
        .env("ROOT_SECRET_ACCESS_KEY", &secrets.gateway_secret_key)
        .env("AZ_ACCOUNT_NAME", &secrets.azure_account)
        .env("AZ_ACCESS_KEY", &secrets.azure_key)
        .env("AZ_ENDPOINT", endpoint)
        .probe(Probe::Http(host_url(ports::VERSITYGW_AZURE)))
}

/// Makes the target's container, if it isn't there.
async fn ensure_container(secrets: &Credentials) -> Result<()> {
    let status = container(secrets, Method::PUT).await?;
    match status {
        StatusCode::CREATED | StatusCode::CONFLICT => Ok(()),
        status => bail!("making the container answered {status}"),
    }
}

/// Removes every blob: the container goes and comes again.
///
/// # Errors
/// When the Blob service refuses.
pub async fn empty_container(secrets: &Credentials) -> Result<()> {
    match container(secrets, Method::DELETE).await? {
        StatusCode::ACCEPTED | StatusCode::NOT_FOUND => ensure_container(secrets).await,
        status => bail!("deleting the container answered {status}"),
    }
}

async fn container(secrets: &Credentials, method: Method) -> Result<StatusCode> {
    let sas = AccountSas::for_an_hour(secrets)?;
    let url = format!("{}/{CONTAINER}?restype=container&{}", account_url(secrets), sas.query());
    let response = reqwest::Client::new().request(method, url).header(CONTENT_LENGTH, "0").send().await;
    // The URL holds the signature.
    let response = response.map_err(reqwest::Error::without_url).into_diagnostic();
    Ok(response.wrap_err("can't reach the Blob service")?.status())
}

/// The absolute path of a program.
fn find(program: &str) -> Result<std::path::PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&paths).map(|dir| dir.join(program)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{program} is not on PATH"),
    }
}
