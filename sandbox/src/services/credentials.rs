//! Keys and passwords of the services, made once for each sandbox.

use std::fs;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::process::write_atomically;

/// Everything secret about the services. No `Debug`, so that none is ever printed by accident.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Credentials {
    /// Access key of S3; moto takes any.
    pub aws_access_key: String,
    /// Its secret.
    pub aws_secret_key: String,
    /// Storage account name.
    pub azure_account: String,
    /// Its key, base64.
    pub azure_key: String,
    /// Access key of the S3 face of Azurite.
    pub gateway_access_key: String,
    /// Its secret.
    pub gateway_secret_key: String,
    /// Admin user of the registry that stands for ACR.
    pub acr_username: String,
    /// Its password.
    pub acr_password: String,
    /// Directory ID of the tenant in the Entra stand-in.
    pub entra_tenant: String,
    /// ID of the only application in it.
    pub entra_client_id: String,
    /// Its secret.
    pub entra_client_secret: String,
    /// What the Entra stand-in signs its tokens with.
    pub entra_signing_key: String,
    /// What the registries sign their upload states with.
    pub registry_secret: String,
    /// Password of Velero's repositories, the same in both clusters.
    pub velero_repository_password: String,
    /// Password of the shop's database.
    pub database_password: String,
}

/// The credentials of this sandbox: read, or made and stored for the owner alone.
///
/// # Errors
/// When the file can't be read or written.
pub fn credentials(layout: &Layout) -> Result<Credentials> {
    let path = layout.credentials();
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .into_diagnostic()
            .wrap_err_with(|| format!("can't understand {}; `sandbox down` removes it", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let made = make()?;
            write_atomically(&path, &serde_json::to_vec_pretty(&made).into_diagnostic()?)?;
            Ok(made)
        }
        Err(e) => Err(e).into_diagnostic().wrap_err_with(|| format!("can't read {}", path.display())),
    }
}

fn make() -> Result<Credentials> {
    Ok(Credentials {
        // The form of AWS's own: AKIA and 16 characters.
        aws_access_key: format!("AKIA{}", hex::encode_upper(random::<8>()?)),
        aws_secret_key: hex::encode(random::<20>()?),
        azure_account: "migratesandbox".to_owned(),
        azure_key: STANDARD.encode(random::<64>()?),
        gateway_access_key: format!("AKIA{}", hex::encode_upper(random::<8>()?)),
        gateway_secret_key: hex::encode(random::<20>()?),
        acr_username: "migratesandbox".to_owned(),
        acr_password: hex::encode(random::<20>()?),
        entra_tenant: uuid()?,
        entra_client_id: uuid()?,
        entra_client_secret: hex::encode(random::<20>()?),
        entra_signing_key: hex::encode(random::<32>()?),
        registry_secret: hex::encode(random::<20>()?),
        velero_repository_password: hex::encode(random::<20>()?),
        database_password: hex::encode(random::<12>()?),
    })
}

/// A random (version 4) UUID.
///
/// # Errors
/// When the system has no randomness.
pub fn uuid() -> Result<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| miette!("the system has no randomness"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn credentials_are_made_once_and_readable_by_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::at(folder.path(), folder.path());
        let made = credentials(&layout).unwrap();
        let read = credentials(&layout).unwrap();
        assert_eq!(made.azure_key, read.azure_key);
        assert_ne!(made.aws_secret_key, made.gateway_secret_key);
        let mode = fs::metadata(layout.credentials()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
