//! What a plugin costs: run by `cargo xtask bench plugins`.
//!
//! A node of a plugin is two processes, one for `apply` and one for `verify`, each with its guard. It is
//! measured with a compiled plugin (this program again) and with a shell script, beside a bare process.
//! Events are progress reports that the host takes in; the last of those that come together is passed on.
//! stdout is one JSON document, stderr is progress.

#[path = "../../../../tests/bench/figures.rs"]
mod figures;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Instant;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{Step, VerifyDepth};
use migrate_plugin_host::{Guard, Launch, Plugin};
use serde_json::{Value, json};

use figures::{load, machine, median, rounded, spread};

/// Rounds unless `--rounds` says otherwise: enough for a median that one busy moment can't move.
const ROUNDS: usize = 5;

/// Nodes in a round.
const NODES: usize = 50;

/// Events of one call.
const EVENTS: u64 = 400_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["plugin"] => plugin().map_err(Into::into),
        ["--bench"] => measure(ROUNDS),
        ["--rounds", number, "--bench"] => match number.parse() {
            Ok(rounds @ 1..) => measure(rounds),
            _ => Err("--rounds takes a number".into()),
        },
        [.., "--bench"] => {
            eprintln!("Usage: cargo xtask bench plugins [--rounds N]");
            return ExitCode::from(2);
        }
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

/// A plugin that does what it is asked at once.
fn plugin() -> std::io::Result<()> {
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let result = match message["method"].as_str() {
            Some("initialize") => json!({ "protocol_version": 1, "cancel": true }),
            Some("describe") => json!({ "name": "bench.plugin", "version": "1", "summary": "Nothing" }),
            Some("apply") => {
                let events = message["params"]["config"]["events"].as_u64().unwrap_or(0);
                for done in 0..events {
                    let method = "{\"jsonrpc\":\"2.0\",\"method\":\"progress\"";
                    let items = format!("{{\"done\":{done},\"total\":{events}}}");
                    writeln!(stdout, "{method},\"params\":{{\"message\":\"copying\",\"items\":{items}}}}}")?;
                }
                json!({ "outputs": {} })
            }
            Some("verify") => json!({ "checks": [] }),
            _ => return Ok(()),
        };
        writeln!(stdout, "{}", json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))?;
        stdout.flush()?;
    }
    Ok(())
}

/// The same in sh; the number of a request is counted, as the host counts.
const SCRIPT: &str = r#"#!/bin/sh
id=0
while read -r line; do
  id=$((id + 1))
  case $line in
    *'"method":"initialize"'*) result='{"protocol_version":1}' ;;
    *'"method":"describe"'*) result='{"name":"bench.script","version":"1","summary":"Nothing"}' ;;
    *'"method":"apply"'*) result='{"outputs":{}}' ;;
    *'"method":"verify"'*) result='{"checks":[]}' ;;
    *) exit 0 ;;
  esac
  printf '{"jsonrpc":"2.0","id":%d,"result":%s}\n' "$id" "$result"
done
"#;

#[tokio::main]
async fn measure(rounds: usize) -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let script = dir.join("migrate-step-bench.script");
    std::fs::write(&script, SCRIPT)?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let guard = Guard { program: env!("CARGO_BIN_EXE_migrate-plugin-guard").into(), args: Vec::new() };
    let launch = |program: PathBuf, args: &[&str]| Launch {
        program,
        args: args.iter().map(Into::into).collect(),
        env: BTreeSet::new(),
        memory_bytes: 4 << 30,
    };
    let this = std::env::current_exe()?;
    let compiled = Plugin::describe(None, &guard, launch(this.clone(), &["plugin"]), &dir).await?;
    let script = Plugin::describe(None, &guard, launch(script, &[]), &dir).await?;
    let load_before = load();
    let (mut bare, mut node, mut shell, mut events) = <(Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>)>::default();
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        bare.push(bare_process(&this)?);
        node.push(nodes(&compiled, &dir).await?);
        shell.push(nodes(&script, &dir).await?);
        events.push(events_a_second(&compiled, &dir).await?);
    }
    let of = |figure: &[f64]| median(figure).ok_or("nothing was measured");
    let (node_ms, shell_ms, a_second) = (of(&node)?, of(&shell)?, of(&events)?);
    let document = json!({
        "version": 1,
        "machine": machine(),
        "load": { "before": load_before, "after": load() },
        "rounds": rounds,
        "measurements": {
            "bare-process-ms": spread(&bare),
            "node-compiled-ms": spread(&node),
            "node-script-ms": spread(&shell),
            "events-a-second": spread(&events),
        },
        "goals": [
            goal("a node of a compiled plugin with its start, in milliseconds", node_ms, "below 20", node_ms < 20.0),
            goal("a node of a shell script with its start, in milliseconds", shell_ms, "below 20", shell_ms < 20.0),
            goal("events of a plugin taken in, a second", a_second, "above 50000", a_second > 50_000.0),
        ],
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

fn goal(what: &str, measured: f64, goal: &str, met: bool) -> Value {
    json!({ "figure": what, "measured": rounded(measured), "goal": goal, "met": met })
}

/// Milliseconds of starting and ending the plugin's program, twice, without host and guard.
fn bare_process(program: &std::path::Path) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..2 * NODES {
        Command::new(program).arg("plugin").stdin(Stdio::null()).stdout(Stdio::piped()).output()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1_000.0 / NODES as f64)
}

/// Milliseconds of a node.
async fn nodes(plugin: &Plugin, dir: &std::path::Path) -> Result<f64> {
    let ctx = Arc::new(RecordingHost::default()).context("bench", dir);
    let began = Instant::now();
    for _ in 0..NODES {
        let outputs = plugin.apply(&ctx, &json!({})).await?;
        plugin.verify(&ctx, &json!({}), &outputs, VerifyDepth::Quick).await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1_000.0 / NODES as f64)
}

async fn events_a_second(plugin: &Plugin, dir: &std::path::Path) -> Result<f64> {
    let host = Arc::new(RecordingHost::default());
    let ctx = host.context("bench", dir);
    let began = Instant::now();
    plugin.apply(&ctx, &json!({ "events": EVENTS })).await?;
    let taken = began.elapsed().as_secs_f64();
    let last = host.recorded().progress.last().and_then(|progress| progress.items);
    if last.is_none_or(|items| items.done + 1 != EVENTS) {
        return Err("the last event was lost".into());
    }
    Ok(EVENTS as f64 / taken)
}
