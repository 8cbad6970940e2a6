//! A tag that was asked for together with a digest, and points at another image by now.
//!
//! The image goes along by its digest, and the tag is not set: at the target it would be an older image
//! than at the source. Whoever starts the image by that tag has to know, so it is told in the plan, in
//! the log and in the evidence.

use migrate_plugin_api::{Check, CheckStatus, Problem, StepContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The tag of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct MovedTag {
    /// `latest`.
    pub tag: String,
    /// What it points at at the source, if it is there at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Digest>,
}

impl MovedTag {
    fn where_it_is(&self) -> String {
        match &self.now {
            Some(now) => format!("points at {now} at the source by now"),
            None => "is gone at the source".to_owned(),
        }
    }

    /// One sentence about `image`, as it was asked for.
    fn said(&self, image: &str) -> String {
        format!("image {image} goes along without its tag, which {}", self.where_it_is())
    }

    /// For a plan.
    pub(crate) fn problem(&self, image: &str) -> Problem {
        Problem::warning(self.said(image)).in_field("images").with_hint(format!(
            "what starts it by `:{}` finds nothing at the target: name it by its digest there, or take the \
             images anew and copy what the tag is now",
            self.tag
        ))
    }

    /// What a verification says of it: `there` is what the tag points at where `image` went. No failure,
    /// since it was told.
    pub(crate) fn check(&self, subject: &str, image: &Digest, there: Option<&Digest>) -> Check {
        let shown = |digest: Option<&Digest>| digest.map_or_else(|| "missing".to_owned(), Digest::to_string);
        // As it is at the source is right, too.
        let wanted = there.filter(|there| self.now.as_ref() == Some(there)).unwrap_or(image);
        let check = Check::equal(subject, format!("tag {}", self.tag), wanted.to_string(), shown(there));
        if check.status == CheckStatus::Passed {
            return check;
        }
        let note = format!("it was not set: it {}", self.where_it_is());
        Check { status: CheckStatus::Warning, ..check.with_note(note) }
    }
}

/// Says in the log which of `images`, by what they were asked for, go along without their tag.
pub(crate) fn tell<'a>(ctx: &StepContext, images: impl Iterator<Item = (String, Option<&'a MovedTag>)>) {
    for (image, moved) in images {
        if let Some(moved) = moved {
            ctx.warn(moved.said(&image));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_right_as_it_was_asked_for_and_as_it_is_at_the_source() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let (old, new, other) = (digest("old"), digest("new"), digest("other"));
        for (now, there, status) in [
            (Some(&new), Some(&old), CheckStatus::Passed),
            (Some(&new), Some(&new), CheckStatus::Passed),
            (Some(&new), Some(&other), CheckStatus::Warning),
            (Some(&new), None, CheckStatus::Warning),
            (None, Some(&old), CheckStatus::Passed),
            (None, None, CheckStatus::Warning),
        ] {
            let moved = MovedTag { tag: "latest".to_owned(), now: now.cloned() };
            assert_eq!(moved.check("image web", &old, there).status, status, "{now:?} {there:?}");
        }
    }
}
