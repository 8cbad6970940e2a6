//! A step that is a program: every call is a process of its own.
//!
//! Owns nothing between calls but what the plugin has said of itself. Whatever the program does, a call
//! ends with a result or with an error that names it, and no process of it is left.

use std::path::Path;

use jsonschema::Validator;
use migrate_plugin_api::protocol::{
    ApplyResult, CallContext, CallParams, Description, Empty, UndoParams, ValidateResult, VerifyParams,
};
use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, Observation, Step, StepContext, StepError, StepInfo, StepPlan,
    VerifyDepth, async_trait,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::lines::clean;
use crate::process::{Guard, Launch};
use crate::program::{Program, ProgramDigest};
use crate::sensitive;
use crate::session::Session;
use crate::vault::Vault;

/// Longest name of a step; it is part of a file name.
const MAX_NAME_BYTES: usize = 100;

/// A step plugin that has described itself.
pub struct Plugin {
    info: StepInfo,
    /// As the plugin says it, without the digest.
    version: String,
    outputs: Validator,
    guard: Guard,
    launch: Launch,
    program: Program,
}

impl Plugin {
    /// Asks the program in `launch` what it is. `name`: the step that it must be; without, it may be any.
    ///
    /// # Errors
    /// What is wrong with it; then it can't be used.
    pub async fn describe(
        name: Option<&str>,
        guard: &Guard,
        launch: Launch,
        dir: &Path,
    ) -> Result<Self, StepError> {
        let shown = name.map_or_else(|| launch.program.display().to_string(), str::to_owned);
        let program = Program::read(launch.program.clone()).map_err(|error| {
            StepError::permanent(format!("failed to read {}", launch.program.display())).with_source(error)
        })?;
        let mut session = Session::open(&shown, guard, &launch, dir).await?;
        let described: Option<Description> = session.ask("describe", &Empty {}, None).await?;
        session.close(None).await;
        let described = described
            .ok_or_else(|| StepError::permanent(format!("plugin `{shown}` has no method `describe`")))?;
        let said = described.name.clone();
        let wrong =
            |why: String| StepError::permanent(format!("plugin `{shown}` describes itself wrongly: {why}"));
        check_name(&said).map_err(wrong)?;
        if let Some(name) = name.filter(|name| *name != said) {
            return Err(wrong(format!("it says that it is the step `{said}`, and its name says `{name}`")));
        }
        schema(&described.config_schema).map_err(|why| wrong(format!("its `config_schema` {why}")))?;
        let outputs =
            schema(&described.output_schema).map_err(|why| wrong(format!("its `output_schema` {why}")))?;
        check_sensitive(&described.sensitive, &described.output_schema).map_err(wrong)?;
        let version = described.version.clone();
        let mut info = StepInfo::from(described);
        // What ran is part of what it is: a changed file is another version.
        info.version = format!("{version}+sha256.{}", program.digest());
        Ok(Self { info, version, outputs, guard: guard.clone(), launch, program })
    }

    /// SHA-256 of its file.
    pub fn digest(&self) -> &ProgramDigest {
        self.program.digest()
    }

    /// The version that the plugin gives itself; [`StepInfo::version`] has the digest too.
    pub fn own_version(&self) -> &str {
        &self.version
    }

    async fn open(&self, ctx: &StepContext, config: &Value) -> Result<Session, StepError> {
        let name = &self.info.name;
        self.program.unchanged().map_err(|why| {
            StepError::permanent(format!("plugin `{name}` {why}"))
                .with_hint("`migrate resume` begins with the file as it is then")
        })?;
        let mut session = Session::open(name, &self.guard, &self.launch, &ctx.project_dir).await?;
        session.lend(Vault::for_config(config));
        Ok(session)
    }

    /// One call in a process of its own.
    async fn call<T: DeserializeOwned>(
        &self,
        ctx: &StepContext,
        config: &Value,
        method: &str,
        params: &(impl Serialize + Sync),
    ) -> Result<Option<T>, StepError> {
        ctx.check_cancelled()?;
        let mut session = self.open(ctx, config).await?;
        let answer = session.ask(method, params, Some(ctx)).await;
        session.close(Some(ctx)).await;
        answer
    }

    /// What is known of an earlier attempt where nobody looks.
    fn unobserved(&self, ctx: &StepContext) -> Observation {
        let reason = format!("plugin `{}` can't look: it has no `observe`", self.info.name);
        match self.info.idempotency {
            // The same again is harmless, and all that is asked.
            Idempotency::Natural => Observation::Absent,
            Idempotency::Keyed => {
                Observation::Unknown { reason: format!("{reason}; what it makes is named `{}`", ctx.key) }
            }
            Idempotency::None => Observation::Unknown { reason },
        }
    }

    /// Says where outputs don't fit the plugin's own schema. Never shows them.
    fn check_outputs(&self, method: &str, outputs: &Value) -> Result<(), StepError> {
        let Err(error) = self.outputs.validate(outputs) else { return Ok(()) };
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
        let name = &self.info.name;
        Err(StepError::permanent(format!(
            "the outputs of plugin `{name}` don't fit its own `output_schema`{place}: {}",
            error.masked_with("the value")
        ))
        .with_hint(format!("this is a bug in the plugin: mend what `{method}` returns, or the schema")))
    }
}

/// `word` or `family.verb`.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('-')
            && !word.ends_with('-')
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if name.len() <= MAX_NAME_BYTES && name.split('.').count() <= 2 && name.split('.').all(is_word) {
        return Ok(());
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME_BYTES).collect();
    Err(format!(
        "`{shown}` is no name of a step: write `word` or `family.verb`, in lowercase letters, digits and `-`"
    ))
}

