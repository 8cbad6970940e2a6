//! Where in an object images stand, whatever its kind: by structure, so that custom resources with
//! pod templates count too. Pure.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

/// Lists of containers in a pod's spec.
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// One step of a path into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    /// A field.
    Key(Cow<'a, str>),
    /// An item of a list.
    Index(usize),
}

impl Segment<'_> {
    /// The same, on its own.
    pub(crate) fn to_owned_segment(&self) -> Segment<'static> {
        match self {
            Self::Key(key) => Segment::Key(Cow::Owned(key.as_ref().to_owned())),
            Self::Index(index) => Segment::Index(*index),
        }
    }
}

/// `spec.template.spec.containers[0].image`, `metadata.annotations["a.b/c"]`.
pub(crate) fn display(path: &[Segment<'_>]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
            Segment::Key(key) if key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Key(key) => {
                let _ = write!(text, "[{key:?}]");
            }
        }
    }
    text
}

/// Whether the string at `path` is an image reference: a container's image, or an image volume's.
pub(crate) fn is_image(path: &[Segment<'_>]) -> bool {
    let is = |segment: &Segment<'_>, names: &[&str]| matches!(segment, Segment::Key(key) if names.contains(&key.as_ref()));
    match path {
        [.., list, Segment::Index(_), field] if is(list, &CONTAINER_LISTS) => is(field, &["image"]),
        [.., list, Segment::Index(_), volume, field] => {
            is(list, &["volumes"]) && is(volume, &["image"]) && is(field, &["reference"])
        }
        _ => false,
    }
}

/// Visits every string of `value` with its path.
pub(crate) fn strings<'a>(value: &'a Value, visit: &mut impl FnMut(&[Segment<'a>], &'a str)) {
    fn walk<'a>(
        value: &'a Value,
        path: &mut Vec<Segment<'a>>,
        visit: &mut impl FnMut(&[Segment<'a>], &'a str),
    ) {
        match value {
            Value::String(text) => visit(path, text),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(Segment::Index(index));
                    walk(item, path, visit);
                    path.pop();
                }
            }
            Value::Object(fields) => {
                for (key, field) in fields {
                    path.push(Segment::Key(Cow::Borrowed(key)));
                    walk(field, path, visit);
                    path.pop();
                }
            }
            _ => {}
        }
    }
    walk(value, &mut Vec::new(), visit);
}

/// Every image reference of an object.
pub(crate) fn images(object: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    strings(object, &mut |path, text| {
        if is_image(path) && !text.is_empty() {
            found.push(text);
        }
    });
    found
}

/// A string at `path`, where there is one.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(object, |value, key| value.get(key))?.as_str()
}

/// The name of the controller that made the object and will make it again, as `Kind/name`.
pub(crate) fn controller(object: &Value) -> Option<String> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|o| o.get("controller").and_then(Value::as_bool) == Some(true))?;
    Some(format!("{}/{}", text(owner, &["kind"])?, text(owner, &["name"])?))
}

/// Whether image `reference` lives in `registry` (`host`, `host:port`, with or without a path).
pub(crate) fn lives_in(reference: &str, registry: &str) -> bool {
    renamed(reference, registry, "").is_some()
}

/// `reference` with `from` at its start replaced by `to`, where it stands there as a whole: a host
/// is never taken for one that only begins like it, nor a repository.
pub(crate) fn renamed(reference: &str, from: &str, to: &str) -> Option<String> {
    let rest = reference.strip_prefix(from)?;
    let whole = match rest.chars().next() {
        Some('/') => true,
        Some(':' | '@') | None => from.contains('/'),
        Some(_) => false,
    };
    whole.then(|| format!("{to}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_any_kind() {
        let cron = serde_json::json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": {
            "initContainers": [{ "name": "a", "image": "r/init" }],
            "containers": [{ "name": "b", "image": "r/main", "env": [{ "name": "image", "value": "r/no" }] }],
            "volumes": [{ "name": "v", "image": { "reference": "r/volume" } }],
        } } } } }, "status": { "containerStatuses": [{ "image": "r/no" }] } });
        assert_eq!(images(&cron), ["r/init", "r/main", "r/volume"]);
        let debugged = serde_json::json!({ "spec": { "ephemeralContainers": [{ "image": "r/debug" }] } });
        assert_eq!(images(&debugged), ["r/debug"]);
    }

    #[test]
    fn a_registry_is_matched_as_a_whole() {
        assert_eq!(renamed("old.io/a:1", "old.io", "new.io").as_deref(), Some("new.io/a:1"));
        assert_eq!(renamed("old.io:5000/a:1", "old.io", "new.io"), None);
        assert_eq!(renamed("old.io.evil/a:1", "old.io", "new.io"), None);
        assert_eq!(
            renamed("old.io/team/a@sha256:1", "old.io/team", "new.io").as_deref(),
            Some("new.io/a@sha256:1")
        );
        assert_eq!(renamed("old.io/teams/a", "old.io/team", "new.io"), None);
        assert_eq!(renamed("old.io/team:1", "old.io/team", "new.io/x").as_deref(), Some("new.io/x:1"));
        assert!(lives_in("old.io/a", "old.io") && !lives_in("older.io/a", "old.io"));
    }

    #[test]
    fn paths_are_readable() {
        let key = |k: &'static str| Segment::Key(Cow::Borrowed(k));
        let path = [key("metadata"), key("annotations"), key("a.b/c"), Segment::Index(2), key("d")];
        assert_eq!(display(&path), r#"metadata.annotations["a.b/c"][2].d"#);
    }
}
