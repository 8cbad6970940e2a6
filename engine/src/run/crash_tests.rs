//! A real process is killed with SIGKILL before and after each write to its store, and the run is then
//! taken up until it is done. Effects are lines in a file, so that a lost or a doubled one is seen.
//!
//! The process is this test binary, started again with [`CHILD`] in its environment.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use migrate_plugin_api::{
    Check, Evidence, Idempotency, IdempotencyKey, NodeId, Observation, RunId, Step, StepContext, StepError,
    StepInfo, StepPlan, VerifyDepth,
};
use serde_json::{Value, json};

use crate::ambient;
use crate::event::EventSink;
use crate::report::{NodeState, RunReport, RunState};
use crate::run::GateDecision;
use crate::run::key::run_id;
use crate::shutdown::Shutdown;
use crate::store::fact::{Batch, LogLine, Place, RunRecord, Stamped};
use crate::store::holder::Holder;
use crate::store::{AcquireError, Store, StoreError};
use crate::workflow::{Checked, Params, Source};
use crate::{Engine, ResumeRequest, RunError};

/// `before 17 DIR`: run the workflow in DIR, and die before the 17th write.
const CHILD: &str = "MIGRATE_CRASH_TEST";

const SIGKILL: i32 = 9;

/// A bound for the search: the workflow ends long before.
const MAX_WRITES: u32 = 1_000;

/// Kill points tried at once: their processes mostly wait for the disk.
const AT_ONCE: usize = 4;

/// How the thirty nodes stand: eighteen keyed, six natural, and six leaves without idempotency.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Three chains, with the natural ones beside them: several nodes share a write.
    Wide,
    /// All but the leaves in a row: no two nodes share a write, but for an end and the intent after it.
    Row,
}

fn workflow(shape: Shape) -> String {
    let mut text = "schema = 1\nname = \"crash\"\n".to_owned();
    let mut node = |name: String, step: &str, needs: Option<String>| {
        let needs = needs.map(|needed| format!("needs = [\"{needed}\"]\n")).unwrap_or_default();
        // What a person has to look at keeps nothing else from being done.
        text.push_str(&format!("[nodes.{name}]\nstep = \"{step}\"\non_failure = \"continue\"\n{needs}"));
    };
    let before = |n: u32| match shape {
        Shape::Wide => n.checked_sub(3).map(|before| format!("k{before}")),
        Shape::Row if n.is_multiple_of(3) => n.checked_sub(3).map(|before| format!("n{}", before / 3)),
        Shape::Row => Some(format!("k{}", n - 1)),
    };
    (0..18).for_each(|n| node(format!("k{n}"), "keyed", before(n)));
    (0..6).for_each(|n| {
        let after = if matches!(shape, Shape::Wide) { n * 3 } else { n * 3 + 2 };
        node(format!("n{n}"), "natural", Some(format!("k{after}")));
    });
    (0..6).for_each(|n| node(format!("o{n}"), "once", Some(format!("k{}", n * 3 + 1))));
    text
}

struct Counted(Idempotency);

impl Counted {
    fn name(&self) -> &'static str {
        match self.0 {
            Idempotency::Keyed => "keyed",
            Idempotency::Natural => "natural",
            Idempotency::None => "once",
        }
    }
}

/// Everything outside that was ever done for `node`, one line each.
fn effects(project: &Path, node: &str) -> Vec<String> {
    let all = std::fs::read_to_string(project.join("effects")).unwrap_or_default();
    let mine = all.lines().filter(|line| line.split(' ').next() == Some(node));
    mine.map(ToOwned::to_owned).collect()
}

fn add_effect(ctx: &StepContext) {
    let mut file = OpenOptions::new().create(true).append(true).open(ctx.path("effects")).unwrap();
    file.write_all(format!("{} {}\n", ctx.node, ctx.key).as_bytes()).unwrap();
}

