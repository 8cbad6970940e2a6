//! `ecr.pull`: images from a registry into an OCI layout on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{
    Check, Evidence, Idempotency, PlanConfig, Problem, StepContext, StepError, StepPlan, TypedObservation,
    TypedStep, VerifyDepth,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access;
use super::content::{Content, RegistryContent};
use super::digest::Digest;
use super::errors;
use super::graph::{self, Depth, Image};
use super::layout::{Layout, Stored};
use super::manifest::{Descriptor, Platform};
use super::meter::{Meter, drive};
use super::moved::{self, MovedTag};
use super::reference::{self, ImageRef};
use crate::site::{AwsAccess, RegistryRef};

/// Blobs read at once; more only makes ECR throttle.
const BLOBS_AT_ONCE: usize = 8;

/// Images looked at side by side in a plan.
const IMAGES_AT_ONCE: usize = 8;

/// Config of `ecr.pull`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PullConfig {
    /// The registry that has the images.
    pub from: RegistryRef,
    /// How AWS is reached, for ECR's password.
    #[serde(default)]
    pub aws: Option<AwsAccess>,
    /// `HOST/repository:tag` or `HOST/repository@sha256:…`, all in `from`.
    pub images: Vec<String>,
    /// Folder of the OCI layout; made where it is missing, added to where it exists.
    pub layout: PathBuf,
    /// Most MiB of layers a second, all together.
    #[serde(default)]
    pub max_mib_per_second: Option<u32>,
}

/// Outputs of `ecr.pull`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PullOutputs {
    /// The layout's folder, as given.
    pub layout: PathBuf,
    /// What is in it.
    pub images: Vec<PulledImage>,
    /// Bytes that were read from the registry; less than the images' when the layout had some.
    pub bytes_fetched: u64,
}

/// An image in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PulledImage {
    /// As it was asked for.
    pub reference: String,
    /// `shop/web`.
    pub repository: String,
    /// `1.0`; none where it was asked for by digest, or where the tag has moved on since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// That tag, where it has moved on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<MovedTag>,
    /// What it is.
    pub(crate) digest: Digest,
    /// Manifests and blobs, each once, with what goes with the image.
    pub bytes: u64,
    /// `linux/amd64`, …
    pub platforms: Vec<String>,
}

/// `ecr.pull`.
pub struct Pull;

#[async_trait]
impl TypedStep for Pull {
    const NAME: &'static str = "ecr.pull";
    const SUMMARY: &'static str =
        "Copies images from ECR into an OCI layout on disk, all platforms and signatures";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = PullConfig;
    type Outputs = PullOutputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<PullConfig>) -> Result<StepPlan, StepError> {
        let from = config.field::<RegistryRef>("from")?;
        let aws = config.field::<AwsAccess>("aws")?;
        let images = config.field::<Vec<String>>("images")?;
        Ok(read_source(ctx, from, aws, images, Depth::WithAttached, "pull").await?.0)
    }

    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &PullConfig,
    ) -> Result<TypedObservation<PullOutputs>, StepError> {
        // `apply` keeps what is in the layout, half a blob included.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &PullConfig) -> Result<PullOutputs, StepError> {
        let references = reference::parse_all(&config.images, &config.from.host)?;
        let registry =
            access::source(ctx, &config.from, config.aws.as_ref(), access::rate(config.max_mib_per_second))
                .await?;
        let content = RegistryContent(registry);
        let shown = config.layout.display().to_string();
        let layout = Layout::open_for_writing(ctx.path(&config.layout), &shown).await?;
        let meter = Meter::default();
        let work = pull(&content, &layout, &references, &meter);
        let (images, bytes_fetched) = drive(ctx, &meter, "pulling images", work).await?;
        moved::tell(ctx, images.iter().map(|image| (image.reference.clone(), image.moved.as_ref())));
        ctx.info(format!("pulled {} images, {bytes_fetched} bytes from {}", images.len(), config.from.host));
        Ok(PullOutputs { layout: config.layout.clone(), images, bytes_fetched })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &PullConfig,
        outputs: &PullOutputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let layout = Layout::open(ctx.path(&config.layout), &config.layout.display().to_string()).await?;
        let mut checks = Vec::new();
        for image in &outputs.images {
            checks.extend(check(&layout, image, depth).await?);
            ctx.check_cancelled()?;
        }
        Ok(checks.into_iter().collect())
    }
}

/// A registry that was read for a plan.
pub(super) struct Source {
    pub content: Arc<dyn Content>,
    /// Those that could be read.
    pub images: Vec<Image>,
}