/// Makes sure that what is to be hidden can be found.
pub(crate) fn check_sensitive(pointers: &[String], output_schema: &Value) -> Result<(), String> {
    pointers.iter().try_for_each(|pointer| {
        let shown = clean(pointer, MAX_NAME_BYTES);
        sensitive::check(pointer, output_schema).map_err(|why| format!("`{shown}` in its `sensitive` {why}"))
    })
}

fn schema(schema: &Value) -> Result<Validator, String> {
    jsonschema::validator_for(schema).map_err(|error| format!("is no JSON Schema: {error}"))
}

fn params(ctx: &StepContext, config: &Value) -> Result<CallParams, StepError> {
    let context = CallContext {
        run: ctx.run.clone(),
        node: ctx.node.clone(),
        attempt: ctx.attempt,
        key: ctx.key.clone(),
        project_dir: ctx.project_dir.to_string_lossy().into_owned(),
        handle: ctx.handle().map(str::to_owned),
        cursor: ctx.cursor()?,
    };
    Ok(CallParams { context, config: config.clone() })
}

#[async_trait]
impl Step for Plugin {
    fn describe(&self) -> StepInfo {
        self.info.clone()
    }

    async fn plan(&self, ctx: &StepContext, config: &Value) -> Result<StepPlan, StepError> {
        let mut session = self.open(ctx, config).await?;
        let params = params(ctx, config)?;
        let found: Option<ValidateResult> = session.ask("validate", &params, Some(ctx)).await?;
        let plan: Option<StepPlan> = session.ask("plan", &params, Some(ctx)).await?;
        session.close(Some(ctx)).await;
        let mut plan = plan.unwrap_or_else(|| StepPlan::new(self.info.summary.clone()));
        plan.problems.splice(0..0, found.unwrap_or_default().problems);
        Ok(plan)
    }

    async fn observe(&self, ctx: &StepContext, config: &Value) -> Result<Observation, StepError> {
        let observed = match self.call(ctx, config, "observe", &params(ctx, config)?).await? {
            Some(observed) => observed,
            None => self.unobserved(ctx),
        };
        if let Observation::Done { outputs } = &observed {
            self.check_outputs("observe", outputs)?;
        }
        Ok(observed)
    }

    async fn apply(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError> {
        let applied: Option<ApplyResult> = self.call(ctx, config, "apply", &params(ctx, config)?).await?;
        let Some(ApplyResult { outputs }) = applied else {
            return Err(StepError::permanent(format!("plugin `{}` has no method `apply`", self.info.name)));
        };
        let outputs = Value::Object(outputs);
        self.check_outputs("apply", &outputs)?;
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Value,
        outputs: &Value,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let CallParams { context, config: _ } = params(ctx, config)?;
        let params = VerifyParams { context, config: config.clone(), outputs: outputs.clone(), depth };
        let evidence = self.call(ctx, config, "verify", &params).await?;
        Ok(evidence.unwrap_or_else(|| Evidence { checks: vec![unchecked(&self.info.name)] }))
    }

    async fn undo(&self, ctx: &StepContext, config: &Value, outputs: &Value) -> Result<(), StepError> {
        let CallParams { context, config: _ } = params(ctx, config)?;
        let params = UndoParams { context, config: config.clone(), outputs: outputs.clone() };
        let undone: Option<Empty> = self.call(ctx, config, "undo", &params).await?;
        undone
            .map(|Empty {}| ())
            .ok_or_else(|| StepError::permanent(format!("plugin `{}` has no method `undo`", self.info.name)))
    }
}

/// What is said where nothing was looked at.
fn unchecked(name: &str) -> Check {
    Check {
        subject: format!("plugin {name}"),
        what: "verify".to_owned(),
        source: "checked".to_owned(),
        target: "not checked".to_owned(),
        status: CheckStatus::Warning,
        note: Some("the plugin has no `verify`: what it did was not looked at".to_owned()),
    }
}

/// A plugin that can't be used: its node is told so before anything is touched.
pub(crate) struct Unusable {
    pub name: String,
    pub why: StepError,
}

impl Unusable {
    fn refusal(&self) -> StepError {
        let record = self.why.to_record();
        let mut error = StepError::permanent(record.message);
        error.hint = record.hint;
        match record.causes.is_empty() {
            true => error,
            false => error.with_source(record.causes.join(": ")),
        }
    }
}

#[async_trait]
impl Step for Unusable {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: self.name.clone(),
            version: "unusable".to_owned(),
            summary: format!("Can't be used: {}", self.why),
            config_schema: Value::Object(serde_json::Map::new()),
            output_schema: Value::Object(serde_json::Map::new()),
            sensitive: Vec::new(),
            idempotency: Idempotency::None,
            supports_undo: false,
        }
    }

    async fn plan(&self, _: &StepContext, _: &Value) -> Result<StepPlan, StepError> {
        Err(self.refusal())
    }

    async fn observe(&self, _: &StepContext, _: &Value) -> Result<Observation, StepError> {
        Err(self.refusal())
    }

    async fn apply(&self, _: &StepContext, _: &Value) -> Result<Value, StepError> {
        Err(self.refusal())
    }

    async fn verify(
        &self,
        _: &StepContext,
        _: &Value,
        _: &Value,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        Err(self.refusal())
    }

    async fn undo(&self, _: &StepContext, _: &Value, _: &Value) -> Result<(), StepError> {
        Err(self.refusal())
    }
}
