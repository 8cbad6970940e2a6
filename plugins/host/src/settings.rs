//! `[plugins.NAME]` in `migration.toml`, and how a part of that file is read without showing what stands in it.
//!
//! ```toml
//! [plugins."team.notify"]
//! path = "tools/notify.py"     # starts in the folder of migration.toml
//! sha256 = "9f86d08…"          # optional: any other file is refused
//! env = ["KUBECONFIG"]         # variables it gets beyond the usual ones
//! memory_mib = 8192            # most data of one of its processes; default: 4096
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::program::ProgramDigest;

/// What `migration.toml` says of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSettings {
    /// The program.
    pub path: PathBuf,
    /// The digest that it must have.
    #[serde(default)]
    pub sha256: Option<ProgramDigest>,
    /// Variables of the environment that it gets beyond those that all get.
    #[serde(default)]
    pub env: BTreeSet<String>,
    /// Most data that one of its processes may have, in MiB.
    #[serde(default)]
    pub memory_mib: Option<u64>,
}

/// Why a part of `migration.toml` can't be read. Shows no line of the file: a secret may stand there.
#[derive(Debug, thiserror::Error)]
#[error("migration.toml{}: {message}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct SettingsError {
    line: Option<usize>,
    message: String,
}

/// Only what is read here.
#[derive(Deserialize)]
struct Environment {
    #[serde(default)]
    plugins: BTreeMap<String, PluginSettings>,
}

/// Reads `[plugins]` out of the text of `migration.toml`.
///
/// # Errors
/// When the file is no TOML or `[plugins]` has another form.
pub fn settings(text: &str) -> Result<BTreeMap<String, PluginSettings>, SettingsError> {
    part::<Environment>(text).map(|environment| environment.plugins)
}

/// Reads the part that `T` names out of the text of `migration.toml`.
///
/// # Errors
/// When the file is no TOML or the part has another form.
pub fn part<T: DeserializeOwned>(text: &str) -> Result<T, SettingsError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        SettingsError { line, message: error.message().to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_every_mistake_has_its_line() {
        let digest = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let text = format!("schema = 1\n[plugins.\"team.notify\"]\npath = \"n.py\"\nsha256 = \"{digest}\"\n");
        let read = settings(&text).unwrap();
        let one = &read["team.notify"];
        assert_eq!(one.sha256.as_ref().map(|sum| sum.as_str().to_owned()), Some(digest.to_lowercase()));
        assert_eq!(settings("[source]\nx = 1\n").unwrap().len(), 0);
        let said: Vec<String> = [
            "[plugins.a]\npath = \"x\"\nsha = \"1\"\n",
            "[plugins.a]\npath = \"x\"\nsha256 = \"12\"\n",
            "[plugins.a]\nenv = [\"X\"]\n",
            "[plugins.a]\npath = 7\n",
            "[plugins\n",
        ]
        .iter()
        .map(|text| settings(text).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(said.join("\n"));
    }
}
