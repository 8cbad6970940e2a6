//! `when`: a CEL expression over `params`, `env` and the outputs of `nodes`.
//!
//! Names with `-` are reached by index, `nodes['copy-backup'].count`, since CEL reads `a-b` as a
//! subtraction.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::objects::{Key, Map as CelMap};
use cel::{Context, Env, Value as CelValue};
use migrate_plugin_api::NodeId;
use serde_json::{Map, Value};

use super::diagnostic::{Mistakes, Source};
use super::schema::has_unknown;
use super::template::{Lookup, Reference, Root, Template};
use super::tree::Span;

/// Longest expression. The parser's effort grows with it.
const MAX_CHARS: usize = 2_048;

/// Deepest expression. The parser goes through a dozen functions a level, the evaluation too.
const MAX_DEPTH: u16 = 16;

/// Stack of the thread that parses. The generated parser overflows a usual stack (2 MiB) of a build
/// without optimisation before it notices its own limit of depth.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

/// The functions of CEL. Made once: there are many of them.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A parsed condition.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub text: String,
    pub span: Span,
    /// What it looks at.
    pub references: Vec<Reference>,
    roots: Vec<Root>,
    /// What it looks at as a whole, as in `has(env.x)`.
    wholes: Vec<Root>,
    /// The file that it is written in.
    pub file: Source,
    /// The sub-workflow that it is in.
    pub at: Option<NodeId>,
    /// What its names stand for, where sub-workflows are.
    pub bound: Option<Vec<Binding>>,
    /// What it asks of them, as written.
    pub asked: Vec<(String, Template)>,
    expression: Arc<IdedExpr>,
}

/// Conditions of a file that are parsed, by their text: many nodes often have the same one.
pub(crate) type Parsed = HashMap<String, Arc<IdedExpr>>;

/// What a name in a condition stands for.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub root: Root,
    pub name: String,
    pub value: Template,
}

impl Condition {
    /// Parses `text`, which stands at `span`.
    pub(crate) fn parse(
        text: &str,
        span: &Span,
        file: &Source,
        parsed: &mut Parsed,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        if text.len() > MAX_CHARS {
            let message = format!("the condition is longer than {MAX_CHARS} characters");
            mistakes.add(file, span.clone(), "invalid-condition", message);
            return None;
        }
        let expression = match parsed.get(text).cloned().map_or_else(|| parse(text).map(Arc::new), Ok) {
            Ok(expression) => expression,
            Err(why) => {
                mistakes
                    .add(file, span.clone(), "invalid-condition", format!("the condition is no CEL: {why}"))
                    .help("as in `params.mode == 'copy' && nodes['pull-images'].count > 0`");
                return None;
            }
        };
        let mut walk = Walk {
            bound: Vec::new(),
            roots: Vec::new(),
            wholes: Vec::new(),
            references: Vec::new(),
            unknown: Vec::new(),
            span,
        };
        walk.visit(&expression);
        for name in &walk.unknown {
            mistakes
                .add(file, span.clone(), "invalid-condition", format!("the condition uses `{name}`, which is nothing"))
                .suggest(name, ["params", "env", "nodes", "each"])
                .help("it can use `params`, `env`, `nodes` and, with `for_each`, `each`; reach a name with `-` by index: `nodes['copy-backup'].count`");
        }
        let (roots, wholes, references) = (walk.roots, walk.wholes, walk.references);
        parsed.insert(text.to_owned(), Arc::clone(&expression));
        let (text, span, file) = (text.to_owned(), span.clone(), file.clone());
        Some(Self {
            text,
            span,
            references,
            roots,
            wholes,
            file,
            at: None,
            bound: None,
            asked: Vec::new(),
            expression,
        })
    }

    /// Puts what its names stand for into `scope`, as far as it is known.
    pub(crate) fn bind<'v>(&self, scope: &mut Map<String, Value>, lookup: &dyn Fn(&Reference) -> Lookup<'v>) {
        let Some(bound) = &self.bound else { return };
        let (mut params, mut nodes) = (Map::new(), Map::new());
        for binding in bound {
            let value = binding.value.resolve(lookup).ok().filter(|value| !has_unknown(value));
            let names = if binding.root == Root::Nodes { &mut nodes } else { &mut params };
            names.extend(value.map(|value| (binding.name.clone(), value)));
        }
        scope.insert("params".to_owned(), Value::Object(params));
        scope.insert("nodes".to_owned(), Value::Object(nodes));
    }

    /// Whether it depends on the item.
    pub(crate) fn looks_at_each(&self) -> bool {
        self.looks_at(Root::Each)
    }

    /// Whether it names `root` at all, be it as a whole.
    pub(crate) fn looks_at(&self, root: Root) -> bool {
        self.roots.contains(&root)
    }

    /// Whether it asks `root` as a whole.
    pub(crate) fn looks_at_whole(&self, root: Root) -> bool {
        self.wholes.contains(&root)
    }

    /// Whether the node runs. `scope` has `params`, `env`, `nodes` and, for an item, `each`.
    ///
    /// # Errors
    /// Why there is no yes or no.
    pub(crate) fn evaluate(&self, scope: &Map<String, Value>) -> Result<bool, String> {
        let mut context = Context::with_env(Arc::clone(&LANGUAGE));
        for (name, value) in scope {
            context.add_variable_from_value(name.as_str(), to_cel(value));
        }
        match CelValue::resolve(&self.expression, &context) {
            Ok(CelValue::Bool(yes)) => Ok(yes),
            Ok(other) => {
                let kind = format!("{:?}", other.type_of()).to_lowercase();
                Err(format!("its value is of type {kind}, not true or false"))
            }
            Err(error) => {
                let text = error.to_string();
                Err(text.chars().take(200).collect())
            }
        }
    }
}