#[async_trait]
impl Step for Counted {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: self.name().to_owned(),
            version: "1".to_owned(),
            summary: "Counts".to_owned(),
            config_schema: json!({ "type": "object" }),
            output_schema: json!({ "type": "object" }),
            sensitive: Vec::new(),
            idempotency: self.0,
            supports_undo: false,
        }
    }

    async fn plan(&self, _: &StepContext, _: &Value) -> Result<StepPlan, StepError> {
        Ok(StepPlan::new("count"))
    }

    /// Only the keyed step's outside can be asked; it knows what it did by its key.
    async fn observe(&self, ctx: &StepContext, _: &Value) -> Result<Observation, StepError> {
        if self.0 != Idempotency::Keyed {
            return Ok(Observation::Unknown { reason: "nobody can be asked".to_owned() });
        }
        let mine = format!("{} {}", ctx.node, ctx.key);
        let done = effects(&ctx.path(""), ctx.node.as_str()).contains(&mine);
        Ok(if done { Observation::Done { outputs: json!({ "done": true }) } } else { Observation::Absent })
    }

    async fn apply(&self, ctx: &StepContext, _: &Value) -> Result<Value, StepError> {
        ctx.checkpoint(&json!({ "before": "the effect" })).await?;
        match self.0 {
            Idempotency::Natural => {
                std::fs::write(ctx.path(format!("state-{}", ctx.node)), "as wished").unwrap()
            }
            // Unconditionally: that it happens once is the engine's doing.
            Idempotency::Keyed | Idempotency::None => add_effect(ctx),
        }
        ctx.set_handle("after-the-effect").await?;
        Ok(json!({ "done": true }))
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        _: &Value,
        _: &Value,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let found = match self.0 {
            Idempotency::Natural => usize::from(ctx.path(format!("state-{}", ctx.node)).exists()),
            _ => effects(&ctx.path(""), ctx.node.as_str()).len(),
        };
        Ok(Evidence::from_iter([Check::equal("outside", "effects", "1", found.to_string())]))
    }

    async fn undo(&self, _: &StepContext, _: &Value, _: &Value) -> Result<(), StepError> {
        Ok(())
    }
}

fn engine(project: &Path) -> (Engine, Checked) {
    let kinds = [Idempotency::Keyed, Idempotency::Natural, Idempotency::None];
    let steps = kinds.map(|kind| Arc::new(Counted(kind)) as Arc<dyn Step>).to_vec();
    let engine = Engine::open(project, steps).unwrap();
    let read = |name: &str| Source::read(project.join(name)).unwrap();
    let checked = engine.check(&read("w.toml"), &read("migration.toml"), &Params::new()).unwrap();
    (engine, checked)
}

fn project(shape: Shape) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w.toml"), workflow(shape)).unwrap();
    std::fs::write(dir.path().join("migration.toml"), "schema = 1\n").unwrap();
    dir
}

/// Kills its process at one write.
struct Deadly {
    store: Arc<dyn Store>,
    writes: AtomicU32,
    kill_at: u32,
    before: bool,
}

impl Deadly {
    async fn write<T>(&self, work: impl Future<Output = T>) -> T {
        let fatal = self.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.kill_at;
        if fatal && self.before {
            die();
        }
        let result = work.await;
        if fatal {
            die();
        }
        result
    }
}

fn die() -> ! {
    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

#[async_trait]
impl Store for Deadly {
    async fn acquire(&self, holder: &Holder) -> Result<(), AcquireError> {
        self.store.acquire(holder).await
    }

    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.write(self.store.create_run(run)).await
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() { Ok(()) } else { self.write(self.store.append(run, batch)).await }
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        self.store.run(id).await
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.store.runs().await
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        self.store.facts(run).await
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        self.store.places(run).await
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        self.store.logs(run, node, after, limit).await
    }

    async fn decide(&self, run: &RunId, decision: &GateDecision) -> Result<Option<GateDecision>, StoreError> {
        self.store.decide(run, decision).await
    }

    async fn decision(&self, run: &RunId, key: &IdempotencyKey) -> Result<Option<GateDecision>, StoreError> {
        self.store.decision(run, key).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

/// What the started process does; nothing when the tests run.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let mut words = order.splitn(3, ' ');
    let before = words.next() == Some("before");
    let kill_at: u32 = words.next().unwrap().parse().unwrap();
    let project = PathBuf::from(words.next().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (engine, checked) = engine(&project);
        let started_at = ambient::now();
        let id = run_id(started_at, ambient::random_tag());
        let (store, _lock) = engine.hold(&id).await.unwrap();
        let deadly = Arc::new(Deadly { store, writes: AtomicU32::new(0), kill_at, before });
        let (sink, shutdown) = (EventSink::discard(), Shutdown::new());
        let report = engine.begin(deadly, id, started_at, &checked, sink, &shutdown).await.unwrap();
        assert_eq!(report.state, RunState::Done);
    });
}

/// How one kill point ended.
enum End {
    /// The run was done before this write.
    NotReached,
    Recovered {
        asked: usize,
        resumes: usize,
    },
}

