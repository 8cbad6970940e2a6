//! What an Azure subscription has room for, read from Azure Resource Manager: the vCPUs of each family and of all
//! (<https://learn.microsoft.com/rest/api/compute/usage/list>), and which sizes there are, of which family
//! (<https://learn.microsoft.com/rest/api/compute/resource-skus/list>). Reads only.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use migrate_plugin_api::{Problem, StepContext, StepError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::arm::Manager;
use crate::images::errors;
use crate::manifests::tree::problem_of;
use crate::rules::{CoreQuota, Subscription, Target, VmSize};
use crate::site::AzureAccess;

/// Versions of the providers whose shapes are used here.
const USAGE_VERSION: &str = "2024-07-01";
const SKU_VERSION: &str = "2021-07-01";
const GROUP_VERSION: &str = "2021-04-01";

/// Pages of one list that are read. Both lists come in one page today.
const MAX_PAGES: usize = 50;

/// Between two tries, where Azure does not say.
const PAUSE: Duration = Duration::from_secs(5);

/// Where the target's nodes are, as AKS labels them.
const REGION: &str = "topology.kubernetes.io/region";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    value: Vec<T>,
    next_link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    name: Named,
    /// Negative where there is no limit.
    limit: i64,
    current_value: i64,
}

#[derive(Deserialize)]
struct Named {
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sku {
    name: String,
    #[serde(default)]
    resource_type: String,
    #[serde(default)]
    family: String,
    #[serde(default)]
    locations: Vec<String>,
    #[serde(default)]
    capabilities: Vec<Capability>,
    #[serde(default)]
    restrictions: Vec<Restriction>,
}

#[derive(Deserialize)]
struct Capability {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Restriction {
    /// `Location`, or `Zone` for some zones of it only.
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Deserialize)]
struct Group {
    location: String,
}

/// Why something was not read.
enum Unread {
    /// These credentials may not.
    Denied(StepError),
    Failed(StepError),
}

impl From<StepError> for Unread {
    fn from(error: StepError) -> Self {
        Self::Failed(error)
    }
}

struct Azure<'a> {
    manager: Manager,
    access: &'a AzureAccess,
}

