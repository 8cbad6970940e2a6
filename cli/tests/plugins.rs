//! Step plugins as a person uses them: found, run, killed, resumed, changed, pinned and tested.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const CANARY: &str = "canary-51c2e9-value";

const WORKFLOW: &str = "schema = 1\nname = \"items\"\n\n[nodes.copy]\nstep = \"test.items\"\n\
                        with = { items = 3, token = \"env:ITEMS_TOKEN\" }\n";

/// A project with a plugin of its own.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { dir: tempfile::tempdir().expect("a folder") };
        project.write("migration.toml", "schema = 1\n");
        project.write("items.toml", WORKFLOW);
        std::fs::create_dir(project.path("plugins")).unwrap();
        std::fs::copy(fixture(), project.plugin()).unwrap();
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn plugin(&self) -> PathBuf {
        self.path("plugins/migrate-step-test.items")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migrate"));
        command.args(args).current_dir(self.dir.path());
        command.env_remove("MIGRATE_PROJECT").env("NO_COLOR", "1").env("ITEMS_TOKEN", CANARY);
        command
    }

    fn migrate(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("migrate starts")
    }

    /// A run whose plugin waits for the file `wait-at-2` to go; its second checkpoint is durable by then.
    fn run_until_it_waits(&self) -> Child {
        self.write("wait-at-2", "");
        let mut run = self.command(&["run", "items.toml"]);
        let run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.path("items").metadata().map_or(0, |items| items.len()) < 4 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        run
    }

    fn items(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("items")).unwrap().lines().map(str::to_owned).collect()
    }

    /// Processes of the project's plugin.
    fn left(&self) -> Vec<String> {
        let mark = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let argv = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        argv.map(|argv| String::from_utf8_lossy(&argv).replace('\0', " "))
            .filter(|argv| argv.contains(&mark))
            .collect()
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/migrate-step-test.items")
}

fn text(output: &Output) -> String {
    format!(
        "exit {}\n{}{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn has(output: &Output, exit: i32, words: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn a_plugin_is_listed_with_its_source_and_digest() {
    let project = Project::new();
    let list = project.migrate(&["steps"]);
    let lines = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = lines.lines().find(|line| line.starts_with("test.items")).expect("a line");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        (words[1], words[2].len(), &words[3..]),
        ("plugins/", 12, &["Appends", "items", "to", "a", "file"][..])
    );
    let one = project.migrate(&["steps", "test.items", "--json"]);
    let document: Value = serde_json::from_slice(&one.stdout).unwrap();
    let digest = document["plugin"]["sha256"].as_str().unwrap();
    assert!(digest.starts_with(words[2]), "{document}");
    assert_eq!(document["step"]["version"], format!("1+sha256.{digest}"));
}

#[test]
fn killed_in_the_middle_it_goes_on_from_its_own_cursor_and_leaves_nothing() {
    let project = Project::new();
    let mut run = project.run_until_it_waits();
    run.kill().unwrap();
    run.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while !project.left().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", project.left());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_file(project.path("wait-at-2")).unwrap();
    has(&project.migrate(&["resume"]), 0, &["done"]);
    let items = project.items();
    assert_eq!(items.last().map(String::as_str), Some("2"));
    // The last item before the kill may have been written and not been kept.
    assert!(items.len() <= 4 && items.starts_with(&["0".to_owned(), "1".to_owned()]), "{items:?}");
    assert_eq!(project.left(), Vec::<String>::new());
}

/// A stopped holder of a shared store has renewed its lease of 60 s at the latest 30 s before, one failed
/// renewal included: so long nobody else begins (docs/design/store.md).
const LEASE_LEFT: Duration = Duration::from_secs(30);

