//! The built-in steps, a folder a family. Everything that knows AWS, Azure, Kubernetes or Velero
//! is here; the engine sees only the contract of `migrate-plugin-api`.

mod aws;
mod azure;
mod images;
mod kubernetes;
pub mod site;

use std::sync::Arc;

use migrate_plugin_api::Step;

/// Every built-in step.
pub fn all() -> Vec<Arc<dyn Step>> {
    let mut all: Vec<Arc<dyn Step>> = Vec::new();
    all.extend(images::steps());
    all
}
