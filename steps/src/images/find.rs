//! `ecr.images`: which images of ECR repositories are to be moved, resolved to digests once. Reads
//! only.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_ecr::types::ImageDetail;
use migrate_plugin_api::{
    Check, Evidence, Idempotency, PlanConfig, Problem, Progress, StepContext, StepError, StepPlan,
    TypedObservation, TypedStep, VerifyDepth,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::ecr;
use super::errors;
use super::reference::ImageRef;
use crate::site::{AwsAccess, RegistryRef};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Images that are told one by one; a plan must stay readable.
const MOST_NAMED: usize = 20;

/// Config of `ecr.images`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FindConfig {
    /// The registry, for the names of its images.
    pub from: RegistryRef,
    /// How AWS is reached.
    pub aws: AwsAccess,
    /// Patterns of repositories, `*` for any text: `shop/*`. All, where none is given.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// Patterns of tags. All, where none is given; images without a tag only if `untagged`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether images without a tag are wanted.
    #[serde(default)]
    pub untagged: bool,
    /// Only what was pushed in so many days.
    #[serde(default)]
    pub pushed_within_days: Option<u32>,
    /// Only what was pulled in so many days, as ECR remembers it.
    #[serde(default)]
    pub pulled_within_days: Option<u32>,
    /// Only images that are in use: those of this list, by tag or digest (`${nodes.inventory.images}`). Those
    /// that the other fields leave out are told, and one that is not in ECR is an error.
    #[serde(default)]
    pub in_use: Option<Vec<String>>,
}

/// Outputs of `ecr.images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FindOutputs {
    /// `HOST/repository:tag@digest`, or `HOST/repository@digest` for what has no tag, sorted, each once.
    pub images: Vec<String>,
    /// Repositories that were looked into.
    pub repositories: u64,
    /// Tags, and images without one, that the filters left out.
    pub left_out: u64,
    /// Bytes as ECR counts them; what images share counts again for each.
    pub bytes: u64,
}

/// `ecr.images`.
pub struct Find;

#[async_trait]
impl TypedStep for Find {
    const NAME: &'static str = "ecr.images";
    const SUMMARY: &'static str =
        "Finds images in ECR by repository, tag, age and use, and resolves their digests";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = FindConfig;
    type Outputs = FindOutputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<FindConfig>) -> Result<StepPlan, StepError> {
        let Some(config) = config.known() else {
            return Ok(StepPlan::new("find images in ECR by what is not known yet"));
        };
        let mut plan = StepPlan::new(format!("find images in {}", config.from.host));
        match find(ctx, config).await {
            Ok(Found { outputs, left, gone }) => {
                plan.summary = format!("find {} images in {}", outputs.images.len(), config.from.host);
                plan.items = Some(outputs.images.len() as u64);
                if outputs.images.is_empty() {
                    plan.problems.push(Problem::warning("no image passes the filters"));
                }
                plan.problems.extend(refuse(&gone).err().map(|error| errors::problem(&error, "in-use")));
                plan.problems
                    .extend(said(&left).into_iter().map(|said| Problem::warning(said).in_field("in-use")));
            }
            Err(error) => plan.problems.push(errors::problem(&error, "aws")),
        }
        Ok(plan)
    }

    async fn observe(
        &self,
        _ctx: &StepContext,
        _config: &FindConfig,
    ) -> Result<TypedObservation<FindOutputs>, StepError> {
        // Looking again is harmless.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &FindConfig) -> Result<FindOutputs, StepError> {
        let Found { outputs, left, gone } = find(ctx, config).await?;
        refuse(&gone)?;
        said(&left).into_iter().for_each(|said| ctx.warn(said));
        ctx.info(format!(
            "{} images of {} repositories, {} left out",
            outputs.images.len(),
            outputs.repositories,
            outputs.left_out
        ));
        Ok(outputs)
    }

    /// What was found is to be there still; what is new since was not asked for.
    async fn verify(
        &self,
        ctx: &StepContext,
        config: &FindConfig,
        outputs: &FindOutputs,
        _depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let client = ecr::client(ctx, &config.aws).await;
        let mut checks = Vec::new();
        let mut by_repository: BTreeMap<String, Vec<ImageRef>> = BTreeMap::new();
        for image in &outputs.images {
            let image = ImageRef::parse(image)?;
            by_repository.entry(image.repository.clone()).or_default().push(image);
        }
        for (repository, images) in by_repository {
            ctx.check_cancelled()?;
            let there: HashSet<String> = images_of(&client, config, &repository)
                .await?
                .into_iter()
                .filter_map(|image| image.image_digest)
                .collect();
            for image in images {
                let wanted = image.digest.as_ref().map(Digest::to_string).unwrap_or_default();
                let found = if there.contains(&wanted) { wanted.clone() } else { "missing".to_owned() };
                checks.push(Check::equal(format!("image {}", image.short()), "digest", wanted, found));
            }
        }
        Ok(checks.into_iter().collect())
    }
}

