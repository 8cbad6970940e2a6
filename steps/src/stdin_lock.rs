//! The standard input of a node's processes: a file that is locked for as long as one of them holds it.
//!
//! That outlives `migrate` itself and leaves no moment in between, so a later attempt finds what an
//! earlier one has left at work, and does not begin the same beside it. A command may take another standard
//! input (`exec ./restore <dump`): then it is its process group that tells, where it is recorded.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use migrate_plugin_api::{StepContext, StepError};

use crate::process_group::{Earlier, Record};

/// Where they are, below the project folder.
const INPUTS: &str = ".migrate/exec";

/// Any program that this process starts shares its open files until it runs, which is a moment; who
/// holds one longer has been given it.
const STARTING: Duration = Duration::from_secs(1);

/// The standard input of a node's attempts. By the node alone: what is done anew under another key, or in
/// another run, is not done beside what is still alive.
pub(crate) fn input_path(ctx: &StepContext) -> PathBuf {
    let node = ctx.node.to_string();
    let word: String = node.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(60).collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, node.as_bytes());
    ctx.path(INPUTS).join(format!("{word}-{}", hex::encode(&digest.as_ref()[..8])))
}

/// The locked standard input of an attempt.
///
/// # Errors
/// `Transient` while a process of an earlier attempt is alive.
pub(crate) async fn claim(ctx: &StepContext) -> Result<(File, PathBuf), StepError> {
    let path = input_path(ctx);
    let failed =
        |e: std::io::Error| StepError::permanent(format!("failed to open {}", path.display())).with_source(e);
    std::fs::create_dir_all(ctx.path(INPUTS)).map_err(failed)?;
    let mut options = OpenOptions::new();
    // Not truncated: an earlier attempt may still read it.
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    let is_free = lock(&file).await.map_err(failed)?;
    // What is unclear, `observe` has told: who comes here without it has looked.
    match is_free && Record::beside(&path).earlier() != Earlier::Alive {
        true => Ok((file, path)),
        false => Err(still_running(ctx)),
    }
}

/// Whether a process of an earlier attempt is alive.
pub(crate) async fn earlier(ctx: &StepContext) -> Earlier {
    let path = input_path(ctx);
    let is_held = match File::open(&path) {
        Ok(file) => matches!(lock(&file).await, Ok(false)),
        Err(_) => false,
    };
    if is_held { Earlier::Alive } else { Record::beside(&path).earlier() }
}

/// Locks `file`; false where somebody else holds it for more than a moment.
async fn lock(file: &File) -> std::io::Result<bool> {
    let deadline = Instant::now() + STARTING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(STARTING / 50).await,
        }
    }
}

pub(crate) fn still_running(ctx: &StepContext) -> StepError {
    StepError::transient("the command of an earlier attempt still runs").with_hint(format!(
        "wait for its end, or end it yourself: its environment has MIGRATE_NODE={}",
        ctx.node
    ))
}
