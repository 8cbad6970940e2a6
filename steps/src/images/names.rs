//! Which repository an image gets at the target: pure, and checked before anything is copied.

use std::collections::BTreeMap;

use migrate_plugin_api::StepError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// `Permanent` when two images that differ would get the same name and tag.
    pub(crate) fn apply(&self, images: &mut [Image]) -> Result<(), StepError> {
        for image in images.iter_mut() {
            image.target = self.name(&image.reference.repository)?;
        }
        let mut taken: BTreeMap<(&str, &str), &Image> = BTreeMap::new();
        for image in images.iter() {
            let Some(tag) = image.tag.as_deref() else { continue };
            match taken.get(&(image.target.as_str(), tag)) {
                Some(other) if other.digest != image.digest => return Err(collision(other, image, tag)),
                _ => taken.insert((&image.target, tag), image),
            };
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
                    return Err(told(&other.short(), &reference.short(), &format!("{name}:{tag}")));
                }
                _ => taken.insert((name, tag), reference),
            };
        }
        Ok(())
    }
}

fn collision(one: &Image, other: &Image, tag: &str) -> StepError {
    told(&one.reference.short(), &other.reference.short(), &format!("{}:{tag}", one.target))
}

fn told(one: &str, other: &str, name: &str) -> StepError {
    StepError::permanent(format!("images {one} and {other} would both be {name} at the target"))
        .with_hint("give one of their repositories a name of its own under `names.repositories`")
}

#[cfg(test)]
mod tests {
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
}
