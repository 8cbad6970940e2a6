//! The two registries (CNCF distribution) and how the clusters' containerd finds them.
//!
//! The EKS side knows only ECR's name and the AKS side only ACR's: an image whose name was not
//! changed on its way can't be pulled there, as in the real world.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miette::{IntoDiagnostic, Result, WrapErr};
use serde_json::json;

use super::{ACR_HOST, Credentials, ECR_HOST, find};
use crate::layout::{Cluster, Layout, host, host_url, ports};
use crate::oci::Registry;
use crate::process::{Daemon, Probe, write_atomically};

/// Debian's program.
const PROGRAM: &str = "docker-registry";
/// Cost of the stored hashes: the lowest that bcrypt has. Every request is checked against one,
/// and the passwords are random.
const BCRYPT_COST: u32 = 4;

/// The registry that stands for ECR, with the password that moto hands out.
///
/// # Errors
/// When its password isn't configured yet.
pub fn ecr(layout: &Layout) -> Result<Registry> {
    let path = layout.state_of("ecr").join("password");
    let password = fs::read_to_string(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("can't read {}; run `sandbox up` first", path.display()))?;
    registry(ports::ECR, "AWS", password)
}

/// The registry that stands for ACR, with its admin user.
///
/// # Errors
/// Never in practice: the address is a constant.
pub fn acr(secrets: &Credentials) -> Result<Registry> {
    registry(ports::ACR, &secrets.acr_username, secrets.acr_password.clone())
}

fn registry(port: u16, username: &str, password: String) -> Result<Registry> {
    let endpoint = host_url(port).parse().into_diagnostic()?;
    Ok(Registry { endpoint, username: username.to_owned(), password })
}

pub(super) fn daemon(layout: &Layout, name: &str, port: u16) -> Daemon {
    // A missing program is reported by `tools`, before anything starts.
    let program = find(PROGRAM).unwrap_or_else(|_| "/usr/bin/docker-registry".into());
    Daemon::new(name, program)
        .args(["serve".into(), layout.state_of(name).join("config.yml").to_string_lossy()])
        .env("OTEL_TRACES_EXPORTER", "none")
        .probe(Probe::Http(format!("{}/v2/", host_url(port))))
}

/// Writes configuration, users and passwords of both.
pub(super) fn configure(layout: &Layout, secrets: &Credentials, ecr_password: &str) -> Result<()> {
    let path = layout.state_of("ecr").join("password");
    write_atomically(&path, ecr_password.as_bytes())?;
    configure_one(layout, secrets, "ecr", ports::ECR, ("AWS", ecr_password))?;
    configure_one(layout, secrets, "acr", ports::ACR, (&secrets.acr_username, &secrets.acr_password))
}

fn configure_one(
    layout: &Layout,
    secrets: &Credentials,
    name: &str,
    port: u16,
    (user, password): (&str, &str),
) -> Result<()> {
    let folder = layout.state_of(name);
    let users = folder.join("htpasswd");
    let config = json!({
        "version": 0.1,
        // The access log is what tests count uploads by.
        "log": { "level": "warn" },
        "storage": {
            "filesystem": { "rootdirectory": folder.join("blobs") },
            "delete": { "enabled": true },
            "maintenance": { "uploadpurging": { "enabled": false } },
        },
        "http": { "addr": host(port).to_string(), "secret": secrets.registry_secret },
        "auth": { "htpasswd": { "realm": name, "path": users } },
    });
    // JSON is YAML.
    write_atomically(&folder.join("config.yml"), config.to_string().as_bytes())?;
    let line = fs::read_to_string(&users).unwrap_or_default();
    let known = line
        .trim()
        .strip_prefix(&format!("{user}:"))
        .is_some_and(|hash| bcrypt::verify(password, hash).unwrap_or(false));
    if known {
        return Ok(());
    }
    let hash = bcrypt::hash(password, BCRYPT_COST).into_diagnostic()?;
    write_atomically(&users, format!("{user}:{hash}\n").as_bytes())
}

/// Tells a cluster's containerd where its registry is and how to log in: `certs.d/NAME/hosts.toml`.
/// Read by containerd at every pull.
///
/// # Errors
/// When the file can't be written.
pub(super) fn containerd_hosts(layout: &Layout, cluster: Cluster) -> Result<()> {
    let secrets = super::credentials(layout)?;
    let (name, registry) = match cluster {
        Cluster::Eks => (ECR_HOST, ecr(layout)?),
        Cluster::Aks => (ACR_HOST, acr(&secrets)?),
    };
    let login = STANDARD.encode(format!("{}:{}", registry.username, registry.password));
    let endpoint = registry.endpoint.as_str().trim_end_matches('/');
    let text = format!(
        "server = \"{endpoint}\"\n\n[host.\"{endpoint}\"]\n  capabilities = [\"pull\", \"resolve\"]\n\n\
         [host.\"{endpoint}\".header]\n    Authorization = \"Basic {login}\"\n"
    );
    write_atomically(&layout.registry_hosts(cluster).join(name).join("hosts.toml"), text.as_bytes())
}
