//! What a step has under way outside, so that a process that was killed goes on there: uploads that
//! are open at the target, and imports that Azure was asked for.
//!
//! Durable before it is relied on. A cursor that names what is gone does no harm: the registry is
//! asked before anything is built on it.

use std::collections::BTreeMap;

use migrate_plugin_api::{StepContext, StepError};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;

use super::digest::Digest;

/// An upload that a registry keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct OpenUpload {
    pub repository: String,
    pub location: Url,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Place {
    /// By the image's reference, where Azure says how far it is.
    #[serde(default)]
    operations: BTreeMap<String, Url>,
    #[serde(default)]
    uploads: BTreeMap<Digest, OpenUpload>,
}

/// The cursor of one attempt.
pub(crate) struct Cursor {
    ctx: StepContext,
    place: Mutex<Place>,
}

impl Cursor {
    /// As an earlier attempt left it. One that can't be read is left out: it only saves work.
    pub(crate) fn load(ctx: &StepContext) -> Self {
        let place = ctx.cursor::<Place>().unwrap_or_else(|error| {
            ctx.warn(format!("{error}: what is at the target already is found by asking"));
            None
        });
        Self { place: Mutex::new(place.unwrap_or_default()), ctx: ctx.clone() }
    }

    /// The open upload of a blob to a repository.
    pub(crate) async fn upload(&self, digest: &Digest, repository: &str) -> Option<OpenUpload> {
        let place = self.place.lock().await;
        place.uploads.get(digest).filter(|upload| upload.repository == repository).cloned()
    }

    /// Remembers where an upload goes on.
    pub(crate) async fn keep_upload(&self, digest: &Digest, upload: OpenUpload) -> Result<(), StepError> {
        let mut place = self.place.lock().await;
        place.uploads.insert(digest.clone(), upload);
        self.ctx.checkpoint(&*place).await
    }

    /// Forgets an upload that is over. Need not be durable.
    pub(crate) async fn forget_upload(&self, digest: &Digest) {
        self.place.lock().await.uploads.remove(digest);
    }

    /// Where Azure says how far the import of `image` is.
    pub(crate) async fn operation(&self, image: &str) -> Option<Url> {
        self.place.lock().await.operations.get(image).cloned()
    }

    /// Remembers an import that Azure has begun.
    pub(crate) async fn keep_operation(&self, image: &str, url: Url) -> Result<(), StepError> {
        let mut place = self.place.lock().await;
        place.operations.insert(image.to_owned(), url);
        self.ctx.checkpoint(&*place).await
    }
}
