//! A cluster's keys and certificates: one CA for everything, made once and removed by `down`.
//!
//! All files appear together, by a rename: a folder that exists is complete. Keys are readable by root alone (the
//! folder `state/` is), and none ever goes into a log or an argument.

use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use crate::layout::{Cluster, Layout};
use crate::process::write_atomically;

/// Who a client certificate is for: its file's name, user and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The person, `migrate`, and the sandbox's own controllers.
    Admin,
    /// The API server when it asks the kubelet (logs, exec).
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kube-proxy.
    Proxy,
    /// The kubelet; the node authorizer knows it by its name.
    Kubelet,
}

impl Client {
    const ALL: [Client; 6] = [
        Client::Admin,
        Client::ApiServer,
        Client::ControllerManager,
        Client::Scheduler,
        Client::Proxy,
        Client::Kubelet,
    ];

    /// Its file's stem.
    pub fn name(self) -> &'static str {
        match self {
            Client::Admin => "admin",
            Client::ApiServer => "apiserver-kubelet-client",
            Client::ControllerManager => "controller-manager",
            Client::Scheduler => "scheduler",
            Client::Proxy => "proxy",
            Client::Kubelet => "kubelet-client",
        }
    }

    fn subject(self, cluster: Cluster) -> (String, Option<&'static str>) {
        match self {
            Client::Admin => ("admin".to_owned(), Some("system:masters")),
            Client::ApiServer => ("kube-apiserver-kubelet-client".to_owned(), Some("system:masters")),
            Client::ControllerManager => ("system:kube-controller-manager".to_owned(), None),
            Client::Scheduler => ("system:kube-scheduler".to_owned(), None),
            Client::Proxy => ("system:kube-proxy".to_owned(), None),
            Client::Kubelet => (format!("system:node:{}", cluster.node()), Some("system:nodes")),
        }
    }
}

/// A cluster's folder of keys.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the keys unless they are there.
    pub fn ensure(layout: &Layout, cluster: Cluster) -> Result<Pki> {
        let dir = layout.cluster(cluster).join("pki");
        if !dir.exists() {
            let parent = layout.cluster(cluster);
            std::fs::create_dir_all(&parent).into_diagnostic()?;
            let staging = tempfile::Builder::new().prefix(".pki-").tempdir_in(&parent).into_diagnostic()?;
            make(staging.path(), cluster).wrap_err_with(|| format!("can't make the keys of {cluster}"))?;
            std::fs::rename(staging.keep(), &dir).into_diagnostic()?;
        }
        Ok(Pki { dir })
    }

    /// The path of one file as an argument.
    pub fn path(&self, file: &str) -> String {
        self.dir.join(file).to_string_lossy().into_owned()
    }

    /// A file's content.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.dir.join(file);
        std::fs::read(&path).into_diagnostic().wrap_err_with(|| format!("can't read {}", path.display()))
    }
}

fn make(dir: &Path, cluster: Cluster) -> Result<()> {
    let ca_key = KeyPair::generate().into_diagnostic()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name = distinguished(&format!("{cluster} sandbox CA"), None);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let ca_certificate = ca.self_signed(&ca_key).into_diagnostic()?;
    write(dir, "ca.crt", &ca_certificate.pem())?;
    write(dir, "ca.key", &ca_key.serialize_pem())?;
    let issuer = Issuer::new(ca, ca_key);

    let service = "kubernetes.default.svc";
    let names = [
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        service.to_owned(),
        format!("{service}.cluster.local"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        cluster.address().to_string(),
        // Pods reach the API server by its service address.
        cluster.service_address().to_string(),
    ];
    serving(dir, "apiserver", &names, &issuer)?;
    serving(dir, "kubelet", &[cluster.node().to_owned(), cluster.address().to_string()], &issuer)?;
    for client in Client::ALL {
        let (user, group) = client.subject(cluster);
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(&user, group);
        signed(dir, client.name(), params, ExtendedKeyUsagePurpose::ClientAuth, &issuer)?;
    }
    let tokens = KeyPair::generate().into_diagnostic()?;
    write(dir, "service-account.key", &tokens.serialize_pem())?;
    write(dir, "service-account.pub", &tokens.public_key_pem())
}

fn serving(dir: &Path, name: &str, names: &[String], issuer: &Issuer<'_, KeyPair>) -> Result<()> {
    let mut params = CertificateParams::new(names.to_vec()).into_diagnostic()?;
    params.distinguished_name = distinguished(name, None);
    signed(dir, name, params, ExtendedKeyUsagePurpose::ServerAuth, issuer)
}

fn signed(
    dir: &Path,
    name: &str,
    mut params: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().into_diagnostic()?;
    let certificate = params.signed_by(&key, issuer).into_diagnostic()?;
    write(dir, &format!("{name}.crt"), &certificate.pem())?;
    write(dir, &format!("{name}.key"), &key.serialize_pem())
}

fn distinguished(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn write(dir: &Path, file: &str, text: &str) -> Result<()> {
    write_atomically(&dir.join(file), text.as_bytes())
}
