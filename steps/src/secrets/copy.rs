//! `secrets.copy`: secrets of AWS Secrets Manager into an Azure Key Vault. Natural to repeat: what has its
//! value already is not set again, since Key Vault makes a new version each time.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Problem, Progress, Secret, StepContext, StepError,
    StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::items::{self, Item, ItemVersion, Shape, VERSION_TAG};
use super::source::{AT_ONCE, Source, Version};
use crate::azure;
use crate::keyvault::{Address, NewSecret, Vault};
use crate::manifests::tree::problem_of;
use crate::site::{AwsAccess, AzureAccess, VaultRef};
use crate::tokens::Tokens;

/// Most secrets that one message names.
const NAMED: usize = 10;

/// `secrets.copy`.
#[derive(Default)]
pub(crate) struct SecretsCopy {
    /// Who we are to the vault, whatever the site says.
    #[cfg(test)]
    pub(super) identity: Option<std::sync::Arc<dyn azure_core::credentials::TokenCredential>>,
}

/// `with` of `secrets.copy`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// How AWS is reached.
    pub aws: AwsAccess,
    /// Secrets to copy: names, ARNs, or beginnings of names that end with `*`.
    pub secrets: Vec<String>,
    /// The vault that gets them.
    pub vault: VaultRef,
    /// Whose `service-principal` logs in to the vault; default: an identity of the machine.
    #[serde(default)]
    pub azure: Option<AzureAccess>,
    /// Names in the vault, by name or ARN, and of fields by `NAME.FIELD`: `${env.rewrite.secrets}`. Default:
    /// the same with hyphens for what Key Vault does not allow.
    #[serde(default)]
    pub names: BTreeMap<String, String>,
    /// Fields that become secrets of their own, by the name or ARN of a secret that is a JSON object.
    #[serde(default)]
    pub split: BTreeMap<String, Vec<String>>,
    /// Whether what is split is copied whole too, for readers that take fields out themselves.
    #[serde(default)]
    pub keep_whole: bool,
    /// Whether `AWSPREVIOUS` becomes an older version, where the vault does not have the secret yet.
    #[serde(default)]
    pub previous: bool,
    /// Whether a secret that is in the vault with another value gets a new version.
    #[serde(default)]
    pub overwrite: bool,
}

/// What is in the vault. No value and nothing made of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// `shop.vault.azure.net`.
    pub vault: String,
    /// Every secret, by its name in the vault.
    pub secrets: Vec<Copied>,
}

/// A secret of the vault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Copied {
    /// Its name there.
    pub name: String,
    /// The name of the secret that it was.
    pub source: String,
    /// That secret's ARN.
    pub arn: String,
    /// The field of it, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Version in Secrets Manager.
    pub source_version: String,
    /// Version in the vault.
    pub version: String,
    /// The older version, where it was asked for and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Older>,
    /// What the vault has no place for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// The version before the current one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Older {
    /// Version in Secrets Manager.
    pub source_version: String,
    /// Version in the vault.
    pub version: String,
}

/// Secrets that got, or were to get, their older version from this node, before that was so. Of another's the
/// older value may be what is in use.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    begun: BTreeSet<String>,
}

/// What the vault has under an item's name.
enum There {
    Nothing,
    /// The value, under this version.
    Same(String),
    /// The value of AWSPREVIOUS, under this version: an interrupted copy, or an older one.
    Older(String),
    Other,
    /// A certificate's.
    Managed,
    /// Deleted, and to be recovered or purged.
    Deleted,
}

impl Config {
    fn problem(&self) -> Option<Problem> {
        if self.secrets.is_empty() {
            let problem = Problem::error("no secret is named").in_field("secrets");
            return Some(problem.with_hint("name secrets, or `prefix*` for all that begin so"));
        }
        let empty = self.split.iter().find(|(_, fields)| fields.is_empty());
        empty.map(|(name, _)| Problem::error(format!("`split` names no field of {name}")).in_field("split"))
    }

    fn shape(&self) -> Shape<'_> {
        Shape { names: &self.names, split: &self.split, keep_whole: self.keep_whole }
    }

    async fn items(&self, source: &Source) -> Result<Result<Vec<Item>, Vec<Problem>>, StepError> {
        Ok(items::items(&source.read(&self.secrets, self.previous).await?, &self.shape()))
    }
}

