//! The real store on a simulated disk, watched: every batch goes through here, and nothing is
//! answered by a process that is dead.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
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

/// The store of one process.
pub(super) struct Witness {
    store: SqliteStore,
    world: Arc<World>,
    disk: Arc<Disk>,
    _mounted: Mounted,
}

impl Witness {
    /// Opens the store on `disk`, which SQLite reaches at `mount` through the file layer `vfs`.
    pub(super) fn open(
        vfs: &str,
        world: &Arc<World>,
        disk: &Arc<Disk>,
        mount: u64,
    ) -> Result<Self, StoreError> {
        let mounted = Mounted::new(mount, Arc::clone(disk));
        let store = SqliteStore::open_simulated(Path::new(&mounted.path()), vfs);
        disk.take_log().iter().for_each(|line| world.say(line));
        let (world, disk) = (Arc::clone(world), Arc::clone(disk));
        Ok(Self { store: store?, world, disk, _mounted: mounted })
    }

    /// Waits for the store, and never returns if the process died of it.
    async fn call<T>(&self, work: impl Future<Output = T>) -> T {
        // It may have died since it asked.
        self.world.only_alive().await;
        let answer = work.await;
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
        self.store.close_now();
        self.disk.take_log();
    }
}

#[async_trait]
impl Store for Witness {
    async fn create_run(&self, run: &RunRecord) -> Result<(), StoreError> {
        self.world.lock().ledger.created(run.id.clone());
        self.world.say("store a run");
        let answer = self.call(self.store.create_run(run)).await;
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
        let answer = self.call(self.store.append(run, batch)).await;
        self.answered(&answer);
        self.pass().await;
        answer
    }

    async fn run(&self, id: Option<&RunId>) -> Result<Option<RunRecord>, StoreError> {
        self.call(self.store.run(id)).await
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.call(self.store.runs()).await
    }

    async fn facts(&self, run: &RunId) -> Result<Vec<Stamped>, StoreError> {
        self.call(self.store.facts(run)).await
    }

    async fn places(&self, run: &RunId) -> Result<BTreeMap<NodeId, Place>, StoreError> {
        self.call(self.store.places(run)).await
    }

    async fn logs(
        &self,
        run: &RunId,
        node: Option<&NodeId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, LogLine)>, StoreError> {
        self.call(self.store.logs(run, node, after, limit)).await
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
        self.call(self.store.close()).await;
    }
}