/// What was found, and what was not although it is in use.
struct Found {
    outputs: FindOutputs,
    /// It is in ECR, as far as that was asked, and the filters leave it out.
    left: Vec<ImageRef>,
    /// ECR has it not.
    gone: Vec<ImageRef>,
}

/// What is in use and left out, one line each.
fn said(left: &[ImageRef]) -> Vec<String> {
    let named = left.iter().take(MOST_NAMED);
    let mut said: Vec<String> =
        named.map(|image| format!("image {} is in use and left out by the filters", image.short())).collect();
    if left.len() > MOST_NAMED {
        said.push(format!("{} more images are in use and left out by the filters", left.len() - MOST_NAMED));
    }
    said
}

/// What is in use and not there can be moved by nobody.
fn refuse(gone: &[ImageRef]) -> Result<(), StepError> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = gone.iter().take(MOST_NAMED).map(ImageRef::short).collect();
    if gone.len() > MOST_NAMED {
        names.push(format!("and {} more", gone.len() - MOST_NAMED));
    }
    Err(StepError::permanent(format!("in use and not in ECR: {}", names.join(", "))).with_hint(
        "push it again (through a pull-through cache: pull it once), or stop what uses it and take the \
         inventory again",
    ))
}

async fn find(ctx: &StepContext, config: &FindConfig) -> Result<Found, StepError> {
    let client = ecr::client(ctx, &config.aws).await;
    let mut filter = Filter::new(config, SystemTime::now())?;
    let mut names = Vec::new();
    // The registry may be another account's.
    let account = ecr::account(&config.from.host);
    let repositories = client.describe_repositories().set_registry_id(account.map(str::to_owned));
    let mut pages = repositories.into_paginator().items().send();
    while let Some(repository) = pages.next().await {
        let repository = repository.map_err(|e| {
            ecr::error(format!("failed to list ECR repositories in {}", config.aws.region), &e)
        })?;
        names.extend(repository.repository_name.filter(|name| any(&config.repositories, name)));
    }
    names.sort();
    let mut found =
        FindOutputs { images: Vec::new(), repositories: names.len() as u64, left_out: 0, bytes: 0 };
    for (done, name) in names.iter().enumerate() {
        ctx.check_cancelled()?;
        ctx.progress(Progress::message(name.clone()).items(done as u64, names.len() as u64));
        for image in images_of(&client, config, name).await? {
            filter.take(&config.from.host, name, &image, &mut found)?;
        }
    }
    found.images.sort();
    let (left, gone) = filter.unfound();
    Ok(Found { outputs: found, left, gone })
}

async fn images_of(
    client: &aws_sdk_ecr::Client,
    config: &FindConfig,
    repository: &str,
) -> Result<Vec<ImageDetail>, StepError> {
    let (region, account) = (&config.aws.region, ecr::account(&config.from.host));
    let mut images = Vec::new();
    let request = client.describe_images().set_registry_id(account.map(str::to_owned));
    let mut pages = request.repository_name(repository).into_paginator().items().send();
    while let Some(image) = pages.next().await {
        let what = || format!("failed to list the images of ECR repository {repository} in {region}");
        images.push(image.map_err(|e| ecr::error(what(), &e))?);
    }
    Ok(images)
}

/// What is wanted, ready to be asked.
struct Filter<'a> {
    config: &'a FindConfig,
    pushed_after: Option<SystemTime>,
    pulled_after: Option<SystemTime>,
    /// By repository.
    in_use: Option<BTreeMap<String, Vec<Used>>>,
}

/// An image that is in use.
struct Used {
    image: ImageRef,
    /// ECR has it.
    is_there: bool,
    /// It is among what was found.
    is_found: bool,
}

