//! A whole migration on one machine, with real parts: `up`, `status`, `seed`, `env`, `down`.

mod azure;
mod cluster;
mod definitions;
mod down;
mod env;
mod estate;
mod front;
mod images;
mod kubectl;
mod layout;
mod lock;
mod mounts;
mod network;
mod oci;
mod pki;
mod process;
mod provisioner;
mod reset;
mod seed;
mod services;
mod status;
mod tools;
mod up;
mod velero;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use miette::{IntoDiagnostic, Result};
use tracing_subscriber::EnvFilter;

use crate::layout::{Cluster, Layout, host, host_url, ports};

/// Two real Kubernetes clusters with Velero, an S3, a Blob store and registries, all on this machine.
#[derive(Debug, Parser)]
#[command(name = "sandbox", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Only install and build what the sandbox and the tests need.
    Tools,
    /// Bring everything up; the first time, build what is missing (about 15 minutes on two free cores).
    Up,
    /// Show every part and whether it is healthy; exit code 1 when one is not.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put the EKS-like estate with its data on the source cluster.
    Seed {
        /// First remove what an earlier migration left on both sides.
        #[arg(long)]
        reset: bool,
    },
    /// Write the project folder for `migrate` and print its place as shell exports.
    Env,
    /// Take everything down and remove its data; built tools stay.
    Down,
    /// The strict stand-in of ours in front of Azurite; started by `up`.
    #[command(hide = true)]
    Front,
    /// The strict stand-in of ours for Entra and Azure Resource Manager; started by `up`.
    #[command(hide = true)]
    Azure,
    /// Stand for the CSI drivers of a cluster; started by `up`.
    #[command(hide = true)]
    Provision {
        /// The cluster.
        cluster: ClusterName,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClusterName {
    Eks,
    Aks,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    run(Cli::parse().command, &Layout::discover()?).await
}

async fn run(command: Command, layout: &Layout) -> Result<ExitCode> {
    match command {
        Command::Tools => tools::ensure(layout)?,
        Command::Up => up::up(layout).await?,
        Command::Status { json } => return show_status(layout, json).await,
        Command::Seed { reset } => {
            if reset {
                reset::reset(layout).await?;
            }
            seed::seed(layout).await?;
        }
        Command::Env => {
            env::write(layout)?;
            print!("{}", env::exports(layout));
        }
        Command::Down => down::down(layout)?,
        Command::Front => front::serve(host(ports::FRONT), azurite()?).await?,
        Command::Azure => azure::serve(host(ports::AZURE), azure::Azure::of(layout)?).await?,
        Command::Provision { cluster } => {
            let cluster = match cluster {
                ClusterName::Eks => Cluster::Eks,
                ClusterName::Aks => Cluster::Aks,
            };
            provisioner::serve(layout, cluster).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn azurite() -> Result<url::Url> {
    host_url(ports::AZURITE).parse().into_diagnostic()
}

async fn show_status(layout: &Layout, json: bool) -> Result<ExitCode> {
    let parts = status::parts(layout).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&parts).into_diagnostic()?);
    } else {
        print!("{}", status::table(&parts));
    }
    let healthy = !parts.is_empty() && parts.iter().all(|part| part.healthy);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
