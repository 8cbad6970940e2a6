//! What `migration.toml` says about rewriting; nothing of it is needed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use migrate_engine::Source;
use migrate_plugin_host::part;
use migrate_steps::rules::{Inputs, RuleSet};
use migrate_steps::site::AwsAccess;
use serde::Deserialize;

use crate::args::{Cli, RuleFileArgs};
use crate::commands::MIGRATION_FILE;
use crate::failure::Failure;

/// The parts of the file that rules read; the rest is the workflows'.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Site {
    rewrite: Inputs,
    storage_classes: BTreeMap<String, String>,
    rules: Vec<PathBuf>,
    source: Side,
    target: Side,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Side {
    registry: Option<Registry>,
    aws: Option<AwsAccess>,
}

#[derive(Debug, Deserialize)]
struct Registry {
    host: String,
}

/// The parts that only rules read, whatever a workflow refers to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OfRules {
    /// Read for its mistakes.
    rewrite: Inputs,
    rules: Vec<PathBuf>,
}

/// Finds mistakes in `[rewrite]` and in the files of `rules` that `file` (`migration.toml`) names.
///
/// # Errors
/// When there are some.
pub fn check(cli: &Cli, file: &Source) -> Result<(), Failure> {
    let OfRules { rules, .. } = part(file.text())?;
    let own: Vec<PathBuf> = rules.iter().map(|file| cli.project.join(file)).collect();
    RuleSet::with_files(&own)?;
    Ok(())
}

/// The rules and inputs of this project.
pub struct Knowledge {
    /// Shipped rules and a team's own.
    pub rules: RuleSet,
    /// What the rules need.
    pub inputs: Inputs,
    /// How AWS is reached.
    pub aws: Option<AwsAccess>,
}

/// Reads them.
///
/// # Errors
/// When a file is there and wrong.
pub fn knowledge(cli: &Cli, args: &RuleFileArgs) -> Result<Knowledge, Failure> {
    let path = cli.project.join(MIGRATION_FILE);
    let site = if path.exists() { part(Source::read(&path)?.text())? } else { Site::default() };
    let own = site.rules.iter().map(|file| cli.project.join(file));
    let files: Vec<PathBuf> = own.chain(args.files.iter().cloned()).collect();
    let mut registries = Vec::new();
    if let (Some(from), Some(to)) = (site.source.registry, site.target.registry) {
        registries.push((from.host, to.host));
    }
    Ok(Knowledge {
        aws: site.source.aws,
        rules: RuleSet::with_files(&files)?,
        inputs: site.rewrite.or(&registries, &site.storage_classes),
    })
}
