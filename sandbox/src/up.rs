//! `sandbox up`: from whatever state the machine is in to a sandbox that serves.

use std::time::Instant;

use miette::{IntoDiagnostic, Result};

use crate::layout::{Cluster, Layout};
use crate::{cluster, images, lock, network, tools};

/// Brings everything up; what runs already is left alone.
pub async fn up(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    tools::ensure(layout)?;
    let _lock = lock::take(layout, "up")?;
    lock::claim(layout)?;
    layout.create()?;
    network::up()?;
    cluster::kubeconfig::write_merged(layout)?;
    let say = |what: &str| eprintln!("{what} in {:.1} s", started.elapsed().as_secs_f64());
    let built = {
        let layout = layout.clone();
        tokio::task::spawn_blocking(move || images::cluster_images(&layout)).await.into_diagnostic()??
    };
    say("images made");
    let (eks, aks) =
        tokio::try_join!(cluster::up(layout, Cluster::Eks, &built), cluster::up(layout, Cluster::Aks, &built))?;
    say("clusters Ready");
    let _ = (eks, aks);
    Ok(())
}
