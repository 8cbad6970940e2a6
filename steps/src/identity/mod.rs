//! Identities of workloads: IAM roles of service accounts become managed identities with federated
//! credentials. A plan only: nothing is made in Azure, nothing is asked of AWS.

mod iam;
mod map;
mod plan;
mod render;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(map::IdentityMap))]
}
