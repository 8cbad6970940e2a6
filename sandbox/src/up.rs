//! `sandbox up`: from whatever state the machine is in to a sandbox that serves.

use std::time::{Duration, Instant};

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::layout::{Cluster, Layout};
use crate::oci::Built;
use crate::pki::Pki;
use crate::process::{self, Daemon};
use crate::{cluster, images, lock, network, provisioner, services, tools, velero};

/// What only has to run does so at once.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What to do after a failure, once something was started.
const AGAIN: &str = "the sandbox is not up. Run the same command again: what is built is kept, and what runs is used. \
                     Some parts still run; `cargo xtask sandbox down` takes them away";

/// Brings everything up; what runs already is left alone, what has died is started again.
pub async fn up(layout: &Layout) -> Result<()> {
    // Before anything is built, not a quarter of an hour later.
    lock::refuse_other(layout)?;
    tools::ensure(layout)?;
    let _lock = lock::take(layout, "up")?;
    start(layout).await.wrap_err(AGAIN)
}

async fn start(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    lock::claim(layout)?;
    layout.create()?;
    network::up()?;
    cluster::kubeconfig::write_merged(layout)?;
    let own = layout.clone();
    let built =
        tokio::task::spawn_blocking(move || images::cluster_images(&own)).await.into_diagnostic()??;
    let (_, eks, aks) = tokio::try_join!(
        services::up(layout),
        join(layout, Cluster::Eks, &built),
        join(layout, Cluster::Aks, &built)
    )?;
    eprintln!("clusters Ready and services up after {:.0} s", started.elapsed().as_secs_f64());
    let installed = async {
        let both = (velero::install(layout, Cluster::Eks, &eks), velero::install(layout, Cluster::Aks, &aks));
        tokio::try_join!(both.0, both.1)
    };
    process::while_kept(layout, &daemons(layout)?, installed).await?;
    eprintln!("sandbox up after {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Starts daemons that have died since `up`, and waits until all serve.
///
/// # Errors
/// When the sandbox is down, or one does not come up.
pub async fn revive(layout: &Layout) -> Result<()> {
    if !layout.kubeconfig().exists() {
        bail!(help = "run `cargo xtask sandbox up` first", "the sandbox is down");
    }
    for daemon in daemons(layout)? {
        daemon.ensure(layout, TIMEOUT).await?;
    }
    Ok(())
}

/// Every daemon of the sandbox.
fn daemons(layout: &Layout) -> Result<Vec<Daemon>> {
    let mut all = services::daemons(layout)?;
    for cluster in Cluster::ALL {
        all.extend(cluster::daemons(layout, cluster, &Pki::ensure(layout, cluster)?));
        all.push(provisioner::daemon(cluster)?);
    }
    Ok(all)
}

async fn join(layout: &Layout, cluster: Cluster, images: &[Built]) -> Result<kube::Client> {
    let client = cluster::up(layout, cluster, images).await?;
    provisioner::daemon(cluster)?.ensure(layout, TIMEOUT).await?;
    Ok(client)
}
