//! `exec:`: a program whose standard output is a secret.
//!
//! It runs without a shell, in the project folder, with nothing on its standard input. What it says on
//! its standard error may hold the secret, so it is thrown away. A program that is late, or says too
//! much, is killed with everything that it has started.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use migrate_plugin_api::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::secrets::{MAX_SECRET_BYTES, one_line_less};

/// Longest wait: a person may have to touch a key first.
const LIMIT: Duration = Duration::from_secs(60);

/// Why there is no secret. Holds nothing that the program has said.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandFault {
    #[error("failed to start `{0}`: {1}")]
    Start(String, io::Error),
    #[error("failed to read what the command says: {0}")]
    Read(io::Error),
    #[error("the command ended with {0}")]
    Status(ExitStatus),
    #[error("the command took longer than {} s", .0.as_secs())]
    Late(Duration),
    #[error("what the command says is larger than {MAX_SECRET_BYTES} bytes")]
    Large,
    #[error("what the command says is {0}")]
    Odd(&'static str),
}

impl CommandFault {
    /// Whether trying again may help.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Late(_))
    }
}

/// A started program and all that it has started, killed when this is dropped before its end.
struct Group {
    child: Child,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        // The child has not been waited for, so its number is still its own.
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(id) = id.filter(|_| !self.ended) {
            // It may be gone already.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// What the program `words` says, run in `dir`.
pub(super) async fn output(words: &[String], dir: &Path) -> Result<Secret, CommandFault> {
    within(LIMIT, words, dir).await
}

async fn within(limit: Duration, words: &[String], dir: &Path) -> Result<Secret, CommandFault> {
    let (program, arguments) = words.split_first().ok_or(CommandFault::Odd("nothing"))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(|error| CommandFault::Start(program.clone(), error))?;
    let mut group = Group { child, ended: false };
    let said = tokio::time::timeout(limit, listen(&mut group.child)).await;
    let (bytes, status) = said.map_err(|_| CommandFault::Late(limit))??;
    group.ended = true;
    if !status.success() {
        return Err(CommandFault::Status(status));
    }
    one_line_less(bytes).map_err(CommandFault::Odd)
}

async fn listen(child: &mut Child) -> Result<(Vec<u8>, ExitStatus), CommandFault> {
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).await.map_err(CommandFault::Read)?;
    }
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(CommandFault::Large);
    }
    let status = child.wait().await.map_err(CommandFault::Read)?;
    Ok((bytes, status))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn run(limit: Duration, words: &[&str], dir: &Path) -> Result<Secret, CommandFault> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        within(limit, &words, dir).await
    }

    #[tokio::test]
    async fn what_a_program_says_is_the_secret_without_its_line_break() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), " hunter2 \n\n").unwrap();
        let secret = run(LIMIT, &["cat", "secret"], dir.path()).await.unwrap();
        assert_eq!(secret.expose(), " hunter2 \n");
        // No shell looks at its words.
        let secret = run(LIMIT, &["printf", "%s", "$HOME; ls | x"], dir.path()).await.unwrap();
        assert_eq!(secret.expose(), "$HOME; ls | x");
    }

    #[tokio::test]
    async fn every_fault_is_named_and_nothing_said_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let mut said = Vec::new();
        for script in [
            "echo hunter2; echo hunter2 >&2; exit 3",
            "echo hunter2; kill -9 $$",
            "printf 'hunter2\\377'",
            "true",
            "yes hunter2",
        ] {
            let fault = run(LIMIT, &["sh", "-c", script], dir.path()).await.unwrap_err();
            said.push(fault.to_string());
            assert!(!format!("{fault:?}").contains("hunter2"));
        }
        said.push(run(LIMIT, &["no-such-program"], dir.path()).await.unwrap_err().to_string());
        insta::assert_snapshot!(said.join("\n"), @r"
        the command ended with exit status: 3
        the command ended with signal: 9 (SIGKILL)
        what the command says is not UTF-8
        what the command says is empty
        what the command says is larger than 65536 bytes
        failed to start `no-such-program`: No such file or directory (os error 2)
        ");
    }

    /// Its end is told by the pipe that all of its processes hold.
    #[tokio::test]
    async fn a_late_program_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("alive");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let script = "exec 9>alive; sleep 600 & sleep 600";
        let reader = tokio::task::spawn_blocking(move || std::fs::read(pipe));
        let began = Instant::now();
        let fault = run(Duration::from_secs(1), &["sh", "-c", script], dir.path()).await.unwrap_err();
        assert!(fault.is_late(), "{fault}");
        // At its end nobody holds the other side any more.
        assert_eq!(reader.await.unwrap().unwrap(), b"");
        assert!(began.elapsed() < Duration::from_secs(300));
    }
}
