//! What measurements run on: a source registry that is filled once, a target that is new for each,
//! and the programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::estate::{Estate, TAG};
use crate::link::Link;
use crate::registry::Server;
use crate::series::Table;
use crate::zot::Zot;
use crate::{Options, Result, peers};

/// Who can be measured. `floor` is no copier: only the bytes.
pub const CONTESTANTS: [&str; 5] = ["floor", "ours", "crane", "regsync", "skopeo"];

/// Everything that a measurement needs.
pub struct Rig {
    pub estate: Estate,
    source: Server,
    bench: PathBuf,
    work: PathBuf,
    programs: BTreeMap<String, PathBuf>,
}

impl Rig {
    pub async fn new(options: &Options) -> Result<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
        let bench = target.join("bench");
        let mut programs = BTreeMap::new();
        for name in &options.only {
            programs.insert(name.clone(), peers::install(name, &bench)?);
        }
        let size = if options.small { "small" } else { "full" };
        let source = Server::start(&bench.join(format!("images-source-{size}"))).await?;
        let mut estate = Estate::new(options.small);
        eprintln!("bench: filling the source registry");
        estate.store(&source).await?;
        Ok(Self { estate, source, work: bench.join("images-work"), bench, programs })
    }

    /// Cold, warm, and with one image of 21 changed, registry beside registry.
    pub async fn direct(&mut self, name: &str, table: &mut Table) -> Result<()> {
        let target = self.fresh_target().await?;
        let addresses = (self.source.address.clone(), target.address.clone());
        self.measure(name, &format!("{name}-cold"), &addresses, &target, table)?
            .count(&target, table)
            .await?;
        if name == "floor" {
            return Ok(());
        }
        self.check(name, &target).await?;
        self.measure(name, &format!("{name}-warm"), &addresses, &target, table)?
            .count(&target, table)
            .await?;
        self.estate.change(&self.source, true).await?;
        let changed = self.measure(name, &format!("{name}-changed"), &addresses, &target, table);
        let arrived = self.check(name, &target).await;
        self.estate.change(&self.source, false).await?;
        changed?.count(&target, table).await?;
        arrived
    }

    /// Cold, over the slow link on both sides.
    pub async fn slow(&mut self, name: &str, table: &mut Table) -> Result<()> {
        let target = self.fresh_target().await?;
        let (from, to) = (Link::start(&self.source.address).await?, Link::start(&target.address).await?);
        let addresses = (from.address.clone(), to.address.clone());
        let label = format!("{name}-link");
        let rig = &*self;
        let measured = tokio::task::block_in_place(|| rig.measure(name, &label, &addresses, &target, table))?;
        measured.count(&target, table).await?;
        table.add(&label, "sent-mib", to.bytes_up() as f64 / 1_048_576.0);
        self.check(name, &target).await
    }

    /// Ours, killed in the middle of the large layer, and begun again from its cursor: what goes up then,
    /// beyond the layer, went twice.
    pub async fn killed(&mut self, table: &mut Table) -> Result<()> {
        let target = self.fresh_target().await?;
        let link = Link::start(&target.address).await?;
        let folder = self.work.join("killed");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let (large, bytes) = self.estate.large().ok_or("no large image")?;
        let config = peers::ours(&[format!("{}/{large}:{TAG}", self.source.address)], &link.address);
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let ours = |verb: &str| {
            let mut command = Command::new(self.programs.get("ours").map_or(Path::new(""), PathBuf::as_path));
            command.arg(verb).arg(&folder).stdin(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut first = ours("copy").spawn()?;
        while link.bytes_up() < bytes / 2 {
            if let Some(status) = first.try_wait()? {
                return Err(format!("it ended by itself with {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        first.kill()?;
        first.wait()?;
        let before = link.bytes_up();
        let second = tokio::task::block_in_place(|| ours("resume").status())?;
        if !second.success() {
            return Err(format!("the second attempt ended with {second}").into());
        }
        let wanted = self.source.digest(&large, TAG).await?;
        if wanted.is_none() || target.digest(&large, TAG).await? != wanted {
            return Err("the large image did not arrive".into());
        }
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        table.add("ours-killed", "layer-mib", mib(bytes));
        table.add("ours-killed", "sent-before-mib", mib(before));
        table.add("ours-killed", "sent-mib", mib(link.bytes_up()));
        table.add("ours-killed", "twice-mib", mib(link.bytes_up().saturating_sub(bytes)));
        for (kind, count) in target.requests().await? {
            table.add("ours-killed", &format!("requests {kind}"), count as f64);
        }
        Ok(())
    }

    /// Ours into zot, again, and by skopeo out of it into a registry of the usual kind.
    pub async fn zot(&mut self, table: &mut Table) -> Result<()> {
        let zot = Zot::start(&self.bench, &self.work.join("zot")).await?;
        let addresses = (self.source.address.clone(), zot.address.clone());
        for pass in ["cold", "warm"] {
            self.run("ours", &format!("ours-zot-{pass}"), &addresses, table)?;
        }
        let third = self.fresh_target().await?;
        for image in &self.estate.images {
            let wanted = self.source.digest(&image.repository, TAG).await?.ok_or("an image is missing")?;
            zot.check(&image.repository, &wanted, &third).await?;
        }
        table.add("ours-zot", "images-equal", self.estate.images.len() as f64);
        Ok(())
    }

    async fn fresh_target(&self) -> Result<Server> {
        let folder = self.work.join("target");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let server = Server::start(&folder).await?;
        // What the last one left to write must not count for the next.
        Command::new("sync").status()?;
        Ok(server)
    }

    /// Runs `name` once under GNU time, and prepares to count its requests.
    fn measure(
        &self,
        name: &str,
        label: &str,
        addresses: &(String, String),
        target: &Server,
        table: &mut Table,
    ) -> Result<Measured> {
        let before =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(target.requests()))?;
        self.run(name, label, addresses, table)?;
        Ok(Measured { label: label.to_owned(), before })
    }

    /// Runs `name` once under GNU time.
    fn run(&self, name: &str, label: &str, (source, to): &(String, String), table: &mut Table) -> Result<()> {
        let folder = self.work.join(name);
        std::fs::create_dir_all(&folder)?;
        let program = self.programs.get(name).ok_or("not installed")?;
        let command = peers::command(name, program, &self.estate, (source, to), &folder)?;
        let figures = folder.join("time");
        let output = Command::new("/usr/bin/time")
            .args(["--format", "%e %U %S %M", "--output"])
            .arg(&figures)
            .args(&command)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{label} ended with {}:\n{said}", output.status).into());
        }
        let text = std::fs::read_to_string(&figures)?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [wall, user, system, peak_kib] = numbers[..] else {
            return Err(format!("GNU time said {text:?}").into());
        };
        table.add(label, "wall-s", wall);
        table.add(label, "cpu-s", user + system);
        table.add(label, "peak-mib", peak_kib / 1_024.0);
        Ok(())
    }

    /// It must have done it: every tag has the same digest on both sides.
    async fn check(&self, name: &str, target: &Server) -> Result<()> {
        for image in &self.estate.images {
            let wanted = self.source.digest(&image.repository, TAG).await?;
            if wanted.is_none() || target.digest(&image.repository, TAG).await? != wanted {
                return Err(format!("{name} did not copy {}", image.repository).into());
            }
        }
        Ok(())
    }
}

/// A run whose requests are not counted yet.
struct Measured {
    label: String,
    before: BTreeMap<String, u64>,
}

impl Measured {
    async fn count(self, target: &Server, table: &mut Table) -> Result<()> {
        let after = target.requests().await?;
        let mut all = 0;
        for (kind, count) in after {
            let fresh = count - self.before.get(&kind).copied().unwrap_or(0);
            all += fresh;
            if fresh > 0 {
                table.add(&self.label, &format!("requests {kind}"), fresh as f64);
            }
        }
        table.add(&self.label, "requests", all as f64);
        Ok(())
    }
}
