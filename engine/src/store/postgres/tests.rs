//! PostgreSQL, from Debian's packages, against the conformance suite; and its leases.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use migrate_plugin_api::Secret;
use tempfile::TempDir;

use super::*;
use crate::decide::DecideRequest;
use crate::engine::{Engine, ResumeRequest, RunError};
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

/// A server of its own: data in a temporary folder, reached through a socket there and nothing else.
struct Server {
    process: Child,
    dir: TempDir,
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

impl Server {
    async fn start() -> Self {
        let (bin, dir) = (programs(), tempfile::tempdir().unwrap());
        if rustix::process::geteuid().is_root() {
            let status = Command::new("chown").arg(USER).arg(dir.path()).status().unwrap();
            assert!(status.success(), "chown {USER}: {status}");
        }
        let data = dir.path().join("data");
        let made = as_user(&bin.join("initdb"))
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--username=migrate", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let process = as_user(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            // No port is taken. Without fsync: these tests take no power away.
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_commit=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, dir };
        let began = Instant::now();
        while let Err(error) = PostgresStore::read(&server.url(), "any").await {
            assert!(began.elapsed() < START_TIMEOUT, "the server doesn't start: {error:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    fn url(&self) -> Secret {
        Secret::new(format!("postgresql:///postgres?user=migrate&host={}", self.dir.path().display()))
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

/// Last: it leaves the database in a state that is refused.
async fn a_newer_version_is_refused(lab: &Project) {
    let store = lab.handle().await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9, 'later', true, '', 0)",
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
