//! CustomResourceDefinitions of what a rewritten manifest uses on AKS, for the tests that ask the
//! target's API server about it.
//!
//! Theirs come out of their projects' Go modules, each checked against its pinned digest. What no
//! registry serves is ours: `sandbox/definitions`. All lie in one folder, which is made as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use miette::{IntoDiagnostic, Result, WrapErr, bail};
use serde::Deserialize;

use crate::layout::Layout;

/// A Go module with definitions in it.
struct Module {
    path: &'static str,
    version: &'static str,
    /// As in `go.sum`.
    sum: &'static str,
    /// Relative to the module.
    files: &'static [&'static str],
}

const MODULES: [Module; 6] = [
    Module {
        path: "sigs.k8s.io/gateway-api",
        version: "v1.4.1",
        sum: "h1:NPxFutNkKNa8UfLd2CMlEuhIPMQgDQ6DXNKG9sHbJU8=",
        files: &[
            "config/crd/standard/gateway.networking.k8s.io_gatewayclasses.yaml",
            "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
            "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
        ],
    },
    Module {
        path: "sigs.k8s.io/karpenter",
        version: "v1.8.0",
        sum: "h1:AmTHUPtnuL8IX9mbcD3NOohyk62idrBCBtM+8Wn6Jvk=",
        files: &["pkg/apis/crds/karpenter.sh_nodepools.yaml"],
    },
    Module {
        path: "sigs.k8s.io/secrets-store-csi-driver",
        version: "v1.4.7",
        sum: "h1:AyuwmPTW2GoPD2RjyVD3OrH1J9cdPZx+0h2qJvzbGXs=",
        files: &["config/crd/bases/secrets-store.csi.x-k8s.io_secretproviderclasses.yaml"],
    },
    Module {
        path: "github.com/kedacore/keda/v2",
        version: "v2.21.0",
        sum: "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        files: &[
            "config/crd/bases/keda.sh_scaledobjects.yaml",
            "config/crd/bases/keda.sh_triggerauthentications.yaml",
        ],
    },
    Module {
        path: "github.com/external-secrets/external-secrets",
        version: "v1.3.2",
        sum: "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        files: &[
            "config/crds/bases/external-secrets.io_clustersecretstores.yaml",
            "config/crds/bases/external-secrets.io_externalsecrets.yaml",
        ],
    },
    Module {
        path: "github.com/kubernetes-csi/external-snapshotter/client/v8",
        version: "v8.7.0",
        sum: "h1:HVaSUeRRHPu49aSiL8eXOjS9Re9G6pM0NzdTGI7mM14=",
        files: &["config/crd/snapshot.storage.k8s.io_volumesnapshotclasses.yaml"],
    },
];

/// In the folder: the modules that it was made from.
const SOURCES: &str = "sources.txt";

/// What `go mod download -json` says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
    sum: String,
}

/// Whether the folder is there, made from these modules.
pub fn are_there(layout: &Layout) -> bool {
    fs::read_to_string(layout.definitions().join(SOURCES)).is_ok_and(|made_from| made_from == sources())
}

fn sources() -> String {
    MODULES.iter().map(|module| format!("{} {}\n", module.path, module.version)).collect()
}

/// Fills `folder`.
///
/// # Errors
/// When a module can't be had or is another than the pinned one.
pub fn fetch(layout: &Layout, folder: &Path) -> Result<()> {
    for module in &MODULES {
        let downloaded = download(layout, module)?;
        for file in module.files {
            copy(&downloaded.join(file), folder)?;
        }
    }
    for file in ["aksnodeclasses.yaml", "healthcheckpolicies.yaml"] {
        copy(&layout.workspace().join("sandbox/definitions").join(file), folder)?;
    }
    fs::write(folder.join(SOURCES), sources()).into_diagnostic().wrap_err("can't write the list of sources")
}

/// A module's folder in Go's own cache.
fn download(layout: &Layout, module: &Module) -> Result<PathBuf> {
    let name = format!("{}@{}", module.path, module.version);
    let output = Command::new("go")
        .args(["mod", "download", "-json", &name])
        // Outside of any module: only this one is wanted, not what it requires.
        .current_dir(layout.root())
        .env("GOFLAGS", "-mod=mod")
        .env("GOWORK", "off")
        .output()
        .into_diagnostic()
        .wrap_err("can't run go")?;
    if !output.status.success() {
        bail!("go can't download {name}:\n{}", String::from_utf8_lossy(&output.stdout));
    }
    let found: Downloaded = serde_json::from_slice(&output.stdout).into_diagnostic()?;
    if found.sum != module.sum {
        bail!("{name} has the digest {}, and {} is pinned", found.sum, module.sum);
    }
    Ok(found.dir)
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    let content =
        fs::read(file).into_diagnostic().wrap_err_with(|| format!("can't read {}", file.display()))?;
    // Go keeps its cache read-only; a copy of ours is not.
    fs::write(folder.join(name), content)
        .into_diagnostic()
        .wrap_err_with(|| format!("can't write into {}", folder.display()))
}
