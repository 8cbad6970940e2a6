//! `manifest.apply` with `prune`, against a stand-in of ours (`stand_in.rs`). The real API server is asked in
//! `tests/sandbox_prune.rs`.

use std::fs;
use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{
    CheckStatus, ErrorClass, PlanConfig, Severity, Step as _, StepError, StepPlan, Typed, TypedStep as _,
    VerifyDepth,
};
use serde_json::{Value, json};

use super::apply::{Config, ManifestApply, Outputs};
use super::apply_set::{PART_OF, Prune};
use super::export::ManifestExport;
use super::rewrite::ManifestRewrite;
use super::stand_in::StandIn;

const RECORD: &str = "configmaps/shop/web";
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";

struct World {
    server: StandIn,
    host: Arc<RecordingHost>,
    config: Config,
    project: tempfile::TempDir,
}

fn object(kind: &str, name: &str) -> String {
    let version = match kind {
        "ControllerRevision" | "StatefulSet" => "apps/v1",
        "ClusterRole" => "rbac.authorization.k8s.io/v1",
        "Widget" => "example.com/v1",
        _ => "v1",
    };
    let namespace = if kind == "ClusterRole" || kind == "Namespace" { "" } else { ", namespace: shop" };
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\nspec: {{text: one}}\n---\n"
    )
}

impl World {
    /// A folder with these objects, already applied.
    async fn new(objects: &[(&str, &str)]) -> Self {
        let server = StandIn::start().await;
        let project = tempfile::tempdir().unwrap();
        server.kubeconfig(&project.path().join("kubeconfig"));
        fs::create_dir(project.path().join("in")).unwrap();
        let config = json!({
            "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "directory": "in",
            "prune": { "set": "web", "namespace": "shop" },
        });
        let host = Arc::new(RecordingHost::default());
        let world = Self { server, host, config: serde_json::from_value(config).unwrap(), project };
        world.write(objects);
        world.apply().await.unwrap();
        world
    }

    fn write(&self, objects: &[(&str, &str)]) {
        let text: String = objects.iter().map(|(kind, name)| object(kind, name)).collect();
        fs::write(self.project.path().join("in/all.yaml"), text).unwrap();
    }

    fn id(&self) -> String {
        self.config.prune.as_ref().map(Prune::id).unwrap()
    }

    async fn apply(&self) -> Result<Outputs, StepError> {
        ManifestApply.apply(&self.host.context("apply", self.project.path()), &self.config).await
    }

    /// With the last cursor, as after a kill.
    async fn resume(&self) -> Result<Outputs, StepError> {
        let cursor = self.host.recorded().cursors.last().cloned();
        let ctx = self.host.context("apply", self.project.path()).with_state(None, cursor);
        ManifestApply.apply(&ctx, &self.config).await
    }

    async fn plan(&self) -> StepPlan {
        let config = PlanConfig::new(&serde_json::to_value(&self.config).unwrap()).unwrap();
        ManifestApply.plan(&self.host.context("apply", self.project.path()), &config).await.unwrap()
    }

    fn kinds(&self) -> String {
        self.server
            .with(|held| held.objects[RECORD]["metadata"]["annotations"][KINDS].as_str().unwrap().to_owned())
    }

    fn has(&self, at: &str) -> bool {
        self.server.with(|held| held.objects.contains_key(at))
    }

    /// Does `f` with the object, as `kubectl edit` does.
    fn edit(&self, at: &str, f: impl FnOnce(&mut Value)) {
        self.server.with(|held| f(held.objects.get_mut(at).unwrap()));
    }

    fn hook(
        &self,
        mut answer: impl FnMut(&str, &mut super::stand_in::Objects) -> Option<u16> + Send + 'static,
    ) {
        self.server.with(|held| held.hook = Some(Box::new(move |request, objects| answer(request, objects))));
    }
}

