//! Charts of Helm and overlays of Kustomize, as the manifests that they make: by `helm template` and
//! `kubectl kustomize` of this machine. Writes nothing.
//!
//! Both run without a shell, in a group of their own that is ended when they are late. Templates are programs of
//! whoever wrote them, and an overlay may name resources elsewhere: what they do is what the tools do for
//! you.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use migrate_plugin_api::StepError;
use rustix::process::{Pid, Signal, kill_process_group};

use super::difference::texts;
use super::order::{self, Manifest};
use super::tree::{self, FILE_LIMIT_BYTES};

/// What makes a folder a chart.
pub(crate) const CHART: &str = "Chart.yaml";

/// What makes a folder an overlay: <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/>.
const OVERLAYS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Rendering a large chart takes seconds; after this long a template runs in circles.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The namespace of a release whose own nobody names: never that of whoever's kubeconfig it is.
pub(crate) const NAMESPACE: &str = "default";

/// Names and dates that templates make of the time have at least this grain.
const GRAIN: Duration = Duration::from_secs(1);

/// How often a tool is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// So much of what a tool says against us is shown.
const WORDS_CHARS: usize = 600;

/// The file that makes `folder` an overlay.
pub(crate) fn overlay_file(folder: &Path) -> Option<&'static str> {
    OVERLAYS.into_iter().find(|name| folder.join(name).is_file())
}

/// A document that a chart makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// Its template, relative to the chart.
    pub template: String,
    /// Its text.
    pub text: String,
}

/// What the overlay at `folder` makes.
///
/// # Errors
/// `Permanent` where `kubectl` is missing or refuses.
pub(crate) fn overlay(folder: &Path) -> Result<String, StepError> {
    let folder_text = folder.to_string_lossy();
    let missing = "kustomize overlays are built by `kubectl`: install it, or build yourself (`kustomize build`) and \
                   name what was built";
    run("kubectl", &["kustomize", &folder_text], None, missing, "check the overlay with `kubectl kustomize`")
}

/// What the chart at `folder` makes in `namespace`, with its own values, or with `values` over them. Its own `crds/` are
/// plain files of the folder; those of what it depends on are among what it makes.
///
/// # Errors
/// `Permanent` where `helm` is missing or refuses.
pub(crate) fn chart(
    folder: &Path,
    values: Option<&str>,
    namespace: &str,
) -> Result<Vec<Rendered>, StepError> {
    let folder_text = folder.to_string_lossy();
    let name = release(folder);
    let mut arguments = vec!["template", &name, &folder_text, "--namespace", namespace];
    arguments.extend(["--skip-tests", "--include-crds"]);
    if values.is_some() {
        // From its standard input: no file is made.
        arguments.extend(["--values", "-"]);
    }
    let missing = "charts are rendered by `helm`: install it, or render yourself (`helm template`) and name what was \
                   rendered";
    let failed = "check the chart with `helm lint`; what it depends on is fetched by `helm dependency build`";
    let mut all = split(&run("helm", &arguments, values, missing, failed)?);
    all.retain(|rendered| !rendered.template.starts_with("crds/"));
    Ok(all)
}

/// What each of these charts of `root` makes, where that is the same each time: what is applied may be applied again,
/// and a password that a template makes up would be another one then.
///
/// # Errors
/// As [`chart`]; `Permanent`, naming the objects, where it is not the same.
pub(crate) fn steady(
    root: &Path,
    charts: &[PathBuf],
    namespace: &str,
) -> Result<Vec<Vec<Rendered>>, StepError> {
    let render = |folder: &PathBuf| chart(&root.join(folder), None, namespace);
    let first: Vec<Vec<Rendered>> = charts.iter().map(render).collect::<Result<_, _>>()?;
    if !charts.is_empty() {
        std::thread::sleep(GRAIN);
    }
    for (folder, first) in charts.iter().zip(&first) {
        let moving = moving(first, &render(folder)?);
        if !moving.is_empty() {
            let name = release(&root.join(folder));
            let what = tree::listed(&moving);
            return Err(StepError::permanent(format!(
                "chart `{name}` makes something else each time it is rendered: {what}"
            ))
            .with_hint(
                "a second attempt would apply another password or name: give what is made up (`randAlphaNum`, `genCA`, \
                 `now`) in the chart's values; or render it once (`helm template`) and name what was rendered",
            ));
        }
    }
    Ok(first)
}