fn parse(text: &str) -> Result<IdedExpr, String> {
    let parser = || {
        let parser = cel::parser::Parser::new().max_recursion_depth(MAX_DEPTH);
        parser.parse(text).map_err(|errors| {
            let first =
                errors.errors.first().map(|error| error.msg.lines().next().unwrap_or_default().to_owned());
            first.unwrap_or_default()
        })
    };
    let guarded =
        || std::panic::catch_unwind(parser).unwrap_or_else(|_| Err("the parser gave up".to_owned()));
    with_stack(guarded).unwrap_or_else(|error| Err(error.to_string()))
}

thread_local! {
    static HAS_STACK: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` where conditions can be parsed. A thread for each condition would cost more than its
/// parsing, so a reader of many does all its work in here.
///
/// # Errors
/// When there can't be such a thread.
pub(crate) fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    if HAS_STACK.get() {
        return Ok(work());
    }
    let work = || {
        HAS_STACK.set(true);
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn to_cel(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(yes) => CelValue::Bool(*yes),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => CelValue::Int(signed),
            (None, Some(unsigned)) => CelValue::UInt(unsigned),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| (Key::String(Arc::new(key.clone())), to_cel(value));
            CelValue::Map(CelMap { map: Arc::new(map.iter().map(entry).collect::<HashMap<_, _>>()) })
        }
    }
}

struct Walk<'a> {
    bound: Vec<String>,
    roots: Vec<Root>,
    wholes: Vec<Root>,
    references: Vec<Reference>,
    unknown: Vec<String>,
    span: &'a Span,
}

impl Walk<'_> {
    fn visit(&mut self, expression: &IdedExpr) {
        if let Some(path) = constant_path(expression) {
            self.path(path);
            return;
        }
        match &expression.expr {
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
            Expr::Select(select) => self.visit(&select.operand),
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.visit(target));
                call.args.iter().for_each(|arg| self.visit(arg));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(structure) => structure.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Comprehension(inner) => {
                self.visit(&inner.iter_range);
                self.visit(&inner.accu_init);
                let before = self.bound.len();
                self.bound.extend([inner.iter_var.clone(), inner.accu_var.clone()]);
                self.bound.extend(inner.iter_var2.clone());
                self.visit(&inner.loop_cond);
                self.visit(&inner.loop_step);
                self.visit(&inner.result);
                self.bound.truncate(before);
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
        }
    }

    fn path(&mut self, mut path: Vec<String>) {
        let name = path.remove(0);
        if self.bound.contains(&name) || name.starts_with('@') {
            return;
        }
        let root = match name.as_str() {
            "params" => Root::Params,
            "env" => Root::Env,
            "nodes" => Root::Nodes,
            "each" => Root::Each,
            _ => {
                self.unknown.push(name);
                return;
            }
        };
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
        if !path.is_empty() {
            self.references.push(Reference { root, path, span: self.span.clone(), is_passed: false });
        } else if root == Root::Nodes {
            self.unknown.push("nodes (as a whole)".to_owned());
        } else {
            self.wholes.push(root);
        }
    }
}

/// `a.b['c'].d` as its segments, where every one is constant. A presence test, `has(a.b)`, stops
/// before what it tests.
fn constant_path(expression: &IdedExpr) -> Option<Vec<String>> {
    match &expression.expr {
        Expr::Ident(name) => Some(vec![name.clone()]),
        Expr::Select(select) => {
            let mut path = constant_path(&select.operand)?;
            if !select.test {
                path.push(select.field.clone());
            }
            Some(path)
        }
        Expr::Call(call) if call.func_name == "_[_]" && call.target.is_none() && call.args.len() == 2 => {
            let mut path = constant_path(&call.args[0])?;
            match &call.args[1].expr {
                Expr::Literal(LiteralValue::String(text)) => path.push(text.inner().to_owned()),
                Expr::Literal(LiteralValue::Int(number)) => path.push(number.inner().to_string()),
                _ => return None,
            }
            Some(path)
        }
        _ => None,
    }
}
