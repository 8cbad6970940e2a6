//! The real store on a simulated disk, watched: every batch goes through here, and nothing is
//! answered by a process that is dead.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use migrate_plugin_api::{IdempotencyKey, NodeId, RunId};

use super::disk::{Disk, Mounted};
use super::ledger::Contents;
use super::world::World;
use crate::ambient;
use crate::run::GateDecision;
use crate::store::fact::{Batch, LogLine, Place, RunRecord, Stamped};
use crate::store::{SqliteStore, Store, StoreError};

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A thread on which the store works, while the simulated world stands still and waits for it: its
/// pool has clocks and tasks of its own that must not mix with the simulated ones.
#[derive(Clone)]
pub(super) struct StoreThread {
    jobs: mpsc::Sender<Job>,
    vfs: &'static str,
}

impl StoreThread {
    /// A thread with a file layer of its own, called `vfs`.
    pub(super) fn start(vfs: String) -> Self {
        let vfs: &'static str = vfs.leak();
        super::disk::register(vfs);
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            while let Ok(job) = queue.recv() {
                runtime.block_on(job());
            }
        });
        Self { jobs, vfs }
    }

    fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move || {
            Box::pin(async move {
                let _ = answer.send(work().await);
            })
        });
        self.jobs.send(job).unwrap();
        answered.recv().unwrap()
    }
}

/// The store of one process.
pub(super) struct Witness {
    store: Arc<SqliteStore>,
    thread: StoreThread,
    world: Arc<World>,
    disk: Arc<Disk>,
    _mounted: Mounted,
}

impl Witness {
    /// Opens the store on `disk`.
    pub(super) fn open(
        thread: &StoreThread,
        world: &Arc<World>,
        disk: &Arc<Disk>,
        mount: u64,
    ) -> Result<Self, StoreError> {
        let mounted = Mounted::new(mount, Arc::clone(disk));
        let (path, vfs) = (PathBuf::from(mounted.path()), thread.vfs);
        let store = thread.run(move || async move { SqliteStore::open_simulated(&path, vfs).await });
        disk.take_log().iter().for_each(|line| world.say(line));
        Ok(Self {
            store: Arc::new(store?),
            thread: thread.clone(),
            world: Arc::clone(world),
            disk: Arc::clone(disk),
            _mounted: mounted,
        })
    }

    /// Calls the store, and never returns if the process died of it.
    async fn call<T, F>(&self, work: impl FnOnce(Arc<SqliteStore>) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        // It may have died since it asked.
        self.world.only_alive().await;
        let store = Arc::clone(&self.store);
        let answer = self.thread.run(move || work(store));
        self.disk.take_log().iter().for_each(|line| self.world.say(line));
        self.world.only_alive().await;
        answer
    }

    /// The newest run and all that is stored of it.
    pub(super) async fn contents(&self) -> Result<(Option<RunId>, Contents), StoreError> {
        let Some(run) = self.run(None).await? else { return Ok((None, Contents::default())) };
        let (facts, places) = (self.facts(&run.id).await?, self.places(&run.id).await?);
        Ok((Some(run.id), Contents { facts, places }))
    }

    async fn pass(&self) {
        let time = Duration::from_millis(self.world.lock().dice.below(20));
        ambient::sleep(time).await;
        self.world.only_alive().await;
    }

    fn answered<T>(&self, answer: &Result<T, StoreError>) {
        match answer {
            Ok(_) => self.world.lock().ledger.acknowledge(),
            Err(error) => {
                self.world.say(format!("the store refuses: {error:?}"));
                self.world.lock().refused = true;
            }
        }
    }
}

impl Drop for Witness {
    /// The process is gone, and its files with it. On a dead disk this changes nothing.
    fn drop(&mut self) {
        let store = Arc::clone(&self.store);
        self.thread.run(move || async move { store.close().await });
        self.disk.take_log();
    }
}

#[async_trait]
impl Store for Witness {
    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.world.lock().ledger.created(run.id.clone());
        self.world.say("store a run");
        let run = run.clone();
        let answer = self.call(move |store| async move { store.create_run(&run).await }).await;
        self.answered(&answer);
        self.world.lock().ledger.run_acknowledged = answer.is_ok();
        answer
    }

    async fn append(&self, run: &RunId, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        // The disk takes its time, and other things happen meanwhile.
        self.pass().await;
        self.world.storing(batch);
        let (run, batch) = (run.clone(), batch.clone());
        let answer = self.call(move |store| async move { store.append(&run, &batch).await }).await;
        self.answered(&answer);
        self.pass().await;
        answer
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        let id = id.cloned();
        self.call(move |store| async move { store.run(id.as_ref()).await }).await
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.call(|store| async move { store.runs().await }).await
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        let run = run.clone();
        self.call(move |store| async move { store.facts(&run).await }).await
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        let run = run.clone();
        self.call(move |store| async move { store.places(&run).await }).await
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        let (run, node) = (run.clone(), node.cloned());
        self.call(move |store| async move { store.logs(&run, node.as_ref(), after, limit).await }).await
    }

    /// Not on the simulated disk: a decision is a file of its own, or another connection.
    async fn decide(&self, _: &RunId, decision: &GateDecision) -> Result<Option<GateDecision>, StoreError> {
        Ok(self.world.lock().outside.decide(decision.clone()))
    }

    async fn decision(&self, _: &RunId, key: &IdempotencyKey) -> Result<Option<GateDecision>, StoreError> {
        self.world.only_alive().await;
        Ok(self.world.lock().outside.decisions.get(key).cloned())
    }

    async fn close(&self) {
        self.call(|store| async move { store.close().await }).await;
    }
}
