//! The JSON Schemas for editors, beside the checker.

use super::*;

fn from_toml(text: &str) -> serde_json::Value {
    toml::from_str(text).unwrap()
}

#[test]
fn the_schema_for_editors_takes_what_the_checker_takes() {
    let schema = engine().workflow_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong = |text: &str| -> Vec<String> {
        validator.iter_errors(&from_toml(text)).map(|e| format!("{}: {e}", e.instance_path())).collect()
    };
    assert_eq!(wrong(GOOD), Vec::<String>::new());
    let head = "schema = 1\nname = \"w\"\n[nodes.a]\nstep = \"velero.backup\"\n";
    let with = "with = { cluster = \"${env.source.cluster}\", namespaces = [\"${params.x}\", \"a\"]";
    for rest in [
        ", order = \"${params.order}\", count = \"${nodes.b.n}\" }",
        ", order = \"plain\", count = 3, rename-images = [{ from = \"a\", to = \"${env.x}\" }] }\ntimeout = \"1h30m\"\nretry = { attempts = 5, backoff = \"1s\" }\nneeds = [\"b\"]\nwhen = \"true\"\non_failure = \"continue\"",
        ", rename-images = \"${env.renames}\", scratch = { context = \"c\" } }",
    ] {
        assert_eq!(wrong(&format!("{head}{with}{rest}\n")), Vec::<String>::new(), "{rest}");
    }
}

/// What of the mistakes above a schema can express. Each is checked to be a mistake for the checker
/// too, so that the schema is never the stricter of the two.
#[test]
fn the_schema_for_editors_refuses_what_it_can_express() {
    let schema = engine().workflow_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let node = |body: &str| format!("schema = 1\nname = \"w\"\n[nodes.a]\n{body}\n");
    let with = |fields: &str| {
        let good = "cluster = \"${env.source.cluster}\", namespaces = []";
        node(&format!("step = \"velero.backup\"\nwith = {{ {good}{fields} }}"))
    };
    let top = |rest: &str| format!("{}{rest}\n", with(""));
    let files = [
        ("an unknown step", node("step = \"velero.bakcup\"")),
        ("no step", node("with = {}")),
        ("a step that is no string", node("step = 3")),
        ("no config where fields are required", node("step = \"velero.backup\"")),
        ("a missing field", node("step = \"velero.backup\"\nwith = { namespaces = [] }")),
        ("an unknown field of a step", with(", namespace = \"a\"")),
        ("an unknown field deep in a step", with(", rename-images = [{ from = \"a\", too = \"b\" }]")),
        ("a wrong type", with(", count = \"many\"")),
        ("a number that is too small", with(", count = -1")),
        ("an unknown choice", with(", order = \"sorted\"")),
        ("a missing field in a choice", with(", scratch = { kubeconfig = \"x\" }")),
        ("an unknown field of a node", top("timeuot = \"6h\"")),
        ("a duration", top("timeout = \"6 hours\"")),
        ("attempts", top("retry = { attempts = 0 }")),
        ("on_failure", top("on_failure = \"explode\"")),
        ("needs", top("needs = [3]")),
        ("a name twice in needs", top("needs = [\"b\", \"b\"]")),
        ("an unknown field of the file", format!("nods = {{}}\n{}", with(""))),
        ("another form", with("").replace("schema = 1", "schema = 2")),
        ("no name", with("").replace("name = \"w\"\n", "")),
        ("a name that is none", with("").replace("[nodes.a]", "[nodes.Upper_Case]")),
        ("an unknown type of a parameter", top("[params.x]\ntype = \"int\"")),
        ("an unknown field of a parameter", top("[params.x]\ntype = \"map\"\nhlep = \"x\"")),
        ("a pool of no size", top("[pools]\nwrites = 0")),
        ("no nodes", "schema = 1\nname = \"w\"\n".to_owned()),
    ];
    for (what, file) in files {
        assert!(!validator.is_valid(&from_toml(&file)), "{what} is valid for the schema");
        wrong_in(&file, ENVIRONMENT, &[]);
    }
}

#[test]
fn the_schema_of_the_environment_asks_for_what_workflows_refer_to() {
    let schema = engine().environment_schema(&[Source::new("w.toml", GOOD)]).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let cluster = |rest: &str| from_toml(&format!("schema = 1\n[source.cluster]\n{rest}\n[more]\na = 1\n"));
    assert!(validator.is_valid(&cluster("context = \"eks\"")));
    assert!(!validator.is_valid(&cluster("contxt = \"eks\"")));
    assert!(!validator.is_valid(&cluster("context = 3")));
    assert!(!validator.is_valid(&from_toml("[source.cluster]\ncontext = \"eks\"")));
    let store = |rest: &str| cluster(&format!("context = \"eks\"\n[store]\n{rest}"));
    assert!(validator.is_valid(&store("url = \"env:URL\"\nproject = \"shop\"")));
    assert!(!validator.is_valid(&store("url = \"env:URL\"\nprojct = \"shop\"")));
}
