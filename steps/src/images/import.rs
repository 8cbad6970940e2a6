//! `acr.import`: Azure fetches the images itself, and what it can't fetch is streamed.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{
    Evidence, Idempotency, PlanConfig, StepContext, StepError, StepPlan, TypedObservation, TypedStep,
    VerifyDepth,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::access;
use super::arm::{Arm, ArmLimits, Asked, Failure, ImportCredentials, ImportRequest, ImportSource};
use super::content::{Content, RegistryContent};
use super::copy;
use super::cursor::Cursor;
use super::deliver::Delivery;
use super::errors;
use super::graph::{self, Depth, Image};
use super::meter::{Meter, drive};
use super::moved;
use super::names::NameRule;
use super::push::{PushOutputs, said};
use super::reference;
use super::registry::Registry;
use super::verify::{self, Delivered, Way};
use crate::site::{AwsAccess, AzureAccess, RegistryRef};

/// Imports under way at once; each batch gets a password of its own, so that none meets its end.
const BATCH: usize = 10;

/// Most manifests of one image that Azure imports.
const MAX_MANIFESTS: usize = 50;

/// Largest layer that Azure imports from a registry outside Azure.
const MAX_LAYER_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Config of `acr.import`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImportConfig {
    /// The registry that has the images. Azure must be able to reach it.
    pub from: RegistryRef,
    /// How AWS is reached, for ECR's password.
    #[serde(default)]
    pub aws: Option<AwsAccess>,
    /// `HOST/repository:tag` or `HOST/repository@sha256:…`, all in `from`.
    pub images: Vec<String>,
    /// The registry that gets them, under the same tags.
    pub to: RegistryRef,
    /// Where that registry is in Azure.
    pub azure: AzureAccess,
    /// Name of that registry as a resource, if it isn't the first label of its host.
    #[serde(default)]
    pub registry_name: Option<String>,
    /// Whether a tag that points at another image may be moved.
    #[serde(default)]
    pub overwrite: bool,
    /// How repositories are named at the target.
    #[serde(default)]
    pub names: NameRule,
    /// Most MiB of layers a second, all together, of what is streamed.
    #[serde(default)]
    pub max_mib_per_second: Option<u32>,
}

/// `acr.import`.
#[derive(Default)]
pub struct Import {
    limits: ArmLimits,
}

impl Import {
    #[cfg(test)]
    pub(super) fn with_limits(limits: ArmLimits) -> Self {
        Self { limits }
    }

    async fn arm(&self, ctx: &StepContext, config: &ImportConfig) -> Result<Arm, StepError> {
        let name = registry_name(&config.to, config.registry_name.as_deref());
        Arm::new(ctx, &config.azure, name, self.limits.clone()).await
    }
}

#[async_trait]
impl TypedStep for Import {
    const NAME: &'static str = "acr.import";
    const SUMMARY: &'static str = "Lets Azure fetch images from ECR, and streams what it can't fetch";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = ImportConfig;
    type Outputs = PushOutputs;

    async fn plan(
        &self,
        ctx: &StepContext,
        config: &PlanConfig<ImportConfig>,
    ) -> Result<StepPlan, StepError> {
        let mut plan = copy::plan(ctx, config, "import").await?;
        let to = config.field::<RegistryRef>("to")?;
        let azure = config.field::<AzureAccess>("azure")?;
        if let (Some(to), Some(azure)) = (to, azure) {
            let name = config.field::<String>("registry-name")?;
            let name = registry_name(&to, name.as_deref()).to_owned();
            let reached = match Arm::new(ctx, &azure, &name, self.limits.clone()).await {
                Ok(arm) => arm.reach().await.map_err(StepError::from),
                Err(error) => Err(error),
            };
            plan.problems.extend(reached.err().map(|error| errors::problem(&error, "azure")));
        }
        Ok(plan)
    }

    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &ImportConfig,
    ) -> Result<TypedObservation<PushOutputs>, StepError> {
        // `apply` joins what the cursor names and leaves alone what is there.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &ImportConfig) -> Result<PushOutputs, StepError> {
        let references = reference::parse_all(&config.images, &config.from.host)?;
        let source = access::source(ctx, &config.from, config.aws.as_ref(), None).await?;
        let target = access::target(ctx, &config.to, access::rate(config.max_mib_per_second)).await?;
        let arm = self.arm(ctx, config).await?;
        let cursor = Cursor::load(ctx);
        let meter = Meter::default();
        let work = async {
            let content: Arc<dyn Content> = Arc::new(RegistryContent(Arc::clone(&source)));
            let mut images = graph::read_all(&*content, &references, Depth::WithAttached).await?;
            moved::tell(ctx, images.iter().map(|image| (image.reference.to_string(), image.moved.as_ref())));
            config.names.apply(&mut images)?;
            let delivery = Delivery {
                source: content,
                target: Arc::clone(&target),
                images: &images,
                overwrite: config.overwrite,
                meter: &meter,
                cursor: &cursor,
            };
            let found = delivery.check().await?;
            let there: Vec<bool> = images.iter().map(|image| found.has(image)).collect();
            let job = Job {
                ctx,
                arm: &arm,
                source: &source,
                target: &target,
                overwrite: config.overwrite,
                cursor: &cursor,
            };
            let ways = job.run(&images, &there).await?;
            // What Azure did not fetch, and what goes with the images.
            let traffic = delivery.run().await?;
            Ok((images, ways, traffic))
        };
        let (images, ways, traffic) = drive(ctx, &meter, "importing images", work).await?;
        ctx.info(format!("{} images are in {}: {}", images.len(), target.host, said(&traffic)));
        let images = images
            .iter()
            .zip(ways)
            .map(|(image, (way, reason))| {
                let delivered = Delivered::new(image, &image.reference.to_string(), &target.host);
                Delivered { way: Some(way), reason, ..delivered }
            })
            .collect();
        Ok(PushOutputs { images, traffic })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &ImportConfig,
        outputs: &PushOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        verify::registry(&access::target(ctx, &config.to, None).await?, &outputs.images, depth).await
    }
}

