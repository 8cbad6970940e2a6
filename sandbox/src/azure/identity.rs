//! Managed identities with federated credentials, and role assignments, as Resource Manager has them.
//!
//! <https://learn.microsoft.com/en-us/rest/api/managedidentity/user-assigned-identities>,
//! <https://learn.microsoft.com/en-us/rest/api/managedidentity/federated-identity-credentials>,
//! <https://learn.microsoft.com/en-us/rest/api/authorization/role-assignments>; limits from
//! <https://learn.microsoft.com/en-us/entra/workload-id/workload-identity-federation-considerations>. In memory only.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Azure;
use super::refusal::Refusal;
use crate::services;

const IDENTITY_VERSIONS: [&str; 3] = ["2023-01-31", "2023-07-31-preview", "2024-11-30"];
const AUTHORIZATION_VERSIONS: [&str; 2] = ["2020-10-01-preview", "2022-04-01"];
const GROUP_VERSIONS: [&str; 3] = ["2021-04-01", "2022-09-01", "2024-03-01"];

const IDENTITIES: &str = "/providers/microsoft.managedidentity/userassignedidentities";
const CREDENTIALS: &str = "/federatedidentitycredentials/";
const ASSIGNMENTS: &str = "/providers/microsoft.authorization/roleassignments/";
const DEFINITIONS: &str = "/providers/microsoft.authorization/roledefinitions";

/// "A maximum of 20 federated identity credentials can be added".
const MAX_CREDENTIALS: usize = 20;

/// Some of the built-in roles: <https://learn.microsoft.com/en-us/azure/role-based-access-control/built-in-roles>.
const ROLES: [(&str, &str); 3] = [
    ("Storage Blob Data Reader", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"),
    ("Storage Blob Data Contributor", "ba92f5b4-2d11-453d-a403-e96b0029c9fe"),
    ("Key Vault Secrets User", "4633458b-17de-408a-b874-0445c86b69e6"),
];

/// By ID in lower case: IDs know no case.
pub(super) type Resources = BTreeMap<String, Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    location: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Properties<T> {
    properties: T,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credential {
    issuer: String,
    subject: String,
    audiences: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Assignment {
    role_definition_id: String,
    principal_id: String,
    #[serde(default)]
    principal_type: Option<String>,
}

impl Azure {
    /// Answers where the path is one of these; the rest is somebody else's.
    pub(super) fn identities(&self, parts: &Parts, body: &[u8]) -> Option<Result<Response, Refusal>> {
        let path = parts.uri.path();
        let lower = path.to_ascii_lowercase();
        let versions: &[&str] = if lower.contains(ASSIGNMENTS) || lower.ends_with(DEFINITIONS) {
            &AUTHORIZATION_VERSIONS
        } else if lower.contains(IDENTITIES) {
            &IDENTITY_VERSIONS
        } else if lower.starts_with("/subscriptions/") && lower.matches('/').count() == 4 {
            &GROUP_VERSIONS
        } else {
            return None;
        };
        Some(self.answer(parts, path, &lower, versions, body))
    }

    fn answer(
        &self,
        parts: &Parts,
        path: &str,
        lower: &str,
        versions: &[&str],
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let version = query.get("api-version").map(String::as_str).unwrap_or_default();
        if !versions.contains(&version) {
            let message = format!(
                "The api-version '{version}' is invalid. The supported versions are '{}'.",
                versions.join(",")
            );
            return Err(Refusal::bad_request("InvalidApiVersionParameter", message));
        }
        self.0.entra.check(&parts.headers)?;
        let group =
            format!("/subscriptions/{}/resourcegroups/{}", self.0.subscription, self.0.resource_group)
                .to_ascii_lowercase();
        let is_inside = lower == group || lower.starts_with(&format!("{group}/"));
        if !is_inside {
            let message = "The sandbox has one subscription with one resource group.";
            return Err(Refusal::not_found("ResourceGroupNotFound", message));
        }
        let ok = |body: Value| Ok(axum::Json(body).into_response());
        if lower == group && parts.method == Method::GET {
            return ok(json!({ "id": path, "name": self.0.resource_group, "location": "sandbox" }));
        }
        if lower.ends_with(DEFINITIONS) && parts.method == Method::GET {
            return ok(json!({ "value": self.roles(query.get("$filter").map_or("", String::as_str))? }));
        }
        let mut resources = self.0.resources.lock().unwrap_or_else(PoisonError::into_inner);
        match parts.method {
            Method::GET
                if lower.ends_with(IDENTITIES) || lower.ends_with(CREDENTIALS.trim_end_matches('/')) =>
            {
                ok(json!({ "value": children(&resources, lower) }))
            }
            Method::GET => resources.get(lower).cloned().map_or_else(|| Err(missing(path)), ok),
            Method::DELETE => {
                let gone = resources.remove(lower).is_some();
                resources.retain(|id, _| !id.starts_with(&format!("{lower}/")));
                Ok(if gone { StatusCode::OK } else { StatusCode::NO_CONTENT }.into_response())
            }
            Method::PUT => {
                let is_new = !resources.contains_key(lower);
                let made = if lower.contains(ASSIGNMENTS) {
                    assignment(&resources, lower, body)?
                } else if let Some((identity, _)) = lower.split_once(CREDENTIALS) {
                    credential(&resources, identity, lower, body)?
                } else {
                    self.identity(resources.get(lower), body)?
                };
                let mut made = made;
                made["id"] = path.into();
                made["name"] = path.rsplit('/').next().unwrap_or_default().into();
                resources.insert(lower.to_owned(), made.clone());
                let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
                Ok((status, axum::Json(made)).into_response())
            }
            _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "no such operation")),
        }
    }

    fn identity(&self, there: Option<&Value>, body: &[u8]) -> Result<Value, Refusal> {
        let asked: Identity = read(body)?;
        if asked.location.is_empty() {
            return Err(Refusal::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            ));
        }
        let id = || services::uuid().map_err(|_| Refusal::internal(&miette::miette!("no randomness")));
        let properties = match there {
            Some(there) => there["properties"].clone(),
            None => json!({ "tenantId": self.0.entra.tenant(), "principalId": id()?, "clientId": id()? }),
        };
        Ok(json!({ "location": asked.location, "tags": asked.tags, "properties": properties,
            "type": "Microsoft.ManagedIdentity/userAssignedIdentities" }))
    }

    fn roles(&self, filter: &str) -> Result<Vec<Value>, Refusal> {
        let name = filter.strip_prefix("roleName eq '").and_then(|rest| rest.strip_suffix('\''));
        let name = name.ok_or_else(|| {
            Refusal::bad_request("BadRequestFormat", "The sandbox knows the filter roleName eq.")
        })?;
        let found = ROLES.iter().filter(|(role, _)| *role == name);
        Ok(found
            .map(|(role, id)| {
                let id = format!(
                    "/subscriptions/{}/providers/Microsoft.Authorization/roleDefinitions/{id}",
                    self.0.subscription
                );
                json!({ "id": id, "properties": { "roleName": role, "type": "BuiltInRole" } })
            })
            .collect())
    }
}

