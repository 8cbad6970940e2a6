//! Workloads as files: exported from one cluster, rewritten, applied to another.

mod apply;
mod edit;
mod export;
mod order;
mod rewrite;
mod strip;
mod tree;
mod yaml;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![
        Arc::new(Typed(export::ManifestExport)),
        Arc::new(Typed(rewrite::ManifestRewrite)),
        Arc::new(Typed(apply::ManifestApply)),
    ]
}
