//! The example plugins, each a node of the shipped example, against real databases, a web server and a
//! command that stands for a DNS service.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What must be in no file, log or output.
const WEBHOOK_CANARY: &str = "canary-webhook-5b21";
const DATABASE_CANARY: &str = "canary:data\\base-77e0";

/// A first start of the database writes some 40 MB.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A web server that remembers what was posted to it.
struct Web {
    address: String,
    posted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let posted = Arc::<Mutex<Vec<(String, Value)>>>::default();
        let kept = Arc::clone(&posted);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &kept);
            }
        });
        Self { address, posted }
    }
}

fn answer(mut stream: TcpStream, posted: &Mutex<Vec<(String, Value)>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    if first.starts_with("POST") {
        posted.lock().unwrap().push((first, serde_json::from_slice(&body).unwrap()));
    }
    let body = r#"{"status":"ready"}"#;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
}

/// A PostgreSQL server with a password, in a folder of its own.
struct Database {
    process: Child,
    dir: tempfile::TempDir,
}

/// As somebody else where the tests run as root: the server refuses to be root.
fn as_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

impl Database {
    fn start(tables: &str) -> Self {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut bins: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
        bins.retain(|bin| bin.join("initdb").exists());
        bins.sort();
        let bin = bins.pop().expect("PostgreSQL is not installed: `apt-get install postgresql` does it");
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        fs::write(&password, format!("{DATABASE_CANARY}\n")).unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(
                Command::new("chown").args(["-R", "postgres"]).arg(dir.path()).status().unwrap().success()
            );
        }
        let made = as_user(&bin.join("initdb"))
            .args([
                "--auth=scram-sha-256",
                "--no-sync",
                "--username=migrate",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(dir.path().join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let process = as_user(&bin.join("postgres"))
            .arg("-D")
            .arg(dir.path().join("data"))
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let database = Self { process, dir };
        let began = Instant::now();
        while !database.run("select 1") {
            assert!(began.elapsed() < START_TIMEOUT, "the server doesn't start");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(database.run(tables));
        database
    }

    fn place(&self) -> String {
        format!("host={} user=migrate dbname=postgres", self.dir.path().display())
    }

    fn run(&self, sql: &str) -> bool {
        let mut psql = Command::new("psql");
        psql.args(["-Xqw", "-d", &self.place(), "-c", sql]).env("PGPASSWORD", DATABASE_CANARY);
        psql.output().unwrap().status.success()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Copies the examples, so that what an interpreter writes beside a script is not left here.
fn copy_examples(to: &Path) {
    for entry in fs::read_dir(root().join("plugins/examples")).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
}

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new(web: &Web, database: &Database) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).unwrap();
        copy_examples(&plugins);
        fs::copy(root().join("workflows/examples/cutover.toml"), dir.path().join("cutover.toml")).unwrap();
        let site = format!(
            r#"schema = 1
[databases]
tables = ["orders", "public.items"]
source = {{ kind = "sqlite", database = "shop.db" }}
target = {{ kind = "postgres", database = "{}", password = "env:DATABASE_PASSWORD" }}
[shop]
health = "http://{}/healthz"
[dns]
command = "./dns"
name = "shop.example"
[notify]
url = "env:WEBHOOK"
kind = "teams"
"#,
            database.place(),
            web.address
        );
        fs::write(dir.path().join("migration.toml"), site).unwrap();
        let dns = "#!/bin/sh\ncase $1 in get) cat weight ;; set) echo \"$2 $3\" >>set; echo \"$3\" >weight ;; esac\n";
        fs::write(dir.path().join("dns"), dns).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path().join("dns"), executable).unwrap();
        fs::write(dir.path().join("weight"), "0\n").unwrap();
        Self { dir }
    }

    fn migrate(&self, web: &Web, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_migrate"))
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("MIGRATE_PROJECT")
            .env("WEBHOOK", format!("http://{}/hooks/{WEBHOOK_CANARY}", web.address))
            .env("DATABASE_PASSWORD", DATABASE_CANARY)
            .output()
            .unwrap()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }
}

/// Whether a file below `dir` holds `needle`.
fn holds(dir: &Path, needle: &str) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => holds(&path, needle),
            false => fs::read(&path).unwrap().windows(needle.len()).any(|part| part == needle.as_bytes()),
        }
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn the_shipped_example_runs_with_its_plugins_and_lost_rows_stop_it() {
    let web = Web::start();
    let tables = "create table orders (id int); insert into orders select generate_series(1, 1000); \
                  create table items (id int); insert into items values (1)";
    let database = Database::start(tables);
    let project = Project::new(&web, &database);
    let sqlite = |sql: &str| {
        let made = Command::new("sqlite3").args(["shop.db", sql]).current_dir(project.dir.path()).status();
        assert!(made.unwrap().success());
    };
    sqlite(
        "create table orders (id); insert into orders with recursive n(i) as (select 1 union all select i + 1 from n \
         where i < 1000) select i from n",
    );
    sqlite("create table items (id); insert into items values (1)");

    let valid = project.migrate(&web, &["validate", "cutover.toml"]);
    assert!(valid.status.success(), "{}", said(&valid));

    // `public.items` is no name of sqlite's: the failure is told, and nothing is shifted.
    let failed = project.migrate(&web, &["run", "cutover.toml"]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(said(&failed).contains("failed to count public.items of the source"), "{}", said(&failed));
    assert!(!project.dir.path().join("set").exists());

    let site = project.read("migration.toml").replace(r#", "public.items"]"#, r#", "items"]"#);
    fs::write(project.dir.path().join("migration.toml"), site).unwrap();
    sqlite("insert into items values (2)");
    let lost = project.migrate(&web, &["run", "cutover.toml"]);
    assert!(said(&lost).contains("table items has 1 rows, and 2 at the source"), "{}", said(&lost));
    assert!(!project.dir.path().join("set").exists());

    assert!(database.run("insert into items values (2)"));
    let done = project.migrate(&web, &["resume"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_eq!(project.read("set"), "shop.example 255\n");
    let posted = web.posted.lock().unwrap().clone();
    assert_eq!(posted.len(), 1);
    assert!(posted[0].0.contains(WEBHOOK_CANARY));
    let text = &posted[0].1["attachments"][0]["content"]["body"][0]["text"];
    assert_eq!(text, &json!("The shop's weight is 255; it was 0."));

    let undone = project.migrate(&web, &["undo", "--yes"]);
    assert!(said(&undone).contains("shift"), "{}", said(&undone));
    assert_eq!(project.read("weight"), "0\n");

    for canary in [WEBHOOK_CANARY, DATABASE_CANARY] {
        assert!(!holds(project.dir.path(), canary), "{canary} is in the project");
        for output in [&valid, &failed, &lost, &done, &undone] {
            assert!(!said(output).contains(canary), "{}", said(output));
        }
    }
}

#[test]
fn a_weight_that_was_set_already_is_not_called_undone() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    fs::create_dir(dir.path().join("plugins")).unwrap();
    copy_examples(&dir.path().join("plugins"));
    write("dns", "#!/bin/sh\ncase $1 in get) cat weight ;; set) echo \"$3\" >weight ;; esac\n");
    fs::set_permissions(dir.path().join("dns"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    write("weight", "0\n");
    write("migration.toml", "schema = 1\n");
    write(
        "shift.toml",
        "schema = 1\nname = \"shift\"\n\n[nodes.shift]\nstep = \"dns.weight\"\n\
         with = { command = \"./dns\", name = \"shop.example\", weight = 255 }\n",
    );
    let migrate = |args: &[&str], exit: i32, told: &str| {
        let mut migrate = Command::new(env!("CARGO_BIN_EXE_migrate"));
        let output =
            migrate.args(args).current_dir(dir.path()).env_remove("MIGRATE_PROJECT").output().unwrap();
        assert_eq!(output.status.code(), Some(exit), "{}", said(&output));
        assert!(said(&output).contains(told), "{}", said(&output));
    };
    migrate(&["run", "shift.toml"], 0, "done");
    // What it was before is forgotten with the first attempt.
    migrate(&["resume", "--rerun", "shift"], 0, "the weight of shop.example was 255 already");
    migrate(&["undo", "--yes"], 1, "set it yourself");
    write("weight", "0\n");
    migrate(&["undo", "--yes"], 0, "undone");
    assert_eq!(fs::read_to_string(dir.path().join("weight")).unwrap(), "0\n");
}

/// Runs the conformance suite, and returns what it counts at its end.
fn conforms(project: &Path, plugin: &str, more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .args(["plugin", "test"])
        .arg(project.join(plugin))
        .args(more)
        .current_dir(project)
        .env_remove("MIGRATE_PROJECT")
        .output()
        .unwrap();
    assert!(output.status.success(), "{plugin}: {}", said(&output));
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn the_examples_pass_the_conformance_suite() {
    let dir = tempfile::tempdir().unwrap();
    copy_examples(dir.path());
    let sqlite = ["shop.db", "create table orders (id); insert into orders values (1)"];
    assert!(Command::new("sqlite3").args(sqlite).current_dir(dir.path()).status().unwrap().success());
    fs::write(dir.path().join("weight"), "0\n").unwrap();
    let dns = dir.path().join("dns");
    fs::write(&dns, "#!/bin/sh\ncase $1 in get) cat weight ;; set) echo \"$3\" >weight ;; esac\n").unwrap();
    fs::set_permissions(&dns, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let database = json!({ "kind": "sqlite", "database": "shop.db" });
    let rows = json!({ "source": database, "target": database, "tables": ["orders"] }).to_string();
    let weight = json!({ "command": "./dns", "name": "shop.example", "weight": 10 }).to_string();
    let counts = [
        conforms(dir.path(), "migrate-step-rows.compare", &["--with", &rows]),
        conforms(dir.path(), "migrate-step-dns.weight", &["--with", &weight]),
        conforms(dir.path(), "migrate-step-notify.webhook", &["--without-effects"]),
    ];
    for count in counts {
        let passed: u32 = count.split(' ').next().unwrap().parse().unwrap();
        assert!(passed >= 30 && count.contains(" 0 failed"), "{count}");
    }
}
