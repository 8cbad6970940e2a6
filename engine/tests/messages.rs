//! Every message that the checker can give, as a person sees it. Each file here is wrong on purpose.

#[path = "messages/parameters.rs"]
mod parameters;
#[path = "messages/rare.rs"]
mod rare;
#[path = "messages/schemas.rs"]
mod schemas;
#[path = "messages/secrets.rs"]
mod secrets;

use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme};
use migrate_engine::{Diagnostics, Engine, Mistake, Params, Source};
use migrate_plugin_api::{
    Evidence, Idempotency, PlanConfig, SecretRef, Step, StepContext, StepError, StepPlan, Typed,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Cluster {
    context: String,
    kubeconfig: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Rename {
    from: String,
    to: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    Plain,
    Velero,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    cluster: Cluster,
    namespaces: Vec<String>,
    #[serde(default)]
    #[schemars(length(min = 1))]
    rename_images: Vec<Rename>,
    order: Option<Order>,
    count: Option<u32>,
    scratch: Option<Cluster>,
    password: Option<SecretRef>,
    registry: Option<Registry>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Registry {
    host: String,
    password: Option<SecretRef>,
    pin: Option<SecretRef>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Outputs {
    backup: String,
    objects: u64,
    images: Vec<String>,
    place: Cluster,
}

struct Backup;

#[async_trait]
impl TypedStep for Backup {
    const NAME: &'static str = "velero.backup";
    const SUMMARY: &'static str = "Only to be checked against";
    const IDEMPOTENCY: Idempotency = Idempotency::Keyed;
    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, _: &StepContext, _: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        unreachable!("checking calls no step")
    }
    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        unreachable!("checking calls no step")
    }
    async fn apply(&self, _: &StepContext, _: &Config) -> Result<Outputs, StepError> {
        unreachable!("checking calls no step")
    }
    async fn verify(
        &self,
        _: &StepContext,
        _: &Config,
        _: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        unreachable!("checking calls no step")
    }
}

const ENVIRONMENT: &str = r#"schema = 1

[source.cluster]
context = "eks"

[target.cluster]
contxt = "aks"
"#;

const GOOD: &str = r#"schema = 1
name = "good"

[params.namespaces]
type = "list"
help = "Namespaces to migrate."

[nodes.backup]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${params.namespaces}" }

[nodes.again]
step = "velero.backup"
when = "nodes.backup.objects > 0 && 'a' in params.namespaces"
with = { cluster = "${nodes.backup.place}", namespaces = "${nodes.backup.images}", count = "${nodes.backup.objects}" }
"#;

fn engine() -> Engine {
    Engine::open(".", vec![Arc::new(Typed(Backup)) as Arc<dyn Step>]).unwrap()
}

fn render(diagnostics: &Diagnostics) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110);
    let mut text = String::new();
    handler.render_report(&mut text, diagnostics).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn wrong_in(workflow: &str, environment: &str, params: &[(&str, &str)]) -> String {
    let mut given = Params::new();
    params.iter().for_each(|(name, text)| given.set(*name, *text));
    let workflow = Source::new("w.toml", workflow);
    match engine().check(&workflow, &Source::new("migration.toml", environment), &given) {
        Ok(_) => panic!("nothing was found"),
        Err(diagnostics) => render(&diagnostics),
    }
}

/// A workflow of these nodes.
fn wrong(nodes: &str) -> String {
    wrong_in(&format!("schema = 1\nname = \"w\"\n\n{nodes}"), ENVIRONMENT, &[])
}

#[test]
fn a_good_file_is_good() {
    let mut params = Params::new();
    params.set("namespaces", "shop, files");
    let (workflow, environment) = (Source::new("w.toml", GOOD), Source::new("migration.toml", ENVIRONMENT));
    let checked = engine().check(&workflow, &environment, &params).map_err(|d| render(&d)).unwrap();
    assert_eq!(checked.nodes().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["backup", "again"]);
    // Alone, what it needs is unknown and not missing.
    engine().validate(&workflow, None, &Params::new()).map_err(|d| render(&d)).unwrap();
}

/// What is no mistake and still told: it would be one in a run, or stands there for nobody.
#[test]
fn what_is_missing_for_a_run_or_stands_for_nobody_is_remarked() {
    let environment = "schema = 1\nrules = [\"ours.toml\"]\n[plugins.\"team.notify\"]\npath = \"x\"\n[source.cluster]\ncontext = \"eks\"\n[source.clustr]\n[stoer]\nurl = \"env:X\"\n[other]\nx = 1\n[target.gcp]\n[store]\n";
    let other = "schema = 1\nname = \"o\"\n[nodes.a]\nstep = \"velero.backup\"\nwith = { cluster = \"${env.target.cluster}\", namespaces = \"${env.other}\" }\n";
    let remarks = |params: &Params| {
        let (good, environment) = (Source::new("w.toml", GOOD), Source::new("migration.toml", environment));
        engine().remarks(&good, Some(&environment), params, &[Source::new("o.toml", other)])
    };
    insta::assert_snapshot!(remarks(&Params::new()).join("\n"), @"
    `namespaces` isn't given; a run needs it: --param namespaces=…
    no node refers to `source.clustr` of migration.toml; did you mean `cluster`?
    no node refers to `stoer` of migration.toml; did you mean `store`?
    no node refers to `target.gcp` of migration.toml
    ");
    let mut given = Params::new();
    given.set("namespaces", "shop");
    assert_eq!(remarks(&given).len(), 3);
}

#[test]
fn unknown_steps_and_fields() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.backup]
step = "velero.bakcup"
with = { cluster = "${env.source.cluster}", namespaces = [] }
timeuot = "6h"

[nodes.second]
step = "velero.backup"
with = { cluster = { context = "a", kubconfig = "x" }, namespces = [], rename-images = [{ from = "a", too = "b" }] }

[nodes.third]
with = []
"#
    ));
}

