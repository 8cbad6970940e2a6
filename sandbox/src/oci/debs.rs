//! Debian packages with what they depend on, downloaded once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::process;

/// Written last: the names of a complete download, one a line.
const COMPLETE: &str = "complete";

/// The `.deb` files of `wanted` and of all they depend on, except packages whose name starts with
/// one of `without`. Downloaded with apt into `cache` the first time; afterwards needs no network,
/// and stays at the versions of the first time.
///
/// # Errors
/// When apt doesn't know a package or can't download it.
pub fn debs(cache: &Path, wanted: &[&str], without: &[&str]) -> Result<Vec<PathBuf>> {
    let folder = cache.join("debs").join(wanted.join("+"));
    let complete = folder.join(COMPLETE);
    if let Ok(names) = fs::read_to_string(&complete) {
        return Ok(names.lines().map(|name| folder.join(name)).collect());
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).into_diagnostic()?;
    }
    fs::create_dir_all(&folder).into_diagnostic()?;
    let packages = match download(&folder, wanted, without) {
        Ok(packages) => packages,
        Err(_) => {
            // Lists that are missing, or older than what the mirror has.
            process::run("apt-get", &["update", "-q"])?;
            download(&folder, wanted, without)?
        }
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).into_diagnostic()? {
        let name = entry.into_diagnostic()?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".deb") {
            names.push(name);
        }
    }
    if names.len() != packages.len() {
        bail!("apt-get downloaded {} of {} packages", names.len(), packages.len());
    }
    names.sort();
    fs::write(&complete, names.join("\n")).into_diagnostic()?;
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// Downloads into `folder`, and returns the packages' names.
fn download(folder: &Path, wanted: &[&str], without: &[&str]) -> Result<Vec<String>> {
    let packages = resolve(folder, wanted, without)?;
    let output = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
        .args(&packages)
        .current_dir(folder)
        .output()
        .into_diagnostic()
        .wrap_err("failed to start apt-get")?;
    if !output.status.success() {
        bail!("apt-get can't download packages: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(packages)
}

/// Asks apt what `wanted` needs on a system where nothing is installed.
fn resolve(folder: &Path, wanted: &[&str], without: &[&str]) -> Result<Vec<String>> {
    let empty = folder.join("nothing-installed");
    fs::write(&empty, "").into_diagnostic()?;
    let archives = folder.join("archives");
    fs::create_dir_all(archives.join("partial")).into_diagnostic()?;
    let output = Command::new("apt-get")
        .arg("-o")
        .arg(format!("Dir::State::status={}", empty.display()))
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        .args(["-o", "Debug::NoLocking=1", "-y", "-qq", "--no-install-recommends", "--print-uris", "install"])
        .args(wanted)
        .output()
        .into_diagnostic()
        .wrap_err("failed to start apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get can't resolve {}: {}",
            wanted.join(", "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(package_names(&String::from_utf8_lossy(&output.stdout), without))
}

/// The package names of `apt-get --print-uris`: `'URI' NAME_VERSION_ARCH.deb SIZE HASH` a line.
fn package_names(uris: &str, without: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = uris
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter_map(|file| file.split('_').next())
        .filter(|name| !without.iter().any(|w| name.starts_with(w)))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_apts_listing() {
        let uris = "Reading lists\n\
            'http://deb/libc6_2.36-9_amd64.deb' libc6_2.36-9_amd64.deb 10 MD5Sum:0\n\
            'http://deb/libcrypt1_4.deb' libcrypt1_1%3a4.4.33-2_amd64.deb 10 \n\
            'http://deb/perl-base_5.deb' perl-base_5_amd64.deb 10 \n";
        assert_eq!(package_names(uris, &["perl"]), ["libc6", "libcrypt1"]);
    }
}
