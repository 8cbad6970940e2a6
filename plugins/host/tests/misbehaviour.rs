//! Whatever a plugin does, it costs its node, with a clear message, and no process of it is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{
    CheckStatus, ErrorClass, LogLevel, Observation, Step, StepContext, StepError, VerifyDepth,
};
use migrate_plugin_host::{Guard, Launch, Plugin};
use serde_json::{Value, json};

const CANARY: &str = "canary-7b1f2a-value";

fn guard() -> Guard {
    Guard { program: env!("CARGO_BIN_EXE_migrate-plugin-guard").into(), args: Vec::new() }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plugin.py")
}

/// A plugin in one mode, in a folder of its own, whose processes can be told by their argv.
struct Rig {
    mode: String,
    mark: String,
    host: Arc<RecordingHost>,
    ctx: StepContext,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(mode: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("mark-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let host = Arc::new(RecordingHost::default());
        host.put_secret("env:TOKEN", CANARY);
        host.put_secret("env:OTHER", "somebody-elses");
        let dir = tempfile::tempdir().unwrap();
        let ctx = host.context("node", dir.path());
        Self { mode: mode.to_owned(), mark, host, ctx, dir }
    }

    fn launch(&self) -> Launch {
        Launch {
            program: fixture(),
            args: vec![self.mode.as_str().into(), self.mark.as_str().into()],
            env: BTreeSet::new(),
            memory_bytes: 1 << 30,
        }
    }

    async fn plugin(&self) -> Result<Plugin, StepError> {
        Plugin::describe(Some("test.plugin"), &guard(), self.launch(), self.dir.path()).await
    }

    async fn apply(&self) -> Result<Value, StepError> {
        self.plugin().await?.apply(&self.ctx, &json!({ "token": "env:TOKEN" })).await
    }

    /// Applies, and asks it to stop as soon as it has said something.
    async fn apply_and_cancel(&self) -> Result<Value, StepError> {
        let said = async {
            while self.host.recorded().progress.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.ctx.cancel.cancel();
        };
        tokio::join!(self.apply(), said).0
    }

    /// Every process that has its mark, in words.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| {
                let argv = std::fs::read(entry.path().join("cmdline")).ok()?;
                let argv = String::from_utf8_lossy(&argv).replace('\0', " ");
                argv.contains(&self.mark).then_some(argv)
            })
            .collect()
    }
}

