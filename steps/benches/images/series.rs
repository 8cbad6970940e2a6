//! Figures over rounds: median, least and most.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::figures::{median, spread};

/// Everything that was measured: by what, then by figure, one value for each round.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

impl Table {
    /// One figure of one round.
    pub fn add(&mut self, name: &str, figure: &str, value: f64) {
        if matches!(figure, "wall-s" | "cpu-s" | "peak-mib" | "requests" | "sent-mib" | "twice-mib") {
            eprintln!("bench:   {name}: {figure} {value:.2}");
        }
        self.rows.entry(name.to_owned()).or_default().entry(figure.to_owned()).or_default().push(value);
    }

    /// The median of a figure.
    pub fn median(&self, name: &str, figure: &str) -> Option<f64> {
        median(self.rows.get(name)?.get(figure)?)
    }

    /// `figure` of one thing as a multiple of another's, round by round, in the median.
    pub fn ratio(&self, of: &str, to: &str, figure: &str) -> Option<f64> {
        let (of, to) = (self.rows.get(of)?.get(figure)?, self.rows.get(to)?.get(figure)?);
        median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>())
    }

    /// Everything, by name.
    pub fn to_json(&self) -> Value {
        let row = |figures: &BTreeMap<String, Vec<f64>>| {
            figures.iter().map(|(name, values)| (name.clone(), spread(values))).collect::<Map<_, _>>()
        };
        self.rows.iter().map(|(name, found)| (name.clone(), row(found).into())).collect::<Map<_, _>>().into()
    }
}
