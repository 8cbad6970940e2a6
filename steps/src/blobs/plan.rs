//! What a pass would do, and what stands in its way. Reads only.

use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::{ErrorClass, PlanConfig, Problem, StepContext, StepError, StepPlan};

use super::config::{CopyConfig, Order};
use super::errors::line;
use super::merge::{Merge, Standing, standing};
use super::names::{invalid_name, phases};
use super::source::Source;
use super::target::{SasLimits, Target};
use crate::site::{AwsAccess, BucketRef, ContainerRef};

/// A plan is read by a person who waits.
const COUNT_FOR: Duration = Duration::from_secs(30);
/// Lines of one kind; a number stands for the rest.
const NAMED: usize = 10;
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
            let source = Arc::new(Source::new(ctx, aws, from).await);
            reachable(source.list("", None), "from", &mut plan).await.then_some(source)
        }
        _ => None,
    };
    let target = match &to {
        Some(to) => {
            check_sas(ctx, to, &mut plan).await;
            match Target::new(ctx, to).await {
                Ok(target) => {
                    let target = Arc::new(target);
                    reachable(target.list(""), "to", &mut plan).await.then_some(target)
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
async fn check_sas(ctx: &StepContext, to: &ContainerRef, plan: &mut StepPlan) {
    // A SAS that can't be resolved is reported where the client is made.
    let Some(reference) = &to.sas else { return };
    let Ok(sas) = ctx.secret(reference).await else { return };
    let limits = SasLimits::of(sas.expose());
    if !limits.missing.is_empty() {
        let message =
            format!("the SAS at `{reference}` lacks the permission to {}", limits.missing.join(", "));
        plan.problems.push(Problem::error(message).in_field("to").with_hint("sign one with `sp=rcwl`"));
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
    for phase in phases(config.order, config.prefixes.as_deref()) {
        for scope in &phase.scopes {
            let mut merge = Merge::new(source.list(scope, None), target.list(scope));
            loop {
                let pair = tokio::select! {
                    () = ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                    () = tokio::time::sleep_until(end) => return Ok(count),
                    pair = merge.next() => pair?,
                };
                let Some(pair) = pair else { break };
                let object = pair.object;
                if !phase.takes(&object.key) || object.is_folder_marker() {
                    continue;
                }
                count.objects += 1;
                count.bytes += object.size;
                let standing = pair.blob.map(|blob| standing(&object, &blob));
                if standing == Some(Standing::Equal) {
                    continue;
                }
                count.to_copy += 1;
                count.bytes_to_copy += object.size;
                if let Some(why) = invalid_name(&target.name(&object.key)) {
                    count.invalid.add(|| format!("`{}` ({why})", object.key));
                }
                if object.archived {
                    count.archived.add(|| format!("`{}`", object.key));
                }
                if let Some(Standing::Differs(what)) = standing {
                    count.changed.add(|| format!("blob `{}` (another {what})", target.name(&object.key)));
                }
            }
        }
    }
    count.whole = true;
    Ok(count)
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
    plan.destroys.clone_from(&count.changed.named);
    if count.changed.count > count.changed.named.len() {
        plan.destroys.push(format!("and {} more blobs", count.changed.count - count.changed.named.len()));
    }
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
}
