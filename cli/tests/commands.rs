//! What a person sees: stdout, stderr and the exit code of each command that needs no cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `migrate ARGS…` in `project`.
fn migrate(project: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .args(args)
        .current_dir(project)
        .env_remove("MIGRATE_PROJECT")
        .env("NO_COLOR", "1")
        .output()
        .expect("migrate starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!(
        "exit {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code().expect("an exit code"),
        text(&output.stdout),
        text(&output.stderr)
    )
}

fn project() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A project with nothing in its file.
fn empty() -> tempfile::TempDir {
    let project = project();
    fs::write(project.path().join("migration.toml"), "schema = 1\n").expect("written");
    project
}

/// Who looks in the wrong folder is told so by every command that is about a project.
#[test]
fn a_wrong_folder_is_told() {
    let project = project();
    let commands: [&[&str]; 9] = [
        &["status"],
        &["runs"],
        &["logs"],
        &["resume"],
        &["verify"],
        &["undo"],
        &["approve", "cutover"],
        &["plan"],
        &["plan", "stateful"],
    ];
    for command in commands {
        assert_eq!(
            migrate(project.path(), command),
            "exit 3\n--- stdout\n\n--- stderr\nerror: there is no ./migration.toml\n  help: run in the folder of \
             migration.toml, or name it: migrate -C DIR …",
            "{command:?}"
        );
    }
    for command in commands.into_iter().chain([&["validate", "stateful"][..], &["run", "stateful"]]) {
        let said = migrate(project.path(), &[&["-C", "nowhere"], command].concat());
        assert!(said.starts_with("exit 3\n"), "{command:?}: {said}");
        assert!(said.contains("there is no folder nowhere") && said.contains("migrate -C DIR"), "{said}");
    }
    assert!(migrate(project.path(), &["-C", "nowhere", "steps"]).starts_with("exit 0"));
}

#[test]
fn what_isnt_read_to_its_end_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_migrate"));
    let status = command.arg("schema").stdout(writer).status().expect("migrate starts");
    assert_eq!(status.code(), Some(0));
}

/// Nothing was started, and nothing says so; the next command finds no run.
#[test]
fn a_run_that_preflight_refuses_is_none() {
    let project = project();
    let workflow = r#"schema = 1
name = "look"

[nodes.look]
step = "smoke.test"
with = { cluster = "${env.cluster}", checks = [{ name = "a", tcp = { namespace = "a", service = "a", port = 1 } }] }
"#;
    let site = "schema = 1\n[cluster]\nkubeconfig = \"nowhere\"\ncontext = \"eks\"\n";
    fs::write(project.path().join("look.toml"), workflow).expect("written");
    fs::write(project.path().join("migration.toml"), site).expect("written");
    let said = migrate(project.path(), &["run", "look.toml"]);
    assert!(said.starts_with("exit 3\n") && said.contains("checking look: 1 node, reading only"), "{said}");
    assert!(!said.contains("starting run"), "{said}");
    assert!(said.contains("failed to read kubeconfig") && !said.contains("'\""), "{said}");
    let json = migrate(project.path(), &["run", "look.toml", "--json"]);
    assert!(!json.contains("run-started") && json.contains("\"refused\""), "{json}");
    assert!(migrate(project.path(), &["status"]).contains("this project has no run yet"));
}

/// Whatever a person tries first: a run is named by its place or by `--run`, in every command.
#[test]
fn a_run_is_named_with_and_without_its_option() {
    let project = rewriting();
    let ran = migrate(project.path(), &["run", "rewrite.toml"]);
    let run = ran.split_whitespace().skip_while(|word| *word != "run").nth(1).expect("a run").to_owned();
    let run = run.trim_end_matches(':');
    let commands: [&[&str]; 7] =
        [&["status"], &["logs"], &["logs", "second"], &["plan"], &["verify"], &["undo"], &["resume"]];
    for command in commands {
        let with = migrate(project.path(), &[command, &["--run", run]].concat());
        assert!(
            with.starts_with("exit 0") && with.contains(run) || command[0] == "logs",
            "{command:?}: {with}"
        );
        if command.len() == 1 {
            let without = migrate(project.path(), &[command, &[run]].concat());
            assert!(without.starts_with("exit 0"), "{command:?}: {without}");
        }
        let unknown = migrate(project.path(), &[command, &["--run", "20200101-000000-abcd"]].concat());
        assert!(unknown.contains("there is no run `20200101-000000-abcd`"), "{command:?}: {unknown}");
    }
    let unknown = migrate(project.path(), &["approve", "first", "20200101-000000-abcd"]);
    assert!(unknown.contains("there is no run `20200101-000000-abcd`"), "{unknown}");
}

