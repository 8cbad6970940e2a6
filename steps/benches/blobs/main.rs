//! What the mover of objects costs, beside rclone and AzCopy: run by `cargo xtask bench blobs`.
//!
//! Every measurement is a process of its own. What is compared runs in turn, round by round, over
//! the same source and the same targets. stdout is one JSON document, stderr is progress.

mod azcopy;
#[allow(dead_code, reason = "tests use more of it")]
mod bucket;
#[path = "../../../tests/bench/figures.rs"]
mod figures;
mod floor;
#[allow(dead_code, reason = "tests use more of it")]
mod gate;
mod goals;
mod nobody;
mod ours;
mod process;
mod room;
mod series;
#[allow(dead_code, reason = "tests use more of it")]
mod sink;
mod sum;
mod tools;

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use serde_json::json;

use figures::{load, machine};
use room::{Room, Set, Target};
use series::Table;

/// Rounds unless `--rounds` says otherwise.
const ROUNDS: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HELP: &str = "\
What the mover of objects costs, beside rclone and AzCopy. Prints JSON.

Usage: cargo xtask bench blobs [--rounds N] [--only WHAT] [--set NAME] [--small] [--without-peers]

  --only WHAT       sink, azurite, server-side or listing
  --set NAME        small, middle, large or huge (4 GiB, which needs 20 GiB of disk)
  --small           a tenth of the data, to see that it works
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["measure", "floor", job] => floor::measure(job.as_ref()),
        ["measure", what, config] => ours::measure(what, config.as_ref()),
        ["serve", "sink"] => serve(None),
        ["serve", "listing", count] => count.parse().map_err(Into::into).and_then(|n| serve(Some(n))),
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

/// Serves the sink and the bucket of ours, tells their addresses, and ends with whoever started it.
fn serve(listed: Option<usize>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (_sink, target) = runtime.block_on(sink::Sink::start(listed))?;
    let (_bucket, source) = runtime.block_on(bucket::Bucket::start(listed))?;
    println!("{target} {source}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Options {
    rounds: usize,
    only: Option<String>,
    set: Option<Set>,
    small: bool,
    peers: bool,
}

impl Options {
    fn parse(mut words: &[&str]) -> Option<Self> {
        let mut options = Self { rounds: ROUNDS, only: None, set: None, small: false, peers: true };
        loop {
            match words {
                [] => return Some(options),
                ["--rounds", number, rest @ ..] => {
                    options.rounds = number.parse().ok().filter(|n| *n > 0)?;
                    words = rest;
                }
                ["--only", what @ ("sink" | "azurite" | "server-side" | "listing"), rest @ ..] => {
                    options.only = Some((*what).to_owned());
                    words = rest;
                }
                ["--set", name, rest @ ..] => {
                    options.set = Some(Set::ALL.into_iter().find(|set| set.name() == *name)?);
                    words = rest;
                }
                ["--small", rest @ ..] => {
                    options.small = true;
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

    fn wants(&self, what: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == what)
    }
}

/// All measurements, then the goals that they are for.
fn all(options: &Options) -> Result<()> {
    let mut room = Room::new(options.small, options.set, options.peers)?;
    let load_before = load();
    let mut table = Table::default();
    for round in 0..options.rounds {
        eprintln!("bench: round {} of {}", round + 1, options.rounds);
        for target in [Target::Sink, Target::Azurite] {
            if options.wants(target.name()) {
                streamed(&mut room, target, round, &mut table)?;
            }
        }
        if options.wants("server-side") {
            azcopy::round(&mut room, &mut table)?;
        }
        if options.wants("listing") {
            room.listings(&mut table)?;
        }
    }
    let document = json!({
        "version": 1,
        "machine": machine(),
        "load": { "before": load_before, "after": load() },
        "rounds": options.rounds,
        "small": options.small,
        "sets": room.sets.iter().map(|set| set.name()).collect::<Vec<_>>(),
        "peers": room.versions(),
        "measurements": table.to_json(),
        "goals": goals::judge(&table),
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

/// Every set of objects, streamed by ours and by rclone: cold, again, and with one in a hundred changed.
fn streamed(room: &mut Room, target: Target, round: usize, table: &mut Table) -> Result<()> {
    // A target for each, so that none finds what another has written.
    let mut movers = vec![("ours", room.target(target)?)];
    if room.has_peers() {
        movers.push(("rclone", room.target(target)?));
    }
    if target == Target::Sink {
        movers.push(("floor", room.target(target)?));
    }
    for set in room.sets.clone() {
        for (_, service) in &movers {
            room.empty(service)?;
        }
        for pass in ["cold", "no-op", "changed"] {
            if pass == "changed" {
                if set != Set::Small {
                    continue;
                }
                room.change(round)?;
            }
            for (mover, service) in &mut movers {
                // It knows nothing of blocks, and does everything again.
                if *mover == "floor" && (matches!(set, Set::Large | Set::Huge) || pass != "cold") {
                    continue;
                }
                let name = format!("{mover} {} {} {pass}", target.name(), set.name());
                let (cost, requests) = room.stream(mover, set, service)?;
                table.add(&name, cost, &requests);
            }
        }
    }
    Ok(())
}