/// `example` of `example.azurecr.io`, unless it is named.
fn registry_name<'a>(to: &'a RegistryRef, name: Option<&'a str>) -> &'a str {
    name.unwrap_or_else(|| to.host.split(['.', ':']).next().unwrap_or(&to.host))
}

/// Why Azure could not import `image`, if that is known beforehand.
fn unfit(image: &Image) -> Option<String> {
    if image.own > MAX_MANIFESTS {
        return Some(format!("it has {} manifests, and Azure imports at most {MAX_MANIFESTS}", image.own));
    }
    let largest =
        image.manifests[..image.own].iter().flat_map(|m| &m.parts.blobs).max_by_key(|blob| blob.size);
    largest.filter(|blob| blob.size > MAX_LAYER_BYTES).map(|blob| {
        format!("layer {} has {} bytes, and Azure imports at most {MAX_LAYER_BYTES}", blob.digest, blob.size)
    })
}

struct Job<'a> {
    ctx: &'a StepContext,
    arm: &'a Arm,
    source: &'a Registry,
    target: &'a Registry,
    overwrite: bool,
    cursor: &'a Cursor,
}

impl Job<'_> {
    /// Imports what can be imported. For each image, which way it goes, and why where it isn't
    /// the import.
    async fn run(&self, images: &[Image], there: &[bool]) -> Result<Vec<(Way, Option<String>)>, StepError> {
        let mut ways: Vec<(Way, Option<String>)> = Vec::with_capacity(images.len());
        let mut fit = Vec::new();
        for (index, (image, there)) in images.iter().zip(there).enumerate() {
            ways.push(match (there, unfit(image)) {
                (true, _) => (Way::Present, None),
                (false, Some(reason)) => (Way::Stream, Some(reason)),
                (false, None) => {
                    fit.push(index);
                    (Way::Import, None)
                }
            });
        }
        for batch in fit.chunks(BATCH) {
            let credentials = self.fresh_credentials().await?;
            let imports: Vec<_> = batch
                .iter()
                .map(|index| {
                    let (image, credentials) = (&images[*index], credentials.clone());
                    async move { Ok::<_, StepError>((*index, self.import(image, credentials).await?)) }
                })
                .collect();
            let failed: Vec<(usize, Option<String>)> =
                futures::stream::iter(imports).buffer_unordered(BATCH).try_collect().await?;
            for (index, reason) in failed {
                if let Some(reason) = reason {
                    self.ctx.warn(format!("image {} is streamed: {reason}", images[index].reference.short()));
                    ways[index] = (Way::Stream, Some(reason));
                }
            }
        }
        Ok(ways)
    }

    async fn fresh_credentials(&self) -> Result<Option<ImportCredentials>, StepError> {
        let basic = self.source.auth.fresh_basic().await?;
        Ok(basic.map(|(username, password)| ImportCredentials {
            username,
            password: password.expose().to_owned(),
        }))
    }

    /// Imports one image. `Some` is why it has to be streamed instead; an error ends the step.
    async fn import(
        &self,
        image: &Image,
        credentials: Option<ImportCredentials>,
    ) -> Result<Option<String>, StepError> {
        match self.ask_and_wait(image, credentials).await {
            Ok(()) => {}
            // Streaming would hide that nobody is logged in.
            Err(Failure::Login(error)) => return Err(error),
            Err(Failure::Refused(error)) => return Ok(Some(error.message)),
        }
        let reference = image.tag.clone().unwrap_or_else(|| image.digest.to_string());
        match self.target.head_manifest(&image.target, &reference).await? {
            Some(found) if found.digest == image.digest => Ok(None),
            Some(found) => Ok(Some(format!("Azure imported {} instead of {}", found.digest, image.digest))),
            None => Ok(Some("Azure called the import done, and the image is not there".to_owned())),
        }
    }

    async fn ask_and_wait(
        &self,
        image: &Image,
        credentials: Option<ImportCredentials>,
    ) -> Result<(), Failure> {
        let key = image.reference.to_string();
        let earlier = self.cursor.operation(&key).await;
        if let Some(url) = earlier
            && self.arm.wait(&url).await.is_ok()
        {
            return Ok(());
        }
        // What an earlier attempt has started is over without success: once more.
        match self.arm.import(&self.request(image, credentials)).await? {
            Asked::Done => Ok(()),
            Asked::Running(url) => {
                self.cursor.keep_operation(&key, url.clone()).await?;
                self.arm.wait(&url).await
            }
        }
    }

    fn request(&self, image: &Image, credentials: Option<ImportCredentials>) -> ImportRequest {
        let repository = &image.target;
        let (target_tags, untagged_target_repositories) = match &image.tag {
            Some(tag) => (vec![format!("{repository}:{tag}")], Vec::new()),
            None => (Vec::new(), vec![repository.clone()]),
        };
        ImportRequest {
            source: ImportSource {
                registry_uri: self.source.host.clone(),
                source_image: format!("{}@{}", image.reference.repository, image.digest),
                credentials,
            },
            target_tags,
            untagged_target_repositories,
            mode: if self.overwrite { "Force" } else { "NoForce" }.to_owned(),
        }
    }
}
