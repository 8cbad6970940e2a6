//! The secrets that one call was given: where the plugin reads them, and that they go nowhere else.
//!
//! Invariants: a secret is only given for a reference that stands in the call's own config. On Linux it
//! is in memory only, under a path of this process (`/proc/PID/fd/N`), so that it is gone with this
//! process however that ends; elsewhere it is a file that its user alone can read, in a folder that is
//! removed with the vault. What the plugin says is looked through for the secrets it was given.

use std::collections::BTreeSet;
use std::io::Write;

use migrate_plugin_api::protocol::SecretResult;
use migrate_plugin_api::{Secret, SecretRef, StepContext, StepError, hide_secrets};
use serde_json::Value;

use crate::limits::MIN_MASKED_BYTES;
use crate::lines::clean;

/// What stands for a secret in what is shown.
const MASK: &str = "(secret)";

/// The secrets of one call.
#[derive(Default)]
pub(crate) struct Vault {
    allowed: BTreeSet<String>,
    /// What to look for: the secrets, and the lines of those that have several.
    needles: Vec<String>,
    given: Vec<(String, Place)>,
}

impl Vault {
    /// For a call with `config`.
    pub(crate) fn for_config(config: &Value) -> Self {
        let mut allowed = BTreeSet::new();
        collect(config, &mut allowed);
        Self { allowed, ..Self::default() }
    }

    /// Puts the secret behind `reference` where the plugin can read it.
    ///
    /// # Errors
    /// `Permanent` for what is not in the config, `Auth` where there is none.
    pub(crate) async fn give(
        &mut self,
        ctx: &StepContext,
        reference: &str,
    ) -> Result<SecretResult, StepError> {
        if !self.allowed.contains(reference) {
            // It may be the secret itself.
            return Err(StepError::permanent("the config of the call has no such secret reference"));
        }
        if let Some((_, place)) = self.given.iter().find(|(known, _)| known == reference) {
            return Ok(SecretResult { path: place.path() });
        }
        let parsed = SecretRef::try_from(reference.to_owned())
            .map_err(|error| StepError::permanent(error.to_string()))?;
        let secret = ctx.secret(&parsed).await?;
        let place = Place::new(&secret)
            .map_err(|error| StepError::permanent("failed to hand over the secret").with_source(error))?;
        let path = place.path();
        self.given.push((reference.to_owned(), place));
        self.watch_for(secret.expose());
        Ok(SecretResult { path })
    }

    fn watch_for(&mut self, secret: &str) {
        let parts = std::iter::once(secret).chain(secret.lines());
        let long = parts.filter(|part| part.len() >= MIN_MASKED_BYTES);
        self.needles.extend(long.map(str::to_owned));
        self.needles.sort();
        self.needles.dedup();
    }

    /// `text` without any secret that was given.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.hide(text, usize::MAX)
    }

    fn hide(&self, text: &str, limit: usize) -> String {
        hide_secrets(text, self.needles.iter().map(String::as_str), MASK, limit)
    }

    /// `bytes` as they may be shown: `limit` of them at most, in one line, without a secret or a part of
    /// one. Where that is not all, they must be [`longest_bytes`](Self::longest_bytes) more than the limit.
    pub(crate) fn show(&self, bytes: &[u8], limit: usize) -> String {
        let end = bytes.len().min(limit + self.longest_bytes());
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut shown = clean(&self.hide(&text, limit), limit);
        if bytes.len() > limit && !shown.ends_with('…') {
            shown.push('…');
        }
        shown
    }

    /// Length of the longest of what is looked for.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.needles.iter().map(String::len).max().unwrap_or(0)
    }

    /// Where `value` holds a secret that was given, as a JSON Pointer.
    pub(crate) fn find(&self, value: &Value) -> Option<String> {
        let has = |text: &str| self.needles.iter().any(|needle| text.contains(needle.as_str()));
        if self.needles.is_empty() { None } else { find(value, &has) }
    }
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if SecretRef::try_from(text.clone()).is_ok() => {
            found.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, found)),
        _ => {}
    }
}

fn find(value: &Value, has: &impl Fn(&str) -> bool) -> Option<String> {
    match value {
        Value::String(text) => has(text).then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| Some(format!("/{at}{}", find(item, has)?)))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            if has(name) {
                Some("/(a name)".to_owned())
            } else {
                Some(format!("/{name}{}", find(field, has)?))
            }
        }),
        _ => None,
    }
}

/// Where one secret can be read.
#[cfg(target_os = "linux")]
struct Place(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Place {
    fn new(secret: &Secret) -> std::io::Result<Self> {
        use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create("secret", flags)?);
        fchmod(&file, Mode::RUSR)?;
        file.write_all(secret.expose().as_bytes())?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self(file.into()))
    }

    fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Where one secret can be read.
#[cfg(not(target_os = "linux"))]
struct Place(std::path::PathBuf);

#[cfg(not(target_os = "linux"))]
impl Place {
    fn new(secret: &Secret) -> std::io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("migrate-{}-{number}", std::process::id()));
        // Fails where somebody else has put one.
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let place = Self(dir.join("secret"));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place.0)?;
        file.write_all(secret.expose().as_bytes())?;
        Ok(place)
    }

    fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

#[cfg(not(target_os = "linux"))]
impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        if let Some(dir) = self.0.parent() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use migrate_plugin_api::testing::RecordingHost;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_given_by_path_and_only_for_a_reference_of_the_config() {
        let host = Arc::new(RecordingHost::default());
        host.put_secret("env:TOKEN", "hunter2-hunter2\nsecond-line");
        host.put_secret("env:OTHER", "not-for-you");
        let ctx = host.context("tell", ".");
        let mut vault = Vault::for_config(&json!({ "deep": [{ "token": "env:TOKEN" }], "x": 1 }));
        let given = vault.give(&ctx, "env:TOKEN").await.unwrap();
        assert_eq!(std::fs::read_to_string(&given.path).unwrap(), "hunter2-hunter2\nsecond-line");
        assert_eq!(vault.give(&ctx, "env:TOKEN").await.unwrap(), given);
        let refused = vault.give(&ctx, "env:OTHER").await.unwrap_err();
        assert_eq!(refused.message, "the config of the call has no such secret reference");

        assert_eq!(vault.mask("it is hunter2-hunter2!"), "it is (secret)!");
        assert_eq!(vault.mask("only second-line"), "only (secret)");
        assert_eq!(vault.show(b"xx second-line and more\x1b[1m", 5), "xx (s…");
        assert_eq!(vault.show(b"xx second-line\x1b[1m", 40), "xx (secret) [1m");
        assert_eq!(
            vault.find(&json!({ "a": [1, "x hunter2-hunter2\nsecond-line"] })).as_deref(),
            Some("/a/1")
        );
        assert_eq!(vault.find(&json!({ "a": "hunter" })), None);
    }
}
