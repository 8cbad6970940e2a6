//! Server side: ours and the real AzCopy, both through the From-URL calls of the same sink.
//!
//! AzCopy knows S3 only at amazonaws.com. So both, and the sink, run in a mount namespace with a hosts
//! file in which those names are this machine, where the same objects are served with TLS at 443.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{Service, measured};
use crate::room::{Own, REGION, Room, Running, Set, account, keys, sas};
use crate::series::Table;
use crate::tools::succeed;

const ADDRESS: &str = "127.0.0.1:443";

/// Every set, by both: cold and again.
pub fn round(room: &mut Room, table: &mut Table) -> Result<()> {
    let world = World::new(room)?;
    for set in room.sets.clone() {
        let movers: &[&str] = match (room.has_peers(), set) {
            (false, _) => &["ours"],
            // Ours by way of AzCopy: to see that it works, and what our proofs cost on top.
            (true, Set::Small) => &["ours", "azcopy", "ours-by-azcopy"],
            (true, _) => &["ours", "azcopy"],
        };
        for mover in movers {
            let mut sink = world.enter(&std::env::current_exe()?);
            let (own, address, _) = Own::start(sink.args(["serve", "sink"]))?;
            let running = Running::Sink(own, address.clone());
            let endpoint = format!("https://s3.{REGION}.amazonaws.com");
            let mut command = if *mover == "azcopy" {
                world.azcopy(room, set, &address)?
            } else {
                let engine = if *mover == "ours" { "server-side" } else { "azcopy" };
                let mut config = room.config(&endpoint, set.name(), &address, set.name(), engine);
                if engine == "azcopy" {
                    config["azcopy"] = room.tools.azcopy.display().to_string().into();
                }
                let ours = room.ours("copy", &config)?;
                world.enter_with(&ours)
            };
            let cost = measured(&mut command, &room.folder.join(format!("{mover}.log")))?;
            let counts = room.sink_counts(&running)?;
            let requests = counts.into_iter().map(|(kind, n)| (format!("blob {kind}"), n)).collect();
            table.add(&format!("{mover} server-side {} cold", set.name()), cost, &requests);
        }
    }
    Ok(())
}

struct World {
    hosts: PathBuf,
    ca: PathBuf,
    _s3: Service,
}

impl World {
    fn new(room: &Room) -> Result<Self> {
        let folder = room.folder.join("tls");
        std::fs::create_dir_all(&folder)?;
        let names = names();
        certificates(&folder)?;
        let hosts = folder.join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost {}\n", names.join(" ")))?;
        let objects = room.folder.with_file_name(if room.tenth { "objects-small" } else { "objects" });
        let mut s3 = Command::new(&room.tools.versitygw);
        s3.args(["--port", ADDRESS, "--region", REGION, "--quiet", "--keep-alive", "--virtual-domain"]);
        s3.arg(format!("s3.dualstack.{REGION}.amazonaws.com"));
        s3.arg("--cert").arg(folder.join("server.pem")).arg("--key").arg(folder.join("server.key"));
        s3.arg("posix").arg(objects).envs(keys().map(|(name, value)| match name {
            "AWS_ACCESS_KEY_ID" => ("ROOT_ACCESS_KEY_ID", value),
            _ => ("ROOT_SECRET_ACCESS_KEY", value),
        }));
        let s3 = Service::start(&mut s3, ADDRESS, &room.folder.join("s3-tls.log"))?;
        Ok(Self { hosts, ca: folder.join("ca.pem"), _s3: s3 })
    }

    /// `program` where amazonaws.com is this machine.
    fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        let mount = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        command.args(["--mount", "sh", "-c", mount, "sh"]).arg(&self.hosts).arg(program);
        command.env("SSL_CERT_FILE", &self.ca);
        command
    }

    fn enter_with(&self, inner: &Command) -> Command {
        let mut command = self.enter(inner.get_program().as_ref());
        command.args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    fn azcopy(&self, room: &Room, set: Set, address: &str) -> Result<Command> {
        let mut command = self.enter(&room.tools.azcopy);
        command.arg("copy").arg(format!("https://s3.{REGION}.amazonaws.com/{}", set.name()));
        command.arg(format!("http://{address}/{}/{}?{}", account(), set.name(), sas()));
        command.args(["--recursive", "--from-to", "S3Blob", "--output-type", "json", "--log-level", "ERROR"]);
        let state = room.fresh("azcopy-state")?;
        command.env("AZCOPY_LOG_LOCATION", &state).env("AZCOPY_JOB_PLAN_LOCATION", &state);
        command.env("HOME", &state).envs(keys());
        Ok(command)
    }
}

/// What S3 is called, without a bucket.
fn bases() -> [String; 2] {
    [format!("s3.{REGION}.amazonaws.com"), format!("s3.dualstack.{REGION}.amazonaws.com")]
}

fn names() -> Vec<String> {
    let of = |base: &String| {
        let buckets = Set::ALL.map(|set| format!("{}.{base}", set.name()));
        std::iter::once(base.clone()).chain(buckets).collect::<Vec<_>>()
    };
    bases().iter().flat_map(of).collect()
}

/// A CA and a certificate of it for S3 and every bucket.
fn certificates(folder: &Path) -> Result<()> {
    if folder.join("server.pem").exists() {
        return Ok(());
    }
    let openssl = |words: &[&str]| succeed(Command::new("openssl").args(words).current_dir(folder));
    let names = bases().map(|base| format!("DNS:{base},DNS:*.{base}"));
    std::fs::write(folder.join("ext"), format!("subjectAltName={}\n", names.join(",")))?;
    let new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench", "-keyout"];
    openssl(&[&new[..], &["ca.key", "-x509", "-days", "3650", "-out", "ca.pem"]].concat())?;
    openssl(&[&new[..], &["server.key", "-out", "server.csr"]].concat())?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "3650",
        "-extfile",
        "ext",
        "-out",
        "server.pem",
    ])
}
