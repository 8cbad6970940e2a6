//! Checksums over what is stored, so that what is lost or altered is told. Pure.
//!
//! They find damage (a flipped bit, a lost or an old page), not forgery: who can write the file can
//! write its sums. Facts are chained. Everything without an order is summed by XOR, so that one
//! change costs one sum however much there is.

use aws_lc_rs::digest;
use migrate_plugin_api::{NodeId, RunId};

/// Bytes of a checksum that are kept: two in 2^64 are equal by accident.
const SUM_BYTES: usize = 8;

/// A checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum([u8; SUM_BYTES]);

impl Sum {
    /// Over `parts`, each with its length, so that no two lists of parts look the same.
    pub(crate) fn over(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        Self::of(context)
    }

    /// The next link of the chain over a run's facts. Its form is the one of the first version.
    pub(crate) fn chain(before: Option<Self>, at: &str, body: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(before.as_ref().map_or(&[], |sum| &sum.0));
        context.update(at.as_bytes());
        context.update(b"\n");
        context.update(body.as_bytes());
        Self::of(context)
    }

    /// Adds `other` to a set of sums, or takes it out again.
    pub(crate) fn toggle(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, other)| *mine ^= other);
    }

    /// As stored; `None` if it is none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn of(context: digest::Context) -> Self {
        let mut kept = [0; SUM_BYTES];
        kept.copy_from_slice(&context.finish().as_ref()[..SUM_BYTES]);
        Self(kept)
    }
}

/// Over a cursor or a handle (`kind`) of a node.
pub(crate) fn of_place(run: &RunId, node: &NodeId, kind: &str, value: &str) -> Sum {
    Sum::over(&[run.as_str().as_bytes(), node.as_str().as_bytes(), kind.as_bytes(), value.as_bytes()])
}

/// Over the row of a run.
pub(crate) fn of_run(id: &str, workflow: &str, definition: &str, started_at: &str) -> Sum {
    Sum::over(&[id.as_bytes(), workflow.as_bytes(), definition.as_bytes(), started_at.as_bytes()])
}

/// How much there must be of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub run: String,
    pub started_at: String,
    /// The generation of the write that made it; 0 where that was not kept.
    pub created: u64,
    pub run_sum: Sum,
    pub facts: u64,
    /// The last link of their chain; nothing when there are none.
    pub facts_sum: Option<Sum>,
    pub places_sum: Sum,
}

impl Head {
    pub(crate) fn sum(&self) -> Sum {
        let (facts, created) = (self.facts.to_be_bytes(), self.created.to_be_bytes());
        let mut parts = vec![
            self.run.as_bytes(),
            self.started_at.as_bytes(),
            self.run_sum.bytes(),
            &facts,
            self.facts_bytes(),
            self.places_sum.bytes(),
        ];
        // Sums of heads without it stay what they are.
        if self.created > 0 {
            parts.push(&created);
        }
        Sum::over(&parts)
    }

    /// Sorts heads by when their runs were made.
    pub(crate) fn age(&self) -> (u64, &str, &str) {
        (self.created, &self.started_at, &self.run)
    }

    pub(crate) fn facts_bytes(&self) -> &[u8] {
        self.facts_sum.as_ref().map_or(&[], Sum::bytes)
    }
}

/// What the store knows of itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Whole {
    /// Made with the store: tells it from another.
    pub id: String,
    /// How often the right to write was taken.
    pub epoch: u64,
    /// How many writes there have been.
    pub generation: u64,
    pub heads_sum: Sum,
}

impl Whole {
    pub(crate) fn sum(&self) -> Sum {
        Sum::over(&[
            self.id.as_bytes(),
            &self.epoch.to_be_bytes(),
            &self.generation.to_be_bytes(),
            self.heads_sum.bytes(),
        ])
    }
}
