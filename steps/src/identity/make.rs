//! The plan done in Azure, through Resource Manager: identities, federated credentials, role assignments.
//!
//! Natural to repeat: everything has a name that follows from the plan, is looked for first, and is made only
//! where it is not there. What is there under such a name and is something else is left alone, and told
//! before anything is made.
//!
//! <https://learn.microsoft.com/en-us/rest/api/managedidentity/user-assigned-identities>,
//! <https://learn.microsoft.com/en-us/rest/api/authorization/role-assignments>.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use migrate_plugin_api::{Check, CheckStatus, Progress, StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::{Association, Identity};
use super::render::AUDIENCE;
use crate::arm::Manager;
use crate::images::errors;
use crate::site::AzureAccess;

/// Versions of the providers whose shapes are used here.
const IDENTITY_VERSION: &str = "2023-01-31";
const AUTHORIZATION_VERSION: &str = "2022-04-01";
const GROUP_VERSION: &str = "2021-04-01";

/// Tag of an identity with the role that it stands for: by it we know our own.
const ROLE_TAG: &str = "migrate-role";

/// The longest value of a tag.
/// <https://learn.microsoft.com/azure/azure-resource-manager/management/tag-resources#limitations>
const TAG_CHARS: usize = 256;

/// Tries of what Azure is not ready for yet: an identity is known everywhere after a minute or two, and
/// credentials of one identity are written one after another only.
const MAX_TRIES: u32 = 24;

/// Times that tests make small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Between two tries.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pause: Duration::from_secs(5) }
    }
}

/// A role that an identity gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Assignment {
    /// The IAM role whose identities get it.
    pub role_arn: String,
    /// Name of the role in Azure: `Storage Blob Data Reader`.
    pub role: String,
    /// On what: the ID of a resource, a resource group or a subscription.
    pub scope: String,
}

/// An identity in Azure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Made {
    /// Its name.
    pub name: String,
    /// Its ID as a resource.
    pub id: String,
    /// What service accounts name it by.
    pub client_id: String,
    /// What roles are assigned to.
    pub principal_id: String,
    /// Its federated credentials.
    pub credentials: Vec<String>,
    /// Its roles.
    pub assignments: Vec<MadeAssignment>,
}

/// A role assignment in Azure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct MadeAssignment {
    /// Name of the role.
    pub role: String,
    /// On what.
    pub scope: String,
    /// Its ID; empty where somebody else had assigned the role before.
    pub id: String,
}

/// One resource group, in which the identities are.
pub(crate) struct Azure {
    manager: Manager,
    group: String,
    location: String,
    issuer: String,
    limits: Limits,
}

/// What is there under an identity's name.
enum There {
    Nothing,
    /// The client ID, the principal ID, and the names of the plan's credentials that are there.
    Ours(String, String, Vec<String>),
}

/// Where the identities are to be made.
pub(crate) struct Site<'a> {
    pub access: &'a AzureAccess,
    pub resource_group: &'a str,
    pub location: &'a str,
    pub issuer: &'a str,
}

impl Azure {
    /// Sends nothing yet.
    pub(crate) async fn new(ctx: &StepContext, site: &Site<'_>, limits: Limits) -> Result<Self, StepError> {
        Ok(Self {
            manager: Manager::new(ctx, site.access, limits.pause).await?,
            group: format!(
                "/subscriptions/{}/resourceGroups/{}",
                site.access.subscription, site.resource_group
            ),
            location: site.location.to_owned(),
            issuer: site.issuer.to_owned(),
            limits,
        })
    }

    fn id(&self, name: &str) -> String {
        format!("{}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}", self.group)
    }

    /// What stands in the way of the plan, and how many identities are there already. Reads only.
    ///
    /// # Errors
    /// `Conflict`, naming everything that is there and is something else.
    pub(crate) async fn survey(&self, identities: &[Identity]) -> Result<usize, StepError> {
        if self.get(&self.group, GROUP_VERSION, "look at the resource group").await?.is_none() {
            return Err(StepError::permanent(format!("{} is not in Azure", self.group))
                .with_hint("check `resource-group`, and `subscription` in `[target.azure]`"));
        }
        let (mut count, mut wrong) = (0, Vec::new());
        for identity in identities {
            match self.look(identity).await? {
                Ok(There::Nothing) => {}
                Ok(There::Ours(..)) => count += 1,
                Err(conflicts) => wrong.extend(conflicts),
            }
        }
        match wrong.is_empty() {
            true => Ok(count),
            false => Err(StepError::conflict(wrong.join("; "))
                .with_hint("give another `prefix`, or remove what is there if nobody needs it")),
        }
    }

