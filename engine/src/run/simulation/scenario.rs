//! The workflow of a seed: which nodes, which steps, which edges, and what may go wrong.

use std::fmt::Write;

use migrate_plugin_api::Idempotency;

use super::dice::Dice;
use crate::run::gate::GATE;

/// Most nodes of a simulated workflow.
const MAX_NODES: u64 = 12;

/// Most lives in which something goes wrong.
const MAX_TROUBLED_LIVES: u64 = 5;

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub name: String,
    pub kind: Idempotency,
    /// Everything it waits for.
    pub needs: Vec<String>,
    pub pooled: bool,
    /// It runs once for each item of a list, so that its outputs are no plain values.
    listed: bool,
    /// It waits for a person.
    pub gate: bool,
    with: String,
    /// What it needs without taking its outputs.
    plain: Vec<String>,
    more: String,
}

/// A workflow and how hard its world is.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub nodes: Vec<Node>,
    pub pool: usize,
    /// Lives in which things go wrong.
    pub troubled_lives: u64,
    /// Of a thousand calls of steps, how many fail in some way.
    pub call_faults: u64,
    /// Of a thousand questions about the outside, how many can't be answered.
    pub ignorance: u64,
    /// Failures and people have the run undone.
    pub undone: bool,
    /// People ask for nodes and all downstream of them again.
    pub fickle: bool,
}

impl Scenario {
    pub(super) fn new(seed: u64) -> Self {
        let mut scenario = Self::without_people(seed);
        // A stream of its own: worlds without people are as they always were.
        let mut dice = Dice::new(seed, 5);
        if dice.chance(400) {
            scenario.add_gates(&mut dice);
        }
        scenario.undone = dice.chance(300);
        if scenario.undone {
            let open = scenario.nodes.iter_mut().filter(|node| !node.more.contains("on_failure"));
            open.filter(|_| dice.chance(400)).for_each(|node| node.more.push_str("on_failure = \"undo\"\n"));
        }
        scenario.fickle = dice.chance(200);
        // Another one, for the same reason.
        let mut dice = Dice::new(seed, 6);
        if dice.chance(100) {
            scenario.begin_with_gates(&mut dice);
        }
        scenario
    }

    /// Gates before everything else, so that nothing is at work beside the answers to them.
    fn begin_with_gates(&mut self, dice: &mut Dice) {
        let gates: Vec<String> = (0..2 + dice.below(2)).map(|at| format!("first{at}")).collect();
        for node in self.nodes.iter_mut().filter(|node| node.needs.is_empty()) {
            let gate = &gates[dice.below(gates.len() as u64) as usize];
            node.needs.push(gate.clone());
            node.plain.push(gate.clone());
        }
        for name in gates {
            let (kind, with) = (Idempotency::Natural, "message = \"begin?\"".to_owned());
            let more = dice.pick(&["", "on_failure = \"continue\"\n"]).to_owned();
            let (needs, plain) = (Vec::new(), Vec::new());
            self.nodes.push(Node {
                name,
                kind,
                needs,
                pooled: false,
                listed: false,
                gate: true,
                with,
                plain,
                more,
            });
        }
    }

    /// Some gates between nodes, and some that nobody waits for.
    fn add_gates(&mut self, dice: &mut Dice) {
        let count = self.nodes.len() as u64;
        for at in 0..1 + dice.below(3) {
            let name = format!("g{at}");
            let question = dice.pick(&["go on?", "go on with ${env.site.version}?"]);
            let (mut with, mut more) = (format!("message = \"{question}\""), String::new());
            let listed = dice.chance(300);
            if listed {
                with = format!("message = \"${{each.value}}: {question}\"");
                let _ = writeln!(more, "for_each = [\"a\", \"b\"]\nmax_parallel = {}", 1 + dice.below(2));
            }
            let after = dice.below(count + 1) as usize;
            let plain: Vec<String> =
                self.nodes[..after].last().map(|node| node.name.clone()).into_iter().collect();
            for node in &mut self.nodes[after..count as usize] {
                if dice.chance(500) {
                    node.needs.push(name.clone());
                    node.plain.push(name.clone());
                }
            }
            let (kind, needs) = (Idempotency::Natural, plain.clone());
            self.nodes.push(Node { name, kind, needs, pooled: false, listed, gate: true, with, plain, more });
        }
    }

