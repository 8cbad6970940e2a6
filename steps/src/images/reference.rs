//! Image references: `HOST/repository:tag`, `HOST/repository@digest`, or both.

use std::fmt;

use migrate_plugin_api::StepError;

use super::digest::Digest;

/// Longest tag that the distribution specification allows.
const MAX_TAG_CHARS: usize = 128;

/// Longest `HOST/repository` that clients agree on.
const MAX_NAME_CHARS: usize = 255;

/// Why a string is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no image reference: {reason}")]
pub(crate) struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl From<InvalidReference> for StepError {
    fn from(error: InvalidReference) -> Self {
        StepError::permanent(error.to_string())
            .with_hint("write `HOST/repository:tag` or `HOST/repository@sha256:…`")
    }
}

/// A reference with at least a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ImageRef {
    /// `123456789012.dkr.ecr.us-east-1.amazonaws.com`, `127.0.0.1:5000`.
    pub host: String,
    /// `shop/web`.
    pub repository: String,
    /// `1.0`.
    pub tag: Option<String>,
    /// What the tag must be, or the image itself where there is no tag.
    pub digest: Option<Digest>,
}

impl ImageRef {
    /// Checks `text`. Without tag and digest it means `latest`, without host Docker Hub, as for
    /// Kubernetes.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidReference> {
        let refuse = |reason| InvalidReference { text: text.chars().take(300).collect(), reason };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(Digest::parse(digest).map_err(|_| refuse("its digest is malformed"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag is malformed"));
        }
        let (host, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_owned(), rest.to_owned())
            }
            Some(_) => ("docker.io".to_owned(), name.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{name}")),
        };
        if !is_repository(&repository) {
            return Err(refuse("its repository is malformed"));
        }
        if host.len() + repository.len() > MAX_NAME_CHARS {
            return Err(refuse("its name is longer than 255 characters"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { host, repository, tag, digest })
    }

    /// `HOST/repository`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// Without the host, as a person says it: `shop/web:1.0`.
    pub(crate) fn short(&self) -> String {
        self.to_string()[self.host.len() + 1..].to_owned()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Reads `texts`, each image once, in order. Every one must live in `host`.
pub(crate) fn parse_all(texts: &[String], host: &str) -> Result<Vec<ImageRef>, StepError> {
    let mut references: Vec<ImageRef> = Vec::with_capacity(texts.len());
    let mut seen = std::collections::HashSet::new();
    for text in texts {
        let reference = ImageRef::parse(text)?;
        if reference.host != host {
            return Err(StepError::permanent(format!("image `{text}` is not in the source registry {host}"))
                .with_hint("give only images of that registry; others can stay where they are"));
        }
        if seen.insert(reference.clone()) {
            references.push(reference);
        }
    }
    Ok(references)
}

fn is_tag(tag: &str) -> bool {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    first && rest && tag.len() <= MAX_TAG_CHARS
}

/// Whether `name` is one that registries take.
pub(super) fn is_repository(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !name.is_empty()
        && name.split('/').all(|part| {
            let ends = |b: Option<u8>| b.is_some_and(alphanumeric);
            ends(part.bytes().next())
                && ends(part.bytes().last())
                && part.bytes().all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'))
                && !part.contains("..")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_pods_use() {
        let hex = "a".repeat(64);
        for (text, host, repository, tag, digest) in [
            ("127.0.0.1:5000/shop/web:1.0", "127.0.0.1:5000", "shop/web", Some("1.0"), false),
            ("r.example/web", "r.example", "web", Some("latest"), false),
            (&format!("r.example/a/web@sha256:{hex}"), "r.example", "a/web", None, true),
            (&format!("r.example/web:1@sha256:{hex}"), "r.example", "web", Some("1"), true),
            ("nginx:1.27", "docker.io", "library/nginx", Some("1.27"), false),
            ("team/app", "docker.io", "team/app", Some("latest"), false),
        ] {
            let parsed = ImageRef::parse(text).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.repository.as_str()), (host, repository), "{text}");
            assert_eq!((parsed.tag.as_deref(), parsed.digest.is_some()), (tag, digest), "{text}");
        }
    }

    #[test]
    fn refuses_what_could_leave_its_place() {
        for bad in [
            "",
            "r.example/",
            "r.example/../etc:1",
            "r.example/a//b",
            "r.example/A:1",
            "r.example/a:b c",
            "r.example/a@sha256:zz",
            "r.example/a..b",
            "r.example/a?x=1",
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_of_other_registries_are_named() {
        let texts = ["r.example/a:1".to_owned(), "r.example/a:1".to_owned()];
        assert_eq!(parse_all(&texts, "r.example").unwrap().len(), 1);
        let error = parse_all(&["docker.io/library/nginx:1".to_owned()], "r.example").unwrap_err();
        insta::assert_snapshot!(error, @"image `docker.io/library/nginx:1` is not in the source registry r.example");
    }
}
