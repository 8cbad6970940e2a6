//! What a secret of Secrets Manager is called in Key Vault. Pure; `secrets.copy` and the rules that rewrite
//! who reads secrets both ask here, so that a reader finds what was copied.

use std::collections::BTreeMap;

/// The name in the vault: as the site maps it (`table`: name or ARN = name), or the same with hyphens for
/// what Key Vault does not allow.
pub(crate) fn vault_name(table: &BTreeMap<String, String>, name: &str) -> String {
    let wanted = short(name);
    let by_short = || table.iter().find(|(key, _)| short(key) == wanted).map(|(_, name)| name);
    table.get(name).or_else(by_short).cloned().unwrap_or_else(|| hyphenated(wanted))
}

/// The name of the secret that a field of a secret becomes: as the site maps `NAME.FIELD`, or the
/// secret's own name and the field's.
pub(crate) fn field_name(table: &BTreeMap<String, String>, name: &str, field: &str) -> String {
    let (wanted, end) = (short(name), format!(".{field}"));
    let is_it = |key: &str| key.strip_suffix(&end).is_some_and(|key| key == name || short(key) == wanted);
    let mapped = table.iter().find(|(key, _)| is_it(key)).map(|(_, name)| name.clone());
    mapped.unwrap_or_else(|| format!("{}-{}", vault_name(table, name), hyphenated(field)))
}

/// Of an ARN, the name in it without the six characters that AWS adds:
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>.
pub(crate) fn short(name: &str) -> &str {
    if !name.starts_with("arn:") {
        return name;
    }
    let end = name.rsplit(':').next().unwrap_or(name).trim_start_matches("parameter/");
    match end.rsplit_once('-') {
        Some((start, random)) if random.len() == 6 && name.contains(":secret:") => start,
        _ => end,
    }
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
}
