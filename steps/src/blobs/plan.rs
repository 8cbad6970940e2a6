//! What a pass would do, and what stands in its way. Reads only.

use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, PlanConfig, Problem, StepContext, StepError, StepPlan};

use futures::StreamExt as _;

use super::azcopy;
use super::azure_client::SasLimits;
use super::config::{CopyConfig, Engine, Order, Tags};
use super::errors::line;
use super::merge::{Pair, Standing, standing};
use super::names::{Part, Phase, everything, invalid_name, metadata};
use super::pass::DEFAULT_CONCURRENCY;
use super::repository;
use super::source::{Object, Source};
use super::target::{Blob, Target};
use super::walk::{next_pairs, walk_all};
use crate::site::{AwsAccess, BucketRef, ContainerRef};

/// A plan is read by a person who waits.
const COUNT_FOR: Duration = Duration::from_secs(30);
/// Lines of one kind; a number stands for the rest.
const NAMED: usize = 10;
/// Objects whose metadata is looked at: each is a request, and a plan is waited for. What lies beyond is
/// looked at before its own first byte.
const LOOKED_AT: usize = 2_000;
/// Such requests at once.
const LOOKS_AT_ONCE: usize = 32;
/// A migration's usual length: a SAS that ends sooner is worth a word.
const SAS_SHOULD_LAST: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

#[derive(Default)]
struct Count {
    objects: u64,
    bytes: u64,
    to_copy: u64,
    bytes_to_copy: u64,
    whole: bool,
    invalid: Lines,
    archived: Lines,
    changed: Lines,
    extra: Lines,
    collisions: Lines,
    unreadable: Lines,
    /// To be looked at one by one.
    looks: Vec<Object>,
    /// Formats of repositories whose blobs differ.
    formats: Vec<(Object, Blob)>,
    foreign: Vec<StepError>,
}

/// The first few of a kind, and how many there are.
#[derive(Default)]
struct Lines {
    named: Vec<String>,
    count: usize,
}

impl Lines {
    fn add(&mut self, line: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(line());
        }
    }

    fn listed(&self) -> String {
        let more = self.count - self.named.len();
        let named = self.named.join(", ");
        if more == 0 { named } else { format!("{named} and {more} more") }
    }
}

pub(super) async fn plan(ctx: &StepContext, config: &PlanConfig<CopyConfig>) -> Result<StepPlan, StepError> {
    let from: Option<BucketRef> = config.field("from")?;
    let aws: Option<AwsAccess> = config.field("aws")?;
    let to: Option<ContainerRef> = config.field("to")?;
    let mut plan = StepPlan::new(match (&from, &to) {
        (Some(from), Some(to)) => {
            format!("copy objects of bucket `{}` to container `{}`", from.bucket, to.container)
        }
        _ => "copy objects".to_owned(),
    });
    let source = match (&from, &aws) {
        (Some(from), Some(aws)) => {
            let source = Arc::new(Source::new(ctx, aws, from, DEFAULT_CONCURRENCY).await?);
            reachable(source.list("", None), "from", &mut plan).await.then_some(source)
        }
        _ => None,
    };
    let target = match &to {
        Some(to) => {
            check_sas(ctx, to, config.known(), &mut plan).await;
            match Target::new(ctx, to, DEFAULT_CONCURRENCY).await {
                Ok(target) => {
                    let target = Arc::new(target);
                    reachable(target.list("", None), "to", &mut plan).await.then_some(target)
                }
                Err(error) => {
                    plan.problems.push(problem(&error, "to"));
                    None
                }
            }
        }
        None => None,
    };
    if let (Some(config), Some(source), Some(target)) = (config.known(), source, target) {
        if config.engine == Engine::Azcopy {
            plan.problems.extend(azcopy::problems(config).await);
        }
        match count(ctx, config, &source, &target).await {
            Ok(count) => describe(&mut plan, config, &source, &target, &count),
            Err(error) if error.class == ErrorClass::Cancelled => return Err(error),
            Err(error) => plan.problems.push(problem(&error, "from")),
        }
    }
    Ok(plan)
}

