//! What the checker knows of sub-workflows: what they are given, and what they give back.

use std::collections::BTreeSet;

use migrate_plugin_api::NodeId;

use super::check::Checker;
use super::has_unknown;
use super::model::{Node, OnFailure, Output, ParamType, Part, Retry};
use super::params::accept;
use super::schema;
use super::template::{Lookup, Reference, Root, Template, TemplateKind};

impl Checker<'_> {
    /// Checks what stands in the places of sub-workflows, and all outputs.
    pub(super) fn parts(&mut self) {
        let workflow = self.workflow;
        for part in &workflow.parts {
            let given = part.given.iter().map(|(_, value)| value.clone()).collect();
            self.stand_in(&part.id, &part.file, given, part);
            for (param, value) in &part.given {
                self.given(part, param.kind, value, |value| accept(param, value).map(drop), &param.name);
            }
            self.outputs(&part.id, &part.source, &part.outputs);
        }
        if let Ok(id) = NodeId::plain("outputs") {
            self.outputs(&id, &workflow.file, &workflow.outputs);
        }
        self.file = workflow.file.clone();
    }

    fn stand_in(&mut self, id: &NodeId, file: &super::Source, values: Vec<Template>, part: &Part) {
        self.file = file.clone();
        let mut node = stand_in(id, file, values);
        node.when.clone_from(&part.when);
        for reference in node.own_references() {
            self.reference(&node, reference, false);
        }
    }

    fn outputs(&mut self, id: &NodeId, file: &super::Source, outputs: &[Output]) {
        self.file = file.clone();
        let node = stand_in(id, file, outputs.iter().map(|output| output.value.clone()).collect());
        for reference in node.own_references() {
            self.reference(&node, reference, false);
        }
    }

    /// A value against the parameter that it is given for.
    fn given(
        &mut self,
        part: &Part,
        kind: ParamType,
        template: &Template,
        accept: impl Fn(serde_json::Value) -> Result<(), String>,
        name: &str,
    ) {
        let mut errors = Vec::new();
        let lookup = |reference: &Reference| match self.lookup(reference) {
            Lookup::Missing => Lookup::Unknown,
            other => other,
        };
        let value = template.resolve_all(&lookup, &mut errors);
        let source = part.source.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let source = source.unwrap_or_default();
        let why = match &template.kind {
            TemplateKind::Reference(reference) if reference.root == Root::Nodes => {
                let node = stand_in(&part.id, &part.file, Vec::new());
                let types = self.reference_type(&node, reference);
                let expected = BTreeSet::from([json_type_of(kind)]);
                types.filter(|types| !schema::compatible(types, &expected)).map(|types| {
                    format!("is {}, but must be {}", schema::spell(&types), schema::spell(&expected))
                })
            }
            _ if has_unknown(&value) || !errors.is_empty() => None,
            _ => accept(value).err(),
        };
        if let Some(why) = why {
            let message = format!("parameter `{name}` of `{source}` {why}");
            self.mistakes.add(&part.file, template.span.clone(), "wrong-type", message);
        }
    }
}

fn json_type_of(kind: ParamType) -> &'static str {
    match kind {
        ParamType::String | ParamType::Duration => "string",
        ParamType::Integer => "integer",
        ParamType::Boolean => "boolean",
        ParamType::List => "array",
        ParamType::Map => "object",
    }
}

/// A node that only has references, so that they are checked as those of any node.
fn stand_in(id: &NodeId, file: &super::Source, values: Vec<Template>) -> Node {
    Node {
        id: id.clone(),
        file: file.clone(),
        span: 0..0,
        step: String::new(),
        step_span: 0..0,
        with: (0..0, TemplateKind::List(values)).into(),
        for_each: None,
        needs: Vec::new(),
        when: None,
        guards: Vec::new(),
        inherited: Vec::new(),
        timeout: None,
        retry: Retry::default(),
        heartbeat: None,
        pool: None,
        weight: 1,
        pool_span: 0..0,
        on_failure: OnFailure::default(),
    }
}