impl SecretsCopy {
    async fn vault(&self, ctx: &StepContext, config: &Config) -> Result<Vault, StepError> {
        let address = Address::parse(&config.vault.name).map_err(|wrong| {
            StepError::permanent(wrong).with_hint("check `[target.vault]` in migration.toml")
        })?;
        let principal = config.azure.as_ref().and_then(|azure| azure.service_principal.as_ref());
        #[cfg(test)]
        let given = self.identity.clone();
        #[cfg(not(test))]
        let given = None;
        let identity = match (given, principal) {
            (Some(identity), _) => identity,
            (None, Some(principal)) => azure::application(ctx, principal).await?,
            (None, None) => azure::credential(),
        };
        let scope = format!("https://{}/.default", address.cloud);
        let tokens = Tokens::of(identity, scope, address.host());
        Ok(Vault::new(&address, config.vault.endpoint.as_ref(), tokens)?.patient())
    }
}

/// What is under the items' names, in their order.
async fn survey(vault: &Vault, items: &[Item]) -> Result<Vec<There>, StepError> {
    // Made beforehand: a stream of closures over references is no `Send` future.
    let looks: Vec<_> = items.iter().map(|item| look(vault, item)).collect();
    futures::stream::iter(looks).buffered(AT_ONCE).try_collect().await
}

async fn look(vault: &Vault, item: &Item) -> Result<There, StepError> {
    let Some(found) = vault.find(&item.target, None).await? else {
        let is_deleted = vault.is_deleted(&item.target).await?;
        return Ok(if is_deleted { There::Deleted } else { There::Nothing });
    };
    Ok(if found.is_managed {
        There::Managed
    } else if item.current.is(&found.value) {
        There::Same(found.version)
    } else if item.previous.as_ref().is_some_and(|previous| previous.is(&found.value)) {
        There::Older(found.version)
    } else {
        There::Other
    })
}

/// Whether a value that somebody may use gives way to the item's.
fn is_replaced(item: &Item, there: &There, place: &Place) -> bool {
    match there {
        There::Other => true,
        There::Older(_) => !place.begun.contains(&item.target),
        There::Nothing | There::Same(_) | There::Managed | There::Deleted => false,
    }
}

/// Why the items can't be set.
fn refusals(vault: &str, items: &[Item], there: &[There], overwrite: bool, place: &Place) -> Vec<Problem> {
    let problem = |(item, there): (&Item, &There)| {
        let (name, host) = (&item.target, vault);
        let short = host.split('.').next().unwrap_or_default();
        let (message, field, hint) = match there {
            There::Other | There::Older(_) if !overwrite && is_replaced(item, there, place) => {
                let value = if matches!(there, There::Other) {
                    "another value than"
                } else {
                    "the previous value of"
                };
                (
                    format!("secret {name} is in {host} with {value} {}", item.subject()),
                    "overwrite",
                    "compare both; `overwrite = true` makes a new version, or give it another name in `[rewrite.secrets]`"
                        .to_owned(),
                )
            }
            There::Managed => (
                format!("secret {name} in {host} belongs to a certificate"),
                "names",
                "give it another name in `[rewrite.secrets]`".to_owned(),
            ),
            There::Deleted => (
                format!("secret {name} in {host} is deleted and not purged, so that its name can't be used"),
                "vault",
                format!(
                    "`az keyvault secret recover --vault-name {short} --name {name}`, or `az keyvault secret purge` \
                     with the same arguments, or give it another name in `[rewrite.secrets]`"
                ),
            ),
            There::Nothing | There::Same(_) | There::Older(_) | There::Other => return None,
        };
        Some(Problem::error(message).in_field(field).with_hint(hint))
    };
    items.iter().zip(there).filter_map(problem).collect()
}

/// All of them as one error.
fn refuse(problems: Vec<Problem>, class: fn(String) -> StepError) -> Result<(), StepError> {
    let Some(first) = problems.first() else { return Ok(()) };
    let hint = first.hint.clone();
    let more = problems.len().saturating_sub(NAMED);
    let mut messages: Vec<String> = problems.into_iter().take(NAMED).map(|problem| problem.message).collect();
    if more > 0 {
        messages.push(format!("and {more} more"));
    }
    let mut error = class(messages.join("; "));
    error.hint = hint;
    Err(error)
}

