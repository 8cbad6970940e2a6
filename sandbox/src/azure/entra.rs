//! Entra's token endpoint for one application with a secret, and what its tokens are worth.
//!
//! <https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow>;
//! the numbers of errors from
//! <https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes>.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::refusal::Refusal;
use super::vault;
use crate::services::Credentials;

/// Life of a token, as in the page above.
const LIFE_SECONDS: i64 = 3599;

/// One tenant with one application, which may use Resource Manager and Key Vault.
pub(super) struct Entra {
    tenant: String,
    client_id: String,
    client_secret: String,
    /// Of tokens; signed and checked by the same process, so by HMAC.
    key: hmac::Key,
    /// Resource Manager, by its address. Key Vault is the other resource.
    resource: String,
}

/// What a token says.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    pub aud: String,
    pub tid: String,
    pub appid: String,
    pub iat: i64,
    pub exp: i64,
}

impl Entra {
    pub(super) fn new(secrets: &Credentials, resource: &str) -> Self {
        Self {
            tenant: secrets.entra_tenant.clone(),
            client_id: secrets.entra_client_id.clone(),
            client_secret: secrets.entra_client_secret.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secrets.entra_signing_key.as_bytes()),
            resource: resource.to_owned(),
        }
    }

    /// Answers `POST /TENANT/oauth2/v2.0/token`.
    pub(super) fn token(
        &self,
        method: &Method,
        tenant: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        if method != Method::POST {
            let message = format!("The endpoint only accepts POST requests. Received a {method} request.");
            return Err(invalid_request(900_561, message));
        }
        let form = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !form.starts_with("application/x-www-form-urlencoded") {
            return Err(missing("grant_type"));
        }
        if tenant != self.tenant {
            return Err(invalid_request(90_002, format!("Tenant '{tenant}' not found.")));
        }
        let fields: HashMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &'static str| {
            fields.get(name).filter(|v| !v.is_empty()).map(String::as_str).ok_or_else(|| missing(name))
        };
        self.check_client(&field, &fields)?;
        let audience = self.audience(field("scope")?)?;
        let now = Timestamp::now().as_second();
        let claims = Claims {
            aud: audience,
            tid: self.tenant.clone(),
            appid: self.client_id.clone(),
            iat: now,
            exp: now + LIFE_SECONDS,
        };
        let body = json!({
            "token_type": "Bearer", "expires_in": LIFE_SECONDS, "ext_expires_in": LIFE_SECONDS,
            "access_token": self.sign(&claims),
        });
        Ok(([(CACHE_CONTROL, "no-store, no-cache")], axum::Json(body)).into_response())
    }

    fn check_client<'a>(
        &self,
        field: &impl Fn(&'static str) -> Result<&'a str, Refusal>,
        fields: &HashMap<String, String>,
    ) -> Result<(), Refusal> {
        if field("grant_type")? != "client_credentials" {
            let message = "The app requested an unsupported grant type.";
            return Err(Refusal::entra(StatusCode::BAD_REQUEST, "unsupported_grant_type", 70_003, message));
        }
        let client_id = field("client_id")?;
        if client_id != self.client_id {
            let message = format!(
                "Application with identifier '{client_id}' was not found in the directory '{}'.",
                self.tenant
            );
            return Err(Refusal::entra(StatusCode::BAD_REQUEST, "unauthorized_client", 700_016, message));
        }
        let invalid = |number, message: String| {
            Refusal::entra(StatusCode::UNAUTHORIZED, "invalid_client", number, message)
        };
        let Some(secret) = fields.get("client_secret").filter(|secret| !secret.is_empty()) else {
            let message = "'client_assertion', 'client_secret' or 'request' is required for the \
                'client_credentials' grant type.";
            return Err(invalid(7_000_216, message.to_owned()));
        };
        if verify_slices_are_equal(secret.as_bytes(), self.client_secret.as_bytes()).is_err() {
            let message = format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client \
                 secret value, not the client secret ID, for a secret added to app '{client_id}'."
            );
            return Err(invalid(7_000_215, message));
        }
        Ok(())
    }

    /// The resource that a scope names: `RESOURCE/.default`.
    fn audience(&self, scope: &str) -> Result<String, Refusal> {
        let bad =
            |error, number, message: String| Refusal::entra(StatusCode::BAD_REQUEST, error, number, message);
        if scope.contains(char::is_whitespace) {
            let message = "Provided value for the input parameter scope is not valid because it contains \
                more than one resource.";
            return Err(bad("invalid_scope", 28_000, message.to_owned()));
        }
        let Some(resource) = scope.strip_suffix("/.default") else {
            let message = format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a \
                 scope value with /.default suffixed to the resource identifier (application ID URI)."
            );
            return Err(bad("invalid_scope", 1_002_012, message));
        };
        if resource != self.resource && resource != vault::RESOURCE {
            let message = format!("The resource principal named {resource} was not found in the tenant.");
            return Err(bad("invalid_resource", 500_011, message));
        }
        Ok(resource.to_owned())
    }

    #[cfg(test)]
    pub(super) fn application(&self) -> (&str, &str) {
        (&self.client_id, &self.client_secret)
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn sign(&self, claims: &Claims) -> String {
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let head = part(json!({ "typ": "JWT", "alg": "HS256" }).to_string());
        let signed = format!("{head}.{}", part(json!(claims).to_string()));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether the bearer token of a request to Resource Manager is good there, by the codes of
    /// <https://learn.microsoft.com/en-us/rest/api/azure/#handle-the-response> and what it says.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let missing = "Authentication failed. The 'Authorization' header is missing.";
        let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let header = header.ok_or_else(|| Refusal::unauthorized("AuthenticationFailed", missing))?;
        let invalid = || Refusal::unauthorized("InvalidAuthenticationToken", "The access token is invalid.");
        let token = header.strip_prefix("Bearer ").ok_or_else(invalid)?;
        let claims = self.claims(token).ok_or_else(invalid)?;
        if claims.exp <= Timestamp::now().as_second() {
            let message = "The access token expiry UTC time is earlier than current UTC time.";
            return Err(Refusal::unauthorized("ExpiredAuthenticationToken", message));
        }
        if claims.tid != self.tenant {
            let message = "The access token is from the wrong issuer. It must match the tenant associated \
                with this subscription.";
            return Err(Refusal::unauthorized("InvalidAuthenticationTokenTenant", message));
        }
        if claims.aud != self.resource {
            let message = "The access token has been obtained for wrong audience or resource.";
            return Err(Refusal::unauthorized("InvalidAuthenticationTokenAudience", message));
        }
        Ok(())
    }

    /// Whether it is good for the vault, in the words of
    /// <https://learn.microsoft.com/en-us/azure/key-vault/general/rest-error-codes>.
    pub(super) fn check_vault(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let refuse = |message: &str| Refusal::unauthorized("Unauthorized", message);
        let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| refuse("AKV10000: Request is missing a Bearer or PoP token."))?;
        let claims = self.claims(token).ok_or_else(|| refuse("AKV10001: The token is invalid."))?;
        if claims.exp <= Timestamp::now().as_second() {
            return Err(refuse("AKV10005: The token is expired."));
        }
        if claims.tid != self.tenant {
            return Err(refuse("AKV10032: Invalid issuer."));
        }
        if claims.aud != vault::RESOURCE {
            let message =
                format!("AKV10022: Invalid audience. Expected {}, found: {}.", vault::RESOURCE, claims.aud);
            return Err(refuse(&message));
        }
        Ok(())
    }

    /// What a token of ours says.
    fn claims(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        serde_json::from_slice(&claims).ok()
    }
}

fn invalid_request(number: u32, message: String) -> Refusal {
    Refusal::entra(StatusCode::BAD_REQUEST, "invalid_request", number, message)
}

fn missing(parameter: &str) -> Refusal {
    invalid_request(900_144, format!("The request body must contain the following parameter: '{parameter}'."))
}
