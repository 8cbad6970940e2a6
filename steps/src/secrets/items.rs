//! Which secrets of the vault there must be, of what was read. Pure.

use std::collections::BTreeMap;

use migrate_plugin_api::{Problem, Secret};
use serde_json::Value;
use serde_json::value::RawValue;

use super::names::{field_name, vault_name};
use super::source::{Content, Held, Version};
use crate::keyvault::is_name;

/// "25k bytes each": <https://learn.microsoft.com/azure/key-vault/secrets/about-secrets>.
const MAX_VALUE_BYTES: usize = 25 * 1024;

/// <https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#tags>.
const MAX_TAGS: usize = 15;

/// The longest name and value of a tag, as in the page above.
const MAX_TAG_CHARS: usize = 512;

/// The way out of a value that is too large.
const TOO_LARGE: &str = "split it into its fields (`split`), or keep it as a file in Blob Storage";

/// The same of the whole of a secret whose fields are secrets already.
const WHOLE_TOO_LARGE: &str = "it can't be kept whole: copy it in a node of its own, without `keep-whole`, and take its object \
                               out of the rewritten SecretProviderClass";

/// Tag with the secret's ARN.
pub(crate) const SOURCE_TAG: &str = "migrate-source";
/// Tag with the version's ID in Secrets Manager.
pub(crate) const VERSION_TAG: &str = "migrate-version";
/// Tag with what AWS has as the description: Key Vault has none.
const DESCRIPTION_TAG: &str = "description";

/// How values that are no text are written.
const BINARY: &str = "application/octet-stream;base64";

/// How objects and lists are written.
const JSON: &str = "application/json";

/// One secret that the vault must have.
pub(crate) struct Item {
    /// Its name at the source.
    pub name: String,
    pub arn: String,
    /// The field of it, where it is one.
    pub field: Option<String>,
    /// Its name in the vault.
    pub target: String,
    pub content_type: &'static str,
    /// Without the tag of the version.
    pub tags: BTreeMap<String, String>,
    pub current: ItemVersion,
    pub previous: Option<ItemVersion>,
    /// What the vault has no place for, in words.
    pub left_out: Vec<String>,
}

/// A version at the source, and what the vault gets of it.
pub(crate) struct ItemVersion {
    /// Its ID.
    pub id: String,
    pub value: Secret,
    /// Whether that is a field that is an object or a list.
    pub is_part: bool,
}

impl ItemVersion {
    /// Whether the vault has it.
    pub(crate) fn is(&self, found: &Secret) -> bool {
        is_same(&self.value, self.is_part, found)
    }
}

/// What the config says about it.
pub(crate) struct Shape<'a> {
    pub names: &'a BTreeMap<String, String>,
    /// Fields by the name or ARN of the secret.
    pub split: &'a BTreeMap<String, Vec<String>>,
    pub keep_whole: bool,
}

/// The vault's secrets, in the order of their names there.
///
/// # Errors
/// Everything that stands in the way, without any value.
pub(crate) fn items(held: &[Held], shape: &Shape<'_>) -> Result<Vec<Item>, Vec<Problem>> {
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for named in shape.split.keys() {
        if !held.iter().any(|held| is_named(named, held)) {
            let message = format!("`split` names {named}, which is not among the secrets to copy");
            problems.push(Problem::error(message).in_field("split"));
        }
    }
    for held in held {
        let fields = shape.split.iter().find(|(named, _)| is_named(named, held)).map(|(_, fields)| fields);
        if fields.is_none() || shape.keep_whole {
            let too_large = if fields.is_some() { WHOLE_TOO_LARGE } else { TOO_LARGE };
            all.push(item(held, None, vault_name(shape.names, held), too_large, &mut problems));
        }
        for field in fields.into_iter().flatten() {
            let target = field_name(shape.names, held, field);
            all.push(item(held, Some(field), target, TOO_LARGE, &mut problems));
        }
    }
    let mut all: Vec<Item> = all.into_iter().flatten().collect();
    all.sort_by(|a, b| a.target.cmp(&b.target));
    problems.extend(collisions(&all));
    if problems.is_empty() { Ok(all) } else { Err(problems) }
}

fn is_named(name: &str, held: &Held) -> bool {
    name == held.name || name == held.arn
}

