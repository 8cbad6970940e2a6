//! `exec` and `http` as a person uses them: changed, killed and resumed.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{PATIENCE, migrate, project, said, write};

/// A service that answers every request with 200, and the keys of all that it has seen.
fn service() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let keys = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&keys);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &seen);
        }
    });
    (port, keys)
}

fn answer(mut stream: TcpStream, keys: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("read");
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a number"),
            Some(("idempotency-key", key)) => keys.lock().expect("keys").push(key.to_owned()),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("read");
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn a_changed_request_is_not_sent_beside_one_that_may_have_had_its_effect() {
    let (port, keys) = service();
    let project = project();
    let project = project.path();
    let pay = |expect: &str| {
        let workflow = format!(
            "schema = 1\nname = \"pay\"\n\n[nodes.pay]\nstep = \"http\"\n\
             with = {{ method = \"POST\", url = \"http://127.0.0.1:{port}/\", json = {{ sum = 1 }}, \
             idempotency-key-header = \"Idempotency-Key\", expect = {{ status = [{expect}] }} }}\n"
        );
        write(project, "pay.toml", &workflow);
    };
    pay("201");
    let failed = migrate(project, &["run", "pay.toml"]).output().expect("it starts");
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    // It has been paid, and the answer was only another than expected.
    pay("200, 201");
    let changed = migrate(project, &["resume"]).output().expect("it starts");
    assert_eq!(changed.status.code(), Some(1), "{}", said(&changed));
    let told = said(&changed);
    assert!(told.contains("while an earlier attempt is at work outside: `pay-"), "{told}");
    assert!(told.contains("--rerun pay"), "{told}");
    // The same request joins the first one.
    pay("201");
    migrate(project, &["resume"]).output().expect("it starts");
    let keys = keys.lock().expect("keys").clone();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]), "{keys:?}");
}

#[test]
fn a_command_that_outlives_migrate_is_not_begun_beside_itself_whatever_its_stdin() {
    let project = project();
    let project = project.path();
    write(project, "dump", "");
    write(
        project,
        "restore.sh",
        "#!/bin/sh\necho $$ >>began\ntest $(wc -l <began) -gt 1 && exec touch restored\nexec sleep 1000 <dump\n",
    );
    fs::set_permissions(project.join("restore.sh"), fs::Permissions::from_mode(0o755)).expect("runnable");
    let workflow = "schema = 1\nname = \"restore\"\n\n[nodes.restore]\nstep = \"exec\"\nretry = { attempts = 1 }\n\
                    with = { command = [\"./restore.sh\"], observe = [\"test\", \"-e\", \"restored\"] }\n";
    write(project, "restore.toml", workflow);
    let mut run = migrate(project, &["run", "restore.toml"]);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let began = || fs::read_to_string(project.join("began")).unwrap_or_default();
    let command = || fs::read_to_string(format!("/proc/{}/comm", began().trim())).unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    let is_recorded = || {
        let files = fs::read_dir(project.join(".migrate/exec")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).any(|text| text.contains("\"began\""))
    };
    while command() != "sleep\n" || !is_recorded() {
        assert!(Instant::now() < deadline, "{}", began());
        std::thread::sleep(Duration::from_millis(5));
    }
    run.kill().expect("killed");
    run.wait().expect("waited for");

    let beside = migrate(project, &["resume"]).output().expect("it starts");
    let told = said(&beside);
    assert_eq!(began().lines().count(), 1, "{told}");
    assert!(told.contains("the command of an earlier attempt still runs"), "{told}");

    let orphan = Pid::from_raw(began().trim().parse().expect("a number")).expect("a process");
    kill_process(orphan, Signal::KILL).expect("killed");
    let is_over = |stat: String| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
    while !is_over(fs::read_to_string(format!("/proc/{}/stat", began().trim())).unwrap_or_default()) {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = migrate(project, &["resume"]).output().expect("it starts");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_eq!(began().lines().count(), 2);
}

/// Mended and taken up, it is not done again unasked: the way on must be told before.
#[test]
fn who_has_mended_a_command_is_told_how_it_runs_again() {
    let project = project();
    let project = project.path();
    write(
        project,
        "stop.toml",
        "schema = 1\nname = \"stop\"\n\n[nodes.stop]\nstep = \"exec\"\nwith = { command = [\"test\", \"-e\", \"mended\"] }\n",
    );
    let run = |args: &[&str], exit: i32| {
        let output = migrate(project, args).output().expect("it starts");
        assert_eq!(output.status.code(), Some(exit), "{}", said(&output));
        said(&output)
    };
    let told = run(&["run", "stop.toml"], 1);
    let help =
        told.lines().find(|line| line.starts_with("  help: if what was done can't be told")).expect(&told);
    let (_, command) = help.split_once("to do it again: migrate ").expect("a command");
    assert!(run(&["plan"], 0).contains(help), "{help}");
    write(project, "mended", "");
    assert!(run(&["resume"], 1).contains(help), "{help}");
    run(&command.split(' ').collect::<Vec<_>>(), 0);
}
