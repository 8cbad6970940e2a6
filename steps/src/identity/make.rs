//! The plan done in Azure, through Resource Manager: identities, federated credentials, role assignments.
//!
//! Natural to repeat: everything has a name that follows from the plan, is looked for first, and is made only
//! where it is not there. What is there under such a name and is something else is left alone, and told
//! before anything is made.
//!
//! Invariant: only what this node of this run has made is taken back. An identity says so itself, by its tags, also of
//! what is in it: they are there when nothing else of an earlier attempt is.
//!
//! <https://learn.microsoft.com/en-us/rest/api/managedidentity/user-assigned-identities>,
//! <https://learn.microsoft.com/en-us/rest/api/authorization/role-assignments>.

mod take_back;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use migrate_plugin_api::{Check, CheckStatus, Progress, StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::marks::{self, Maker};
use super::plan::{Association, Held, Holding, Identity, is_named_for};
use super::render::AUDIENCE;
use crate::arm::{Manager, json_of};
use crate::images::errors;
use crate::site::AzureAccess;

/// Versions of the providers whose shapes are used here.
const IDENTITY_VERSION: &str = "2023-01-31";
const AUTHORIZATION_VERSION: &str = "2022-04-01";
const GROUP_VERSION: &str = "2021-04-01";

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
    /// Those of them that this node has made; an earlier version of this step did not tell.
    #[serde(default)]
    pub added: Option<Vec<String>>,
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
    /// The name that it has, or was to have; an earlier version of this step did not tell.
    #[serde(default)]
    pub name: String,
    /// Whether this node has made it; for an earlier version of this step whatever has an ID was its own.
    #[serde(default)]
    pub added: Option<bool>,
}

impl MadeAssignment {
    fn is_added(&self) -> bool {
        self.added.unwrap_or(true) && !self.id.is_empty()
    }

    /// What it is marked by, where it is: its name, or the last part of its ID.
    fn mark(&self) -> String {
        match self.name.as_str() {
            "" => self.id.rsplit('/').next().unwrap_or_default().to_ascii_lowercase(),
            name => name.to_owned(),
        }
    }
}

/// One resource group, in which the identities are.
pub(crate) struct Azure {
    manager: Manager,
    group: String,
    location: String,
    issuer: String,
    /// Who makes them.
    maker: Maker,
    limits: Limits,
}

/// What is there under an identity's name.
enum There {
    Nothing,
    Ours(Ours),
}

