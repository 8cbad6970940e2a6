//! What is on the source, and what of it is AWS's own. Reads only.

mod claims;
mod cluster;
mod findings;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(cluster::AssessCluster))]
}
