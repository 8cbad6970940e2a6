//! One command at a time changes the sandbox, and one sandbox at a time is on a machine.
//!
//! The lock is the kernel's: it ends with the process that holds it. The bridge, its addresses and the namespaces are
//! the machine's, so the lock is too, and a file beside it names the sandbox that is up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, bail};

use crate::layout::{Layout, RUN_DIR};

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Gives the lock back and removes its file.
    pub fn remove(self) {
        // Before the lock ends: whoever waits for the old file sees that its name is gone and opens the new one.
        let _ = fs::remove_file(&self.path);
        drop(self.file);
    }
}

/// Takes the lock or fails at once, saying who holds it.
pub fn take(layout: &Layout, command: &str) -> Result<Lock> {
    loop {
        let lock = take_once(layout.lock(), command)?;
        // Between opening and locking, its last holder may have removed the file.
        let own = lock.file.metadata().into_diagnostic()?;
        if fs::metadata(&lock.path).is_ok_and(|named| named.ino() == own.ino()) {
            return Ok(lock);
        }
    }
}

fn take_once(path: PathBuf, command: &str) -> Result<Lock> {
    use std::io::{Read, Seek, Write};
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.into_diagnostic().wrap_err_with(|| format!("can't open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!(
                help = "wait for it to end, then try again",
                "another command is changing the sandbox: {}",
                holder.trim()
            );
        }
        Err(TryLockError::Error(error)) => return Err(error).into_diagnostic(),
    }
    let mut write = || -> std::io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "`sandbox {command}`, process {}", std::process::id())
    };
    write().into_diagnostic()?;
    Ok(Lock { file, path })
}

fn owner_path() -> PathBuf {
    Path::new(RUN_DIR).join("owner")
}

/// The sandbox that is up on this machine, by its folder.
pub fn owner() -> Option<PathBuf> {
    fs::read_to_string(owner_path()).ok().map(|text| PathBuf::from(text.trim()))
}

/// Makes this sandbox the one on this machine, or refuses when another is up. The lock must be held.
pub fn claim(layout: &Layout) -> Result<()> {
    match owner() {
        Some(owner) if owner != layout.root() => bail!(
            help = "take it down first: `cargo xtask sandbox down` in its workspace",
            "another sandbox is up on this machine, in {}",
            owner.display()
        ),
        Some(_) => Ok(()),
        None => {
            let path = owner_path();
            crate::process::write_atomically(&path, layout.root().as_os_str().as_encoded_bytes())
        }
    }
}
