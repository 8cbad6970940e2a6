//! Figures over rounds: median, least and most.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::figures::{median, rounded, spread};
use crate::process::Cost;

/// Everything that was measured: by name, then by figure, one value for each round.
#[derive(Default)]
pub struct Table(BTreeMap<String, BTreeMap<String, Vec<f64>>>);

impl Table {
    /// One measured process, and the requests it made.
    pub fn add(&mut self, name: &str, cost: Cost, requests: &BTreeMap<String, u64>) {
        let all: u64 = requests.values().sum();
        eprintln!(
            "bench:   {name}: {:.3} s, {:.2} s of CPU, {:.0} MiB, {all} requests",
            cost.wall_s, cost.cpu_s, cost.peak_mib
        );
        let mut figures = vec![
            ("wall-s".to_owned(), cost.wall_s),
            ("cpu-s".to_owned(), cost.cpu_s),
            ("peak-mib".to_owned(), cost.peak_mib),
            ("requests".to_owned(), all as f64),
        ];
        figures.extend(requests.iter().map(|(kind, count)| (format!("requests {kind}"), *count as f64)));
        let row = self.0.entry(name.to_owned()).or_default();
        for (figure, value) in figures {
            row.entry(figure).or_default().push(value);
        }
    }

    /// The median of a figure.
    pub fn median(&self, name: &str, figure: &str) -> Option<f64> {
        median(self.0.get(name)?.get(figure)?)
    }

    /// A figure of one thing as a multiple of another's, round by round, in the median.
    pub fn ratio(&self, of: &str, to: &str, figure: &str) -> Option<f64> {
        let (of, to) = (self.0.get(of)?.get(figure)?, self.0.get(to)?.get(figure)?);
        median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>())
    }

    /// The largest of a figure over all whose name begins so.
    pub fn most(&self, prefix: &str, figure: &str) -> Option<f64> {
        let rows = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        rows.filter_map(|(_, row)| row.get(figure)).flatten().copied().reduce(f64::max)
    }

    /// Everything, by name.
    pub fn to_json(&self) -> Value {
        let row = |row: &BTreeMap<String, Vec<f64>>| -> Map<String, Value> {
            row.iter().map(|(figure, values)| (figure.clone(), spread_or_one(values))).collect()
        };
        self.0.iter().map(|(name, found)| (name.clone(), row(found).into())).collect::<Map<_, _>>().into()
    }
}

/// One figure where all are alike.
fn spread_or_one(values: &[f64]) -> Value {
    match values {
        [first, rest @ ..] if rest.iter().all(|value| value == first) => json!(rounded(*first)),
        _ => spread(values),
    }
}