fn names(outputs: &Outputs) -> Vec<String> {
    outputs.pruned.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_record_is_wide_before_members_and_narrow_after_deletions() {
    let world =
        World::new(&[("Service", "web"), ("ControllerRevision", "old"), ("ClusterRole", "reader")]).await;
    let members = ["clusterroles//reader", "services/shop/web", "controllerrevisions/shop/old"];
    let [role, service, old] = members.map(|at| format!("PATCH {at}"));
    let record = format!("PATCH {RECORD}");
    // Made by whoever is first; and nothing is written twice where nothing is to be deleted.
    let made = format!("POST {RECORD}");
    assert_eq!(world.server.writes(), [&made, &record, &role, &service, &old, &record].map(String::clone));
    world.server.with(|held| {
        for at in members {
            assert_eq!(held.objects[at]["metadata"]["labels"][PART_OF], json!(world.id()), "{at}");
        }
        assert_eq!(
            held.objects[RECORD]["metadata"]["labels"],
            json!({ "applyset.kubernetes.io/id": world.id() })
        );
    });

    world.write(&[("Service", "web"), ("ConfigMap", "new")]);
    let before = world.server.with(|held| held.objects.clone());
    let plan = world.plan().await;
    assert_eq!(
        plan.destroys,
        [
            "ControllerRevision shop/old: in set shop/web, and no longer in the manifests",
            "ClusterRole reader: in set shop/web, and no longer in the manifests",
        ]
    );
    assert_eq!(plan.problems, []);
    assert!(plan.summary.ends_with(": 1 new, 0 to change, 1 as they are, 2 to delete"), "{}", plan.summary);
    assert!(world.server.with(|held| held.objects == before) && world.server.writes().is_empty());

    let outputs = world.apply().await.unwrap();
    assert_eq!(names(&outputs), ["ControllerRevision shop/old", "ClusterRole reader"]);
    assert_eq!(
        world.server.writes(),
        [
            &record,
            "PATCH configmaps/shop/new",
            "PATCH services/shop/web",
            &record,
            "DELETE controllerrevisions/shop/old",
            "DELETE clusterroles//reader",
            &record
        ]
    );
    assert_eq!(world.kinds(), "ConfigMap,Service");
    let ctx = world.host.context("apply", world.project.path());
    let evidence = ManifestApply.verify(&ctx, &world.config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    let deleted = evidence.checks.iter().filter(|check| check.what == "deleted" && check.target == "gone");
    assert_eq!(deleted.count(), 2);

    // Nothing is left to do.
    assert_eq!(names(&world.apply().await.unwrap()), [] as [String; 0]);
    assert!(!world.server.writes().iter().any(|write| write.starts_with("DELETE")));
}

#[tokio::test]
async fn what_is_not_the_sets_alone_stays_and_is_told() {
    let all = [
        ("Namespace", "shop"),
        ("PersistentVolumeClaim", "data"),
        ("StatefulSet", "db"),
        ("Service", "web"),
        ("Service", "owned"),
        ("Service", "handed"),
        ("Service", "copied"),
    ];
    // Read back as ready: nothing in the stand-in runs it.
    let world = World::new(&all[3..]).await;
    world.write(&all);
    let id = world.id();
    let labels = json!({ PART_OF: id });
    let fields = json!([{ "manager": "migrate", "operation": "Apply", "fieldsType": "FieldsV1",
        "fieldsV1": { "f:metadata": { "f:labels": { (format!("f:{PART_OF}")): {} } } } }]);
    world.server.with(|held| {
        let object = |name: &str| {
            let metadata =
                json!({ "name": name, "namespace": "shop", "labels": labels, "managedFields": fields });
            json!({ "metadata": metadata })
        };
        held.put("persistentvolumeclaims/shop/data", object("data"));
        let mut db = object("db");
        db["spec"] = json!({ "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete" } });
        held.put("statefulsets/shop/db", db);
        let mut shop = object("shop");
        shop["metadata"].as_object_mut().unwrap().remove("namespace");
        held.put("namespaces//shop", shop);
        held.put("services/shop/nobodys", json!({ "metadata": { "name": "nobodys", "namespace": "shop" } }));
        let kinds = "Namespace,PersistentVolumeClaim,Service,StatefulSet.apps";
        held.objects.get_mut(RECORD).unwrap()["metadata"]["annotations"][KINDS] = json!(kinds);
    });
    world.edit("services/shop/owned", |object| {
        let owner = json!({ "apiVersion": "v1", "kind": "Widget", "name": "boss", "uid": "u" });
        object["metadata"]["ownerReferences"] = json!([owner]);
    });
    world.edit("services/shop/copied", |object| object["metadata"]["managedFields"] = json!([]));

    world.write(&[("Service", "web")]);
    world.server.writes();
    let plan = world.plan().await;
    assert_eq!(plan.destroys, ["Service shop/handed: in set shop/web, and no longer in the manifests"]);
    assert!(plan.problems.iter().all(|problem| problem.severity == Severity::Warning), "{:?}", plan.problems);
    let told: Vec<&str> = plan.problems.iter().map(|problem| problem.message.as_str()).collect();
    insta::assert_snapshot!(told.join("\n"));

    let outputs = world.apply().await.unwrap();
    assert_eq!(names(&outputs), ["Service shop/handed"]);
    assert_eq!(outputs.left_in_place.len(), 5);
    let deletions: Vec<String> =
        world.server.writes().into_iter().filter(|w| w.starts_with("DELETE")).collect();
    assert_eq!(deletions, ["DELETE services/shop/handed"]);
    assert!(world.has("services/shop/nobodys"));
    // What stays is not lost sight of.
    assert_eq!(world.kinds(), "Namespace,PersistentVolumeClaim,Service,StatefulSet.apps");
    let ctx = world.host.context("apply", world.project.path());
    let evidence = ManifestApply.verify(&ctx, &world.config, &outputs, VerifyDepth::Quick).await.unwrap();
    let warned = evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning);
    assert_eq!(warned.count(), 5);
}