/// What comes out otherwise the second time: objects and their fields, never their values.
fn moving(first: &[Rendered], again: &[Rendered]) -> Vec<String> {
    let templates = |all: &[Rendered]| {
        all.iter().map(|one| one.template.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    let (before, after) = (templates(first), templates(again));
    if first.len() != again.len() || before != after {
        return before
            .symmetric_difference(&after)
            .cloned()
            .chain(["which documents it has".to_owned()])
            .collect();
    }
    let mut all = Vec::new();
    for (first, again) in first.iter().zip(again).filter(|(first, again)| first != again) {
        let read = |rendered: &Rendered| order::parse(&rendered.template, &rendered.text).ok();
        match (read(first), read(again)) {
            (Some(first), Some(again)) if first.len() == again.len() => {
                let applied = first.iter().zip(&again).filter(|(first, _)| first.is_installed());
                all.extend(applied.filter_map(|(first, again)| fields(first, again)));
            }
            _ => all.push(first.template.clone()),
        }
    }
    all
}

fn fields(first: &Manifest, again: &Manifest) -> Option<String> {
    let fields: Vec<String> =
        texts(&first.object, &again.object).into_iter().map(|(path, ..)| path).collect();
    (!fields.is_empty()).then(|| format!("{first}: {}", tree::listed(&fields)))
}

/// The chart's folder as the name of a release.
fn release(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(50).collect();
    match name.trim_matches('-') {
        "" => "release".to_owned(),
        name => name.to_owned(),
    }
}

/// Helm puts `# Source: CHART/templates/web.yaml` before each document.
fn split(text: &str) -> Vec<Rendered> {
    const SOURCE: &str = "# Source: ";
    let mut all: Vec<Rendered> = Vec::new();
    let mut is_start = true;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            is_start = true;
            continue;
        }
        if let Some(source) = line.trim_end().strip_prefix(SOURCE).filter(|_| is_start) {
            let template = source.split_once('/').map_or(source, |(_, rest)| rest).to_owned();
            all.push(Rendered { template, text: String::new() });
        } else if let Some(last) = all.last_mut() {
            // A document without a comment of its own is the template's second one.
            if is_start {
                let template = last.template.clone();
                all.push(Rendered { template, text: String::new() });
            }
            if let Some(last) = all.last_mut() {
                last.text.push_str(line);
            }
        }
        is_start = false;
    }
    all.retain(|rendered| {
        rendered.text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'))
    });
    all
}

/// Runs a tool to its end: what it prints.
fn run(
    program: &str,
    arguments: &[&str],
    input: Option<&str>,
    missing: &str,
    failed: &str,
) -> Result<String, StepError> {
    let command = format!("{program} {}", arguments[0]);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                StepError::permanent(format!("`{program}` is not on PATH")).with_hint(missing)
            }
            _ => StepError::permanent(format!("failed to start `{program}`")).with_source(e),
        })?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (status, printed, said) = std::thread::scope(|scope| {
        // A tool that ends without reading all has its reasons, and says them.
        scope.spawn(move || stdin.zip(input).map(|(mut pipe, text)| pipe.write_all(text.as_bytes())));
        let printed = scope.spawn(|| read(stdout, FILE_LIMIT_BYTES));
        let said = scope.spawn(|| read(stderr, 64 * 1024));
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(None) if start.elapsed() < TIMEOUT => std::thread::sleep(LOOK),
                Ok(Some(status)) => break Some(status),
                Ok(None) | Err(_) => break None,
            }
        };
        if let Some(group) = group {
            // Failures say that nobody is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
        (status, printed.join().unwrap_or_default(), said.join().unwrap_or_default())
    });
    let Some(status) = status else {
        let message = format!("`{command}` had not ended after {} seconds", TIMEOUT.as_secs());
        return Err(StepError::permanent(message).with_hint(failed));
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&said);
        let said: String =
            said.trim().chars().filter(|c| !c.is_control() || *c == '\n').take(WORDS_CHARS).collect();
        return Err(StepError::permanent(format!("`{command}` failed: {said}")).with_hint(failed));
    }
    if printed.len() as u64 >= FILE_LIMIT_BYTES {
        return Err(StepError::permanent(format!("`{command}` prints more than {FILE_LIMIT_BYTES} bytes")));
    }
    String::from_utf8(printed)
        .map_err(|e| StepError::permanent(format!("`{command}` prints no UTF-8")).with_source(e))
}

