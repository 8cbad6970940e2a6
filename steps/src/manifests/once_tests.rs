//! `manifest.apply` with what runs once, against a stand-in of ours (`stand_in.rs`).

use std::fs;
use std::sync::{Arc, Mutex};

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{CheckStatus, ErrorClass, StepContext, StepError, TypedStep as _, VerifyDepth};
use serde_json::{Value, json};

use super::apply::{Config, ManifestApply, Outputs};
use super::stand_in::{Objects, StandIn};

const JOB: &str = "jobs/shop/db-migrate";
const CREATION: &str = "PATCH jobs/shop/db-migrate";

struct World {
    server: StandIn,
    host: Arc<RecordingHost>,
    config: Config,
    project: tempfile::TempDir,
    /// Every request, in order.
    requests: Arc<Mutex<Vec<String>>>,
}

fn job(name: &str) -> String {
    format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: shop}}\n---\n")
}

impl World {
    /// A ConfigMap, a Job and what is applied after it.
    async fn new() -> Self {
        let server = StandIn::start().await;
        let project = tempfile::tempdir().unwrap();
        server.kubeconfig(&project.path().join("kubeconfig"));
        fs::create_dir(project.path().join("in")).unwrap();
        let config =
            json!({ "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "directory": "in" });
        let world = Self {
            server,
            host: Arc::new(RecordingHost::default()),
            config: serde_json::from_value(config).unwrap(),
            project,
            requests: Arc::default(),
        };
        let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\n---\n";
        let last = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: last, namespace: shop}\n";
        world.write(&format!("{settings}{}{last}", job("db-migrate")));
        world.on(|_, _| None);
        world
    }

    fn write(&self, text: &str) {
        fs::write(self.project.path().join("in/all.yaml"), text).unwrap();
    }

    /// Does `f` before each request is answered.
    fn on(&self, mut f: impl FnMut(&str, &mut Objects) -> Option<u16> + Send + 'static) {
        let requests = Arc::clone(&self.requests);
        self.server.with(|held| {
            held.hook = Some(Box::new(move |request, objects| {
                requests.lock().unwrap().push(request.to_owned());
                f(request, objects)
            }));
        });
    }

    fn refuse(&self, what: &'static str, code: u16) {
        self.on(move |request, _| (request == what).then_some(code));
    }

    /// How often creating the Job was asked for, since the last call.
    fn creations(&self) -> usize {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        requests.iter().filter(|request| *request == CREATION).count()
    }

    fn ctx(&self) -> StepContext {
        self.host.context("apply", self.project.path())
    }

    async fn apply(&self) -> Result<Outputs, StepError> {
        ManifestApply.apply(&self.ctx(), &self.config).await
    }

    /// As after a kill, with the cursor that was durable then.
    async fn resume(&self, cursor: Value) -> Result<Outputs, StepError> {
        ManifestApply.apply(&self.ctx().with_state(None, Some(cursor)), &self.config).await
    }

    fn cursor(&self) -> Value {
        self.host.recorded().cursors.last().cloned().unwrap_or_default()
    }

    fn remove(&self, at: &str) -> Value {
        self.server.with(|held| held.objects.remove(at).unwrap())
    }

    /// What the controller does when it has ended and its time is over.
    fn end(&self) -> String {
        self.remove(JOB)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    async fn verify(&self, outputs: &Outputs, depth: VerifyDepth) -> Result<Vec<String>, StepError> {
        let evidence = ManifestApply.verify(&self.ctx(), &self.config, outputs, depth).await?;
        assert!(evidence.passed(), "{evidence:?}");
        let warned = evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning);
        Ok(warned.map(|c| format!("{}: {}", c.subject, c.note.as_deref().unwrap_or_default())).collect())
    }
}

fn uid_of(outputs: &Outputs) -> Option<&str> {
    outputs.applied.iter().find(|applied| applied.kind == "Job").unwrap().uid.as_deref()
}

#[tokio::test]
async fn a_job_that_ended_before_an_interruption_does_not_run_again() {
    let world = World::new().await;
    // Stopped after the Job, before the end.
    world.refuse("PATCH widgets/shop/last", 403);
    world.apply().await.unwrap_err();
    assert_eq!(world.creations(), 1);
    let uid = world.end();
    world.on(|_, _| None);
    let outputs = world.resume(world.cursor()).await.unwrap();
    assert_eq!(world.creations(), 0);
    assert_eq!(uid_of(&outputs), Some(uid.as_str()));
    assert!(world.host.recorded().log.iter().any(|(_, line)| line
        == "Job shop/db-migrate has ended and was removed: it is not created again"));
    for depth in [VerifyDepth::Quick, VerifyDepth::Deep] {
        let warned = world.verify(&outputs, depth).await.unwrap();
        assert_eq!(warned, ["Job shop/db-migrate: it has ended and was removed"]);
    }
}

#[tokio::test]
async fn a_job_that_ended_later_does_not_disprove_the_node() {
    let world = World::new().await;
    let mut outputs = world.apply().await.unwrap();
    assert_eq!(world.verify(&outputs, VerifyDepth::Quick).await.unwrap(), [] as [String; 0]);
    world.end();
    let ended = ["Job shop/db-migrate: it has ended and was removed"];
    assert_eq!(world.verify(&outputs, VerifyDepth::Quick).await.unwrap(), ended);
    // Outputs of an earlier version have no UID; that they name it says that it was created.
    outputs.applied.iter_mut().for_each(|applied| applied.uid = None);
    assert_eq!(world.verify(&outputs, VerifyDepth::Quick).await.unwrap(), ended);
    // Anything else that is gone still is a failure, told where it can't be mended by running the Job again.
    world.remove("configmaps/shop/settings");
    let error = world.verify(&outputs, VerifyDepth::Quick).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    insta::assert_snapshot!(format!("{}\n{}", error.message, error.hint.unwrap()));
    let ctx = world.ctx();
    let deep = ManifestApply.verify(&ctx, &world.config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert!(deep.failures().any(|check| check.note.as_deref() == Some("gone: ConfigMap shop/settings")));
}

#[tokio::test]
async fn what_is_wrong_beside_a_job_is_not_mended_by_applying_everything_again() {
    let world = World::new().await;
    let outputs = world.apply().await.unwrap();
    world.remove("configmaps/shop/settings");
    // The Job stands, and may have ended and be gone when everything is applied again.
    let verified = ManifestApply.verify(&world.ctx(), &world.config, &outputs, VerifyDepth::Quick).await;
    let error = verified.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict);
    assert!(error.message.contains("gone: ConfigMap shop/settings"), "{error:?}");
}

#[tokio::test]
async fn that_a_job_is_about_to_be_created_is_durable_before_it_is() {
    let world = World::new().await;
    let host = Arc::clone(&world.host);
    world.on(move |request, _| {
        if request == CREATION {
            let noted = host.recorded().cursors;
            assert_eq!(noted, [json!({ "once": { "Job.batch shop/db-migrate": null } })]);
        }
        None
    });
    let outputs = world.apply().await.unwrap();
    let uid = uid_of(&outputs).unwrap();
    assert_eq!(world.cursor(), json!({ "once": { "Job.batch shop/db-migrate": uid } }));

    // Killed in between: the one that is there is taken over.
    world.on(|_, _| None);
    let about = world.host.recorded().cursors[0].clone();
    let again = world.resume(about.clone()).await.unwrap();
    assert_eq!(uid_of(&again), Some(uid));
    assert_eq!(world.cursor(), json!({ "once": { "Job.batch shop/db-migrate": uid } }));
    // One that is on its way out is, too.
    world.server.with(|held| {
        held.objects.get_mut(JOB).unwrap()["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.creations();
    assert_eq!(uid_of(&world.resume(about.clone()).await.unwrap()), Some(uid));
    assert_eq!(world.creations(), 0);
    // Whether the one that isn't there has run can't be told.
    world.end();
    let error = world.resume(about).await.unwrap_err();
    assert_eq!((world.creations(), error.class), (0, ErrorClass::Conflict));
    insta::assert_snapshot!(format!("{}\n{}", error.message, error.hint.unwrap()));
}

#[tokio::test]
async fn a_job_that_was_refused_is_created_when_the_cause_is_gone() {
    for code in [403, 422, 429, 500] {
        let world = World::new().await;
        world.refuse(CREATION, code);
        world.apply().await.unwrap_err();
        assert_eq!((world.creations(), world.cursor()), (1, json!({})), "{code}");
        world.on(|_, _| None);
        world.resume(world.cursor()).await.unwrap();
        assert_eq!(world.creations(), 1);
    }
}

#[tokio::test]
async fn a_job_whose_creation_has_no_clear_answer_is_not_sent_twice() {
    let world = World::new().await;
    world.refuse(CREATION, 503);
    assert!(world.apply().await.unwrap_err().class.is_retryable());
    assert_eq!(world.creations(), 1, "kube would send it again");
    world.on(|_, _| None);
    assert_eq!(world.resume(world.cursor()).await.unwrap_err().class, ErrorClass::Conflict);
    assert_eq!(world.creations(), 0);
}

#[tokio::test]
async fn a_job_that_ends_between_the_look_and_the_apply_is_not_created() {
    let world = World::new().await;
    world.apply().await.unwrap();
    world.creations();
    let ended = Arc::new(Mutex::new(None));
    let at = Arc::clone(&ended);
    world.on(move |request, objects| {
        if request == CREATION {
            *at.lock().unwrap() = objects.remove(JOB);
        }
        None
    });
    // Without a cursor, as after a node was disproved.
    let outputs = world.apply().await.unwrap();
    let uid = ended.lock().unwrap().as_ref().unwrap()["metadata"]["uid"].clone();
    assert_eq!(json!(uid_of(&outputs)), uid);
    assert!(world.server.with(|held| !held.objects.contains_key(JOB)));
}

#[tokio::test]
async fn many_jobs_cost_a_checkpoint_for_a_group() {
    let world = World::new().await;
    world.write(&(0..20).map(|at| job(&format!("j{at}"))).collect::<String>());
    let outputs = world.apply().await.unwrap();
    assert!(outputs.applied.iter().all(|applied| applied.uid.is_some()));
    assert_eq!(world.host.recorded().cursors.len(), 4);
    // Nothing is noted anew where nothing is.
    world.resume(world.cursor()).await.unwrap();
    assert_eq!(world.host.recorded().cursors.len(), 4);
}

#[tokio::test]
async fn a_pod_that_ends_runs_once_and_one_that_is_restarted_is_made_again() {
    let world = World::new().await;
    let pod = |name: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{restartPolicy: {policy}}}\n---\n"
        )
    };
    world.write(&[pod("bill", "Never"), pod("serve", "Always")].concat());
    world.apply().await.unwrap();
    world.remove("pods/shop/bill");
    world.remove("pods/shop/serve");
    world.server.writes();
    let outputs = world.resume(world.cursor()).await.unwrap();
    assert_eq!(world.server.writes(), ["PATCH pods/shop/serve"]);
    world.remove("pods/shop/serve");
    let error = world.verify(&outputs, VerifyDepth::Quick).await.unwrap_err();
    assert!(error.message.contains("could run Pod shop/bill once more"), "{}", error.message);
}