fn item(
    held: &Held,
    field: Option<&String>,
    target: String,
    too_large: &str,
    problems: &mut Vec<Problem>,
) -> Option<Item> {
    let subject = field.map_or_else(|| held.name.clone(), |field| format!("{}.{field}", held.name));
    if !is_name(&target) {
        let message = format!(
            "secret {subject} would be called `{target}`, and Key Vault takes 1 to 127 letters, digits and `-`"
        );
        let hint = format!("give it a name in `[rewrite.secrets]`: \"{subject}\" = \"…\"");
        problems.push(Problem::error(message).in_field("names").with_hint(hint));
        return None;
    }
    let mut taken = |version: &Version, stage: &str| match value(&version.content, field) {
        Ok(value) if value.0.expose().len() > MAX_VALUE_BYTES => {
            let bytes = value.0.expose().len();
            let message = format!(
                "secret {subject} ({stage}) has {bytes} bytes, and Key Vault takes at most {MAX_VALUE_BYTES}"
            );
            problems.push(Problem::error(message).in_field("secrets").with_hint(too_large));
            None
        }
        Ok(value) => Some(value),
        Err(wrong) => {
            let message = format!("secret {subject} ({stage}) {wrong}");
            problems.push(Problem::error(message).in_field(if field.is_some() {
                "split"
            } else {
                "secrets"
            }));
            None
        }
    };
    let (current, content_type) = taken(&held.current, "AWSCURRENT")?;
    // A value that is there twice needs no second version.
    let previous = held.previous.as_ref().filter(|version| version.content != held.current.content);
    let previous = match previous {
        Some(version) => {
            let (value, content_type) = taken(version, "AWSPREVIOUS")?;
            let is_part = is_part(field, content_type);
            (value != current).then(|| ItemVersion { id: version.id.clone(), value, is_part })
        }
        None => None,
    };
    let mut left_out = Vec::new();
    let tags = tags(held, &mut left_out);
    if held.is_rotated {
        left_out.push("its rotation, which Key Vault leaves to a function of yours".to_owned());
    }
    Some(Item {
        name: held.name.clone(),
        arn: held.arn.clone(),
        field: field.cloned(),
        target,
        content_type,
        tags,
        current: ItemVersion {
            id: held.current.id.clone(),
            value: current,
            is_part: is_part(field, content_type),
        },
        previous,
        left_out,
    })
}

/// What the vault gets of it, and its content type.
///
/// # Errors
/// Why there is no such field, in words that complete "secret X …".
pub(crate) fn value(
    content: &Content,
    field: Option<&String>,
) -> Result<(Secret, &'static str), &'static str> {
    let text = match (content, field) {
        (Content::Binary(bytes), None) => return Ok((bytes.clone(), BINARY)),
        (Content::Binary(_), Some(_)) => return Err("is binary, and has no fields"),
        (Content::Text(text), None) => {
            let is_object = serde_json::from_str::<Value>(text.expose()).is_ok_and(|value| value.is_object());
            return Ok((text.clone(), if is_object { JSON } else { "text/plain" }));
        }
        (Content::Text(text), Some(_)) => text,
    };
    let field = field.map_or("", String::as_str);
    let no_json = "is no JSON, and has no fields";
    let whole: &RawValue = serde_json::from_str(text.expose()).map_err(|_| no_json)?;
    // A field may have a dot in its name; otherwise the dots are a way, as in `jmesPath`.
    let found = member(whole, field).or_else(|| field.split('.').try_fold(whole, member));
    // As it is written: a number that is read and written again may be another.
    let written = found.map_or("null", RawValue::get);
    match written.as_bytes().first() {
        Some(b'n') => Err("has no such field"),
        Some(b'"') => {
            let text: String = serde_json::from_str(written).map_err(|_| no_json)?;
            Ok((Secret::new(text), "text/plain"))
        }
        Some(b'{' | b'[') => Ok((Secret::new(written), JSON)),
        _ => Ok((Secret::new(written), "text/plain")),
    }
}

/// Whether the vault has what a version of the source says, whole or of a field.
pub(crate) fn is_copied(content: &Content, field: Option<&String>, found: &Secret) -> Option<bool> {
    let (value, content_type) = value(content, field).ok()?;
    Some(is_same(&value, is_part(field, content_type), found))
}

fn is_part(field: Option<&String>, content_type: &str) -> bool {
    field.is_some() && content_type == JSON
}

/// An object or a list may be written in another way: an earlier version of this step did not copy it to the letter.
fn is_same(expected: &Secret, is_part: bool, found: &Secret) -> bool {
    let (expected, found) = (expected.expose(), found.expose());
    // What is nested so deep that it is no `Value` is not looked into either.
    let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
    expected == found || is_part && is_json(expected) && is_json(found) && is_equal(expected, found)
}

/// Whether two texts are the same JSON. Not by `Value`: two large numbers that differ may be one there.
fn is_equal(one: &str, other: &str) -> bool {
    fn both<'a, T: serde::Deserialize<'a>>(one: &'a str, other: &'a str) -> Option<(T, T)> {
        Some((serde_json::from_str(one).ok()?, serde_json::from_str(other).ok()?))
    }
    match one.as_bytes().first() {
        Some(b'{') => both::<BTreeMap<String, &RawValue>>(one, other).is_some_and(|(one, other)| {
            let is_in = |(key, value): (&String, &&RawValue)| {
                other.get(key).is_some_and(|other| is_equal(value.get(), other.get()))
            };
            one.len() == other.len() && one.iter().all(is_in)
        }),
        Some(b'[') => both::<Vec<&RawValue>>(one, other).is_some_and(|(one, other)| {
            one.len() == other.len() && one.iter().zip(&other).all(|(a, b)| is_equal(a.get(), b.get()))
        }),
        Some(b'"') => both::<String>(one, other).is_some_and(|(one, other)| one == other),
        Some(b'-' | b'0'..=b'9') => number(one) == number(other),
        _ => one == other,
    }
}

/// Sign, digits and exponent of a number: those of `1.50` and `15e-1` are the same. Zero has no digits.
fn number(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let kept = digits.trim_end_matches('0');
    let moved = i64::try_from(digits.len() - kept.len()).ok()? - i64::try_from(fraction.len()).ok()?;
    let exponent = exponent.parse::<i64>().ok()?.checked_add(moved)?;
    let kept = kept.trim_start_matches('0');
    let exponent = if kept.is_empty() { 0 } else { exponent };
    Some((mantissa.starts_with('-'), kept.to_owned(), exponent))
}

/// A field of what is an object.
fn member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    serde_json::from_str::<BTreeMap<String, &'a RawValue>>(object.get()).ok()?.remove(name)
}

