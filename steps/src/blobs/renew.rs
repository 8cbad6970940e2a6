//! What requests to a service go with (credentials and the clients that hold them), made anew when the service no
//! longer takes it: once, for all requests that it refused together.

use std::sync::Arc;

use migrate_plugin_api::{ErrorClass, StepError};
use tokio::sync::RwLock;

use super::pace::Pace;

/// The access that is good now.
pub(super) struct Renewed<A>(RwLock<Arc<A>>);

impl<A> Renewed<A> {
    pub(super) fn new(first: Arc<A>) -> Self {
        Self(RwLock::new(first))
    }

    /// As it is now.
    pub(super) async fn current(&self) -> Arc<A> {
        self.0.read().await.clone()
    }

    /// Sends a request when the service may be asked; once more with what `renew` makes, if the service no longer
    /// takes what there is.
    ///
    /// # Errors
    /// Of `send`; of `renew`.
    pub(super) async fn request<T, F, R>(
        &self,
        pace: &Pace,
        renew: impl FnOnce() -> R,
        send: impl Fn(Arc<A>) -> F,
    ) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, StepError>>,
        R: Future<Output = Result<Arc<A>, StepError>>,
    {
        let access = self.current().await;
        let answer = pace.request(|| send(Arc::clone(&access))).await;
        match &answer {
            Err(error) if error.class == ErrorClass::Auth => {}
            _ => return answer,
        }
        let renewed = self.after(&access, renew).await?;
        pace.request(|| send(Arc::clone(&renewed))).await
    }

    /// What comes after `refused`. Requests that were refused together are served by one renewal.
    async fn after<R>(&self, refused: &Arc<A>, renew: impl FnOnce() -> R) -> Result<Arc<A>, StepError>
    where
        R: Future<Output = Result<Arc<A>, StepError>>,
    {
        let mut current = self.0.write().await;
        if Arc::ptr_eq(&current, refused) {
            *current = renew().await?;
        }
        Ok(Arc::clone(&current))
    }
}