fn kill_and_recover(shape: Shape, before: bool, kill_at: u32) -> End {
    let project = project(shape);
    let when = if before { "before" } else { "after" };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["run::crash_tests::child", "--exact", "--nocapture"])
        .env(CHILD, format!("{when} {kill_at} {}", project.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if status.success() {
        return End::NotReached;
    }
    assert_eq!(status.signal(), Some(SIGKILL), "{when} {kill_at}: {status}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (asked, resumes) = runtime.block_on(recover(project.path()));
    for n in 0..18 {
        assert_eq!(effects(project.path(), &format!("k{n}")).len(), 1, "{when} {kill_at}: keyed node k{n}");
    }
    for n in 0..6 {
        let state = std::fs::read_to_string(project.path().join(format!("state-n{n}")));
        assert_eq!(state.unwrap(), "as wished", "{when} {kill_at}: natural node n{n}");
        assert_eq!(effects(project.path(), &format!("o{n}")).len(), 1, "{when} {kill_at}: node o{n}");
    }
    End::Recovered { asked, resumes }
}

/// Takes the run up as a person does, until it is done, or all that is left was asked about and is
/// there. Returns how often a person was asked, and how often it was resumed.
async fn recover(project: &Path) -> (usize, usize) {
    let (engine, checked) = engine(project);
    let mut rerun: Vec<NodeId> = Vec::new();
    let mut asked = 0;
    for resumes in 1..10 {
        let (sink, shutdown) = (EventSink::discard(), Shutdown::new());
        let report = if engine.runs().await.unwrap().is_empty() {
            engine.run(&checked, sink, &shutdown).await.unwrap()
        } else {
            let request = ResumeRequest { rerun: std::mem::take(&mut rerun), ..ResumeRequest::default() };
            match engine.resume(request, sink, &shutdown).await {
                Ok(report) => report,
                // Killed after its last write.
                Err(RunError::AlreadyDone(_)) => return (asked, resumes),
                Err(error) => panic!("{error}"),
            }
        };
        if report.state == RunState::Done {
            return (asked, resumes);
        }
        let open = questions(&report);
        asked += open.len();
        // A person looks: what isn't there is done again; what is there stays as it is.
        let absent = |node: &NodeId| effects(project, node.as_str()).is_empty();
        rerun = open.into_iter().filter(absent).collect();
        if rerun.is_empty() {
            return (asked, resumes);
        }
    }
    panic!("it never ends");
}

/// The nodes about which a person is asked. Nothing else may have failed.
fn questions(report: &RunReport) -> Vec<NodeId> {
    let mut open = Vec::new();
    for node in report.nodes.iter().filter(|node| node.state == NodeState::Failed) {
        let error = node.error.as_ref().unwrap();
        assert!(node.step == "once" && error.message.contains("nobody can be asked"), "{error:?}");
        open.push(node.node.clone());
    }
    assert!(!open.is_empty(), "{report:?}");
    open
}

#[test]
fn killed_at_every_write_nothing_is_lost_and_nothing_doubled() {
    let began = Instant::now();
    let mut points = 0;
    for shape in [Shape::Wide, Shape::Row] {
        let next = AtomicU32::new(0);
        let counts = [const { AtomicUsize::new(0) }; 3];
        std::thread::scope(|scope| {
            (0..AT_ONCE).for_each(|_| drop(scope.spawn(|| kill_points(shape, &next, &counts))));
        });
        let [killed, resumes, asked] = counts.map(AtomicUsize::into_inner);
        println!("{shape:?}: {killed} kill points, {resumes} resumes, a person asked about {asked} nodes");
        points += killed;
    }
    println!("{points} kill points in {:.1} s: 0 lost, 0 doubled", began.elapsed().as_secs_f64());
    // An intent, what a step keeps, its effect with the verification; a kill before and after each.
    assert!(points > 24 * 3 * 2, "24 nodes in a row have at least three writes each");
}

/// Takes kill points in turn, before and after each write, until the run gets past them.
fn kill_points(shape: Shape, next: &AtomicU32, counts: &[AtomicUsize; 3]) {
    loop {
        let turn = next.fetch_add(1, Ordering::SeqCst);
        let (before, kill_at) = (turn.is_multiple_of(2), turn / 2 + 1);
        assert!(kill_at < MAX_WRITES, "the workflow never ends");
        let End::Recovered { asked, resumes } = kill_and_recover(shape, before, kill_at) else { return };
        for (count, more) in counts.iter().zip([1, resumes, asked]) {
            count.fetch_add(more, Ordering::SeqCst);
        }
    }
}
