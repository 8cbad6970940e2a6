//! `verify.data`: is the data on the target the data of the source? Reads both sides; natural to
//! repeat. The outputs hold what was found, equal or not; `verify` judges them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::TryFutureExt;
use jiff::Timestamp;
use kube::Client;
use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Problem, Progress, Severity, StepContext,
    StepError, StepPlan, TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::{Comparison, Files, FilesResult, Side};
use super::rows::{self, Reading, Rows, Table};
use crate::exec::Container;
use crate::kubernetes::{connect, one_cluster, reach};
use crate::rollout::POLL_INTERVAL;
use crate::site::ClusterRef;

/// So long a pod that is being replaced is waited for: the grace period of most, and a start.
const REPLACEMENT_LIMIT: Duration = Duration::from_secs(120);

/// What was compared so long ago is told to be of then: long enough that it isn't said of what has just ended.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// `verify.data`.
pub(crate) struct VerifyData;

/// `with` of `verify.data`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the data comes from.
    pub source: ClusterRef,
    /// Where it should be.
    pub target: ClusterRef,
    /// What to compare.
    pub checks: Vec<DataCheck>,
}

/// A named comparison: either `rows` or `files`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DataCheck {
    /// What it shows: `orders`.
    pub name: String,
    /// Rows of a PostgreSQL database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Rows>,
    /// Files of a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

/// Tables of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RowsResult {
    /// The check's name.
    pub check: String,
    /// The source's tables.
    pub source: Vec<Table>,
    /// The target's.
    pub target: Vec<Table>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// One a check of `rows`.
    pub rows: Vec<RowsResult>,
    /// One a check of `files`.
    pub files: Vec<FilesResult>,
    /// When both sides had been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub compared_at: Option<Timestamp>,
}

impl Config {
    fn check(&self) -> Result<(), StepError> {
        if self.checks.is_empty() {
            return Err(StepError::permanent("no check is configured, so no data would be compared")
                .with_hint("add a [[data]] table to migration.toml"));
        }
        let mut names = BTreeSet::new();
        for check in &self.checks {
            let name = &check.name;
            if !names.insert(name) {
                return Err(StepError::permanent(format!("two checks are called `{name}`")));
            }
            match (&check.rows, &check.files) {
                (Some(rows), None) => drop(rows::psql(&rows.database, &rows.user)?),
                (None, Some(files)) => files.check()?,
                _ => {
                    return Err(StepError::permanent(format!(
                        "check `{name}` must have either `rows` or `files`"
                    )));
                }
            }
        }
        Ok(())
    }
}

impl DataCheck {
    fn container(&self, client: &Client) -> Option<Container> {
        let (namespace, pod, container) = match (&self.rows, &self.files) {
            (Some(rows), _) => (&rows.namespace, &rows.pod, &rows.container),
            (None, Some(files)) => (&files.namespace, &files.pod, &files.container),
            (None, None) => return None,
        };
        let (namespace, pod, container) = (namespace.clone(), pod.clone(), container.clone());
        Some(Container { client: client.clone(), namespace, pod, container })
    }

    /// The error, saying where it happened.
    fn at(&self, side: &str, mut error: StepError) -> StepError {
        error.message = format!("{}: {side}: {}", self.name, error.message);
        error
    }

    async fn sides(
        &self,
        ctx: &StepContext,
        source: &Client,
        target: &Client,
    ) -> Result<(Container, Container), StepError> {
        let of = async |client: &Client, side: &str| {
            let container = self.container(client).ok_or_else(|| StepError::permanent("an empty check"))?;
            container.steady(ctx, REPLACEMENT_LIMIT).await.map_err(|e| self.at(side, e))
        };
        let (source, target) = tokio::try_join!(of(source, "source"), of(target, "target"))?;
        let uids = tokio::try_join!(source.pod_uid(), target.pod_uid())?;
        refuse_same(&self.name, uids)?;
        Ok((source, target))
    }
}

