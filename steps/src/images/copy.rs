//! `image.copy`: images from registry to registry, streamed, without a disk between.

use std::collections::BTreeSet;
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
use super::cursor::Cursor;
use super::deliver::Delivery;
use super::errors;
use super::graph::{self, Depth};
use super::meter::{Meter, drive};
use super::moved;
use super::names::NameRule;
use super::pull::read_source;
use super::push::{PushOutputs, said};
use super::reference;
use super::survey;
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
    /// The registry that gets them, under the same tags.
    pub to: RegistryRef,
    /// Whether a tag that points at another image may be moved.
    #[serde(default)]
    pub overwrite: bool,
    /// How repositories are named at the target.
    #[serde(default)]
    pub names: NameRule,
    /// Most MiB of layers a second, all together.
    #[serde(default)]
    pub max_mib_per_second: Option<u32>,
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
        let source = access::source(ctx, &config.from, config.aws.as_ref(), None).await?;
        let target = access::target(ctx, &config.to, access::rate(config.max_mib_per_second)).await?;
        let source: Arc<dyn Content> = Arc::new(RegistryContent(source));
        let meter = Meter::default();
        let cursor = Cursor::load(ctx);
        let work = async {
            // Neither side waits for the other's answers.
            let ahead = references.iter().filter_map(|reference| {
                Some((config.names.name(&reference.repository).ok()?, reference.tag.clone()?))
            });
            let ahead: BTreeSet<(String, String)> = ahead.collect();
            let (images, ()) = futures::join!(
                graph::read_all(&*source, &references, Depth::WithAttached),
                target.look_ahead(ahead.into_iter().collect()),
            );
            let mut images = images?;
            moved::tell(ctx, images.iter().map(|image| (image.reference.to_string(), image.moved.as_ref())));
            config.names.apply(&mut images)?;
            let delivery = Delivery {
                source: Arc::clone(&source),
                target: Arc::clone(&target),
                images: &images,
                overwrite: config.overwrite,
                meter: &meter,
                cursor: &cursor,
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
        verify::registry(&access::target(ctx, &config.to, None).await?, &outputs.images, depth).await
    }
}

/// The preflight of both sides: what would move, to the byte, and what is in the way.
pub(super) async fn plan<C: serde::de::DeserializeOwned>(
    ctx: &StepContext,
    config: &PlanConfig<C>,
    verb: &str,
) -> Result<StepPlan, StepError> {
    let from = config.field::<RegistryRef>("from")?;
    let to = config.field::<RegistryRef>("to")?;
    let images = config.field::<Vec<String>>("images")?;
    let names = config.field::<NameRule>("names")?.unwrap_or_default();
    let aws = config.field::<AwsAccess>("aws")?;
    let place =
        to.as_ref().map_or_else(|| "a registry that is not known yet".to_owned(), |to| to.host.clone());
    let (mut plan, source) = read_source(ctx, from, aws, images, Depth::WithAttached, verb).await?;
    plan.summary = format!("{} to {place}", plan.summary);
    let Some(to) = to else { return Ok(plan) };
    let target = match access::reach(access::target(ctx, &to, None).await, "to").await {
        Ok(target) => target,
        Err(problem) => {
            plan.problems.push(problem);
            return Ok(plan);
        }
    };
    let Some(mut source) = source else { return Ok(plan) };
    if let Err(error) = names.apply(&mut source.images) {
        plan.problems.push(errors::problem(&error, "names"));
        return Ok(plan);
    }
    let delivery = Delivery {
        source: source.content,
        target,
        images: &source.images,
        overwrite: config.field::<bool>("overwrite")?.unwrap_or(false),
        meter: &Meter::default(),
        cursor: &Cursor::load(ctx),
    };
    if let Err(error) = survey::complete(ctx, &mut plan, &delivery).await {
        plan.problems.push(errors::problem(&error, "to"));
    }
    Ok(plan)
}
