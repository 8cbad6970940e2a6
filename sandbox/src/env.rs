//! `sandbox env`: the project folder in which `migrate` is run against the sandbox.
//!
//! A site like any other: `migration.toml`, a kubeconfig, an AWS credentials file and files with the
//! target's secrets, all for the owner alone.

use miette::{IntoDiagnostic, Result, WrapErr};

use crate::layout::{Layout, host_url, ports};
use crate::process::write_atomically;
use crate::services::{
    self, ACR_HOST, BUCKET, CONTAINER, ECR_HOST, REGION, RESOURCE_GROUP, SUBSCRIPTION, VAULT_NAME,
};

/// Writes the project folder. A SAS that is there stays, so that an unchanged sandbox gives
/// unchanged files.
///
/// # Errors
/// When the sandbox isn't up or the folder can't be written.
pub fn write(layout: &Layout) -> Result<()> {
    let secrets = services::credentials(layout)?;
    let project = layout.project();
    let put = |name: &str, text: &str| write_atomically(&project.join(name), text.as_bytes());
    let kubeconfig = std::fs::read_to_string(layout.kubeconfig())
        .into_diagnostic()
        .wrap_err("can't read the kubeconfig; run `cargo xtask sandbox up` first")?;
    put("kubeconfig", &kubeconfig)?;
    put(
        "aws-credentials",
        &format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            secrets.aws_access_key, secrets.aws_secret_key
        ),
    )?;
    put("acr-password", &secrets.acr_password)?;
    put("azure-secret", &secrets.entra_client_secret)?;
    if !project.join("sas").exists() {
        put("sas", &services::container_sas(&secrets, CONTAINER)?)?;
    }
    put("migration.toml", &migration(&secrets))
}

/// What `sandbox env` prints, for `eval`: where the project is, for `migrate` and for the tests in `tests/`.
pub fn exports(layout: &Layout) -> String {
    let project = layout.project();
    format!(
        "export MIGRATE_PROJECT={0}\nexport MIGRATE_SANDBOX_PROJECT={0}\nexport KUBECONFIG={0}/kubeconfig\n\
         export AWS_SHARED_CREDENTIALS_FILE={0}/aws-credentials\nexport AWS_REGION={REGION}\n",
        project.display()
    )
}

fn migration(secrets: &services::Credentials) -> String {
    format!(
        r#"# The sandbox, as a site. Written by `sandbox seed` and `sandbox env`.
schema = 1

[source.cluster]
kubeconfig = "kubeconfig"
context = "eks"

[source.aws]
region = "{REGION}"
credentials-file = "aws-credentials"
ecr-endpoint = "{moto}"
secrets-manager-endpoint = "{moto}"
eks-endpoint = "{moto}"
iam-endpoint = "{moto}"

[source.registry]
host = "{ECR_HOST}"
endpoint = "{ecr}"

[source.objects]
bucket = "{BUCKET}"
endpoint = "{s3}"

[target.cluster]
kubeconfig = "kubeconfig"
context = "aks"

[target.azure]
subscription = "{SUBSCRIPTION}"
resource-group = "{RESOURCE_GROUP}"
arm-endpoint = "{azure}"

[target.azure.service-principal]
tenant = "{tenant}"
client-id = "{client_id}"
client-secret = "file:azure-secret"
authority = "{azure}"

[target.vault]
name = "{VAULT_NAME}"
endpoint = "{azure}"

[target.registry]
host = "{ACR_HOST}"
endpoint = "{acr}"
username = "{acr_username}"
password = "file:acr-password"

[target.objects]
account-url = "{account}"
container = "{CONTAINER}"
sas = "file:sas"

[storage-classes]
gp3 = "managed-csi-premium"
efs-sc = "azurefile-csi-nfs"

[rewrite]
ingress = "nginx"

[rewrite.identities]
"shop/web" = "11111111-2222-3333-4444-555555555555"

[rewrite.certificates]
"arn:aws:acm:us-east-1:123456789012:certificate/0f6f9bb0-6a3c-4f0e-9a43-5f1f1e0c7a11" = "shop-tls"

[[smoke]]
name = "web is rolled out"
rollout = {{ namespace = "shop", kind = "deployment", name = "web" }}

[[smoke]]
name = "web answers"
http = {{ namespace = "shop", service = "web", port = 80, path = "/healthz", status = 200 }}

[[smoke]]
name = "orders can be read"
sql = {{ namespace = "shop", pod = "postgres-0", container = "postgres", database = "shop", user = "shop", query = "select count(*) >= 200000 from orders", expect = "t" }}

[[data]]
name = "orders"
rows = {{ namespace = "shop", pod = "postgres-0", container = "postgres", database = "shop", user = "shop", tables = ["orders", "customers"] }}

[[data]]
name = "archive"
files = {{ namespace = "shop", pod = "postgres-0", container = "postgres", directory = "/var/lib/postgresql/data/archive" }}

[[data]]
name = "uploads"
files = {{ namespace = "shop", pod = "files-0", container = "files", directory = "/data" }}
"#,
        moto = host_url(ports::MOTO),
        ecr = host_url(ports::ECR),
        s3 = host_url(ports::S3),
        acr = host_url(ports::ACR),
        azure = host_url(ports::AZURE),
        tenant = secrets.entra_tenant,
        client_id = secrets.entra_client_id,
        acr_username = secrets.acr_username,
        account = services::account_url(secrets),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrate_finds_the_project_by_what_is_exported() {
        let layout = Layout::at(std::path::Path::new("/s"), std::path::Path::new("/w"));
        let text = exports(&layout);
        let lines: Vec<&str> = text.lines().collect();
        let project = layout.project();
        for name in ["MIGRATE_PROJECT", "MIGRATE_SANDBOX_PROJECT"] {
            assert!(lines.contains(&format!("export {name}={}", project.display()).as_str()), "{text}");
        }
    }
}