#[tokio::test]
async fn an_object_that_somebody_changes_is_not_lost_and_one_that_reports_its_status_is_no_obstacle() {
    let world = World::new(&[("Service", "web"), ("Service", "busy"), ("Service", "precious")]).await;
    world.write(&[("Service", "web"), ("Service", "precious")]);
    let mut version = 1000;
    world.hook(move |request, objects| {
        if request == "DELETE services/shop/busy" && version < 1003 {
            version += 1;
            let object = objects.get_mut("services/shop/busy").unwrap();
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            object["status"] = json!({ "seen": version });
        }
        None
    });
    assert_eq!(names(&world.apply().await.unwrap()), ["Service shop/busy"]);

    world.write(&[("Service", "web")]);
    world.hook(|request, objects| {
        if request == "DELETE services/shop/precious" {
            let object = objects.get_mut("services/shop/precious").unwrap();
            object["metadata"]["resourceVersion"] = json!("2000");
            object["spec"]["text"] = json!("two");
        }
        None
    });
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(error.message, "Service shop/precious was changed as it was to be deleted: /spec/text");
    assert!(world.has("services/shop/precious"));
}

#[tokio::test]
async fn a_run_that_is_killed_loses_no_member_and_deletes_nothing_twice() {
    let world = World::new(&[("Service", "web"), ("Service", "old")]).await;
    // Killed after the first new member: the record knows them all.
    world.write(&[("ControllerRevision", "a"), ("ClusterRole", "b"), ("Service", "web")]);
    world.hook(|request, _| (request == "PATCH controllerrevisions/shop/a").then_some(403));
    assert_eq!(world.apply().await.unwrap_err().class, ErrorClass::Auth);
    assert_eq!(world.kinds(), "ClusterRole.rbac.authorization.k8s.io,ControllerRevision.apps,Service");
    assert!(world.has("services/shop/old"));

    // Killed after the deletion, before the record is written.
    let mut deleted = false;
    world.hook(move |request, _| {
        deleted |= request == "DELETE services/shop/old";
        (deleted && request == format!("PATCH {RECORD}")).then_some(403)
    });
    world.resume().await.unwrap_err();
    assert!(!world.has("services/shop/old"));

    world.server.with(|held| held.hook = None);
    world.server.writes();
    let outputs = world.resume().await.unwrap();
    assert_eq!(names(&outputs), ["Service shop/old"]);
    assert!(!world.server.writes().iter().any(|write| write.starts_with("DELETE")));
}

