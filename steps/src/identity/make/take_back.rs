//! Taking back what was made: what outputs and tags say that this node has made, and nothing else.

use std::collections::BTreeSet;

use migrate_plugin_api::{ErrorClass, StepContext, StepError};
use serde_json::Value;
use url::form_urlencoded;

use super::super::marks;
use super::super::plan::Identity;
use super::{
    AUTHORIZATION_VERSION, Assignment, Azure, IDENTITY_VERSION, Made, MadeAssignment, credential_id,
};
use crate::arm::Failure;

/// Assignments that an identity is marked with, and that were not found.
#[derive(Default)]
struct Lost {
    names: BTreeSet<String>,
    /// Subscriptions that were looked through.
    looked: Vec<String>,
    /// Why others were not.
    refused: Vec<String>,
}

impl Azure {
    /// Takes back what this node has made. An identity that others made, or have added credentials to, stays:
    /// made again it would be another. `assignments` are those of the plan.
    ///
    /// # Errors
    /// When Azure refuses or does not answer.
    pub(crate) async fn take_back(
        &self,
        ctx: &StepContext,
        identities: &[Identity],
        made: &[Made],
        assignments: &[Assignment],
    ) -> Result<(), StepError> {
        let subscriptions = self.subscriptions(made, assignments);
        for made in made {
            let what = format!("look at identity {}", made.name);
            let found = self.get(&made.id, IDENTITY_VERSION, &what).await?;
            // Deleted, or deleted and made again by others: its roles outlive it.
            let found =
                found.filter(|found| found["properties"]["principalId"] == made.principal_id.as_str());
            match found {
                Some(found) => {
                    let planned = identities.iter().find(|identity| identity.name == made.name);
                    self.take_back_one(ctx, planned, made, &found, &subscriptions).await?;
                }
                None => self.unassign(made).await?,
            }
        }
        for found in self.manager.list(&self.all(), IDENTITY_VERSION, "list the identities").await? {
            let name = found["name"].as_str().unwrap_or_default();
            let is_planned = made.iter().any(|made| made.name.eq_ignore_ascii_case(name));
            if !is_planned && (self.maker.has_made(&found) || !self.maker.marks(&found).is_empty()) {
                ctx.warn(format!(
                    "identity {name} stays, with its roles and what this node has made in it: it is no more in the plan"
                ));
            }
        }
        Ok(())
    }

    async fn take_back_one(
        &self,
        ctx: &StepContext,
        planned: Option<&Identity>,
        made: &Made,
        found: &Value,
        subscriptions: &BTreeSet<String>,
    ) -> Result<(), StepError> {
        // An earlier version of this step took back whatever was planned in an identity of the role.
        let is_old = made.added.is_none()
            && !marks::has_maker(found)
            && planned.is_some_and(|identity| marks::is_of(found, &identity.role_arn));
        let is_own = is_old || self.maker.has_made(found);
        let marks = self.maker.marks(found);
        let added = match &made.added {
            Some(added) => added.as_slice(),
            None if is_old => &made.credentials,
            None => &[],
        };
        let unknown = &marks - &made.assignments.iter().map(MadeAssignment::mark).collect();
        let (mut others, mut left) = (Vec::new(), Vec::new());
        for (name, credential) in self.credentials(&made.name).await? {
            let is_added = added.contains(&name) || marks.contains(&name);
            if is_added && self.is_like_ours(&name, &credential) {
                let id = credential_id(&made.id, &name);
                self.delete(&id, IDENTITY_VERSION, &format!("delete credential {name}")).await?;
                continue;
            }
            if made.credentials.contains(&name) {
                left.push(format!("credential {name}"));
            }
            others.push(name);
        }
        if is_own && !others.is_empty() {
            self.mark(&made.id, &made.name, &BTreeSet::new()).await?;
            ctx.warn(format!(
                "identity {} stays, with its roles: it has credentials that {}: {}",
                made.name,
                if is_old { "are not in the plan" } else { "others made" },
                others.join(", ")
            ));
            return Ok(());
        }
        self.unassign(made).await?;
        // Names of credentials have a `_`: those that are there are gone through already.
        let unknown = unknown.into_iter().filter(|name| !name.contains('_')).collect();
        let lost = self.unassign_marked(&made.principal_id, unknown, subscriptions).await?;
        if is_own {
            let what = format!("delete identity {}", made.name);
            return self.delete(&made.id, IDENTITY_VERSION, &what).await;
        }
        self.mark(&made.id, &made.name, &lost.names).await?;
        if !lost.names.is_empty() {
            ctx.warn(lost.told(made));
        }
        if marks::has_maker(found) {
            ctx.warn(format!("identity {} stays: this node of this run has not made it", made.name));
            return Ok(());
        }
        let assignments = made.assignments.iter().filter(|a| !a.is_added() && !a.id.is_empty());
        left.extend(assignments.map(|assignment| format!("{} on {}", assignment.role, assignment.scope)));
        let with = if left.is_empty() { String::new() } else { format!(", with {}", left.join(", ")) };
        ctx.warn(format!("identity {} stays{with}: its tags do not say who made it", made.name));
        Ok(())
    }

