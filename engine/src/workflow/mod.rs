//! TOML → [`Checked`]: pure, and every mistake in one pass.
//!
//! `tree` (a file with places) → `parse` ([`Workflow`](model::Workflow)) → `expand` (sub-workflows) →
//! `graph` (edges, order,
//! cycles) → `check` (steps, references, types) → [`Checked`]. Nothing here does I/O except
//! [`Source::read`], which bounds the size of a file. Rules that a user relies on:
//!
//! - A string that is exactly one reference takes the referenced value with its type; in a longer
//!   string, references are written as text and must be scalars.
//! - A reference to a node's outputs waits for that node, as `needs` does.
//! - A node whose `when` is false is skipped. `needs` on a skipped node is satisfied; a node that
//!   *refers* to a skipped node's outputs, in `with` or `when`, is skipped too.
//! - What a skipped node would need of the environment may be missing.
//! - A node with `for_each` runs once for each item of its list; to others it is a map from the keys
//!   of its items to their outputs. Who waits for it waits for all of them.

mod check;
mod check_each;
mod check_parts;
mod condition;
mod diagnostic;
pub(crate) mod duration;
pub(crate) mod each;
mod editor;
mod environment;
mod expand;
mod graph;
pub(crate) mod model;
mod params;
mod parse;
mod remarks;
mod resolve;
mod schema;
mod secrets;
mod site;
mod template;
pub(crate) mod tree;
mod wording;

use std::collections::BTreeMap;

use jsonschema::Validator;
use migrate_plugin_api::{Idempotency, NodeId, StepInfo};
use serde_json::Value;

pub(crate) use check::{dotted, refers_to_skipped};
pub(crate) use diagnostic::Mistakes;
pub use diagnostic::{Diagnostics, Mistake, ReadError, Source, nearest};
pub(crate) use each::{Each, Item};
pub(crate) use expand::Library;
pub(crate) use model::NodeOutline;
pub use params::Params;
pub(crate) use remarks::remarks;
pub(crate) use resolve::{Decision, Digest, Expansion, Outcomes, Resolved, resolved};
use schema::has_unknown;
pub(crate) use template::{ALL, Lookup, Reference, node_of};
pub(crate) use wording::{Wording, place};

use check::{Checker, Skipped};
use environment::Environment;
use model::Workflow;
use parse::Reader;

/// A step's description with its schema made ready.
pub(crate) struct Described {
    pub info: StepInfo,
    pub validator: Validator,
    /// [`Step::keeps_cursor`](migrate_plugin_api::Step::keeps_cursor).
    pub keeps_cursor: bool,
    /// Why nothing can be asked of it, if so: a plugin that is broken.
    pub unusable: Option<String>,
}

/// Every known step, by name.
pub(crate) type Catalog = BTreeMap<String, Described>;

/// Whether a known step's effect is the same however often it is made.
pub(crate) fn is_natural(catalog: &Catalog, step: &str) -> bool {
    catalog.get(step).is_some_and(|described| described.info.idempotency == Idempotency::Natural)
}

/// Whether a known step may be applied again without its effect being there twice.
pub(crate) fn is_repeatable(catalog: &Catalog, step: &str) -> bool {
    catalog.get(step).is_some_and(|described| described.info.idempotency != Idempotency::None)
}

/// A workflow, its environment and its parameters, all checked together. Can be planned and run.
#[derive(Debug, Clone)]
pub struct Checked {
    pub(crate) workflow: Workflow,
    pub(crate) environment: Environment,
    pub(crate) params: BTreeMap<String, Option<Value>>,
    /// Nodes that certainly don't run, and why.
    pub(crate) skipped: Skipped,
}

impl Checked {
    /// The workflow's name.
    pub fn name(&self) -> &str {
        &self.workflow.name
    }

    /// Its description.
    pub fn description(&self) -> Option<&str> {
        self.workflow.description.as_deref()
    }

    /// Nodes with their steps, in an order in which they may run.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &str)> {
        self.workflow.nodes.iter().map(|node| (&node.id, node.step.as_str()))
    }
}

/// The JSON Schema of workflow files.
pub(crate) fn workflow_schema(catalog: &Catalog) -> Value {
    editor::workflow(catalog)
}

/// The JSON Schema of `migration.toml`, as far as `workflows` refer to it.
pub(crate) fn environment_schema(catalog: &Catalog, workflows: &[Source]) -> Result<Value, Diagnostics> {
    let mut mistakes = Mistakes::default();
    let read: Vec<Workflow> =
        workflows.iter().filter_map(|file| Reader::of(file, &mut mistakes).workflow()).collect();
    mistakes.into_result()?;
    Ok(editor::environment(catalog, &read))
}

/// Checks a workflow, which may hold those of `library`, with everything that it needs.
pub(crate) fn check(
    catalog: &Catalog,
    library: &Library,
    workflow: &Source,
    environment: &Source,
    params: &Params,
) -> Result<Checked, Diagnostics> {
    let mut mistakes = Mistakes::default();
    let parts = examine((catalog, library), workflow, Some(environment), params, false, &mut mistakes);
    mistakes.into_result()?;
    match parts {
        Some((workflow, Some(environment), params, skipped)) => {
            Ok(Checked { workflow, environment, params, skipped })
        }
        // Both are only missing together with a mistake.
        _ => Err(Diagnostics::unreadable(workflow)),
    }
}

/// Checks a workflow with what there is of its surroundings. A step that can't be used is a mistake here, where
/// none is asked; a run hears it from the step.
pub(crate) fn validate(
    catalog: &Catalog,
    library: &Library,
    workflow: &Source,
    environment: Option<&Source>,
    params: &Params,
) -> Result<(), Diagnostics> {
    let mut mistakes = Mistakes::default();
    let parts = examine((catalog, library), workflow, environment, params, true, &mut mistakes);
    if let Some((workflow, _, _, skipped)) = parts {
        for node in workflow.nodes.iter().filter(|node| !skipped.contains_key(&node.id)) {
            if let Some(why) = catalog.get(&node.step).and_then(|described| described.unusable.as_ref()) {
                let message = format!("step `{}` can't be used: {why}", node.step);
                mistakes
                    .add(&node.file, node.step_span.clone(), "unusable-step", message)
                    .help(format!("`migrate steps {}` shows where it comes from", node.step));
            }
        }
    }
    mistakes.into_result()
}

type Parts = (Workflow, Option<Environment>, BTreeMap<String, Option<Value>>, Skipped);

fn examine(
    (catalog, library): (&Catalog, &Library),
    workflow: &Source,
    environment: Option<&Source>,
    params: &Params,
    partial: bool,
    mistakes: &mut Mistakes,
) -> Option<Parts> {
    let read = match condition::with_stack(|| Reader::of(workflow, &mut *mistakes).workflow()) {
        Ok(read) => read,
        Err(error) => {
            let message = format!("the file can't be read for want of memory: {error}");
            mistakes.add(workflow, 0..0, "unreadable", message);
            None
        }
    };
    let environment = environment.and_then(|file| Environment::parse(file, mistakes));
    let mut workflow = read?;
    expand::expand(&mut workflow, library, mistakes);
    if let Some(environment) = &environment {
        site::fill(&mut workflow, catalog, environment);
    }
    graph::arrange(&mut workflow, mistakes);
    let params = params::resolve(&workflow, params, partial, mistakes);
    let checker = Checker {
        catalog,
        workflow: &workflow,
        environment: environment.as_ref(),
        params: &params,
        mistakes,
        file: workflow.file.clone(),
    };
    let skipped = { checker }.nodes();
    Some((workflow, environment, params, skipped))
}