    async fn look(&self, identity: &Identity) -> Result<Result<There, Vec<String>>, StepError> {
        let what = format!("look at identity {}", identity.name);
        let Some(found) = self.get(&self.id(&identity.name), IDENTITY_VERSION, &what).await? else {
            return Ok(Ok(There::Nothing));
        };
        if found["tags"][ROLE_TAG] != tag(&identity.role_arn) {
            let message = format!(
                "identity {} is there and was not made for role {}",
                identity.name, identity.role_arn
            );
            return Ok(Err(vec![message]));
        }
        let (client, principal) = ids(&found, &identity.name)?;
        let (mut there, mut wrong) = (Vec::new(), Vec::new());
        for account in &identity.accounts {
            match self.credential(&identity.name, account).await? {
                None => {}
                Some(credential) if self.is_for(&credential, account) => there.push(account.credential()),
                Some(_) => wrong.push(format!(
                    "credential {} of identity {} is there with another issuer, subject or audience",
                    account.credential(),
                    identity.name
                )),
            }
        }
        Ok(if wrong.is_empty() { Ok(There::Ours(client, principal, there)) } else { Err(wrong) })
    }

    async fn credential(&self, identity: &str, account: &Association) -> Result<Option<Value>, StepError> {
        let id = format!("{}/federatedIdentityCredentials/{}", self.id(identity), account.credential());
        self.get(&id, IDENTITY_VERSION, &format!("look at credential {}", account.credential())).await
    }

    fn is_for(&self, credential: &Value, account: &Association) -> bool {
        let said = &credential["properties"];
        said["issuer"] == self.issuer
            && said["subject"] == account.subject()
            && said["audiences"] == json!([AUDIENCE])
    }

    /// Makes what is not there.
    ///
    /// # Errors
    /// As [`survey`](Self::survey), before anything is made; or why Azure refuses.
    pub(crate) async fn make(
        &self,
        ctx: &StepContext,
        identities: &[Identity],
        assignments: &[Assignment],
    ) -> Result<Vec<Made>, StepError> {
        self.survey(identities).await?;
        let roles = self.roles(assignments).await?;
        let mut all = Vec::with_capacity(identities.len());
        for (done, identity) in identities.iter().enumerate() {
            ctx.check_cancelled()?;
            ctx.progress(
                Progress::message(identity.name.clone()).items(done as u64, identities.len() as u64),
            );
            all.push(self.make_one(identity, assignments, &roles).await?);
        }
        Ok(all)
    }

    async fn make_one(
        &self,
        identity: &Identity,
        assignments: &[Assignment],
        roles: &BTreeMap<(String, String), String>,
    ) -> Result<Made, StepError> {
        let id = self.id(&identity.name);
        let (client_id, principal_id, there) = match self.look(identity).await? {
            Ok(There::Ours(client, principal, there)) => (client, principal, there),
            Ok(There::Nothing) => {
                let body =
                    json!({ "location": self.location, "tags": { ROLE_TAG: tag(&identity.role_arn) } });
                let what = format!("make identity {}", identity.name);
                let made = self.put(&id, IDENTITY_VERSION, &body, &what).await?;
                let (client, principal) = ids(&made, &identity.name)?;
                (client, principal, Vec::new())
            }
            Err(conflicts) => return Err(StepError::conflict(conflicts.join("; "))),
        };
        // One after another: Azure refuses two at once for one identity.
        for account in &identity.accounts {
            let name = account.credential();
            if there.contains(&name) {
                continue;
            }
            let body = json!({ "properties": { "issuer": self.issuer, "subject": account.subject(), "audiences": [AUDIENCE] } });
            let what = format!("make credential {name} of identity {}", identity.name);
            self.put(&format!("{id}/federatedIdentityCredentials/{name}"), IDENTITY_VERSION, &body, &what)
                .await?;
        }
        let mut made = Vec::new();
        for assignment in assignments.iter().filter(|assignment| assignment.role_arn == identity.role_arn) {
            let role = &roles[&(assignment.scope.clone(), assignment.role.clone())];
            made.push(self.assign(assignment, role, &principal_id, &identity.name).await?);
        }
        let credentials = identity.accounts.iter().map(Association::credential).collect();
        Ok(Made { name: identity.name.clone(), id, client_id, principal_id, credentials, assignments: made })
    }