    /// Where assignments may be that no output names: in our subscription, and in those of all that are known.
    fn subscriptions(&self, made: &[Made], assignments: &[Assignment]) -> BTreeSet<String> {
        let made = made.iter().flat_map(|made| &made.assignments).map(|assignment| &assignment.scope);
        let planned = assignments.iter().map(|assignment| &assignment.scope);
        made.chain(planned).chain([&self.group]).filter_map(|id| subscription(id)).collect()
    }

    /// Takes back assignments that an earlier attempt has made, with more in its plan: those of `names`, of which some
    /// may never have been made. What was not found.
    async fn unassign_marked(
        &self,
        principal: &str,
        names: BTreeSet<String>,
        subscriptions: &BTreeSet<String>,
    ) -> Result<Lost, StepError> {
        let mut lost = Lost { names, ..Lost::default() };
        let filter: String =
            form_urlencoded::byte_serialize(format!("principalId eq '{principal}'").as_bytes()).collect();
        for subscription in subscriptions {
            if lost.names.is_empty() {
                break;
            }
            let path =
                format!("{subscription}/providers/Microsoft.Authorization/roleAssignments?$filter={filter}");
            let what = format!("list the role assignments of {subscription}");
            let all = match self.manager.list(&path, AUTHORIZATION_VERSION, &what).await {
                Ok(all) => all,
                // All else is done with rights on less than a subscription.
                Err(Failure::Refused(error)) if error.class == ErrorClass::Auth => {
                    lost.refused.push(error.message);
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            lost.looked.push(subscription.clone());
            for found in all.iter().filter(|found| found["properties"]["principalId"] == principal) {
                let (id, name) = (found["id"].as_str(), found["name"].as_str().map(str::to_ascii_lowercase));
                if let Some((id, name)) = id.zip(name).filter(|(_, name)| lost.names.remove(name)) {
                    self.delete(id, AUTHORIZATION_VERSION, &format!("take back role assignment {name}"))
                        .await?;
                }
            }
        }
        Ok(lost)
    }

    async fn unassign(&self, made: &Made) -> Result<(), StepError> {
        for assignment in made.assignments.iter().filter(|assignment| assignment.is_added()) {
            let what = format!("take back {}", assignment.role);
            self.delete(&assignment.id, AUTHORIZATION_VERSION, &what).await?;
        }
        Ok(())
    }
}

impl Lost {
    /// What a person should know.
    fn told(&self, made: &Made) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut told = format!(
            "identity {} keeps the tags of role assignments that are no longer in the plan and were not found: {}",
            made.name,
            names.join(", ")
        );
        if !self.looked.is_empty() {
            told = format!("{told}; looked for in {}", self.looked.join(", "));
        }
        for refused in &self.refused {
            told = format!("{told}; {refused}");
        }
        format!(
            "{told}; if they are there, take them back yourself: \
             `az role assignment list --all --assignee {} --subscription ID`",
            made.principal_id
        )
    }
}

/// The subscription that a resource is in. IDs know no case.
fn subscription(id: &str) -> Option<String> {
    let id = id.strip_prefix("/subscriptions/")?.split('/').next()?;
    Some(format!("/subscriptions/{}", id.to_ascii_lowercase()))
}
