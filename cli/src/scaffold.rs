//! `migrate plugin new`: a plugin that works and is tested, in a new folder. Never writes into a folder
//! that is there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// In what it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Built by cargo; the SDK comes along
    Rust,
    /// Python 3.9 or newer without packages; the SDK is one file
    Python,
    /// Plain sh and sed, without an SDK
    Sh,
}

/// Why there is no new plugin.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// The name can't be a step's.
    #[error(
        "`{0}` is no name for a step: write `word` or `family.verb`, of lowercase letters, digits and inner `-`"
    )]
    Name(String),
    /// There is a step of this name.
    #[error("there is a step `{0}` already")]
    Taken(String),
    /// Something is there.
    #[error("{} is there already, and is left as it is", .0.display())]
    Exists(PathBuf),
    /// The disk says no.
    #[error("failed to write {}", path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the templates are called; replaced by the name.
const PLACEHOLDER: &str = "team.example";
/// The same as a crate is called.
const CRATE_PLACEHOLDER: &str = "team-example";

macro_rules! file {
    ($name:literal, $path:literal) => {
        ($name, include_str!(concat!("../../plugins/", $path)))
    };
}

const PYTHON: &[(&str, &str)] = &[
    file!("migrate-step-team.example", "templates/python/migrate-step-team.example"),
    file!("migrate_step.py", "sdk/python/migrate_step.py"),
    file!("test.py", "templates/python/test.py"),
    file!("README.md", "templates/python/README.md"),
];

const SH: &[(&str, &str)] = &[
    file!("migrate-step-team.example", "templates/sh/migrate-step-team.example"),
    file!("test.sh", "templates/sh/test.sh"),
    file!("README.md", "templates/sh/README.md"),
];

/// The SDK is published nowhere, so its sources come along: they fit this program, and need no network
/// and no address that may go away.
const RUST: &[(&str, &str)] = &[
    file!("Cargo.toml", "templates/rust/Cargo.toml.template"),
    file!("src/main.rs", "templates/rust/src/main.rs"),
    file!("README.md", "templates/rust/README.md"),
    (".gitignore", "target/\nmigrate-step-team.example\n"),
    file!("sdk/api/Cargo.toml", "api/Cargo.toml"),
    file!("sdk/api/src/context.rs", "api/src/context.rs"),
    file!("sdk/api/src/error.rs", "api/src/error.rs"),
    file!("sdk/api/src/evidence.rs", "api/src/evidence.rs"),
    file!("sdk/api/src/ids.rs", "api/src/ids.rs"),
    file!("sdk/api/src/lib.rs", "api/src/lib.rs"),
    file!("sdk/api/src/node_id.rs", "api/src/node_id.rs"),
    file!("sdk/api/src/progress.rs", "api/src/progress.rs"),
    file!("sdk/api/src/protocol.rs", "api/src/protocol.rs"),
    file!("sdk/api/src/secret.rs", "api/src/secret.rs"),
    file!("sdk/api/src/step.rs", "api/src/step.rs"),
    file!("sdk/api/src/testing.rs", "api/src/testing.rs"),
    file!("sdk/api/src/typed.rs", "api/src/typed.rs"),
    file!("sdk/sdk/Cargo.toml", "sdk/Cargo.toml"),
    file!("sdk/sdk/src/lib.rs", "sdk/src/lib.rs"),
    file!("sdk/sdk/src/link.rs", "sdk/src/link.rs"),
    file!("sdk/sdk/src/message.rs", "sdk/src/message.rs"),
    file!("sdk/sdk/src/serve.rs", "sdk/src/serve.rs"),
];

