//! `acr.push`: images from an OCI layout on disk into a registry.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use migrate_plugin_api::{
    Evidence, Idempotency, PlanConfig, StepContext, StepError, StepPlan, TypedObservation, TypedStep,
    VerifyDepth,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access;
use super::cursor::Cursor;
use super::deliver::{Delivery, Traffic};
use super::errors;
use super::graph::{self, Depth};
use super::layout::Layout;
use super::meter::{Meter, drive};
use super::moved;
use super::names::NameRule;
use super::pull::{PulledImage, in_layout};
use super::verify::{self, Delivered};
use crate::site::RegistryRef;

/// Config of `acr.push`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PushConfig {
    /// Folder of the OCI layout.
    pub layout: PathBuf,
    /// The images of it, as `ecr.pull` names them.
    pub images: Vec<PulledImage>,
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

/// Outputs of `acr.push` and `image.copy`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PushOutputs {
    /// What is at the target.
    pub(crate) images: Vec<Delivered>,
    /// What it took.
    pub(crate) traffic: Traffic,
}

/// `acr.push`.
pub struct Push;

#[async_trait]
impl TypedStep for Push {
    const NAME: &'static str = "acr.push";
    const SUMMARY: &'static str = "Copies images from an OCI layout on disk into ACR, digests unchanged";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = PushConfig;
    type Outputs = PushOutputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<PushConfig>) -> Result<StepPlan, StepError> {
        let images = config.field::<Vec<PulledImage>>("images")?;
        let to = config.field::<RegistryRef>("to")?;
        let mut plan = plan_target(ctx, to, "push", images.as_ref().map(Vec::len)).await?;
        for image in images.iter().flatten() {
            plan.problems.extend(image.moved.as_ref().map(|moved| moved.problem(&image.reference)));
        }
        if let Some(images) = &images
            && let Err(error) = check_names(config, images)
        {
            plan.problems.push(errors::problem(&error, "names"));
        }
        plan.bytes = images.map(|images| images.iter().map(|image| image.bytes).sum());
        Ok(plan)
    }

    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &PushConfig,
    ) -> Result<TypedObservation<PushOutputs>, StepError> {
        // `apply` asks the registry for each blob before it sends one.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &PushConfig) -> Result<PushOutputs, StepError> {
        let shown = config.layout.display().to_string();
        let layout = Layout::open(ctx.path(&config.layout), &shown).await?;
        let target = access::target(ctx, &config.to, access::rate(config.max_mib_per_second)).await?;
        let references = config.images.iter().map(in_layout).collect::<Result<Vec<_>, _>>()?;
        let mut images = graph::read_all(&layout, &references, Depth::WithAttached).await?;
        if let Some((wanted, _)) = config.images.iter().zip(&images).find(|(w, i)| w.tag != i.tag) {
            return Err(StepError::conflict(format!(
                "layout {shown} has another image for {} than {}",
                wanted.reference, wanted.digest
            ))
            .with_hint("it was pulled again since: run the node that pulls it once more"));
        }
        moved::tell(ctx, config.images.iter().map(|image| (image.reference.clone(), image.moved.as_ref())));
        config.names.apply(&mut images)?;
        let meter = Meter::default();
        let cursor = Cursor::load(ctx);
        let delivery = Delivery {
            source: Arc::new(layout),
            target: Arc::clone(&target),
            images: &images,
            overwrite: config.overwrite,
            meter: &meter,
            cursor: &cursor,
        };
        let traffic = drive(ctx, &meter, "pushing images", delivery.run()).await?;
        ctx.info(format!("{} images are in {}: {}", images.len(), target.host, said(&traffic)));
        let images = images.iter().zip(&config.images);
        let images = images
            .map(|(image, pulled)| Delivered {
                moved: pulled.moved.clone(),
                ..Delivered::new(image, &pulled.reference, &target.host)
            })
            .collect();
        Ok(PushOutputs { images, traffic })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &PushConfig,
        outputs: &PushOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        verify::registry(&access::target(ctx, &config.to, None).await?, &outputs.images, depth).await
    }
}

fn check_names(config: &PlanConfig<PushConfig>, images: &[PulledImage]) -> Result<(), StepError> {
    let names = config.field::<NameRule>("names")?.unwrap_or_default();
    names.check(&images.iter().map(in_layout).collect::<Result<Vec<_>, _>>()?)
}

/// The preflight of everything that writes images to a registry.
pub(super) async fn plan_target(
    ctx: &StepContext,
    to: Option<RegistryRef>,
    verb: &str,
    images: Option<usize>,
) -> Result<StepPlan, StepError> {
    let count = images.map_or_else(|| "images".to_owned(), |count| format!("{count} images"));
    let Some(to) = to else {
        return Ok(StepPlan::new(format!("{verb} {count} to a registry that is not known yet")));
    };
    let mut plan = StepPlan::new(format!("{verb} {count} to {}", to.host));
    plan.items = images.map(|count| count as u64);
    if let Err(problem) = access::reach(access::target(ctx, &to, None).await, "to").await {
        plan.problems.push(problem);
    }
    Ok(plan)
}

/// One line for the log.
pub(super) fn said(traffic: &Traffic) -> String {
    format!(
        "{} blobs sent ({} bytes), {} mounted, {} there already, {} manifests written",
        traffic.blobs_sent,
        traffic.bytes_sent,
        traffic.blobs_mounted,
        traffic.blobs_present,
        traffic.manifests_written
    )
}
