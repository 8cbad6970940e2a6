//! `smoke.test`: does what was moved work? Probes until each check passes or its time is up;
//! natural to repeat.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::Client;
use migrate_plugin_api::{
    Check, CheckStatus, ErrorClass, Evidence, Idempotency, PlanConfig, Problem, Progress, StepContext,
    StepError, StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::probe::{Exec, Http, Look, Probe, Rollout, Sql, Tcp};
use crate::duration::Span;
use crate::kubernetes::{connect_to_probe, reach};
use crate::rollout::{POLL_INTERVAL, list_pods, pause, unpulled};
use crate::site::ClusterRef;

/// Restored pods pull their images and start within this on a healthy cluster.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);

/// When a result is looked at again, pods run already; this covers one hiccup. What one look may take is
/// the check's own affair.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// `smoke.test`.
pub(crate) struct SmokeTest;

/// `with` of `smoke.test`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// The cluster to test.
    pub cluster: ClusterRef,
    /// What must work.
    pub checks: Vec<SmokeCheck>,
}

/// A named check: exactly one of `http`, `tcp`, `exec`, `sql`, `rollout`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct SmokeCheck {
    /// What it shows: `web answers`.
    pub name: String,
    /// How long it may take until it passes: `2m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// A Service answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// A Service's port takes connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// A command succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// A query gives an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<Sql>,
    /// A workload is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// What was seen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// One a check, in the order of the config.
    pub checks: Vec<Check>,
}

impl SmokeCheck {
    /// How long it may take until it passes.
    fn timeout(&self) -> Duration {
        self.timeout.map_or(CHECK_TIMEOUT, |span| span.0)
    }

    fn probe(&self) -> Result<Probe, StepError> {
        let name = &self.name;
        let mut probes: Vec<Probe> = Vec::new();
        probes.extend(self.http.clone().map(Probe::Http));
        probes.extend(self.tcp.clone().map(Probe::Tcp));
        probes.extend(self.exec.clone().map(Probe::Exec));
        probes.extend(self.sql.clone().map(Probe::Sql));
        probes.extend(self.rollout.clone().map(Probe::Rollout));
        if probes.len() != 1 {
            let message = format!("check `{name}` must have one of http, tcp, exec, sql, rollout");
            return Err(StepError::permanent(format!("{message}; it has {}", probes.len())));
        }
        let probe = probes.remove(0);
        if let Probe::Exec(exec) = &probe {
            if exec.command.is_empty() {
                return Err(StepError::permanent(format!("check `{name}` has an empty command")));
            }
            if exec.pod.is_some() == exec.selector.is_some() {
                return Err(StepError::permanent(format!("check `{name}` needs either `pod` or `selector`")));
            }
        }
        Ok(probe)
    }
}

impl Config {
    fn probes(&self) -> Result<Vec<(&SmokeCheck, Probe)>, StepError> {
        if self.checks.is_empty() {
            return Err(StepError::permanent("no check is configured, so nothing would be tested")
                .with_hint("add a [[smoke]] table to migration.toml"));
        }
        let mut names = BTreeSet::new();
        if let Some(check) = self.checks.iter().find(|check| !names.insert(&check.name)) {
            return Err(StepError::permanent(format!("two checks are called `{}`", check.name)));
        }
        self.checks.iter().map(|check| Ok((check, check.probe()?))).collect()
    }
}

/// A check as evidence.
fn check(name: &str, probe: &Probe, look: Result<Look, StepError>) -> Check {
    let (look, note) = match look {
        Ok(look) => (look.clone(), look.note),
        Err(e) => {
            let record = e.to_record();
            let note = [vec![record.message], record.causes].concat().join(": ");
            let found = "could not look".to_owned();
            (Look { expected: "an answer".to_owned(), found, passed: false, note: None }, Some(note))
        }
    };
    Check {
        subject: format!("{name} ({})", probe.subject()),
        what: probe.what().to_owned(),
        source: look.expected,
        target: look.found,
        status: if look.passed { CheckStatus::Passed } else { CheckStatus::Failed },
        note,
    }
}

/// `web answers: Service shop/web: status 503, expected status 200: no endpoints available`.
fn failure(name: &str, probe: &Probe, look: &Result<Look, StepError>) -> String {
    let subject = probe.subject();
    match look {
        Ok(look) => {
            let note = look.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            format!("{name}: {subject}: {}, expected {}{note}", look.found, look.expected)
        }
        Err(e) if e.message.contains(&subject) => format!("{name}: {e}"),
        Err(e) => format!("{name}: {subject}: {e}"),
    }
}

