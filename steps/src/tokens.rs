//! A bearer token for one service of Azure, kept until shortly before its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use azure_core::credentials::TokenCredential;
use migrate_plugin_api::{Secret, StepContext, StepError};
use tokio::sync::Mutex;

use crate::azure;
use crate::site::AzureAccess;

/// A token of an identity is asked for again so long before its end.
const MARGIN: Duration = Duration::from_secs(300);

enum Login {
    Given(Secret),
    Identity(Arc<dyn TokenCredential>),
}

/// Gives tokens for one service. Shows none.
pub(crate) struct Tokens {
    login: Login,
    scope: String,
    /// What the token is for, in words.
    service: String,
    held: Mutex<Option<(Secret, Instant)>>,
}

impl Tokens {
    /// Of an identity. Sends nothing yet. `scope` is `RESOURCE/.default`.
    pub(crate) fn of(identity: Arc<dyn TokenCredential>, scope: String, service: &str) -> Self {
        Self { login: Login::Identity(identity), scope, service: service.to_owned(), held: Mutex::default() }
    }

    /// For Azure Resource Manager at the scope, as the site says.
    ///
    /// # Errors
    /// When there are two ways to log in, or a secret can't be resolved.
    pub(crate) async fn for_resources(
        ctx: &StepContext,
        access: &AzureAccess,
        scope: String,
    ) -> Result<Self, StepError> {
        let service = "Azure Resource Manager";
        match (&access.token, &access.service_principal) {
            (Some(reference), None) => {
                let login = Login::Given(ctx.secret(reference).await?);
                Ok(Self { login, scope, service: service.to_owned(), held: Mutex::default() })
            }
            (None, Some(principal)) => {
                Ok(Self::of(azure::application(ctx, principal).await?, scope, service))
            }
            (None, None) => Ok(Self::of(azure::credential(), scope, service)),
            (Some(_), Some(_)) => {
                Err(StepError::permanent("there are both a `token` and a `service-principal` for Azure")
                    .with_hint("give one of them in migration.toml"))
            }
        }
    }

    /// One that is good for some minutes more.
    ///
    /// # Errors
    /// `Auth` when Entra gives none, transient when it doesn't answer.
    pub(crate) async fn get(&self) -> Result<Secret, StepError> {
        let identity = match &self.login {
            Login::Given(token) => return Ok(token.clone()),
            Login::Identity(identity) => identity,
        };
        let mut held = self.held.lock().await;
        if let Some((token, renew_at)) = &*held
            && *renew_at > Instant::now()
        {
            return Ok(token.clone());
        }
        let fresh = identity.get_token(&[&self.scope], None).await;
        let fresh = fresh
            .map_err(|e| azure::no_token(format!("failed to get an Entra token for {}", self.service), e))?;
        let left = fresh.expires_on - azure_core::time::OffsetDateTime::now_utc();
        let left = Duration::try_from(left).unwrap_or_default().saturating_sub(MARGIN);
        let token = Secret::new(fresh.token.secret());
        *held = Some((token.clone(), Instant::now() + left));
        Ok(token)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
    use azure_core::time::{Duration as Span, OffsetDateTime};
    use migrate_plugin_api::async_trait;

    /// The token that [`Us`] gets.
    pub(crate) const TOKEN: &str = "token-of-ours";

    /// An identity that asks for tokens for vaults only; they last so long.
    #[derive(Debug)]
    pub(crate) struct Us(pub Span);

    #[async_trait]
    impl TokenCredential for Us {
        async fn get_token(
            &self,
            scopes: &[&str],
            _: Option<TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            assert_eq!(scopes, ["https://vault.azure.net/.default"]);
            Ok(AccessToken::new(TOKEN, OffsetDateTime::now_utc() + self.0))
        }
    }
}
