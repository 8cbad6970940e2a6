//! The images of the sandbox: what the clusters need to run, and what the estate runs.
//!
//! Owns what is in each image. Every one is made here from pinned binaries and Debian packages;
//! none is pulled from a registry of the world.

use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::layout::{Layout, Tool, versions};
use crate::oci::{Artifact, Built, ImageSpec, Platform, Rootfs, RunConfig, build, debs};
use crate::process;
use crate::tools::Staging;

/// Path of every image's programs.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Debian's PostgreSQL depends on these for JIT compilation, Perl tools, PAM modules and
/// installation scripts, none of which the image uses.
const NOT_FOR_POSTGRES: [&str; 33] = [
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "libaudit-common",
    "libdb5",
    "libfile-find",
    "libgdbm",
    "libjson-perl",
    "libllvm",
    "libnumber-compare",
    "libpam-modules",
    "libpam-runtime",
    "libperl",
    "libsemanage",
    "libsepol",
    "libtext-glob",
    "libz3",
    "locales",
    "libc-l10n",
    "lsb-base",
    "netbase",
    "openssl",
    "passwd",
    "perl",
    "postgresql-client-common",
    "postgresql-common",
    "sensible-utils",
    "ssl-cert",
    "sysvinit-utils",
    "ucf",
    "usrmerge",
    "readline-common",
];

/// The pause image's only program: sleeps, reaps what is orphaned to it, and ends when told.
const PAUSE: &str = "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 86400 & wait $!; done\n";

/// Images that a cluster needs before it can run anything: pause, Velero and its plugin. To be
/// imported into containerd under the names they are built with. Blocks.
///
/// # Errors
/// When Debian's busybox or one of the built binaries is not there.
pub fn cluster_images(layout: &Layout) -> Result<Vec<Built>> {
    let busybox = busybox(layout)?;
    let applets = applets(&busybox)?;
    let velero = |binary| layout.bin(Tool::Velero, binary);
    let pause =
        Rootfs::new().busybox(&busybox, &["sh".to_owned(), "sleep".to_owned()]).file("pause", 0o755, PAUSE);
    let pause = ImageSpec::single("pause:3.10", pause, runs(&["/pause"], &[]));

    let server = Rootfs::new()
        .busybox(&busybox, &applets)
        .file("etc/ssl/certs/ca-certificates.crt", 0o644, ca_certificates()?)
        .program("velero", &velero("velero"))
        .program("velero-restore-helper", &velero("velero-restore-helper"));
    let server_name = format!("velero/velero:{}", versions::VELERO);
    let server = ImageSpec::single(&server_name, server, runs(&["/velero"], &["HOME=/root"]));

    let binary = layout.bin(Tool::VeleroPluginForAws, "velero-plugin-for-aws");
    let plugin = Rootfs::new().busybox(&busybox, &applets).program("plugins/velero-plugin-for-aws", &binary);
    let plugin_name = format!("velero/velero-plugin-for-aws:{}", versions::VELERO_PLUGIN_FOR_AWS);
    let copy = ["/bin/cp", "/plugins/velero-plugin-for-aws", "/target/velero-plugin-for-aws"];
    let plugin = ImageSpec::single(&plugin_name, plugin, runs(&copy, &[]));

    let images = layout.images();
    std::fs::create_dir_all(&images).into_diagnostic()?;
    Ok(vec![
        build(&images, "registry.k8s.io", &pause)?,
        build(&images, "docker.io", &server)?,
        build(&images, "docker.io", &plugin)?,
    ])
}

/// The estate's images: PostgreSQL, the web server, the file holder and the two-platform report. Blocks.
///
/// # Errors
/// When a Debian package can't be downloaded or Go can't build the report's program.
pub fn estate_images(layout: &Layout) -> Result<Vec<Built>> {
    let busybox = busybox(layout)?;
    let applets = applets(&busybox)?;
    let specs = [
        postgres(layout, &busybox, &applets)?,
        ImageSpec::single(
            "shop/web:1.0",
            Rootfs::new()
                .busybox(&busybox, &applets)
                .file("entrypoint.sh", 0o755, include_str!("../estate/images/web.sh"))
                .file("www/healthz", 0o644, "ok\n")
                .file("www/index.html", 0o644, "<!doctype html><title>shop</title><h1>shop</h1>\n"),
            runs(&["/entrypoint.sh"], &[]),
        ),
        ImageSpec::single(
            "shop/files:1.0",
            Rootfs::new().busybox(&busybox, &applets).file("entrypoint.sh", 0o755, PAUSE),
            runs(&["/entrypoint.sh"], &[]),
        ),
        report(layout)?,
    ];
    std::fs::create_dir_all(layout.images()).into_diagnostic()?;
    specs.iter().map(|spec| build(&layout.images(), "docker.io", spec)).collect()
}

