//! What is said of the command line itself: what it refuses, and where its options are told.

mod support;

use std::path::Path;

use support::{migrate, project, said, write};

/// Ends with `exit`; what it says.
#[track_caller]
fn ends(project: &Path, args: &[&str], exit: i32) -> String {
    let output = migrate(project, args).output().expect("migrate starts");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
    said
}

/// Of two values the first would be dropped, and what it names not be migrated.
#[test]
fn a_parameter_that_is_given_twice_is_refused() {
    let project = project();
    for command in ["validate", "plan", "run"] {
        let args = [command, "stateful", "-p", "namespaces=shop", "--param", "namespaces=web"];
        let said = ends(project.path(), &args, 2);
        let told = "--param namespaces is given twice; write a list as --param namespaces=a,b,c, or leave one of \
                    them out";
        assert!(said.contains(told), "{said}");
    }
    let args = ["resume", "-p", "images=copy", "-p", "images=import"];
    assert!(ends(project.path(), &args, 2).contains("--param images is given twice"));
    // A file gives way to it, and is no second one.
    write(project.path(), "params.toml", "namespaces = [\"web\"]\n");
    let args = ["validate", "stateless", "-p", "namespaces=shop", "--param-file", "params.toml"];
    assert!(!ends(project.path(), &args, 3).contains("given twice"));
}

#[test]
fn assess_says_what_it_may_look_at_and_takes_nothing_of_a_cluster_for_a_folder() {
    let project = project();
    write(project.path(), "a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n");
    let said = ends(project.path(), &["assess"], 2);
    assert!(said.contains("<PATH|--context <CONTEXT>>"), "{said}");
    for of_a_cluster in [&["-n", "shop"][..], &["--eks", "shop"], &["--context", "eks", "-n", "shop"]] {
        let said = ends(project.path(), &[&["assess", "."], of_a_cluster].concat(), 2);
        assert!(said.contains("cannot be used with"), "{said}");
    }
    let said = ends(project.path(), &["assess", "--context", "eks"], 2);
    assert!(said.contains("--namespace <NAMESPACE>"), "{said}");
    ends(project.path(), &["assess", "."], 0);
}

/// What every command takes is in a page, and in the help.
#[test]
fn global_options_and_variables_are_told() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let help = ends(project().path(), &["--help"], 0);
    let (_, options) = help.split_once("Options:").expect("its options");
    let options = options.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
    let options: Vec<&str> = options.filter(|word| !["--help", "--version"].contains(word)).collect();
    assert!(options.contains(&"--project") && options.contains(&"--json"), "{help}");
    for word in options.into_iter().chain(["MIGRATE_PROJECT", "MIGRATE_LOG", "--param-file", "--level"]) {
        assert!(page.contains(&format!("`{word}")), "{word} is not in docs/json.md");
    }
    assert!(help.contains("MIGRATE_PROJECT") && help.contains("MIGRATE_LOG"), "{help}");
}