/// Looks until it passes or `timeout` is over, each time for at most `limit`. Refused credentials don't get
/// better by waiting.
async fn settle(
    ctx: &StepContext,
    client: &Client,
    probe: &Probe,
    limit: Duration,
    timeout: Duration,
) -> Result<Result<Look, StepError>, StepError> {
    let deadline = Instant::now() + timeout;
    loop {
        let look = probe.look(ctx, client, limit).await;
        match &look {
            Ok(seen) if seen.passed => return Ok(look),
            Err(e) if e.class == ErrorClass::Cancelled => return look.map(Ok),
            Err(e) if e.class == ErrorClass::Auth => return Ok(look),
            _ if Instant::now() + POLL_INTERVAL >= deadline => return Ok(look),
            _ => pause(ctx, POLL_INTERVAL).await?,
        }
    }
}

/// One check a namespace: whether its pods can pull their images.
async fn images(client: &Client, probes: &[(&SmokeCheck, Probe)]) -> Result<Vec<Check>, StepError> {
    let namespaces: BTreeSet<&str> = probes.iter().map(|(_, probe)| probe.namespace()).collect();
    let mut checks = Vec::new();
    for namespace in namespaces {
        let pods = list_pods(client, namespace, None).await?;
        let missing = unpulled(&pods);
        let subject = format!("pods of {namespace}");
        let found = if missing.is_empty() { "all".to_owned() } else { format!("not {}", missing.join(", ")) };
        let check = Check::equal(subject, "images pulled", "all", found);
        checks.push(check.with_note(format!("{} pods", pods.len())));
    }
    Ok(checks)
}

#[async_trait]
impl TypedStep for SmokeTest {
    const NAME: &'static str = "smoke.test";
    const SUMMARY: &'static str = "Checks that services answer, queries work and workloads run";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("test what was moved");
        if let Some(checks) = config.field::<Vec<SmokeCheck>>("checks")? {
            let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
            plan.summary = format!("test: {}", names.join(", "));
            plan.items = Some(checks.len() as u64);
            // Judged with a cluster of no name: the checks don't depend on it.
            let cluster = ClusterRef { kubeconfig: None, context: String::new() };
            if let Err(e) = (Config { cluster, checks }).probes() {
                let mut problem = Problem::error(e.message).in_field("checks");
                problem.hint = e.hint;
                plan.problems.push(problem);
            }
        }
        if let Some(cluster) = config.field::<ClusterRef>("cluster")?
            && let Err(problem) = reach(ctx, &cluster, "cluster").await
        {
            plan.problems.push(*problem);
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let probes = config.probes()?;
        let client = connect_to_probe(ctx, &config.cluster).await?;
        let total = probes.len() as u64;
        let mut checks = Vec::new();
        for (smoke, probe) in &probes {
            ctx.progress(Progress::message(&smoke.name).items(checks.len() as u64, total));
            let timeout = smoke.timeout();
            let look = settle(ctx, &client, probe, probe.limit(timeout), timeout).await?;
            if !look.as_ref().is_ok_and(|look| look.passed) {
                return Err(failed(&client, &probes, &smoke.name, probe, look).await);
            }
            checks.push(check(&smoke.name, probe, look));
        }
        let images = images(&client, &probes).await?;
        if let Some(failed) = images.iter().find(|check| check.status == CheckStatus::Failed) {
            return Err(StepError::permanent(format!(
                "{} can't pull images: {}",
                failed.subject,
                failed.target.trim_start_matches("not ")
            )));
        }
        checks.extend(images);
        ctx.info(format!("{total} checks passed"));
        Ok(Outputs { checks })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        _: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let probes = config.probes()?;
        let client = connect_to_probe(ctx, &config.cluster).await?;
        let (mut checks, mut unseen) = (Vec::new(), None);
        for (smoke, probe) in &probes {
            let limit = probe.limit(smoke.timeout());
            let look = settle(ctx, &client, probe, limit, VERIFY_TIMEOUT).await?;
            let message = failure(&smoke.name, probe, &look);
            match look {
                Err(e) if e.class.is_retryable() || e.class == ErrorClass::Auth => {
                    unseen = unseen.or(Some(StepError { message, ..e }));
                }
                look => checks.push(check(&smoke.name, probe, look)),
            }
        }
        // That one could not be seen disproves nothing; that another does not work does.
        if let Some(error) = unseen.filter(|_| checks.iter().all(|check| check.status != CheckStatus::Failed))
        {
            return Err(error);
        }
        checks.extend(images(&client, &probes).await?);
        Ok(Evidence { checks })
    }
}