#[test]
fn a_mistake_in_the_environment_is_shown_there() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.restore]
step = "velero.backup"
with = { cluster = "${env.target.cluster}", namespaces = ["a"] }

[nodes.other]
step = "velero.backup"
with = { cluster = "${env.source.cluster.context}", namespaces = ["${env.sorce.cluster}"] }

[nodes.third]
step = "velero.backup"
with = { cluster = "${env.target.cluster}", namespaces = ["a"] }
"#
    ));
}

#[test]
fn references_to_nothing() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.backup]
step = "velero.backup"
needs = ["bakup", "restore", "restore", 3]
with = { cluster = "${env.source.clustr}", namespaces = "${params.namespaces}" }

[nodes.restore]
step = "velero.backup"
with = { cluster = "${nodes.backup.plac}", namespaces = "${nodes.bakcup.images}", count = "${nodes.backup.place.size}" }

[nodes.syntax]
step = "velero.backup"
with = { cluster = "${parms.x}", namespaces = ["${nodes}", "${env.source", "fine $${x}"] }
"#
    ));
}

#[test]
fn a_list_that_must_not_be_empty() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.a]
step = "velero.backup"
with = { cluster = { context = "x" }, namespaces = [], rename-images = [] }
"#
    ));
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.a]
step = "velero.backup"
with = { cluster = 3, namespaces = "shop", order = "sorted", count = -1 }
timeout = "6 hours"
retry = { attempts = 0, backoff = 5 }
on_failure = "explode"
pool = "writes"

[nodes.b]
step = "velero.backup"
with = { cluster = "${nodes.a.backup}", namespaces = ["x ${nodes.a.images}"], count = "${nodes.a.images}" }

[nodes.c]
step = 3
with = { cluster = "${env.source.cluster}", namespaces = ["in ${env.source.cluster}"] }

[nodes.d]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = ["in ${env.source.cluster}"], scratch = { kubeconfig = "x" } }

[nodes.Upper_Case]
step = "velero.backup"
"#
    ));
}

#[test]
fn limits_pools_and_gates() {
    insta::assert_snapshot!(wrong(
        r#"[pools]
writes = 4

[nodes.a]
step = "velero.backup"
timeout = "10m"
heartbeat = "15m"
retry = { attempts = 3, attempt_timeout = "10m", atempts = 2 }
pool = { name = "writes", weight = 5 }
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.b]
step = "velero.backup"
pool = { weight = "heavy" }
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.c]
step = "velero.backup"
pool = { name = "wirtes", weight = 2 }
heartbeat = 10
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.cutover]
step = "gate"
timeout = "1h"
retry = { attempts = 3 }
pool = "writes"
with = { mesage = "Switch over?" }

