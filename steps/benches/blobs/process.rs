//! A process and what it cost: the same measure for ours and for every peer.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::Result;

/// How often a running process is looked at: its end is told to this.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// Linux tells processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process cost from its start to its end.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub wall_s: f64,
    pub cpu_s: f64,
    pub peak_mib: f64,
}

/// Runs `command` to its end; what it says goes to `log`.
pub fn measured(command: &mut Command, log: &Path) -> Result<Cost> {
    let file = File::create(log)?;
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).spawn()?;
    let (mut peak_mib, pid) = (0.0_f64, child.id());
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let id = Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
    while waitid(WaitId::Pid(id), ended)?.is_none() {
        peak_mib = peak_mib.max(peak(pid).unwrap_or(0.0));
        std::thread::sleep(LOOK_EVERY);
    }
    let wall_s = start.elapsed().as_secs_f64();
    // Not reaped yet, so it still has its figures.
    let cpu_s = cpu(pid).ok_or("the process took its figures along")?;
    let status = child.wait()?;
    if !status.success() {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let from = said.len().saturating_sub(2_000);
        return Err(format!("{:?} ended with {status}:\n{}", command.get_program(), &said[from..]).into());
    }
    Ok(Cost { wall_s, cpu_s, peak_mib })
}

fn peak(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

fn cpu(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: utime and stime are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// A service that ends with its owner.
pub struct Service(Child);

impl Service {
    /// Starts it and waits until `address` takes connections.
    pub fn start(command: &mut Command, address: &str, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).spawn()?;
        let service = Self(child);
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > end {
                return Err(format!("nothing answers at {address}; see {}", log.display()).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