#[test]
fn where_migrate_is_stopped_its_plugin_ends_before_another_may_begin() {
    let project = Project::new();
    let mut run = project.run_until_it_waits();
    let pid = run.id().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(signal("-STOP").success());
    assert!(!project.left().is_empty());
    let deadline = Instant::now() + LEASE_LEFT;
    while !project.left().is_empty() {
        let late = Instant::now() >= deadline;
        if late {
            run.kill().unwrap();
        }
        assert!(!late, "{:?}", project.left());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_file(project.path("wait-at-2")).unwrap();
    assert!(signal("-CONT").success());
    // It is told why, and tries again from the plugin's own cursor.
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let killed = "migrate gave no sign of life for 20 s: the plugin was killed";
    has(&project.migrate(&["logs"]), 0, &[killed]);
    let items = project.items();
    assert!(items.starts_with(&["0".to_owned(), "1".to_owned()]) && items.len() <= 4, "{items:?}");
}

/// A project whose plugin has made its file, named by its key, and was killed before it said so; and that
/// file.
fn killed_after_its_effect() -> (Project, Vec<String>) {
    let project = Project::new();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/migrate-step-test.keyed");
    std::fs::copy(plugin, project.path("plugins/migrate-step-test.keyed")).unwrap();
    project.write("keyed.toml", &keyed("one"));
    project.write("die", "");
    has(&project.migrate(&["run", "keyed.toml"]), 1, &["was killed by signal 9 (SIGKILL)"]);
    std::fs::remove_file(project.path("die")).unwrap();
    let made = things(&project);
    assert_eq!(made.len(), 1, "{made:?}");
    (project, made)
}

fn keyed(text: &str) -> String {
    format!(
        "schema = 1\nname = \"keyed\"\n\n[nodes.make]\nstep = \"test.keyed\"\nwith = {{ text = \"{text}\" }}\n"
    )
}

fn things(project: &Project) -> Vec<String> {
    let entries = std::fs::read_dir(project.dir.path()).unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("thing-")).collect()
}

#[test]
fn what_a_plugin_that_can_not_look_may_have_made_is_not_called_undone() {
    let (project, made) = killed_after_its_effect();
    let undo = project.migrate(&["undo", "--yes"]);
    let named = format!("it has no `observe`; what it makes is named `{}`", &made[0]["thing-".len()..]);
    has(
        &undo,
        0,
        &[
            "left as it is: can't tell whether its last attempt had an effect",
            &named,
            "left as they are: make",
        ],
    );
    let is_undone = |line: &str| line.starts_with("make") && line.contains("undone");
    assert!(!text(&undo).lines().any(is_undone), "{}", text(&undo));
    assert_eq!(things(&project), made);
}

#[test]
fn nothing_is_made_beside_what_a_plugin_that_can_not_look_may_have_made() {
    let (project, made) = killed_after_its_effect();
    project.write("keyed.toml", &keyed("other"));
    has(
        &project.migrate(&["resume", "--accept-changes"]),
        1,
        &[
            "what became of an earlier attempt can't be told",
            &made[0]["thing-".len()..],
            "take the change back",
        ],
    );
    assert_eq!(things(&project), made);
    // Unchanged, it is made again under the same key, and nobody is asked.
    project.write("keyed.toml", &keyed("one"));
    has(&project.migrate(&["resume"]), 0, &["done"]);
    assert_eq!(things(&project), made);
}

#[test]
fn a_canary_that_a_plugin_gives_away_is_nowhere() {
    let project = Project::new();
    let mut said = Vec::new();
    for (items, exit) in [("3", 0), ("0", 1)] {
        project.write("items.toml", &WORKFLOW.replace("items = 3", &format!("items = {items}")));
        for json in [&["run", "items.toml"][..], &["run", "items.toml", "--json"]] {
            let output = project.migrate(json);
            assert_eq!(output.status.code(), Some(exit), "{}", text(&output));
            said.push(text(&output));
        }
    }
    for args in [&["logs", "--level", "debug"][..], &["logs", "--json"], &["status"], &["status", "--json"]] {
        said.push(text(&project.migrate(args)));
    }
    let all = said.join("\n");
    assert!(all.contains("the token is (secret)") && all.contains("stderr has (secret)"), "{all}");
    assert!(all.contains("failed with (secret)"), "{all}");
    assert!(!all.contains(CANARY), "{all}");
    for entry in std::fs::read_dir(project.path(".migrate")).unwrap().flatten() {
        if entry.path().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "{}", entry.path().display());
        }
    }
}

#[test]
fn a_changed_plugin_is_a_changed_step() {
    let project = Project::new();
    project.write(
        "items.toml",
        &format!("{WORKFLOW}\n[nodes.again]\nstep = \"test.items\"\nneeds = [\"copy\"]\nwith = {{ items = -1, token = \"file:absent\" }}\n"),
    );
    has(&project.migrate(&["run", "items.toml"]), 1, &[]);
    let mut text = std::fs::read_to_string(project.plugin()).unwrap();
    text.push_str("# changed\n");
    std::fs::write(project.plugin(), text).unwrap();
    has(&project.migrate(&["resume"]), 3, &["step version", "nothing was touched"]);
}

