//! Where plugins are found: named in `migration.toml`, in the project's `plugins/` and its folders, on
//! `PATH`.
//!
//! Rules: a plugin's name is that of its file; nobody takes a built-in step's name; of two with one name
//! none is used, unless `migration.toml` names one; a pinned digest must be that of the file.
//! Finding runs nothing; [`load`] asks each what it is, every time: a script may change with
//! what it reads, so nothing that it said before is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_plugin_api::{Step, StepError};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::limits::{MAX_DESCRIBING, MEMORY_BYTES};
use crate::plugin::{Plugin, Unusable, check_name};
use crate::process::{Guard, Launch};
use crate::program::ProgramDigest;
use crate::settings::PluginSettings;

/// How the files of plugins begin.
pub const FILE_PREFIX: &str = "migrate-step-";

/// The folder of a project's own plugins.
pub const PROJECT_FOLDER: &str = "plugins";

/// Where a plugin was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// `[plugins.NAME]` in `migration.toml`.
    Settings,
    /// The project's `plugins/`.
    Project,
    /// `PATH`.
    Path,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "migration.toml",
            Self::Project => "plugins/",
            Self::Path => "PATH",
        })
    }
}

/// Why no plugin can be used.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Two files say that they are the same step.
    #[error("two plugins are called `{name}`: {} and {}", .first.display(), .second.display())]
    Two {
        /// The step.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A plugin with the name of a built-in step.
    #[error("plugin {} takes the name of the built-in step `{name}`", .path.display())]
    BuiltIn {
        /// The step.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// `[plugins.NAME]` names what is no program.
    #[error("plugin `{name}` of migration.toml: {} {why}", .path.display())]
    NoProgram {
        /// The step.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file isn't the one that was pinned.
    #[error("plugin `{name}` of migration.toml: {} has the digest {found}, and {pinned} is pinned", .path.display())]
    Digest {
        /// The step.
        name: String,
        /// The file.
        path: PathBuf,
        /// What `sha256` says.
        pinned: ProgramDigest,
        /// What the file has.
        found: ProgramDigest,
    },
    /// A name that is none.
    #[error("{}: {why}", .path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl DiscoveryError {
    /// The way out.
    pub fn hint(&self) -> String {
        match self {
            Self::Two { name, first, .. } => format!(
                "take one away, or say which one counts, in migration.toml: [plugins.\"{name}\"] path = \"{}\"",
                first.display()
            ),
            Self::BuiltIn { .. } | Self::Name { .. } => "give its file and its step another name".to_owned(),
            Self::NoProgram { .. } => "`path` starts in the folder of migration.toml".to_owned(),
            Self::Digest { name, .. } => format!(
                "look at what has changed in the file; if it is right, pin its digest in [plugins.\"{name}\"]"
            ),
        }
    }
}

/// A file that says by its name that it is a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The step.
    pub name: String,
    /// Where it was found.
    pub origin: Origin,
    /// What is started.
    pub launch: Launch,
}

/// A plugin as it is listed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listed {
    /// The step.
    pub name: String,
    /// Where it was found.
    pub origin: Origin,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, where it can be read.
    pub sha256: Option<ProgramDigest>,
    /// Why it can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

/// Finds all plugins. Starts none.
///
/// # Errors
/// When a rule is broken; then none may be used.
pub fn find(
    project: &Path,
    path: Option<OsString>,
    settings: &BTreeMap<String, PluginSettings>,
    built_in: &BTreeSet<String>,
) -> Result<Vec<Found>, DiscoveryError> {
    let mut found: BTreeMap<String, (Found, PathBuf)> = BTreeMap::new();
    for (name, settings) in settings {
        let launch = named(project, name, settings)?;
        let real = real(&launch.program);
        found.insert(name.clone(), (Found { name: name.clone(), origin: Origin::Settings, launch }, real));
    }
    let own = own_folders(project).into_iter().map(|dir| (Origin::Project, dir));
    let shared: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
    let shared = shared.into_iter().filter(|dir| dir.is_absolute()).map(|dir| (Origin::Path, dir));
    for (origin, dir) in own.chain(shared) {
        for (name, program) in programs_in(&dir) {
            let file = real(&program);
            match found.get(&name) {
                // The same file by another way, or one that was chosen.
                Some((_, other)) if *other == file => continue,
                Some((other, _)) if other.origin == Origin::Settings => continue,
                Some((other, _)) => {
                    let first = other.launch.program.clone();
                    return Err(DiscoveryError::Two { name, first, second: program });
                }
                None => {}
            }
            let (args, env) = (Vec::new(), BTreeSet::new());
            let launch = Launch { program, args, env, memory_bytes: MEMORY_BYTES };
            found.insert(name.clone(), (Found { name, origin, launch }, file));
        }
    }
    for (found, _) in found.values() {
        let (name, path) = (found.name.clone(), found.launch.program.clone());
        check_name(&name).map_err(|why| DiscoveryError::Name { path: path.clone(), why })?;
        if built_in.contains(&name) {
            return Err(DiscoveryError::BuiltIn { name, path });
        }
    }
    Ok(found.into_values().map(|(found, _)| found).collect())
}

/// What `[plugins.NAME]` starts.
fn named(project: &Path, name: &str, settings: &PluginSettings) -> Result<Launch, DiscoveryError> {
    let program = std::path::absolute(project.join(&settings.path)).unwrap_or(settings.path.clone());
    let refuse =
        |why: String| DiscoveryError::NoProgram { name: name.to_owned(), path: program.clone(), why };
    if !is_program(&program).map_err(|error| refuse(format!("can't be read: {error}")))? {
        return Err(refuse("is no program: it has no permission to be run".to_owned()));
    }
    if let Some(pinned) = &settings.sha256 {
        let found = ProgramDigest::of_file(&program);
        let found = found.map_err(|error| refuse(format!("can't be read: {error}")))?;
        if found != *pinned {
            let (name, path, pinned) = (name.to_owned(), program, pinned.clone());
            return Err(DiscoveryError::Digest { name, path, pinned, found });
        }
    }
    let memory_bytes = settings.memory_mib.map_or(MEMORY_BYTES, |mib| mib * 1024 * 1024);
    Ok(Launch { program, args: Vec::new(), env: settings.env.clone(), memory_bytes })
}

/// The project's `plugins/`, and the folders in it: one a plugin, with what belongs to it.
fn own_folders(project: &Path) -> Vec<PathBuf> {
    let top = project.join(PROJECT_FOLDER);
    let entries = std::fs::read_dir(&top).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.insert(0, top);
    folders
}

/// The plugins in a folder, by name. A folder that isn't there has none.
fn programs_in(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_prefix(FILE_PREFIX)?.to_owned();
            let path = std::path::absolute(entry.path()).ok()?;
            is_program(&path).unwrap_or(false).then_some((name, path))
        })
        .collect();
    found.sort();
    found
}

