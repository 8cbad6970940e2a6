//! The steps against a stand-in API server: create, join, conflict, and every way to fail.

mod cluster;
mod hazards;
mod later;
mod left_out;
mod source;
mod target;

use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{StepContext, Typed};
use serde_json::{Value, json};

use self::cluster::Cluster;
use super::backup::VeleroBackup;
use super::follow::Pace;
use super::restore::VeleroRestore;

const KEY: &str = "node-0000000000";
const VELERO: &str = "/apis/velero.io/v1/namespaces/velero";

/// Fast, and with a stall and an outage that a test can wait for.
fn pace() -> Pace {
    Pace {
        poll: Duration::from_millis(2),
        stall: Duration::from_millis(50),
        sync: Duration::from_millis(200),
        volumes: Duration::from_millis(20),
        download: Duration::from_secs(5),
        outage: Duration::from_millis(50),
        answer: Duration::from_secs(60),
    }
}

fn context() -> (Arc<RecordingHost>, StepContext) {
    let host = Arc::new(RecordingHost::default());
    let ctx = host.context("node", ".");
    (host, ctx)
}

fn backup_step() -> Typed<VeleroBackup> {
    Typed(VeleroBackup::at(pace()))
}

fn restore_step() -> Typed<VeleroRestore> {
    Typed(VeleroRestore::at(pace()))
}

fn location(access_mode: &str) -> Value {
    json!({ "spec": { "default": true, "accessMode": access_mode }, "status": { "phase": "Available" } })
}

/// A cluster with Velero 1.18 in it.
async fn cluster(access_mode: &str) -> Cluster {
    let cluster = Cluster::start().await;
    let mut state = cluster.lock();
    state.put(&format!("{VELERO}/backupstoragelocations/default"), location(access_mode));
    let containers = json!([{ "name": "velero", "image": "velero/velero:v1.18.3", "command": ["/velero"] }]);
    state.put(
        "/apis/apps/v1/namespaces/velero/deployments/velero",
        json!({ "spec": { "selector": {}, "template": { "spec": { "containers": containers } } },
            "status": { "readyReplicas": 1 } }),
    );
    state.put(
        "/apis/apps/v1/namespaces/velero/daemonsets/node-agent",
        json!({ "status": { "numberReady": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
            "numberMisscheduled": 0 } }),
    );
    drop(state);
    cluster
}

fn claim(phase: &str, class: &str) -> Value {
    json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "storageClassName": class }, "status": { "phase": phase } })
}

fn pod() -> Value {
    json!({ "spec": { "containers": [{ "name": "db", "volumeMounts": [{ "name": "data", "mountPath": "/d" }] }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data-db-0" } }] },
        "status": { "phase": "Running" } })
}

fn pod_volume_backup(phase: &str, done: u64) -> Value {
    json!({ "metadata": { "labels": { "velero.io/backup-name": KEY },
            "annotations": { "velero.io/pvc-name": "data-db-0" } },
        "spec": { "pod": { "namespace": "shop", "name": "db-0" }, "volume": "data", "uploaderType": "kopia" },
        "status": { "phase": phase, "snapshotID": "k1", "progress": { "totalBytes": 20, "bytesDone": done } } })
}
