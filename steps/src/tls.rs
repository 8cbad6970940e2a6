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
    let builder = reqwest::Client::builder();
    let builder = if speaks == Speaks::Http1 { builder.http1_only() } else { builder };
    // Without roots the builder's own attempt fails, and says why.
    match config(speaks) {
        Ok(config) => builder.tls_backend_preconfigured(config),
        Err(_) => builder,
    }
}

/// The same for connections that are no client's.
///
/// # Errors
/// Where the machine's roots can't be read.
pub(crate) fn config(speaks: Speaks) -> Result<ClientConfig, rustls::Error> {
    static ROOTS: OnceLock<Result<ClientConfig, rustls::Error>> = OnceLock::new();
    let mut config = ROOTS.get_or_init(trusting).clone()?;
    if speaks == Speaks::Http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(config)
}

fn trusting() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_platform_verifier()?.with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_roots_are_taken() {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            config(speaks).unwrap();
            client(speaks).build().unwrap();
        }
    }
}