fn postgres(layout: &Layout, busybox: &Path, applets: &[String]) -> Result<ImageSpec> {
    let packages = debs(&layout.cache(), &["postgresql-15", "tzdata"], &NOT_FOR_POSTGRES)?;
    let rootfs = Rootfs::new()
        .packages(packages)
        .busybox(busybox, applets)
        .directory("var/lib/postgresql", 0o755)
        .directory("run/postgresql", 0o1777)
        .file("entrypoint.sh", 0o755, include_str!("../estate/images/postgres.sh"));
    let path = format!("{PATH}:/usr/lib/postgresql/15/bin");
    let run = RunConfig {
        entrypoint: vec!["/entrypoint.sh".to_owned()],
        cmd: Vec::new(),
        env: vec![path, "PGDATA=/var/lib/postgresql/data/pgdata".to_owned(), "LANG=C.UTF-8".to_owned()],
    };
    Ok(ImageSpec::single("shop/postgres:15", rootfs, run))
}

/// A static Go program for two platforms, with an SBOM that refers to the index.
fn report(layout: &Layout) -> Result<ImageSpec> {
    let mut platforms = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let program = build_report(layout, architecture)?;
        platforms.push(Platform {
            architecture: architecture.to_owned(),
            rootfs: Rootfs::new().program("report", &program),
            run: runs(&["/report"], &[]),
        });
    }
    let sbom = include_bytes!("../estate/images/report.spdx.json").to_vec();
    let referrers = vec![Artifact { kind: "application/spdx+json".to_owned(), content: sbom }];
    Ok(ImageSpec { name: "shop/report:1.0".to_owned(), platforms, referrers })
}

fn build_report(layout: &Layout, architecture: &str) -> Result<PathBuf> {
    let source = layout.workspace().join("sandbox/estate/images/report.go");
    let text = std::fs::read(&source).into_diagnostic()?;
    let key = crate::oci::sha256(&text).replace("sha256:", "");
    let program = layout.cache().join("report").join(format!("{architecture}-{}", &key[..16]));
    if program.exists() {
        return Ok(program);
    }
    std::fs::create_dir_all(layout.cache().join("report")).into_diagnostic()?;
    let unfinished = program.with_extension("unfinished");
    let output = std::process::Command::new("go")
        .args(["build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o"])
        .arg(&unfinished)
        .arg(&source)
        .envs([("CGO_ENABLED", "0"), ("GOOS", "linux"), ("GOARCH", architecture), ("GOFLAGS", "")])
        .output()
        .into_diagnostic()
        .wrap_err("failed to start go")?;
    if !output.status.success() {
        bail!("go can't build the report for {architecture}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&unfinished, &program).into_diagnostic()?;
    Ok(program)
}

/// The static busybox of Debian, unpacked into the cache.
fn busybox(layout: &Layout) -> Result<PathBuf> {
    let packages = debs(&layout.cache(), &["busybox-static"], &[])?;
    let program = layout.cache().join("busybox/bin/busybox");
    if !program.exists() {
        let whole = Staging::new(&layout.cache().join("busybox"))?;
        for package in &packages {
            let package = package.to_string_lossy();
            process::run("dpkg-deb", &["--extract", &package, &whole.path().to_string_lossy()])?;
        }
        whole.finish()?;
    }
    Ok(program)
}

/// All that busybox can do: entry scripts, probes and the file checks of `verify.data` use some of it.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let names = process::run(busybox, &["--list"])?;
    Ok(names.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}

fn ca_certificates() -> Result<Vec<u8>> {
    let path = "/etc/ssl/certs/ca-certificates.crt";
    std::fs::read(path).into_diagnostic().wrap_err_with(|| format!("failed to read {path}"))
}

fn runs(entrypoint: &[&str], env: &[&str]) -> RunConfig {
    let env = std::iter::once(PATH).chain(env.iter().copied());
    RunConfig {
        entrypoint: entrypoint.iter().map(|&s| s.to_owned()).collect(),
        cmd: Vec::new(),
        env: env.map(str::to_owned).collect(),
    }
}
