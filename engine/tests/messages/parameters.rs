//! Parameters, given and from a file.

use super::*;

#[test]
fn parameters() {
    let workflow = r#"schema = 1
name = "w"

[params.namespaces]
type = "list"
help = "Namespaces to migrate."

[params.mode]
type = "string"
enum = ["copy", "import"]
default = "move"

[params.wait]
type = "duration"
default = "5 minutes"

[params.password]
type = "string"
sensitive = true
default = "hunter2"

[params.count]
type = "int"

[params.limit]
type = "integer"

[params.labels]
type = "map"
hlep = "x"

[nodes.a]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = [] }
"#;
    let given = [
        ("limit", "many"),
        ("mode", "delete"),
        ("labels", "{ a = "),
        ("lable", "x"),
        ("password", "hunter3"),
    ];
    let text = wrong_in(workflow, ENVIRONMENT, &given);
    assert!(!text.contains("hunter"), "a secret given by mistake is not shown");
    insta::assert_snapshot!(text);
}

#[test]
fn parameters_from_a_file() {
    let workflow = r#"schema = 1
name = "w"

[params.namespaces]
type = "list"

[params.limit]
type = "integer"

[params.password]
type = "string"
sensitive = true

[nodes.a]
step = "velero.backup"
with = { cluster = "${env.source.cluster}", namespaces = "${params.namespaces}" }
"#;
    let file =
        Source::new("params.toml", "namespaces = \"shop\"\nlimt = 3\npassword = \"hunter2\"\nlimit = 1.5\n");
    let mut params = Params::new();
    params.read(&file).unwrap();
    let (workflow, environment) =
        (Source::new("w.toml", workflow), Source::new("migration.toml", ENVIRONMENT));
    let text = render(&engine().check(&workflow, &environment, &params).unwrap_err());
    assert!(!text.contains("hunter"), "a secret given by mistake is not shown");
    insta::assert_snapshot!(text);
    let misspelled = Source::new("params.toml", "namespaces = []\nlimit = 1\npasword = \"hunter2\"\n");
    let mut params = Params::new();
    params.read(&misspelled).unwrap();
    params.set("pass", "hunter3");
    let text = render(&engine().check(&workflow, &environment, &params).unwrap_err());
    assert!(!text.contains("hunter"), "a misspelled secret is not shown");
    insta::assert_snapshot!(text);
    let broken = Source::new("params.toml", "a = \nb = 1\nb = 2\n");
    insta::assert_snapshot!(render(&Params::new().read(&broken).unwrap_err()));
}