#[tokio::test]
async fn of_two_that_begin_a_set_at_once_only_one_does() {
    let world = World::new(&[("Service", "web")]).await;
    world.server.with(|held| held.objects.remove(RECORD));
    world.server.writes();
    // Another makes it between our look and our write.
    world.hook(|request, objects| {
        if request == "POST configmaps/shop/" {
            objects.insert(RECORD.to_owned(), json!({ "metadata": { "name": "web", "namespace": "shop" } }));
        }
        None
    });
    let error = world.apply().await.unwrap_err();
    assert_eq!(
        (error.class, error.message.as_str()),
        (ErrorClass::Conflict, "failed to write the record of set shop/web")
    );
    assert_eq!(world.server.writes(), [] as [String; 0]);
}

#[tokio::test]
async fn a_run_that_is_overtaken_by_another_deletes_nothing_of_it() {
    let world = World::new(&[("Service", "web"), ("Service", "old")]).await;
    world.write(&[("Service", "web")]);
    world.server.writes();
    // The other takes up the set when this one has applied all it has, and applies something new.
    let id = world.id();
    world.hook(move |request, objects| {
        if request == "PATCH services/shop/web" {
            objects.get_mut(RECORD).unwrap()["metadata"]["resourceVersion"] = json!("5000");
            let mut new = objects["services/shop/old"].clone();
            new["metadata"]["name"] = json!("new");
            new["metadata"]["uid"] = json!("uid-new");
            assert_eq!(new["metadata"]["labels"][PART_OF], json!(id));
            objects.insert("services/shop/new".to_owned(), new);
        }
        None
    });
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert!(error.to_record().hint.unwrap().contains("somebody changed the set at the same time"));
    assert!(world.has("services/shop/new") && world.has("services/shop/old"));
}

#[tokio::test]
async fn what_could_not_be_applied_keeps_what_it_may_replace() {
    let world = World::new(&[("Service", "web"), ("Service", "old")]).await;
    world.write(&[("Service", "web"), ("Widget", "new")]);
    world.server.with(|held| held.without = vec!["example.com"]);
    let told =
        "nothing is deleted, since the target does not serve what else is in the folder: Widget shop/new";
    let plan = world.plan().await;
    let problem = plan.problems.iter().find(|problem| problem.message == told).unwrap();
    assert_eq!(problem.severity, Severity::Error);
    assert_eq!(world.apply().await.unwrap_err().message, told);
    assert!(world.has("services/shop/old"));
}

#[tokio::test]
async fn what_is_being_deleted_is_not_applied() {
    let world = World::new(&[("Service", "web"), ("Service", "old")]).await;
    world.edit("services/shop/old", |object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
    });
    let error = world.apply().await.unwrap_err();
    assert!(matches!(error.class, ErrorClass::Transient { .. }));
    assert_eq!(error.message, "Service shop/old is being deleted, so what is applied to it will be gone");
    world.server.with(|held| held.objects.remove("services/shop/old"));
    let outputs = world.apply().await.unwrap();
    world.edit("services/shop/old", |object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
    });
    let ctx = world.host.context("apply", world.project.path());
    let evidence = ManifestApply.verify(&ctx, &world.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(!evidence.passed());
}

#[tokio::test]
async fn a_node_before_this_one_and_a_folder_yet_to_be_written_are_told_in_the_plan() {
    let world = World::new(&[("Service", "web")]).await;
    let config = PlanConfig::new(&serde_json::to_value(&world.config).unwrap()).unwrap();
    let plan = ManifestApply.plan(&world.host.context("other", world.project.path()), &config).await.unwrap();
    let told: Vec<&str> = plan.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(told, ["set shop/web was applied by node `apply` before"]);
    fs::remove_dir_all(world.project.path().join("in")).unwrap();
    assert_eq!(world.plan().await.destroys, ["what is in set shop/web and not in in, once that is written"]);
}

