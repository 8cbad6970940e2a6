//! Wrong input is told before anything is touched.

use std::fs;
use std::path::Path;

use migrate_tests::Sandbox;

/// The shipped workflow and the sandbox's site, each changed by `edit`, run: the exit code and
/// what was said.
fn run_with(
    sandbox: &Sandbox,
    workflow: impl Fn(String) -> String,
    site: impl Fn(String) -> String,
) -> (Option<i32>, String) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflows/stateful.toml");
    let file = sandbox.project().join("changed.toml");
    fs::write(&file, workflow(fs::read_to_string(shipped).unwrap())).unwrap();
    let output = sandbox
        .with_site(site, || sandbox.migrate(&["run", "changed.toml", "--param", "namespaces=shop"]).output())
        .expect("migrate starts");
    fs::remove_file(file).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Replaces `from`, which must be there.
fn replaced(from: &'static str, to: &'static str) -> impl Fn(String) -> String {
    move |text| {
        assert!(text.contains(from), "no `{from}` in:\n{text}");
        text.replacen(from, to, 1)
    }
}

fn same(text: String) -> String {
    text
}

/// What is wrong, how `migrate` ended and what it said, and what it must have said.
type Case<'a> = (&'a str, (Option<i32>, String), &'a [&'a str]);

#[test]
fn each_is_a_clear_error_and_nothing_is_touched() {
    let sandbox = Sandbox::reset();
    let cases: Vec<Case<'_>> = vec![
        (
            "an unknown step",
            run_with(&sandbox, replaced("velero.backup", "velero.backpu"), same),
            &["velero.backpu", "velero.backup"],
        ),
        (
            "a misspelt field",
            run_with(&sandbox, replaced("timeout = \"6h\"", "timeuot = \"6h\""), same),
            &["timeuot", "timeout"],
        ),
        (
            "a cycle",
            run_with(
                &sandbox,
                replaced("[nodes.inventory]\n", "[nodes.inventory]\nneeds = [\"verify-data\"]\n"),
                same,
            ),
            &["inventory", "verify-data"],
        ),
        (
            "a missing kubeconfig context",
            run_with(&sandbox, same, replaced("context = \"eks\"", "context = \"eks-2\"")),
            &["eks-2", "eks"],
        ),
        (
            "a bucket that doesn't exist",
            run_with(&sandbox, same, replaced("bucket = \"velero\"", "bucket = \"nowhere\"")),
            &["nowhere"],
        ),
        (
            "a storage class missing on the target",
            run_with(&sandbox, same, replaced("\"managed-csi-premium\"", "\"managed-csi-nothing\"")),
            &["managed-csi-nothing", "managed-csi-premium"],
        ),
    ];
    for (what, (code, said), words) in cases {
        assert_eq!(code, Some(3), "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: no `{word}` in:\n{said}");
        }
        assert!(said.contains("nothing was touched"), "{what}: {said}");
    }

    let kubeconfig = sandbox.project().join("kubeconfig");
    let original = fs::read_to_string(&kubeconfig).unwrap();
    // Nothing listens on the discard port.
    fs::write(&kubeconfig, original.replace("10.203.0.12:6443", "10.203.0.12:9")).unwrap();
    let (code, said) = run_with(&sandbox, same, same);
    fs::write(&kubeconfig, original).unwrap();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("`aks` can't be reached"), "{said}");

    for service in ["acr", "front"] {
        assert_eq!(sandbox.written_to(service), Vec::<String>::new(), "{service}");
    }
    assert_eq!(sandbox.kubectl("eks", &["get", "backups.velero.io", "-n", "velero", "-o", "name"]), "");
    assert_eq!(
        sandbox.kubectl("aks", &["get", "namespaces", "shop", "--ignore-not-found", "-o", "name"]),
        ""
    );
}