impl Used {
    /// Whether the image under `tag` is meant. A digest is meant whatever the tag has become since.
    fn means(&self, tag: Option<&str>, digest: &Digest) -> bool {
        match &self.image.digest {
            Some(wanted) => wanted == digest,
            None => tag.is_some() && self.image.tag.as_deref() == tag,
        }
    }

    /// Whether an image with these tags is meant.
    fn means_any(&self, tags: &[String], digest: &Digest) -> bool {
        self.means(None, digest) || tags.iter().any(|tag| self.means(Some(tag), digest))
    }
}

impl<'a> Filter<'a> {
    fn new(config: &'a FindConfig, now: SystemTime) -> Result<Self, StepError> {
        let after = |days: Option<u32>| days.and_then(|days| now.checked_sub(DAY * days));
        let in_use = config.in_use.as_ref().map(|images| {
            let images =
                images.iter().map(|image| ImageRef::parse(image)).collect::<Result<BTreeSet<_>, _>>()?;
            let mut by_repository: BTreeMap<String, Vec<Used>> = BTreeMap::new();
            for image in images.into_iter().filter(|image| image.host == config.from.host) {
                let all = by_repository.entry(image.repository.clone()).or_default();
                all.push(Used { image, is_there: false, is_found: false });
            }
            Ok::<_, StepError>(by_repository)
        });
        let in_use = in_use.transpose()?;
        Ok(Self {
            config,
            pushed_after: after(config.pushed_within_days),
            pulled_after: after(config.pulled_within_days),
            in_use,
        })
    }

    /// Adds `image` of `repository` to `found`, a reference for each of its tags.
    fn take(
        &mut self,
        host: &str,
        repository: &str,
        image: &ImageDetail,
        found: &mut FindOutputs,
    ) -> Result<(), StepError> {
        let digest = image.image_digest.as_deref().unwrap_or_default();
        let digest = Digest::parse(digest).map_err(|e| {
            StepError::permanent(format!("ECR names an image of {repository}")).with_source(e)
        })?;
        let tags = image.image_tags.as_deref().unwrap_or_default();
        let wanted =
            if self.is_recent(image) { self.wanted(repository, tags, &digest) } else { BTreeSet::new() };
        let names = wanted.iter().map(|tag| match tag {
            Some(tag) => format!("{host}/{repository}:{tag}@{digest}"),
            None => format!("{host}/{repository}@{digest}"),
        });
        found.images.extend(names);
        found.left_out += (tags.len().max(1) - wanted.len()) as u64;
        if !wanted.is_empty() {
            found.bytes += image.image_size_in_bytes.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        }
        for one in self.in_use.iter_mut().filter_map(|all| all.get_mut(repository)).flatten() {
            if one.means_any(tags, &digest) {
                one.is_there = true;
                one.is_found |= match &one.image.digest {
                    Some(_) => !wanted.is_empty(),
                    None => wanted.contains(&one.image.tag),
                };
            }
        }
        Ok(())
    }

    /// Under which of its `tags` an image is wanted; `None` is its digest alone.
    fn wanted(&self, repository: &str, tags: &[String], digest: &Digest) -> BTreeSet<Option<String>> {
        let used = self.in_use.as_ref().map(|all| all.get(repository).map_or(&[][..], Vec::as_slice));
        if tags.is_empty() {
            // `untagged` is about what nobody names; its digest is as good a name as a tag.
            let is_named = used.is_some_and(|used| used.iter().any(|one| one.means_any(tags, digest)));
            let is_wanted = is_named || self.config.untagged && used.is_none();
            return is_wanted.then_some(None).into_iter().collect();
        }
        let is_used =
            |tag: &String| used.is_none_or(|used| used.iter().any(|one| one.means(Some(tag), digest)));
        let wanted = tags.iter().filter(|tag| any(&self.config.tags, tag) && is_used(tag));
        wanted.map(|tag| Some(tag.clone())).collect()
    }

    fn is_recent(&self, image: &ImageDetail) -> bool {
        let is_after = |at: Option<&aws_sdk_ecr::primitives::DateTime>, after: Option<SystemTime>| match after
        {
            None => true,
            Some(after) => at.and_then(|at| SystemTime::try_from(*at).ok()).is_some_and(|at| at >= after),
        };
        is_after(image.image_pushed_at.as_ref(), self.pushed_after)
            && is_after(image.last_recorded_pull_time.as_ref(), self.pulled_after)
    }

