//! What of EKS is something else on AKS: rules as data and code, for live objects and files alike.
//! The design is in `docs/design/rules.md`.

pub(crate) mod code;
pub(crate) mod document;
mod engine;
pub(crate) mod exposure;
pub(crate) mod facts;
mod finding;
mod inputs;
mod lists;
pub(crate) mod object;
pub(crate) mod path;
pub(crate) mod quantity;
mod rewriting;
mod rule;
mod set;
pub(crate) mod subscription;
mod target;

pub use finding::Finding;
pub use inputs::{IngressTarget, Inputs, QueueTarget};
pub use rule::{Condition, Effect, Example, Rule, RuleError, RuleKind, RuleSeverity};
pub use set::RuleSet;
pub use subscription::{CoreQuota, Subscription, VmSize};
pub use target::{NodeSize, Quota, Target};

pub(crate) use rewriting::Change;

#[cfg(test)]
mod examples_tests;
#[cfg(test)]
mod ingress_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod nlb_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod secret_tests;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