fn read(stream: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // A pipe that breaks is one that ends; the exit code says what it means.
        let _ = stream.by_ref().take(limit).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    bytes
}

/// The outermost charts among these files: their folders, relative to the root.
pub(crate) fn charts<'a>(files: impl Iterator<Item = &'a str>) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = files
        .filter_map(|path| path.strip_suffix(CHART))
        .filter(|folder| folder.is_empty() || folder.ends_with('/'))
        .map(PathBuf::from)
        .collect();
    all.sort();
    let mut outermost: Vec<PathBuf> = Vec::new();
    for folder in all {
        if !outermost.iter().any(|chart| folder.starts_with(chart)) {
            outermost.push(folder);
        }
    }
    outermost
}

/// Whether Helm makes something of a file of these charts. Definitions (`crds/`) are plain manifests.
pub(crate) fn belongs_to_chart<'a>(path: &str, charts: impl IntoIterator<Item = &'a Path>) -> bool {
    let inside = charts.into_iter().find_map(|chart| Path::new(path).strip_prefix(chart).ok());
    inside.is_some_and(|path| !path.starts_with("crds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_by_their_templates() {
        let text = "---\n# Source: shop/templates/web.yaml\n# the web\nkind: A\n---\nkind: B\n---\n\
                    # Source: shop/charts/db/templates/db.yaml\nkind: C\ntext: |\n  # Source: not/one.yaml\n---\n\
                    # Source: shop/templates/empty.yaml\n";
        let seen: Vec<_> = split(text).into_iter().map(|r| (r.template, r.text)).collect();
        let expected = [
            ("templates/web.yaml", "# the web\nkind: A\n"),
            ("templates/web.yaml", "kind: B\n"),
            ("charts/db/templates/db.yaml", "kind: C\ntext: |\n  # Source: not/one.yaml\n"),
        ];
        assert_eq!(seen, expected.map(|(template, text)| (template.to_owned(), text.to_owned())));
    }

    #[test]
    fn what_is_made_up_anew_is_named_and_its_values_are_not() {
        let one = |password: &str, text: &str| Rendered {
            template: "templates/db.yaml".to_owned(),
            text: format!(
                "# {text}\napiVersion: v1\nkind: Secret\nmetadata: {{name: db}}\nstringData: {{user: a, password: {password}}}\n"
            ),
        };
        // Of a comment nothing comes.
        assert!(moving(&[one("a1", "x")], &[one("a1", "y")]).is_empty());
        let moved = moving(&[one("a1", "x"), one("b1", "x")], &[one("a2", "x"), one("b1", "x")]);
        assert_eq!(moved, ["Secret db: /stringData/password"]);
        assert_eq!(moving(&[one("a1", "x")], &[]), ["templates/db.yaml", "which documents it has"]);
        let broken = |text: &str| Rendered { template: "a.yaml".to_owned(), text: format!("a: [{text}") };
        assert_eq!(moving(&[broken("1")], &[broken("2")]), ["a.yaml"]);
    }

    #[test]
    fn a_chart_in_a_chart_belongs_to_it() {
        let files =
            ["a/Chart.yaml", "a/charts/b/Chart.yaml", "c/d/Chart.yaml", "c/MyChart.yaml", "ab/Chart.yaml"];
        let expected = ["a/", "ab/", "c/d/"].map(PathBuf::from);
        assert_eq!(charts(files.into_iter()), expected);
        assert_eq!(charts(["Chart.yaml", "charts/b/Chart.yaml"].into_iter()), [PathBuf::new()]);
    }

    #[test]
    fn a_tool_that_is_missing_fails_or_floods_is_told() {
        let error = run("no-such-tool", &["build"], None, "install it", "check").unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.hint.as_deref()),
            ("`no-such-tool` is not on PATH", Some("install it"))
        );
        let error = run("sh", &["-c", "echo no >&2; exit 3"], None, "", "check").unwrap_err();
        assert_eq!((error.message.as_str(), error.hint.as_deref()), ("`sh -c` failed: no", Some("check")));
        // What it started goes with it, and does not hold us up.
        assert_eq!(run("sh", &["-c", "sleep 1000 & cat"], Some("values"), "", "").unwrap(), "values");
    }
}
