//! Images from ECR to ACR: `ecr.pull` and `acr.push` through a layout on disk, `image.copy`
//! streaming, `acr.import` inside Azure.
//!
//! Digests never change on the way: manifests are moved as bytes. All platforms go along, and so
//! do OCI referrers and cosign's signatures.

mod access;
mod arm;
mod auth;
mod content;
mod copy;
mod cursor;
mod deliver;
mod digest;
mod docker;
mod download;
mod ecr;
pub(crate) mod errors;
mod find;
mod graph;
mod import;
mod layout;
mod manifest;
mod meter;
mod moved;
mod names;
mod needs;
mod pace;
mod pull;
mod push;
mod rate;
mod reference;
mod registry;
mod survey;
mod upload;
mod verify;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod http2_tests;
#[cfg(test)]
mod import_tests;
#[cfg(test)]
mod stand;
#[cfg(test)]
mod steps_tests;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![
        Arc::new(Typed(find::Find)),
        Arc::new(Typed(pull::Pull)),
        Arc::new(Typed(push::Push)),
        Arc::new(Typed(copy::Copy)),
        Arc::new(Typed(import::Import::default())),
    ]
}
