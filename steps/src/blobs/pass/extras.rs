//! The end of a pass with `delete-extra`: what the bucket has no object for.
//!
//! Of Velero's repositories nothing is deleted that the container may still need. What the bucket no
//! longer has was replaced before it was dropped: so extras are listed first, and go only if the bucket
//! then has no index that the container lacks.

use futures::StreamExt as _;
use migrate_plugin_api::StepError;
use tokio::sync::mpsc;

use super::super::merge::{Pair, Standing, standing};
use super::super::names::{Part, Phase};
use super::super::repository::{self, MAX_ROUNDS};
use super::super::target::Blob;
use super::super::walk::{Event, next_pairs, walk_all};
use super::Pass;

/// Blobs that are deleted at once, each after a question to the bucket.
const DELETES_AT_ONCE: usize = 16;
/// Blobs that are held before they are deleted: some 10 MB.
const MAX_HELD: usize = 20_000;

/// Blobs of a phase that no object stands for, some at a time.
struct Extras {
    phase: Phase,
    /// The scope that is walked, and whether the bucket has anything there.
    scope: Option<(mpsc::Receiver<Result<Event, StepError>>, bool)>,
    /// How many were begun.
    begun: usize,
}

impl Extras {
    fn new(phase: Phase) -> Self {
        Self { phase, scope: None, begun: 0 }
    }

    /// [`MAX_HELD`] or a few more of them; fewer at the end.
    async fn next(&mut self, pass: &Pass<'_>) -> Result<Vec<Blob>, StepError> {
        let mut extras = Vec::new();
        while extras.len() < MAX_HELD {
            let Some((events, any)) = &mut self.scope else {
                let Some(prefix) = self.phase.scopes.get(self.begun) else { break };
                let any = pass.source.next_key(prefix, "").await?.is_some();
                let events = walk_all(&pass.source, &pass.target, prefix, true, !pass.cursor.disorder);
                self.scope = Some((events, any));
                self.begun += 1;
                continue;
            };
            let Some(pairs) = next_pairs(events, pass.ctx).await? else {
                self.scope = None;
                continue;
            };
            let before = extras.len();
            extras.extend(pairs.into_iter().filter_map(|pair| match pair {
                Pair::Extra(blob) if self.phase.takes(&blob.key) => Some(blob),
                _ => None,
            }));
            if !*any && extras.len() > before {
                let prefix = &self.phase.scopes[self.begun - 1];
                return Err(StepError::permanent(format!(
                    "{} has no object below `{prefix}`, so no blob is deleted there",
                    pass.source.place
                ))
                .with_hint("check the bucket and its prefix, or delete the blobs by hand"));
            }
        }
        Ok(extras)
    }
}

impl Pass<'_> {
    /// Deletes blobs that no object stands for: what names data goes before it. `false` where the
    /// repositories have moved on: then they are to be gone through [once more](Self::go_back).
    pub(super) async fn delete_extras(&mut self) -> Result<bool, StepError> {
        for part in [Part::All, Part::BackupFiles, Part::Files] {
            self.delete_all(part).await?;
        }
        if let (Some(indexes), Some(packs)) = (self.phase(Part::Indexes), self.phase(Part::Packs)) {
            let mut extras = Extras::new(packs);
            let mut more = true;
            while more {
                let packs = extras.next(self).await?;
                more = packs.len() >= MAX_HELD;
                if !self.delete_indexes(&indexes).await? {
                    return Ok(false);
                }
                self.delete(packs).await?;
            }
        }
        self.delete_all(Part::Formats).await?;
        self.cursor.deleted = true;
        self.checkpoint().await?;
        Ok(true)
    }

    /// Back to the repositories, and then to the end: all the rest is done and counted.
    pub(super) async fn go_back(&mut self) -> Result<(), StepError> {
        self.rounds += 1;
        if self.rounds >= MAX_ROUNDS {
            return Err(repository::restless());
        }
        self.ctx.info("the volume data has changed: it is copied again before anything of it is deleted");
        let indexes = self.phases.iter().position(|phase| phase.part == Part::Indexes);
        self.cursor.phase = indexes.unwrap_or(self.phases.len());
        (self.cursor.again, self.cursor.settling) = (true, true);
        self.checkpoint().await
    }

    fn phase(&self, part: Part) -> Option<Phase> {
        self.phases.iter().find(|phase| phase.part == part).cloned()
    }

    async fn delete_all(&mut self, part: Part) -> Result<(), StepError> {
        let Some(phase) = self.phase(part) else { return Ok(()) };
        let mut extras = Extras::new(phase);
        let mut more = true;
        while more {
            let some = extras.next(self).await?;
            more = some.len() >= MAX_HELD;
            self.delete(some).await?;
        }
        Ok(())
    }

    /// Deletes all indexes that the bucket no longer has; `false` where it has one that the container lacks.
    async fn delete_indexes(&mut self, indexes: &Phase) -> Result<bool, StepError> {
        let mut extras = Extras::new(indexes.clone());
        let mut more = true;
        while more {
            let some = extras.next(self).await?;
            more = some.len() >= MAX_HELD;
            if self.lacks_an_index(indexes).await? {
                return Ok(false);
            }
            self.delete(some).await?;
        }
        Ok(true)
    }

    /// Whether the bucket has an index that the container lacks.
    async fn lacks_an_index(&self, indexes: &Phase) -> Result<bool, StepError> {
        for prefix in &repository::scopes(&self.source, indexes).await? {
            let mut events = walk_all(&self.source, &self.target, prefix, false, !self.cursor.disorder);
            while let Some(pairs) = next_pairs(&mut events, self.ctx).await? {
                for pair in pairs {
                    let Pair::Object(object, blob) = pair else { continue };
                    if !indexes.takes(&object.key) || object.is_folder_marker() {
                        continue;
                    }
                    // The two may list in other orders.
                    let blob = match blob {
                        Some(blob) => Some(blob),
                        None => self.target.head(&object.key).await?,
                    };
                    if blob.is_none_or(|blob| standing(&object, &blob) != Standing::Equal) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    async fn delete(&mut self, extras: Vec<Blob>) -> Result<(), StepError> {
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
        loop {
            let deleted = tokio::select! {
                () = self.ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                deleted = deletes.next() => deleted,
            };
            let Some(deleted) = deleted else { return Ok(()) };
            let (deleted, blob) = deleted?;
            if deleted {
                self.cursor.counts.deleted += 1;
                self.ctx.info(format!("deleted blob `{}`: the bucket has no such object", blob.key));
            }
        }
    }
}