/// A pod compared with itself is always equal.
fn refuse_same(check: &str, uids: (Option<String>, Option<String>)) -> Result<(), StepError> {
    match uids {
        (Some(source), Some(target)) if source == target => {
            Err(StepError::permanent(format!("{check}: source and target are the same pod"))
                .with_hint("both contexts lead to one cluster: check [source.cluster] and [target.cluster]"))
        }
        _ => Ok(()),
    }
}

/// Two pods can lead to one database.
fn refuse_same_server(check: &str, source: &Reading, target: &Reading) -> Result<(), StepError> {
    match source.server == target.server {
        true => Err(StepError::permanent(format!("{check}: source and target are the same database server"))
            .with_hint("`psql` goes where PGHOST in its pod says: look at it on both sides")),
        false => Ok(()),
    }
}

async fn gather(ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
    config.check()?;
    let source = connect(ctx, &config.source).await?;
    let target = connect(ctx, &config.target).await?;
    let mut outputs = Outputs::default();
    for check in &config.checks {
        ctx.progress(Progress::message(&check.name));
        let (source, target) = check.sides(ctx, &source, &target).await?;
        if let Some(rows) = &check.rows {
            let (source, target) = tokio::try_join!(
                rows::read(ctx, &source, rows).map_err(|e| check.at("source", e)),
                rows::read(ctx, &target, rows).map_err(|e| check.at("target", e))
            )?;
            refuse_same_server(&check.name, &source, &target)?;
            let (source, target) = (source.tables, target.tables);
            outputs.rows.push(RowsResult { check: check.name.clone(), source, target });
        }
        if let Some(files) = &check.files {
            outputs.files.push(compare_files(ctx, check, files, &source, &target).await?);
        }
    }
    outputs.compared_at = Some(Timestamp::now());
    Ok(outputs)
}

/// Both sides at once, telling how far they are now and then.
async fn compare_files(
    ctx: &StepContext,
    check: &DataCheck,
    files: &Files,
    source: &Container,
    target: &Container,
) -> Result<FilesResult, StepError> {
    let comparison = Mutex::new(Comparison::new(&check.name, &files.directory));
    let both = async {
        tokio::try_join!(
            files.gather(ctx, source, Side::Source, &comparison).map_err(|e| check.at("source", e)),
            files.gather(ctx, target, Side::Target, &comparison).map_err(|e| check.at("target", e))
        )
    };
    let tell = async {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let (items, bytes) = comparison.lock().unwrap_or_else(PoisonError::into_inner).seen();
            ctx.progress(Progress::message(&check.name).items(items, None).bytes(bytes, None));
        }
    };
    tokio::select! {
        done = both => done.map(|_| ())?,
        () = tell => {}
    }
    Ok(comparison.into_inner().unwrap_or_else(PoisonError::into_inner).finish())
}

/// One check a table, in the source's order, then what only the target has.
fn judge_rows(result: &RowsResult) -> Vec<Check> {
    let show = |table: Option<&Table>| match table {
        Some(table) => format!("{} rows, sum {}", table.rows, table.checksum),
        None => "missing".to_owned(),
    };
    let by_name: BTreeMap<&str, &Table> = result.target.iter().map(|t| (t.table.as_str(), t)).collect();
    let known: BTreeSet<&str> = result.source.iter().map(|t| t.table.as_str()).collect();
    let subject = |table: &str| format!("table {table} ({})", result.check);
    let of_source = result.source.iter().map(|table| {
        let target = by_name.get(table.table.as_str()).copied();
        Check::equal(subject(&table.table), "rows", show(Some(table)), show(target))
    });
    let extra = result.target.iter().filter(|table| !known.contains(table.table.as_str()));
    of_source
        .chain(extra.map(|table| Check::equal(subject(&table.table), "rows", show(None), show(Some(table)))))
        .collect()
}