/// The preflight of everything that reads images from a registry.
pub(super) async fn read_source(
    ctx: &StepContext,
    from: Option<RegistryRef>,
    aws: Option<AwsAccess>,
    images: Option<Vec<String>>,
    depth: Depth,
    verb: &str,
) -> Result<(StepPlan, Option<Source>), StepError> {
    let Some(from) = from else {
        return Ok((StepPlan::new(format!("{verb} images from a registry that is not known yet")), None));
    };
    let mut plan = StepPlan::new(format!("{verb} images from {}", from.host));
    let references = match images.map(|images| reference::parse_all(&images, &from.host)).transpose() {
        Ok(references) => references,
        Err(error) => {
            plan.problems.push(errors::problem(&error, "images"));
            None
        }
    };
    let registry = match access::reach(access::source(ctx, &from, aws.as_ref(), None).await, "from").await {
        Ok(registry) => registry,
        Err(problem) => {
            plan.problems.push(problem);
            return Ok((plan, None));
        }
    };
    let Some(references) = references else { return Ok((plan, None)) };
    let content = RegistryContent(registry);
    let mut images = Vec::with_capacity(references.len());
    {
        let looks: Vec<_> =
            references.iter().map(|reference| graph::read(&content, reference, depth)).collect();
        let mut looks = futures::stream::iter(looks).buffered(IMAGES_AT_ONCE);
        while let Some(look) = looks.next().await {
            ctx.check_cancelled()?;
            match look {
                Ok(image) => {
                    let moved = image.moved.as_ref();
                    plan.problems.extend(moved.map(|moved| moved.problem(&image.reference.to_string())));
                    images.push(image);
                }
                Err(error) => plan.problems.push(errors::problem(&error, "images")),
            }
        }
    }
    let blobs = images.iter().flat_map(Image::blobs).map(|(digest, blob)| (digest, blob.size));
    plan.bytes = Some(blobs.collect::<BTreeMap<Digest, u64>>().values().sum());
    plan.items = Some(references.len() as u64);
    plan.summary = format!("{verb} {} images from {}", references.len(), from.host);
    if references.is_empty() {
        plan.problems.push(Problem::warning("there are no images to move").in_field("images"));
    }
    Ok((plan, Some(Source { content: Arc::new(content), images })))
}

async fn pull(
    content: &dyn Content,
    layout: &Layout,
    references: &[ImageRef],
    meter: &Meter,
) -> Result<(Vec<PulledImage>, u64), StepError> {
    let images = graph::read_all(content, references, Depth::WithAttached).await?;
    // Each blob once, however many images share it.
    let mut blobs: BTreeMap<Digest, (&Image, Descriptor)> = BTreeMap::new();
    for image in &images {
        for (digest, blob) in image.blobs() {
            blobs.entry(digest).or_insert((image, blob));
        }
    }
    let mut blobs: Vec<_> = blobs.into_values().collect();
    blobs.sort_by_key(|(_, blob)| std::cmp::Reverse(blob.size));
    meter.expect(blobs.len() as u64, blobs.iter().map(|(_, blob)| blob.size).sum());
    let fetched = Arc::new(AtomicU64::new(0));
    let reads: Vec<_> = blobs
        .iter()
        .map(|(image, blob)| async {
            let stored = layout.put_blob(content, &image.reference, blob, &meter.bytes).await?;
            if let Stored::Fetched(bytes) = stored {
                fetched.fetch_add(bytes, Ordering::Relaxed);
            }
            meter.item();
            Ok::<_, StepError>(())
        })
        .collect();
    futures::stream::iter(reads).buffer_unordered(BLOBS_AT_ONCE).try_collect::<()>().await?;
    for image in &images {
        for manifest in &image.manifests {
            layout.put_manifest(manifest).await?;
        }
    }
    layout.record(&images).await?;
    let mut pulled = Vec::with_capacity(images.len());
    for image in &images {
        pulled.push(PulledImage {
            reference: image.reference.to_string(),
            repository: image.reference.repository.clone(),
            tag: image.tag.clone(),
            moved: image.moved.clone(),
            digest: image.digest.clone(),
            bytes: image.bytes(),
            platforms: platforms(layout, image).await?,
        });
    }
    Ok((pulled, fetched.load(Ordering::Relaxed)))
}

/// From the index, or from the config of an image that is in none.
async fn platforms(layout: &Layout, image: &Image) -> Result<Vec<String>, StepError> {
    let Some(config) = &image.root().parts.config else { return Ok(image.platforms()) };
    let bytes = layout.read_small(&config.digest).await?;
    // A config that says nothing of it is allowed.
    Ok(serde_json::from_slice::<Platform>(&bytes).map(|platform| vec![platform.label()]).unwrap_or_default())
}

/// The reference that finds `image` in a layout.
pub(super) fn in_layout(image: &PulledImage) -> Result<ImageRef, StepError> {
    let parsed = ImageRef::parse(&image.reference)?;
    Ok(ImageRef { tag: image.tag.clone(), digest: Some(image.digest.clone()), ..parsed })
}

async fn check(layout: &Layout, image: &PulledImage, depth: VerifyDepth) -> Result<Vec<Check>, StepError> {
    let reference = in_layout(image)?;
    let subject = format!("image {}", ImageRef { digest: None, ..reference.clone() }.short());
    let expected = image.digest.to_string();
    let named = match &reference.tag {
        Some(_) => layout.resolve(&reference).await?,
        None => Some(image.digest.clone()),
    };
    let named = named.map_or_else(|| "missing".to_owned(), |digest| digest.to_string());
    let mut checks = vec![Check::equal(&subject, "digest", &expected, named)];
    if let Some(moved) = &image.moved {
        let named = ImageRef { tag: Some(moved.tag.clone()), ..reference.clone() };
        let there = layout.resolve(&named).await?;
        checks.push(moved.check(&subject, &image.digest, there.as_ref()));
    }
    let graph = match graph::read(layout, &reference, Depth::WithAttached).await {
        Ok(graph) => graph,
        Err(error) => {
            checks
                .push(Check::equal(&subject, "manifests", "complete", "broken").with_note(error.to_string()));
            return Ok(checks);
        }
    };
    for blob in graph.blobs().values() {
        let there = match layout.blob_size(&blob.digest).await {
            Some(size) if size != blob.size => format!("{size} bytes instead of {}", blob.size),
            Some(_) if depth == VerifyDepth::Deep => layout.rehash(&blob.digest).await?.to_string(),
            Some(_) => blob.digest.to_string(),
            None => "missing".to_owned(),
        };
        let check = Check::equal(&subject, "blob", blob.digest.to_string(), there);
        if check.status != migrate_plugin_api::CheckStatus::Passed {
            checks.push(check);
        }
    }
    Ok(checks)
}