#[tokio::test]
async fn a_namespace_that_can_be_none_is_refused_before_the_record_says_so() {
    let world = World::new(&[("Service", "web")]).await;
    world.server.writes();
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: Shop}\n";
    fs::write(world.project.path().join("in/all.yaml"), text).unwrap();
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.message, "Service Shop/a of all.yaml: `Shop` is no name of a namespace");
    assert_eq!(world.server.writes(), [] as [String; 0]);
}

#[tokio::test]
async fn a_member_that_is_held_by_a_finalizer_is_waited_for_and_asked_once() {
    let world = World::new(&[("Service", "web"), ("Service", "old")]).await;
    world.edit("services/shop/old", |object| object["metadata"]["finalizers"] = json!(["example.com/drain"]));
    world.write(&[("Service", "web")]);
    let looks = std::sync::atomic::AtomicU32::new(0);
    world.hook(move |request, objects| {
        let is_asked = request == "GET services/shop/old";
        if is_asked && looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            objects.remove("services/shop/old");
        }
        None
    });
    world.server.writes();
    assert_eq!(names(&world.apply().await.unwrap()), ["Service shop/old"]);
    let deletions = world.server.writes().into_iter().filter(|write| write.starts_with("DELETE")).count();
    assert_eq!(deletions, 1);
}

#[tokio::test]
async fn a_folder_that_is_not_whole_deletes_nothing() {
    let world = World::new(&[("Service", "web"), ("Service", "old")]).await;
    world.server.writes();
    let folder = world.project.path().join("in");
    let fails = async |what: &str| {
        let error = world.apply().await.unwrap_err();
        let plan = world.plan().await;
        assert!(plan.destroys.is_empty() && plan.problems.len() == 1, "{what}: {plan:?}");
        assert_eq!(plan.problems[0].severity, Severity::Error, "{what}");
        assert_eq!(world.server.writes(), [] as [String; 0], "{what}");
        error.message
    };
    fs::write(folder.join("all.yaml"), "# nothing\n").unwrap();
    assert!(fails("empty").await.ends_with("in holds no manifest"));
    fs::write(folder.join("all.yaml"), "kind: [").unwrap();
    assert_eq!(fails("no YAML").await, "failed to read the manifests");
    world.write(&[("Service", "web")]);
    std::os::unix::fs::symlink("all.yaml", folder.join("old.yaml")).unwrap();
    assert!(fails("a link").await.ends_with("is not read: old.yaml"));
    fs::remove_file(folder.join("old.yaml")).unwrap();
    let key = migrate_plugin_api::IdempotencyKey::new("k").unwrap();
    let draft = super::tree::Draft::new(&world.project.path().join("written"), &key).unwrap();
    draft.lacks(&["v1/Secret".to_owned()]).unwrap();
    draft.commit().unwrap();
    fs::rename(world.project.path().join("written/.migrate-manifests"), folder.join(".migrate-manifests"))
        .unwrap();
    assert!(fails("a marker").await.ends_with("is not whole: what wrote it could not read v1/Secret"));
    fs::remove_dir_all(&folder).unwrap();
    world.apply().await.unwrap_err();
    assert_eq!(world.server.writes(), [] as [String; 0]);
    assert!(world.has("services/shop/old"));
}

#[tokio::test]
async fn an_export_that_could_not_read_everything_deletes_nothing() {
    // Into the folder itself, or into one for each namespace.
    for (directory, of) in [("exported", ""), ("exported/shop", " (shop)")] {
        let mut world = World::new(&[("Service", "web"), ("Widget", "gear")]).await;
        let config = json!({ "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "namespaces": ["shop"],
            "directory": directory });
        let ctx = world.host.context("export", world.project.path());
        world.hook(|request, _| (request == "GET widgets/shop/").then_some(403));
        Typed(ManifestExport).apply(&ctx, &config).await.unwrap();
        world.server.with(|held| held.hook = None);
        world.server.writes();
        let refused = format!("what wrote it could not read example.com/v1/Widget{of}");
        world.config.directory = "exported".into();
        let error = world.apply().await.unwrap_err();
        assert!(error.message.ends_with(&refused), "{}", error.message);
        // No more does what was rewritten from it.
        let config = json!({ "from": "exported", "to": "new" });
        let ctx = world.host.context("rewrite", world.project.path());
        Typed(ManifestRewrite).apply(&ctx, &config).await.unwrap();
        world.config.directory = "new".into();
        let error = world.apply().await.unwrap_err();
        assert!(error.message.ends_with(&refused), "{}", error.message);
        assert_eq!(world.server.writes(), [] as [String; 0]);
    }
}