    async fn assign(
        &self,
        assignment: &Assignment,
        role: &str,
        principal: &str,
        identity: &str,
    ) -> Result<MadeAssignment, StepError> {
        let scope = assignment.scope.trim_end_matches('/');
        let name = guid(&[scope, role, principal]);
        let id = format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{name}");
        let mut made =
            MadeAssignment { role: assignment.role.clone(), scope: scope.to_owned(), id: id.clone() };
        let what = format!("assign {} on {scope} to identity {identity}", assignment.role);
        if self.get(&id, AUTHORIZATION_VERSION, &what).await?.is_some() {
            return Ok(made);
        }
        let body = json!({ "properties": {
            "roleDefinitionId": role, "principalId": principal, "principalType": "ServicePrincipal" } });
        match self.put(&id, AUTHORIZATION_VERSION, &body, &what).await {
            Ok(_) => Ok(made),
            // The same role on the same scope, under a name of somebody else's.
            Err(error) if error.message.contains("RoleAssignmentExists") => {
                made.id = String::new();
                Ok(made)
            }
            Err(error) => Err(error),
        }
    }

    /// IDs of the roles by scope and name.
    async fn roles(
        &self,
        assignments: &[Assignment],
    ) -> Result<BTreeMap<(String, String), String>, StepError> {
        let mut all = BTreeMap::new();
        for assignment in assignments {
            let key = (assignment.scope.clone(), assignment.role.clone());
            if all.contains_key(&key) {
                continue;
            }
            let path = format!(
                "{}/providers/Microsoft.Authorization/roleDefinitions",
                assignment.scope.trim_end_matches('/')
            );
            let mut url = self.manager.url(&path, AUTHORIZATION_VERSION)?;
            let filter = format!("roleName eq '{}'", assignment.role.replace('\'', "''"));
            url.query_pairs_mut().append_pair("$filter", &filter);
            let what = format!("look for the role {} on {}", assignment.role, assignment.scope);
            let response = self.manager.send(&what, || self.manager.http.get(url.clone())).await?;
            let found = json_of(&what, response).await?;
            let id = found["value"].as_array().and_then(|roles| roles.first()?["id"].as_str());
            let id = id.ok_or_else(|| {
                StepError::permanent(format!("there is no role `{}` in Azure", assignment.role))
                    .with_hint("az role definition list --query '[].roleName'")
            })?;
            all.insert(key, id.to_owned());
        }
        Ok(all)
    }

    /// Compares what was made with what is there.
    ///
    /// # Errors
    /// When Azure does not answer.
    pub(crate) async fn compare(
        &self,
        identities: &[Identity],
        made: &[Made],
    ) -> Result<Vec<Check>, StepError> {
        let mut checks = Vec::new();
        for made in made {
            let subject = format!("identity {}", made.name);
            let found = self
                .get(&made.id, IDENTITY_VERSION, &format!("look at {subject}"))
                .await?
                .unwrap_or_default();
            let client = found["properties"]["clientId"].as_str().unwrap_or("not there");
            checks.push(Check::equal(&subject, "client ID", &made.client_id, client));
            let planned = identities.iter().find(|identity| identity.name == made.name);
            for account in planned.iter().flat_map(|identity| &identity.accounts) {
                let found = self.credential(&made.name, account).await?;
                let said = match &found {
                    Some(credential) if self.is_for(credential, account) => account.subject(),
                    Some(_) => "another issuer, subject or audience".to_owned(),
                    None => "not there".to_owned(),
                };
                checks.push(Check::equal(&subject, "federated credential", account.subject(), said));
            }
            for assignment in &made.assignments {
                let what = format!("role {}", assignment.role);
                if assignment.id.is_empty() {
                    let mut check = Check::equal(&subject, what, &assignment.scope, &assignment.scope);
                    check.status = CheckStatus::Warning;
                    checks.push(check.with_note("somebody else assigned it before, and may take it back"));
                    continue;
                }
                let found =
                    self.get(&assignment.id, AUTHORIZATION_VERSION, &format!("look at {what}")).await?;
                let there = if found.is_some() { assignment.scope.as_str() } else { "not there" };
                checks.push(Check::equal(&subject, what, &assignment.scope, there));
            }
        }
        Ok(checks)
    }

