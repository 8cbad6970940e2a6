//! `docs/plugins/guide.md`, done as a new user would: its commands, in its order, in an empty folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// How long the half of the work may take that is waited for.
const WAIT: Duration = Duration::from_secs(60);

fn guide() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plugins/guide.md");
    fs::read_to_string(path).expect("the guide is there")
}

/// Code blocks of `language`, each with the name of a file that stands in the line before it.
fn blocks(language: &str) -> Vec<(String, String)> {
    let text = guide();
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = text.split(&fence).collect();
    let file = |before: &str| {
        before.trim_end().lines().last().unwrap_or_default().trim_matches(['`', ':']).to_owned()
    };
    let body = |after: &str| after.split("```").next().unwrap_or_default().to_owned();
    parts.windows(2).map(|pair| (file(pair[0]), body(pair[1]))).collect()
}

struct User {
    project: tempfile::TempDir,
}

impl User {
    fn command(&self, program: &str) -> Command {
        let program_dir = Path::new(env!("CARGO_BIN_EXE_migrate")).parent().unwrap().to_owned();
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(std::iter::once(program_dir).chain(std::env::split_paths(&old))).unwrap();
        let mut command = Command::new(program);
        command.current_dir(self.project.path()).env_remove("MIGRATE_PROJECT").env("PATH", path);
        command
    }

    fn types(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().unwrap()
    }

    fn must(&self, line: &str) -> String {
        let output = self.types(line);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        said
    }

    fn path(&self, file: &str) -> PathBuf {
        self.project.path().join(file)
    }
}

#[test]
fn a_new_user_gets_a_plugin_that_is_killed_and_goes_on_at_its_own_place() {
    let user = User { project: tempfile::tempdir().unwrap() };
    for (file, text) in blocks("toml") {
        fs::write(user.path(&file), text).unwrap();
    }
    let shell = blocks("sh");
    let lines: Vec<&str> = shell.iter().flat_map(|(_, body)| body.lines()).collect();
    let at = lines.iter().position(|line| line.contains("kill -9")).expect("the guide kills its run");
    assert!(at >= 8 && lines.len() > at + 2, "{lines:?}");
    for line in &lines[..at] {
        user.must(line);
    }
    // The shown code is that of the plugin.
    let (_, shown) = blocks("python").remove(0);
    let plugin = fs::read_to_string(user.path("plugins/team.greet/migrate-step-team.greet")).unwrap();
    assert!(plugin.contains(shown.trim_end()), "{shown}");

    // The line with the kill, but killed when three of eight are done, however fast this machine is.
    assert_eq!(lines[at], "migrate run greet.toml & sleep 3; kill -9 $!");
    let mut run = user.command("migrate").args(["run", "greet.toml"]).spawn().unwrap();
    let began = Instant::now();
    while !user.path("out/c").exists() {
        assert!(began.elapsed() < WAIT, "nothing was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(!user.path("out/h").exists(), "it was killed too late");
    let written = |file: &str| fs::metadata(user.path(file)).unwrap().modified().unwrap();
    let before = written("out/a");

    let rest: Vec<String> = lines[at + 1..].iter().map(|line| user.must(line)).collect();
    let log = rest.last().expect("the log is read");
    let place = log.rsplit("beginning at item ").next().and_then(|rest| rest.split(' ').next()).unwrap();
    let place: usize = place.parse().unwrap_or_else(|_| panic!("{log}"));
    assert!((2..8).contains(&place), "{log}");
    assert!(user.path("out/h").exists());
    assert_eq!(written("out/a"), before, "what was done is not done again");
}