#[test]
fn another_file_than_the_pinned_one_is_refused() {
    let project = Project::new();
    let pin = format!(
        "schema = 1\n[plugins.\"test.items\"]\npath = \"plugins/migrate-step-test.items\"\nsha256 = \"{}\"\n",
        "0".repeat(64)
    );
    project.write("migration.toml", &pin);
    has(
        &project.migrate(&["plan", "items.toml"]),
        3,
        &["is pinned", "help: look at what has changed in the file"],
    );
    // What asks no step is not kept from working.
    has(&project.migrate(&["runs"]), 0, &[]);
}

#[test]
fn a_plugin_that_can_not_be_used_is_told_before_anything_is_touched() {
    let project = Project::new();
    std::fs::write(project.plugin(), "#!/bin/sh\necho no python here >&2\nexit 3\n").unwrap();
    for command in
        [&["validate", "items.toml", "--json"][..], &["plan", "items.toml"], &["run", "items.toml"]]
    {
        has(
            &project.migrate(command),
            3,
            &["plugin `test.items` ended with exit code 3 before it answered `initialize`", "no python here"],
        );
    }
    assert!(!project.path("items").exists());
    // Others are not concerned.
    project.write(
        "other.toml",
        "schema = 1\nname = \"other\"\n\n[nodes.say]\nstep = \"exec\"\nwith = { command = [\"true\"] }\n",
    );
    has(&project.migrate(&["validate", "other.toml"]), 0, &["are valid"]);
    has(&project.migrate(&["run", "other.toml"]), 0, &[]);
}

/// Its author marked the field by the format, or by the pattern of old.
#[test]
fn a_secret_that_was_pasted_into_a_plugins_config_is_nowhere() {
    let project = Project::new();
    let whole = std::fs::read_to_string(project.plugin()).unwrap();
    let old = whole.replace("\"format\": \"secret-reference\"", "\"pattern\": \"^(env|file):.+\"");
    assert_ne!(whole, old);
    let pasted = WORKFLOW.replace("env:ITEMS_TOKEN", CANARY);
    let referred = WORKFLOW.replace("env:ITEMS_TOKEN", "${env.items.token}");
    let site = format!("schema = 1\n[items]\ntoken = \"{CANARY}\"\n");
    for plugin in [whole, old] {
        std::fs::write(project.plugin(), plugin).unwrap();
        for (workflow, site) in [(&pasted, "schema = 1\n"), (&referred, &site)] {
            project.write("items.toml", workflow);
            project.write("migration.toml", site);
            for args in [
                &["validate", "items.toml"][..],
                &["validate", "items.toml", "--json"],
                &["run", "items.toml"],
            ] {
                let output = project.migrate(args);
                has(&output, 3, &["not a secret reference"]);
                assert!(!text(&output).contains(CANARY), "{}", text(&output));
            }
        }
    }
    assert!(!project.path(".migrate").join("state.db").exists());
}

