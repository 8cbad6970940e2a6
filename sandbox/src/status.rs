//! `sandbox status`: every part, whether it serves, and why not.

use std::future::Future;
use std::time::Duration;

use miette::Result;

use crate::cluster::{self, kubeconfig};
use crate::layout::{Cluster, Layout};
use crate::pki::Pki;
use crate::process::PartStatus;
use crate::{provisioner, services, velero};

/// A stopped API server's clients wait long by themselves.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at every part, in the order of their start. Changes nothing.
pub async fn parts(layout: &Layout) -> Result<Vec<PartStatus>> {
    let mut parts = Vec::new();
    if !layout.kubeconfig().exists() {
        return Ok(parts);
    }
    for daemon in services::daemons(layout)? {
        parts.push(daemon.status(layout).await);
    }
    for cluster in Cluster::ALL {
        let pki = Pki::ensure(layout, cluster)?;
        for daemon in cluster::daemons(layout, cluster, &pki) {
            parts.push(daemon.status(layout).await);
        }
        parts.push(provisioner::daemon(cluster)?.status(layout).await);
        let client = kubeconfig::client(layout, cluster).await?;
        parts.push(part(format!("{cluster} node Ready"), cluster::node_ready(&client, cluster)).await);
        parts.push(part(format!("{cluster} Velero"), velero::ready(&client)).await);
    }
    Ok(parts)
}

async fn part(name: String, look: impl Future<Output = Result<(), String>>) -> PartStatus {
    let outcome = match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {} s", LOOK_TIMEOUT.as_secs())),
    };
    PartStatus { name, pid: None, healthy: outcome.is_ok(), problem: outcome.err() }
}

/// The table that a person reads.
pub fn table(parts: &[PartStatus]) -> String {
    if parts.is_empty() {
        return "the sandbox is down; `cargo xtask sandbox up` brings it up\n".to_owned();
    }
    let width = parts.iter().map(|part| part.name.len()).max().unwrap_or(0);
    let line = |part: &PartStatus| {
        let pid = part.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let state = match (&part.healthy, &part.problem) {
            (true, _) => "healthy".to_owned(),
            (false, Some(problem)) => format!("FAILED: {problem}"),
            (false, None) => "FAILED".to_owned(),
        };
        format!("{:width$}  {pid:>7}  {state}\n", part.name)
    };
    parts.iter().map(line).collect()
}
