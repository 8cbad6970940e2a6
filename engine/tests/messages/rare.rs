//! Mistakes that few people make.

use super::*;

/// A folder with these files, and what is wrong with `w.toml` in it.
fn wrong_files(files: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, body) in files {
        std::fs::write(dir.path().join(name), format!("schema = 1\nname = \"w\"\n{body}")).unwrap();
    }
    let workflow = Source::read(dir.path().join("w.toml")).unwrap();
    let environment = Source::new("migration.toml", ENVIRONMENT);
    match engine().check(&workflow, &environment, &Params::new()) {
        Ok(_) => panic!("nothing was found"),
        Err(diagnostics) => render(&diagnostics).replace(&format!("{}/", dir.path().display()), ""),
    }
}

#[test]
fn a_sub_workflow_has_no_limits_of_its_own() {
    let parent = "[params.which]\ntype = \"string\"\ndefault = \"a.toml\"\n\
        [pools]\np = 2\n\
        [nodes.limited]\nstep = \"workflow\"\ntimeout = \"1h\"\npool = \"p\"\nheartbeat = \"1m\"\non_failure = \"undo\"\n\
        retry = { attempts = 2 }\nwith = { file = \"a.toml\" }\n\
        [nodes.chosen]\nstep = \"workflow\"\nwith = { file = \"${params.which}\" }\n\
        [nodes.fileless]\nstep = \"workflow\"\nwith = { params = {} }\n";
    let child = "[nodes.a]\nstep = \"velero.backup\"\nwith = { cluster = \"${env.source.cluster}\", namespaces = [] }\n";
    insta::assert_snapshot!(wrong_files(&[("w.toml", parent), ("a.toml", child)]));
}

#[test]
fn files_are_nested_so_deep_and_no_deeper() {
    let part =
        |at: usize| format!("[nodes.n]\nstep = \"workflow\"\nwith = {{ file = \"f{}.toml\" }}\n", at + 1);
    let files: Vec<(String, String)> = (0..12)
        .map(|at| (if at == 0 { "w.toml".to_owned() } else { format!("f{at}.toml") }, part(at)))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, body)| (name.as_str(), body.as_str())).collect();
    insta::assert_snapshot!(wrong_files(&files));
}

#[test]
fn values_that_stand_for_nothing_or_too_much() {
    let nodes = r#"[params.n]
type = "integer"
default = 99999999999999999999

[params.table]
type = "map"
default = { a = 1 }

[nodes.a]
step = "velero.backup"
with = { cluster = "${params.table.b}", namespaces = [] }

[nodes.b]
step = "velero.backup"
when = "size(nodes) > 0"
with = { cluster = "${env.source.cluster}", namespaces = [], count = inf }

[nodes.keys]
step = "velero.backup"
for_each = [{ name = ["x"] }, { name = "a[b]" }]
key = "${each.value.name}"
with = { cluster = "${env.source.cluster}", namespaces = ["${each.value.other}"] }

[nodes.key]
step = "velero.backup"
for_each = [{ name = "a[b]" }]
key = "${each.value.name}"
with = { cluster = "${env.source.cluster}", namespaces = ["${each.value.other}"] }
"#;
    insta::assert_snapshot!(wrong(nodes));
}

#[test]
fn a_condition_has_so_many_characters_and_no_more() {
    let text = wrong(&format!(
        "[nodes.a]\nstep = \"velero.backup\"\nwhen = \"1 == {}1\"\nwith = {{ cluster = \"${{env.source.cluster}}\", namespaces = [] }}\n",
        "1 + ".repeat(600)
    ));
    let told = text.lines().find(|line| line.contains("× the condition"));
    insta::assert_snapshot!(told.unwrap_or_default().trim(), @"× the condition is longer than 2048 characters");
}

#[test]
fn a_list_has_so_many_items_and_no_more() {
    let items: Vec<String> = (0..20_001).map(|at| at.to_string()).collect();
    let text = wrong(&format!(
        "[nodes.many]\nstep = \"velero.backup\"\nfor_each = [{}]\nwith = {{ cluster = \"${{env.source.cluster}}\", namespaces = [] }}\n",
        items.join(",")
    ));
    let told: Vec<&str> = text.lines().filter(|line| line.contains("20001") && line.contains('×')).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_file_without_nodes_or_of_other_bytes() {
    insta::assert_snapshot!(wrong(""));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w.toml"), b"name = \"\xff\"").unwrap();
    let error = Source::read(dir.path().join("w.toml")).unwrap_err().to_string();
    insta::assert_snapshot!(error.replace(&format!("{}/", dir.path().display()), ""), @"w.toml is not UTF-8 text");
}
