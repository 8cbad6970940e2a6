//! What a secret of Secrets Manager is called in Key Vault. Pure; `secrets.copy` and the rules that rewrite
//! who reads secrets both ask here, so that a reader finds what was copied.

use std::collections::BTreeMap;

use super::source::Held;

/// By what a secret is named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called<'a> {
    /// As it is written: a name, or an ARN with or without the six characters at its end.
    written: &'a str,
    /// The name, if those are not at the end.
    whole: &'a str,
    /// The name, if they are.
    short: &'a str,
    /// Region and account, of an ARN.
    place: Option<&'a str>,
}

impl<'a> From<&'a str> for Called<'a> {
    fn from(written: &'a str) -> Self {
        Self { written, whole: whole(written), short: short(written), place: place(written) }
    }
}

impl<'a> From<&'a Held> for Called<'a> {
    fn from(held: &'a Held) -> Self {
        Self { written: &held.arn, whole: &held.name, short: &held.name, place: place(&held.arn) }
    }
}

/// The name in the vault: as the site maps it (`table`: name or ARN = name), or the same with hyphens for
/// what Key Vault does not allow.
pub(crate) fn vault_name<'a>(table: &BTreeMap<String, String>, called: impl Into<Called<'a>>) -> String {
    let called = called.into();
    mapped(table, called, "").cloned().unwrap_or_else(|| hyphenated(called.short))
}

/// The name of the secret that a field of a secret becomes: as the site maps `NAME.FIELD`, or the
/// secret's own name and the field's.
pub(crate) fn field_name<'a>(
    table: &BTreeMap<String, String>,
    called: impl Into<Called<'a>>,
    field: &str,
) -> String {
    let called = called.into();
    let mapped = mapped(table, called, &format!(".{field}")).cloned();
    mapped.unwrap_or_else(|| format!("{}-{}", vault_name(table, called), hyphenated(field)))
}

/// What the site has written for it, with `end` behind: first as it is called, then by its name, then by an
/// ARN of the same name, in the same region and account where they are known. Of two such ARNs with two names
/// neither can be meant: a reader that finds nothing is noticed, one that finds another region's secret is not.
fn mapped<'t>(table: &'t BTreeMap<String, String>, called: Called<'_>, end: &str) -> Option<&'t String> {
    let keys = || table.iter().filter_map(|(key, to)| Some((key.strip_suffix(end)?, to)));
    let exact = |wanted: &str| keys().find(|(key, _)| *key == wanted).map(|(_, to)| to);
    let is_there =
        |key: &str| place(key).is_some_and(|there| called.place.is_none_or(|place| place == there));
    let alike = |wanted: &str| {
        let is_it = |key: &str| is_there(key) && (short(key) == wanted || whole(key) == wanted);
        let mut alike = keys().filter(|(key, _)| is_it(key)).map(|(_, to)| to);
        let first = alike.next()?;
        alike.all(|to| to == first).then_some(first)
    };
    let by_name = |wanted: &str| exact(wanted).or_else(|| alike(wanted));
    exact(called.written).or_else(|| by_name(called.whole)).or_else(|| by_name(called.short))
}

/// Of an ARN, the name in it without the six characters that AWS adds:
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>. A name that ends like
/// them, in an ARN without them, is cut too: so AWS reads it
/// (<https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_DescribeSecret.html>).
pub(crate) fn short(name: &str) -> &str {
    let end = whole(name);
    let is_random = |end: &str| end.len() == 6 && end.chars().all(|c| c.is_ascii_alphanumeric());
    match end.rsplit_once('-') {
        Some((start, random))
            if name.starts_with("arn:") && name.contains(":secret:") && is_random(random) =>
        {
            start
        }
        _ => end,
    }
}

/// Of an ARN, all that is behind the kind of resource.
fn whole(name: &str) -> &str {
    if !name.starts_with("arn:") {
        return name;
    }
    name.rsplit(':').next().unwrap_or(name).trim_start_matches("parameter/")
}