    /// Takes back what was made: roles, credentials, and identities that carry our tag.
    ///
    /// # Errors
    /// When Azure refuses or does not answer.
    pub(crate) async fn take_back(&self, identities: &[Identity], made: &[Made]) -> Result<(), StepError> {
        for made in made {
            for assignment in made.assignments.iter().filter(|assignment| !assignment.id.is_empty()) {
                self.delete(&assignment.id, AUTHORIZATION_VERSION, &format!("take back {}", assignment.role))
                    .await?;
            }
            let what = format!("look at identity {}", made.name);
            let Some(found) = self.get(&made.id, IDENTITY_VERSION, &what).await? else { continue };
            let role =
                identities.iter().find(|identity| identity.name == made.name).map(|i| tag(&i.role_arn));
            if role.is_none_or(|role| found["tags"][ROLE_TAG] != role) {
                continue;
            }
            for name in &made.credentials {
                let id = format!("{}/federatedIdentityCredentials/{name}", made.id);
                self.delete(&id, IDENTITY_VERSION, &format!("delete credential {name}")).await?;
            }
            self.delete(&made.id, IDENTITY_VERSION, &format!("delete identity {}", made.name)).await?;
        }
        Ok(())
    }

    async fn get(&self, id: &str, version: &str, what: &str) -> Result<Option<Value>, StepError> {
        let url = self.manager.url(id, version)?;
        let response = self.manager.send(what, || self.manager.http.get(url.clone())).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            _ => json_of(what, response).await.map(Some),
        }
    }

    async fn put(&self, id: &str, version: &str, body: &Value, what: &str) -> Result<Value, StepError> {
        let url = self.manager.url(id, version)?;
        let mut tries = 1;
        loop {
            let response = self.manager.send(what, || self.manager.http.put(url.clone()).json(body)).await?;
            let error = match json_of(what, response).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if tries >= MAX_TRIES || !is_early(&error.message) {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(self.limits.pause).await;
        }
    }

    async fn delete(&self, id: &str, version: &str, what: &str) -> Result<(), StepError> {
        let url = self.manager.url(id, version)?;
        let response = self.manager.send(what, || self.manager.http.delete(url.clone())).await?;
        match response.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(errors::status(format!("failed to {what}"), response).await),
        }
    }
}

/// What passes by itself: an identity that is not known everywhere yet (its principal is "not found"), and two
/// writes of credentials at once.
/// <https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations#concurrent-updates-arent-supported-user-assigned-managed-identities>
fn is_early(message: &str) -> bool {
    ["PrincipalNotFound", "ConcurrentFederatedIdentityCredentialsWritesForSingleManagedIdentity"]
        .iter()
        .any(|code| message.contains(code))
}

async fn json_of(what: &str, response: reqwest::Response) -> Result<Value, StepError> {
    if !response.status().is_success() {
        return Err(errors::status(format!("failed to {what}"), response).await);
    }
    response
        .json()
        .await
        .map_err(|e| errors::network(format!("failed to {what}: no answer that can be read"), e))
}

/// Client and principal ID.
fn ids(identity: &Value, name: &str) -> Result<(String, String), StepError> {
    let id = |field: &str| identity["properties"][field].as_str().map(str::to_owned);
    id("clientId")
        .zip(id("principalId"))
        .ok_or_else(|| StepError::permanent(format!("Azure gave no IDs of identity {name}")))
}

/// What fits into a tag.
fn tag(role: &str) -> String {
    match role.chars().count() <= TAG_CHARS {
        true => role.to_owned(),
        false => format!("sha256:{}", hex::encode(digest(&SHA256, role.as_bytes()))),
    }
}

/// A name that is the same for the same parts: repeating is no doubling. As a UUID of version 8 (RFC 9562). Case
/// does not count in Azure's IDs.
fn guid(parts: &[&str]) -> String {
    let text = parts.join("\n").to_ascii_lowercase();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
#[path = "make_tests.rs"]
mod tests;
