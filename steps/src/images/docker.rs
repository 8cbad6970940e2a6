//! What Docker knows: `config.json` and the credential helpers that it names. Read only where a
//! registry is given no login of its own.
//!
//! A helper is a program `docker-credential-NAME`; the host goes to its stdin, so nothing stands in
//! an argument: <https://github.com/docker/docker-credential-helpers>.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use migrate_plugin_api::{Secret, StepError};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::auth::Credentials;

/// A helper may ask a keychain, not a person.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Under this name Docker keeps its own hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Helpers say so on stdout, with exit code 1.
const NOT_FOUND: &str = "credentials not found";

/// Holds passwords, so it has no `Debug`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The login for `host`, or none.
pub(crate) async fn credentials(host: &str) -> Result<Credentials, StepError> {
    let Some(path) = path() else { return Ok(Credentials::Anonymous) };
    let bytes = match tokio::fs::read(&path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::Anonymous),
        Err(e) => {
            return Err(StepError::permanent(format!("failed to read {}", path.display())).with_source(e));
        }
    };
    // The file holds passwords: a parse error must not quote it.
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|_| StepError::permanent(format!("{} is no Docker config", path.display())))?;
    config.credentials(host).await
}

fn path() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

impl Config {
    async fn credentials(&self, host: &str) -> Result<Credentials, StepError> {
        let key = if host == "docker.io" { DOCKER_HUB } else { host };
        if let Some(helper) = self.cred_helpers.get(key).or(self.creds_store.as_ref())
            && let Some(found) = ask(helper, key).await?
        {
            return Ok(found);
        }
        let entry = [key.to_owned(), format!("https://{host}"), format!("https://{host}/v1/")]
            .iter()
            .find_map(|key| self.auths.get(key));
        match entry.and_then(|entry| entry.auth.as_deref()).filter(|auth| !auth.is_empty()) {
            Some(auth) => decode(auth).ok_or_else(|| {
                StepError::auth(format!("Docker's login for {host} can't be read")).with_hint("log in again")
            }),
            None => Ok(Credentials::Anonymous),
        }
    }
}

/// `BASE64(user:password)`.
fn decode(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
    let (username, password) = text.trim_end_matches('\0').split_once(':')?;
    Some(Credentials::Password { username: username.to_owned(), password: Secret::new(password) })
}

/// Asks one helper.
async fn ask(helper: &str, key: &str) -> Result<Option<Credentials>, StepError> {
    let failed = || StepError::auth(format!("Docker's credential helper `{helper}` gave no login for {key}"));
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(failed().with_hint("its name in Docker's config is no program's"));
    }
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed().with_source(e))?;
    let mut stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin.take() {
            stdin.write_all(key.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(HELPER_TIMEOUT, talk).await {
        Ok(output) => output.map_err(|e| failed().with_source(e))?,
        Err(_) => return Err(failed().with_hint("it did not answer in 30 s")),
    };
    if !output.status.success() {
        let is_unknown = String::from_utf8_lossy(&output.stdout).contains(NOT_FOUND);
        return if is_unknown { Ok(None) } else { Err(failed()) };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| failed())?;
    if answer.username == "<token>" {
        return Err(failed().with_hint(
            "it keeps an identity token, which is not supported: give `username` and `password`",
        ));
    }
    Ok(Some(Credentials::Password { username: answer.username, password: Secret::new(answer.secret) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(credentials: &Credentials) -> Option<(&str, &str)> {
        match credentials {
            Credentials::Password { username, password } => Some((username, password.expose())),
            _ => None,
        }
    }

    #[tokio::test]
    async fn logins_are_found_as_docker_writes_them() {
        let config: Config = serde_json::from_value(serde_json::json!({
            "auths": {
                "r.example": { "auth": BASE64.encode("u:p:q") },
                "https://index.docker.io/v1/": { "auth": BASE64.encode("hub:h") },
                "empty.example": {}, "bad.example": { "auth": "%" },
            },
            "HttpHeaders": { "x": "y" },
        }))
        .unwrap();
        assert_eq!(shown(&config.credentials("r.example").await.unwrap()), Some(("u", "p:q")));
        assert_eq!(shown(&config.credentials("docker.io").await.unwrap()), Some(("hub", "h")));
        assert_eq!(shown(&config.credentials("empty.example").await.unwrap()), None);
        assert_eq!(shown(&config.credentials("public.ecr.aws").await.unwrap()), None);
        let error = config.credentials("bad.example").await.err().unwrap();
        insta::assert_snapshot!(error, @"Docker's login for bad.example can't be read");
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_or_no_name_is_told() {
        for (helper, reason) in [("surely-not-there", "is missing"), ("../x", "is no name")] {
            let config = serde_json::json!({ "credHelpers": { "r.example": helper } });
            let config: Config = serde_json::from_value(config).unwrap();
            let error = config.credentials("r.example").await.err().unwrap();
            assert!(error.message.contains("gave no login for r.example"), "{reason}: {error}");
        }
    }
}
