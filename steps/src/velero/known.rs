//! What tells what a backup holds where its contents can't be read from here: its own list, or else when Velero had
//! listed the source.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::api::{BackupStatus, PodVolumeBackup};
use super::contents::{Contents, place};
use super::inventory::is_excluded;
use super::lone::is_made;
use super::volumes::{BoundClaim, CLAIMS, VolumeBackup, was_there};

/// Of a backup that was made.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// When it began.
    pub began: Option<&'a Time>,
    /// When Velero had listed the source, at the latest.
    pub listed: Option<&'a Time>,
    /// Its own list; empty where that can't be read.
    pub objects: &'a BTreeMap<String, Vec<String>>,
}

impl Known<'_> {
    /// Whether it holds `object`, as the source has it: for certain by its list, else perhaps.
    pub(super) fn holds(&self, kind: &str, object: &impl ResourceExt) -> bool {
        let metadata = object.meta();
        let is_gone = |deleted: &Time| self.began.is_none_or(|began| deleted <= began);
        let may_go_along =
            || !is_excluded(object) && !metadata.deletion_timestamp.as_ref().is_some_and(is_gone);
        let may_be = was_there(metadata.creation_timestamp.as_ref(), self.listed);
        may_be && self.lists(kind, &place(object)).unwrap_or_else(may_go_along)
    }

    /// As [`Known::holds`].
    pub(super) fn holds_claim(&self, claim: &BoundClaim) -> bool {
        let may_be = was_there(claim.created.as_ref(), self.listed);
        may_be && self.lists(CLAIMS, &claim.path()).unwrap_or(claim.goes_along)
    }

    fn lists(&self, kind: &str, name: &String) -> Option<bool> {
        let names = self.objects.get(kind);
        (!self.objects.is_empty()).then(|| names.is_some_and(|names| names.contains(name)))
    }

    /// Those of `kind` in its list that none of `sources` are.
    fn unseen<'a>(&'a self, kind: &str, sources: &[&[impl ResourceExt]]) -> Vec<&'a String> {
        let objects = sources.iter().flat_map(|source| source.iter());
        let there: BTreeSet<String> = objects.filter(|object| self.holds(kind, *object)).map(place).collect();
        self.objects.get(kind).into_iter().flatten().filter(|name| !there.contains(*name)).collect()
    }

    /// What of its list was neither on the source when it was `seen` nor is `now`, so that nobody can say what it is.
    pub(super) fn unjudged(&self, now: &Contents, seen: &Contents, volumes: &[VolumeBackup]) -> Unjudged {
        let pods = self.unseen("v1/Pod", &[&now.pods, &seen.pods]);
        let of = |kind: &str, names: Vec<&String>| -> Vec<String> {
            names.into_iter().map(|name| format!("{kind} {name}")).collect()
        };
        // What a claim is of is known, and that a workload makes pods which don't end.
        let of_pods = volumes.iter().filter(|volume| {
            let pod = format!("{}/{}", volume.namespace, volume.pod);
            volume.claim.is_none() && pods.contains(&&pod)
        });
        let jobs = self.unseen("batch/v1/Job", &[&now.jobs, &seen.jobs]);
        let lone = pods.iter().copied().filter(|pod| !is_made(self.objects, pod)).collect();
        Unjudged {
            services: of("Service", self.unseen("v1/Service", &[&now.services, &seen.services])),
            work: [of("Job", jobs), of("pod", lone)].concat(),
            volumes: of_pods.map(|volume| format!("volume {}", volume.path())).collect(),
        }
    }
}

/// Objects that nobody can judge.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unjudged {
    pub services: Vec<String>,
    /// Jobs, and pods that may come to an end.
    pub work: Vec<String>,
    /// Of pods, without a claim.
    pub volumes: Vec<String>,
}

/// When Velero had listed the source, at the latest: it makes the first of `volumes` when it has.
pub(super) fn listed(volumes: &[PodVolumeBackup], status: &BackupStatus) -> Option<Time> {
    let first = volumes.iter().filter_map(ResourceExt::creation_timestamp).min();
    first.or_else(|| status.completion_timestamp.clone())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Time {
        serde_json::from_value(json!(text)).unwrap()
    }

    fn service(metadata: Value) -> Service {
        let mut metadata = metadata;
        (metadata["namespace"], metadata["name"]) = (json!("shop"), json!("db"));
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn its_list_says_what_a_backup_holds_and_without_one_what_may_have_been_listed() {
        let (began, listed) = (at("2026-01-02T10:00:00Z"), at("2026-01-02T10:05:00Z"));
        let none = BTreeMap::new();
        let list = BTreeMap::from([("v1/Service".to_owned(), vec!["shop/db".to_owned()])]);
        let other = BTreeMap::from([("v1/Pod".to_owned(), vec!["shop/db".to_owned()])]);
        let holds = |objects: &BTreeMap<String, Vec<String>>, metadata: Value| {
            let known = Known { began: Some(&began), listed: Some(&listed), objects };
            known.holds("v1/Service", &service(metadata))
        };
        let created = |text: &str| json!({ "creationTimestamp": text });
        let excluded = json!({ "labels": { "velero.io/exclude-from-backup": "true" } });
        let deleted = |text: &str| json!({ "deletionTimestamp": text });
        for (metadata, by_list, without) in [
            (created("2026-01-01T00:00:00Z"), true, true),
            (created("2026-01-02T10:00:01Z"), true, true),
            // Another one has its name.
            (created("2026-01-02T10:05:01Z"), false, false),
            (excluded, true, false),
            (deleted("2026-01-02T09:00:00Z"), true, false),
            (deleted("2026-01-02T11:00:00Z"), true, true),
        ] {
            assert_eq!(holds(&list, metadata.clone()), by_list, "{metadata}");
            assert_eq!(holds(&none, metadata.clone()), without, "{metadata}");
            assert!(!holds(&other, metadata));
        }
    }

    #[test]
    fn what_is_listed_and_nowhere_to_be_seen_can_not_be_judged() {
        let named = |names: &[&str]| names.iter().map(|name| format!("shop/{name}")).collect::<Vec<_>>();
        let objects = BTreeMap::from([
            ("v1/Service".to_owned(), named(&["db", "web"])),
            ("batch/v1/Job".to_owned(), named(&["bill"])),
            ("apps/v1/StatefulSet".to_owned(), named(&["db"])),
            ("v1/Pod".to_owned(), named(&["db-0", "import"])),
        ]);
        let known = Known { began: None, listed: None, objects: &objects };
        let volume = |volume: &str, claim: Option<&str>| VolumeBackup {
            namespace: "shop".to_owned(),
            pod: "db-0".to_owned(),
            volume: volume.to_owned(),
            claim: claim.map(str::to_owned),
            bytes: 1,
            snapshot_id: "k1".to_owned(),
        };
        let volumes = [volume("data", Some("data-db-0")), volume("docs", None)];
        let seen = Contents { services: vec![service(json!({}))], ..Default::default() };
        let unjudged = known.unjudged(&Contents::default(), &seen, &volumes);
        assert_eq!(unjudged.services, ["Service shop/web"]);
        assert_eq!(unjudged.work, ["Job shop/bill", "pod shop/import"]);
        assert_eq!(unjudged.volumes, ["volume shop/db-0/docs"]);
        let none = BTreeMap::new();
        let known = Known { began: None, listed: None, objects: &none };
        assert_eq!(known.unjudged(&Contents::default(), &seen, &volumes), Unjudged::default());
    }
}