[nodes.d]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = ["${nodes.cutover.who}"] }
"#
    ));
}

#[test]
fn cycles() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.a]
step = "velero.backup"
needs = ["c"]
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.b]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${nodes.a.images}" }

[nodes.c]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${nodes.b.images}" }

[nodes.self]
step = "velero.backup"
needs = ["self"]
with = { cluster = "${env.source.cluster}", namespaces = [] }
"#
    ));
}

#[test]
fn conditions() {
    insta::assert_snapshot!(wrong(
        r#"[params.mode]
type = "string"
default = "copy"

[nodes.a]
step = "velero.backup"
when = "params.mode = 'copy'"
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.copy-backup]
step = "velero.backup"
when = "params.mod == 'copy' && nodes.copy-backup.objects > 0"
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.c]
step = "velero.backup"
when = "params.mode"
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.d]
step = "velero.backup"
when = "nodes.a.objcts > 0"
on_failure = "undo"
with = { cluster = "${env.source.cluster}", namespaces = [] }
"#
    ));
}

#[test]
fn lists() {
    insta::assert_snapshot!(wrong(
        r#"[params.namespaces]
type = "list"
default = ["shop", "files", "shop"]

[params.tables]
type = "list"
default = [{ name = "a" }, { nam = "b" }]

[nodes.plain]
step = "velero.backup"
key = "${each.value}"
max_parallel = 2
with = { cluster = "${env.source.cluster}", namespaces = ["${each.value}"] }

[nodes.twice]
step = "velero.backup"
for_each = "${params.namespaces}"
max_parallel = 0
with = { cluster = "${env.source.cluster}", namespaces = ["${each.valeu}", "${each.key.x}"] }

[nodes.text]
step = "velero.backup"
for_each = "shop"
key = "${each.index}-${params.namespaces}"
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.keyless]
step = "velero.backup"
for_each = "${params.tables}"
key = "${each.value.name}"
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.fields]
step = "velero.backup"
for_each = "${params.tables}"
with = { cluster = "${env.source.cluster}", namespaces = ["${each.value.name}"], count = "${each.value.name}" }

[nodes.late]
step = "velero.backup"
for_each = "${nodes.text[*].place}"
with = { cluster = "${each.value}", namespaces = "${each.value.contxt}", count = "${each.key}" }

[nodes.itself]
step = "velero.backup"
for_each = ["${each.value}", "${nodes.late[*].objects}"]
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.number]
step = "velero.backup"
for_each = "${nodes.plain.objects}"
with = { cluster = "${env.source.cluster}", namespaces = [] }
"#
    ));
}

#[test]
fn references_to_lists() {
    insta::assert_snapshot!(wrong(
        r#"[nodes.copy]
step = "velero.backup"
for_each = ["shop", "files"]
with = { cluster = "${env.source.cluster}", namespaces = ["${each.value}"] }

[nodes.late]
step = "velero.backup"
for_each = '${nodes.copy["shop"].images}'
with = { cluster = "${env.source.cluster}", namespaces = [] }

[nodes.wrong]
step = "velero.backup"
needs = ["copy[shop]"]
with = { cluster = "${nodes.copy[*].place}", namespaces = "${nodes.copy.images}", count = '${nodes.copy["shp"].objects}', rename-images = [{ from = "${nodes.late.backup}", to = '${nodes.late["x"].bakcup}' }] }

[nodes.plain]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${nodes.wrong[*].images}", count = "${nodes.copy[shop].objects}", order = "${nodes.copy}" }
"#
    ));
}

#[test]
fn sub_workflows() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, body: &str| {
        std::fs::write(dir.path().join(name), format!("schema = 1\nname = \"{name}\"\n{body}")).unwrap();
    };
    write(
        "images.toml",
        r#"
[params.namespaces]
type = "list"

[params.count]
type = "integer"
default = 1

[params.mode]
type = "string"
enum = ["copy", "import"]

[nodes.backup]
step = "velero.backup"
needs = ["bakup"]
with = { cluster = "${env.source.cluster}", namespaces = "${params.namespaces}", count = "${params.mode}" }

[nodes.second]
step = "velero.backup"
when = "params.mod == 'copy'"
with = { cluster = "${env.source.cluster}", namespaces = ["${params.namespaecs}", "in ${params.namespaces}"] }

[outputs]
place = "${nodes.backup.plcae}"
"#,
    );
    write("one.toml", "[nodes.two]\nstep = \"workflow\"\nwith = { file = \"two.toml\" }\n");
    write("two.toml", "[nodes.one]\nstep = \"workflow\"\nwith = { file = \"one.toml\" }\n");
    let parent = r#"schema = 1