fn is_program(path: &Path) -> std::io::Result<bool> {
    let metadata = std::fs::metadata(path)?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Asks all of `found` what they are. One that can't be used is a step that says so.
pub async fn load(found: Vec<Found>, guard: &Guard, project: &Path) -> Vec<(Listed, Arc<dyn Step>)> {
    let mut loaded = Vec::with_capacity(found.len());
    let mut asked = JoinSet::new();
    let mut waiting = found.into_iter();
    loop {
        while asked.len() < MAX_DESCRIBING
            && let Some(found) = waiting.next()
        {
            let (guard, project) = (guard.clone(), project.to_owned());
            asked.spawn(async move {
                let Found { name, origin, launch } = found;
                let path = launch.program.clone();
                let plugin = Plugin::describe(Some(&name), &guard, launch, &project).await;
                listed(name, origin, path, plugin)
            });
        }
        match asked.join_next().await {
            Some(Ok(one)) => loaded.push(one),
            // Asking doesn't panic, and nobody aborts it.
            Some(Err(_)) => {}
            None => break,
        }
    }
    loaded.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    loaded
}

fn listed(
    name: String,
    origin: Origin,
    path: PathBuf,
    plugin: Result<Plugin, StepError>,
) -> (Listed, Arc<dyn Step>) {
    match plugin {
        Ok(plugin) => {
            let sha256 = Some(plugin.digest().clone());
            (Listed { name, origin, path, sha256, unusable: None }, Arc::new(plugin))
        }
        Err(why) => {
            let record = why.to_record();
            let text = std::iter::once(record.message).chain(record.causes).collect::<Vec<_>>().join(": ");
            let sha256 = ProgramDigest::of_file(&path).ok();
            let step = Unusable { name: name.clone(), why };
            (Listed { name, origin, path, sha256, unusable: Some(text) }, Arc::new(step))
        }
    }
}
