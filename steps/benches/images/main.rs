//! What moving images costs, beside what others cost for the same: run by `cargo xtask bench images`.
//!
//! Two real registries on this machine; 21 images that share what images share. Every measured run
//! is a process of its own (ours is this program again), measured by GNU time. What is compared runs
//! in turn, round by round, each time into an empty registry. stdout is one JSON document, stderr is
//! progress.

mod estate;
#[path = "../../../tests/bench/figures.rs"]
mod figures;
mod goals;
mod link;
mod ours;
mod peers;
mod registry;
mod rig;
mod series;
mod zot;

use std::error::Error;
use std::process::ExitCode;

use serde_json::json;

use figures::{load, machine};
use rig::Rig;
use series::Table;

/// Rounds unless `--rounds` says otherwise.
const ROUNDS: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HELP: &str = "\
What moving images costs, beside what others cost for the same. Prints JSON.

Usage: cargo xtask bench images [--rounds N] [--only NAME,…] [--small] [--without-link] [--link-only]
                                [--killed] [--zot]

--only          floor, ours, crane, regsync, skopeo
--small         a hundredth of the bytes, to try the bench itself
--without-link  leaves the slow link out
--link-only     measures over the slow link only
--killed        measures only what goes twice when ours is killed in the middle of the large layer
--zot           only shows that all images get into zot and back, digest for digest
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["copy", project] => ours::copy(project.as_ref(), false),
        ["resume", project] => ours::copy(project.as_ref(), true),
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

/// What to measure.
pub struct Options {
    rounds: usize,
    only: Vec<String>,
    small: bool,
    direct: bool,
    link: bool,
    killed: bool,
    zot: bool,
}

impl Options {
    fn parse(mut words: &[&str]) -> Option<Self> {
        let only = rig::CONTESTANTS.map(str::to_owned).to_vec();
        let mut options =
            Self { rounds: ROUNDS, only, small: false, direct: true, link: true, killed: false, zot: false };
        loop {
            match words {
                [] => return Some(options),
                ["--rounds", number, rest @ ..] => {
                    options.rounds = number.parse().ok().filter(|n| *n > 0)?;
                    words = rest;
                }
                ["--only", names, rest @ ..] => {
                    options.only = names.split(',').map(str::to_owned).collect();
                    if options.only.iter().any(|name| !rig::CONTESTANTS.contains(&name.as_str())) {
                        return None;
                    }
                    words = rest;
                }
                ["--small", rest @ ..] => (options.small, words) = (true, rest),
                ["--without-link", rest @ ..] => (options.link, words) = (false, rest),
                ["--link-only", rest @ ..] => (options.direct, words) = (false, rest),
                ["--killed", rest @ ..] => {
                    options.killed = true;
                    options.only = vec!["ours".to_owned()];
                    words = rest;
                }
                ["--zot", rest @ ..] => {
                    options.zot = true;
                    options.only = vec!["ours".to_owned()];
                    words = rest;
                }
                _ => return None,
            }
        }
    }
}

/// All measurements, then the goals that they are for.
fn all(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rig = runtime.block_on(Rig::new(options))?;
    let load_before = load();
    let mut table = Table::default();
    for round in 0..options.rounds {
        eprintln!("bench: round {} of {}", round + 1, options.rounds);
        if options.killed {
            runtime.block_on(rig.killed(&mut table))?;
            continue;
        }
        if options.zot {
            runtime.block_on(rig.zot(&mut table))?;
            continue;
        }
        for name in &options.only {
            if options.direct {
                runtime.block_on(rig.direct(name, &mut table))?;
            }
            // Once: it takes a minute each, and its speed is the link's.
            if options.link && round == 0 && name != "floor" {
                runtime.block_on(rig.slow(name, &mut table))?;
            }
        }
    }
    let document = json!({
        "version": 1,
        "machine": machine(),
        "load": { "before": load_before, "after": load() },
        "rounds": options.rounds,
        "estate": rig.estate.to_json(),
        "peers": peers::versions(),
        "measurements": table.to_json(),
        "goals": goals::judge(&table, rig.estate.images.len()),
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}
