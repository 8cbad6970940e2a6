//! `exec` with real programs of the system.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{
    CheckStatus, ErrorClass, IdempotencyKey, LogLevel, Observation, Step, StepContext, StepError, Typed,
    VerifyDepth,
};
use serde_json::{Value, json};

use super::exec::Exec;
use crate::process_group::Record;
use crate::stdin_lock::input_path;

/// A secret that must be nowhere.
const CANARY: &str = "canary-5f0c8d";

fn shell(script: &str) -> Value {
    json!({ "command": ["sh", "-c", script] })
}

struct Stand {
    project: tempfile::TempDir,
    host: Arc<RecordingHost>,
}

impl Stand {
    fn new() -> Self {
        Self { project: tempfile::tempdir().unwrap(), host: Arc::default() }
    }

    fn dir(&self) -> &Path {
        self.project.path()
    }

    /// The context of the call after whatever was checkpointed.
    fn context(&self) -> StepContext {
        let cursor = self.host.recorded().cursors.last().cloned();
        self.host.context("run", self.dir()).with_state(None, cursor)
    }

    async fn apply(&self, config: &Value) -> Result<Value, StepError> {
        Typed(Exec).apply(&self.context(), config).await
    }

    async fn observe(&self, config: &Value) -> Result<Observation, StepError> {
        Typed(Exec).observe(&self.context(), config).await
    }

    fn said(&self) -> Vec<String> {
        self.host.recorded().log.into_iter().map(|(_, line)| line).collect()
    }
}

