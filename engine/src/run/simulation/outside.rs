//! The world outside of the engine: what steps have made there. It outlives every process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use migrate_plugin_api::{Idempotency, IdempotencyKey};
use serde_json::Value;

use crate::run::GateDecision;

/// What one node has made.
#[derive(Debug, Clone, Default)]
pub(super) struct Made {
    /// The config that the newest `apply` was called with.
    pub config: Option<Value>,
    /// Naturally idempotent: what stands there, and how many of its items.
    pub content: Option<(Value, u64)>,
    /// Keyed: the config and the end of each job, by key.
    pub jobs: BTreeMap<String, (Value, Duration)>,
    /// Neither: the config of every effect.
    pub effects: Vec<Value>,
    /// Somebody has broken it.
    pub damaged: bool,
    /// How often a person has said: do it again.
    pub approved: usize,
}

/// Everything, by node.
#[derive(Debug, Default)]
pub(super) struct Outside {
    pub nodes: BTreeMap<String, Made>,
    /// What people have decided about gates.
    pub decisions: BTreeMap<IdempotencyKey, GateDecision>,
}

/// Items that a config asks for.
pub(super) fn items(config: &Value) -> u64 {
    config["items"].as_u64().unwrap_or(1)
}

/// The output that a config leads to: the same for ever.
pub(super) fn value(config: &Value) -> u64 {
    fnv(0xcbf2_9ce4_8422_2325, config.to_string().as_bytes()) % 1000
}

/// FNV-1a.
pub(super) fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Outside {
    pub(super) fn node(&mut self, node: &str) -> &mut Made {
        self.nodes.entry(node.to_owned()).or_default()
    }

    /// A person decides, unless somebody was first.
    pub(super) fn decide(&mut self, decision: GateDecision) -> Option<GateDecision> {
        match self.decisions.entry(decision.key.clone()) {
            Entry::Occupied(first) => Some(first.get().clone()),
            Entry::Vacant(place) => {
                place.insert(decision);
                None
            }
        }
    }

    /// Whether exactly what `config` asks for stands there, whole, at `now`.
    pub(super) fn holds(&self, node: &str, kind: Idempotency, config: &Value, now: Duration) -> bool {
        let Some(made) = self.nodes.get(node) else { return false };
        !made.damaged
            && match kind {
                Idempotency::Natural => {
                    made.content.as_ref().is_some_and(|(of, done)| of == config && *done == items(config))
                }
                Idempotency::Keyed => made.jobs.values().any(|(of, end)| of == config && *end <= now),
                Idempotency::None => made.effects.last() == Some(config),
            }
    }
}
