//! Shared access signatures, signed by the rules of the Blob service.
//!
//! Account: learn.microsoft.com/rest/api/storageservices/create-account-sas.
//! Container: learn.microsoft.com/rest/api/storageservices/create-service-sas.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use miette::{IntoDiagnostic, Result, WrapErr};
use url::form_urlencoded::Serializer;

use super::Credentials;

/// A version whose string to sign has the encryption scope's line.
const VERSION: &str = "2022-11-02";
/// All of a container's blobs can be read, added, created, written, deleted and listed.
const CONTAINER_PERMISSIONS: &str = "racwdl";
/// Longer than any sandbox lives.
const CONTAINER_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);

/// A SAS over the whole account, for the sandbox's own housekeeping.
pub struct AccountSas(String);

impl AccountSas {
    /// Everything about blobs and containers, for an hour.
    ///
    /// # Errors
    /// When the account's key isn't base64.
    pub fn for_an_hour(secrets: &Credentials) -> Result<Self> {
        let expiry = expiry(SignedDuration::from_hours(1))?;
        let (permissions, services, types, protocol) = ("rwdlac", "b", "sco", "https,http");
        let to_sign = format!(
            "{}\n{permissions}\n{services}\n{types}\n\n{expiry}\n\n{protocol}\n{VERSION}\n\n",
            secrets.azure_account
        );
        let query = Serializer::new(String::new())
            .append_pair("sv", VERSION)
            .append_pair("ss", services)
            .append_pair("srt", types)
            .append_pair("sp", permissions)
            .append_pair("se", &expiry)
            .append_pair("spr", protocol)
            .append_pair("sig", &sign(secrets, &to_sign)?)
            .finish();
        Ok(Self(query))
    }

    /// The query string, without `?`.
    pub fn query(&self) -> &str {
        &self.0
    }
}

/// A SAS for one container, as a site would make it for `migrate`.
///
/// # Errors
/// When the account's key isn't base64.
pub fn container_sas(secrets: &Credentials, container: &str) -> Result<String> {
    let expiry = expiry(CONTAINER_VALIDITY)?;
    let resource = format!("/blob/{}/{container}", secrets.azure_account);
    let protocol = "https,http";
    // permissions, start, expiry, resource, identifier, IP, protocol, version, resource type,
    // snapshot, encryption scope, and five response headers.
    let to_sign = format!(
        "{CONTAINER_PERMISSIONS}\n\n{expiry}\n{resource}\n\n\n{protocol}\n{VERSION}\nc\n\n\n\n\n\n\n"
    );
    Ok(Serializer::new(String::new())
        .append_pair("sv", VERSION)
        .append_pair("sr", "c")
        .append_pair("sp", CONTAINER_PERMISSIONS)
        .append_pair("se", &expiry)
        .append_pair("spr", protocol)
        .append_pair("sig", &sign(secrets, &to_sign)?)
        .finish())
}

fn expiry(after: SignedDuration) -> Result<String> {
    let at = Timestamp::now().checked_add(after).into_diagnostic()?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn sign(secrets: &Credentials, text: &str) -> Result<String> {
    let key =
        STANDARD.decode(&secrets.azure_key).into_diagnostic().wrap_err("the account's key isn't base64")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    Ok(STANDARD.encode(hmac::sign(&key, text.as_bytes())))
}
