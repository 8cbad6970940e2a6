//! Workloads as files: exported from one cluster, rewritten, applied to another.

mod apply;
mod apply_set;
#[cfg(test)]
mod apply_tests;
pub(crate) mod chart;
mod dialect;
mod difference;
pub(crate) mod edit;
mod export;
#[cfg(test)]
mod export_tests;
mod exposed;
mod folder;
mod in_place;
pub(crate) mod needs;
mod once;
#[cfg(test)]
mod once_tests;
mod order;
mod outlook;
mod overlay;
mod prune;
pub(crate) mod render;
pub(crate) mod rewrite;
pub(crate) mod sharing;
pub(crate) mod source;
#[cfg(test)]
pub(crate) mod stand_in;
pub(crate) mod strip;
mod target;
#[cfg(test)]
mod told_tests;
pub(crate) mod tree;
pub(crate) mod yaml;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

pub use in_place::{RewrittenFile, RewrittenFiles, rewrite_files};
pub use rewrite::FileChange;

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![
        Arc::new(Typed(export::ManifestExport)),
        Arc::new(Typed(rewrite::ManifestRewrite)),
        Arc::new(Typed(apply::ManifestApply)),
    ]
}
