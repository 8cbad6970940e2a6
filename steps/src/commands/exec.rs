//! `exec`: a command of this machine as a node.
//!
//! What a command does outside can't be known here, so an attempt whose end was not seen is never
//! repeated unless the author says that this is harmless (`idempotency`) or `observe` says that
//! nothing was done. An attempt is alive for as long as a process of it holds its standard input,
//! which is a locked file, or is in its process group: both outlive `migrate` itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use migrate_plugin_api::{
    Check, CheckStatus, ErrorClass, Evidence, Idempotency, PlanConfig, Problem, Secret, SecretRef,
    StepContext, StepError, StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mask::Mask;
use super::process::{Ended, Failure, Process, ending, find};
use super::{Effect, KEPT_BYTES, Missing, Repeated, left};
use crate::process_group::{Earlier, Record};
use crate::stdin_lock::{claim, earlier, still_running};

/// Exit code of `observe`: nothing was done.
const NOTHING_DONE: i32 = 1;

/// Most of a command that is shown.
const SHOWN_CHARS: usize = 120;

/// `exec`.
pub(crate) struct Exec;

/// `with` of `exec`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Program and arguments; no shell. With a `/`, the program is relative to the project folder
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// A command that tells by its exit code whether it was done: 0 done, 1 not done, others can't tell
    ///
    /// It must change nothing. Its stdout counts as the command's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub observe: Option<Vec<String>>,
    /// What doing it twice means: `none` (twice; the default), `natural` or `keyed` (the same as once)
    ///
    /// With `none`, a person decides after an interruption, unless `observe` tells. `keyed`: it finds what
    /// $MIGRATE_KEY names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Repeated>,
    /// Working directory; default: the project folder
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Variables of its environment
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Variables that hold secrets: `{ PGPASSWORD = "env:DB_PASSWORD" }`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, SecretRef>,
    /// Further variables of migrate's own environment that it gets, beside PATH, HOME and the like
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherit_env: Vec<String>,
    /// Text on its standard input
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Exit codes that mean success; default: 0
    #[serde(default = "success")]
    #[schemars(length(min = 1))]
    pub exit_codes: Vec<u8>,
    /// Exit codes that mean a trouble that may pass by itself: the node's `retry` counts
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transient_exit_codes: Vec<u8>,
}

fn success() -> Vec<u8> {
    vec![0]
}

/// What a command leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Outputs {
    /// What it printed, at most the first 64 KiB, without one trailing line break
    pub stdout: String,
    /// Whether it printed more than that
    pub stdout_truncated: bool,
    /// Its exit code
    pub exit_code: i32,
}

/// How an attempt ended, where that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    attempt: u32,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    NotStarted,
    Ended(String),
}