/// What a plugin has made is not given up because the plugin can't be used today.
#[test]
fn an_undo_without_its_plugin_changes_nothing_and_goes_on_when_it_is_back() {
    let project = Project::new();
    let whole = std::fs::read_to_string(project.plugin()).unwrap();
    let whole = whole
        .replace("\"idempotency\": \"keyed\",", "\"idempotency\": \"keyed\", \"supports_undo\": True,")
        .replace(
            "    \"verify\": verify,",
            "    \"verify\": verify,\n    \"undo\": lambda params: os.remove(path(params)) or {},",
        );
    let install = |text: &str, mode: u32| {
        std::fs::write(project.plugin(), text).unwrap();
        std::fs::set_permissions(project.plugin(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    install(&whole, 0o755);
    has(&project.migrate(&["run", "items.toml"]), 0, &["done"]);
    for (text, mode, why) in [
        (&*whole, 0o644, "`copy`: "),
        ("#!/bin/sh\nexit 3\n", 0o755, "`copy`: step `test.items` can't be used: "),
    ] {
        install(text, mode);
        has(&project.migrate(&["undo"]), 0, &["can't be undone now: "]);
        let refused = project.migrate(&["undo", "--yes"]);
        has(&refused, 1, &["can't be undone now", why, "nothing was changed", "--leave copy"]);
        has(&project.migrate(&["status"]), 0, &["done"]);
        assert!(project.path("items").exists());
    }
    install(&whole, 0o755);
    has(
        &project.migrate(&["undo", "--yes", "--leave", "copy"]),
        2,
        &["nothing keeps `copy` from being undone"],
    );
    has(&project.migrate(&["undo", "--yes"]), 0, &["the run is undone"]);
    assert!(!project.path("items").exists());
    // Only when a person says so is it left.
    has(&project.migrate(&["run", "items.toml"]), 0, &["done"]);
    std::fs::remove_file(project.plugin()).unwrap();
    let left = project.migrate(&["undo", "--yes", "--leave", "copy"]);
    has(&left, 0, &["left as they are: copy", "as asked for: there is no step `test.items` any more"]);
    assert!(project.path("items").exists());
}

#[test]
fn the_suite_says_what_is_right_and_what_to_mend() {
    let project = Project::new();
    let plugin = project.plugin().display().to_string();
    let output = project.migrate(&["plugin", "test", &plugin]);
    has(&output, 0, &["ok      initialize", " 0 failed"]);
    let document: Value =
        serde_json::from_slice(&project.migrate(&["plugin", "test", &plugin, "--json"]).stdout).unwrap();
    assert!(document["cases"].as_array().unwrap().len() >= 40);
    let mended =
        std::fs::read_to_string(project.plugin()).unwrap().replace("if not line.strip()", "if False");
    std::fs::write(project.plugin(), mended).unwrap();
    let output = project.migrate(&["plugin", "test", &plugin]);
    has(&output, 1, &["FAILED  line-empty", "mend: skip lines that are empty"]);
}

/// Tests a built-in step, served by this program over the plugin protocol.
fn tested(project: &Project, step: &str, options: &[&str]) -> (i32, Value) {
    let program = env!("CARGO_BIN_EXE_migrate");
    let args = [&["plugin", "test", program, "--json"], options, &["--", "plugin", "serve", step]].concat();
    let output = project.migrate(&args);
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    (output.status.code().unwrap_or(-1), document)
}

/// Cases whose result depends on the step. The others depend on what serves it, which is the same for all.
const OF_THE_STEP: &[&str] = &[
    "describe",
    "describe-name",
    "describe-summary",
    "describe-twice",
    "config-schema",
    "output-schema",
    "config-examples",
    "sensitive",
    "plan-unknown",
    "plan-stores-nothing",
    "plan-without-params",
    "plan-of-no-object",
    "observe-of-no-object",
    "verify-without-params",
];

#[test]
fn every_built_in_step_passes_the_suite_out_of_process() {
    let project = Project::new();
    let list: Value = serde_json::from_slice(&project.migrate(&["steps", "--json"]).stdout).unwrap();
    let names = list["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap());
    // What the engine does itself, and the plugin that is tested by itself.
    let names: Vec<&str> = names.filter(|name| !["gate", "test.items"].contains(name)).collect();
    assert!(names.len() >= 14, "{names:?}");
    let options: Vec<&str> = OF_THE_STEP.iter().flat_map(|case| ["--case", case]).collect();
    let next = std::sync::Mutex::new(names.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some(step) = next.lock().unwrap().next() else { return };
                    let (exit, document) = tested(&project, step, &options);
                    let cases = document["cases"].as_array().unwrap();
                    let failed: Vec<_> = cases.iter().filter(|case| case["outcome"] == "failed").collect();
                    assert_eq!(
                        (exit, failed.len(), cases.len()),
                        (0, 0, OF_THE_STEP.len()),
                        "{step}: {failed:?}"
                    );
                }
            });
        }
    });
}

#[test]
fn a_built_in_step_passes_the_whole_suite_out_of_process() {
    let project = Project::new();
    let (exit, document) = tested(&project, "exec", &["--with", "{\"command\":[\"true\"]}"]);
    assert_eq!(exit, 0, "{document}");
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() >= 40, "{}", cases.len());
    let apply = cases.iter().find(|case| case["case"] == "apply").unwrap();
    assert_eq!(apply["outcome"], "passed");
}