#[tokio::test]
async fn what_cannot_be_looked_for_is_no_reason_to_forget_it() {
    let world = World::new(&[("Service", "web"), ("Widget", "gear")]).await;
    world.write(&[("Service", "web")]);
    // The list is refused.
    world.hook(|request, _| (request == "GET widgets/shop/").then_some(403));
    assert_eq!(world.apply().await.unwrap_err().class, ErrorClass::Auth);
    world.server.with(|held| held.hook = None);
    // The API behind it is down.
    let service = json!({ "metadata": { "name": "v1.example.com" }, "spec": { "group": "example.com", "version": "v1" },
        "status": { "conditions": [{ "type": "Available", "status": "False" }] } });
    world.server.with(|held| {
        held.without = vec!["example.com"];
        held.put("apiservices//v1.example.com", service);
    });
    let error = world.apply().await.unwrap_err();
    assert!(matches!(error.class, ErrorClass::Transient { .. }));
    assert_eq!(error.message, "members of set shop/web can't be found: example.com/v1 does not answer");
    assert_eq!(world.kinds(), "Service,Widget.example.com");
    // It answers again.
    world.server.with(|held| {
        held.without.clear();
        held.objects.remove("apiservices//v1.example.com");
    });
    assert_eq!(names(&world.apply().await.unwrap()), ["Widget shop/gear"]);
    assert_eq!(world.kinds(), "Service");
}

#[tokio::test]
async fn an_object_of_another_set_and_a_config_map_of_somebody_are_left_alone() {
    let world = World::new(&[("Service", "web")]).await;
    // Another node of the same run would delete what this one has applied.
    let ctx = world.host.context("other", world.project.path());
    let error = ManifestApply.apply(&ctx, &world.config).await.unwrap_err();
    assert_eq!(error.message, "set shop/web is applied by node `apply` in this run too");
    let mut other = World::new(&[("Service", "web")]).await;
    other.server.kubeconfig(&other.project.path().join("kubeconfig"));
    other.config.prune = Some(Prune { set: "other".to_owned(), namespace: "shop".to_owned() });
    let error = other.apply().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert_eq!(
        error.message,
        format!("Service shop/web of all.yaml is a member of another set: {}", world.id())
    );
    let plan = other.plan().await;
    assert!(plan.problems.iter().any(|problem| problem.message == error.message), "{plan:?}");

    other.server.with(|held| {
        held.put("configmaps/shop/app", json!({ "metadata": { "name": "app", "namespace": "shop" } }))
    });
    other.config.prune = Some(Prune { set: "app".to_owned(), namespace: "shop".to_owned() });
    other.server.writes();
    let error = other.apply().await.unwrap_err();
    assert_eq!(error.message, "ConfigMap shop/app is there, and is no record of a set");
    assert_eq!(other.server.writes(), [] as [String; 0]);
}

#[tokio::test]
async fn the_records_namespace_may_be_among_the_manifests_and_must_be_somewhere() {
    let mut world = World::new(&[("Service", "web")]).await;
    world.config.prune = Some(Prune { set: "web".to_owned(), namespace: "sets".to_owned() });
    let refused = "the target has no namespace `sets` for the record of set sets/web";
    world.write(&[("ClusterRole", "reader")]);
    assert_eq!(world.apply().await.unwrap_err().message, refused);
    assert_eq!(world.plan().await.problems[0].message, refused);
    world.write(&[("ClusterRole", "reader"), ("Namespace", "sets")]);
    world.server.writes();
    let plan = world.plan().await;
    assert_eq!(plan.problems, []);
    world.apply().await.unwrap();
    let first = ["PATCH namespaces//sets", "POST configmaps/sets/web", "PATCH configmaps/sets/web"];
    assert_eq!(world.server.writes()[..3], first);
    world.config.prune = Some(Prune { set: "web/a".to_owned(), namespace: "sets".to_owned() });
    assert_eq!(world.plan().await.problems[0].message, "`web/a` can't name a set");
}

