//! What a signal makes of a run: its exit code, and what there is to go on with.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{PATIENCE, in_project, migrate, project, write};

/// Runs until the file `hold` is gone.
const HOLDING: &str = "schema = 1\nname = \"holding\"\n\n[nodes.hold]\nstep = \"exec\"\n\
                       with = { command = [\"sh\", \"-c\", \"touch started; while test -e hold; do sleep 0.02; done\"] }\n";

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("sent");
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < PATIENCE, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `migrate resume` would go on with another: its exit code must not say "interrupted".
#[test]
fn a_run_that_is_stopped_in_its_preflight_is_none_and_says_so() {
    let project = project();
    let project = project.path();
    write(
        project,
        "older.toml",
        "schema = 1\nname = \"older\"\n[nodes.a]\nstep = \"exec\"\nwith = { command = [\"false\"] }\n",
    );
    let older = migrate(project, &["run", "older.toml"]).output().expect("migrate starts");
    assert_eq!(older.status.code(), Some(1), "{}", stderr(&older));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    write(
        project,
        "kubeconfig",
        &format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{ server: \"http://127.0.0.1:{port}\" }}\n\
             contexts:\n- name: c\n  context: {{ cluster: c, user: c }}\nusers:\n- name: c\n  user: {{}}\n"
        ),
    );
    write(
        project,
        "newer.toml",
        r#"schema = 1
name = "newer"

[nodes.look]
step = "smoke.test"
with = { cluster = { kubeconfig = "kubeconfig", context = "c" }, checks = [{ name = "web", http = { namespace = "n", service = "s", port = 80 } }] }
"#,
    );
    let (sender, asked) = mpsc::channel();
    // Whoever asks gets no answer.
    std::thread::spawn(move || sender.send(listener.accept()));
    let run = migrate(project, &["run", "newer.toml"]).spawn().expect("migrate starts");
    let _unanswered = asked.recv_timeout(PATIENCE).expect("the preflight asks");
    send(&run, Signal::INT);
    let output = run.wait_with_output().expect("it ends");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(8), "{said}");
    assert!(
        said.contains("stopped on request before the run began; there is nothing of it to resume"),
        "{said}"
    );
    let runs = migrate(project, &["runs"]).output().expect("migrate starts");
    let runs = String::from_utf8_lossy(&runs.stdout).into_owned();
    assert!(runs.contains("older") && !runs.contains("newer"), "{runs}");
}

#[test]
fn a_lost_terminal_stops_a_run_where_it_can_go_on() {
    let project = project();
    let project = project.path();
    write(project, "w.toml", HOLDING);
    write(project, "hold", "");
    // Whoever runs the tests under `nohup` doesn't run this under it.
    let mut heard = Command::new("env");
    heard.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_migrate")]);
    let run = in_project(heard, project, &["run", "w.toml"]).spawn().expect("migrate starts");
    wait_for(&project.join("started"));
    // From the kernel and from the shell.
    send(&run, Signal::HUP);
    send(&run, Signal::HUP);
    let output = run.wait_with_output().expect("it ends");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("stopped; go on with: migrate resume"), "{said}");
    assert!(!said.contains("at once\n"), "{said}");
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let project = project();
    let project = project.path();
    write(project, "w.toml", HOLDING);
    write(project, "hold", "");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_migrate")]);
    let run = in_project(shell, project, &["run", "w.toml"]).spawn().expect("a shell starts");
    wait_for(&project.join("started"));
    send(&run, Signal::HUP);
    fs::remove_file(project.join("hold")).expect("removed");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