#[test]
fn the_shipped_workflow_is_named_as_what_it_is() {
    let project = empty();
    let said = migrate(project.path(), &["validate", "stateful", "--json"]);
    assert!(said.contains("<shipped workflow stateful>:") && !said.contains("/shipped"), "{said}");
    assert!(said.contains(r#""file":"<shipped workflow stateful>""#), "{said}");
}

#[test]
fn what_a_valid_workflow_still_needs_is_noted() {
    let project = project();
    let site = "schema = 1\n[stoer]\nurl = \"env:X\"\n[smoke]\n";
    fs::write(project.path().join("migration.toml"), site).expect("written");
    let workflow = "schema = 1\nname = \"w\"\n[params.to]\ntype = \"string\"\n[nodes.a]\nstep = \"manifest.rewrite\"\nwith = { from = \"in\", to = \"${params.to}\" }\n";
    fs::write(project.path().join("w.toml"), workflow).expect("written");
    insta::assert_snapshot!(migrate(project.path(), &["validate", "w.toml"]), @r"
    exit 0
    --- stdout

    --- stderr
    note: `to` isn't given; a run needs it: --param to=…
    note: no node refers to `stoer` of migration.toml; did you mean `store`?
    w.toml and ./migration.toml are valid
    ");
}

#[test]
fn the_engines_own_steps_lead_to_where_they_are_told_about() {
    for step in ["workflow", "gate"] {
        let said = migrate(project().path(), &["steps", step]);
        assert!(said.starts_with("exit 0") && said.contains("docs/workflow.md"), "{said}");
    }
}

#[test]
fn steps_are_listed() {
    insta::assert_snapshot!(migrate(project().path(), &["steps"]));
}

#[test]
fn a_step_is_shown_with_its_fields() {
    insta::assert_snapshot!(migrate(project().path(), &["steps", "storage-class.map"]));
}

#[test]
fn an_unknown_step_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["steps", "storage-class.mop"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: there is no step `storage-class.mop` (did you mean `storage-class.map`?); `migrate steps` lists them
    ");
}

#[test]
fn a_project_without_its_file_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["run", "stateful"]), @r"
    exit 3
    --- stdout

    --- stderr
    error: there is no ./migration.toml
      help: run in the folder of migration.toml, or name it: migrate -C DIR …
    ");
}

#[test]
fn an_unknown_workflow_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["validate", "statefull"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: there is no workflow `statefull` (did you mean `stateful`?): neither a file nor one of stateful, stateless
    ");
}

#[test]
fn a_parameter_without_a_value_is_told() {
    insta::assert_snapshot!(migrate(project().path(), &["validate", "stateful", "--param", "namespaces"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: --param namespaces: write NAME=VALUE
    ");
}

#[test]
fn a_project_without_runs_is_told() {
    insta::assert_snapshot!(migrate(empty().path(), &["status"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: this project has no run yet
      help: start one: migrate run WORKFLOW
    ");
}

#[test]
fn every_mistake_of_a_file_is_shown_at_once() {
    let project = project();
    let workflow = r#"schema = 1
name = "broken"

[nodes.inventory]
step = "assess.clustre"
with = {}

[nodes.backup]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${params.namespace}" }
timeuot = "6h"
"#;
    fs::write(project.path().join("broken.toml"), workflow).expect("written");
    insta::assert_snapshot!(migrate(project.path(), &["validate", "broken.toml"]));
}

#[test]
fn a_reader_that_went_away_costs_no_exit_code() {
    let project = empty();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_migrate"))
        .arg("status")
        .current_dir(project.path())
        .env_remove("MIGRATE_PROJECT")
        .stderr(writer)
        .status()
        .expect("migrate starts");
    assert_eq!(status.code(), Some(2));
}

#[test]
fn the_way_on_that_the_engine_names_is_a_command() {
    insta::assert_snapshot!(migrate(empty().path(), &["resume", "20260131-235959-3f9a", "--rerun", "pay"]), @r"
    exit 2
    --- stdout

    --- stderr
    error: this project has no run yet
      help: start one: migrate run WORKFLOW
    ");
}

/// What a person sees of a gate, from the first run to the end.
#[test]
fn a_gate_from_the_run_to_its_end() {
    let project = project();
    let workflow = r#"schema = 1
name = "cutover"

[nodes.ready]
step = "gate"
with = { message = "Switch the shop over?", approvers = "the shop team" }
"#;
    fs::write(project.path().join("cutover.toml"), workflow).expect("written");
    fs::write(project.path().join("migration.toml"), "schema = 1\n").expect("written");
    let mut seen = Vec::new();
    for args in [
        &["run", "cutover.toml"][..],
        &["approve", "ready", "--note", "counts are equal"],
        &["approve", "ready", "--reject"],
        &["resume"],
        &["resume"],
        &["approve", "ready"],
        &["undo"],
        &["undo", "--yes"],
        &["resume"],
    ] {
        seen.push(format!("$ migrate {}\n{}", args.join(" "), migrate(project.path(), args)));
    }
    insta::assert_snapshot!(plain(&seen.join("\n\n")));
}

/// `text` with `RUN` in the place of every run's ID.
fn without_runs(text: &str) -> String {
    let is_run = |word: &str| {
        let parts: Vec<usize> = word.split('-').map(str::len).collect();
        parts == [8, 6, 4]
    };
    let (mut out, mut word) = (String::new(), String::new());
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() || c == '-' {
            word.push(c);
            continue;
        }
        out.push_str(if is_run(&word) { "RUN" } else { &word });
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// `text` without what differs from machine to machine and from run to run: names, times, widths.
fn plain(text: &str) -> String {
    without_runs(text).lines().map(plain_line).collect::<Vec<_>>().join("\n")
}

fn plain_line(line: &str) -> String {
    let word = |word: &str| match word.split_once('@') {
        Some((_, host)) => format!("USER@HOST{}", &host[host.find(':').unwrap_or(host.len())..]),
        None if word.contains('.') && word.parse::<f64>().is_ok() => "0.0".to_owned(),
        None => word.to_owned(),
    };
    line.split(' ').filter(|part| !part.is_empty()).map(word).collect::<Vec<_>>().join(" ")
}

/// A second `migrate run stateful`, perhaps of a newer version, must leave alone what the first runs.
#[test]
fn a_refused_run_writes_nothing() {
    let project = project();
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("read");
    let site = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    fs::write(project.path().join("migration.toml"), site).expect("written");
    let state = project.path().join(".migrate");
    fs::create_dir(&state).expect("made");
    let lock = fs::File::create(state.join("lock")).expect("made");
    lock.lock().expect("locked");
    let said = migrate(project.path(), &["run", "stateful", "--param", "namespaces=shop"]);
    assert!(said.starts_with("exit 6\n"), "{said}");
    let left: Vec<_> =
        fs::read_dir(&state).expect("read").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["lock"]);
}

/// A workflow that needs no cluster: manifests are rewritten from folder to folder.
const REWRITE: &str = r#"schema = 1
name = "rewrite"

[params.to]
type = "string"
default = "out"

[nodes.first]
step = "manifest.rewrite"
with = { from = "in", to = "${params.to}", rename-images = [{ from = "a.example", to = "${env.registry}" }] }

[nodes.second]
step = "manifest.rewrite"
with = { from = "${nodes.first.directory}", to = "again" }
"#;

const MANIFEST: &str = "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: a\n    image: a.example/shop:1\n";

fn rewriting() -> tempfile::TempDir {
    let project = project();
    let path = |name: &str| project.path().join(name);
    fs::create_dir(path("in")).expect("made");
    fs::write(path("in/pod.yaml"), MANIFEST).expect("written");
    fs::write(path("rewrite.toml"), REWRITE).expect("written");
    fs::write(path("migration.toml"), "schema = 1\nregistry = \"b.example\"\n").expect("written");
    project
}

/// Runs a command; what it says, without what differs from run to run.
fn shown(project: &Path, args: &[&str]) -> String {
    without_runs(&migrate(project, args))
}

#[test]
fn a_run_is_planned_resumed_listed_and_told() {
    let project = rewriting();
    let ran = migrate(project.path(), &["run", "rewrite.toml"]);
    assert!(ran.starts_with("exit 0"), "{ran}");
    insta::assert_snapshot!("plan_of_a_done_run", shown(project.path(), &["plan"]));
    insta::assert_snapshot!("plan_from_a_node", shown(project.path(), &["plan", "--from", "second"]));
    fs::write(project.path().join("migration.toml"), "schema = 1\nregistry = \"c.example\"\n")
        .expect("written");
    insta::assert_snapshot!("plan_of_a_changed_run", shown(project.path(), &["plan", "--rerun", "second"]));
    insta::assert_snapshot!(
        "resume_of_a_changed_run",
        shown(project.path(), &["resume", "--rerun", "second"])
    );
    insta::assert_snapshot!(
        "resume_from_an_unknown_node",
        shown(project.path(), &["resume", "--from", "secnd"])
    );
    let runs = migrate(project.path(), &["runs"]);
    assert!(runs.contains("rewrite   done") && runs.contains("STARTED"), "{runs}");
    let logs = migrate(project.path(), &["logs", "second"]);
    let told = ["attempt 1 of manifest.rewrite begins", "applied", "finished in"];
    assert!(told.iter().all(|line| logs.contains(line)) && !logs.contains(" first:"), "{logs}");
    let followed = migrate(project.path(), &["logs", "--follow", "--json"]);
    assert!(followed.contains(r#""type":"ended""#), "{followed}");
}

/// The way out that is printed does what it says, also of a run that is done.
#[test]
fn a_done_run_whose_files_have_changed_goes_on_when_that_is_accepted() {
    let project = rewriting();
    let project = project.path();
    let run = first_run(&says(project, "exit 0", &["run", "rewrite.toml"], &[]));
    let resume = ["resume", &run, "--param", "to=other place"];
    let way = format!("migrate resume {run} --param 'to=other place' --accept-changes");
    says(project, "exit 3", &resume, &[&way]);
    says(project, "exit 0", &[&resume[..], &["--accept-changes"]].concat(), &[]);
    assert!(project.join("other place/pod.yaml").exists(), "the parameter counts");
    says(project, "exit 0", &["resume", &run], &["there is nothing to resume"]);
    fs::write(project.join("migration.toml"), "schema = 1\nregistry = \"c.example\"\n").expect("written");
    says(project, "exit 3", &["resume", &run], &[&format!("migrate resume {run} --accept-changes")]);
    says(project, "exit 0", &["resume", &run, "--accept-changes"], &[]);
    let made = fs::read_to_string(project.join("other place/pod.yaml")).expect("made");
    assert!(made.contains("c.example"), "{made}");
    // What is not done twice unasked is named with it.
    let touch =
        |name: &str| format!("[nodes.a]\nstep = \"exec\"\nwith = {{ command = [\"touch\", \"{name}\"] }}\n");
    workflow(project, "touch", &touch("one"));
    let run = first_run(&says(project, "exit 0", &["run", "touch.toml"], &[]));
    workflow(project, "touch", &touch("two"));
    let way = format!("migrate resume {run} --accept-changes --rerun a");
    says(project, "exit 3", &["plan", &run], &[&way]);
    says(project, "exit 0", &["resume", &run, "--accept-changes", "--rerun", "a"], &[]);
    assert!(project.join("two").exists());
}

/// What scripts read: each line an object with a version and a type, and nothing else on stdout.
#[test]
fn every_json_document_has_a_version_and_a_type() {
    let project = rewriting();
    let expect = |args: &[&str], exit: i32, last: &str| -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
            .args(args)
            .arg("--json")
            .current_dir(project.path())
            .env_remove("MIGRATE_PROJECT")
            .output()
            .expect("migrate starts");
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
        assert!(lines.iter().all(|line| line["version"] == 1 && line["type"].is_string()), "{text}");
        let end = lines.last().expect("a document").clone();
        assert_eq!(end["type"], last, "{args:?}: {text}");
        end
    };
    expect(&["status"], 2, "error");
    expect(&["validate", "rewrite.toml"], 0, "valid");
    expect(&["plan", "rewrite.toml"], 0, "plan");
    expect(&["steps"], 0, "steps");
    expect(&["steps", "manifest.rewrite"], 0, "step");
    let report = expect(&["run", "rewrite.toml"], 0, "report");
    assert_eq!(report["report"]["state"], "done");
    expect(&["status"], 0, "status");
    expect(&["runs"], 0, "runs");
    expect(&["plan"], 0, "resume-plan");
    assert_eq!(expect(&["resume"], 0, "report")["report"]["state"], "done");
    fs::write(project.path().join("migration.toml"), "schema = 1\nregistry = \"c.example\"\n")
        .expect("written");
    let changed = expect(&["resume", "--rerun", "second"], 3, "error");
    assert_eq!(changed["code"], "changed");
    assert_eq!(changed["changes"]["nodes"][0]["fields"][0]["now"], "c.example");
    fs::remove_dir_all(project.path().join("in")).expect("removed");
    assert_eq!(expect(&["run", "rewrite.toml"], 1, "report")["report"]["state"], "failed");
    let broken = REWRITE.replace("to = \"again\"", "too = \"again\"");
    fs::write(project.path().join("rewrite.toml"), broken).expect("written");
    let invalid = expect(&["run", "rewrite.toml"], 3, "error");
    assert_eq!((&invalid["code"], &invalid["exit"]), (&"invalid".into(), &3.into()));
    let mistakes = invalid["mistakes"].as_array().expect("mistakes");
    let unknown = mistakes.iter().find(|mistake| mistake["code"] == "unknown-field").expect("told");
    assert_eq!((&unknown["line"], &unknown["label"]), (&14.into(), &"did you mean `to`?".into()));
    assert!(unknown["file"].as_str().is_some_and(|file| file.ends_with("rewrite.toml")));
}

#[test]
fn parameters_come_from_files_and_the_command_line_goes_before_them() {
    let project = rewriting();
    fs::write(project.path().join("params.toml"), "to = 3\n").expect("written");
    insta::assert_snapshot!(shown(
        project.path(),
        &["validate", "rewrite.toml", "--param-file", "params.toml"]
    ));
    let right =
        migrate(project.path(), &["validate", "rewrite.toml", "--param-file", "params.toml", "-p", "to=x"]);
    assert!(right.starts_with("exit 0"), "{right}");
}

/// A shipped workflow, as a part of one's own: its nodes are checked with what it is given.
#[test]
fn a_shipped_workflow_is_part_of_another() {
    let project = project();
    let workflow = |file: &str| {
        let nodes = format!(
            "[nodes.move]\nstep = \"workflow\"\nwith = {{ file = \"{file}\", params = {{ namespaces = [\"shop\"] }} }}\n\
             [nodes.go]\nstep = \"gate\"\nneeds = [\"move\"]\nwith = {{ message = \"Switch over?\" }}\n"
        );
        fs::write(project.path().join("own.toml"), format!("schema = 1\nname = \"own\"\n{nodes}"))
            .expect("written");
        migrate(project.path(), &["validate", "own.toml"])
    };
    insta::assert_snapshot!(workflow("stateless"), @r"
    exit 0
    --- stdout

    --- stderr
    own.toml is valid; there is no ./migration.toml to check it with
    ");
    insta::assert_snapshot!("an_unknown_workflow_as_a_part", workflow("stateles"));
}

/// A gate for each item of a list: which of them wait, and how they are answered.
#[test]
fn gates_of_a_list_from_the_run_to_its_end() {
    let project = project();
    let workflow = "schema = 1\nname = \"cutover\"\n[nodes.go]\nstep = \"gate\"\nfor_each = [\"shop\", \"mail\"]\n\
                    with = { message = \"Switch ${each.value} over?\" }\n";
    fs::write(project.path().join("cutover.toml"), workflow).expect("written");
    fs::write(project.path().join("migration.toml"), "schema = 1\n").expect("written");
    let mut seen = Vec::new();
    for args in [
        &["run", "cutover.toml"][..],
        &["approve", "go"],
        &["approve", "go[shop]"],
        &["plan"],
        &["resume"],
        &["approve", "go[mail]", "--reject", "--note", "not yet"],
        &["plan"],
        &["resume"],
        &["plan"],
    ] {
        seen.push(format!("$ migrate {}\n{}", args.join(" "), migrate(project.path(), args)));
    }
    insta::assert_snapshot!(plain(&seen.join("\n\n")));
}

/// What the run was started with is known, and what lies where a person happens to stand is not it.
#[test]
fn a_run_whose_workflow_is_gone_goes_on_with_its_own() {
    let folder = project();
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    let sub = |made: &str| {
        format!(
            "schema = 1\nname = \"sub\"\n[nodes.make]\nstep = \"exec\"\nwith = {{ command = [\"touch\", \"{made}\"] }}\n"
        )
    };
    let top = "schema = 1\nname = \"top\"\n[nodes.first]\nstep = \"exec\"\nwith = { command = [\"test\", \"-e\", \"go\"] }\n\
               [nodes.sub]\nstep = \"workflow\"\nneeds = [\"first\"]\nwith = { file = \"sub.toml\" }\n";
    for gone in [&["top.toml"][..], &["top.toml", "sub.toml"]] {
        for (dir, made) in [(&own, "right"), (&other, "wrong")] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir(dir).expect("made");
            fs::write(dir.join("migration.toml"), "schema = 1\n").expect("written");
            fs::write(dir.join("sub.toml"), sub(made)).expect("written");
        }
        fs::write(own.join("top.toml"), top).expect("written");
        let said = migrate(&own, &["run", "top.toml"]);
        assert!(said.starts_with("exit 1"), "{said}");
        gone.iter().for_each(|name| fs::remove_file(own.join(name)).expect("removed"));
        fs::write(own.join("go"), "").expect("written");
        let said = migrate(&other, &["-C", "../own", "resume", "--rerun", "first"]);
        assert!(said.starts_with("exit 0"), "without {gone:?}: {said}");
        assert!(own.join("right").exists() && !own.join("wrong").exists() && !other.join("wrong").exists());
    }
}

const GATE: &str = "[nodes.go]\nstep = \"gate\"\nwith = { message = \"On?\", approvers = \"ada\" }\n";

fn workflow(project: &Path, name: &str, nodes: &str) -> String {
    let file = format!("{name}.toml");
    fs::write(project.join(&file), format!("schema = 1\nname = \"{name}\"\n{nodes}")).expect("written");
    file
}

/// `migrate ARGS…` must end with `exit` and say all of `told`.
#[track_caller]
fn says(project: &Path, exit: &str, args: &[&str], told: &[&str]) -> String {
    let said = migrate(project, args);
    assert!(said.starts_with(exit) && told.iter().all(|told| said.contains(told)), "{args:?}: {said}");
    said
}

/// The run that is named first.
fn first_run(said: &str) -> String {
    let run = said.split_whitespace().skip_while(|word| *word != "run").nth(1).expect("a run");
    run.trim_end_matches(':').to_owned()
}

/// A run of `nodes` beside one that works as long as this lives.
struct Living {
    project: std::path::PathBuf,
    run: std::process::Child,
}

impl Living {
    fn begin(project: &Path, nodes: &str) -> Self {
        const HOLD: &str = "[nodes.hold]\nstep = \"exec\"\n\
            with = { command = [\"sh\", \"-c\", \"touch started; while test -e hold; do sleep 0.02; done\"] }\n";
        fs::write(project.join("hold"), "").expect("written");
        let file = workflow(project, "living", &format!("{HOLD}{nodes}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_migrate"));
        command.args(["run", &file]).current_dir(project).env_remove("MIGRATE_PROJECT");
        let run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("migrate starts");
        let living = Self { project: project.to_owned(), run };
        living.wait_for("started", || project.join("started").exists());
        living
    }

    fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(mut self) -> Option<i32> {
        fs::remove_file(self.project.join("hold")).expect("removed");
        self.run.wait().expect("it ends").code()
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.project.join("hold"));
        let _ = self.run.wait();
    }
}

/// An answer stands, and what is undone is gone.
#[test]
fn a_decision_that_could_be_about_several_runs_must_say_which() {
    let project = empty();
    let project = project.path();
    let w = workflow(project, "w", GATE);
    let first = first_run(&says(project, "exit 4", &["run", &w], &["waiting for a decision"]));
    let begins = format!("note: this begins another; run {first} of w is not finished");
    says(project, "exit 4", &["run", &w], &[&begins, &format!("migrate resume {first}")]);
    let asked = ["gate `go` is not passed in 2 runs", &first, "migrate approve go --run 2"];
    says(project, "exit 2", &["approve", "go"], &asked);
    says(project, "exit 0", &["status"], &["On? (for ada)"]);
    says(project, "exit 0", &["approve", "go", "--run", &first], &[&first, "it asked: On? (for ada)"]);
    says(project, "exit 0", &["undo"], &["the newest; not finished either:", &first]);
}

/// The newest run is not always the one that is meant.
#[test]
fn a_decision_is_about_the_run_that_asks_and_not_about_the_one_that_lives() {
    let project = empty();
    let project = project.path();
    let waits = first_run(&says(project, "exit 4", &["run", &workflow(project, "w", GATE)], &[]));
    let living = Living::begin(project, GATE);
    living.wait_for("its question", || migrate(project, &["status"]).contains("On? (for ada)"));
    says(project, "exit 2", &["approve", "go"], &["gate `go` is not passed in 2 runs", &waits]);
    says(project, "exit 0", &["status"], &["On? (for ada)"]);
    says(project, "exit 0", &["approve", "go", "--run", &waits], &[&waits]);
    let said =
        says(project, "exit 0", &["approve", "go"], &["it asked: On?", "it is taken up within seconds"]);
    assert!(!said.contains(&waits), "{said}");
    living.wait_for("its answer", || !migrate(project, &["status"]).contains("On? (for ada)"));
    assert_eq!(living.end(), Some(0));
}

/// Who answers too early, or after another, must not open the gate of a run that was forgotten.
#[test]
fn a_decision_is_not_about_an_older_run_while_a_newer_one_has_its_gate_ahead() {
    let project = empty();
    let project = project.path();
    let waits = first_run(&says(project, "exit 4", &["run", &workflow(project, "w", GATE)], &[]));
    let living = Living::begin(project, &format!("{GATE}needs = [\"hold\"]\n"));
    says(project, "exit 2", &["approve", "go"], &["gate `go` is not passed in 2 runs", &waits]);
    assert_eq!(living.end(), Some(4));
    let newest = first_run(&says(project, "exit 0", &["status"], &["On? (for ada)"]));
    says(project, "exit 0", &["approve", "go", "--run", &newest], &[&newest]);
    for early in [&["approve", "go"][..], &["approve", "go", "--reject"]] {
        says(project, "exit 2", early, &["gate `go` is not passed in 2 runs", &waits]);
    }
    says(project, "exit 0", &["resume"], &[&newest]);
    says(project, "exit 0", &["approve", "go"], &[&waits]);
}

#[test]
fn a_living_run_is_not_called_interrupted_by_who_verifies_it() {
    let project = empty();
    let living = Living::begin(project.path(), "");
    let said = says(project.path(), "exit 0", &["verify"], &["running"]);
    assert!(!said.contains("interrupted"), "{said}");
    assert_eq!(living.end(), Some(0));
}

#[test]
fn who_follows_a_run_ends_when_nobody_reads_it() {
    let project = empty();
    let living = Living::begin(project.path(), "");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut follow = Command::new(env!("CARGO_BIN_EXE_migrate"));
    follow.args(["logs", "--follow"]).current_dir(project.path()).env_remove("MIGRATE_PROJECT");
    let status = follow.stdout(writer).status().expect("migrate starts");
    assert_eq!(status.code(), Some(0));
    assert_eq!(living.end(), Some(0), "the run outlived it");
}

/// A script that resumes until it is told "done" must not be told it of another run.
#[test]
fn a_run_that_is_done_says_nothing_of_one_that_is_not() {
    let project = empty();
    let project = project.path();
    let fails = workflow(
        project,
        "fails",
        "[nodes.a]\nstep = \"exec\"\nwith = { command = [\"test\", \"-e\", \"go\"] }\n",
    );
    let passes = workflow(project, "passes", "[nodes.a]\nstep = \"exec\"\nwith = { command = [\"true\"] }\n");
    let failed = first_run(&says(project, "exit 1", &["run", &fails], &[]));
    let done = first_run(&says(project, "exit 0", &["run", &passes], &[]));
    says(project, "exit 2", &["resume"], &[&format!("run {done}, the newest, is done, but not {failed}")]);
    says(project, "exit 0", &["resume", &done], &["there is nothing to resume"]);
    fs::write(project.join("go"), "").expect("written");
    says(project, "exit 0", &["run", &fails], &["note: this begins another"]);
    // Who began it anew has given it up.
    says(project, "exit 0", &["resume"], &["there is nothing to resume"]);
}