    fn without_people(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let count = 1 + dice.below(MAX_NODES);
        let mut nodes: Vec<Node> = Vec::new();
        for at in 0..count {
            nodes.push(node(at, &nodes, &mut dice));
        }
        Self {
            nodes,
            pool: 1 + dice.below(3) as usize,
            troubled_lives: dice.below(MAX_TROUBLED_LIVES + 1),
            call_faults: dice.pick(&[0, 30, 100, 300]),
            ignorance: dice.pick(&[0, 100, 500]),
            undone: false,
            fickle: false,
        }
    }

    /// A small world in which only what the caller does goes wrong.
    pub(super) fn quiet(seed: u64, nodes: usize) -> Self {
        let mut scenario = Self::without_people(seed);
        while scenario.nodes.len() < nodes {
            let at = scenario.nodes.len() as u64;
            let next = node(at, &scenario.nodes, &mut Dice::new(seed, 100 + at));
            scenario.nodes.push(next);
        }
        scenario.nodes.truncate(nodes);
        Self { call_faults: 0, ignorance: 0, troubled_lives: 1, ..scenario }
    }

    /// The node, also by the name of one of its items.
    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        let whole = name.split('[').next();
        self.nodes.iter().find(|node| Some(node.name.as_str()) == whole)
    }

    /// The workflow file.
    pub(super) fn workflow(&self) -> String {
        let mut text = format!("schema = 1\nname = \"simulated\"\n[pools]\np = {}\n", self.pool);
        // Not in an order in which they may run: that is for the engine to find.
        for node in self.nodes.iter().rev() {
            let step = if node.gate { GATE } else { step_name(node.kind) };
            let (name, with, more) = (&node.name, &node.with, &node.more);
            let _ = write!(text, "[nodes.{name}]\nstep = \"{step}\"\nwith = {{ {with} }}\n{more}");
            if !node.plain.is_empty() {
                let plain: Vec<String> = node.plain.iter().map(|name| format!("\"{name}\"")).collect();
                let _ = writeln!(text, "needs = [{}]", plain.join(", "));
            }
        }
        text
    }

    /// The environment file in its `version`.
    pub(super) fn environment(version: u64) -> String {
        format!("schema = 1\n[site]\nversion = {version}\n")
    }
}

/// The name of the simulated step of this kind.
pub(super) fn step_name(kind: Idempotency) -> &'static str {
    match kind {
        Idempotency::Natural => "sim.natural",
        Idempotency::Keyed => "sim.keyed",
        Idempotency::None => "sim.none",
    }
}

fn node(at: u64, before: &[Node], dice: &mut Dice) -> Node {
    let kind = dice.pick(&[
        Idempotency::Natural,
        Idempotency::Natural,
        Idempotency::Keyed,
        Idempotency::Keyed,
        Idempotency::None,
    ]);
    let mut with = format!("items = {}", 1 + dice.below(4));
    let mut more = String::new();
    let mut needs = Vec::new();
    if dice.chance(150) {
        with.push_str(", site = \"${env.site.version}\"");
    }
    let mut plain = Vec::new();
    for (index, other) in before.iter().enumerate() {
        // Sparse enough that much can go on at once.
        if !dice.chance((1500 / before.len() as u64).min(600)) {
            continue;
        }
        needs.push(other.name.clone());
        match dice.below(8) {
            _ if other.listed => plain.push(other.name.clone()),
            0 if !more.contains("when") => {
                let _ = writeln!(more, "when = \"nodes.{}.even\"", other.name);
            }
            0..4 => {
                let _ = write!(with, ", in{index} = \"${{nodes.{}.value}}\"", other.name);
            }
            _ => plain.push(other.name.clone()),
        }
    }
    let listed = dice.chance(200);
    if listed {
        let from = before.iter().rfind(|other| needs.contains(&other.name) && !other.listed);
        let list = match from {
            Some(other) if dice.chance(700) => format!("\"${{nodes.{}.list}}\"", other.name),
            _ => "[\"a\", \"b\", \"c\"]".to_owned(),
        };
        with.push_str(", item = \"${each.value}\"");
        let _ = writeln!(more, "for_each = {list}\nmax_parallel = {}", 1 + dice.below(3));
    }
    if dice.chance(300) {
        let _ = writeln!(more, "retry = {{ attempts = {} }}", 1 + dice.below(5));
    }
    if dice.chance(300) {
        let _ = writeln!(more, "timeout = \"{}s\"", 60 + dice.below(120));
    }
    if dice.chance(300) {
        more.push_str("on_failure = \"continue\"\n");
    }
    let pooled = dice.chance(300);
    if pooled {
        more.push_str("pool = \"p\"\n");
    }
    Node { name: format!("n{at}"), kind, needs, pooled, listed, gate: false, with, plain, more }
}