/// Of AWS's tags and description those that fit.
fn tags(held: &Held, left_out: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::from([(SOURCE_TAG.to_owned(), held.arn.clone())]);
    let room = MAX_TAGS - 1; // One is for the version.
    let fits = |key: &str, value: &str| {
        !key.is_empty() && key.chars().count() <= MAX_TAG_CHARS && value.chars().count() <= MAX_TAG_CHARS
    };
    let described = held.description.iter().map(|text| (DESCRIPTION_TAG, text.as_str()));
    // AWS's own tags name what made the secret there.
    let own = held.tags.iter().filter(|(key, _)| !key.starts_with("aws:"));
    let own = own.map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in described.chain(own) {
        let is_taken =
            tags.keys().any(|there| there.eq_ignore_ascii_case(key)) || key.eq_ignore_ascii_case(VERSION_TAG);
        if is_taken || tags.len() >= room || !fits(key, value) {
            left_out.push(format!("its tag {key}"));
        } else {
            tags.insert(key.to_owned(), value.to_owned());
        }
    }
    tags
}

/// Names in a vault know no case.
fn collisions(items: &[Item]) -> Vec<Problem> {
    let mut by_name: BTreeMap<String, Vec<&Item>> = BTreeMap::new();
    for item in items {
        by_name.entry(item.target.to_ascii_lowercase()).or_default().push(item);
    }
    let clash = |(name, items): (String, Vec<&Item>)| {
        (items.len() > 1).then(|| {
            let names: Vec<String> = items.iter().map(|item| item.subject()).collect();
            let message = format!("secrets {} would all be called `{name}` in the vault", names.join(", "));
            let hint = format!("give all but one a name in `[rewrite.secrets]`: \"{}\" = \"…\"", names[0]);
            Problem::error(message).in_field("names").with_hint(hint)
        })
    };
    by_name.into_iter().filter_map(clash).collect()
}

impl Item {
    /// `shop/db`, or `shop/db.password` for a field.
    pub(crate) fn subject(&self) -> String {
        subject(&self.name, self.field.as_deref())
    }
}

/// As [`Item::subject`].
pub(crate) fn subject(name: &str, field: Option<&str>) -> String {
    field.map_or_else(|| name.to_owned(), |field| format!("{name}.{field}"))
}

#[cfg(test)]
#[path = "items_tests.rs"]
mod tests;
