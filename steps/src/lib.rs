//! The built-in steps, a folder a family. Everything that knows AWS, Azure, Kubernetes or Velero
//! is here; the engine sees only the contract of `migrate-plugin-api`.

// The futures of a copy hold those of the SDKs, 130 types deep; whether the default of 128 is enough for their layout
// depends on what an incremental build knows already.
#![recursion_limit = "256"]

mod arm;
pub mod assess;
mod aws;
mod azure;
pub mod blobs;
mod checks;
mod commands;
mod duration;
mod exec;
mod identity;
mod images;
mod inventory;
mod keyvault;
mod kubernetes;
pub mod manifests;
mod process_group;
mod rollout;
pub mod rules;
mod secrets;
pub mod site;
mod stdin_lock;
mod tls;
mod tokens;
mod velero;
mod workload;

use std::sync::Arc;

use migrate_plugin_api::{SecretProvider, Step};

/// Every built-in step.
pub fn all() -> Vec<Arc<dyn Step>> {
    let families = [
        assess::steps(),
        blobs::steps(),
        checks::steps(),
        commands::steps(),
        identity::steps(),
        images::steps(),
        manifests::steps(),
        secrets::steps(),
        velero::steps(),
    ];
    families.into_iter().flatten().collect()
}

/// What resolves references to secrets that only this room knows.
pub fn secret_providers() -> Vec<Arc<dyn SecretProvider>> {
    vec![Arc::new(keyvault::KeyVault::default())]
}
