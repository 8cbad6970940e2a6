//! Resolves references to secrets at the moment of their use: `env:`, `file:` and `exec:` here, others
//! through the [`SecretProvider`]s that the engine was given. Nothing resolved is kept or shown.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_plugin_api::{Secret, SecretProvider, SecretRef, StepError};

use super::secret_command;

/// Largest secret that is read: a key file, not a disk image.
pub(super) const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Where secrets come from. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    project_dir: PathBuf,
    providers: Arc<BTreeMap<&'static str, Arc<dyn SecretProvider>>>,
}

impl Secrets {
    /// Of the project in `project_dir`, without providers.
    pub(crate) fn of(project_dir: &Path) -> Self {
        Self { project_dir: project_dir.to_owned(), providers: Arc::default() }
    }

    /// The same with `providers`.
    pub(crate) fn with(self, providers: impl IntoIterator<Item = Arc<dyn SecretProvider>>) -> Self {
        let providers = providers.into_iter().map(|provider| (provider.scheme(), provider)).collect();
        Self { providers: Arc::new(providers), ..self }
    }

    /// The secret. `warn` takes what a person should know of the way it is kept.
    pub(crate) async fn resolve(
        &self,
        reference: &SecretRef,
        warn: impl FnOnce(String),
    ) -> Result<Secret, StepError> {
        let absent = |why: String| StepError::auth(format!("secret `{reference}`: {why}"));
        match reference {
            SecretRef::Env(name) => match std::env::var(name) {
                Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
                Ok(_) => Err(absent("the variable is empty".to_owned())),
                Err(std::env::VarError::NotPresent) => Err(absent("the variable is not set".to_owned())
                    .with_hint(format!("set {name} in the environment of migrate"))),
                Err(std::env::VarError::NotUnicode(_)) => Err(absent("the variable is not UTF-8".to_owned())),
            },
            SecretRef::File(path) => {
                let path = self.project_dir.join(path);
                if let Some(warning) = open_to_others(&path) {
                    warn(warning);
                }
                read_file(&path).map_err(absent)
            }
            SecretRef::Exec(words) => {
                secret_command::output(words, &self.project_dir).await.map_err(|fault| {
                    let error = absent(fault.to_string());
                    if fault.is_late() { StepError::transient(error.message) } else { error }
                        .with_hint("run the command yourself, in the project folder, to see what it says")
                })
            }
            SecretRef::Provided { scheme, place } => match self.providers.get(scheme.as_str()) {
                Some(provider) => provider.secret(place).await.map_err(|mut error| {
                    error.message = format!("secret `{reference}`: {}", error.message);
                    error
                }),
                None => Err(absent(format!("nothing here resolves `{scheme}:`"))),
            },
        }
    }
}

/// Small local files: read in place.
fn read_file(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("failed to read {shown}: {error}"))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("{shown} is larger than {MAX_SECRET_BYTES} bytes"));
    }
    one_line_less(bytes).map_err(|what| format!("{shown} is {what}"))
}

/// A text without the line break that an editor or a command ends it with; or what it is instead.
pub(super) fn one_line_less(bytes: Vec<u8>) -> Result<Secret, &'static str> {
    let mut text = String::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() { Err("empty") } else { Ok(Secret::new(text)) }
}

#[cfg(unix)]
fn open_to_others(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        let shown = path.display();
        format!(
            "the secret file {shown} can be read by others (mode {:o}); try: chmod 600 {shown}",
            mode & 0o777
        )
    })
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use migrate_plugin_api::{ErrorClass, async_trait};

    use super::*;

    async fn resolve(secrets: &Secrets, reference: &str) -> Result<Secret, StepError> {
        secrets.resolve(&SecretRef::try_from(reference.to_owned()).unwrap(), |_| {}).await
    }

    #[tokio::test]
    async fn secrets_come_from_files_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "hunter2\n").unwrap();
        let secrets = Secrets::of(dir.path());
        let mut warnings = Vec::new();
        let reference = SecretRef::File("password".to_owned());
        let secret = secrets.resolve(&reference, |warning| warnings.push(warning)).await.unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(warnings.len(), 1, "it is readable by others");
        let error = resolve(&secrets, "file:absent").await.unwrap_err();
        assert!(error.message.contains("file:absent"), "{error}");
        let error = resolve(&secrets, "env:MIGRATE_TEST_ABSENT").await.unwrap_err();
        assert_eq!(error.message, "secret `env:MIGRATE_TEST_ABSENT`: the variable is not set");
    }

    struct Safe;

    #[async_trait]
    impl SecretProvider for Safe {
        fn scheme(&self) -> &'static str {
            "keyvault"
        }

        async fn secret(&self, place: &str) -> Result<Secret, StepError> {
            match place {
                "safe/db" => Ok(Secret::new("hunter2")),
                _ => Err(StepError::throttled("too many questions", None)),
            }
        }
    }

    #[tokio::test]
    async fn what_the_engine_does_not_know_is_asked_of_its_provider() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::of(dir.path());
        let error = resolve(&secrets, "keyvault:safe/db").await.unwrap_err();
        assert_eq!(error.message, "secret `keyvault:safe/db`: nothing here resolves `keyvault:`");
        let secrets = secrets.with([Arc::new(Safe) as Arc<dyn SecretProvider>]);
        assert_eq!(resolve(&secrets, "keyvault:safe/db").await.unwrap().expose(), "hunter2");
        let error = resolve(&secrets, "keyvault:safe/other").await.unwrap_err();
        assert_eq!(error.message, "secret `keyvault:safe/other`: too many questions");
        assert_eq!(error.class, ErrorClass::Throttled { retry_after_ms: None });
    }
}
