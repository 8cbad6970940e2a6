//! Identities of workloads: IAM roles of service accounts become managed identities with federated
//! credentials: as a plan, and made in Azure where that is asked for.

mod iam;
mod live;
mod make;
mod map;
mod marks;
mod plan;
mod render;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

pub(crate) use plan::Association;

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(map::IdentityMap::default()))]
}
