//! Names that are made, not chosen: runs and idempotency keys.

use jiff::Timestamp;
use migrate_plugin_api::{IdempotencyKey, NodeId, RunId};
use serde_json::json;

use crate::workflow::Digest;

/// Hexadecimal digits of a key: 40 bits tell apart all attempts one project will ever make.
const KEY_HEX: usize = 10;

/// Longest DNS label.
const MAX_LABEL: usize = 63;

/// `NODE-0123456789`: the same for the same run, node, config and generation, and so for every
/// attempt. A valid DNS label; a long node name is cut.
pub(crate) fn idempotency_key(
    run: &RunId,
    node: &NodeId,
    digest: &Digest,
    generation: u32,
) -> IdempotencyKey {
    let sum = match generation {
        // As it was before there were generations: their outside things must be found again.
        0 => Digest::of(&json!([run, node, digest])),
        _ => Digest::of(&json!([run, node, digest, generation])),
    };
    let stem = node.stem(MAX_LABEL - KEY_HEX - 1);
    IdempotencyKey::new(format!("{stem}-{}", &sum.0[..KEY_HEX]))
        .expect("a cut node name and hexadecimal digits are a DNS label")
}

/// `20260131-235959-3f9a`: sorts by time, and can be said on the phone.
pub(crate) fn run_id(now: Timestamp, random: u16) -> RunId {
    RunId::new(format!("{}-{random:04x}", now.strftime("%Y%m%d-%H%M%S")))
        .expect("digits, hyphens and hexadecimal are a run ID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_deterministic_labels() {
        let run = run_id(Timestamp::UNIX_EPOCH, 0x3f9a);
        assert_eq!(run.as_str(), "19700101-000000-3f9a");
        let long = NodeId::new(format!("{}-{}", "a".repeat(51), "b".repeat(11))).unwrap();
        let digest = Digest("d".to_owned());
        let key = idempotency_key(&run, &long, &digest, 0);
        assert_eq!(key, idempotency_key(&run, &long, &digest, 0));
        assert!(key.as_str().len() <= MAX_LABEL && !key.as_str().contains("--"), "{key}");
        assert_ne!(key, idempotency_key(&run, &long, &Digest("e".to_owned()), 0));
        let generations = [0, 1, 2].map(|generation| idempotency_key(&run, &long, &digest, generation));
        assert!(generations[0] != generations[1] && generations[1] != generations[2]);
        // Outside things made by earlier versions are named so.
        let backup = NodeId::new("backup").unwrap();
        assert_eq!(idempotency_key(&run, &backup, &digest, 0).as_str(), "backup-2b8d48cf48");
        let item = |name: &str| idempotency_key(&run, &NodeId::new(name).unwrap(), &digest, 0);
        assert!(item("copy[Shop.v1]").as_str().starts_with("copy-shop-v1-"), "{}", item("copy[Shop.v1]"));
        assert_ne!(item("copy[a.b]"), item("copy[a-b]"), "items of one config are things of their own");
    }
}
