//! Velero: `velero.backup` on the source, `storage-class.map` and `velero.restore` on the target.
//!
//! A Backup and a Restore are named by the idempotency key. So a repeated attempt, even of a process
//! that was killed right after creating one, finds it and follows it; there is never a second. Data
//! moves inside the clusters; this process only asks, follows and compares. What Velero leaves out
//! without a word (claims that no running pod mounts, kinds that the target doesn't serve, volumes
//! of a backup discovered half copied) is found here, and so is what a restore would do beside what is
//! wanted (a live share written over, a Job run again, a Service made public).

mod api;
mod backup;
mod backup_checks;
mod compare;
mod config_map;
mod contents;
mod diagnose;
mod failure;
mod files;
mod follow;
mod guards;
mod hazards;
mod install;
mod inventory;
mod known;
mod left_out;
mod lone;
mod noted;
mod restore;
mod storage_class;
#[cfg(test)]
mod tests;
mod volume_checks;
mod volumes;

use std::sync::Arc;

use migrate_plugin_api::{Step, Typed};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![
        Arc::new(Typed(backup::VeleroBackup::default())),
        Arc::new(Typed(restore::VeleroRestore::default())),
        Arc::new(Typed(storage_class::StorageClassMap)),
    ]
}

/// Where `velero install` puts Velero.
fn default_velero_namespace() -> String {
    "velero".to_owned()
}
