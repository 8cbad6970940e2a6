//! `image.copy`: images from registry to registry, streamed, without a disk between.

use std::sync::Arc;

use async_trait::async_trait;
use migrate_plugin_api::{
    Evidence, Idempotency, PlanConfig, StepContext, StepError, StepPlan, TypedObservation, TypedStep,
    VerifyDepth,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::access;
use super::content::{Content, RegistryContent};
use super::deliver::Delivery;
use super::graph::{self, Depth};
use super::meter::{Meter, drive};
use super::pull::plan_source;
use super::push::{PushOutputs, plan_target, said};
use super::reference;
use super::verify::{self, Delivered};
use crate::site::{AwsAccess, RegistryRef};

/// Config of `image.copy`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CopyConfig {
    /// The registry that has the images.
    pub from: RegistryRef,
    /// How AWS is reached, for ECR's password.
    #[serde(default)]
    pub aws: Option<AwsAccess>,
    /// `HOST/repository:tag` or `HOST/repository@sha256:…`, all in `from`.
    pub images: Vec<String>,
    /// The registry that gets them, under the same repositories and tags.
    pub to: RegistryRef,
    /// Whether a tag that points at another image may be moved.
    #[serde(default)]
    pub overwrite: bool,
}

/// `image.copy`.
pub struct Copy;

#[async_trait]
impl TypedStep for Copy {
    const NAME: &'static str = "image.copy";
    const SUMMARY: &'static str = "Streams images from one registry to another, digests unchanged";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = CopyConfig;
    type Outputs = PushOutputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<CopyConfig>) -> Result<StepPlan, StepError> {
        plan(ctx, config, "copy").await
    }

    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &CopyConfig,
    ) -> Result<TypedObservation<PushOutputs>, StepError> {
        // `apply` asks the target for each blob before it sends one.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &CopyConfig) -> Result<PushOutputs, StepError> {
        let references = reference::parse_all(&config.images, &config.from.host)?;
        let source = access::source(ctx, &config.from, config.aws.as_ref()).await?;
        let target = access::target(ctx, &config.to).await?;
        let source: Arc<dyn Content> = Arc::new(RegistryContent(source));
        let meter = Meter::default();
        let work = async {
            let images = graph::read_all(&*source, &references, Depth::WithAttached).await?;
            let delivery = Delivery {
                source: Arc::clone(&source),
                target: Arc::clone(&target),
                images: &images,
                overwrite: config.overwrite,
                meter: &meter,
            };
            let traffic = delivery.run().await?;
            Ok((images, traffic))
        };
        let (images, traffic) = drive(ctx, &meter, "copying images", work).await?;
        ctx.info(format!("{} images are in {}: {}", images.len(), target.host, said(&traffic)));
        let images = images
            .iter()
            .map(|image| Delivered::new(image, &image.reference.to_string(), &target.host))
            .collect();
        Ok(PushOutputs { images, traffic })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &CopyConfig,
        outputs: &PushOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        verify::registry(&access::target(ctx, &config.to).await?, &outputs.images, depth).await
    }
}

/// The preflight of both sides.
pub(super) async fn plan<C: serde::de::DeserializeOwned>(
    ctx: &StepContext,
    config: &PlanConfig<C>,
    verb: &str,
) -> Result<StepPlan, StepError> {
    let from = config.field::<RegistryRef>("from")?;
    let to = config.field::<RegistryRef>("to")?;
    let images = config.field::<Vec<String>>("images")?;
    let place =
        to.as_ref().map_or_else(|| "a registry that is not known yet".to_owned(), |to| to.host.clone());
    let mut plan = plan_source(ctx, from, config.field::<AwsAccess>("aws")?, images, verb).await?;
    plan.summary = format!("{} to {place}", plan.summary);
    plan.problems.extend(plan_target(ctx, to, verb, None).await?.problems);
    Ok(plan)
}