name = "parent"

[nodes.images]
step = "workflow"
needs = ["nothing"]
with = { file = "images.toml", params = { namespaces = ["shop"], cuont = 3, count = "many", mode = "delete" } }

[nodes.again]
step = "workflow"
for_each = ["a"]
with = { file = "images.toml", params = { mode = "copy", count = "${nodes.bakcup.objects}" }, parms = {} }

[nodes.gone]
step = "workflow"
with = { file = "imags.toml" }

[nodes.outside]
step = "workflow"
with = { file = "../secret.toml" }

[nodes.unnamed]
step = "workflow"
with = { params = [] }

[nodes.circle]
step = "workflow"
with = { file = "one.toml" }

[nodes.last]
step = "velero.backup"
with = { cluster = "${nodes.images.plase}", namespaces = "${nodes.images.place}" }
"#;
    let workflow = Source::new(dir.path().join("parent.toml"), parent);
    let environment = Source::new("migration.toml", ENVIRONMENT);
    let diagnostics = match engine().check(&workflow, &environment, &Params::new()) {
        Ok(_) => panic!("nothing was found"),
        Err(diagnostics) => render(&diagnostics),
    };
    insta::assert_snapshot!(diagnostics.replace(&format!("{}/", dir.path().display()), ""));
}

#[test]
fn several_mistakes_in_one_node_and_in_what_it_refers_to() {
    insta::assert_snapshot!(wrong(
        r#"[pools]
writes = 0
reads = 8

[nodes.first]
step = "velero.backup"
pool = "red"
timeout = "90"
retry = { atempts = 3, max_backoff = "1 hour" }
needs = "second"
with = { cluster = "${nodes.second.place.context}", namespaces = ["${nodes.second.objects}"], order = "${nodes.second.backup}", rename-images = [{ from = "${nodes.second.backups}", to = 3 }] }

[nodes.second]
step = "velero.backup"
when = "nodes.first.objects"
with = { cluster = { context = "x" }, namespaces = ["a"], scratch = "${env.source}" }
"#
    ));
}

#[test]
fn the_form_of_the_files() {
    insta::assert_snapshot!(wrong_in("schema = 2\nnodes = 3\nnode = {}\n", "[source]\na = 1\n", &[]));
    insta::assert_snapshot!(wrong_in(
        "schema = 1\nname = \"w\"\n[nodes.a]\nstep = = 3\nwith = {\n",
        "schema = 1\n",
        &[]
    ));
    insta::assert_snapshot!(wrong_in(
        "schema = 1\nname = \"w\"\n[nodes.a]\nstep = \"velero.backup\"\nstep = \"x\"\n[nodes.a]\n",
        "schema = \"1\"\n",
        &[]
    ));
}

#[test]
fn hostile_files_are_refused_in_time() {
    let deep = format!(
        "schema = 1\nname = \"w\"\n[nodes.a]\nstep = \"x\"\nwith = {{ a = {}{} }}\n",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    assert!(wrong_in(&deep, ENVIRONMENT, &[]).contains("recurs"));
    let mut many = String::new();
    for at in 0..20_001 {
        many.push_str(&format!("[nodes.n{at}]\nstep = \"velero.backup\"\n"));
    }
    assert!(wrong(&many).contains("20001 nodes are more than the 20000 that are allowed"));
    let condition = format!(
        "[nodes.a]\nstep = \"velero.backup\"\nwhen = \"{}true{}\"\n",
        "(".repeat(1000),
        ")".repeat(1000)
    );
    assert!(wrong(&condition).contains("the condition is no CEL"));
    let unknown = "x = 1\n".to_owned() + &(0..500).map(|at| format!("x{at} = 1\n")).collect::<String>();
    assert!(wrong_in(&unknown, ENVIRONMENT, &[]).contains("found 100 mistakes"));
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big.toml");
    std::fs::write(&big, vec![b' '; 5 * 1024 * 1024]).unwrap();
    assert!(Source::read(&big).unwrap_err().to_string().contains("is larger than"));
}
