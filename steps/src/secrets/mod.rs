//! Secrets of workloads: values in Secrets Manager become secrets of a Key Vault.
//!
//! Invariant: no value, nor a digest of one, is in outputs, evidence, errors or logs; values are compared
//! with values, in memory.

mod copy;
mod items;
mod names;
mod source;
#[cfg(test)]
mod stand;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

pub(crate) use names::{field_name, vault_name};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(copy::SecretsCopy::default()))]
}
