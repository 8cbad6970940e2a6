//! What has to be on the machine, and how it gets there.
//!
//! [`ensure`] first looks for all that the sandbox itself can't install and lists what is missing in one error, before
//! anything is started or changed. Then it installs Debian packages and builds or downloads the pinned tools. Each of
//! those lands in a folder keyed by version through a rename, so a half-made one never counts; what is there is never
//! made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};

use crate::layout::{self, Layout, Tool, versions};
use crate::{definitions, process};

/// Debian packages, each with what it is for.
const PACKAGES: [(&str, &str); 12] = [
    ("etcd-server", "the clusters' store"),
    ("containerd", "runs the pods"),
    ("runc", "runs the pods"),
    ("containernetworking-plugins", "the pods' network"),
    ("iproute2", "network namespaces"),
    ("iptables", "Kubernetes services"),
    ("conntrack", "Kubernetes services"),
    ("docker-registry", "stands for ECR's and ACR's data planes"),
    ("busybox-static", "the shell in the sandbox's own images"),
    // Its own cluster is never started; the tests make one of their own.
    ("postgresql", "the shared store in the engine's tests"),
    ("skopeo", "an independent client in the tests of images"),
    ("sqlite3", "a database in the tests of the example plugins"),
];

/// Go below this can't read the modules in `sandbox/tools`.
const GO_MINIMUM: (u32, u32) = (1, 26);
/// Azurite's own minimum.
const NODE_MINIMUM: u32 = 20;