/// One check for the whole, then one a file that is named.
fn judge_files(result: &FilesResult) -> Vec<Check> {
    let show = |totals: &super::files::Totals| {
        format!("{} files, {} bytes, sum {:.16}", totals.files, totals.bytes, totals.digest())
    };
    let subject = format!("files of {} ({})", result.directory, result.check);
    let mut whole = Check::equal(subject.clone(), "sha256", show(&result.source), show(&result.target));
    if result.differences > 0 {
        whole.status = CheckStatus::Failed;
        let (all, named) = (result.differences, result.named.len());
        whole.note = Some(format!("differences: {all}, of which {named} are named below"));
    } else if result.source.files == 0 {
        whole.status = CheckStatus::Warning;
        whole.note = Some("there are no files on either side: nothing was proven".to_owned());
    }
    let file = |path: &str| format!("file {}/{path}", result.directory.trim_end_matches('/'));
    let mut checks = vec![whole];
    checks.extend(result.named.iter().map(|difference| {
        Check::equal(file(&difference.path), difference.what.clone(), &difference.source, &difference.target)
    }));
    if let Some(owner) = &result.owner_named {
        checks.push(Check {
            subject,
            what: "owner".to_owned(),
            source: owner.source.clone(),
            target: owner.target.clone(),
            status: CheckStatus::Warning,
            note: Some(format!(
                "{} entries have another owner; the first is {}",
                result.owner_differences, owner.path
            )),
        });
    }
    checks
}

fn judge(outputs: &Outputs) -> Evidence {
    let rows = outputs.rows.iter().flat_map(judge_rows);
    let files = outputs.files.iter().flat_map(judge_files);
    let mut evidence: Evidence = rows.chain(files).collect();
    for result in outputs.rows.iter().filter(|result| result.source.is_empty()) {
        evidence.checks.push(Check {
            subject: format!("tables ({})", result.check),
            what: "rows".to_owned(),
            source: "none".to_owned(),
            target: format!("{} tables", result.target.len()),
            status: CheckStatus::Warning,
            note: Some("the source has no table to compare: nothing was proven".to_owned()),
        });
    }
    evidence
}

/// What is remembered is no comparison of now, which is said where it isn't plain.
fn of_then(outputs: &Outputs, now: Timestamp) -> Option<Check> {
    let is_fresh = |at: Timestamp| now.duration_since(at).unsigned_abs() < FRESH;
    if outputs.compared_at.is_some_and(is_fresh) {
        return None;
    }
    let names = outputs.rows.iter().map(|r| &r.check).chain(outputs.files.iter().map(|f| &f.check));
    let names: Vec<&str> = names.map(String::as_str).collect();
    let then = outputs.compared_at.map_or_else(|| "earlier".to_owned(), |at| format!("{at:.0}"));
    Some(Check {
        subject: format!("comparisons ({})", names.join(", ")),
        what: "read".to_owned(),
        source: then.clone(),
        target: then,
        status: CheckStatus::Warning,
        note: Some("compared then and not since; `migrate verify --deep` compares again".to_owned()),
    })
}

