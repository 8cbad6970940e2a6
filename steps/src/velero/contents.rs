//! Objects of the kinds with which a restore may do harm: as a backup holds them, or as the source has them now. What
//! they would lead to is judged by [`super::hazards`].

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Service};
use kube::ResourceExt;
use migrate_plugin_api::StepError;
use serde::de::DeserializeOwned;

use super::api::Velero;
use super::compare::some;
use super::files::MAX_FILE_BYTES;
use super::volumes::{BoundClaim, bound};

/// Larger than what an API server keeps of one object.
const MAX_OBJECT_BYTES: u64 = 16 << 20;

/// The objects.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub pods: Vec<Pod>,
    pub jobs: Vec<Job>,
    pub services: Vec<Service>,
    pub cron_jobs: Vec<CronJob>,
    pub claims: Vec<BoundClaim>,
    /// PersistentVolumes of the claims: of a cluster, only those that were looked up.
    pub volumes: Vec<PersistentVolume>,
}

impl Contents {
    /// As `namespaces` have them, of which `claims` and `pods` are known; without `volumes`.
    pub(super) async fn of_cluster(
        velero: &Velero,
        namespaces: &[String],
        (claims, pods): (Vec<BoundClaim>, Vec<Pod>),
    ) -> Result<Self, StepError> {
        Ok(Self {
            claims,
            pods,
            jobs: velero.list_in(namespaces, "the jobs").await?,
            services: velero.list_in(namespaces, "the services").await?,
            cron_jobs: velero.list_in(namespaces, "the cron jobs").await?,
            volumes: Vec::new(),
        })
    }

    /// With `other`.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.pods.extend(other.pods);
        self.jobs.extend(other.jobs);
        self.services.extend(other.services);
        self.cron_jobs.extend(other.cron_jobs);
        self.claims.extend(other.claims);
        self.volumes.extend(other.volumes);
        self
    }

    /// As the archive of a backup has them, `resources/RESOURCE.GROUP/namespaces/NAMESPACE/NAME.json` and
    /// `resources/RESOURCE.GROUP/cluster/NAME.json`:
    /// <https://velero.io/docs/main/output-file-format/>.
    ///
    /// # Errors
    /// Why it can't be read.
    pub(super) fn of_backup(packed: &[u8]) -> Result<Self, String> {
        let (mut found, mut claims) = (Self::default(), Vec::<PersistentVolumeClaim>::new());
        let mut archive = tar::Archive::new(GzDecoder::new(packed).take(MAX_FILE_BYTES));
        for entry in archive.entries().map_err(|e| e.to_string())? {
            let entry = entry.map_err(|e| e.to_string())?;
            let path = entry.path().map_err(|e| e.to_string())?.into_owned();
            let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
            let kind = match parts[..] {
                ["resources", kind, "namespaces", _, _] | ["resources", kind, "cluster", _] => kind,
                _ => continue,
            };
            match kind {
                "persistentvolumeclaims" => claims.push(object(entry, kind)?),
                "persistentvolumes" => found.volumes.push(object(entry, kind)?),
                "pods" => found.pods.push(object(entry, kind)?),
                "jobs.batch" => found.jobs.push(object(entry, kind)?),
                "services" => found.services.push(object(entry, kind)?),
                "cronjobs.batch" => found.cron_jobs.push(object(entry, kind)?),
                _ => {}
            }
        }
        if archive.into_inner().limit() == 0 {
            return Err(format!("it is larger than {MAX_FILE_BYTES} bytes"));
        }
        found.claims = bound(&claims);
        Ok(found)
    }

    /// What the backup's own list, `objects`, names and this lacks: then it was not read rightly.
    pub(super) fn lacks(&self, objects: &BTreeMap<String, Vec<String>>) -> Option<String> {
        let of = |kind: &str, here: Vec<String>| -> Vec<String> {
            let named = objects.get(kind).into_iter().flatten();
            named.filter(|name| !here.contains(name)).map(|name| format!("{kind} {name}")).collect()
        };
        let lacking = [
            of("v1/Pod", places(&self.pods)),
            of("batch/v1/Job", places(&self.jobs)),
            of("v1/Service", places(&self.services)),
            of("batch/v1/CronJob", places(&self.cron_jobs)),
            of("v1/PersistentVolume", self.volumes.iter().map(ResourceExt::name_any).collect()),
        ]
        .concat();
        (!lacking.is_empty()).then(|| some(&lacking))
    }
}

fn object<T: DeserializeOwned>(entry: impl Read, kind: &str) -> Result<T, String> {
    serde_json::from_reader(entry.take(MAX_OBJECT_BYTES)).map_err(|e| format!("one of {kind}: {e}"))
}

fn places(objects: &[impl ResourceExt]) -> Vec<String> {
    objects.iter().map(place).collect()
}

/// `NAMESPACE/NAME`.
pub(super) fn place(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