/// A command line as a person reads it.
fn shown(command: &[String]) -> String {
    let text = command.join(" ");
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Config {
    /// What is known of the fields that a plan looks at; the others are as if they said nothing.
    fn part(config: &PlanConfig<Self>) -> Result<Self, StepError> {
        Ok(Self {
            command: config.part("command")?.unwrap_or_default(),
            observe: config.part("observe")?,
            idempotency: None,
            directory: config.field("directory")?,
            env: config.part("env")?.unwrap_or_default(),
            secret_env: config.part("secret-env")?.unwrap_or_default(),
            inherit_env: config.part("inherit-env")?.unwrap_or_default(),
            stdin: None,
            exit_codes: config.part("exit-codes")?.unwrap_or_default(),
            transient_exit_codes: config.part("transient-exit-codes")?.unwrap_or_default(),
        })
    }

    fn name(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn repeated(&self) -> Repeated {
        self.idempotency.unwrap_or(Repeated::None)
    }

    fn accepts(&self, status: std::process::ExitStatus) -> bool {
        is_among(status, &self.exit_codes)
    }

    /// Runs `command` with this node's surroundings.
    async fn run(
        &self,
        ctx: &StepContext,
        command: &[String],
        input: Option<(File, &Path)>,
    ) -> Result<Ended, Failure> {
        let prepared = async {
            let (name, arguments) =
                command.split_first().ok_or_else(|| StepError::permanent("the command is empty"))?;
            let program = find(name, &ctx.project_dir)?;
            let secrets = secrets(ctx, &self.secret_env).await?;
            Ok::<_, StepError>((name, arguments, program, secrets))
        };
        let (name, arguments, program, secrets) = prepared.await.map_err(Failure::NotStarted)?;
        let (stdin, record) = input.map(|(file, path)| (file, Record::beside(path))).unzip();
        let mask = Mask::new(secrets.iter().map(|(_, secret)| secret));
        let plain = self.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        let hidden = secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned()));
        let process = Process {
            name,
            program,
            arguments,
            directory: ctx.path(self.directory.clone().unwrap_or_default()),
            environment: plain.chain(hidden).chain(surroundings(ctx)).collect(),
            inherited: &self.inherit_env,
            stdin,
            record: record.as_ref(),
            mask: &mask,
            kept_bytes: KEPT_BYTES,
        };
        process.run(ctx).await
    }

    /// What `observe` says; `None` where there is none.
    async fn look(&self, ctx: &StepContext) -> Result<Option<Look>, StepError> {
        let Some(command) = &self.observe else { return Ok(None) };
        let ended = match self.run(ctx, command, None).await {
            Ok(ended) => ended,
            Err(Failure::NotStarted(e) | Failure::Stopped(e)) => return Err(e),
        };
        Ok(Some(match ended.status.code() {
            Some(0) => Look::Done(Outputs {
                stdout: ended.stdout,
                stdout_truncated: ended.is_cut,
                exit_code: self.exit_codes.first().copied().unwrap_or(0).into(),
            }),
            Some(NOTHING_DONE) => Look::NotDone,
            _ => {
                let words = ended.last_words.map(|words| format!(": {words}")).unwrap_or_default();
                Look::Unclear(format!("`{}` ended with {}{words}", shown(command), ending(ended.status)))
            }
        }))
    }

    async fn problems(&self, ctx: &StepContext, missing: Missing) -> Vec<Problem> {
        let mut problems = Vec::new();
        let commands = [("command", self.command.first()), ("observe", self.observe.iter().flatten().next())];
        for (field, program) in commands.into_iter().filter_map(|(f, p)| p.map(|p| (f, p))) {
            // What is on PATH is there before the run.
            let missing = if program.contains('/') { missing } else { Missing::Fails };
            problems.extend(find(program, &ctx.project_dir).err().map(|e| missing.problem(e, field)));
        }
        if let Some(name) = self.env.keys().find(|name| self.secret_env.contains_key(*name)) {
            let message = format!("`{name}` is in `env` and in `secret-env`");
            problems.push(Problem::error(message).in_field("env"));
        }
        let names = self.env.keys().chain(self.secret_env.keys()).chain(&self.inherit_env);
        for name in names.filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            problems.push(Problem::error(format!("`{name}` is no name of a variable")).in_field("env"));
        }
        let directory = ctx.path(self.directory.clone().unwrap_or_default());
        if !directory.is_dir() {
            problems.push(
                Problem::warning(format!("there is no folder {} yet", directory.display()))
                    .in_field("directory"),
            );
        }
        if let Some(code) = self.exit_codes.iter().find(|code| self.transient_exit_codes.contains(code)) {
            let message = format!("exit code {code} can't mean both success and a passing trouble");
            problems.push(Problem::error(message).in_field("transient-exit-codes"));
        }
        problems.extend(missing.secrets(ctx, self.secret_env.values(), "secret-env").await);
        problems
    }
}

/// What `observe` saw.
enum Look {
    Done(Outputs),
    NotDone,
    Unclear(String),
}

fn is_among(status: std::process::ExitStatus, codes: &[u8]) -> bool {
    status.code().is_some_and(|code| codes.iter().any(|known| i32::from(*known) == code))
}

/// Resolves the secrets of a map.
pub(super) async fn secrets(
    ctx: &StepContext,
    references: &BTreeMap<String, SecretRef>,
) -> Result<Vec<(String, Secret)>, StepError> {
    let mut secrets = Vec::new();
    for (name, reference) in references {
        secrets.push((name.clone(), ctx.secret(reference).await?));
    }
    Ok(secrets)
}