#[async_trait]
impl TypedStep for VerifyData {
    const NAME: &'static str = "verify.data";
    const SUMMARY: &'static str = "Compares rows and files of both clusters by count and checksum";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("compare data of both clusters");
        let mut reached = Vec::new();
        for side in ["source", "target"] {
            let Some(cluster) = config.field::<ClusterRef>(side)? else { continue };
            match reach(ctx, &cluster, side).await {
                Ok((client, _)) => reached.push((cluster, client)),
                Err(problem) => plan.problems.push(*problem),
            }
        }
        if let [(source, from), (target, to)] = reached.as_slice() {
            plan.problems.extend(one_cluster(ctx, (source, from), (target, to), "target").await);
        }
        let Some(config) = config.known() else { return Ok(plan) };
        let names: Vec<&str> = config.checks.iter().map(|check| check.name.as_str()).collect();
        plan.summary = format!("compare on both clusters: {}", names.join(", "));
        plan.items = Some(config.checks.len() as u64);
        let problem = |e: StepError, prefix: String| {
            let mut problem = Problem::error(format!("{prefix}{}", e.message)).in_field("checks");
            problem.hint = e.hint;
            problem
        };
        if let Err(e) = config.check() {
            plan.problems.push(problem(e, String::new()));
        } else if plan.problems.iter().all(|problem| problem.severity != Severity::Error) {
            // The target's pods come with the restore; the source's must be there now.
            let client = connect(ctx, &config.source).await?;
            for check in &config.checks {
                if let Some(container) = check.container(&client)
                    && let Err(e) = container.ready().await
                {
                    plan.problems.push(problem(e, format!("{}: ", check.name)));
                }
            }
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let outputs = gather(ctx, config).await?;
        let evidence = judge(&outputs);
        for failed in evidence.failures() {
            ctx.warn(format!(
                "{}: {}: source {}, target {}",
                failed.subject, failed.what, failed.source, failed.target
            ));
        }
        ctx.info(format!("{} comparisons", evidence.checks.len()));
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        match depth {
            VerifyDepth::Quick => {
                let mut evidence = judge(outputs);
                evidence.checks.extend(of_then(outputs, Timestamp::now()));
                Ok(evidence)
            }
            VerifyDepth::Deep => Ok(judge(&gather(ctx, config).await?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::files::{Difference, Totals};
    use migrate_plugin_api::testing::RecordingHost;
    use serde_json::json;
    use std::sync::Arc;

    fn table(name: &str, rows: u64, checksum: &str) -> Table {
        Table { table: name.to_owned(), rows, checksum: checksum.to_owned() }
    }

    fn lines(evidence: &Evidence) -> String {
        let line = |c: &Check| {
            let note = c.note.as_deref().unwrap_or("-");
            format!("{:?} {} | {} | {} | {} | {note}", c.status, c.subject, c.what, c.source, c.target)
        };
        evidence.checks.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_lost_row_a_lost_table_and_a_changed_file_are_named() {
        let outputs = Outputs {
            rows: vec![RowsResult {
                check: "orders".into(),
                source: vec![table("orders", 200_000, "5"), table("items", 1, "1"), table("kept", 2, "7")],
                target: vec![table("orders", 199_999, "4"), table("kept", 2, "7"), table("new", 0, "0")],
            }],
            files: vec![FilesResult {
                check: "uploads".into(),
                directory: "/data".into(),
                source: Totals { files: 2, others: 1, bytes: 10, sum: [1, 0, 0, 0] },
                target: Totals { files: 2, others: 1, bytes: 10, sum: [2, 0, 0, 0] },
                differences: 1,
                named: vec![Difference {
                    path: "a.bin".into(),
                    what: "sha256".into(),
                    source: "00".into(),
                    target: "01".into(),
                }],
                owner_differences: 1,
                owner_named: Some(Difference {
                    path: "b".into(),
                    what: "owner".into(),
                    source: "0:0".into(),
                    target: "1:1".into(),
                }),
            }],
            compared_at: None,
        };
        let evidence = judge(&outputs);
        assert!(!evidence.passed());
        insta::assert_snapshot!(lines(&evidence));
    }

    #[test]
    fn a_pod_is_never_compared_with_itself() {
        let uids = |source: &str, target: &str| (Some(source.to_owned()), Some(target.to_owned()));
        assert!(refuse_same("orders", uids("a", "b")).is_ok());
        let error = refuse_same("orders", uids("a", "a")).unwrap_err();
        assert_eq!(error.message, "orders: source and target are the same pod");
    }

    #[test]
    fn a_database_is_never_compared_with_itself() {
        let reading = |server: &str| Reading { server: server.to_owned(), tables: vec![table("a", 1, "1")] };
        let (eks, aks) = (reading("2026-11-24 10:02:11.123456+00"), reading("2026-11-24 10:02:11.123457+00"));
        assert!(refuse_same_server("orders", &eks, &aks).is_ok());
        let error = refuse_same_server("orders", &eks, &eks).unwrap_err();
        assert_eq!(error.message, "orders: source and target are the same database server");
        assert!(!error.class.is_retryable() && error.hint.unwrap().contains("PGHOST"));
    }

    /// A finished node is looked at again without any cluster: it says so, and fails nothing.
    #[tokio::test]
    async fn what_was_compared_long_ago_is_told_to_be_of_then() {
        let same = vec![table("orders", 2, "5")];
        let result = RowsResult { check: "orders".into(), source: same.clone(), target: same };
        let files = FilesResult {
            check: "uploads".into(),
            source: Totals { files: 1, ..Totals::default() },
            target: Totals { files: 1, ..Totals::default() },
            ..FilesResult::default()
        };
        let quick = async |compared_at: Option<Timestamp>| {
            let outputs = Outputs { rows: vec![result.clone()], files: vec![files.clone()], compared_at };
            // As it is stored, also without the time.
            let outputs: Outputs = serde_json::from_value(serde_json::to_value(outputs).unwrap()).unwrap();
            let config =
                json!({ "source": { "context": "eks" }, "target": { "context": "aks" }, "checks": [] });
            let ctx = Arc::new(RecordingHost::default()).context("verify-data", "/nowhere");
            let config = serde_json::from_value(config).unwrap();
            VerifyData.verify(&ctx, &config, &outputs, VerifyDepth::Quick).await.unwrap()
        };
        let now = Timestamp::now();
        let warnings = |evidence: &Evidence| {
            assert!(evidence.passed());
            evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning).count()
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(warnings(&quick(Some(now)).await), 0);
        // A clock that is another machine's proves nothing.
        for then in [Some(now - hour), Some(now + hour), None] {
            assert_eq!(warnings(&quick(then).await), 1, "{then:?}");
        }
        let monday = quick(Some("2026-11-23T10:02:11.5Z".parse().unwrap())).await;
        let told = lines(&monday);
        insta::assert_snapshot!(told.lines().last().unwrap(), @"Warning comparisons (orders, uploads) | read | 2026-11-23T10:02:11Z | 2026-11-23T10:02:11Z | compared then and not since; `migrate verify --deep` compares again");
    }

    #[test]
    fn equal_data_passes_and_no_data_is_said() {
        let same = Totals { files: 1, others: 0, bytes: 1, sum: [1, 2, 3, 4] };
        let files = |totals| FilesResult { source: totals, target: totals, ..FilesResult::default() };
        let rows =
            |tables: Vec<Table>| RowsResult { check: "a".into(), source: tables.clone(), target: tables };
        let full = Outputs {
            rows: vec![rows(vec![table("a", 1, "1")])],
            files: vec![files(same)],
            ..Outputs::default()
        };
        assert!(judge(&full).checks.iter().all(|c| c.status == CheckStatus::Passed));
        let empty = Outputs {
            rows: vec![rows(Vec::new())],
            files: vec![files(Totals::default())],
            ..Outputs::default()
        };
        assert!(judge(&empty).checks.iter().all(|c| c.status == CheckStatus::Warning));
    }

    #[test]
    fn unusable_checks_are_named() {
        let message = |checks: serde_json::Value| {
            let config: Config = serde_json::from_value(json!({
                "source": { "context": "eks" }, "target": { "context": "aks" }, "checks": checks,
            }))
            .unwrap();
            config.check().map_or_else(|e| e.message, |()| "fine".to_owned())
        };
        let rows = json!({ "namespace": "shop", "pod": "postgres-0", "database": "shop", "user": "shop" });
        let files = json!({ "namespace": "shop", "pod": "files-0", "directory": "data" });
        let all = [
            message(json!([])),
            message(json!([{ "name": "a", "rows": rows }])),
            message(json!([{ "name": "a", "rows": rows, "files": files }])),
            message(json!([{ "name": "a", "files": files }])),
            message(json!([{ "name": "a", "rows": rows }, { "name": "a", "rows": rows }])),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }
}
