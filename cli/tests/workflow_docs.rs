//! What the pages show is valid: every workflow, with the README's `migration.toml`; and they lead to each other.

use std::path::{Path, PathBuf};
use std::process::Command;

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect("the page is there")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The README and what is in `docs`, from the project's folder on.
fn pages() -> Vec<String> {
    let in_docs = std::fs::read_dir(root().join("docs")).expect("docs are there");
    let names = in_docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let docs = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    std::iter::once("README.md".to_owned()).chain(docs).collect()
}

/// Where the links of a page lead that stay in the project: file and heading.
fn links(text: &str) -> Vec<(&str, Option<&str>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let inside = targets.filter(|target| !target.contains("://") && !target.contains(char::is_whitespace));
    inside
        .map(|target| target.split_once('#').map_or((target, None), |(file, id)| (file, Some(id))))
        .collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let outside_code = text.split("```").step_by(2).collect::<String>();
    let heading =
        |line: &str| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_owned());
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let anchor =
        |title: String| title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
    outside_code.lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere_and_the_readme_leads_to_every_page() {
    let root = root();
    for page in pages() {
        let text = read(&page);
        let folder = Path::new(&page).parent().unwrap();
        for (file, id) in links(&text) {
            let to = if file.is_empty() { PathBuf::from(&page) } else { folder.join(file) };
            assert!(root.join(&to).exists(), "{page}: {file}");
            let Some(id) = id else { continue };
            let there = anchors(&read(to.to_str().unwrap()));
            assert!(there.iter().any(|anchor| anchor == id), "{page}: {file}#{id} is none of {there:?}");
        }
    }
    let readme = read("README.md");
    let named = links(&readme);
    for page in pages().iter().skip(1) {
        assert!(named.iter().any(|(file, _)| file == page), "README.md doesn't lead to {page}");
    }
}

/// TOML blocks, each with the name of the file that its first line may say.
fn blocks(text: &str) -> Vec<(String, String)> {
    let block = |(at, rest): (usize, &str)| {
        let body = rest.split("```").next().unwrap_or_default();
        let first = body.lines().next().unwrap_or_default();
        let name = first.strip_prefix("# ").filter(|name| name.ends_with(".toml"));
        (name.map_or_else(|| format!("w{at}.toml"), str::to_owned), body.to_owned())
    };
    text.split("```toml\n").skip(1).enumerate().map(block).collect()
}

#[test]
fn their_workflows_are_valid() {
    assert!(check("docs/workflow.md") >= 2);
    for (page, count) in [("docs/cutover.md", 1), ("docs/velero.md", 2), ("docs/blob-copy.md", 1)] {
        assert_eq!(check(page), count, "{page}");
    }
}

/// Validates all workflows of a page; how many there are.
fn check(page: &str) -> usize {
    let project = tempfile::tempdir().unwrap();
    let (_, site) = blocks(&read("README.md")).remove(0);
    std::fs::write(project.path().join("migration.toml"), site).unwrap();
    let workflows = blocks(&read(page));
    for (name, body) in &workflows {
        std::fs::write(project.path().join(name), body).unwrap();
    }
    for (name, body) in &workflows {
        let output = Command::new(env!("CARGO_BIN_EXE_migrate"))
            .args(["validate", name])
            .current_dir(project.path())
            .env_remove("MIGRATE_PROJECT")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{page}, {name}: {said}\n{body}");
    }
    workflows.len()
}

/// Stands for the Azure CLI and one record.
const AZ: &str = r#"az() {
    case "$*" in
    *"cname show "*"--name shop") printf '{"CNAMERecord": {"cname": "%s"}}' "$(cat record)" ;;
    *"cname set-record "*"--record-set-name shop --cname "*" --ttl 60") to="$*" && to=${to#*--cname } && echo "${to%% *}" >record ;;
    *) return 3 ;;
    esac
}
. ./dns"#;

#[test]
fn the_dns_command_sends_all_of_the_traffic_here_or_there() {
    let project = tempfile::tempdir().unwrap();
    let page = read("docs/cutover.md");
    let script = page.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    std::fs::write(project.path().join("dns"), script).unwrap();
    let dns = |args: &[&str]| {
        let mut command = Command::new("sh");
        let output = command.args(["-c", AZ, "dns"]).args(args).current_dir(project.path()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    for weight in ["0", "255", "0"] {
        assert!(dns(&["set", "shop", weight]).is_some(), "{weight}");
        assert_eq!(dns(&["get", "shop"]).as_deref(), Some(weight));
    }
    assert_eq!(dns(&["set", "shop", "100"]), None);
    assert_eq!(dns(&["get", "shop"]).as_deref(), Some("0"));
    std::fs::write(project.path().join("record"), "elsewhere.example").unwrap();
    assert_eq!(dns(&["get", "shop"]), None);
}
