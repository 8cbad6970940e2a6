//! Proof that what arrived works and is what left.

mod data;
mod files;
mod probe;
mod rows;
mod smoke;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(smoke::SmokeTest)), Arc::new(Typed(data::VerifyData))]
}