/// An identity of the role.
struct Ours {
    client_id: String,
    principal_id: String,
    /// Whether this node has made it.
    is_own: bool,
    /// Names of the plan's credentials that are there.
    credentials: Vec<String>,
    /// Names of what this node has made in it, or was about to.
    marks: BTreeSet<String>,
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
            maker: Maker::of(ctx),
            limits,
        })
    }

    fn id(&self, name: &str) -> String {
        format!("{}/{name}", self.all())
    }

    fn all(&self) -> String {
        format!("{}/providers/Microsoft.ManagedIdentity/userAssignedIdentities", self.group)
    }

    /// What there is of these identities, and of others of their roles, with whatever credentials. Reads only.
    ///
    /// # Errors
    /// When Azure refuses or does not answer.
    pub(crate) async fn held(&self, identities: &[Identity], prefix: &str) -> Result<Held, StepError> {
        let roles: BTreeSet<&str> = identities.iter().map(|identity| identity.role_arn.as_str()).collect();
        let mut held = Held::new();
        for found in self.manager.list(&self.all(), IDENTITY_VERSION, "list the identities").await? {
            let name = found["name"].as_str().unwrap_or_default();
            let is_of = |role: &&&str| marks::is_of(&found, role) && is_named_for(name, prefix, role);
            let Some(role) = roles.iter().find(is_of) else { continue };
            let credentials = self.credentials(name).await?.into_keys().collect();
            held.insert(name.to_ascii_lowercase(), Holding { role_arn: (*role).to_owned(), credentials });
        }
        Ok(held)
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
        if !marks::is_of(&found, &identity.role_arn) {
            let message = format!(
                "identity {} is there and was not made for role {}",
                identity.name, identity.role_arn
            );
            return Ok(Err(vec![message]));
        }
        let (client_id, principal_id) = ids(&found, &identity.name)?;
        let (is_own, marks) = (self.maker.has_made(&found), self.maker.marks(&found));
        let found = self.credentials(&identity.name).await?;
        let (mut credentials, mut wrong) = (Vec::new(), Vec::new());
        for account in &identity.accounts {
            let name = account.credential();
            match found.get(&name) {
                None => {}
                Some(credential) if self.is_for(credential, account) => credentials.push(name),
                Some(_) => wrong.push(format!(
                    "credential {name} of identity {} is there with another issuer, subject or audience",
                    identity.name
                )),
            }
        }
        let ours = Ours { client_id, principal_id, is_own, credentials, marks };
        Ok(if wrong.is_empty() { Ok(There::Ours(ours)) } else { Err(wrong) })
    }

    /// All credentials of an identity, by name.
    async fn credentials(&self, identity: &str) -> Result<BTreeMap<String, Value>, StepError> {
        let path = format!("{}/federatedIdentityCredentials", self.id(identity));
        let what = format!("list the credentials of identity {identity}");
        let found = self.manager.list(&path, IDENTITY_VERSION, &what).await?;
        // Ours have no capitals, and names know no case.
        let named = |credential: Value| Some((credential["name"].as_str()?.to_ascii_lowercase(), credential));
        Ok(found.into_iter().filter_map(named).collect())
    }

    fn is_for(&self, credential: &Value, account: &Association) -> bool {
        let said = &credential["properties"];
        said["issuer"] == self.issuer
            && said["subject"] == account.subject()
            && said["audiences"] == json!([AUDIENCE])
    }

    /// Whether a credential is as we make them under its name, for whatever account.
    fn is_like_ours(&self, name: &str, credential: &Value) -> bool {
        let subject = credential["properties"]["subject"].as_str().unwrap_or_default();
        Association::of(subject).is_some_and(|a| a.credential() == name && self.is_for(credential, &a))
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
        let names: Vec<String> = identity.accounts.iter().map(Association::credential).collect();
        let ours = match self.look(identity).await? {
            Ok(There::Ours(ours)) => ours,
            Ok(There::Nothing) => self.make_identity(identity, &names).await?,
            Err(conflicts) => return Err(StepError::conflict(conflicts.join("; "))),
        };
        let mut new: BTreeSet<String> =
            names.iter().filter(|name| !ours.credentials.contains(name)).cloned().collect();
        let mut marks = &ours.marks | &new;
        let mut wanted = Vec::new();
        for assignment in assignments.iter().filter(|assignment| assignment.role_arn == identity.role_arn) {
            let role = &roles[&(assignment.scope.clone(), assignment.role.clone())];
            let scope = assignment.scope.trim_end_matches('/').to_owned();
            let name = guid(&[&scope, role, &ours.principal_id]);
            let id = format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{name}");
            let what = format!("assign {} on {scope} to identity {}", assignment.role, identity.name);
            if self.get(&id, AUTHORIZATION_VERSION, &what).await?.is_none() {
                new.insert(name.clone());
                // Those of an identity are its maker's.
                marks.extend((!ours.is_own).then(|| name.clone()));
            }
            let made = MadeAssignment { role: assignment.role.clone(), scope, id, name, added: None };
            wanted.push((made, role, what));
        }
        if marks != ours.marks {
            self.mark(&id, &identity.name, &marks).await?;
        }
        let is_added = |name: &str| ours.is_own || marks.contains(name);
        // One after another: Azure refuses two at once for one identity.
        for account in &identity.accounts {
            let name = account.credential();
            if !new.contains(&name) {
                continue;
            }
            let body = json!({ "properties": { "issuer": self.issuer, "subject": account.subject(), "audiences": [AUDIENCE] } });
            let what = format!("make credential {name} of identity {}", identity.name);
            self.put(&credential_id(&id, &name), IDENTITY_VERSION, &body, &what).await?;
        }
        let mut made = Vec::with_capacity(wanted.len());
        for (mut assignment, role, what) in wanted {
            let is_new = new.contains(&assignment.name);
            if is_new && !self.assign(&assignment, role, &ours.principal_id, &what).await? {
                assignment.id = String::new();
            }
            assignment.added = Some(!assignment.id.is_empty() && is_added(&assignment.name));
            made.push(assignment);
        }
        let added = Some(names.iter().filter(|name| is_added(name)).cloned().collect());
        let Ours { client_id, principal_id, .. } = ours;
        let name = identity.name.clone();
        Ok(Made { name, id, client_id, principal_id, credentials: names, added, assignments: made })
    }

    async fn make_identity(&self, identity: &Identity, credentials: &[String]) -> Result<Ours, StepError> {
        let marks = credentials.iter().cloned().collect();
        let tags = self.maker.tags(&identity.role_arn, &marks);
        let body = json!({ "location": self.location, "tags": tags });
        let what = format!("make identity {}", identity.name);
        let made = self.put(&self.id(&identity.name), IDENTITY_VERSION, &body, &what).await?;
        let (client_id, principal_id) = ids(&made, &identity.name)?;
        Ok(Ours { client_id, principal_id, is_own: true, credentials: Vec::new(), marks })
    }

    /// Makes these the marks of this node in an identity that is there.
    async fn mark(&self, id: &str, name: &str, marks: &BTreeSet<String>) -> Result<(), StepError> {
        let what = format!("write the tags of identity {name}");
        // As it is now: others write theirs.
        let Some(found) = self.get(id, IDENTITY_VERSION, &what).await? else { return Ok(()) };
        if self.maker.marks(&found) != *marks {
            let tags = self.maker.tags_with(&found, marks);
            let body = json!({ "location": found["location"], "tags": tags });
            self.put(id, IDENTITY_VERSION, &body, &what).await?;
        }
        Ok(())
    }

    /// Whether it did not have the role on this scope already, under a name of somebody else's.
    async fn assign(
        &self,
        assignment: &MadeAssignment,
        role: &str,
        principal: &str,
        what: &str,
    ) -> Result<bool, StepError> {
        let body = json!({ "properties": {
            "roleDefinitionId": role, "principalId": principal, "principalType": "ServicePrincipal" } });
        match self.put(&assignment.id, AUTHORIZATION_VERSION, &body, what).await {
            Ok(_) => Ok(true),
            Err(error) if error.message.contains("RoleAssignmentExists") => Ok(false),
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
            let credentials = self.credentials(&made.name).await?;
            for account in planned.iter().flat_map(|identity| &identity.accounts) {
                let said = match credentials.get(&account.credential()) {
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

/// Client and principal ID.
fn ids(identity: &Value, name: &str) -> Result<(String, String), StepError> {
    let id = |field: &str| identity["properties"][field].as_str().map(str::to_owned);
    id("clientId")
        .zip(id("principalId"))
        .ok_or_else(|| StepError::permanent(format!("Azure gave no IDs of identity {name}")))
}

fn credential_id(identity: &str, name: &str) -> String {
    format!("{identity}/federatedIdentityCredentials/{name}")
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
