//! What an identity says of itself in its tags: the role that it stands for, who made it, and who made what in
//! it. Written before what it tells of is made, so that an interrupted attempt and one that finds everything
//! there know what is theirs.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use migrate_plugin_api::StepContext;
use serde_json::{Map, Value, json};

/// Tag of an identity with the role that it stands for: by it we know our own.
const ROLE_TAG: &str = "migrate-role";

/// Tag of an identity with the run and the node that made it; with `-NAME`, of a credential in it or an assignment to
/// it. Not with the key: made again by the same node, it is still that node's.
const MAKER_TAG: &str = "migrate-made-by";

/// The longest value of a tag. A resource has room for 50 tags, an identity for 20 credentials.
/// <https://learn.microsoft.com/azure/azure-resource-manager/management/tag-resources#limitations>
const TAG_CHARS: usize = 256;

/// Who makes identities, and what is in them.
pub(crate) struct Maker(String);

impl Maker {
    pub(crate) fn of(ctx: &StepContext) -> Self {
        Self(tag(&format!("{}/{}", ctx.run, ctx.node)))
    }

    /// Whether it has made the identity.
    pub(crate) fn has_made(&self, identity: &Value) -> bool {
        identity["tags"][MAKER_TAG] == self.0
    }

    /// Names of what it has made in the identity, or was about to.
    pub(crate) fn marks(&self, identity: &Value) -> BTreeSet<String> {
        let tags = identity["tags"].as_object().into_iter().flatten();
        tags.filter_map(|(tag, maker)| self.mark(tag, maker)).map(str::to_ascii_lowercase).collect()
    }

    fn mark<'a>(&self, tag: &'a str, maker: &Value) -> Option<&'a str> {
        tag.strip_prefix(MAKER_TAG)?.strip_prefix('-').filter(|_| *maker == self.0)
    }

    /// Tags of an identity that it makes.
    pub(crate) fn tags(&self, role: &str, marks: &BTreeSet<String>) -> Value {
        let mut tags =
            Map::from_iter([(ROLE_TAG.to_owned(), json!(tag(role))), (MAKER_TAG.to_owned(), json!(self.0))]);
        self.add(&mut tags, marks);
        tags.into()
    }

    /// Tags of an identity that is there, with these of its marks.
    pub(crate) fn tags_with(&self, identity: &Value, marks: &BTreeSet<String>) -> Value {
        let mut tags = identity["tags"].as_object().cloned().unwrap_or_default();
        tags.retain(|tag, maker| self.mark(tag, maker).is_none());
        self.add(&mut tags, marks);
        tags.into()
    }

    fn add(&self, tags: &mut Map<String, Value>, marks: &BTreeSet<String>) {
        tags.extend(marks.iter().map(|name| (format!("{MAKER_TAG}-{name}"), json!(self.0))));
    }
}

/// Whether the identity stands for the role.
pub(crate) fn is_of(identity: &Value, role: &str) -> bool {
    identity["tags"][ROLE_TAG] == tag(role)
}

/// Whether the identity says who made it. An earlier version of this step did not write it down.
pub(crate) fn has_maker(identity: &Value) -> bool {
    identity["tags"][MAKER_TAG].is_string()
}

/// What fits into a tag.
fn tag(text: &str) -> String {
    match text.chars().count() <= TAG_CHARS {
        true => text.to_owned(),
        false => format!("sha256:{}", hex::encode(digest(&SHA256, text.as_bytes()))),
    }
}