/// Makes the vault have the item.
async fn put(
    ctx: &StepContext,
    vault: &Vault,
    item: &Item,
    there: &There,
    place: &mut Place,
) -> Result<Copied, StepError> {
    let mut previous = None;
    if let Some(older) = &item.previous {
        let version = match there {
            There::Older(version) => Some(version.clone()),
            There::Nothing => {
                place.begun.insert(item.target.clone());
                ctx.checkpoint(&*place).await?;
                Some(set(vault, item, older).await?)
            }
            There::Same(_) | There::Other | There::Managed | There::Deleted => {
                find_older(vault, item, older).await?
            }
        };
        if version.is_none() {
            // It would be the current one for a moment, and what reads then would fail.
            ctx.warn(format!(
                "the previous version of {} is left out: secret {} is in use already",
                item.subject(),
                item.target
            ));
        }
        previous = version.map(|version| Older { source_version: older.id.clone(), version });
    }
    let version = match there {
        There::Same(version) => version.clone(),
        _ => set(vault, item, &item.current).await?,
    };
    Ok(Copied {
        name: item.target.clone(),
        source: item.name.clone(),
        arn: item.arn.clone(),
        field: item.field.clone(),
        source_version: item.current.id.clone(),
        version,
        previous,
        left_out: item.left_out.clone(),
    })
}

/// The version that an earlier copy has made of AWSPREVIOUS.
async fn find_older(vault: &Vault, item: &Item, older: &ItemVersion) -> Result<Option<String>, StepError> {
    for version in vault.versions(&item.target).await? {
        if version.tags.get(VERSION_TAG) != Some(&older.id) {
            continue;
        }
        let found = vault.find(&item.target, Some(&version.version)).await?;
        if found.is_some_and(|found| older.is(&found.value)) {
            return Ok(Some(version.version));
        }
    }
    Ok(None)
}

async fn set(vault: &Vault, item: &Item, version: &ItemVersion) -> Result<String, StepError> {
    let mut tags = item.tags.clone();
    tags.insert(VERSION_TAG.to_owned(), version.id.clone());
    let secret = NewSecret { value: version.value.expose(), content_type: item.content_type, tags: &tags };
    vault.set(&item.target, &secret).await.map_err(|mut error| {
        error.message = format!("failed to set secret {}: {}", item.target, error.message);
        error
    })
}

/// Compares a copied secret with its source, value with value.
async fn compare(source: &Source, vault: &Vault, copied: &Copied) -> Result<Vec<Check>, StepError> {
    let subject = items::subject(&copied.source, copied.field.as_deref());
    let check = |source: &str, target: &str, status, note: Option<String>| Check {
        subject: format!("secret {subject}"),
        what: "value".to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        status,
        note,
    };
    let named = format!("version {}", copied.source_version);
    let Some(found) = vault.find(&copied.name, None).await? else {
        return Ok(vec![check(
            &named,
            "not there",
            CheckStatus::Failed,
            Some(format!("secret {} is gone", copied.name)),
        )]);
    };
    let current = source.current(&copied.arn).await?;
    let is_current = current.as_ref().is_some_and(|version| version.id == copied.source_version);
    let expected = match current {
        Some(version) if is_current => Some(version),
        _ => source.version(&copied.arn, &copied.source_version).await?,
    };
    let mut checks = Vec::new();
    let is_copied =
        |version: &Version, found: &Secret| items::is_copied(&version.content, copied.field.as_ref(), found);
    checks.push(match expected.as_ref().and_then(|version| is_copied(version, &found.value)) {
        Some(true) => check(&named, "equal", CheckStatus::Passed, None),
        Some(false) => check(
            &named,
            "another value",
            CheckStatus::Failed,
            Some(format!("secret {} was changed in the vault", copied.name)),
        ),
        None => check(
            "gone",
            "there",
            CheckStatus::Warning,
            Some("the version is gone at the source, and can't be compared".to_owned()),
        ),
    });
    if !is_current {
        let note = "the source has another value since; copy it again with --rerun and `overwrite = true`";
        checks.push(check("rotated", "as copied", CheckStatus::Warning, Some(note.to_owned())));
    }
    if let Some(older) = &copied.previous {
        let there = vault.find(&copied.name, Some(&older.version)).await?;
        let expected = source.version(&copied.arn, &older.source_version).await?;
        // AWS drops a version that has no stage; the vault's is then all there is.
        let is_equal = there.is_some_and(|there| {
            expected.as_ref().and_then(|version| is_copied(version, &there.value)).unwrap_or(true)
        });
        let status = if is_equal { CheckStatus::Passed } else { CheckStatus::Failed };
        let word = if is_equal { "equal" } else { "another value" };
        let mut check = check(&format!("version {}", older.source_version), word, status, None);
        check.what = "previous value".to_owned();
        checks.push(check);
    }
    checks.extend(copied.left_out.iter().map(|what| {
        let mut check = check("", "", CheckStatus::Warning, Some(format!("left out: {what}")));
        check.what = "left out".to_owned();
        check
    }));
    Ok(checks)
}