/// What a command is told about where it runs.
fn surroundings(ctx: &StepContext) -> [(String, String); 5] {
    [
        ("MIGRATE_RUN", ctx.run.to_string()),
        ("MIGRATE_NODE", ctx.node.to_string()),
        ("MIGRATE_ATTEMPT", ctx.attempt.to_string()),
        ("MIGRATE_KEY", ctx.key.to_string()),
        ("MIGRATE_PROJECT", ctx.path("").display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// The standard input of this attempt, and the file that it is.
async fn input(ctx: &StepContext, text: Option<&str>) -> Result<(File, PathBuf), StepError> {
    let (mut file, path) = claim(ctx).await?;
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.write_all(text.unwrap_or_default().as_bytes())?;
        file.seek(SeekFrom::Start(0))
    };
    write(&mut file)
        .map_err(|e| StepError::permanent(format!("failed to write {}", path.display())).with_source(e))?;
    Ok((file, path))
}

#[async_trait]
impl TypedStep for Exec {
    const NAME: &'static str = "exec";
    const SUMMARY: &'static str = "Runs a command of this machine";
    // The contract knows one answer for a step, so it is the careful one; where a config says more,
    // `observe` says that doing it again is harmless.
    const IDEMPOTENCY: Idempotency = Idempotency::None;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let Some(known) = config.known() else {
            let command = config.field::<Vec<String>>("command")?;
            let command = command.map_or_else(|| "a command".to_owned(), |c| format!("`{}`", shown(&c)));
            let mut plan = StepPlan::new(format!("run {command}"));
            plan.problems = Config::part(config)?.problems(ctx, Missing::MayCome).await;
            return Ok(plan);
        };
        let mut plan = StepPlan::new(format!("run `{}`", shown(&known.command)));
        plan.problems = known.problems(ctx, Missing::Fails).await;
        Ok(plan)
    }

    async fn observe(
        &self,
        ctx: &StepContext,
        config: &Config,
    ) -> Result<TypedObservation<Outputs>, StepError> {
        let name = config.name();
        // Whatever else is known, two at once is not what was asked for.
        match earlier(ctx).await {
            Earlier::Alive => return Err(still_running(ctx)),
            Earlier::Unclear => {
                let reason = format!("`migrate` was killed as it started `{name}`, which may be at work");
                return Ok(TypedObservation::Unknown { reason });
            }
            Earlier::Ended => {}
        }
        match config.look(ctx).await? {
            Some(Look::Done(outputs)) => return Ok(TypedObservation::Done(outputs)),
            Some(Look::NotDone) => return Ok(TypedObservation::Absent),
            Some(Look::Unclear(reason)) => return Ok(left(ctx, config.repeated(), Effect::Unclear(reason))),
            None => {}
        }
        let seen = ctx.cursor::<Seen>()?.filter(|seen| seen.attempt == ctx.attempt).map(|seen| seen.end);
        let effect = match seen {
            Some(End::NotStarted) => Effect::None,
            Some(End::Ended(how)) => Effect::Unclear(format!("`{name}` ended with {how}")),
            None => Effect::Unclear(format!("the end of `{name}` was not seen")),
        };
        Ok(left(ctx, config.repeated(), effect))
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let (stdin, path) = input(ctx, config.stdin.as_deref()).await?;
        let seen = |end| Seen { attempt: ctx.attempt, end };
        // Its only copy goes to the command: when that has ended, the lock is free.
        let result = config.run(ctx, &config.command, Some((stdin, &path))).await;
        let ended = match result {
            Ok(ended) => ended,
            Err(Failure::NotStarted(error)) => {
                ctx.checkpoint(&seen(End::NotStarted)).await?;
                return Err(error);
            }
            Err(Failure::Stopped(error)) => return Err(error),
        };
        let how = ending(ended.status);
        if !config.accepts(ended.status) {
            ctx.checkpoint(&seen(End::Ended(how.clone()))).await?;
            let words = ended.last_words.map(|words| format!(": {words}")).unwrap_or_default();
            let message = format!("`{}` ended with {how}{words}", config.name());
            let is_passing = is_among(ended.status, &config.transient_exit_codes);
            let class = if is_passing {
                ErrorClass::Transient { retry_after_ms: None }
            } else {
                ErrorClass::Permanent
            };
            return Err(StepError::new(class, message));
        }
        // Left-overs are small, and go with the `.migrate` folder.
        Record::beside(&path).withdraw();
        let _ = std::fs::remove_file(path);
        let exit_code = ended.status.code().unwrap_or_default();
        ctx.info(format!("`{}` ended with {how}", config.name()));
        Ok(Outputs { stdout: ended.stdout, stdout_truncated: ended.is_cut, exit_code })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let subject = format!("command {}", shown(&config.command));
        let mut checks = Vec::new();
        match config.look(ctx).await? {
            Some(Look::Done(_)) => checks.push(Check::equal(&subject, "observed", "done", "done")),
            Some(Look::NotDone) => checks.push(Check::equal(&subject, "observed", "done", "not done")),
            Some(Look::Unclear(reason)) => {
                return Err(StepError::permanent(format!("can't tell whether it was done: {reason}")));
            }
            None => {
                let code = outputs.exit_code.to_string();
                let codes: Vec<String> = config.exit_codes.iter().map(u8::to_string).collect();
                let expected = if codes.contains(&code) { code.clone() } else { codes.join(" or ") };
                let note = "as it ended; nothing was looked at, since there is no `observe`";
                let mut check = Check::equal(&subject, "exit code", expected, code).with_note(note);
                if check.status == CheckStatus::Passed {
                    check.status = CheckStatus::Warning;
                }
                checks.push(check);
            }
        }
        if outputs.stdout_truncated {
            checks.push(Check {
                subject,
                what: "stdout".to_owned(),
                source: format!("at most {KEPT_BYTES} bytes"),
                target: "more".to_owned(),
                status: CheckStatus::Warning,
                note: Some("the output `stdout` has only the beginning".to_owned()),
            });
        }
        Ok(Evidence { checks })
    }
}
