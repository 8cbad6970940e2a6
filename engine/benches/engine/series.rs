//! Figures over rounds: median, least and most.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::figures::{median, spread};

/// One thing that was measured.
#[derive(Default)]
struct Row {
    nodes: usize,
    /// By name of the figure, one for each round.
    figures: BTreeMap<String, Vec<f64>>,
}

/// Everything that was measured.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, Row>,
}

impl Table {
    /// One figure of one round.
    pub fn add(&mut self, name: &str, nodes: usize, figure: &str, value: f64) {
        if figure == "wall-s" {
            eprintln!("bench:   {name}: {value:.3} s");
        }
        let row = self.rows.entry(name.to_owned()).or_default();
        row.nodes = nodes;
        row.figures.entry(figure.to_owned()).or_default().push(value);
    }

    /// The median of a figure.
    pub fn median(&self, name: &str, figure: &str) -> Option<f64> {
        median(self.rows.get(name)?.figures.get(figure)?)
    }

    /// The median over rounds of what one node more costs, in milliseconds: from the time of the
    /// whole process, so that what its start costs does not count.
    pub fn node_ms(&self, short: &str, long: &str) -> Option<f64> {
        median(&self.slopes(short, long)?)
    }

    /// How many times as long a node of `slow` takes, round by round, in the median; of what had fewer
    /// rounds, median by median.
    pub fn times(&self, slow: [&str; 2], fast: [&str; 2]) -> Option<f64> {
        multiple(&self.slopes(slow[0], slow[1])?, &self.slopes(fast[0], fast[1])?)
    }

    /// `figure` of one thing as a multiple of another's, in the manner of [`Table::times`].
    pub fn ratio(&self, of: &str, to: &str, figure: &str) -> Option<f64> {
        let of = self.rows.get(of)?.figures.get(figure)?;
        let to = self.rows.get(to)?.figures.get(figure)?;
        multiple(of, to)
    }

    fn slopes(&self, short: &str, long: &str) -> Option<Vec<f64>> {
        let (short, long) = (self.rows.get(short)?, self.rows.get(long)?);
        let nodes = (long.nodes - short.nodes) as f64;
        let pairs = short.figures.get("wall-s")?.iter().zip(long.figures.get("wall-s")?);
        Some(pairs.map(|(short, long)| (long - short) * 1_000.0 / nodes).collect())
    }

    /// Everything, by name.
    pub fn to_json(&self) -> Value {
        let row = |row: &Row| {
            let mut fields = Map::from_iter([("nodes".to_owned(), json!(row.nodes))]);
            fields.extend(row.figures.iter().map(|(name, values)| (name.clone(), spread(values))));
            Value::Object(fields)
        };
        self.rows.iter().map(|(name, found)| (name.clone(), row(found))).collect::<Map<_, _>>().into()
    }
}

fn multiple(of: &[f64], to: &[f64]) -> Option<f64> {
    if of.len() != to.len() {
        return Some(median(of)? / median(to)?);
    }
    median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>())
}