impl Language {
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => RUST,
            Self::Python => PYTHON,
            Self::Sh => SH,
        }
    }

    /// What to do with the new plugin `name` in `folder`, a command a line.
    pub fn next(self, name: &str, folder: &str, project: &str) -> Vec<String> {
        let file = format!("{folder}/migrate-step-{name}");
        let own = match self {
            Self::Rust => vec![
                format!("(cd {folder} && cargo test)"),
                format!(
                    "(cd {folder} && cargo build --release && cp target/release/{} migrate-step-{name})",
                    crate_name(name)
                ),
            ],
            Self::Python => vec![format!("python3 {folder}/test.py")],
            Self::Sh => vec![format!("sh {folder}/test.sh")],
        };
        let ours = [format!("migrate plugin test {file}"), format!("migrate{project} steps {name}")];
        own.into_iter().chain(ours).collect()
    }
}

/// The name as a crate may have it.
fn crate_name(name: &str) -> String {
    name.replace('.', "-")
}

/// `word` or `family.verb`.
fn is_step_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let all = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        all && part.starts_with(|c: char| c.is_ascii_lowercase()) && !part.ends_with('-')
    };
    let parts: Vec<&str> = name.split('.').collect();
    name.len() <= 63 && parts.len() <= 2 && parts.iter().all(|part| is_part(part))
}

/// Makes the plugin `name` in the new folder `NAME` of `plugins`, with a link to it in `plugins`, and returns
/// the files in the folder.
///
/// # Errors
/// When the name can't be a step's or is `taken`, when the folder is there, and when it can't be written.
pub fn make(
    language: Language,
    name: &str,
    plugins: &Path,
    taken: impl FnOnce(&str) -> bool,
) -> Result<Vec<&'static str>, ScaffoldError> {
    if !is_step_name(name) {
        return Err(ScaffoldError::Name(name.to_owned()));
    }
    if taken(name) {
        return Err(ScaffoldError::Taken(name.to_owned()));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ScaffoldError::Io { path, source }
    };
    let folder = &plugins.join(name);
    fs::create_dir_all(plugins).map_err(failed(plugins))?;
    // Whoever makes the folder has it: nothing that is there is ever written over.
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ScaffoldError::Exists(folder.to_owned()));
        }
        made => made.map_err(failed(folder))?,
    }
    // Plugins are found directly in `plugins/`.
    let link = folder.with_file_name(format!("migrate-step-{name}"));
    let target = Path::new(name).join(format!("migrate-step-{name}"));
    if let Err(e) = std::os::unix::fs::symlink(target, &link) {
        // Nothing is in it yet.
        let _ = fs::remove_dir(folder);
        return Err(match e.kind() {
            io::ErrorKind::AlreadyExists => ScaffoldError::Exists(link),
            _ => failed(&link)(e),
        });
    }
    for (file, text) in language.files() {
        let path = folder.join(file.replace(PLACEHOLDER, name));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        // The SDK's own words are not the plugin's.
        let is_sdk = file.starts_with("sdk/") || *file == "migrate_step.py";
        let text = if is_sdk {
            (*text).to_owned()
        } else {
            text.replace(PLACEHOLDER, name).replace(CRATE_PLACEHOLDER, &crate_name(name))
        };
        fs::write(&path, &text).map_err(failed(&path))?;
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed(&path))?;
        }
    }
    Ok(language.files().iter().map(|(file, _)| *file).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_whole_sdk_comes_along() {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
        for part in ["api", "sdk"] {
            let there: BTreeSet<String> = fs::read_dir(plugins.join(part).join("src"))
                .unwrap()
                .map(|entry| format!("sdk/{part}/src/{}", entry.unwrap().file_name().display()))
                .collect();
            let packed: BTreeSet<String> = RUST
                .iter()
                .map(|(file, _)| (*file).to_owned())
                .filter(|file| file.starts_with(&format!("sdk/{part}/src/")))
                .collect();
            assert_eq!(packed, there);
        }
    }

    #[test]
    fn names_are_steps_names() {
        for good in ["notify", "team.notify", "team-a.notify-2"] {
            assert!(is_step_name(good), "{good}");
        }
        for bad in ["", "a.b.c", "A", "a_b", "a.", ".a", "-a", "a-", "../a", "2a", "a/b", &"x".repeat(64)] {
            assert!(!is_step_name(bad), "{bad}");
        }
    }
}
