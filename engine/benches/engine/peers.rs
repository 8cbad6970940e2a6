//! Others that do the same: GNU make, DBOS and Snakemake, each with no-op nodes in a row.
//!
//! Installed from Debian and PyPI, with pinned versions, under the target folder. Each is measured
//! as a whole process; what a node costs is told by the difference between a long and a short row.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::series::Table;

const DBOS_VERSION: &str = "3.4.0";
const SNAKEMAKE_VERSION: &str = "9.27.1";

/// DBOS: each step's result is committed to SQLite before the next begins, with its defaults.
const DBOS_PROGRAM: &str = r#"
import sys
from dbos import DBOS

DBOS(config={
    "name": "bench",
    "system_database_url": "sqlite:///state.sqlite",
    "run_admin_server": False,
    "log_level": "ERROR",
})

@DBOS.step()
def noop(at):
    return None

@DBOS.workflow()
def row(nodes):
    for at in range(nodes):
        noop(at)

DBOS.launch()
row(int(sys.argv[1]))
DBOS.destroy()
"#;

/// Snakemake: each job is a process that does nothing, and a file that says it is done.
/// It goes through its graph by recursion, and Python's limit is below the long row.
const SNAKEFILE: &str = r#"
import sys
sys.setrecursionlimit(100_000)
N = int(config["nodes"])

rule all:
    input: f"n{N}"

rule first:
    output: touch("n1")
    shell: "true"

rule noop:
    input: lambda wildcards: f"n{int(wildcards.at) - 1}"
    output: touch("n{at}")
    wildcard_constraints: at="[0-9]+"
    shell: "true"

ruleorder: first > noop
"#;

/// The installed peers.
pub struct Peers {
    dbos: PathBuf,
    snakemake: PathBuf,
}

impl Peers {
    /// Installs what is missing.
    pub fn install(bench: &Path) -> Result<Self> {
        debian("make", Command::new("make").arg("--version"))?;
        debian("python3-venv", Command::new("python3").args(["-c", "import ensurepip, venv"]))?;
        let dbos = environment(bench, "dbos", DBOS_VERSION)?;
        let snakemake = environment(bench, "snakemake", SNAKEMAKE_VERSION)?;
        Ok(Self { dbos, snakemake })
    }

    /// What was compared with.
    pub fn versions(&self) -> Value {
        let make = Command::new("make").arg("--version").output();
        let make =
            make.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let make = make.lines().next().unwrap_or_default().to_owned();
        json!({ "make": make, "dbos": DBOS_VERSION, "snakemake": SNAKEMAKE_VERSION })
    }

    /// One process a node, nothing remembered.
    pub fn make(&self, nodes: usize, folder: &Path, table: &mut Table) -> Result<()> {
        let mut text = format!(".PHONY: {}\n", (0..=nodes).map(|at| format!("n{at} ")).collect::<String>());
        text.extend((1..=nodes).map(|at| format!("n{at}: n{}\n\t@true\n", at - 1)));
        std::fs::write(folder.join("Makefile"), text + "n0:\n")?;
        let command = ["make", "--silent", &format!("n{nodes}")].map(str::to_owned);
        timed(&format!("make-{nodes}"), nodes, folder, &command, table)
    }

    /// One durable step a node.
    pub fn dbos(&self, nodes: usize, folder: &Path, table: &mut Table) -> Result<()> {
        std::fs::write(folder.join("row.py"), DBOS_PROGRAM)?;
        let python = self.dbos.join("bin/python").display().to_string();
        let command = [python, "row.py".to_owned(), nodes.to_string()];
        timed(&format!("dbos-{nodes}"), nodes, folder, &command, table)
    }

    /// One job a node.
    pub fn snakemake(
        &self,
        settings: Settings,
        nodes: usize,
        folder: &Path,
        table: &mut Table,
    ) -> Result<()> {
        std::fs::write(folder.join("Snakefile"), SNAKEFILE)?;
        let program = self.snakemake.join("bin/snakemake").display().to_string();
        let config = format!("nodes={nodes}");
        let words = ["--cores", "1", "--config", &config].into_iter().chain(settings.words().iter().copied());
        let command: Vec<String> = std::iter::once(program).chain(words.map(str::to_owned)).collect();
        timed(&format!("{}-{nodes}", settings.name()), nodes, folder, &command, table)?;
        // It must have done all of it.
        if folder.join(format!("n{nodes}")).exists() { Ok(()) } else { Err("snakemake made nothing".into()) }
    }
}

/// How Snakemake is asked to work.
#[derive(Clone, Copy)]
pub enum Settings {
    /// As it is without being told.
    Default,
    /// As fast as we could make it.
    Fastest,
}

impl Settings {
    pub const ALL: [Self; 2] = [Self::Default, Self::Fastest];

    fn name(self) -> &'static str {
        match self {
            Self::Default => "snakemake-default",
            Self::Fastest => "snakemake-fastest",
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[],
            Self::Fastest => &["--quiet", "all", "--scheduler", "greedy"],
        }
    }
}

/// Runs `command` in `folder` and notes how long it took. What it says is only shown if it fails.
fn timed(name: &str, nodes: usize, folder: &Path, command: &[String], table: &mut Table) -> Result<()> {
    let start = Instant::now();
    let output =
        Command::new(&command[0]).args(&command[1..]).current_dir(folder).stdin(Stdio::null()).output()?;
    let wall_s = start.elapsed().as_secs_f64();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} ended with {}:\n{said}", output.status).into());
    }
    table.add(name, nodes, "wall-s", wall_s);
    Ok(())
}

/// A virtual environment with one package in it.
fn environment(bench: &Path, package: &str, version: &str) -> Result<PathBuf> {
    let folder = bench.join(format!("{package}-{version}"));
    let ready = folder.join("ready");
    if ready.exists() {
        return Ok(folder);
    }
    eprintln!("bench: installing {package} {version}");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = folder.join("bin/pip");
    succeed(Command::new(pip).args(["install", "--quiet", &format!("{package}=={version}")]))?;
    std::fs::write(ready, "")?;
    Ok(folder)
}

/// Installs Debian's `package` unless `probe` succeeds.
fn debian(package: &str, probe: &mut Command) -> Result<()> {
    if probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    eprintln!("bench: installing {package}");
    succeed(Command::new("apt-get").args(["update", "--quiet"]))?;
    succeed(Command::new("apt-get").args(["install", "--yes", "--quiet", package]))
}

/// stdout is for figures: what installers say goes to stderr.
fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(std::io::stderr()).status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}").into()) }
}