/// Of an ARN, what is before the kind of resource: partition, service, region and account.
fn place(name: &str) -> Option<&str> {
    let (at, _) = name.match_indices(':').nth(4).filter(|_| name.starts_with("arn:"))?;
    Some(&name[..at])
}

fn hyphenated(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_by_its_name_and_by_its_arn() {
        let arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/shop_db-a1B2c3";
        let none = BTreeMap::new();
        for name in ["prod/shop_db", "/prod/shop_db/", arn] {
            assert_eq!(vault_name(&none, name), "prod-shop-db", "{name}");
        }
        assert_eq!(vault_name(&none, "arn:aws:ssm:us-east-1:123456789012:parameter/prod/key"), "prod-key");
        // Whichever of both the site wrote, and whichever of both a manifest has.
        for key in ["prod/shop_db", arn] {
            let table = BTreeMap::from([(key.to_owned(), "db".to_owned())]);
            for name in ["prod/shop_db", arn] {
                assert_eq!(vault_name(&table, name), "db");
                assert_eq!(field_name(&table, name, "user name"), "db-user-name");
            }
            let table = BTreeMap::from([(format!("{key}.user"), "db-login".to_owned())]);
            for name in ["prod/shop_db", arn] {
                assert_eq!(field_name(&table, name, "user"), "db-login");
                assert_eq!(field_name(&table, name, "password"), "prod-shop-db-password");
            }
        }
    }

    fn held(region: &str, name: &str, random: &str) -> Held {
        Held {
            name: name.to_owned(),
            arn: format!("arn:aws:secretsmanager:{region}:123456789012:secret:{name}-{random}"),
            description: None,
            tags: BTreeMap::new(),
            is_rotated: false,
            current: crate::secrets::source::Version {
                id: String::new(),
                content: crate::secrets::source::Content::Text(migrate_plugin_api::Secret::new("")),
            },
            previous: None,
        }
    }

    #[test]
    fn one_name_in_two_regions_is_two_secrets() {
        let (us, eu) = (held("us-east-1", "db", "AAAAAA"), held("eu-west-1", "db", "BBBBBB"));
        let table: BTreeMap<String, String> =
            [(us.arn.clone(), "db-us".to_owned()), (eu.arn.clone(), "db-eu".to_owned())].into();
        for (held, name) in [(&us, "db-us"), (&eu, "db-eu")] {
            assert_eq!(vault_name(&table, held), name);
            assert_eq!(vault_name(&table, held.arn.as_str()), name);
            assert_eq!(field_name(&table, held, "user"), format!("{name}-user"));
            // Without what AWS adds, and made again since.
            let partial = held.arn.rsplit_once('-').unwrap().0;
            assert_eq!(vault_name(&table, partial), name);
            assert_eq!(vault_name(&table, format!("{partial}-CCCCCC").as_str()), name);
        }
        // Which of both can't be told.
        assert_eq!(vault_name(&table, "db"), "db");
        // A third has neither of their names.
        assert_eq!(vault_name(&table, &held("ap-south-1", "db", "CCCCCC")), "db");
        let one = BTreeMap::from([(us.arn.clone(), "db-us".to_owned())]);
        assert_eq!((vault_name(&one, "db"), vault_name(&one, &eu)), ("db-us".to_owned(), "db".to_owned()));
    }

    #[test]
    fn an_arn_without_what_aws_adds_is_known_by_the_whole_name() {
        let secret = held("us-east-1", "prod/db-master", "AAAAAA");
        let partial = secret.arn.trim_end_matches("-AAAAAA");
        for key in ["prod/db-master", partial, secret.arn.as_str()] {
            let table = BTreeMap::from([(key.to_owned(), "master".to_owned())]);
            assert_eq!(vault_name(&table, &secret), "master", "{key}");
            assert_eq!(vault_name(&table, partial), "master", "{key}");
        }
        // No six characters of AWS's.
        assert_eq!(short("arn:aws:secretsmanager:us-east-1:123456789012:secret:a-b/c.d_e"), "a-b/c.d_e");
    }
}
