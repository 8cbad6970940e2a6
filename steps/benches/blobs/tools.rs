//! The programs that the bench needs, with pinned versions, kept under the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Result;

const VERSITYGW: &str = "v1.8.0";
const RCLONE: &str = "v1.76.0";
const AZURITE: &str = "3.37.0";
const AZCOPY: &str = "10.32.2";

/// Where they are.
pub struct Tools {
    pub versitygw: PathBuf,
    pub azurite: PathBuf,
    pub rclone: PathBuf,
    pub azcopy: PathBuf,
}

impl Tools {
    /// Installs what is missing.
    pub fn install(bench: &Path, peers: bool) -> Result<Self> {
        let bin = bench.join("bin");
        let versitygw = go(&bin, "versitygw", "github.com/versity/versitygw/cmd/versitygw", VERSITYGW)?;
        let azurite = npm(bench, "azurite", "azurite", AZURITE, "dist/src/blob/main.js")?;
        let mut tools = Self { versitygw, azurite, rclone: PathBuf::new(), azcopy: PathBuf::new() };
        if peers {
            tools.rclone = go(&bin, "rclone", "github.com/rclone/rclone", RCLONE)?;
            let (package, program) = ("@azure-tools/azcopy-linux", "dist/bin/azcopy_linux_amd64");
            tools.azcopy = npm(bench, "azcopy", package, AZCOPY, program)?;
            // The package forgets its run bit.
            succeed(Command::new("chmod").arg("+x").arg(&tools.azcopy))?;
            // A library that it is linked with, where its own installer would have seen to it.
            let runs = Command::new(&tools.azcopy).arg("--version").output();
            if !runs.is_ok_and(|output| output.status.success()) {
                succeed(Command::new("apt-get").args(["install", "--yes", "--quiet", "libsecret-1-0"]))?;
            }
        }
        Ok(tools)
    }

    /// What was compared with, and over what.
    pub fn versions() -> Value {
        json!({ "rclone": RCLONE, "azcopy": AZCOPY, "versitygw": VERSITYGW, "azurite": AZURITE })
    }
}

fn go(bin: &Path, program: &str, module: &str, version: &str) -> Result<PathBuf> {
    let kept = bin.join(format!("{program}-{version}"));
    if !kept.is_file() {
        eprintln!("bench: building {program} {version}, once");
        let mut install = Command::new("go");
        install.args(["install", "-ldflags", "-s -w", &format!("{module}@{version}")]);
        succeed(install.env("GOBIN", bin).env("CGO_ENABLED", "0"))?;
        std::fs::rename(bin.join(program), &kept)?;
    }
    Ok(kept)
}

fn npm(bench: &Path, name: &str, package: &str, version: &str, program: &str) -> Result<PathBuf> {
    let folder = bench.join(format!("{name}-{version}"));
    let program = folder.join("node_modules").join(package).join(program);
    if !program.is_file() {
        eprintln!("bench: installing {package} {version}, once");
        std::fs::create_dir_all(&folder)?;
        let mut install = Command::new("npm");
        install.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        succeed(install.arg("--prefix").arg(&folder).arg(format!("{package}@{version}")))?;
    }
    Ok(program)
}

/// stdout is for figures: what installers say goes to stderr.
pub fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(std::io::stderr()).status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}").into()) }
}
