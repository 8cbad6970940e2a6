//! Azure Key Vault's data plane: where a vault is, its secrets, and references to them.
//!
//! Invariants: our token goes to vaults and nowhere else; no value is in an error or a log.

mod client;
mod place;
mod provider;

pub(crate) use client::{NewSecret, Vault};
pub(crate) use place::{Address, is_name};
pub(crate) use provider::KeyVault;
