//! What a delivery would do, to the blob and the byte. Reads only.

use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{StepContext, StepError, StepPlan};

use super::deliver::{CHECKS_AT_ONCE, Delivery, conflicts};
use super::errors;
use super::graph::Image;
use super::needs::{Blob, Needs};

/// Tags that would be moved are named up to here; a plan must stay readable.
const MOVED_NAMED: usize = 20;

/// Counts of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Survey {
    images_there: usize,
    blobs_sent: u64,
    bytes_sent: u64,
    blobs_mounted: u64,
    blobs_there: u64,
}

/// Completes `plan` for what is read already. What would be refused is a problem of `images`.
pub(crate) async fn complete(
    ctx: &StepContext,
    plan: &mut StepPlan,
    delivery: &Delivery<'_>,
) -> Result<(), StepError> {
    let found = delivery.look().await?;
    let clashes = conflicts(delivery.images, &found.tags);
    if delivery.overwrite {
        let moved = clashes.iter().take(MOVED_NAMED).map(|clash| {
            format!("tag {} of {}, which is {}", clash.name, delivery.target.host, clash.target)
        });
        plan.destroys.extend(moved);
        if clashes.len() > MOVED_NAMED {
            plan.destroys.push(format!("{} more tags", clashes.len() - MOVED_NAMED));
        }
    } else if let Err(error) = delivery.refuse(&clashes) {
        plan.problems.push(errors::problem(&error, "images"));
    }
    let needs = Needs::of(delivery.images, &found);
    let looks: Vec<_> = needs.blobs.iter().map(|blob| is_there(delivery, blob)).collect();
    let there: Vec<bool> = futures::stream::iter(looks).buffered(CHECKS_AT_ONCE).try_collect().await?;
    let mut survey = Survey {
        images_there: delivery.images.iter().filter(|image| found.has(image)).count(),
        ..Survey::default()
    };
    for (blob, there) in needs.blobs.iter().zip(there) {
        survey.count(ctx, blob, there, delivery.images);
    }
    plan.bytes = Some(survey.bytes_sent);
    plan.summary = format!("{}: {}", plan.summary, survey.said());
    Ok(())
}

async fn is_there(delivery: &Delivery<'_>, blob: &Blob) -> Result<bool, StepError> {
    match (&blob.home, blob.places.first()) {
        (None, Some(first)) => delivery.target.has_blob(&first.repository, &blob.descriptor).await,
        _ => Ok(true),
    }
}

impl Survey {
    fn count(&mut self, ctx: &StepContext, blob: &Blob, there: bool, images: &[Image]) {
        let further = blob.places.len() as u64 - u64::from(blob.home.is_none());
        let (digest, size) = (&blob.descriptor.digest, blob.descriptor.size);
        self.blobs_mounted += further;
        if there {
            self.blobs_there += 1;
        } else {
            self.blobs_sent += 1;
            self.bytes_sent += size;
        }
        let fate = if there { "is there" } else { "would be sent" };
        let image = images[blob.image].reference.short();
        ctx.debug(format!("blob {digest} of {image}, {size} bytes, {fate}; {further} more by mount"));
    }

    fn said(&self) -> String {
        format!(
            "{} images are there; {} blobs ({} bytes) to send, {} to mount, {} there",
            self.images_there, self.blobs_sent, self.bytes_sent, self.blobs_mounted, self.blobs_there
        )
    }
}
