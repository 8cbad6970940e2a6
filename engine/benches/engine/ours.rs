//! Measurements of the engine, each in a process and a folder of its own, through its public API.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use migrate_engine::{
    Checked, Engine, EventSink, Params, ResumeRequest, RunReport, RunState, Shutdown, Source, event_channel,
};
use migrate_plugin_api::{
    CancellationToken, Evidence, Idempotency, Observation, Step, StepContext, StepError, StepInfo, StepPlan,
    VerifyDepth, async_trait,
};
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

use crate::Result;

/// While it is there, the node `last` fails.
const FAIL: &str = "fail";

/// What every node of a plan with conditions refers to.
const REFERENCES: &str = "with = { value = \"${params.on} ${nodes.n0.value}\" }\n";

/// Attempts of every node of the interrupted run: with all but the last failing, nine facts a node.
const ATTEMPTS: u32 = 4;

/// Carries out one measurement in the current folder and returns its figures.
pub fn measure(what: &[&str]) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut figures = match what {
        ["row", nodes] => runtime.block_on(run(row(nodes.parse()?)))?,
        ["layers", layers, width] => runtime.block_on(run(layered(layers.parse()?, width.parse()?)))?,
        ["wide", nodes] => runtime.block_on(run(wide(nodes.parse()?, |_| String::new())))?,
        ["plan", nodes] => runtime.block_on(plan(wide(nodes.parse()?, |_| String::new())))?,
        ["plan-conditions", nodes] => {
            let more = |_| format!("when = \"params.on\"\n{REFERENCES}");
            runtime.block_on(plan(wide(nodes.parse()?, more)))?
        }
        ["plan-distinct-conditions", nodes] => {
            let more = |at| format!("when = \"params.on && {at} > 0\"\n{REFERENCES}");
            runtime.block_on(plan(wide(nodes.parse()?, more)))?
        }
        ["interrupted", nodes] => runtime.block_on(interrupted(nodes.parse()?))?,
        ["resume"] => runtime.block_on(resume())?,
        ["bare-commits"] => bare_commits()?,
        _ => return Err(format!("nothing to measure: {what:?}").into()),
    };
    figures["peak-mib"] = json!(peak_mib()?);
    Ok(figures)
}

/// Each node waits for the one before.
fn row(nodes: usize) -> String {
    let node = |at: usize| match at {
        0 => String::new(),
        _ => format!("needs = [\"n{}\"]\n", at - 1),
    };
    workflow((0..nodes).map(|at| (format!("n{at}"), node(at))))
}

/// Each node waits for all of the layer before.
fn layered(layers: usize, width: usize) -> String {
    let names = |layer: usize| (0..width).map(move |at| format!("l{layer}-{at}"));
    let nodes = (0..layers).flat_map(|layer| {
        let needs: Vec<String> = match layer {
            0 => Vec::new(),
            _ => names(layer - 1).map(|name| format!("\"{name}\"")).collect(),
        };
        let fields = format!("needs = [{}]\n", needs.join(", "));
        names(layer).map(move |name| (name, fields.clone()))
    });
    workflow(nodes)
}

/// All at once; every node but the first has `more`.
fn wide(nodes: usize, more: impl Fn(usize) -> String) -> String {
    workflow((0..nodes).map(|at| (format!("n{at}"), if at == 0 { String::new() } else { more(at) })))
}

fn workflow(nodes: impl Iterator<Item = (String, String)>) -> String {
    let head = "schema = 1\nname = \"bench\"\n[params.on]\ntype = \"boolean\"\ndefault = true\n";
    let node = |(name, fields): (String, String)| format!("[nodes.{name}]\nstep = \"noop\"\n{fields}");
    head.to_owned() + &nodes.map(node).collect::<String>()
}

/// Writes the files that a project has, and reads and checks them.
fn load(engine: &Engine, text: &str) -> Result<Checked> {
    std::fs::write("bench.toml", text)?;
    std::fs::write("migration.toml", "schema = 1\n")?;
    let (workflow, environment) = (Source::read("bench.toml")?, Source::read("migration.toml")?);
    Ok(engine.check(&workflow, &environment, &Params::new())?)
}

fn engine() -> Result<Engine> {
    Ok(Engine::open(".", vec![Arc::new(Noop)])?)
}

async fn run(text: String) -> Result<Value> {
    let engine = engine()?;
    let checked = load(&engine, &text)?;
    let start = Instant::now();
    let report = engine.run(&checked, reader(), &Shutdown::new()).await?;
    let run_s = start.elapsed().as_secs_f64();
    expect(&report, RunState::Done)?;
    Ok(json!({ "run-s": run_s }))
}

async fn plan(text: String) -> Result<Value> {
    let start = Instant::now();
    let engine = engine()?;
    let checked = load(&engine, &text)?;
    let check_s = start.elapsed().as_secs_f64();
    let report = engine.plan(&checked, &CancellationToken::new()).await;
    if report.refuses() {
        return Err("the plan refuses".into());
    }
    Ok(json!({ "check-s": check_s, "plan-s": start.elapsed().as_secs_f64() - check_s }))
}

