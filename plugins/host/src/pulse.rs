//! The host's sign of life, by which a guard tells a host that is stopped (Ctrl-Z, SIGSTOP) from one that works.
//!
//! A thread of its own counts in memory that has a path; guards look whether the count goes on. Nothing that
//! the host waits for stops the thread, be it the database or a plugin, but whatever stops the whole process
//! does. Linux only: elsewhere there is no such path, and a plugin goes on while its host is stopped.

use std::path::PathBuf;

#[cfg(target_os = "linux")]
use crate::limits::BEAT;

/// Where guards look. The first call begins to count; it goes on up to the end of this process.
///
/// # Errors
/// When there is no memory, descriptor or thread for it.
#[cfg(target_os = "linux")]
pub(crate) fn path() -> std::io::Result<PathBuf> {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::sync::{Mutex, PoisonError};
    static PULSE: Mutex<Option<OwnedFd>> = Mutex::new(None);
    let mut pulse = PULSE.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = match pulse.take() {
        Some(counted) => counted,
        None => begin()?,
    };
    let path = format!("/proc/{}/fd/{}", std::process::id(), counted.as_raw_fd());
    *pulse = Some(counted);
    Ok(path.into())
}

/// Nobody looks elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn path() -> std::io::Result<PathBuf> {
    Ok(crate::guard::NO_PULSE.into())
}

#[cfg(target_os = "linux")]
fn begin() -> std::io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(memfd_create("pulse", MemfdFlags::CLOEXEC)?);
    // Who opens it by its path only reads.
    fchmod(&file, Mode::RUSR)?;
    file.write_all_at(&0_u64.to_ne_bytes(), 0)?;
    let counted = file.try_clone()?;
    std::thread::Builder::new().name("pulse".to_owned()).spawn(move || {
        for count in 1_u64.. {
            std::thread::sleep(BEAT);
            // It is memory; should it fail, the guards end what nobody can answer for.
            let _ = counted.write_all_at(&count.to_ne_bytes(), 0);
        }
    })?;
    Ok(file.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::limits::SILENCE;

    #[test]
    fn it_goes_on_while_nothing_else_does() {
        let path = path().unwrap();
        assert_eq!(super::path().unwrap(), path, "one for all");
        let first = std::fs::read(&path).unwrap();
        let began = Instant::now();
        while std::fs::read(&path).unwrap() == first {
            assert!(began.elapsed() < SILENCE, "it would be taken for dead");
            std::thread::sleep(BEAT / 50);
        }
        // As root, everything can be opened.
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
    }
}
