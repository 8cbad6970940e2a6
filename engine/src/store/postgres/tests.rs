//! PostgreSQL, from Debian's packages, against the conformance suite; and its leases.

mod far;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use migrate_plugin_api::{Secret, SecretRef};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::decide::{DecideRequest, UndoRequest};
use crate::engine::{Engine, ResumeRequest};
use crate::error::RunError;
use crate::event::EventSink;
use crate::report::RunState;
use crate::run::heartbeat::keep_right;
use crate::shutdown::Shutdown;
use crate::store::conformance::{self, Lab, batch, begun, facts, run_id};
use crate::store::fact::Fact;
use crate::store::settings::StoreSettings;
use crate::workflow::{Params, Source};

/// A first start writes some 40 MB.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The server's user, when the tests run as root: it refuses to be root itself.
const USER: &str = "postgres";

/// A server of its own: data in a temporary folder, reached through a socket there and, without a
/// certificate, nothing else.
struct Server {
    process: Child,
    dir: TempDir,
    port: u16,
}

/// Where Debian has the programs of the newest version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut bins: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    bins.retain(|bin| bin.join("initdb").exists());
    bins.sort();
    bins.pop().expect(
        "PostgreSQL is not installed: `cargo xtask sandbox tools` or `apt-get install postgresql` does it",
    )
}

/// `program` as the server's user; the process that is started is the program itself.
fn as_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}")).arg("--clear-groups").arg(program);
    command
}

/// Gives a file or a folder to the server's user.
fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let status = Command::new("chown").arg("-R").arg(USER).arg(path).status().unwrap();
        assert!(status.success(), "chown {USER}: {status}");
    }
}

