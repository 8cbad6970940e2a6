//! The end of a pass with `delete-extra`: what the bucket has no object for.

use futures::StreamExt as _;
use migrate_plugin_api::StepError;

use super::super::merge::Pair;
use super::super::target::Blob;
use super::super::walk::{Event, walk_all};
use super::Pass;

/// Blobs that are deleted at once, each after a question to the bucket.
const DELETES_AT_ONCE: usize = 16;

impl Pass<'_> {
    /// Deletes blobs that no object stands for: what names data goes before it.
    pub(super) async fn delete_extras(&mut self) -> Result<(), StepError> {
        let mut phases = self.phases.clone();
        phases.sort_by_key(|phase| phase.part);
        for phase in &phases {
            for prefix in &phase.scopes {
                let any = self.source.next_key(prefix, "").await?.is_some();
                let mut events = walk_all(&self.source, &self.target, prefix, true, !self.cursor.disorder);
                loop {
                    let event = tokio::select! {
                        () = self.ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                        event = events.recv() => event,
                    };
                    let Some(event) = event else { break };
                    let Event::Pairs { pairs, .. } = event? else { continue };
                    let extras = pairs.into_iter().filter_map(|pair| match pair {
                        Pair::Extra(blob) if phase.takes(&blob.key) => Some(blob),
                        _ => None,
                    });
                    self.delete(any, prefix, extras.collect()).await?;
                }
            }
        }
        self.cursor.deleted = true;
        self.checkpoint().await
    }

    async fn delete(&mut self, any: bool, prefix: &str, extras: Vec<Blob>) -> Result<(), StepError> {
        if !any && !extras.is_empty() {
            let place = &self.source.place;
            return Err(StepError::permanent(format!(
                "{place} has no object below `{prefix}`, so no blob is deleted there"
            ))
            .with_hint("check the bucket and its prefix, or delete the blobs by hand"));
        }
        let (source, target) = (&self.source, &self.target);
        let mut deletes = futures::stream::iter(extras)
            .map(|blob| async move {
                // It may have come since it was listed, or be listed in another order.
                if source.head(&blob.key).await?.is_some() {
                    return Ok((false, blob));
                }
                Ok::<_, StepError>((target.delete(&blob).await?, blob))
            })
            .buffer_unordered(DELETES_AT_ONCE);
        while let Some(deleted) = deletes.next().await {
            let (deleted, blob) = deleted?;
            if deleted {
                self.cursor.counts.deleted += 1;
                self.ctx.info(format!("deleted blob `{}`: the bucket has no such object", blob.key));
            }
        }
        Ok(())
    }
}
