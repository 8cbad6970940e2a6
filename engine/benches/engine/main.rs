//! What the engine costs, beside what others cost for the same: run by `cargo xtask bench engine`.
//!
//! Every measurement is a process of its own, so that its peak memory is its own. What is compared
//! is run in turn, round by round, so that a machine that is busy for a while is busy for all of
//! them. stdout is one JSON document, stderr is progress.

#[path = "../../../tests/bench/figures.rs"]
mod figures;
mod goals;
mod ours;
mod peers;
mod series;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use figures::{load, machine};
use series::Table;

/// Rounds unless `--rounds` says otherwise: enough for a median that one busy moment can't move.
const ROUNDS: usize = 5;

/// Nodes in a row: a usual workflow, and enough for the cost of a start to vanish.
const ROWS: [usize; 2] = [40, 1_000];

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const HELP: &str = "\
What the engine costs, beside what others cost for the same. Prints JSON.

Usage: cargo xtask bench engine [--rounds N] [--without-peers]
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["measure", what @ ..] => ours::measure(what).map(|figures| println!("{figures}")),
        [options @ .., "--bench"] => match Options::parse(options) {
            Some(options) => all(&options),
            None => {
                eprint!("{HELP}");
                return ExitCode::from(2);
            }
        },
        // `cargo test --benches` runs it too: nothing to test.
        _ => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rounds: usize,
    peers: bool,
}

impl Options {
    fn parse(mut words: &[&str]) -> Option<Self> {
        let mut options = Self { rounds: ROUNDS, peers: true };
        loop {
            match words {
                [] => return Some(options),
                ["--rounds", number, rest @ ..] => {
                    options.rounds = number.parse().ok().filter(|n| *n > 0)?;
                    words = rest;
                }
                ["--without-peers", rest @ ..] => {
                    options.peers = false;
                    words = rest;
                }
                _ => return None,
            }
        }
    }
}

/// All measurements, then the goals that they are for.
fn all(options: &Options) -> Result<()> {
    let room = Room::new()?;
    let peers = if options.peers { Some(peers::Peers::install(&room.bench)?) } else { None };
    let load_before = load();
    let mut table = Table::default();
    for round in 0..options.rounds {
        eprintln!("bench: round {} of {}", round + 1, options.rounds);
        rows(&room, peers.as_ref(), &mut table)?;
        shapes(&room, &mut table)?;
    }
    // Last and once: it takes minutes, and is too far away for a moment's load to count.
    for nodes in ROWS {
        let Some(peers) = &peers else { break };
        for settings in peers::Settings::ALL {
            peers.snakemake(settings, nodes, &room.fresh("snakemake")?, &mut table)?;
        }
    }
    let document = json!({
        "version": 1,
        "machine": machine(),
        "load": { "before": load_before, "after": load() },
        "rounds": options.rounds,
        "peers": peers.as_ref().map(peers::Peers::versions),
        "measurements": table.to_json(),
        "goals": goals::judge(&table),
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

/// Nodes in a row: ours, the bare commits of what ours has stored, and the peers.
fn rows(room: &Room, peers: Option<&peers::Peers>, table: &mut Table) -> Result<()> {
    for nodes in ROWS {
        let project = room.fresh("row")?;
        room.ours(table, &format!("row-{nodes}"), nodes, &["row", &nodes.to_string()], &project)?;
        room.ours(table, &format!("bare-commits-{nodes}"), nodes, &["bare-commits"], &project)?;
        let Some(peers) = peers else { continue };
        peers.make(nodes, &room.fresh("make")?, table)?;
        peers.dbos(nodes, &room.fresh("dbos")?, table)?;
    }
    Ok(())
}

/// What only ours is measured at.
fn shapes(room: &Room, table: &mut Table) -> Result<()> {
    room.ours(table, "layers-10x100", 1_000, &["layers", "10", "100"], &room.fresh("layers")?)?;
    room.ours(table, "wide-10000", 10_000, &["wide", "10000"], &room.fresh("wide")?)?;
    room.ours(table, "plan-10000", 10_000, &["plan", "10000"], &room.fresh("plan")?)?;
    for kind in ["plan-conditions", "plan-distinct-conditions"] {
        room.ours(table, &format!("{kind}-10000"), 10_000, &[kind, "10000"], &room.fresh("plan")?)?;
    }
    let project = room.fresh("resume")?;
    room.child(&["interrupted", "11200"], &project)?;
    room.ours(table, "resume-100000-facts", 11_201, &["resume"], &project)
}

/// Where measurements happen: on the disk that holds the target folder.
struct Room {
    bench: PathBuf,
}

impl Room {
    fn new() -> Result<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
        let bench = target.join("bench");
        std::fs::create_dir_all(&bench)?;
        Ok(Self { bench })
    }

    /// An empty folder.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.bench.join("work").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// This program again, for one measurement in `project`.
    fn child(&self, what: &[&str], project: &Path) -> Result<(f64, Value)> {
        let start = Instant::now();
        let output = Command::new(std::env::current_exe()?)
            .arg("measure")
            .args(what)
            .current_dir(project)
            .stderr(Stdio::inherit())
            .output()?;
        let wall_s = start.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(format!("{} ended with {}", what.join(" "), output.status).into());
        }
        Ok((wall_s, serde_json::from_slice(&output.stdout)?))
    }

    fn ours(&self, table: &mut Table, name: &str, nodes: usize, what: &[&str], project: &Path) -> Result<()> {
        let (wall_s, figures) = self.child(what, project)?;
        table.add(name, nodes, "wall-s", wall_s);
        for (figure, value) in figures.as_object().into_iter().flatten() {
            table.add(name, nodes, figure, value.as_f64().unwrap_or(f64::NAN));
        }
        Ok(())
    }
}
