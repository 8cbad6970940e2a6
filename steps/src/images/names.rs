//! Which repository an image gets at the target: pure, and checked before anything is copied.

use std::collections::BTreeMap;

use migrate_plugin_api::StepError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deliver::{is_referrers_list, tags_of};
use super::digest::Digest;
use super::graph::Image;
use super::reference::{self, ImageRef};

/// Between the parts of a repository that is flattened: allowed everywhere, and seldom in a name.
const FLAT_SEPARATOR: &str = "-";

/// How repositories are named at the target. Without a rule they keep their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NameRule {
    /// Names that some repositories get, by the name they have; the rest of the rule does not touch
    /// those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repositories: BTreeMap<String, String>,
    /// Whether `shop/web` becomes `shop-web`.
    #[serde(default)]
    pub flatten: bool,
    /// Goes before every name: `mirror` makes `mirror/shop/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

impl NameRule {
    /// The name that `repository` gets.
    ///
    /// # Errors
    /// `Permanent` when that is no name for a repository.
    pub(crate) fn name(&self, repository: &str) -> Result<String, StepError> {
        let name = match self.repositories.get(repository) {
            Some(name) => name.clone(),
            None => {
                let name = if self.flatten {
                    repository.replace('/', FLAT_SEPARATOR)
                } else {
                    repository.to_owned()
                };
                match self.prefix.as_deref().map(|prefix| prefix.trim_matches('/')) {
                    None | Some("") => name,
                    Some(prefix) => format!("{prefix}/{name}"),
                }
            }
        };
        if reference::is_repository(&name) {
            Ok(name)
        } else {
            Err(StepError::permanent(format!(
                "repository {repository} would be called `{name}` at the target, which is no repository name"
            ))
            .with_hint(
                "lowercase letters, digits, and single `.`, `_`, `-` or `/` between them: change `names`",
            ))
        }
    }

    /// Names every image of `images`.
    ///
    /// # Errors
    /// `Permanent` when two images that differ would get the same name and tag, or what goes with two would
    /// (cosign's `sha256-….sig`, where one image is signed in two repositories). Lists of referrers are
    /// merged.
    pub(crate) fn apply(&self, images: &mut [Image]) -> Result<(), StepError> {
        for image in images.iter_mut() {
            image.target = self.name(&image.reference.repository)?;
        }
        let mut taken: BTreeMap<(&str, &str), (&Image, &Digest)> = BTreeMap::new();
        for image in images.iter() {
            for (tag, digest) in tags_of(image).filter(|(tag, _)| !is_referrers_list(image, tag)) {
                match taken.get(&(image.target.as_str(), tag)) {
                    Some((other, theirs)) if *theirs != digest && differ(other, image, tag) => {
                        return Err(collision(other, image, tag));
                    }
                    _ => taken.insert((&image.target, tag), (image, digest)),
                };
            }
        }
        Ok(())
    }

    /// [`apply`](Self::apply) before anything is known but names: two repositories under one name are
    /// only a collision where they have a tag in common.
    pub(crate) fn check(&self, references: &[ImageRef]) -> Result<(), StepError> {
        let mut taken: BTreeMap<(String, &str), &ImageRef> = BTreeMap::new();
        for reference in references {
            let name = self.name(&reference.repository)?;
            let Some(tag) = reference.tag.as_deref() else { continue };
            match taken.get(&(name.clone(), tag)) {
                Some(other) if other.repository != reference.repository => {
                    return Err(told("images", &other.short(), &reference.short(), &format!("{name}:{tag}")));
                }
                _ => taken.insert((name, tag), reference),
            };
        }
        Ok(())
    }
}

/// Whether two digests of one tag are two things: what is attached in one repository was only signed
/// once more between two looks.
fn differ(one: &Image, other: &Image, tag: &str) -> bool {
    is_own(one, tag) || is_own(other, tag) || one.reference.repository != other.reference.repository
}