/// A run of which all but the last node is done, after many attempts.
async fn interrupted(nodes: usize) -> Result<Value> {
    let retry = format!("retry = {{ attempts = {ATTEMPTS}, backoff = \"1ms\", max_backoff = \"1ms\" }}\n");
    let many = (0..nodes).map(|at| (format!("n{at}"), retry.clone()));
    let text = workflow(many.chain([("last".to_owned(), String::new())]));
    let engine = engine()?;
    let checked = load(&engine, &text)?;
    std::fs::write(FAIL, "")?;
    let report = engine.run(&checked, reader(), &Shutdown::new()).await?;
    std::fs::remove_file(FAIL)?;
    expect(&report, RunState::Failed)?;
    Ok(json!({}))
}

/// Takes it up: reads and verifies every fact and every finished node, then ends the last one.
async fn resume() -> Result<Value> {
    let engine = engine()?;
    let start = Instant::now();
    let report = engine.resume(ResumeRequest::default(), reader(), &Shutdown::new()).await?;
    let run_s = start.elapsed().as_secs_f64();
    expect(&report, RunState::Done)?;
    Ok(json!({ "run-s": run_s }))
}

fn expect(report: &RunReport, state: RunState) -> Result<()> {
    if report.state == state { Ok(()) } else { Err(format!("the run ended {:?}", report.state).into()) }
}

/// A reader as the terminal is one.
fn reader() -> EventSink {
    let (sink, mut stream) = event_channel();
    tokio::spawn(async move { while stream.next().await.is_some() {} });
    sink
}

/// The facts of the run in this folder once more, into a copy of its store with the same settings
/// and through the same driver: the intent of a node in one transaction, its result in another.
fn bare_commits() -> Result<Value> {
    let copy = Path::new("bare.db");
    std::fs::copy(".migrate/state.db", copy)?;
    let mut connection = Connection::open(copy)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", false)?;
    let facts: Vec<(String, i64, String, String, Vec<u8>)> = connection
        .prepare("select run, seq, at, body, sum from facts order by seq")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
        .collect::<std::result::Result<_, _>>()?;
    connection.execute_batch("delete from facts")?;
    connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
    let is_intent = |body: &str| body.contains("\"fact\":\"started\"");
    let (mut rest, mut commits) = (&facts[..], 0);
    let start = Instant::now();
    while let Some(first) = rest.first() {
        let results = rest[1..].iter().take_while(|fact| !is_intent(&fact.3)).count();
        let (now, later) = rest.split_at(if is_intent(&first.3) { 1 } else { 1 + results });
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (run, seq, at, body, sum) in now {
            let insert = "insert into facts (run, seq, at, body, sum) values (?, ?, ?, ?, ?)";
            transaction.prepare_cached(insert)?.execute(params![run, seq, at, body, sum])?;
        }
        transaction.commit()?;
        (rest, commits) = (later, commits + 1);
    }
    let run_s = start.elapsed().as_secs_f64();
    Ok(json!({ "run-s": run_s, "commits": commits, "commit-ms": run_s * 1_000.0 / f64::from(commits) }))
}

fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak memory")?;
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}

/// Does nothing, at once.
struct Noop;

#[async_trait]
impl Step for Noop {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: "noop".to_owned(),
            version: "1".to_owned(),
            summary: "Does nothing".to_owned(),
            config_schema: json!({
                "type": "object",
                "additionalProperties": false,
                "properties": { "value": { "type": "string" } }
            }),
            output_schema: json!({ "type": "object", "properties": { "value": { "type": "string" } } }),
            sensitive: Vec::new(),
            idempotency: Idempotency::Natural,
            supports_undo: false,
        }
    }

    async fn plan(&self, _: &StepContext, _: &Value) -> std::result::Result<StepPlan, StepError> {
        Ok(StepPlan::new("do nothing"))
    }

    async fn observe(&self, _: &StepContext, _: &Value) -> std::result::Result<Observation, StepError> {
        Ok(Observation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, _: &Value) -> std::result::Result<Value, StepError> {
        if ctx.path(FAIL).exists() {
            match ctx.node.as_str() {
                "last" => return Err(StepError::permanent("told to fail")),
                _ if ctx.attempt < ATTEMPTS => return Err(StepError::transient("told to try again")),
                _ => {}
            }
        }
        Ok(json!({ "value": "done" }))
    }

    async fn verify(
        &self,
        _: &StepContext,
        _: &Value,
        _: &Value,
        _: VerifyDepth,
    ) -> std::result::Result<Evidence, StepError> {
        Ok(Evidence::default())
    }

    async fn undo(&self, _: &StepContext, _: &Value, _: &Value) -> std::result::Result<(), StepError> {
        Ok(())
    }
}