fn problem(error: &StepError, field: &str) -> Problem {
    let mut problem = Problem::error(line(error)).in_field(field);
    problem.hint.clone_from(&error.hint);
    problem
}

/// Whether the first page comes.
async fn reachable<T>(
    mut listing: tokio::sync::mpsc::Receiver<Result<T, StepError>>,
    field: &str,
    plan: &mut StepPlan,
) -> bool {
    match listing.recv().await {
        Some(Err(error)) => {
            plan.problems.push(problem(&error, field));
            false
        }
        _ => true,
    }
}

/// What the SAS itself says it can't do.
async fn check_sas(ctx: &StepContext, to: &ContainerRef, config: Option<&CopyConfig>, plan: &mut StepPlan) {
    // A SAS that can't be resolved is reported where the client is made.
    let Some(reference) = &to.sas else { return };
    let Ok(sas) = ctx.secret(reference).await else { return };
    let deletes = config.is_some_and(|config| config.delete_extra);
    let tags = config.is_some_and(|config| config.tags == Tags::Keep);
    let limits = SasLimits::of(sas.expose(), deletes, tags);
    if !limits.missing.is_empty() {
        let message =
            format!("the SAS at `{reference}` lacks the permission to {}", limits.missing.join(", "));
        plan.problems.push(
            Problem::error(message)
                .in_field("to")
                .with_hint("sign one with `sp=rcwl`, and `d` for delete-extra, `t` for tags"),
        );
    }
    let Some(expires) = limits.expires.and_then(|e| e.parse::<jiff::Timestamp>().ok()) else { return };
    let left = expires.duration_since(jiff::Timestamp::now());
    if left.is_negative() {
        plan.problems
            .push(Problem::error(format!("the SAS at `{reference}` expired at {expires}")).in_field("to"));
    } else if left < SAS_SHOULD_LAST {
        plan.problems
            .push(Problem::warning(format!("the SAS at `{reference}` expires at {expires}")).in_field("to"));
    }
}

async fn count(
    ctx: &StepContext,
    config: &CopyConfig,
    source: &Arc<Source>,
    target: &Arc<Target>,
) -> Result<Count, StepError> {
    let mut count = Count::default();
    let end = tokio::time::Instant::now() + COUNT_FOR;
    let everything = everything(config);
    for prefix in &everything.scopes {
        let mut events = walk_all(source, target, prefix, config.delete_extra, true);
        loop {
            let pairs = tokio::select! {
                () = tokio::time::sleep_until(end) => return Ok(count),
                pairs = next_pairs(&mut events, ctx) => pairs?,
            };
            let Some(pairs) = pairs else { break };
            for pair in pairs {
                count.pair(&everything, config.order, target, pair);
            }
        }
    }
    count.whole = true;
    tokio::select! {
        () = ctx.cancel.cancelled() => return Err(StepError::cancelled()),
        () = tokio::time::sleep_until(end) => {}
        () = count.look(source, target) => {}
    }
    Ok(count)
}

impl Count {
    fn pair(&mut self, everything: &Phase, order: Order, target: &Target, pair: Pair) {
        if !everything.takes(pair.key()) {
            return;
        }
        let (object, blob) = match pair {
            Pair::Object(object, _) if object.is_folder_marker() => return,
            Pair::Object(object, blob) => (object, blob),
            Pair::Extra(blob) => {
                self.extra.add(|| format!("blob `{}` (not in the bucket)", target.name(&blob.key)));
                return;
            }
        };
        self.objects += 1;
        self.bytes += object.size;
        let standing = blob.as_ref().map(|blob| standing(&object, blob));
        if standing == Some(Standing::Equal) {
            return;
        }
        self.to_copy += 1;
        self.bytes_to_copy += object.size;
        if let Some(why) = invalid_name(&target.name(&object.key)) {
            self.invalid.add(|| format!("`{}` ({why})", object.key));
        }
        if let Some(Standing::Differs(what)) = standing {
            self.changed.add(|| format!("blob `{}` (another {what})", target.name(&object.key)));
        }
        let is_format = order == Order::Velero && repository::part(&object.key) == Some(Part::Formats);
        if let Some(blob) = blob.filter(|_| is_format) {
            self.formats.push((object.clone(), blob));
        }
        if self.looks.len() < LOOKED_AT {
            self.looks.push(object);
        } else if object.archived {
            self.archived.add(|| format!("`{}`", object.key));
        }
    }

