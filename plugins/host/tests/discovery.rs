//! Where plugins are found, and which are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use migrate_plugin_api::Step;
use migrate_plugin_host::{
    DiscoveryError, Found, Guard, Listed, Origin, ProgramDigest, find, load, settings,
};

/// A project with a folder that is on PATH.
struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let rig = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(rig.path("project/plugins/team.deep")).unwrap();
        std::fs::create_dir_all(rig.path("bin")).unwrap();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A plugin that describes itself as `step`.
    fn plugin(&self, at: &str, step: &str) -> PathBuf {
        let path = self.path(at);
        let text = format!(
            "#!/bin/sh\n\
             while read -r line; do case \"$line\" in\n\
             *'\"method\":\"initialize\"'*) echo '{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"protocol_version\":1}}}}';;\n\
             *'\"method\":\"describe\"'*) echo '{{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{{\"name\":\"{step}\",\"version\":\"1\",\"summary\":\"x\"}}}}';;\n\
             esac; done\n"
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn find(&self, environment: &str) -> Result<Vec<Found>, DiscoveryError> {
        let built_in = BTreeSet::from(["image.copy".to_owned()]);
        // The same folder twice, and one by a relative name, which counts for nothing.
        let path = std::env::join_paths([self.path("bin"), self.path("bin"), PathBuf::from("bin")]).unwrap();
        find(&self.path("project"), Some(path), &settings(environment).unwrap(), &built_in)
    }

    /// What is said, without the folder's name.
    fn refusal(&self, environment: &str) -> String {
        let error = self.find(environment).unwrap_err();
        format!("{error}\n  help: {}", error.hint()).replace(&self.dir.path().display().to_string(), "DIR")
    }
}

fn names(found: &[Found]) -> BTreeMap<&str, Origin> {
    found.iter().map(|found| (found.name.as_str(), found.origin)).collect()
}

#[test]
fn plugins_are_found_in_three_places() {
    let rig = Rig::new();
    rig.plugin("project/plugins/migrate-step-team.own", "team.own");
    rig.plugin("project/plugins/team.deep/migrate-step-team.deep", "team.deep");
    rig.plugin("bin/migrate-step-team.shared", "team.shared");
    rig.plugin("project/tool.sh", "team.named");
    // No plugins: another name, no permission to be run, a folder.
    rig.plugin("bin/migrate-stop", "x");
    std::fs::write(rig.path("bin/migrate-step-readme"), "text").unwrap();
    std::fs::create_dir(rig.path("bin/migrate-step-folder")).unwrap();
    let found = rig.find("[plugins.\"team.named\"]\npath = \"tool.sh\"\nenv = [\"KUBECONFIG\"]\n").unwrap();
    let expected = BTreeMap::from([
        ("team.deep", Origin::Project),
        ("team.named", Origin::Settings),
        ("team.own", Origin::Project),
        ("team.shared", Origin::Path),
    ]);
    assert_eq!(names(&found), expected);
    // The same file by another way is no other plugin.
    std::os::unix::fs::symlink(
        rig.path("bin/migrate-step-team.shared"),
        rig.path("project/plugins/migrate-step-team.shared"),
    )
    .unwrap();
    assert_eq!(rig.find("").unwrap().len(), 3);
}

#[test]
fn what_breaks_a_rule_is_refused_and_named() {
    let rig = Rig::new();
    let one = rig.plugin("project/plugins/migrate-step-team.own", "team.own");
    rig.plugin("bin/migrate-step-team.own", "team.own");
    let mut all = vec![rig.refusal("")];
    // Which one counts may be said.
    let chosen = "[plugins.\"team.own\"]\npath = \"plugins/migrate-step-team.own\"\n";
    assert_eq!(names(&rig.find(chosen).unwrap()), BTreeMap::from([("team.own", Origin::Settings)]));
    let digest = ProgramDigest::of_file(&one).unwrap();
    assert_eq!(rig.find(&format!("{chosen}sha256 = \"{digest}\"\n")).unwrap().len(), 1);
    let other = "0".repeat(64);
    let pinned = rig.refusal(&format!("{chosen}sha256 = \"{other}\"\n"));
    all.push(pinned.replace(digest.as_str(), "DIGEST"));
    all.push(rig.refusal("[plugins.\"team.own\"]\npath = \"absent\"\n"));
    std::fs::write(rig.path("project/text"), "text").unwrap();
    all.push(rig.refusal("[plugins.\"team.own\"]\npath = \"text\"\n"));
    std::fs::remove_file(rig.path("bin/migrate-step-team.own")).unwrap();
    rig.plugin("bin/migrate-step-Team", "Team");
    all.push(rig.refusal(""));
    std::fs::remove_file(rig.path("bin/migrate-step-Team")).unwrap();
    rig.plugin("bin/migrate-step-image.copy", "image.copy");
    all.push(rig.refusal(""));
    insta::assert_snapshot!(all.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_can_not_be_used_is_listed_and_costs_only_its_node() {
    let rig = Rig::new();
    rig.plugin("bin/migrate-step-team.good", "team.good");
    rig.plugin("bin/migrate-step-team.liar", "team.other");
    let script = rig.plugin("bin/migrate-step-team.broken", "x");
    std::fs::write(script, "#!/bin/sh\necho no such thing >&2\nexit 3\n").unwrap();
    let found = rig.find("").unwrap();
    let guard = Guard { program: env!("CARGO_BIN_EXE_migrate-plugin-guard").into(), args: Vec::new() };
    let loaded = load(found, &guard, Path::new("/")).await;
    let said: Vec<String> = loaded
        .iter()
        .map(|(Listed { name, unusable, sha256, .. }, step)| {
            assert!(sha256.is_some());
            assert_eq!(step.describe().name, *name);
            format!("{name}: {}", unusable.clone().unwrap_or_else(|| "can be used".to_owned()))
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
    let host = std::sync::Arc::new(migrate_plugin_api::testing::RecordingHost::default());
    let ctx = host.context("node", rig.dir.path());
    let (_, broken) = &loaded[0];
    let error = Step::plan(&**broken, &ctx, &serde_json::json!({})).await.unwrap_err();
    assert_eq!(error.message, "plugin `team.broken` ended with exit code 3 before it answered `initialize`");
}
