//! The built kubectl, always with a named cluster.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};

use crate::layout::{Cluster, Layout, Tool};

/// kubectl for one cluster.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    context: &'static str,
}

impl Kubectl {
    /// For `cluster` of this sandbox.
    pub fn new(layout: &Layout, cluster: Cluster) -> Self {
        let program = layout.bin(Tool::Kubernetes, "kubectl");
        Self { program, kubeconfig: layout.kubeconfig(), context: cluster.name() }
    }

    /// Runs `kubectl ARGS…` and returns its stdout. Blocks.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.feed(args, std::iter::empty())
    }

    /// As [`Self::run`], with `input` on stdin.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub fn feed(&self, args: &[&str], mut input: impl Iterator<Item = Vec<u8>>) -> Result<String> {
        let shown = || format!("kubectl --context {} {}", self.context, args.join(" "));
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--context", self.context])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .into_diagnostic()
            .wrap_err_with(|| format!("can't start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().ok_or_else(|| miette!("kubectl has no stdin"))?;
        // No command here says much before it has read its input, so the pipes can't fill up.
        let fed = input.try_for_each(|piece| stdin.write_all(&piece));
        drop(stdin);
        let output = child.wait_with_output().into_diagnostic()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` failed ({}): {}", shown(), output.status, stderr.trim());
        }
        fed.into_diagnostic().wrap_err_with(|| format!("`{}` did not read its input", shown()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let input = std::iter::once(yaml.as_bytes().to_vec());
        self.feed(&["apply", "--server-side", "--field-manager=sandbox-seed", "-f", "-"], input).map(drop)
    }

    /// Runs a command in a container, with `input` on its stdin.
    ///
    /// # Errors
    /// When the command fails.
    pub fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
        input: impl Iterator<Item = Vec<u8>>,
    ) -> Result<String> {
        let args = [&["exec", "-i", "-n", namespace, pod, "--"], command].concat();
        self.feed(&args, input)
    }
}
