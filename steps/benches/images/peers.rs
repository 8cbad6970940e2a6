//! Others that do the same: crane and regsync from the Go proxy with pinned versions, skopeo and
//! curl from Debian. Each is told to do its best at many images.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Result;
use crate::estate::{Estate, TAG};

const CRANE: (&str, &str) = ("github.com/google/go-containerregistry/cmd/crane", "v0.22.1");
const REGSYNC: (&str, &str) = ("github.com/regclient/regclient/cmd/regsync", "v0.11.7");

/// Images that regsync handles at once; its own default is one.
const REGSYNC_PARALLEL: usize = 4;

/// What was compared with.
pub fn versions() -> Value {
    let skopeo = Command::new("skopeo").arg("--version").output();
    let skopeo = skopeo.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    json!({ "crane": CRANE.1, "regsync": REGSYNC.1, "skopeo": skopeo })
}

/// Installs what `name` needs and says where the program is.
pub fn install(name: &str, bench: &Path) -> Result<PathBuf> {
    debian("time", "/usr/bin/time")?;
    match name {
        "crane" => go(bench, CRANE),
        "regsync" => go(bench, REGSYNC),
        "skopeo" => debian("skopeo", "/usr/bin/skopeo"),
        "floor" => debian("curl", "/usr/bin/curl"),
        _ => Ok(std::env::current_exe()?),
    }
}

/// The config of `image.copy` for `images`, all of one registry.
pub fn ours(images: &[String], target: &str) -> Value {
    let source = images.first().and_then(|image| image.split('/').next()).unwrap_or_default();
    json!({
        "from": { "host": source, "endpoint": format!("http://{source}") },
        "to": { "host": target, "endpoint": format!("http://{target}") },
        "images": images, "overwrite": true,
    })
}

/// Writes what `name` needs into `folder`, and gives the words of the command that copies the whole
/// estate from `source` to `target` (each `HOST:PORT`).
pub fn command(
    name: &str,
    program: &Path,
    estate: &Estate,
    (source, target): (&str, &str),
    folder: &Path,
) -> Result<Vec<String>> {
    let program = program.display().to_string();
    let file = |name: &str| folder.join(name).display().to_string();
    let repositories = || estate.images.iter().map(|image| image.repository.as_str());
    Ok(match name {
        "ours" => {
            let images: Vec<_> = repositories().map(|r| format!("{source}/{r}:{TAG}")).collect();
            std::fs::write(folder.join("config.json"), ours(&images, target).to_string())?;
            vec![program, "copy".to_owned(), folder.display().to_string()]
        }
        "crane" => {
            let copy = |r: &str| format!("{program} copy --insecure {source}/{r}:{TAG} {target}/{r}:{TAG}\n");
            std::fs::write(
                folder.join("crane.sh"),
                "set -e\n".to_owned() + &repositories().map(copy).collect::<String>(),
            )?;
            vec!["sh".to_owned(), file("crane.sh")]
        }
        "regsync" => {
            let sync = |r: &str| json!({ "source": format!("{source}/{r}:{TAG}"), "target": format!("{target}/{r}:{TAG}"), "type": "image" });
            let open = |host: &str| json!({ "registry": host, "tls": "disabled" });
            let config = json!({
                "version": 1, "creds": [open(source), open(target)],
                "defaults": { "parallel": REGSYNC_PARALLEL },
                "sync": repositories().map(sync).collect::<Vec<_>>(),
            });
            std::fs::write(folder.join("regsync.yml"), config.to_string())?;
            vec![program, "once".to_owned(), "-c".to_owned(), file("regsync.yml")]
        }
        "skopeo" => {
            let images: serde_json::Map<_, _> =
                repositories().map(|r| (r.to_owned(), json!([TAG]))).collect();
            let config = json!({ source: { "tls-verify": false, "images": images } });
            std::fs::write(folder.join("skopeo.yml"), config.to_string())?;
            let options = ["sync", "--src", "yaml", "--dest", "docker", "--dest-tls-verify=false", "--all"];
            // Otherwise it packs layers anew, which are not the same images then.
            let options = options.into_iter().chain(["--preserve-digests"]);
            let words = std::iter::once(program).chain(options.map(str::to_owned));
            words.chain([file("skopeo.yml"), format!("{target}/bench")]).collect()
        }
        _ => {
            std::fs::write(folder.join("floor.sh"), floor(&program, estate, source, target))?;
            vec!["sh".to_owned(), file("floor.sh")]
        }
    })
}

/// The same unique bytes, one blob after the other, from a GET into a PUT. Nothing is hashed, looked
/// for or named.
fn floor(curl: &str, estate: &Estate, source: &str, target: &str) -> String {
    let mut script = "set -e\n".to_owned();
    for (repository, digest, size) in &estate.blobs {
        script += &format!(
            "to=$({curl} -sf -X POST -D - -o /dev/null http://{target}/v2/floor/blobs/uploads/ \
             | sed -n 's/^[Ll]ocation: //p' | tr -d '\\r')\n\
             {curl} -sf http://{source}/v2/{repository}/blobs/{digest} \
             | {curl} -sf -T - -o /dev/null -H 'Content-Length: {size}' -H 'Transfer-Encoding:' -H 'Expect:' \"$to&digest={digest}\"\n"
        );
    }
    script
}

fn go(bench: &Path, (package, version): (&str, &str)) -> Result<PathBuf> {
    let name = package.rsplit('/').next().unwrap_or(package);
    let folder = bench.join(format!("{name}-{version}"));
    let program = folder.join(name);
    if !program.exists() {
        eprintln!("bench: installing {name} {version}");
        succeed(Command::new("go").arg("install").arg(format!("{package}@{version}")).env("GOBIN", &folder))?;
    }
    Ok(program)
}

/// Installs Debian's `package` unless its program is there.
fn debian(package: &str, program: &str) -> Result<PathBuf> {
    if !Path::new(program).exists() {
        eprintln!("bench: installing {package}");
        succeed(Command::new("apt-get").args(["update", "--quiet"]))?;
        succeed(Command::new("apt-get").args(["install", "--yes", "--quiet", package]))?;
    }
    Ok(program.into())
}

/// stdout is for figures: what installers say goes to stderr.
pub fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}").into()) }
}
