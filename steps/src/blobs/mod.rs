//! Objects, S3 to Azure Blob: the step `blob.copy`.
//!
//! Owns: which objects, in what order, which way their bytes go, and the proof that they arrived.
//! Invariants: a blob is whole or absent; versions of an object are never mixed; a phase of the
//! Velero order begins only when the one before it is wholly there; an object is copied, found
//! equal, or named in an error. Deletes only what `delete-extra` asks for, and last.
//!
//! Azure's client is `azure_storage_blob` 1.x, the maintained successor of `azure_storage_blobs`.

mod azcopy;
mod azcopy_job;
#[cfg(test)]
mod azcopy_tests;
mod azure_client;
mod blob_wire;
mod checksum;
mod config;
mod cursor;
#[cfg(test)]
mod directory_tests;
mod dress;
mod errors;
mod filter;
mod http1;
mod list_xml;
#[cfg(test)]
mod login_tests;
mod merge;
mod names;
mod pace;
mod pass;
mod passing;
mod plan;
mod range;
mod renew;
mod repository;
#[cfg(test)]
mod repository_tests;
mod room;
mod s3_wire;
mod source;
#[cfg(test)]
mod stand;
#[cfg(test)]
mod stand_in_tests;
mod target;
#[cfg(test)]
mod tests;
mod totals;
mod transfer;
mod verify;
mod walk;

use std::sync::Arc;

use migrate_plugin_api::{
    Evidence, Idempotency, PlanConfig, Step, StepContext, StepError, StepPlan, Typed, TypedObservation,
    TypedStep, VerifyDepth, async_trait,
};

pub use config::{CopyConfig, CopyOutputs, Engine, Order, Overwrite, Tags, Tier};

/// The steps of this family.
pub(crate) fn steps() -> Vec<Arc<dyn Step>> {
    vec![Arc::new(Typed(BlobCopy))]
}

/// `blob.copy`.
pub struct BlobCopy;

#[async_trait]
impl TypedStep for BlobCopy {
    const NAME: &'static str = "blob.copy";
    const SUMMARY: &'static str = "Copies objects from S3 to Azure Blob Storage and proves them equal";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = CopyConfig;
    type Outputs = CopyOutputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<CopyConfig>) -> Result<StepPlan, StepError> {
        plan::plan(ctx, config).await
    }

    /// Doing it again is harmless: what is equal is skipped.
    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &CopyConfig,
    ) -> Result<TypedObservation<CopyOutputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &CopyConfig) -> Result<CopyOutputs, StepError> {
        pass::run(ctx, config).await
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &CopyConfig,
        outputs: &CopyOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        verify::verify(ctx, config, outputs, depth).await
    }
}