    /// Looks at what only the objects themselves tell: whose repository it is, metadata, restored copies,
    /// the right to read.
    async fn look(&mut self, source: &Source, target: &Target) {
        for (object, blob) in std::mem::take(&mut self.formats) {
            if let Err(error) = repository::check_same(source, target, &object, &blob).await {
                self.foreign.push(error);
            }
        }
        let looks = std::mem::take(&mut self.looks);
        let mut looks = futures::stream::iter(looks)
            .map(|object| async move {
                let found = source.head(&object.key).await;
                (object, found)
            })
            .buffered(LOOKS_AT_ONCE);
        while let Some((object, found)) = looks.next().await {
            match found {
                // Gone in the meantime: the pass will not find it either.
                Ok(None) => {}
                Ok(Some((_, properties))) => {
                    if let Err((one, other)) = metadata(&properties.metadata) {
                        self.collisions.add(|| format!("`{}` (`{one}` and `{other}`)", object.key));
                    }
                    if object.archived && !properties.restored {
                        self.archived.add(|| format!("`{}`", object.key));
                    }
                }
                Err(error) => {
                    self.unreadable.add(|| line(&error));
                    if self.unreadable.count >= NAMED {
                        return;
                    }
                }
            }
        }
    }
}

fn describe(plan: &mut StepPlan, config: &CopyConfig, source: &Source, target: &Target, count: &Count) {
    let order = if config.order == Order::Velero { ", volume data first" } else { "" };
    let least = if count.whole { "" } else { "at least " };
    plan.summary = format!(
        "copy {least}{} of {} objects from {} to {}{order}",
        count.to_copy, count.objects, source.place, target.place
    );
    if count.whole {
        plan.items = Some(count.to_copy);
        plan.bytes = Some(count.bytes_to_copy);
    }
    for (lines, more) in
        [(&count.changed, "more blobs"), (&count.extra, "more blobs that are not in the bucket")]
    {
        plan.destroys.extend(lines.named.iter().cloned());
        if lines.count > lines.named.len() {
            plan.destroys.push(format!("and {} {more}", lines.count - lines.named.len()));
        }
    }
    plan.problems.extend(count.foreign.iter().map(|error| problem(error, "to")));
    if count.invalid.count > 0 {
        let message =
            format!("{} names that Azure can't hold: {}", count.invalid.count, count.invalid.listed());
        plan.problems.push(Problem::error(message).in_field("from"));
    }
    if count.archived.count > 0 {
        let message =
            format!("{} archived objects can't be read: {}", count.archived.count, count.archived.listed());
        plan.problems
            .push(Problem::error(message).in_field("from").with_hint("restore them from Glacier first"));
    }
    if count.collisions.count > 0 {
        let message = format!(
            "{} objects have metadata names that would be one on Azure: {}",
            count.collisions.count,
            count.collisions.listed()
        );
        let hint = "rename one of the two at the source, or leave the objects out with `exclude`";
        plan.problems.push(Problem::error(message).in_field("from").with_hint(hint));
    }
    if count.unreadable.count > 0 {
        let message = format!("objects can't be read: {}", count.unreadable.listed());
        plan.problems.push(Problem::error(message).in_field("from").with_hint("s3:GetObject is needed"));
    }
}