fn told(result: &Result<Value, StepError>) -> String {
    match result {
        Ok(outputs) => format!("done: {outputs}"),
        Err(error) => {
            let record = error.to_record();
            let class = serde_json::to_value(record.class).unwrap()["kind"].as_str().unwrap().to_owned();
            let causes = record.causes.iter().map(|cause| format!("\n  because {cause}"));
            let hint = record.hint.iter().map(|hint| format!("\n  help: {hint}"));
            format!("{class}: {}{}", record.message, causes.chain(hint).collect::<String>())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_misbehaviour_costs_its_node_with_a_clear_message() {
    let modes = [
        "good",
        "hang-initialize",
        "newer",
        "newer-error",
        "bad-schema",
        "other-name",
        "exit",
        "print",
        "half",
        "giant",
        "flood",
        "deep",
        "stranger",
        "neither",
        "form",
        "lie",
        "fork",
        "daemon",
        "leave-daemon",
        "close-stdout",
        "stubborn",
        "twice",
        "other-secret",
    ];
    let runs = modes.map(|mode| {
        tokio::spawn(async move {
            let rig = Rig::new(mode);
            let said = told(&rig.apply().await);
            (format!("{mode}: {said}"), rig.left())
        })
    });
    let mut all = Vec::new();
    for run in runs {
        let (said, left) = run.await.unwrap();
        assert!(left.is_empty(), "{said}: {left:?}");
        all.push(said);
    }
    insta::assert_snapshot!(all.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_by_any_signal_is_named() {
    // All that end a process, but those that a shell or a debugger keeps to itself.
    let signals = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 29, 30, 31];
    let mut all = Vec::new();
    for signal in signals {
        let rig = Rig::new(&format!("signal-{signal}"));
        all.push(told(&rig.apply().await));
        assert_eq!(rig.left(), Vec::<String>::new(), "signal {signal}");
    }
    insta::assert_snapshot!(all.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_stopped_in_order_and_then_without_asking() {
    // It reads `cancel`; can't read while it works; ignores SIGTERM; and promised to read, and doesn't.
    for (mode, longest) in [("cancel", 5), ("hang", 5), ("deaf", 6), ("deaf-cancel", 15)] {
        let rig = Rig::new(mode);
        let began = std::time::Instant::now();
        let error = rig.apply_and_cancel().await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Cancelled, "{mode}: {error}");
        assert!(began.elapsed() < Duration::from_secs(longest), "{mode}: {:?}", began.elapsed());
        assert_eq!(rig.left(), Vec::<String>::new(), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_has_started_may_end_in_order_too() {
    let rig = Rig::new("saves");
    let error = rig.apply_and_cancel().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Cancelled, "{error}");
    assert_eq!(std::fs::read_to_string(rig.dir.path().join("saved")).unwrap(), "saved\n");
    assert_eq!(rig.left(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_takes_its_processes_along() {
    let rig = Rig::new("hang");
    let said = async {
        while rig.host.recorded().progress.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        result = rig.apply() => panic!("{result:?}"),
        () = said => {}
    }
    assert_eq!(rig.left(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_sensitive_is_refused() {
    for pointer in ["/rows", "/users", "/users/0/password"] {
        Rig::new(&format!("sensitive:{pointer}")).plugin().await.unwrap();
    }
    let wrong = ["rows", "", "/row", "/users/*/password", "/users/0/name", "/rows/0", "/a~2b"];
    let mut all = Vec::new();
    for pointer in wrong {
        let refused = Rig::new(&format!("sensitive:{pointer}")).plugin().await.map(|_| Value::Null);
        all.push(told(&refused));
    }
    insta::assert_snapshot!(all.join("\n"));
}

/// A plugin that hangs, with its guard, which looks at `pulse` if there is one: at work already.
fn hanging(rig: &Rig, pulse: Option<&Path>) -> (std::process::Child, std::process::ChildStdin) {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let launch = rig.launch();
    let mut guard = Command::new(guard().program)
        .arg(pulse.unwrap_or(Path::new("-")))
        .arg("1")
        .arg(launch.memory_bytes.to_string())
        .arg(launch.program)
        .args(launch.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = guard.stdin.take().unwrap();
    let mut line = String::new();
    stdin.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"apply\",\"params\":{}}\n").unwrap();
    BufReader::new(guard.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("hangs"), "{line}");
    assert!(!rig.left().is_empty());
    (guard, stdin)
}

#[test]
fn a_host_that_dies_takes_every_process_along() {
    let rig = Rig::new("hang");
    let (mut guard, stdin) = hanging(&rig, None);
    // What the death of the host is to the others: its ends of the pipes are closed.
    drop((stdin, guard.stdout.take(), guard.stderr.take()));
    guard.wait().unwrap();
    assert_eq!(rig.left(), Vec::<String>::new());
}

#[test]
fn a_host_that_gives_no_sign_of_life_takes_every_process_along() {
    use std::io::Read;
    let rig = Rig::new("hang");
    let pulse = rig.dir.path().join("pulse");
    let beat = |number: u64| std::fs::write(&pulse, number.to_ne_bytes()).unwrap();
    beat(0);
    let (mut guard, _stdin) = hanging(&rig, Some(&pulse));
    // Three times as long as it may be silent.
    let began = std::time::Instant::now();
    for number in (1..).take_while(|_| began.elapsed() < Duration::from_secs(3)) {
        beat(number);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!rig.left().is_empty());
    // Nothing that was open is closed: so it is where the host is stopped.
    guard.wait().unwrap();
    assert_eq!(rig.left(), Vec::<String>::new());
    let mut said = String::new();
    guard.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "migrate gave no sign of life for 1 s: the plugin was killed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_refused_by_the_system() {
    let rig = Rig::new("eat");
    let error = rig.apply().await.unwrap_err();
    assert_eq!(error.message, "plugin `test.plugin` ended with exit code 1 before it answered `apply`");
    let causes = error.to_record().causes.join("");
    assert!(causes.contains("MemoryError"), "{causes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_the_log_are_cut_and_counted() {
    for mode in ["log-flood", "stderr-flood"] {
        let rig = Rig::new(mode);
        rig.apply().await.unwrap();
        let log = rig.host.recorded().log;
        let counted: u64 = log
            .iter()
            .filter_map(|(_, line)| line.split_once(" lines were left out")?.0.parse::<u64>().ok())
            .sum();
        let lines = log.iter().filter(|(_, line)| line == "x" || line == "y").count() as u64;
        assert_eq!(counted + lines, 5_000, "{mode}");
        assert!(counted > 0, "{mode}: {lines} lines passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_handles_are_kept_and_given_back() {
    let rig = Rig::new("cursor");
    assert_eq!(rig.apply().await.unwrap(), json!({ "rows": 1 }));
    assert_eq!(rig.host.recorded().cursors, [json!({ "at": 1 })]);
    assert_eq!(rig.host.recorded().handles, ["thing-1"]);
    let ctx = rig.ctx.clone().with_state(Some("thing-1".to_owned()), Some(json!({ "at": 1 })));
    let again = rig.plugin().await.unwrap().apply(&ctx, &json!({})).await.unwrap();
    assert_eq!(again, json!({ "rows": 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_leaves_out_has_a_safe_meaning() {
    let rig = Rig::new("good");
    let plugin = rig.plugin().await.unwrap();
    let config = json!({});
    assert_eq!(plugin.plan(&rig.ctx, &config).await.unwrap().summary, "Behaves as it is told");
    assert_eq!(plugin.observe(&rig.ctx, &config).await.unwrap(), Observation::Absent);
    for (mode, reason) in [
        (
            "keyed",
            "plugin `test.plugin` can't look: it has no `observe`; what it makes is named `node-0000000000`",
        ),
        ("none", "plugin `test.plugin` can't look: it has no `observe`"),
    ] {
        let other = Rig::new(mode).plugin().await.unwrap().observe(&rig.ctx, &config).await.unwrap();
        assert_eq!(other, Observation::Unknown { reason: reason.to_owned() }, "{mode}");
    }
    let evidence = plugin.verify(&rig.ctx, &config, &json!({}), VerifyDepth::Quick).await.unwrap();
    assert_eq!(evidence.checks[0].status, CheckStatus::Warning);
    let error = plugin.undo(&rig.ctx, &config, &json!({})).await.unwrap_err();
    assert_eq!(error.message, "plugin `test.plugin` has no method `undo`");
    assert!(plugin.describe().version.starts_with("1+sha256."), "{}", plugin.describe().version);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_nothing_is_told_once() {
    let rig = Rig::new("typo");
    rig.apply().await.unwrap();
    let log = rig.host.recorded().log;
    assert_eq!(log, [(LogLevel::Warn, "the plugin sends `porgress`, which means nothing".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_a_plugin_was_given_appears_nowhere() {
    let rig = Rig::new("canary");
    let outputs = rig.apply().await.unwrap();
    let recorded = format!("{:?}", rig.host.recorded().log) + &format!("{:?}", rig.host.recorded().progress);
    assert!(recorded.contains("the token is (secret)"), "{recorded}");
    assert!(recorded.contains("stderr has (secret)"), "{recorded}");
    assert!(recorded.contains("with (secret)"), "{recorded}");
    assert!(!recorded.contains(CANARY), "{recorded}");
    // Core dumps: a limit of 1 byte is "none", also for a kernel that pipes them into a program.
    let expected = json!({ "environ": false, "argv": false, "core": ["1", "1"], "read": CANARY.len() });
    assert_eq!(outputs, expected);
    for mode in ["canary-outputs", "canary-cursor", "canary-error", "canary-id"] {
        let rig = Rig::new(mode);
        let error = rig.apply().await.unwrap_err();
        let all = format!("{error:?} {:?} {:?}", error.to_record(), rig.host.recorded().cursors);
        assert!(!all.contains(CANARY), "{mode}: {all}");
        assert!(rig.host.recorded().cursors.is_empty());
    }
    let rig = Rig::new("canary-late-id");
    rig.apply().await.unwrap();
    let log = format!("{:?}", rig.host.recorded().log);
    assert!(log.contains("broke the protocol at its end") && !log.contains(CANARY), "{log}");
}

/// Every piece of the canary by which it could be told.
fn pieces() -> impl Iterator<Item = &'static str> {
    (0..=CANARY.len() - 8).map(|at| &CANARY[at..at + 8])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_canary_is_left_wherever_a_line_is_cut() {
    for mode in ["canary-long", "canary-long-exit", "canary-half"] {
        let rig = Rig::new(mode);
        let said = told(&rig.apply().await);
        let log: Vec<String> = rig.host.recorded().log.into_iter().map(|(_, line)| line).collect();
        for text in log.iter().chain([&said]) {
            let piece = pieces().find(|piece| text.contains(piece));
            assert_eq!(
                piece,
                None,
                "{mode}: {} bytes that end with {}",
                text.len(),
                &text[text.len() - 40..]
            );
        }
        if mode != "canary-half" {
            // Each line once, however long it is, and none takes its neighbour along.
            assert_eq!(log.len(), 2 * (CANARY.len() + 5) + 3, "{mode}");
            assert_eq!(log[log.len() - 2], "short", "{mode}");
            assert!(log.iter().all(|line| line.len() <= 4096 + '…'.len_utf8()), "{mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_not_run_under_its_old_digest() {
    let rig = Rig::new("good");
    let copy = rig.dir.path().join("migrate-step-test.plugin");
    std::fs::copy(fixture(), &copy).unwrap();
    let launch = Launch { program: copy.clone(), ..rig.launch() };
    let plugin = Plugin::describe(None, &guard(), launch, rig.dir.path()).await.unwrap();
    let mut text = std::fs::read_to_string(&copy).unwrap();
    text.push_str("# changed\n");
    std::fs::write(&copy, text).unwrap();
    let error = plugin.apply(&rig.ctx, &json!({})).await.unwrap_err();
    assert!(
        error.message.starts_with("plugin `test.plugin` has changed since this command began"),
        "{error}"
    );
}
