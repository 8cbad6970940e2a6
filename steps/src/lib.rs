//! The built-in steps, a folder a family. Everything that knows AWS, Azure, Kubernetes or Velero
//! is here; the engine sees only the contract of `migrate-plugin-api`.

mod assess;
mod aws;
pub mod blobs;
mod azure;
mod images;
mod checks;
mod duration;
mod exec;
mod inventory;
mod kubernetes;
mod manifests;
mod rollout;
pub mod site;
mod velero;
mod workload;

use std::sync::Arc;

use migrate_plugin_api::Step;

/// Every built-in step.
pub fn all() -> Vec<Arc<dyn Step>> {
    let mut all: Vec<Arc<dyn Step>> = Vec::new();
    all.extend(blobs::steps());
    all.extend(velero::steps());
    all.extend(images::steps());
    let mut all = Vec::new();
    all.extend(assess::steps());
    all.extend(manifests::steps());
    all.extend(checks::steps());
    all
}