/// Something to do before the sandbox can start.
enum Job {
    Packages(Vec<&'static str>),
    Go(Tool),
    Azurite,
    Moto,
    Definitions,
}

/// Checks and installs. Says what it does on stderr; silent when all is there.
pub fn ensure(layout: &Layout) -> Result<()> {
    layout::check_root(layout)?;
    let jobs = jobs(layout);
    refuse_if_missing(&jobs)?;
    layout.create()?;
    if jobs.is_empty() {
        return Ok(());
    }
    eprintln!("tools: {} to get ready; kept afterwards under {}", jobs.len(), layout.root().display());
    if jobs.iter().any(|job| matches!(job, Job::Go(_))) {
        eprintln!("tools: building Kubernetes and Velero from source takes about 15 minutes, once");
    }
    for (at, job) in jobs.iter().enumerate() {
        let what = format!("{} of {}: {}", at + 1, jobs.len(), job.name());
        eprintln!("tools: {what} …");
        let started = Instant::now();
        let tell = |passed: Duration| eprintln!("tools: {what} … {} min", passed.as_secs() / 60);
        with_heartbeat(HEARTBEAT, tell, || job.run(layout)).wrap_err_with(|| {
            format!("can't get {} ready. Run the same command again: what is built is kept", job.name())
        })?;
        eprintln!("tools: {what} ready in {:.0} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// How often a long build says that it goes on: seldom enough to read, often enough not to be taken for dead.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Does `work`, and calls `tell` with the time since it began, every `interval`.
fn with_heartbeat<T>(interval: Duration, tell: impl Fn(Duration) + Send, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let (done, waits) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                tell(started.elapsed());
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// What is still to be done.
fn jobs(layout: &Layout) -> Vec<Job> {
    let mut jobs = Vec::new();
    let absent: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).filter(|name| !installed(name)).collect();
    if !absent.is_empty() {
        jobs.push(Job::Packages(absent));
    }
    for tool in Tool::ALL {
        if !tool.binaries().iter().all(|binary| layout.bin(tool, binary).is_file()) {
            jobs.push(Job::Go(tool));
        }
    }
    if !layout.azurite_blob().is_file() {
        jobs.push(Job::Azurite);
    }
    if !layout.moto_server().is_file() {
        jobs.push(Job::Moto);
    }
    if !definitions::are_there(layout) {
        jobs.push(Job::Definitions);
    }
    jobs
}

/// One error for everything that a person has to install.
fn refuse_if_missing(jobs: &[Job]) -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root: namespaces, mounts and cgroups are made; run it as root".to_owned());
    }
    if jobs.iter().any(|job| matches!(job, Job::Go(_) | Job::Definitions)) {
        missing.extend(missing_go());
    }
    // Azurite runs in Node.js, so it is needed even when all is built.
    missing.extend(missing_node());
    if jobs.iter().any(|job| matches!(job, Job::Azurite)) && !works("npm", &["--version"]) {
        missing.push("npm: installs Azurite; install Node.js with npm".to_owned());
    }
    if jobs.iter().any(|job| matches!(job, Job::Moto)) && !works("python3", &["-c", "import venv, ensurepip"])
    {
        missing.push("python3 with venv: runs moto; install python3 and python3-venv".to_owned());
    }
    for (program, package) in [("setsid", "util-linux"), ("nsenter", "util-linux"), ("mount", "mount")] {
        if !works(program, &["--version"]) {
            missing.push(format!("{program}: starts the clusters; install {package}"));
        }
    }
    for job in jobs {
        if let Job::Packages(names) = job
            && !works("apt-get", &["--version"])
        {
            for name in names {
                let what = PACKAGES.iter().find(|(n, _)| n == name).map_or("", |(_, what)| what);
                missing
                    .push(format!("{name}: {what}; there is no apt-get here: the sandbox needs Debian 12"));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(|line| format!("  - {line}")).collect();
    bail!("the sandbox can't run here; nothing was started. Missing:\n{}", list.join("\n"))
}

fn missing_go() -> Option<String> {
    let (major, minor) = GO_MINIMUM;
    let why = format!("go {major}.{minor} or newer: builds Kubernetes and Velero; see https://go.dev/dl");
    let Ok(text) = process::run("go", &["env", "GOVERSION"]) else { return Some(why) };
    let version = text.trim().trim_start_matches("go");
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < GO_MINIMUM).then(|| format!("{why} (found {version})"))
}

fn missing_node() -> Option<String> {
    let why = format!("node {NODE_MINIMUM} or newer: runs Azurite; see https://nodejs.org");
    let Ok(text) = process::run("node", &["--version"]) else { return Some(why) };
    let version = text.trim().trim_start_matches('v');
    let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (major < NODE_MINIMUM).then(|| format!("{why} (found {version})"))
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Packages(names) => format!("Debian packages {}", names.join(", ")),
            Job::Go(tool) => format!("{} {}", tool.module(), tool.version()),
            Job::Azurite => format!("azurite {}", versions::AZURITE),
            Job::Moto => format!("moto {}", versions::MOTO),
            Job::Definitions => "definitions of the kinds on AKS".to_owned(),
        }
    }

    fn run(&self, layout: &Layout) -> Result<()> {
        match self {
            Job::Packages(names) => install_packages(names),
            Job::Go(tool) => build(layout, *tool),
            Job::Azurite => install_azurite(layout),
            Job::Moto => install_moto(layout),
            Job::Definitions => {
                let staging = Staging::new(&layout.definitions())?;
                definitions::fetch(layout, staging.path())?;
                staging.finish()
            }
        }
    }
}

fn works(program: &str, args: &[&str]) -> bool {
    process::run(program, args).is_ok()
}

fn installed(package: &str) -> bool {
    process::run("dpkg-query", &["-W", "-f", "${Status}", package])
        .is_ok_and(|status| status.ends_with("install ok installed"))
}

/// A machine that has just started may be updating itself; `apt-get` by itself doesn't wait for that.
const WAIT_FOR_LOCK: [&str; 2] = ["-o", "DPkg::Lock::Timeout=600"];

/// Debian packages. Their own services must not start: `policy-rc.d` forbids it while apt runs.
fn install_packages(names: &[&str]) -> Result<()> {
    let _policy = ServicePolicy::forbid()?;
    quiet(Command::new("apt-get").args(["update", "-q"]).args(WAIT_FOR_LOCK))?;
    quiet(
        Command::new("apt-get")
            .args(["install", "-q", "-y", "--no-install-recommends"])
            .args(WAIT_FOR_LOCK)
            .args(names)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// `/usr/sbin/policy-rc.d` for as long as it lives; one that is there already is left alone.
struct ServicePolicy {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl ServicePolicy {
    fn forbid() -> Result<ServicePolicy> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(ServicePolicy { ours: false });
        }
        // 101: "action forbidden by policy".
        let write = fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)));
        write.into_diagnostic().wrap_err_with(|| format!("can't write {POLICY}"))?;
        Ok(ServicePolicy { ours: true })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours {
            // Best effort: left behind, it only keeps packages from starting services.
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Builds a tools module. Kubernetes gets its version by the linker, or clients fail to parse it; cgo is off, since
/// Velero runs in an image without a C library.
fn build(layout: &Layout, tool: Tool) -> Result<()> {
    let staging = Staging::new(&layout.bin_dir(tool))?;
    let mut flags = String::from("-s -w");
    if tool == Tool::Kubernetes {
        let version = tool.version();
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
        for (name, value) in [
            ("Version", version),
            ("Major", major),
            ("Minor", minor),
            ("TreeState", "clean"),
            ("Commit", "sandbox"),
        ] {
            flags.push_str(&format!(" -X k8s.io/component-base/version.git{name}={value}"));
        }
    }
    if tool == Tool::Velero {
        flags.push_str(&format!(
            " -X github.com/vmware-tanzu/velero/pkg/buildinfo.Version={}",
            tool.version()
        ));
    }
    quiet(
        Command::new("go")
            .args(["build", "-ldflags", &flags, "-o"])
            .arg(format!("{}/", staging.path().display()))
            .arg("tool")
            .current_dir(layout.tool_module(tool))
            .env("CGO_ENABLED", "0"),
    )?;
    for binary in tool.binaries() {
        if !staging.path().join(binary).is_file() {
            bail!("go built no {binary}");
        }
    }
    staging.finish()
}

/// Azurite by npm, locked: `package-lock.json` is part of the project.
fn install_azurite(layout: &Layout) -> Result<()> {
    let staging = Staging::new(&layout.azurite_dir())?;
    let module = layout.workspace().join("sandbox/tools/azurite");
    for file in ["package.json", "package-lock.json"] {
        fs::copy(module.join(file), staging.path().join(file))
            .into_diagnostic()
            .wrap_err_with(|| format!("can't copy {file}"))?;
    }
    quiet(
        Command::new("npm")
            .args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(staging.path()),
    )?;
    staging.finish()
}

/// moto in a Python environment of its own, with the versions that it was tried with. Its scripts carry the folder's name, so it is made in place, and the
/// server's script, written last by pip, is what counts.
fn install_moto(layout: &Layout) -> Result<()> {
    let dir = layout.moto_dir();
    remove_dir(&dir)?;
    quiet(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    let pip = quiet(
        Command::new(dir.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint"])
            .arg(layout.workspace().join("sandbox/tools/moto/constraints.txt"))
            .arg(format!("moto[server]=={}", versions::MOTO)),
    );
    if pip.is_err() {
        remove_dir(&dir)?;
    }
    pip
}

/// A folder that becomes another by rename when it is complete.
pub struct Staging {
    made: tempfile::TempDir,
    goal: PathBuf,
}

impl Staging {
    /// An empty folder beside `goal`.
    pub fn new(goal: &Path) -> Result<Staging> {
        let parent = goal.parent().ok_or_else(|| miette!("{} has no folder", goal.display()))?;
        let make = || -> std::io::Result<tempfile::TempDir> {
            fs::create_dir_all(parent)?;
            tempfile::Builder::new().prefix(".making-").tempdir_in(parent)
        };
        let made = make()
            .into_diagnostic()
            .wrap_err_with(|| format!("can't make a folder in {}", parent.display()))?;
        Ok(Staging { made, goal: goal.to_path_buf() })
    }

    /// Where it is made.
    pub fn path(&self) -> &Path {
        self.made.path()
    }

    /// Puts it in the goal's place.
    pub fn finish(self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        remove_dir(&self.goal)?;
        let path = self.made.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).into_diagnostic()?;
        fs::rename(&path, &self.goal)
            .into_diagnostic()
            .wrap_err_with(|| format!("can't rename {} to {}", path.display(), self.goal.display()))
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).into_diagnostic().wrap_err_with(|| format!("can't remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Lines of a failed command's output that its error shows.
const OUTPUT_TAIL_LINES: usize = 20;

/// Runs a long command; shows the end of what it said only when it fails.
fn quiet(command: &mut Command) -> Result<()> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .into_diagnostic()
        .wrap_err_with(|| format!("can't run {shown}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(OUTPUT_TAIL_LINES)..].join("\n");
    bail!("{shown} failed ({}):\n{tail}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_told_of_and_its_end_ends_the_telling() {
        let (told, heard) = std::sync::mpsc::channel();
        let tell = move |_| {
            let _ = told.send(());
        };
        let result = with_heartbeat(Duration::from_millis(1), tell, || {
            (0..2).for_each(|_| heard.recv().unwrap());
            7
        });
        assert_eq!(result, 7);
    }
}