fn is_own(image: &Image, tag: &str) -> bool {
    image.tag.as_deref() == Some(tag)
}

fn collision(one: &Image, other: &Image, tag: &str) -> StepError {
    let name = format!("{}:{tag}", one.target);
    let what = if is_own(one, tag) && is_own(other, tag) { "images" } else { "what is attached to images" };
    told(what, &one.reference.short(), &other.reference.short(), &name)
}

fn told(what: &str, one: &str, other: &str, name: &str) -> StepError {
    StepError::permanent(format!("{what} {one} and {other} would both be {name} at the target"))
        .with_hint("give one of their repositories a name of its own under `names.repositories`")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::content::Attached;
    use super::super::manifest::Manifest;
    use super::*;

    fn rule(text: serde_json::Value) -> NameRule {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn prefix_flatten_and_single_names() {
        assert_eq!(NameRule::default().name("shop/web").unwrap(), "shop/web");
        let rule = rule(serde_json::json!({
            "prefix": "mirror/eks/", "flatten": true, "repositories": { "tools/job": "jobs/nightly" } }));
        assert_eq!(rule.name("shop/web").unwrap(), "mirror/eks/shop-web");
        assert_eq!(rule.name("tools/job").unwrap(), "jobs/nightly");
    }

    #[test]
    fn a_name_that_is_none_is_told() {
        let rule = rule(serde_json::json!({ "prefix": "Mirror" }));
        insta::assert_snapshot!(rule.name("web").unwrap_err(), @"repository web would be called `Mirror/web` at the target, which is no repository name");
    }

    #[test]
    fn two_images_never_get_one_name() {
        let flat = rule(serde_json::json!({ "flatten": true }));
        let reference = |text: &str| ImageRef::parse(&format!("r.example/{text}")).unwrap();
        let error = flat.check(&[reference("a/b-c:1"), reference("a-b/c:1")]).unwrap_err();
        insta::assert_snapshot!(error, @"images a/b-c:1 and a-b/c:1 would both be a-b-c:1 at the target");
        flat.check(&[reference("a/b-c:1"), reference("a-b/c:2"), reference("a/b-c:3")]).unwrap();
    }

    /// `repository:1`, the same image everywhere, with an attachment under the tag that `suffix` makes.
    fn signed(repository: &str, suffix: &str, attached: &str) -> Image {
        let manifest = Manifest::read("a", "", Bytes::from_static(b"{\"schemaVersion\":2}"), None).unwrap();
        let tag = format!("{}{suffix}", manifest.digest.as_tag());
        Image {
            reference: ImageRef::parse(&format!("r.example/{repository}:1")).unwrap(),
            target: repository.to_owned(),
            tag: Some("1".to_owned()),
            moved: None,
            digest: manifest.digest.clone(),
            manifests: vec![manifest],
            own: 1,
            attached: vec![Attached { digest: Digest::of(attached.as_bytes()), tag: Some(tag) }],
        }
    }

    #[test]
    fn what_is_attached_to_two_images_never_gets_one_name() {
        let one = rule(serde_json::json!({ "repositories": { "a/base": "base", "b/base": "base" } }));
        let error =
            one.apply(&mut [signed("a/base", ".sig", "a"), signed("b/base", ".sig", "b")]).unwrap_err();
        let tag = signed("a/base", ".sig", "a").attached[0].tag.clone().unwrap();
        let text = error.to_string().replace(&tag, "TAG");
        insta::assert_snapshot!(text, @"what is attached to images a/base:1 and b/base:1 would both be base:TAG at the target");
        for (other, suffix, attached, why) in [
            ("b/base", ".sig", "a", "one signature"),
            ("b/base", "", "b", "lists are merged"),
            ("c/base", ".sig", "b", "another name"),
            ("a/base", ".sig", "b", "signed between two looks"),
        ] {
            let mut images = [signed("a/base", suffix, "a"), signed(other, suffix, attached)];
            assert!(one.apply(&mut images).is_ok(), "{why}");
        }
    }
}