/// The failed check with what its namespace's pods can't pull, which is the commonest cause.
async fn failed(
    client: &Client,
    probes: &[(&SmokeCheck, Probe)],
    name: &str,
    probe: &Probe,
    look: Result<Look, StepError>,
) -> StepError {
    let message = failure(name, probe, &look);
    let class = match &look {
        Err(e) if e.class == ErrorClass::Auth => ErrorClass::Auth,
        _ => ErrorClass::Permanent,
    };
    let mut error = StepError::new(class, message);
    if let Ok(checks) = images(client, probes).await
        && let Some(images) = checks.iter().find(|check| check.status == CheckStatus::Failed)
    {
        error =
            error.with_hint(format!("images can't be pulled: {}", images.target.trim_start_matches("not ")));
    }
    match look.err().and_then(|e| e.source) {
        Some(source) => error.with_source(source),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_plugin_api::testing::RecordingHost;
    use serde_json::json;
    use std::sync::Arc;
    use wiremock::matchers::{method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    /// A stand-in for an API server, and a folder with a kubeconfig that leads to it.
    struct Stand {
        server: MockServer,
        project: tempfile::TempDir,
    }

    impl Stand {
        async fn new() -> Self {
            let (server, project) = (MockServer::start().await, tempfile::tempdir().unwrap());
            let kubeconfig = json!({
                "apiVersion": "v1", "kind": "Config",
                "clusters": [{ "name": "a", "cluster": { "server": server.uri() } }],
                "users": [{ "name": "a", "user": {} }],
                "contexts": [{ "name": "aks", "context": { "cluster": "a", "user": "a" } }],
            });
            std::fs::write(project.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
            let stand = Self { server, project };
            let none = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [] });
            stand
                .answers("/api/v1/namespaces/shop/pods", ResponseTemplate::new(200).set_body_json(none))
                .await;
            stand
        }

        async fn answers(&self, at: &str, answer: ResponseTemplate) {
            Mock::given(method("GET")).and(path(at)).respond_with(answer).mount(&self.server).await;
        }

        async fn verify(&self, checks: serde_json::Value) -> Result<Evidence, StepError> {
            let mut config = config(checks);
            config.cluster.kubeconfig = Some("kubeconfig".into());
            let ctx = Arc::new(RecordingHost::default()).context("smoke-test", self.project.path());
            SmokeTest.verify(&ctx, &config, &Outputs { checks: Vec::new() }, VerifyDepth::Quick).await
        }
    }

    const WEB: &str = "/api/v1/namespaces/shop/services/web:80/proxy/";

    fn web() -> serde_json::Value {
        json!({ "name": "web answers", "http": { "namespace": "shop", "service": "web", "port": 80 } })
    }

    /// The API server's own answer.
    fn status(code: u16, message: &str) -> ResponseTemplate {
        ResponseTemplate::new(code).set_body_json(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": "ServiceUnavailable", "code": code,
        }))
    }

    #[tokio::test]
    async fn what_took_long_and_passed_is_not_disproved_for_taking_long() {
        let stand = Stand::new().await;
        let slow = VERIFY_TIMEOUT + Duration::from_millis(300);
        stand.answers(WEB, ResponseTemplate::new(200).set_delay(slow)).await;
        let evidence = stand.verify(json!([web()])).await.unwrap();
        assert!(evidence.passed(), "{evidence:?}");
    }

    #[tokio::test]
    async fn a_cluster_that_can_not_be_asked_disproves_nothing() {
        let stand = Stand::new().await;
        let postgres = json!({ "name": "database runs",
            "rollout": { "namespace": "shop", "kind": "stateful-set", "name": "postgres" } });
        let at = "/apis/apps/v1/namespaces/shop/statefulsets/postgres";
        stand.answers(at, status(503, "etcd leader changed")).await;
        stand.answers(WEB, ResponseTemplate::new(200)).await;
        let error = stand.verify(json!([web(), postgres])).await.unwrap_err();
        assert!(error.class.is_retryable());
        assert_eq!(error.message, "database runs: failed to read StatefulSet shop/postgres");

        // What is seen not to work is said, whatever else can't be seen.
        stand.server.reset().await;
        stand.answers(at, status(503, "etcd leader changed")).await;
        stand.answers(WEB, status(503, "no endpoints available for service \"web\"")).await;
        stand
            .answers(
                "/api/v1/namespaces/shop/pods",
                ResponseTemplate::new(200).set_body_json(json!({
                    "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [],
                })),
            )
            .await;
        let evidence = stand.verify(json!([postgres, web()])).await.unwrap();
        let failed: Vec<_> = evidence.failures().map(|check| check.subject.as_str()).collect();
        assert_eq!(failed, ["web answers (Service shop/web)"]);
    }

    #[tokio::test]
    async fn a_pod_that_does_not_run_is_seen() {
        let stand = Stand::new().await;
        let pod = json!({ "metadata": { "name": "postgres-0", "namespace": "shop" },
            "spec": { "containers": [{ "name": "postgres" }] }, "status": { "phase": "Pending" } });
        stand
            .answers("/api/v1/namespaces/shop/pods/postgres-0", ResponseTemplate::new(200).set_body_json(pod))
            .await;
        let orders = json!({ "name": "orders can be read", "sql": { "namespace": "shop", "pod": "postgres-0",
            "database": "shop", "user": "shop", "query": "select 1" } });
        let evidence = stand.verify(json!([orders])).await.unwrap();
        let failed: Vec<_> = evidence.failures().map(|check| check.target.as_str()).collect();
        assert_eq!(failed, ["pod shop/postgres-0 is Pending"]);
    }

    fn config(checks: serde_json::Value) -> Config {
        serde_json::from_value(json!({ "cluster": { "context": "aks" }, "checks": checks })).unwrap()
    }

    #[test]
    fn the_documented_checks_are_read() {
        let config = config(json!([
            { "name": "web answers",
              "http": { "namespace": "shop", "service": "web", "port": 80, "path": "/healthz", "status": 200 } },
            { "name": "orders can be read", "timeout": "30s",
              "sql": { "namespace": "shop", "pod": "postgres-0", "container": "postgres", "database": "shop",
                       "user": "shop", "query": "select count(*) > 0 from orders", "expect": "t" } },
            { "name": "rolled out", "rollout": { "namespace": "shop", "kind": "statefulset", "name": "postgres" } },
        ]));
        let subjects: Vec<_> = config.probes().unwrap().iter().map(|(_, p)| p.subject()).collect();
        assert_eq!(
            subjects,
            ["Service shop/web", "database shop of pod shop/postgres-0", "StatefulSet shop/postgres"]
        );
    }

    #[test]
    fn unusable_checks_are_named() {
        let message = |checks| config(checks).probes().unwrap_err().message;
        let tcp = json!({ "namespace": "shop", "service": "web", "port": 80 });
        let exec = json!({ "namespace": "shop", "command": ["true"] });
        let all = [
            message(json!([])),
            message(json!([{ "name": "none" }])),
            message(json!([{ "name": "two", "tcp": tcp, "http": tcp }])),
            message(json!([{ "name": "same", "tcp": tcp }, { "name": "same", "tcp": tcp }])),
            message(json!([{ "name": "which pod", "exec": exec }])),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn a_failure_names_the_check_and_the_thing() {
        let config = config(json!([{ "name": "web answers",
            "http": { "namespace": "shop", "service": "web", "port": 80 } }]));
        let probes = config.probes().unwrap();
        let look = Look {
            expected: "status 200".into(),
            found: "status 503".into(),
            passed: false,
            note: Some("no endpoints available for service \"web\"".into()),
        };
        let (smoke, probe) = &probes[0];
        insta::assert_snapshot!(failure(&smoke.name, probe, &Ok(look.clone())));
        let evidence = check(&smoke.name, probe, Ok(look));
        assert_eq!(
            (evidence.subject.as_str(), evidence.status),
            ("web answers (Service shop/web)", CheckStatus::Failed)
        );
        let unseen = check(&smoke.name, probe, Err(StepError::transient("failed to reach Service shop/web")));
        assert_eq!(unseen.note.as_deref(), Some("failed to reach Service shop/web"));
    }
}
