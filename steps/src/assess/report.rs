//! Findings put together: by workload, with how ready each is, how much work is left, and in which
//! order they go. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estate::Estate;
use crate::rules::{Finding, RuleKind, RuleSet, RuleSeverity};

/// A workload with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WorkloadReport {
    /// `Deployment shop/web`; `other objects` for what belongs to none.
    pub name: String,
    /// 100: nothing to do by hand. See `docs/assess.md`.
    pub readiness: u8,
    /// A person's work, roughly.
    pub hours: f32,
    /// With which others it goes, from 1; 0 for what belongs to none.
    pub wave: usize,
    /// Findings that are rewritten with the inputs given.
    pub rewritten: usize,
    /// Findings that wait for an input.
    pub waiting: usize,
    /// Findings for a person.
    pub manual: usize,
    /// Workloads that it needs.
    pub needs: Vec<String>,
}

/// The whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Assessment {
    /// Objects looked at.
    pub objects: u64,
    /// Files looked at; 0 for a cluster.
    pub files: u64,
    /// Links and the like in the folder, which were not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What could not be read for want of a right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// Of all workloads together.
    pub readiness: u8,
    /// A person's work, roughly.
    pub hours: f32,
    /// Keys of `migration.toml` that are missing, and how many findings wait for each.
    pub needs: BTreeMap<String, usize>,
    /// By readiness, the least ready first.
    pub workloads: Vec<WorkloadReport>,
    /// Names of workloads by wave.
    pub waves: Vec<Vec<String>>,
    /// Every finding, the most severe first.
    pub findings: Vec<Finding>,
}

/// What a finding takes from 100.
fn penalty(finding: &Finding) -> u32 {
    if finding.rewritten {
        return 0;
    }
    let by_input = finding.action != RuleKind::Manual;
    match (finding.severity, by_input) {
        (RuleSeverity::Error, false) => 20,
        (RuleSeverity::Error, true) => 8,
        (RuleSeverity::Warning, false) => 8,
        (RuleSeverity::Warning, true) => 3,
        (RuleSeverity::Info, _) => 0,
    }
}

/// By what findings of a severity are sorted.
fn place(finding: &Finding) -> impl Ord + '_ {
    let Finding { rule, namespace, kind, name, file, line, path, .. } = finding;
    (rule, namespace, kind, name, file, line, path)
}

/// Each rule counts once: the second place of the same kind is known by then.
fn rated(findings: &[&Finding], of_rules: &BTreeMap<&str, f32>) -> (u8, f32) {
    let mut worst: BTreeMap<&str, u32> = BTreeMap::new();
    let mut hours: BTreeMap<&str, f32> = BTreeMap::new();
    for finding in findings {
        let taken = worst.entry(&finding.rule).or_default();
        *taken = (*taken).max(penalty(finding));
        if !finding.rewritten && finding.severity > RuleSeverity::Info {
            hours.insert(&finding.rule, of_rules.get(finding.rule.as_str()).copied().unwrap_or(0.0));
        }
    }
    let taken: u32 = worst.values().sum();
    (u8::try_from(100_u32.saturating_sub(taken)).unwrap_or(0), total(hours.into_values()))
}

/// Their sum. Of no hours it is 0, where `sum` says -0.
fn total(hours: impl Iterator<Item = f32>) -> f32 {
    hours.fold(0.0, |sum, more| sum + more)
}

impl Assessment {
    /// Of everything that was found in an estate.
    pub(crate) fn new(
        mut findings: Vec<Finding>,
        estate: &Estate,
        rules: &RuleSet,
        objects: u64,
        files: u64,
    ) -> Self {
        findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| place(a).cmp(&place(b))));
        let groups = estate.groups();
        let mut by_workload: BTreeMap<Option<usize>, Vec<&Finding>> = BTreeMap::new();
        for finding in &findings {
            let key = (finding.kind.clone(), finding.namespace.clone(), finding.name.clone());
            by_workload.entry(groups.of.get(&key).copied()).or_default().push(finding);
        }
        let name = |at: usize| {
            let (kind, namespace, name) = &groups.workloads[at];
            if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
        };
        let (none, hours) = (Vec::new(), rules.hours());
        let report = |at: Option<usize>| {
            let found = by_workload.get(&at).unwrap_or(&none);
            let (readiness, work) = rated(found, &hours);
            let count = |passes: &dyn Fn(&Finding) -> bool| found.iter().filter(|f| passes(f)).count();
            WorkloadReport {
                name: at.map_or_else(|| "other objects".to_owned(), name),
                readiness,
                hours: work,
                wave: at.map_or(0, |at| groups.waves[at]),
                rewritten: count(&|f| f.rewritten),
                waiting: count(&|f| !f.rewritten && f.action != RuleKind::Manual),
                manual: count(&|f| !f.rewritten && f.action == RuleKind::Manual),
                needs: at
                    .map(|at| groups.needs[at].iter().map(|other| name(*other)).collect())
                    .unwrap_or_default(),
            }
        };
        let mut workloads: Vec<WorkloadReport> =
            (0..groups.workloads.len()).map(|at| report(Some(at))).collect();
        if by_workload.contains_key(&None) {
            workloads.push(report(None));
        }
        let mut waves = vec![Vec::new(); groups.waves.iter().copied().max().unwrap_or(0)];
        for workload in workloads.iter().filter(|workload| workload.wave > 0) {
            waves[workload.wave - 1].push(workload.name.clone());
        }
        workloads.sort_by_key(|workload| (workload.wave == 0, workload.readiness));
        let mut needs: BTreeMap<String, usize> = BTreeMap::new();
        for need in findings.iter().flat_map(|finding| finding.needs.iter().collect::<BTreeSet<_>>()) {
            *needs.entry(need.clone()).or_default() += 1;
        }
        let sum: u32 = workloads.iter().map(|workload| u32::from(workload.readiness)).sum();
        let readiness = sum.checked_div(u32::try_from(workloads.len()).unwrap_or(u32::MAX)).unwrap_or(100);
        Self {
            objects,
            files,
            left_out: Vec::new(),
            unreadable: Vec::new(),
            readiness: u8::try_from(readiness).unwrap_or(0),
            hours: total(workloads.iter().map(|workload| workload.hours)),
            needs,
            workloads,
            waves,
            findings,
        }
    }
}