fn unknown(observation: Observation) -> String {
    match observation {
        Observation::Unknown { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Something that the node's key names.
fn begun() -> Observation {
    Observation::Running { handle: "run-0000000000".to_owned() }
}

#[tokio::test]
async fn a_command_gets_what_its_config_says_and_no_more() {
    let stand = Stand::new();
    std::fs::create_dir(stand.dir().join("sub")).unwrap();
    let mut config = shell(r#"cat; echo "$A $MIGRATE_NODE $MIGRATE_KEY" "${PWD##*/}"; exit 3"#);
    config["env"] = json!({ "A": "a value" });
    config["stdin"] = "from stdin\n".into();
    config["directory"] = "sub".into();
    config["exit-codes"] = json!([0, 3]);
    let outputs = stand.apply(&config).await.unwrap();
    let stdout = "from stdin\na value run run-0000000000 sub";
    assert_eq!(outputs, json!({ "stdout": stdout, "stdout_truncated": false, "exit_code": 3 }));
    assert!(std::fs::read_dir(stand.dir().join(".migrate/exec")).unwrap().next().is_none());
}

#[tokio::test]
async fn of_its_own_environment_migrate_gives_what_is_named() {
    let stand = Stand::new();
    let is_plain = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let others = |name: &str| !["PATH", "HOME", "USER", "SHELL", "LANG", "TMPDIR", "PWD"].contains(&name);
    let (name, value) = std::env::vars()
        .find(|(name, value)| is_plain(name) && others(name) && !name.starts_with("LC_") && value.len() > 1)
        .expect("tests run with some variable of their own");
    let mut config = shell(&format!("printf %s \"${{{name}-unset}}\""));
    assert_eq!(stand.apply(&config).await.unwrap()["stdout"], "unset");
    config["inherit-env"] = json!([name]);
    assert_eq!(stand.apply(&config).await.unwrap()["stdout"], value.trim_end_matches('\n'));
}

#[tokio::test]
async fn no_word_of_a_command_is_read_by_a_shell() {
    let stand = Stand::new();
    let outputs = stand.apply(&json!({ "command": ["printf", "%s", "$(id) && *"] })).await.unwrap();
    assert_eq!(outputs["stdout"], "$(id) && *");
}

#[tokio::test]
async fn a_secret_is_in_no_output_log_or_error() {
    let stand = Stand::new();
    stand.host.put_secret("env:TOKEN", CANARY);
    let mut config = shell(r#"echo "out $T"; echo "err $T" >&2; exit "$CODE""#);
    config["secret-env"] = json!({ "T": "env:TOKEN" });
    config["env"] = json!({ "CODE": "0" });
    let outputs = stand.apply(&config).await.unwrap();
    assert_eq!(outputs["stdout"], "out ********");
    config["env"] = json!({ "CODE": "5" });
    let error = stand.apply(&config).await.unwrap_err();
    assert_eq!(error.message, "`sh` ended with exit code 5: err ********");
    let everything = format!("{outputs} {error:?} {:?}", stand.host.recorded());
    assert!(
        !everything.replace(&format!("{{\"env:TOKEN\": \"{CANARY}\"}}"), "").contains(CANARY),
        "{everything}"
    );
    assert!(stand.said().contains(&"err ********".to_owned()));
}

#[tokio::test]
async fn no_part_of_a_secret_is_left_where_output_is_cut() {
    let stand = Stand::new();
    stand.host.put_secret("env:TOKEN", CANARY);
    // What is masked is shorter, which makes room for what stands behind it: at the end of what is read there
    // is a part of a secret.
    let mut config = shell(
        r#"all=$(yes "$T " | head -n 6000 | tr -d '\n'); printf 'xxxxx%s' "$all"; printf '%s' "$all" >&2"#,
    );
    config["secret-env"] = json!({ "T": "env:TOKEN" });
    let outputs = stand.apply(&config).await.unwrap();
    assert_eq!(outputs["stdout_truncated"], true);
    for text in stand.said().iter().chain([&outputs["stdout"].as_str().unwrap().to_owned()]) {
        let piece =
            CANARY.as_bytes().windows(6).find(|piece| text.as_bytes().windows(6).any(|at| at == *piece));
        assert_eq!(piece, None, "{} bytes that end with {}", text.len(), &text[text.len() - 30..]);
    }
}

#[tokio::test]
async fn what_a_command_says_can_not_steer_a_terminal() {
    let stand = Stand::new();
    let config = shell(r"printf 'a\033]0;title\007b \033[31mred\rgone\n' >&2; exit 3");
    let error = stand.apply(&config).await.unwrap_err();
    assert_eq!(error.message, "`sh` ended with exit code 3: a ]0;title b  [31mred gone");
    assert_eq!(stand.said(), ["a ]0;title b  [31mred gone"]);
}

#[tokio::test]
async fn long_output_is_cut_and_said_and_warned_about() {
    let stand = Stand::new();
    let config = shell("head -c 100000 /dev/zero | tr '\\0' x");
    let outputs = stand.apply(&config).await.unwrap();
    assert_eq!(outputs["stdout"].as_str().unwrap().len(), super::KEPT_BYTES);
    assert_eq!(outputs["stdout_truncated"], true);
    let evidence = Typed(Exec).verify(&stand.context(), &config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed());
    let told: Vec<_> = evidence.checks.iter().map(|c| (c.what.as_str(), c.target.as_str())).collect();
    assert_eq!(told, [("exit code", "0"), ("stdout", "more")]);
    // Nothing was looked at.
    assert!(evidence.checks.iter().all(|check| check.status == CheckStatus::Warning), "{evidence:?}");
}

#[tokio::test]
async fn a_failure_has_the_class_that_its_exit_code_is_given() {
    let stand = Stand::new();
    let mut config = shell("echo no route >&2; exit 75");
    config["transient-exit-codes"] = json!([75]);
    let passing = stand.apply(&config).await.unwrap_err();
    assert_eq!(passing.class, ErrorClass::Transient { retry_after_ms: None });
    assert_eq!(passing.message, "`sh` ended with exit code 75: no route");
    assert_eq!(stand.apply(&shell("exit 75")).await.unwrap_err().class, ErrorClass::Permanent);
    assert_eq!(stand.apply(&shell("kill -9 $$")).await.unwrap_err().message, "`sh` ended with signal 9");
}

#[tokio::test]
async fn what_may_have_had_its_effect_is_only_repeated_on_its_authors_word() {
    let stand = Stand::new();
    let mut config = shell("exit 1");
    assert_eq!(unknown(stand.observe(&config).await.unwrap()), "the end of `sh` was not seen");
    stand.apply(&config).await.unwrap_err();
    assert_eq!(unknown(stand.observe(&config).await.unwrap()), "`sh` ended with exit code 1");
    config["idempotency"] = "natural".into();
    assert_eq!(stand.observe(&config).await.unwrap(), Observation::Absent);
    // What has another key would be another thing beside it.
    config["idempotency"] = "keyed".into();
    assert_eq!(stand.observe(&config).await.unwrap(), begun());
    config["idempotency"] = "none".into();
    unknown(stand.observe(&config).await.unwrap());
    // What never ran has had no effect.
    stand.apply(&json!({ "command": ["no-such-program"] })).await.unwrap_err();
    assert_eq!(stand.observe(&json!({ "command": ["no-such-program"] })).await.unwrap(), Observation::Absent);
    // Nor has that one, but the one before it may have.
    let keyed = json!({ "command": ["no-such-program"], "idempotency": "keyed" });
    assert_eq!(stand.observe(&keyed).await.unwrap(), Observation::Absent);
    let cursor = stand.host.recorded().cursors.last().cloned();
    let ctx = stand.context().with_state(Some("run-0000000000".to_owned()), cursor);
    assert_eq!(Typed(Exec).observe(&ctx, &keyed).await.unwrap(), begun());
    // Of an earlier attempt that says nothing.
    let mut later = stand.context();
    later.attempt = 2;
    unknown(Typed(Exec).observe(&later, &shell("true")).await.unwrap());
}

#[tokio::test]
async fn observe_tells_by_its_exit_code() {
    let stand = Stand::new();
    let observe = |script: &str| {
        let mut config = shell("true");
        config["observe"] = json!(["sh", "-c", script]);
        config
    };
    let done = stand.observe(&observe("echo found")).await.unwrap();
    let outputs = json!({ "stdout": "found", "stdout_truncated": false, "exit_code": 0 });
    assert_eq!(done, Observation::Done { outputs: outputs.clone() });
    assert_eq!(stand.observe(&observe("exit 1")).await.unwrap(), Observation::Absent);
    let unclear = unknown(stand.observe(&observe("echo no login >&2; exit 2")).await.unwrap());
    assert_eq!(unclear, "`sh -c echo no login >&2; exit 2` ended with exit code 2: no login");

    let verify = async |script: &str| {
        let config = observe(script);
        Typed(Exec).verify(&stand.context(), &config, &outputs, VerifyDepth::Quick).await
    };
    assert!(verify("true").await.unwrap().passed());
    assert!(!verify("exit 1").await.unwrap().passed());
    verify("exit 2").await.unwrap_err();
}

/// Waits until `file` has a whole line, and returns it.
async fn line_of(file: &Path) -> String {
    loop {
        match std::fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is no process that does anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn gone(pid: &str) {
    while is_alive(pid) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_cancelled_command_ends_with_all_that_it_has_started() {
    let stand = Stand::new();
    let config = shell("sleep 1000 & echo $! >child; wait");
    let ctx = stand.context();
    let cancel = ctx.cancel.clone();
    let work = tokio::spawn(async move { Typed(Exec).apply(&ctx, &config).await });
    let child = line_of(&stand.dir().join("child")).await;
    assert!(is_alive(&child));
    cancel.cancel();
    assert_eq!(work.await.unwrap().unwrap_err().class, ErrorClass::Cancelled);
    gone(&child).await;
}

#[tokio::test]
async fn a_dropped_command_ends_too() {
    let stand = Stand::new();
    let config = shell("trap '' TERM; sleep 1000 & echo $! >child; wait");
    let ctx = stand.context();
    let work = tokio::spawn(async move { Typed(Exec).apply(&ctx, &config).await });
    let child = line_of(&stand.dir().join("child")).await;
    work.abort();
    gone(&child).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_ended_and_costs_no_time() {
    let stand = Stand::new();
    let outputs = stand.apply(&shell("sleep 1000 & echo $! >child; echo done")).await.unwrap();
    assert_eq!(outputs["stdout"], "done");
    gone(&line_of(&stand.dir().join("child")).await).await;
}

#[tokio::test]
async fn nothing_is_begun_while_an_earlier_attempt_is_alive() {
    let stand = Stand::new();
    let path = input_path(&stand.context());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.lock().unwrap();
    // As a command whose `migrate` was killed holds it.
    let mut orphan = std::process::Command::new("sleep").arg("1000").stdin(file).spawn().unwrap();
    let mut config = shell("true");
    config["idempotency"] = "natural".into();
    for error in [stand.observe(&config).await.unwrap_err(), stand.apply(&config).await.unwrap_err()] {
        assert_eq!(error.class, ErrorClass::Transient { retry_after_ms: None });
        assert_eq!(error.message, "the command of an earlier attempt still runs");
    }
    // Not under another key either, as after `--rerun`.
    let mut anew = stand.context();
    anew.key = IdempotencyKey::new("run-1111111111").unwrap();
    assert!(Typed(Exec).apply(&anew, &config).await.unwrap_err().class.is_retryable());
    orphan.kill().unwrap();
    orphan.wait().unwrap();
    assert_eq!(stand.observe(&config).await.unwrap(), Observation::Absent);
    stand.apply(&config).await.unwrap();
}

#[tokio::test]
async fn nothing_is_begun_while_one_that_took_another_stdin_is_alive() {
    let stand = Stand::new();
    let path = input_path(&stand.context());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut orphan = std::process::Command::new("sh");
    let mut orphan = orphan.args(["-c", "exec sleep 1000 </dev/null"]).process_group(0).spawn().unwrap();
    let record = Record::beside(&path);
    record.announce().unwrap();
    // As where `migrate` was killed in between.
    let unclear = unknown(stand.observe(&shell("true")).await.unwrap());
    assert_eq!(unclear, "`migrate` was killed as it started `sh`, which may be at work");
    record.started(rustix::process::Pid::from_child(&orphan)).unwrap();
    let mut config = shell("true");
    config["observe"] = json!(["false"]);
    for error in [stand.observe(&config).await.unwrap_err(), stand.apply(&config).await.unwrap_err()] {
        assert_eq!(error.class, ErrorClass::Transient { retry_after_ms: None });
        assert_eq!(error.message, "the command of an earlier attempt still runs");
    }
    orphan.kill().unwrap();
    orphan.wait().unwrap();
    assert_eq!(stand.observe(&config).await.unwrap(), Observation::Absent);
    stand.apply(&config).await.unwrap();
    assert!(std::fs::read_dir(path.parent().unwrap()).unwrap().next().is_none());
}

#[tokio::test]
async fn what_a_stopped_command_has_started_may_end_in_order_too() {
    let stand = Stand::new();
    // The shell in front ends at once, of SIGTERM.
    let config = shell(
        "(trap 'sleep 1; echo saved >saved; exit' TERM; echo $$ >child; while :; do sleep 0.1; done) & wait",
    );
    let ctx = stand.context();
    let cancel = ctx.cancel.clone();
    let work = tokio::spawn(async move { Typed(Exec).apply(&ctx, &config).await });
    line_of(&stand.dir().join("child")).await;
    cancel.cancel();
    assert_eq!(work.await.unwrap().unwrap_err().class, ErrorClass::Cancelled);
    assert_eq!(std::fs::read_to_string(stand.dir().join("saved")).unwrap(), "saved\n");
}

#[tokio::test]
async fn all_that_a_command_writes_is_a_sign_of_life() {
    // What is not kept any more, a bar that never ends its line, and what is for the next node.
    for (before, write) in
        [("seq 1 2100 >&2", "echo . >&2"), ("true", "printf '.\\r' >&2"), ("true", "printf .")]
    {
        let stand = Stand::new();
        let config = shell(&format!("{before}; until test -e go; do {write}; sleep 0.01; done"));
        let ctx = stand.context();
        let work = tokio::spawn(async move { Typed(Exec).apply(&ctx, &config).await });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let reach = async |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(std::time::Instant::now() < deadline, "{write}: it is taken for silent");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        reach(&|| !before.starts_with("seq") || stand.said().len() == 2001).await;
        let began = stand.host.recorded().beats;
        reach(&|| stand.host.recorded().beats >= began + 10).await;
        std::fs::write(stand.dir().join("go"), "").unwrap();
        work.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_flood_on_stderr_is_bounded() {
    let stand = Stand::new();
    stand.apply(&shell("seq 1 5000 >&2; head -c 50000 /dev/zero >&2")).await.unwrap();
    let log = stand.host.recorded().log;
    assert_eq!(log[0].1, "1");
    let warned = log.iter().filter(|(level, _)| *level == LogLevel::Warn).count();
    assert_eq!((log.len(), warned), (2002, 1), "2000 lines, a warning and the end");
}

#[tokio::test]
async fn mistakes_are_found_before_anything_runs() {
    let stand = Stand::new();
    let config = json!({
        "command": ["no-such-program"], "observe": ["./missing"], "env": { "A": "1", "B=": "" },
        "secret-env": { "A": "env:NONE" }, "directory": "nowhere", "transient-exit-codes": [0],
    });
    let plan = Typed(Exec).plan(&stand.context(), &config).await.unwrap();
    let told: Vec<String> = plan
        .problems
        .iter()
        .map(|p| format!("{}: {}", p.field.as_deref().unwrap_or_default(), p.message))
        .map(|line| line.replace(&stand.dir().display().to_string(), "PROJECT"))
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    command: there is no program `no-such-program` on PATH
    observe: there is no `./missing` in the project folder
    env: `A` is in `env` and in `secret-env`
    env: `B=` is no name of a variable
    directory: there is no folder PROJECT/nowhere yet
    transient-exit-codes: exit code 0 can't mean both success and a passing trouble
    secret-env: no secret at `env:NONE`
    ");
    let unknown = json!({ "command": ["echo", { "$unknown": "nodes.a.b" }] });
    assert_eq!(Typed(Exec).plan(&stand.context(), &unknown).await.unwrap().summary, "run a command");
}

#[tokio::test]
async fn what_waits_for_another_node_is_checked_as_far_as_it_is_known() {
    let stand = Stand::new();
    let unknown = json!({ "$unknown": "nodes.a.stdout" });
    let problems = async |config: Value| {
        let plan = Typed(Exec).plan(&stand.context(), &config).await.unwrap();
        let told = plan.problems.into_iter();
        told.map(|p| format!("{:?} in {}: {}", p.severity, p.field.unwrap_or_default(), p.message))
            .collect::<Vec<_>>()
    };
    let all = [
        problems(json!({
            "command": ["no-such-program", unknown], "observe": ["no-other", unknown],
            "env": { "B=": "1", "C": unknown }, "secret-env": { "S": "env:NONE", "T": "file:token" },
            "exit-codes": [3], "transient-exit-codes": [3],
        }))
        .await,
        // Another node may make it first.
        problems(json!({ "command": ["./made", unknown] })).await,
        problems(json!({ "command": [unknown, "x"], "directory": unknown, "transient-exit-codes": [0] }))
            .await,
        problems(json!({ "command": ["sh", "-c", unknown], "observe": unknown, "env": unknown })).await,
    ];
    insta::assert_snapshot!(all.concat().join("
"), @r"
    Error in command: there is no program `no-such-program` on PATH
    Error in observe: there is no program `no-other` on PATH
    Error in env: `B=` is no name of a variable
    Error in transient-exit-codes: exit code 3 can't mean both success and a passing trouble
    Error in secret-env: no secret at `env:NONE`
    Warning in secret-env: no secret at `file:token`
    Warning in command: there is no `./made` in the project folder
    ");
}
