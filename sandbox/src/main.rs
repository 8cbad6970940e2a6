//! A whole migration on one machine, with real parts: `up`, `status`, `seed`, `env`, `down`.

mod cluster;
mod images;
mod layout;
mod lock;
mod mounts;
mod network;
mod oci;
mod pki;
mod process;
mod tools;
mod up;

#[tokio::main]
async fn main() -> miette::Result<()> {
    up::up(&layout::Layout::discover()?).await
}
