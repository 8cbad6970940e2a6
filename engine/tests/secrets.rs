//! What a reference to a secret stands for reaches the step, and nothing else.

use std::path::Path;
use std::sync::{Arc, Mutex};

use migrate_engine::{
    Engine, Params, ResumeRequest, RunState, Shutdown, Source, VerifyRequest, event_channel,
};
use migrate_plugin_api::{
    Evidence, Idempotency, PlanConfig, Secret, SecretProvider, SecretRef, Step, StepContext, StepError,
    StepPlan, Typed, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const CANARY: &str = "canary-5d1c9e";

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    password: SecretRef,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Outputs {}

/// Resolves its secret in every call, and remembers what it got.
#[derive(Default)]
struct Login(Arc<Mutex<Vec<String>>>);

impl Login {
    async fn log_in(&self, ctx: &StepContext, config: &Config) -> Result<(), StepError> {
        let secret = ctx.secret(&config.password).await?;
        self.0.lock().unwrap().push(secret.expose().to_owned());
        Ok(())
    }
}

#[async_trait]
impl TypedStep for Login {
    const NAME: &'static str = "login";
    const SUMMARY: &'static str = "Uses a secret";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, _: &StepContext, _: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        Ok(StepPlan::new("log in"))
    }
    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }
    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        self.log_in(ctx, config).await?;
        ctx.info("logged in");
        Ok(Outputs {})
    }
    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        _: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        self.log_in(ctx, config).await.map(|()| Evidence::default())
    }
    async fn undo(&self, _: &StepContext, _: &Config, _: &Outputs) -> Result<(), StepError> {
        Ok(())
    }
}

struct Vault;

#[async_trait]
impl SecretProvider for Vault {
    fn scheme(&self) -> &'static str {
        "keyvault"
    }

    async fn secret(&self, _: &str) -> Result<Secret, StepError> {
        Ok(Secret::new(CANARY))
    }
}

/// Every file below `dir` that holds the secret.
fn leaks(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(leaks(&path));
        } else if String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(CANARY) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_secret_reaches_its_step_and_is_neither_stored_nor_shown() {
    let dir = tempfile::tempdir().unwrap();
    let workflow = r#"schema = 1
name = "w"
[params.plain]
type = "string"
sensitive = true
default = "exec:cat secret"
[nodes.words]
step = "login"
with = { password = "${params.plain}" }
[nodes.array]
step = "login"
with = { password = 'exec:["sh", "-c", "cat secret; cat secret >&2"]' }
[nodes.vault]
step = "login"
with = { password = "keyvault:shop/db" }
[nodes.failing]
step = "login"
with = { password = 'exec:["sh", "-c", "cat secret; cat secret >&2; exit 3"]' }
on_failure = "continue"
"#;
    std::fs::write(dir.path().join("w.toml"), workflow).unwrap();
    std::fs::write(dir.path().join("migration.toml"), "schema = 1\n").unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, format!("{CANARY}\n")).unwrap();
    let login = Login::default();
    let seen = Arc::clone(&login.0);
    let step: Arc<dyn Step> = Arc::new(Typed(login));
    let engine = Engine::open(dir.path(), vec![step])
        .unwrap()
        .with_secrets([Arc::new(Vault) as Arc<dyn SecretProvider>]);
    let read = |name: &str| Source::read(dir.path().join(name)).unwrap();
    let checked = engine.check(&read("w.toml"), &read("migration.toml"), &Params::new()).unwrap();
    let (sink, mut stream) = event_channel();
    let events = tokio::spawn(async move {
        let mut all = String::new();
        while let Some(event) = stream.next().await {
            all.push_str(&format!("{event:?} {}\n", serde_json::to_string(&event).unwrap()));
        }
        all
    });
    let shutdown = Shutdown::new();
    let first = engine.run(&checked, sink.clone(), &shutdown).await.unwrap();
    assert_eq!(first.state, RunState::Failed);
    let again = engine.resume(ResumeRequest::default(), sink.clone(), &shutdown).await.unwrap();
    let deep = VerifyRequest { run: None, depth: VerifyDepth::Deep };
    let verified = engine.verify(deep, sink, &shutdown).await.unwrap();
    // Three nodes: applied, verified, verified again when taken up, and once more at the end.
    assert_eq!(seen.lock().unwrap().iter().filter(|secret| *secret == CANARY).count(), 12);
    let reports = format!("{first:?} {again:?} {verified:?}");
    assert!(reports.contains("ended with exit status: 3"), "{reports}");
    assert!(!reports.contains(CANARY), "{reports}");
    let events = events.await.unwrap();
    assert!(events.contains("logged in") && !events.contains(CANARY), "{events}");
    std::fs::remove_file(secret).unwrap();
    assert_eq!(leaks(dir.path()), Vec::<String>::new());
}