#[tokio::test]
async fn what_names_no_namespace_goes_where_the_config_says_or_nowhere() {
    let mut world = World::new(&[("Service", "web")]).await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n\
                apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: reader}\n";
    fs::write(world.project.path().join("in/all.yaml"), text).unwrap();
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.message, "ConfigMap a in all.yaml names no namespace");
    world.config.namespace = Some("No".to_owned());
    assert_eq!(world.apply().await.unwrap_err().message, "`No` is no name of a namespace");
    world.config.namespace = Some("shop".to_owned());
    assert!(world.plan().await.summary.contains(": 2 new, 0 to change, 0 as they are"));
    world.apply().await.unwrap();
    assert!(world.has("configmaps/shop/a"));
    world.server.with(|held| {
        assert_eq!(held.objects["clusterroles//reader"]["metadata"]["namespace"], Value::Null);
    });
    // Twice the same, once it is there.
    let both =
        format!("{text}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, namespace: shop}}\n");
    fs::write(world.project.path().join("in/all.yaml"), both).unwrap();
    let error = world.apply().await.unwrap_err();
    assert_eq!(error.message, "ConfigMap shop/a is in all.yaml and in all.yaml");
}

#[tokio::test]
async fn what_helm_makes_for_a_deletion_is_not_created_and_told() {
    let world = World::new(&[("Service", "web")]).await;
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: clean\n  namespace: shop\n  annotations: {helm.sh/hook: pre-delete}\n";
    fs::write(world.project.path().join("in/job.yaml"), job).unwrap();
    let plan = world.plan().await;
    let told = "Job shop/clean is left out: Helm makes it for `pre-delete`, which this is not";
    assert_eq!(plan.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [told]);
    assert!(plan.problems.iter().all(|problem| problem.severity == Severity::Warning));
    let outputs = world.apply().await.unwrap();
    assert!(!world.has("jobs/shop/clean"));
    let ctx = world.host.context("apply", world.project.path());
    let evidence = ManifestApply.verify(&ctx, &world.config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    let left = evidence.checks.iter().find(|check| check.subject == "Job shop/clean").unwrap();
    assert_eq!((left.status, left.what.as_str()), (CheckStatus::Warning, "applied"));
}

#[tokio::test]
async fn the_corefile_of_aks_is_never_another() {
    let world = World::new(&[("Service", "web")]).await;
    let config = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: coredns{namespace}}}\n\
             data: {{Corefile: 'corp.example.com:53 {{}}'}}\n"
        )
    };
    fs::write(world.project.path().join("in/dns.yaml"), config(", namespace: kube-system")).unwrap();
    fs::write(world.project.path().join("in/own.yaml"), config(", namespace: shop")).unwrap();
    let own = json!({ "metadata": { "name": "coredns", "namespace": "kube-system" }, "data": { "Corefile": "AKS" } });
    world.server.with(|held| {
        held.put("namespaces//kube-system", json!({ "metadata": { "name": "kube-system" } }));
        held.put("configmaps/kube-system/coredns", own);
    });
    let plan = world.plan().await;
    let told = plan.problems.iter().any(|problem| {
        problem.message.starts_with("ConfigMap kube-system/coredns is left out: AKS has its own")
    });
    assert!(told, "{:?}", plan.problems);
    let outputs = world.apply().await.unwrap();
    assert_eq!(outputs.left_out.len(), 1);
    assert!(world.has("configmaps/shop/coredns"));
    let writes = world.server.writes();
    assert!(!writes.iter().any(|write| write.contains("kube-system")), "{writes:?}");
}
