//! The Python SDK and the plugins that a new one is made from, by their own tests.

use std::path::Path;
use std::process::Command;

fn passes(program: &str, arguments: &[&str], folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("the interpreter starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_python_sdk_keeps_its_promises() {
    passes("python3", &["-W", "error", "test_migrate_step.py"], "python");
}

#[test]
fn the_python_template_passes_its_own_test() {
    passes("python3", &["-W", "error", "test.py"], "../templates/python");
}

#[test]
fn the_shell_template_passes_its_own_test() {
    passes("sh", &["test.sh"], "../templates/sh");
}
