//! TLS of the HTTP clients here: the roots that this machine trusts are read once a process. A client
//! by itself reads them anew, on Debian some 300 files, which costs more than a short copy.

use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

/// What a client may speak, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http2,
    Http1,
}

/// A builder that trusts what this machine trusts.
pub(crate) fn client(speaks: Speaks) -> reqwest::ClientBuilder {
    static ROOTS: OnceLock<Option<ClientConfig>> = OnceLock::new();
    let builder = reqwest::Client::builder();
    let builder = if speaks == Speaks::Http1 { builder.http1_only() } else { builder };
    // Without roots the builder's own attempt fails, and says why.
    let Some(mut config) = ROOTS.get_or_init(|| config().ok()).clone() else { return builder };
    if speaks == Speaks::Http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    builder.tls_backend_preconfigured(config)
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_platform_verifier()?.with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_roots_are_taken() {
        config().unwrap();
        for speaks in [Speaks::Http1, Speaks::Http2] {
            client(speaks).build().unwrap();
        }
    }
}
