//! A bearer token for one service of Azure, kept until shortly before its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use azure_core::credentials::TokenCredential;
use migrate_plugin_api::{Secret, StepContext, StepError};
use tokio::sync::Mutex;

use crate::azure;
use crate::site::AzureAccess;

/// A token of an identity is asked for again so long before its end.
const MARGIN: Duration = Duration::from_secs(300);

/// And again so long after Entra didn't answer: every request would else wait for that in turn.
const PAUSE: Duration = Duration::from_secs(10);

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
    held: Mutex<Option<Held>>,
    /// The last one was refused.
    is_refused: AtomicBool,
}

struct Held {
    token: Secret,
    ends_at: Instant,
    /// When another is asked for.
    renew_at: Instant,
}

impl Held {
    /// A token that was given at `now` and ends so long after it.
    fn new(token: Secret, now: Instant, lasts: Duration) -> Self {
        Self { token, ends_at: now + lasts, renew_at: now + lasts.saturating_sub(MARGIN) }
    }

    /// Whether it serves without another being asked for.
    fn serves(&self, now: Instant) -> bool {
        self.lasts(now) && now < self.renew_at
    }

    fn lasts(&self, now: Instant) -> bool {
        now < self.ends_at
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Of an identity. Sends nothing yet. `scope` is `RESOURCE/.default`.
    pub(crate) fn of(identity: Arc<dyn TokenCredential>, scope: String, service: &str) -> Self {
        Self::new(Login::Identity(identity), scope, service)
    }

    fn new(login: Login, scope: String, service: &str) -> Self {
        let service = service.to_owned();
        Self { login, scope, service, held: Mutex::default(), is_refused: AtomicBool::default() }
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
                Ok(Self::new(login, scope, service))
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

    /// One that is good for some minutes more; for less, while Entra doesn't answer.
    ///
    /// # Errors
    /// `Auth` when Entra gives none, transient when it doesn't answer and the last one has ended.
    pub(crate) async fn get(&self) -> Result<Secret, StepError> {
        let identity = match &self.login {
            Login::Given(token) => return Ok(token.clone()),
            Login::Identity(identity) => identity,
        };
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.serves(Instant::now())) {
            return Ok(held.token.clone());
        }
        // Who keeps it would give the same again.
        let options = self.is_refused.load(Ordering::Relaxed).then(azure::anew);
        let fresh = identity.get_token(&[&self.scope], options).await;
        let fresh = match fresh
            .map_err(|e| azure::no_token(format!("failed to get an Entra token for {}", self.service), e))
        {
            Ok(fresh) => fresh,
            Err(error) => {
                let now = Instant::now();
                let held = held.as_mut().filter(|held| held.lasts(now) && error.class.is_retryable());
                let Some(held) = held else { return Err(error) };
                held.renew_at = now + PAUSE;
                return Ok(held.token.clone());
            }
        };
        self.is_refused.store(false, Ordering::Relaxed);
        let left = fresh.expires_on - azure_core::time::OffsetDateTime::now_utc();
        let token = Secret::new(fresh.token.secret());
        let lasts = Duration::try_from(left).unwrap_or_default();
        *held = Some(Held::new(token.clone(), Instant::now(), lasts));
        Ok(token)
    }

    /// A token was refused: it is not given again. It may have ended before its time: while a machine
    /// sleeps, [`Instant`] stands still. Whether another may help: one that a person gave is all there is.
    pub(crate) async fn forget(&self, refused: &Secret) -> bool {
        if matches!(self.login, Login::Given(_)) {
            return false;
        }
        let mut held = self.held.lock().await;
        // By now somebody else may have another.
        if held.as_ref().is_some_and(|held| held.token == *refused) {
            *held = None;
            self.is_refused.store(true, Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
    use azure_core::error::ErrorKind;
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

    /// Numbers its tokens, which last so many seconds; or can't be reached.
    #[derive(Debug, Default)]
    pub(crate) struct Numbers {
        pub asked: AtomicI64,
        pub given: AtomicI64,
        pub lasts: AtomicI64,
        pub away: AtomicBool,
    }

    #[async_trait]
    impl TokenCredential for Numbers {
        async fn get_token(
            &self,
            _: &[&str],
            _: Option<TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.away.load(Ordering::Relaxed) {
                return Err(away());
            }
            let number = self.given.fetch_add(1, Ordering::Relaxed) + 1;
            let ends = OffsetDateTime::now_utc() + Span::seconds(self.lasts.load(Ordering::Relaxed));
            Ok(AccessToken::new(format!("token-{number}"), ends))
        }
    }

    /// How the machine's identities say that Entra doesn't answer (`azure_identity`, `authentication_error`).
    pub(crate) fn away() -> azure_core::Error {
        let cause = azure_core::Error::new(ErrorKind::Connection, "dns error");
        azure_core::Error::with_error(
            ErrorKind::Credential,
            cause,
            "WorkloadIdentityCredential authentication failed. dns error",
        )
    }
}

#[cfg(test)]
mod tests {
    use migrate_plugin_api::ErrorClass;

    use super::testing::Numbers;
    use super::*;

    fn tokens(lasts: i64) -> (Arc<Numbers>, Tokens) {
        let numbers = Arc::new(Numbers { lasts: lasts.into(), ..Numbers::default() });
        let tokens = Tokens::of(numbers.clone(), "s/.default".to_owned(), "a service");
        (numbers, tokens)
    }

    async fn token(tokens: &Tokens) -> Result<String, StepError> {
        Ok(tokens.get().await?.expose().to_owned())
    }

    #[test]
    fn a_token_serves_until_five_minutes_before_its_end() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let held = Held::new(Secret::new("t"), now, 3_600 * second);
        assert!(held.serves(now + 3_299 * second) && !held.serves(now + 3_300 * second));
        assert!(held.lasts(now + 3_599 * second) && !held.lasts(now + 3_600 * second));
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_again_near_its_end() {
        let (_, kept) = tokens(3_600);
        assert_eq!(token(&kept).await.unwrap(), "token-1");
        assert_eq!(token(&kept).await.unwrap(), "token-1");
        assert!(!format!("{kept:?}").contains("token-"));
        let (_, renewed) = tokens(300);
        assert_eq!(token(&renewed).await.unwrap(), "token-1");
        assert_eq!(token(&renewed).await.unwrap(), "token-2");
    }

    #[tokio::test]
    async fn while_entra_is_away_a_token_serves_to_its_very_end() {
        let (numbers, tokens) = tokens(300);
        assert_eq!(token(&tokens).await.unwrap(), "token-1");
        numbers.away.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(token(&tokens).await.unwrap(), "token-1");
        }
        assert_eq!(numbers.asked.load(Ordering::Relaxed), 2, "each waited for Entra anew");

        let (numbers, tokens) = self::tokens(0);
        assert_eq!(token(&tokens).await.unwrap(), "token-1");
        numbers.away.store(true, Ordering::Relaxed);
        let error = token(&tokens).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient { retry_after_ms: None });
        assert_eq!(error.message, "failed to get an Entra token for a service");
        assert_eq!(error.hint, None, "nobody has to log in");
    }

    #[tokio::test]
    async fn a_token_that_was_refused_is_not_given_again() {
        let (_, tokens) = tokens(3_600);
        let first = tokens.get().await.unwrap();
        assert!(tokens.forget(&first).await);
        assert_eq!(token(&tokens).await.unwrap(), "token-2");
        // Two were refused at once: the second forgets nothing.
        assert!(tokens.forget(&first).await);
        assert_eq!(token(&tokens).await.unwrap(), "token-2");
        let login = Login::Given(Secret::new("given"));
        let given = Tokens::new(login, String::new(), "");
        assert!(!given.forget(&given.get().await.unwrap()).await);
    }
}
