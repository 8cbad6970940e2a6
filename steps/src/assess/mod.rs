//! What is on the source, and what of it is AWS's own. Reads only.

mod claims;
mod cluster;
mod eks;
mod estate;
mod files;
mod live;
mod manifests;
mod report;
#[cfg(test)]
mod sharing_tests;
mod subscription;
mod target;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

pub use files::{assess_files, assess_files_for};
pub use live::{EksCluster, assess_cluster, look_at_target};
pub use report::{Assessment, WorkloadReport};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(cluster::AssessCluster)), Arc::new(Typed(manifests::AssessManifests))]
}
