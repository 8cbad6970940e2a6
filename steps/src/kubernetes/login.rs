//! The program that a kubeconfig logs in by: what is said where it isn't there, or does not log in. kube's own words
//! name no context, and hold all that the program printed: a token, perhaps.

use std::path::Path;
use std::process::Output;

use kube::client::AuthError;
use kube::config::ExecConfig;
use migrate_plugin_api::StepError;

use crate::site::ClusterRef;

/// Most of what the program says that is shown.
const SHOWN_CHARS: usize = 300;

/// What is said of `error`, where it is one of the program that the context logs in by.
pub(super) fn login_error(
    cluster: &ClusterRef,
    exec: Option<&ExecConfig>,
    error: &kube::Error,
) -> Option<StepError> {
    let command = exec?.command.as_deref()?;
    let kube::Error::Auth(cause) = error else { return None };
    let who = format!("context `{}` of the kubeconfig logs in by `{command}`", cluster.context);
    let look = format!("`kubectl --context {} version` shows what it says", cluster.context);
    let program = Path::new(command).file_name().and_then(|name| name.to_str()).unwrap_or(command);
    Some(match cause {
        AuthError::AuthExecStart(io) if io.kind() == std::io::ErrorKind::NotFound => {
            let install = match program {
                "aws" => "install the AWS CLI",
                "kubelogin" => "install kubelogin (`az aks install-cli`)",
                _ => "install it",
            };
            StepError::permanent(format!("{who}, which is not there"))
                .with_hint(format!("{install}, or see that it is on PATH"))
        }
        AuthError::AuthExecStart(io) => StepError::permanent(format!("{who}, which can't be run"))
            .with_source(io.to_string())
            .with_hint(look),
        other => {
            let again = match program {
                "aws" => "log in again (`aws sso login`), or renew the credentials that it uses; ",
                "kubelogin" => "log in again (`az login`); ",
                _ => "",
            };
            let error =
                StepError::auth(format!("{who}, which gave no login")).with_hint(format!("{again}{look}"));
            match told(other) {
                Some(told) => error.with_source(told),
                None => error,
            }
        }
    })
}

/// `error` in words that repeat nothing of what a program printed on its standard output or was called with: for what
/// is asked of a cluster later, when the login has ended.
pub(super) fn told(error: &AuthError) -> Option<String> {
    match error {
        AuthError::AuthExecStart(_) => {
            Some("the program that the kubeconfig logs in by can't be run".to_owned())
        }
        AuthError::AuthExecRun { out, .. } => Some(ended(out)),
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => {
            Some("the program that the kubeconfig logs in by printed no ExecCredential".to_owned())
        }
        _ => None,
    }
}

/// How it ended, with the last thing that it said, if that did not go to the terminal.
fn ended(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let mut shown: String = last.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
    if shown.len() < last.len() {
        shown.push('…');
    }
    let ended = format!("the program that the kubeconfig logs in by ended with {}", out.status);
    if shown.is_empty() { ended } else { format!("{ended}: {shown}") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use migrate_plugin_api::testing::RecordingHost;
    use migrate_plugin_api::{ErrorClass, StepContext};

    use super::super::{connect, connect_to_probe, kube_error, reach};
    use super::*;

    /// A context `eks` whose user runs `command`, in which `.` is a folder with a program `aws` that does `script`.
    fn context(command: &str, script: &str) -> (tempfile::TempDir, StepContext, ClusterRef) {
        let project = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", project.path().join("aws")).unwrap();
        let exec = serde_json::json!({ "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": command.replace('.', project.path().to_str().unwrap()),
            "args": ["-c", script, project.path(), "ARGUMENT"], "env": [{ "name": "KEY", "value": "VARIABLE" }] });
        let kubeconfig = serde_json::json!({
            "clusters": [{ "name": "eks", "cluster": { "server": "http://127.0.0.1:1" } }],
            "users": [{ "name": "eks", "user": { "exec": exec } }],
            "contexts": [{ "name": "eks", "context": { "cluster": "eks", "user": "eks" } }],
        });
        std::fs::write(project.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("node", project.path());
        (project, ctx, ClusterRef { kubeconfig: Some("kubeconfig".into()), context: "eks".to_owned() })
    }

    /// Class, message and hint of what is said where `command` is to log in.
    async fn said(command: &str, script: &str) -> (ErrorClass, String, String) {
        let (project, ctx, cluster) = context(command, script);
        let class = connect(&ctx, &cluster).await.map(drop).unwrap_err().class;
        let problem = reach(&ctx, &cluster, "cluster").await.map(drop).unwrap_err();
        let folder = format!("{}/", project.path().display());
        (class, problem.message.replace(&folder, ""), problem.hint.unwrap())
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_its_context() {
        let (class, message, hint) = said("kubelogin-that-nobody-has", "").await;
        assert_eq!(class, ErrorClass::Permanent);
        assert_eq!(
            message,
            "context `eks` of the kubeconfig logs in by `kubelogin-that-nobody-has`, which is not there"
        );
        assert_eq!(hint, "install it, or see that it is on PATH");
        let (_, message, hint) = said("./nowhere/kubelogin", "").await;
        assert_eq!(
            message,
            "context `eks` of the kubeconfig logs in by `nowhere/kubelogin`, which is not there"
        );
        assert_eq!(hint, "install kubelogin (`az aks install-cli`), or see that it is on PATH");
    }

    #[tokio::test]
    async fn a_program_that_does_not_log_in_is_named_and_what_it_printed_is_not_repeated() {
        let who = "context `eks` of the kubeconfig logs in by `aws`, which gave no login";
        let program = "the program that the kubeconfig logs in by";
        for (script, told) in [
            (
                "echo OUTPUT; echo one >&2; echo 'Token has expired' >&2; exit 255",
                "ended with exit status: 255: Token has expired",
            ),
            ("echo OUTPUT; exit 1", "ended with exit status: 1"),
            ("echo 'OUTPUT: [OUTPUT'", "printed no ExecCredential"),
            ("echo '{\"kind\": \"OUTPUT\"}'", "printed no ExecCredential"),
        ] {
            let (class, message, hint) = said("./aws", script).await;
            assert_eq!((class, message), (ErrorClass::Auth, format!("{who}: {program} {told}")));
            assert_eq!(
                hint,
                "log in again (`aws sso login`), or renew the credentials that it uses; \
                 `kubectl --context eks version` shows what it says"
            );
        }
    }

    #[tokio::test]
    async fn a_login_that_can_not_be_renewed_repeats_nothing_either() {
        let once = r#"if [ -e "$0/ran" ]; then echo OUTPUT; exit 7; fi; touch "$0/ran"
            echo '{ "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                "status": { "token": "OUTPUT", "expirationTimestamp": "2020-01-01T00:00:00Z" } }'"#;
        let (_project, ctx, cluster) = context("./aws", once);
        let client = connect_to_probe(&ctx, &cluster).await.unwrap();
        let error = client.apiserver_version().await.unwrap_err();
        let record = kube_error("failed to list pods", error).to_record();
        assert_eq!(record.causes, ["the program that the kubeconfig logs in by ended with exit status: 7"]);
    }
}