impl Server {
    async fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), None).await
    }

    /// `certificate`: with which it listens on a port too, and takes nobody there without TLS.
    async fn start_with(dir: TempDir, certificate: Option<&Certificate>) -> Self {
        let bin = programs();
        give(dir.path());
        let data = dir.path().join("data");
        let made = as_user(&bin.join("initdb"))
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--username=migrate", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut command = as_user(&bin.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(dir.path());
        // Without fsync: these tests take no power away.
        let mut settings = vec!["fsync=off".to_owned(), "synchronous_commit=off".to_owned()];
        let mut port = 5432;
        match certificate {
            // No port is taken.
            None => settings.push("listen_addresses=".to_owned()),
            Some(Certificate { chain, key, hba }) => {
                port = free_port();
                settings.extend([
                    "listen_addresses=127.0.0.1".to_owned(),
                    "ssl=on".to_owned(),
                    format!("port={port}"),
                    format!("ssl_cert_file={}", chain.display()),
                    format!("ssl_key_file={}", key.display()),
                    format!("hba_file={}", hba.display()),
                ]);
            }
        }
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { process, dir, port };
        let began = Instant::now();
        while let Err(error) = PostgresStore::read(&server.url(), "any").await {
            assert!(began.elapsed() < START_TIMEOUT, "the server doesn't start: {error:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    fn url(&self) -> Secret {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> Secret {
        let (dir, port) = (self.dir.path().display(), self.port);
        Secret::new(format!("postgresql:///{database}?user=migrate&host={dir}&port={port}"))
    }

    fn lab(&self) -> Project {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Project { url: self.url(), key: format!("project-{}", COUNT.fetch_add(1, Ordering::SeqCst)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.process);
        // "Fast": it lets nobody finish.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

struct Project {
    url: Secret,
    key: String,
}

impl Project {
    async fn handle(&self) -> PostgresStore {
        PostgresStore::open(&self.url, &self.key).await.unwrap()
    }

    async fn change(&self, statement: &'static str) {
        let store = self.handle().await;
        sqlx::query(statement).bind(&self.key).execute(&store.pool).await.unwrap();
    }
}

#[async_trait]
impl Lab for Project {
    async fn writer(&self) -> Arc<dyn Store> {
        Arc::new(self.handle().await)
    }

    async fn reader(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::read(&self.url, &self.key).await.unwrap().unwrap())
    }

    async fn expire(&self) {
        self.change("update leases set expires = clock_timestamp() where project = $1").await;
    }
}

/// One server for all: it takes seconds to make.
#[tokio::test]
async fn conforms_and_leases_hold() {
    let server = Server::start().await;
    assert!(PostgresStore::read(&server.url(), "any").await.unwrap().is_none(), "readers make nothing");
    // Several programs may find an empty database at the same time.
    let (one, two) = (server.lab(), server.lab());
    tokio::join!(one.handle(), two.handle(), one.handle());
    // The server's default is off.
    let shown: String =
        sqlx::query_scalar("show synchronous_commit").fetch_one(&one.handle().await.pool).await.unwrap();
    assert_eq!(shown, "on");
    // All in one database, and none sees another.
    conformance::all(async || server.lab()).await;
    a_second_holder_is_refused_and_told_who_it_is(&server.lab()).await;
    a_dead_holder_is_not_waited_for(&server.lab()).await;
    a_holder_that_slept_stops_with_a_clear_error(&server.lab()).await;
    a_decision_is_given_on_another_machine(&server.lab()).await;
    lost_facts_are_told(&server.lab()).await;
    a_run_that_does_not_begin_gives_the_lease_back(&server.lab()).await;
    lost_commits_are_told_to_a_living_writer(&server).await;
    a_store_of_an_earlier_version_keeps_its_order(&server).await;
    a_newer_version_is_refused(&server.lab()).await;
}

async fn a_second_holder_is_refused_and_told_who_it_is(lab: &Project) {
    let (first, run) = begun(lab, "a").await;
    let refused = |result: Result<(), AcquireError>| match result {
        Err(AcquireError::Held(holder)) => *holder,
        other => panic!("{other:?}"),
    };
    let here = Holder::here(&run);
    let by = refused(lab.handle().await.acquire(&here).await);
    assert_eq!(
        (by.pid, by.host.clone(), by.run.clone()),
        (std::process::id(), here.host.clone(), Some(run.clone()))
    );
    assert_eq!(by.silent_since, None);
    assert_eq!(lab.reader().await.holder().await.unwrap().unwrap().pid, by.pid);
    // Alive and not renewing: stuck.
    lab.change("update leases set renewed = renewed - interval '40 s' where project = $1").await;
    let by = refused(lab.handle().await.acquire(&here).await);
    assert!(by.to_string().contains("it is alive and stuck: it last renewed its lease at "), "{by}");
    first.renew().await.unwrap();
    assert_eq!(refused(lab.handle().await.acquire(&here).await).silent_since, None);
    first.close().await;
    assert_eq!(lab.reader().await.holder().await.unwrap(), None);
    lab.handle().await.acquire(&here).await.unwrap();
}

async fn a_dead_holder_is_not_waited_for(lab: &Project) {
    let here = Holder::here(&run_id("a"));
    let dead = Holder { process_start: Some(0), ..here.clone() };
    lab.handle().await.acquire(&dead).await.unwrap();
    lab.handle().await.acquire(&here).await.unwrap();
    // Of another machine nothing is known; its lease has to run out.
    let other = Project { url: lab.url.clone(), key: format!("{}-other", lab.key) };
    let foreign =
        Holder { process_start: Some(0), place: Some("another machine".to_owned()), ..here.clone() };
    other.handle().await.acquire(&foreign).await.unwrap();
    assert!(matches!(other.handle().await.acquire(&here).await, Err(AcquireError::Held(_))));
    other.expire().await;
    other.handle().await.acquire(&here).await.unwrap();
}

/// A store that beats fast: nobody wants to wait for a real heartbeat.
struct Hasty(Arc<dyn Store>);

#[async_trait]
impl Store for Hasty {
    fn heartbeat(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }

    async fn renew(&self) -> Result<(), StoreError> {
        self.0.renew().await
    }

    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.0.create_run(run).await
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        self.0.append(run, batch).await
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        self.0.run(id).await
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.0.runs().await
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        self.0.facts(run).await
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        self.0.places(run).await
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        self.0.logs(run, node, after, limit).await
    }

    async fn decide(&self, run: &RunId, decision: &GateDecision) -> Result<Option<GateDecision>, StoreError> {
        self.0.decide(run, decision).await
    }

    async fn decision(&self, run: &RunId, key: &IdempotencyKey) -> Result<Option<GateDecision>, StoreError> {
        self.0.decision(run, key).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

async fn a_holder_that_slept_stops_with_a_clear_error(lab: &Project) {
    let (first, run) = begun(lab, "a").await;
    first.append(&run, &batch(0, 1)).await.unwrap();
    lab.expire().await;
    let second = lab.handle().await;
    let since: Timestamp = "2026-01-31T23:59:59Z".parse().unwrap();
    let taker = Holder {
        pid: 7,
        since,
        host: Some("bastion".to_owned()),
        user: Some("ada".to_owned()),
        place: Some("another machine".to_owned()),
        ..Holder::here(&run)
    };
    second.acquire(&taker).await.unwrap();
    // Awake again: its next renewal ends its work, and its writes are refused.
    let hasty = Hasty(Arc::clone(&first));
    let error = keep_right(&hasty, std::future::pending::<Result<(), RunError>>()).await.unwrap_err();
    insta::assert_snapshot!(error, @"another process has taken over from this one: process 7 of ada on bastion, run a, since 2026-01-31T23:59:59Z; this one stopped, and wrote nothing more");
    assert!(matches!(first.append(&run, &batch(1, 2)).await, Err(StoreError::Fenced { .. })));
    // Nor does it end the lease of the other when it goes.
    first.close().await;
    second.append(&run, &batch(1, 2)).await.unwrap();
    assert_eq!(lab.reader().await.facts(&run).await.unwrap(), facts(0, 2));
}

/// Two folders, as on two machines, and one database: who decides is told who works on the run, and the
/// decision is taken up there.
async fn a_decision_is_given_on_another_machine(lab: &Project) {
    let folder = || {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("url", lab.url.expose());
        let store = format!("schema = 1\n[store]\nurl = \"file:url\"\nproject = \"{}\"\n", lab.key);
        write("migration.toml", &store);
        write(
            "w.toml",
            "schema = 1\nname = \"w\"\n[nodes.go]\nstep = \"gate\"\nwith = { message = \"?\" }\n",
        );
        dir
    };
    let engine = |dir: &TempDir| {
        let settings = StoreSettings::of(&Source::read(dir.path().join("migration.toml")).unwrap()).unwrap();
        Engine::open(dir.path(), Vec::new()).unwrap().with_store(settings)
    };
    let (here, there) = (folder(), folder());
    let read = |name: &str| Source::read(here.path().join(name)).unwrap();
    let checked = engine(&here).check(&read("w.toml"), &read("migration.toml"), &Params::new());
    let checked = checked.map_err(|_| "mistakes").unwrap();
    let waiting = engine(&here).run(&checked, EventSink::discard(), &Shutdown::new()).await.unwrap();
    assert_eq!(waiting.state, RunState::Waiting);
    // Somebody works on it meanwhile.
    let store = lab.handle().await;
    store.acquire(&Holder::here(&waiting.run)).await.unwrap();
    let definition = store.run(None).await.unwrap().unwrap().definition;
    let resumed = Fact::Resumed { definition: Box::new(definition) };
    let facts = vec![Stamped { at: Timestamp::UNIX_EPOCH, fact: resumed }];
    store.append(&waiting.run, &Batch { facts, ..Batch::default() }).await.unwrap();
    let (node, by) = (NodeId::new("go").unwrap(), "ana".to_owned());
    let request =
        DecideRequest { run: None, node, approved: true, by, host: "laptop".to_owned(), note: None };
    let approval = engine(&there).decide(request).await.unwrap();
    assert_eq!(approval.holder.map(|holder| holder.pid), Some(std::process::id()));
    store.close().await;
    let done = engine(&here).resume(ResumeRequest::default(), EventSink::discard(), &Shutdown::new()).await;
    assert_eq!(done.unwrap().state, RunState::Done);
}

async fn lost_facts_are_told(lab: &Project) {
    let (store, run) = begun(lab, "a").await;
    store.append(&run, &batch(0, 9)).await.unwrap();
    lab.change("delete from facts where project = $1 and seq = 9").await;
    let error = store.facts(&run).await.unwrap_err();
    assert!(error.to_string().ends_with("is damaged: run a has 8 facts, and 9 were stored"), "{error}");
    lab.change("update facts set body = replace(body, 'reason 3', 'reason 4') where project = $1").await;
    let error = store.facts(&run).await.unwrap_err();
    assert!(error.to_string().ends_with("is damaged: fact 4 of run a is lost or altered"), "{error}");
}

async fn a_run_that_does_not_begin_gives_the_lease_back(lab: &Project) {
    let (store, run) = begun(lab, "a").await;
    let end = Stamped { at: conformance::at(1), fact: Fact::Ended { state: RunState::Done } };
    store.append(&run, &Batch { facts: vec![end], ..Batch::default() }).await.unwrap();
    store.close().await;
    let project = tempfile::tempdir().unwrap();
    std::fs::write(project.path().join("url"), lab.url.expose()).unwrap();
    let settings = StoreSettings { url: SecretRef::File("url".to_owned()), project: lab.key.clone() };
    let engine = Engine::open(project.path(), Vec::new()).unwrap().with_store(Some(settings));
    let shutdown = Shutdown::new();
    let refused = engine.resume(ResumeRequest::default(), EventSink::discard(), &shutdown).await;
    assert!(matches!(refused, Err(RunError::Read(_))), "it has no files: {refused:?}");
    assert_eq!(lab.reader().await.holder().await.unwrap(), None);
    let again = || UndoRequest { run: Some(run_id("a")), ..UndoRequest::default() };
    let refused = engine.undo(again(), EventSink::discard(), &shutdown).await;
    assert!(refused.is_ok(), "{refused:?}");
    let refused = engine.undo(again(), EventSink::discard(), &shutdown).await;
    assert!(matches!(refused, Err(RunError::AlreadyUndone(_))), "{refused:?}");
    assert_eq!(lab.reader().await.holder().await.unwrap(), None);
}

/// As when a copy that lagged takes over: the connections break, and under the same address there is
/// a database of a moment ago.
async fn lost_commits_are_told_to_a_living_writer(server: &Server) {
    let admin = server.lab().handle().await;
    let said = async |statement: &'static str| {
        sqlx::query(statement).execute(&admin.pool).await.unwrap();
    };
    said("create database team").await;
    let lab = Project { url: server.url_of("team"), key: "shop".to_owned() };
    let (writer, run) = begun(&lab, "a").await;
    writer.append(&run, &batch(0, 2)).await.unwrap();
    const BREAK: &str =
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = 'team'";
    said(BREAK).await;
    said("create database behind template team").await;
    // A failover that lost nothing is none of anybody's business.
    writer.append(&run, &batch(2, 3)).await.unwrap();
    let cursor = Batch { cursors: vec![(conformance::node("n"), serde_json::json!(7))], ..Batch::default() };
    writer.append(&run, &cursor).await.unwrap();
    writer.renew().await.unwrap();
    said(BREAK).await;
    said("alter database team rename to lost").await;
    said("alter database behind rename to team").await;
    let error = writer.renew().await.unwrap_err();
    let said = error.to_string().replace(&server.dir.path().display().to_string(), "SERVER");
    insta::assert_snapshot!(said, @"the state in SERVER/team is damaged: its last 2 writes are lost: it failed over to a copy that lagged behind, or an older backup was put back");
    let error = writer.append(&run, &batch(3, 4)).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    // What is there is whole, and the next process goes on from it.
    writer.close().await;
    let next = lab.handle().await;
    next.acquire(&Holder::here(&run)).await.unwrap();
    assert_eq!(next.facts(&run).await.unwrap(), facts(0, 2));
    next.append(&run, &batch(2, 4)).await.unwrap();
    next.close().await;
}

/// As it was before the order of runs was kept.
async fn a_store_of_an_earlier_version_keeps_its_order(server: &Server) {
    let admin = server.lab().handle().await;
    sqlx::query("create database earlier").execute(&admin.pool).await.unwrap();
    let lab = Project { url: server.url_of("earlier"), key: "shop".to_owned() };
    let (store, _) = begun(&lab, "m").await;
    store.create_run(&conformance::record("last", 50)).await.unwrap();
    store.create_run(&conformance::record("first", -50)).await.unwrap();
    store.close().await;
    let raw = lab.handle().await;
    for change in ["alter table runs drop column created", "delete from _sqlx_migrations where version = 4"] {
        sqlx::query(change).execute(&raw.pool).await.unwrap();
    }
    let ids = async |store: Arc<dyn Store>| {
        let newest = store.run(None).await.unwrap().unwrap().id;
        let ids: Vec<_> = store.runs().await.unwrap().into_iter().map(|run| run.id).collect();
        assert_eq!(ids[0], newest);
        ids.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let by_time = ["last", "m", "first"];
    assert_eq!(ids(lab.reader().await).await, by_time);
    let next = lab.writer().await;
    assert_eq!(ids(Arc::clone(&next)).await, by_time);
    next.acquire(&Holder::here(&run_id("m"))).await.unwrap();
    next.create_run(&conformance::record("new", -90)).await.unwrap();
    for store in [next, lab.reader().await] {
        assert_eq!(ids(store).await, ["new", "last", "m", "first"]);
    }
}

/// Last: it leaves the database in a state that is refused.
async fn a_newer_version_is_refused(lab: &Project) {
    let store = lab.handle().await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (5, 'later', true, '', 0)",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    let newer = |error: Option<StoreError>| matches!(error, Some(StoreError::Newer { .. }));
    assert!(newer(PostgresStore::open(&lab.url, &lab.key).await.err()));
    assert!(newer(PostgresStore::read(&lab.url, &lab.key).await.err()));
}

#[tokio::test]
async fn a_url_is_never_shown() {
    for url in ["postgresql://ada:hunter2@[nowhere", "postgresql://ada:hunter2@127.0.0.1:1/db"] {
        let error = PostgresStore::open(&Secret::new(url), "p").await.err().unwrap();
        let said =
            format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// What a server with TLS is started with.
struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    /// Who may come in which way.
    hba: PathBuf,
}

/// An authority of its own in `dir` as `NAME.pem`, and what it has signed for `server`.
fn authority(dir: &Path, name: &str, server: &str) -> Certificate {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, name);
    let ca_key = KeyPair::generate().unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let signed = CertificateParams::new([server.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let put = |file: &str, text: &str| {
        let path = dir.join(file);
        std::fs::write(&path, text).unwrap();
        // Or the server refuses the key.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    Certificate {
        chain: put("server.crt", &signed.pem()),
        key: put("server.key", &key.serialize_pem()),
        hba: put("hba", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"),
    }
}

/// Free now, and hardly taken within the second in which the server takes it.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_server_is_known_by_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "stranger", "127.0.0.1");
    let certificate = authority(dir.path(), "authority", "127.0.0.1");
    let server = Server::start_with(dir, Some(&certificate)).await;
    let open = async |host: &str, query: &str| {
        let (port, dir) = (server.port, server.dir.path().display());
        let query = query.replace("DIR", &dir.to_string());
        let url = format!("postgresql://migrate:hunter2@{host}:{port}/postgres?{query}");
        PostgresStore::open(&Secret::new(url), "p").await
    };
    let full = "sslmode=verify-full&sslrootcert=DIR/authority.pem";
    let store = open("127.0.0.1", full).await.unwrap();
    let encrypted: bool = sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert!(encrypted);
    let run = run_id("a");
    store.acquire(&Holder::here(&run)).await.unwrap();
    store.create_run(&conformance::record("a", 0)).await.unwrap();
    store.append(&run, &batch(0, 9)).await.unwrap();
    assert_eq!(store.facts(&run).await.unwrap(), facts(0, 9));
    // The same server under a name that isn't in its certificate: only who asks for the name minds.
    let wrong_name = open("localhost", full).await.err().unwrap();
    assert!(open("localhost", "sslmode=verify-ca&sslrootcert=DIR/authority.pem").await.is_ok());
    let mut refused = vec![wrong_name];
    for query in [
        "sslmode=verify-full",
        "sslmode=verify-full&sslrootcert=DIR/stranger.pem",
        "sslmode=verify-ca&sslrootcert=DIR/stranger.pem",
        "sslmode=verify-full&sslrootcert=DIR/absent.pem",
        // The server takes nobody without TLS.
        "sslmode=disable",
    ] {
        refused.push(open("127.0.0.1", query).await.err().unwrap_or_else(|| panic!("{query} is accepted")));
    }
    for error in refused {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
        assert!(!format!("{error} {error:?} {source:?}").contains("hunter2"), "{error:?}");
    }
}