    /// What is in use and was not found: what the filters leave out, and what ECR has not.
    fn unfound(self) -> (Vec<ImageRef>, Vec<ImageRef>) {
        let all = self.in_use.into_iter().flatten().flat_map(|(_, used)| used);
        let unfound = all.filter(|one| !one.is_found);
        // A repository that is not wanted was not looked into.
        let (left, gone): (Vec<Used>, Vec<Used>) =
            unfound.partition(|one| one.is_there || !any(&self.config.repositories, &one.image.repository));
        let images = |all: Vec<Used>| all.into_iter().map(|one| one.image).collect();
        (images(left), images(gone))
    }
}

/// Whether `text` is of one of `patterns`, or there are none.
fn any(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
}

/// `*` stands for any text, everything else for itself.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        // The earliest place leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use migrate_plugin_api::testing::RecordingHost;
    use migrate_plugin_api::{LogLevel, Severity, Step, Typed};
    use serde_json::{Value, json};
    use wiremock::matchers::{body_partial_json, header};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("shop/*", "shop/web", true),
            ("shop/*", "workshop/web", false),
            ("v*.*", "v1.2", true),
            ("v*.*", "v12", false),
            ("*-rc*-x", "1-rc1-rc2-x", true),
            ("1.0", "1.0", true),
            ("1.0", "1.0.1", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    /// ECR as its JSON protocol has it, in pages of one.
    async fn ecr() -> MockServer {
        let server = MockServer::start().await;
        let answer = |operation: &str, asked: Value, body: Value| {
            Mock::given(header(
                "x-amz-target",
                format!("AmazonEC2ContainerRegistry_V20150921.{operation}").as_str(),
            ))
            .and(body_partial_json(asked))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
        };
        let repository = |name: &str| json!({ "repositoryName": name });
        answer(
            "DescribeRepositories",
            json!({ "nextToken": "2" }),
            json!({ "repositories": [repository("tools/job")] }),
        )
        .mount(&server)
        .await;
        answer(
            "DescribeRepositories",
            json!({}),
            json!({ "repositories": [repository("shop/web")], "nextToken": "2" }),
        )
        .mount(&server)
        .await;
        let days_ago = |days: u64| {
            let at = SystemTime::now() - DAY * u32::try_from(days).unwrap();
            at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        };
        let image = |name: &str, tags: &[&str], days: u64| {
            json!({ "imageDigest": Digest::of(name.as_bytes()), "imageTags": tags, "imagePushedAt": days_ago(days),
                "imageSizeInBytes": 100 })
        };
        answer(
            "DescribeImages",
            json!({ "repositoryName": "shop/web" }),
            json!({ "imageDetails": [image("new", &["1.1", "latest"], 1), image("old", &["1.0"], 400), image("bare", &[], 1)] }),
        )
        .mount(&server)
        .await;
        answer(
            "DescribeImages",
            json!({ "repositoryName": "tools/job" }),
            json!({ "imageDetails": [image("job", &["7"], 10)] }),
        )
        .mount(&server)
        .await;
        server
    }

    /// What is needed to ask it.
    struct Site {
        server: MockServer,
        folder: tempfile::TempDir,
        host: std::sync::Arc<RecordingHost>,
    }

    impl Site {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
            std::fs::write(folder.path().join("credentials"), file).unwrap();
            Self { server: ecr().await, folder, host: super::super::stand::host() }
        }

        fn context(&self) -> StepContext {
            self.host.context("find", self.folder.path())
        }

        fn config(&self, with: &Value) -> Value {
            let endpoint = self.server.uri();
            let mut config = json!({
                "from": { "host": "r.example" },
                "aws": { "region": "us-east-1", "credentials-file": "credentials", "ecr-endpoint": endpoint },
            });
            config.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            config
        }

        fn warnings(&self) -> Vec<String> {
            let log = self.host.recorded().log;
            log.into_iter().filter(|(level, _)| *level == LogLevel::Warn).map(|(_, line)| line).collect()
        }
    }

    async fn found(with: Value) -> Vec<String> {
        let site = Site::start().await;
        let (ctx, config) = (site.context(), site.config(&with));
        let step = Typed(Find);
        let outputs = step.apply(&ctx, &config).await.unwrap();
        assert!(step.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap().passed());
        assert_eq!(site.warnings(), [] as [String; 0]);
        let images = outputs["images"].as_array().unwrap();
        images.iter().map(|image| image.as_str().unwrap().split('@').next().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn images_are_found_by_repository_tag_age_and_use() {
        let all = [
            "r.example/shop/web:1.0",
            "r.example/shop/web:1.1",
            "r.example/shop/web:latest",
            "r.example/tools/job:7",
        ];
        assert_eq!(found(json!({})).await, all);
        assert_eq!(found(json!({ "repositories": ["tools/*"] })).await, all[3..]);
        assert_eq!(found(json!({ "tags": ["1.*"] })).await, all[..2]);
        assert_eq!(found(json!({ "pushed-within-days": 30 })).await, all[1..]);
        assert!(found(json!({ "pulled-within-days": 30 })).await.is_empty(), "ECR remembers no pull of any");
        assert_eq!(found(json!({ "untagged": true })).await.len(), 5);
        let old = format!("r.example/shop/web@{}", Digest::of(b"old"));
        assert_eq!(
            found(json!({ "in-use": ["r.example/tools/job:7", "docker.io/nginx:1", old] })).await,
            [all[0], all[3]]
        );
        // A pod runs what its tag has left behind since.
        let bare = format!("r.example/shop/web:1.0@{}", Digest::of(b"bare"));
        assert_eq!(found(json!({ "in-use": [bare] })).await, ["r.example/shop/web"]);
    }

    #[tokio::test]
    async fn a_registry_of_another_account_is_asked_for_as_such() {
        let site = Site::start().await;
        let host = "210987654321.dkr.ecr.us-east-1.amazonaws.com";
        let config = site.config(&json!({ "from": { "host": host } }));
        Typed(Find).apply(&site.context(), &config).await.unwrap();
        let requests = site.server.received_requests().await.unwrap();
        let asked = requests.iter().map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
        assert!(!requests.is_empty() && asked.clone().all(|asked| asked["registryId"] == "210987654321"));
    }

    #[tokio::test]
    async fn what_is_in_use_and_left_out_is_named() {
        let site = Site::start().await;
        let (step, ctx) = (Typed(Find), site.context());
        let old = format!("r.example/shop/web@{}", Digest::of(b"old"));
        let in_use =
            json!(["r.example/shop/web:1.0", old, "r.example/shop/web:1.1", "r.example/tools/job:7"]);
        let with = json!({ "in-use": in_use, "pushed-within-days": 30, "repositories": ["shop/*"], "tags": ["1.*"] });
        let config = site.config(&with);
        let plan = step.plan(&ctx, &config).await.unwrap();
        assert!(plan.problems.iter().all(|p| p.severity == Severity::Warning), "{:?}", plan.problems);
        let told: Vec<String> = plan.problems.into_iter().map(|problem| problem.message).collect();
        let outputs = step.apply(&ctx, &config).await.unwrap();
        assert_eq!(outputs["images"].as_array().unwrap().len(), 1);
        assert_eq!(site.warnings(), told);
        let told = told.join("\n").replace(&Digest::of(b"old").to_string(), "OLD");
        insta::assert_snapshot!(told, @r"
        image shop/web@OLD is in use and left out by the filters
        image shop/web:1.0 is in use and left out by the filters
        image tools/job:7 is in use and left out by the filters
        ");
    }

    #[tokio::test]
    async fn what_is_in_use_and_not_in_ecr_is_an_error() {
        let site = Site::start().await;
        let (step, ctx) = (Typed(Find), site.context());
        let gone = format!("r.example/shop/web:1.0@{}", Digest::of(b"gone"));
        let config = site.config(&json!({ "in-use": [gone, "r.example/shop/web:9", "r.example/other:1"] }));
        let plan = step.plan(&ctx, &config).await.unwrap();
        let error = step.apply(&ctx, &config).await.unwrap_err();
        assert_eq!(plan.problems.last().unwrap().message, error.message);
        let text = error.to_string().replace(&Digest::of(b"gone").to_string(), "GONE");
        insta::assert_snapshot!(text, @"in use and not in ECR: other:1, shop/web:1.0@GONE, shop/web:9");
    }
}
