//! What it costs to assess and to rewrite an estate: run by `cargo xtask bench rules`.
//!
//! Every measurement is a process of its own, so that its peak memory is its own. stdout is one JSON
//! document, stderr is progress.

mod estate;
#[path = "../../../tests/bench/figures.rs"]
mod figures;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use migrate_steps::assess::assess_files;
use migrate_steps::manifests::rewrite_files;
use migrate_steps::rules::{Inputs, RuleSet};
use serde_json::{Map, Value, json};

use estate::{OBJECTS, Shape};
use figures::{load, machine, median, rounded, spread};

/// Rounds unless `--rounds` says otherwise.
const ROUNDS: usize = 5;

/// Applications of ten objects each.
const APPLICATIONS: usize = 1_000;

/// The most that assessing 10,000 objects may take.
const GOALS: [(&str, f64); 2] = [("wall-s", 10.0), ("peak-mib", 500.0)];

/// What is measured: what is done, and how the objects lie.
const MEASUREMENTS: [(&str, &str); 7] = [
    ("assess", "files"),
    ("assess", "small-files"),
    ("assess", "one-file"),
    ("assess", "list"),
    ("rewrite", "files"),
    ("rewrite", "one-file"),
    ("rewrite", "list"),
];

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const HELP: &str = "\
What it costs to assess and to rewrite 10,000 objects. Prints JSON.

Usage: cargo xtask bench rules [--rounds N] [--only assess|rewrite]
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["measure", what, folder] => measure(what, Path::new(folder)).map(|figures| println!("{figures}")),
        [options @ .., "--bench"] => match parse(options) {
            Some((rounds, only)) => all(rounds, only),
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

fn parse<'a>(words: &[&'a str]) -> Option<(usize, Option<&'a str>)> {
    let (mut rounds, mut only) = (ROUNDS, None);
    for pair in words.chunks(2) {
        match pair {
            ["--rounds", number] => rounds = number.parse().ok().filter(|n| *n > 0)?,
            ["--only", what @ ("assess" | "rewrite")] => only = Some(*what),
            _ => return None,
        }
    }
    Some((rounds, only))
}

/// One measurement of the manifests in `folder`.
fn measure(what: &str, folder: &Path) -> Result<Value> {
    let (rules, inputs) = (RuleSet::shipped(), inputs()?);
    let start = Instant::now();
    let counts = match what {
        "assess" => {
            let assessment = assess_files(folder, &rules, &Inputs::default())?;
            json!({ "objects": assessment.objects, "findings": assessment.findings.len() })
        }
        "rewrite" => {
            let done = rewrite_files(folder, &rules, &inputs)?;
            let edits: usize = done.files.iter().map(|file| file.changes.len()).sum();
            json!({ "files": done.files.len(), "edits": edits })
        }
        _ => return Err(format!("nothing to measure: {what}").into()),
    };
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "counts": counts, "figures": { "wall-s": seconds, "peak-mib": peak_mib()? } }))
}

fn inputs() -> Result<Inputs> {
    let mut inputs: Inputs = serde_json::from_value(json!({
        "ingress": "gateway",
        "application-load-balancer": "alb-infra/alb",
        "registries": { "123456789012.dkr.ecr.us-east-1.amazonaws.com": "shop.azurecr.io" },
        "storage-classes": { "gp3": "managed-csi" },
        "zones": { "us-east-1a": "eastus-1", "us-east-1b": "eastus-2" },
        "node-pools": { "workers": "workers" },
    }))?;
    for at in 0..APPLICATIONS {
        let account = format!("team-{}/app-{at}", at % 20);
        inputs.identities.insert(account, "11111111-2222-3333-4444-555555555555".to_owned());
    }
    Ok(inputs)
}

/// The process's greatest resident memory.
fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// All measurements, then the goals that they are for.
fn all(rounds: usize, only: Option<&str>) -> Result<()> {
    let load_before = load();
    let mut folders: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut table: BTreeMap<String, (Value, BTreeMap<String, Vec<f64>>)> = BTreeMap::new();
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        for (what, shape) in
            MEASUREMENTS.into_iter().filter(|(what, _)| only.is_none_or(|only| only == *what))
        {
            if !folders.contains_key(shape) {
                folders.insert(shape, fresh(shape)?);
            }
            let found = child(what, &folders[shape])?;
            let row = table.entry(format!("{what}-{shape}")).or_default();
            row.0 = found["counts"].clone();
            for (figure, value) in found["figures"].as_object().into_iter().flatten() {
                let value = value.as_f64().unwrap_or(f64::NAN);
                eprintln!("bench:   {what}-{shape}: {figure} {value:.3}");
                row.1.entry(figure.clone()).or_default().push(value);
            }
        }
    }
    let mut goals = Vec::new();
    for (name, (_, figures)) in table.iter().filter(|(name, _)| name.starts_with("assess-")) {
        for (figure, most) in GOALS {
            let measured = median(&figures[figure]).ok_or("nothing was measured")?;
            goals.push(
                json!({ "figure": format!("{name}, 10,000 objects: {figure}"), "measured": rounded(measured),
                "goal": format!("below {most}"), "met": measured < most }),
            );
        }
    }
    let measurements: Map<String, Value> = table
        .iter()
        .map(|(name, (counts, figures))| {
            let mut row = Map::from_iter([("counts".to_owned(), counts.clone())]);
            row.extend(figures.iter().map(|(figure, values)| (figure.clone(), spread(values))));
            (name.clone(), Value::Object(row))
        })
        .collect();
    let document = json!({ "version": 1, "machine": machine(), "load": { "before": load_before, "after": load() },
        "rounds": rounds, "measurements": measurements, "goals": goals });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

/// The manifests in a folder of their own.
fn fresh(shape: &str) -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
    let folder = target.join("bench/rules").join(shape);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let known = Shape::parse(shape).ok_or("no such shape")?;
    let bytes = estate::write(&folder, known, APPLICATIONS)?;
    eprintln!("bench: {shape}: {} objects, {bytes} bytes", APPLICATIONS * OBJECTS);
    Ok(folder)
}

/// This program again, for one measurement.
fn child(what: &str, folder: &Path) -> Result<Value> {
    let output = Command::new(std::env::current_exe()?)
        .args(["measure", what])
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{what} ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