#[async_trait]
impl TypedStep for SecretsCopy {
    const NAME: &'static str = "secrets.copy";
    const SUMMARY: &'static str = "Copies secrets from AWS Secrets Manager into an Azure Key Vault";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("copy secrets");
        if let Some(vault) = config.field::<VaultRef>("vault")? {
            plan.summary = format!("copy secrets to vault {}", vault.name);
        }
        let Some(config) = config.known() else { return Ok(plan) };
        if let Some(problem) = config.problem() {
            plan.problems.push(problem);
            return Ok(plan);
        }
        let place: Place = ctx.cursor()?.unwrap_or_default();
        let source = Source::new(ctx, &config.aws).await;
        let items = match config.items(&source).await {
            Ok(Ok(items)) => items,
            Ok(Err(problems)) => {
                plan.problems.extend(problems);
                return Ok(plan);
            }
            Err(error) => {
                plan.problems.push(problem_of(&error, "aws"));
                return Ok(plan);
            }
        };
        plan.items = Some(items.len() as u64);
        let looked = async {
            let vault = self.vault(ctx, config).await?;
            survey(&vault, &items).await
        };
        match looked.await {
            Ok(there) => {
                let equal = there.iter().filter(|there| matches!(there, There::Same(_))).count();
                plan.summary = format!(
                    "copy {} secrets to vault {}, of which {equal} are there",
                    items.len(),
                    config.vault.name
                );
                let others =
                    items.iter().zip(&there).filter(|(item, there)| is_replaced(item, there, &place));
                let others = others.map(|(item, _)| {
                    format!(
                        "the current value of secret {} in {}, which stays as an older version",
                        item.target, config.vault.name
                    )
                });
                plan.destroys.extend(others.filter(|_| config.overwrite));
                let host = Address::parse(&config.vault.name).map(|address| address.host().to_owned());
                let host = host.unwrap_or_default();
                plan.problems.extend(refusals(&host, &items, &there, config.overwrite, &place));
            }
            Err(error) => plan.problems.push(problem_of(&error, "vault")),
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        // `apply` looks for each secret and sets only what is not there.
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        refuse(config.problem().into_iter().collect(), StepError::permanent)?;
        let source = Source::new(ctx, &config.aws).await;
        let items = match config.items(&source).await? {
            Ok(items) => items,
            Err(problems) => {
                refuse(problems, StepError::permanent)?;
                Vec::new()
            }
        };
        let vault = self.vault(ctx, config).await?;
        let there = survey(&vault, &items).await?;
        let host = Address::parse(&config.vault.name).map_err(StepError::permanent)?.host().to_owned();
        let mut place: Place = ctx.cursor()?.unwrap_or_default();
        refuse(refusals(&host, &items, &there, config.overwrite, &place), StepError::conflict)?;
        let total = items.len() as u64;
        let mut secrets = Vec::with_capacity(items.len());
        for (done, (item, there)) in items.iter().zip(&there).enumerate() {
            ctx.check_cancelled()?;
            ctx.progress(Progress::message(item.target.clone()).items(done as u64, total));
            secrets.push(put(ctx, &vault, item, there, &mut place).await?);
        }
        ctx.progress(Progress::message("done").items(total, total));
        let equal = there.iter().filter(|there| matches!(there, There::Same(_))).count();
        ctx.info(format!("{total} secrets are in {host}, of which {equal} were there"));
        Ok(Outputs { vault: host, secrets })
    }

    /// Value with value at either depth: there is no digest to compare, and nothing smaller proves it.
    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let (source, vault) = (Source::new(ctx, &config.aws).await, self.vault(ctx, config).await?);
        let looks: Vec<_> = outputs.secrets.iter().map(|copied| compare(&source, &vault, copied)).collect();
        let checks: Vec<Vec<Check>> = futures::stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(checks.into_iter().flatten().collect())
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
