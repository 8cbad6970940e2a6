//! Who we are to Azure: the identities that a person or a machine usually has.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_identity::{DeveloperToolsCredential, ManagedIdentityCredential, WorkloadIdentityCredential};
use tokio::sync::OnceCell;

/// Workload identity where the pod has one, then the Azure CLIs, then a managed identity: the
/// explicit before the implicit, and the one that has to time out last.
///
/// Sends nothing yet; what can't be set up here is left out.
pub(crate) fn credential() -> Arc<dyn TokenCredential> {
    let mut sources: Vec<Arc<dyn TokenCredential>> = Vec::new();
    if let Ok(workload) = WorkloadIdentityCredential::new(None) {
        sources.push(workload);
    }
    if let Ok(tools) = DeveloperToolsCredential::new(None) {
        sources.push(tools);
    }
    if let Ok(managed) = ManagedIdentityCredential::new(None) {
        sources.push(managed);
    }
    Arc::new(Chain { sources, chosen: OnceCell::new() })
}

/// The first identity that gives a token serves all later requests.
#[derive(Debug)]
struct Chain {
    sources: Vec<Arc<dyn TokenCredential>>,
    chosen: OnceCell<usize>,
}

#[async_trait]
impl TokenCredential for Chain {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        if let Some(index) = self.chosen.get() {
            return self.sources[*index].get_token(scopes, options).await;
        }
        let mut reasons = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            match source.get_token(scopes, options.clone()).await {
                Ok(token) => {
                    // Two first requests at once may both get here; either's choice is good.
                    let _ = self.chosen.set(index);
                    return Ok(token);
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        let reasons = reasons.join("; ");
        Err(azure_core::Error::with_message(ErrorKind::Credential, format!("no Azure identity: {reasons}")))
    }
}