/// What is right under `id`. Azure gives long lists in pages.
fn children<'a>(resources: &'a Resources, id: &str) -> Vec<&'a Value> {
    let is_child = |there: &str| there.strip_prefix(id).is_some_and(|rest| rest.rfind('/') == Some(0));
    resources.iter().filter(|(there, _)| is_child(there)).map(|(_, value)| value).collect()
}

fn credential(resources: &Resources, identity: &str, id: &str, body: &[u8]) -> Result<Value, Refusal> {
    let Properties { properties: Credential { issuer, subject, audiences } } = read(body)?;
    if !resources.contains_key(identity) {
        let message = format!(
            "Can not perform requested operation on nested resource. Parent resource '{identity}' not found."
        );
        return Err(Refusal::not_found("ParentResourceNotFound", message));
    }
    if audiences.len() != 1 || !issuer.starts_with("https://") || subject.is_empty() {
        return Err(Refusal::bad_request(
            "BadRequest",
            "A credential has an https issuer, a subject and one audience.",
        ));
    }
    let prefix = format!("{identity}{CREDENTIALS}");
    let others: Vec<&Value> = resources
        .iter()
        .filter(|(there, _)| there.starts_with(&prefix) && *there != id)
        .map(|(_, value)| value)
        .collect();
    if others.len() >= MAX_CREDENTIALS {
        let message = format!("Too many Federated Identity Credentials: at most {MAX_CREDENTIALS}.");
        return Err(Refusal::bad_request("BadRequest", message));
    }
    let same =
        |there: &&Value| there["properties"]["issuer"] == issuer && there["properties"]["subject"] == subject;
    if others.iter().any(same) {
        let message = "Issuer and subject combination already exists for this Managed Identity.";
        return Err(Refusal::new(StatusCode::CONFLICT, "Conflict", message));
    }
    Ok(json!({ "properties": { "issuer": issuer, "subject": subject, "audiences": audiences } }))
}

fn assignment(resources: &Resources, id: &str, body: &[u8]) -> Result<Value, Refusal> {
    let Properties { properties: asked } = read::<Properties<Assignment>>(body)?;
    let (scope, name) = id.split_once(ASSIGNMENTS).unwrap_or_default();
    let groups: Vec<usize> = name.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] || !name.chars().all(|c| c == '-' || c.is_ascii_hexdigit()) {
        let message =
            format!("The role assignment ID '{name}' is not valid. The role assignment ID must be a GUID.");
        return Err(Refusal::bad_request("InvalidRoleAssignmentId", message));
    }
    if !ROLES.iter().any(|(_, role)| asked.role_definition_id.ends_with(role)) {
        let message =
            format!("The specified role definition with ID '{}' does not exist.", asked.role_definition_id);
        return Err(Refusal::not_found("RoleDefinitionDoesNotExist", message));
    }
    let known = |there: &&Value| {
        there["properties"]["principalId"] == asked.principal_id && there["tags"].is_object()
    };
    if !resources.values().any(|there| known(&there)) {
        let message = format!("Principal {} does not exist in the directory.", asked.principal_id);
        return Err(Refusal::bad_request("PrincipalNotFound", message));
    }
    let properties = json!({ "roleDefinitionId": asked.role_definition_id, "principalId": asked.principal_id,
        "principalType": asked.principal_type.unwrap_or_else(|| "ServicePrincipal".to_owned()), "scope": scope });
    let is_same = |(there, value): (&String, &Value)| {
        there != id && there.contains(ASSIGNMENTS) && value["properties"] == properties
    };
    if resources.iter().any(is_same) {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "RoleAssignmentExists",
            "The role assignment already exists.",
        ));
    }
    Ok(json!({ "properties": properties }))
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| {
        let message = format!("The request content was invalid and could not be deserialized: '{e}'.");
        Refusal::bad_request("InvalidRequestContent", message)
    })
}

fn missing(path: &str) -> Refusal {
    Refusal::not_found("ResourceNotFound", format!("The Resource '{path}' was not found."))
}