impl Azure<'_> {
    async fn get<T: DeserializeOwned>(&self, what: &str, url: &Url) -> Result<T, Unread> {
        let send = self.manager.send(what, || self.manager.http.get(url.clone()));
        let response = send.await.map_err(StepError::from)?;
        let status = response.status();
        if !status.is_success() {
            let error = errors::status(format!("failed to {what}"), response).await;
            return Err(if status == StatusCode::FORBIDDEN { Unread::Denied(error) } else { error.into() });
        }
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|e| errors::network(format!("failed to {what}"), e))?;
        let unlike = format!("failed to {what}: the answer is not what Azure documents");
        Ok(serde_json::from_slice(&bytes).map_err(|e| StepError::permanent(unlike).with_source(e))?)
    }

    fn url(&self, path: &str, version: &str) -> Result<Url, StepError> {
        self.manager.url(&format!("/subscriptions/{}{path}", self.access.subscription), version)
    }

    async fn pages<T: DeserializeOwned>(&self, what: &str, first: Url) -> Result<Vec<T>, Unread> {
        let mut all = Vec::new();
        let mut next = Some(first);
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { return Ok(all) };
            let page: Page<T> = self.get(what, &url).await?;
            all.extend(page.value);
            let Some(link) = page.next_link.filter(|link| !link.is_empty()) else { continue };
            let link = Url::parse(&link).ok().filter(|link| link.origin() == self.manager.endpoint.origin());
            // Our token goes nowhere else.
            next = Some(link.ok_or_else(|| {
                StepError::permanent(format!("failed to {what}: Azure names a next page that is not its own"))
            })?);
        }
        Err(StepError::permanent(format!("failed to {what}: it has more than {MAX_PAGES} pages")).into())
    }

    /// Where the target's nodes are; where there are none, where the resource group is.
    async fn location(&self, target: Option<&Target>) -> Result<String, Unread> {
        let of_nodes = target
            .and_then(|target| target.nodes.iter().find_map(|labels| labels.get(REGION)))
            // A cluster that is not Azure's own has regions of its own.
            .filter(|region| is_location(region));
        let location = match of_nodes {
            Some(region) => region.clone(),
            None => {
                let group = &self.access.resource_group;
                let url = self.url(&format!("/resourceGroups/{group}"), GROUP_VERSION)?;
                self.get::<Group>(&format!("read resource group {group}"), &url).await?.location
            }
        };
        match is_location(&location) {
            true => Ok(location),
            false => {
                let wrong = format!("`{}` is no location of Azure", location.escape_debug());
                Err(StepError::permanent(wrong).into())
            }
        }
    }

    async fn quotas(&self, location: &str) -> Result<BTreeMap<String, CoreQuota>, Unread> {
        let path = format!("/providers/Microsoft.Compute/locations/{location}/usages");
        let all: Vec<Usage> =
            self.pages(&format!("read the quotas of {location}"), self.url(&path, USAGE_VERSION)?).await?;
        let quota = |usage: Usage| {
            let count = |number: i64| u64::try_from(number).ok();
            let quota = CoreQuota { limit: count(usage.limit)?, used: count(usage.current_value)? };
            Some((usage.name.value, quota))
        };
        Ok(all.into_iter().filter_map(quota).collect())
    }

    async fn sizes(&self, location: &str) -> Result<BTreeMap<String, VmSize>, Unread> {
        let mut url = self.url("/providers/Microsoft.Compute/skus", SKU_VERSION)?;
        url.query_pairs_mut().append_pair("$filter", &format!("location eq '{location}'"));
        let all: Vec<Sku> = self.pages(&format!("read the VM sizes of {location}"), url).await?;
        let size = |sku: Sku| {
            let is_there = sku.resource_type == "virtualMachines"
                && sku.locations.iter().any(|known| known.eq_ignore_ascii_case(location))
                && !sku.restrictions.iter().any(|restriction| restriction.kind == "Location");
            let vcpus = sku.capabilities.iter().find(|capability| capability.name == "vCPUs")?;
            let vcpus = vcpus.value.parse().ok().filter(|_| is_there)?;
            Some((sku.name, VmSize { family: sku.family, vcpus }))
        };
        Ok(all.into_iter().filter_map(size).collect())
    }
}

async fn azure<'a>(
    ctx: &StepContext,
    access: &'a AzureAccess,
    pause: Duration,
) -> Result<Azure<'a>, StepError> {
    Ok(Azure { manager: Manager::new(ctx, access, pause).await?, access })
}

/// What the subscription has room for where the target's nodes are, or else its resource group. `Err` of the inner
/// result is what these credentials may not read, in words.
///
/// # Errors
/// When Azure does not answer, does not know us, or has no such subscription or resource group.
pub(crate) async fn look(
    ctx: &StepContext,
    access: &AzureAccess,
    target: Option<&Target>,
) -> Result<Result<Subscription, String>, StepError> {
    match read(&azure(ctx, access, PAUSE).await?, target).await {
        Ok(found) => Ok(Ok(found)),
        Err(Unread::Denied(error)) => Ok(Err(format!("Azure quotas ({})", error.message))),
        Err(Unread::Failed(error)) => Err(error),
    }
}

async fn read(azure: &Azure<'_>, target: Option<&Target>) -> Result<Subscription, Unread> {
    let location = azure.location(target).await?;
    let quotas = azure.quotas(&location).await?;
    let sizes = azure.sizes(&location).await?;
    Ok(Subscription { location, quotas, sizes })
}

/// Whether Azure knows us and the resource group, before a run. A right that is missing is no reason to stop.
pub(crate) async fn reach(ctx: &StepContext, access: &AzureAccess) -> Option<Problem> {
    let found = match azure(ctx, access, PAUSE).await {
        Ok(azure) => azure.location(None).await,
        Err(error) => Err(error.into()),
    };
    match found.err()? {
        Unread::Denied(error) => {
            Some(Problem::warning(problem_of(&error, "azure").message).in_field("azure").with_hint(
                "quotas of the subscription will be missing; docs/migration-toml.md has the rights",
            ))
        }
        Unread::Failed(error) => Some(problem_of(&error, "azure")),
    }
}

/// `eastus2`: goes into a path and a filter.
fn is_location(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
