//! Where a vault and a secret are. Pure.

use url::Url;

/// Clouds that have vaults: what follows a vault's name in its host.
pub(super) const CLOUDS: [&str; 3] = ["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"];

/// Longest name of a secret, and of a version.
/// <https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#object-identifiers>
const MAX_NAME_CHARS: usize = 127;

/// Whether Key Vault takes it as the name of a secret, or of a version.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// A vault of one of the clouds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// `https://shop.vault.azure.net/`.
    pub url: Url,
    /// `vault.azure.net`.
    pub cloud: &'static str,
}

impl Address {
    /// Of a name, or of an address without a path: `shop`, `https://shop.vault.azure.net`.
    ///
    /// # Errors
    /// What is wrong with `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("https://") {
            Some(host) => Self::of_host(&host.strip_suffix('/').unwrap_or(host).to_ascii_lowercase()),
            None => Self::of_host(&format!("{}.{}", text.to_ascii_lowercase(), CLOUDS[0])),
        }
    }

    pub(super) fn of_host(host: &str) -> Result<Self, String> {
        let (vault, cloud) = host.split_once('.').unwrap_or((host, ""));
        let cloud = CLOUDS.into_iter().find(|known| *known == cloud);
        let cloud = cloud.ok_or_else(|| format!("`{host}` is no vault of {}", CLOUDS.join(", ")))?;
        if !is_name(vault) {
            return Err(format!("`{vault}` is no name of a vault: letters, digits and `-`"));
        }
        let url = Url::parse(&format!("https://{host}")).map_err(|_| format!("`{host}` is no vault"))?;
        Ok(Self { url, cloud })
    }

    /// `shop.vault.azure.net`.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// Where a secret is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub vault: Address,
    pub name: String,
    pub version: Option<String>,
}

impl Place {
    /// # Errors
    /// What is wrong with `text`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write `keyvault:VAULT/NAME` or `keyvault:VAULT/NAME/VERSION`";
        let (vault, path) = match text.strip_prefix("https://") {
            Some(rest) => {
                let (host, path) = rest.split_once('/').ok_or(FORM)?;
                (Address::of_host(&host.to_ascii_lowercase())?, path.strip_prefix("secrets/").unwrap_or(path))
            }
            None => {
                let (name, path) = text.split_once('/').ok_or(FORM)?;
                (Address::parse(name)?, path)
            }
        };
        let (name, version) = match path.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (path, None),
        };
        if !is_name(name) || !version.is_none_or(is_name) {
            return Err(format!("a secret's name and version are letters, digits and `-`: {FORM}"));
        }
        Ok(Self { vault, name: name.to_owned(), version: version.map(ToOwned::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_vault_and_a_secret_and_nothing_else() {
        let vault = |host: &str| Url::parse(&format!("https://{host}")).unwrap();
        for (text, host, cloud, version) in [
            ("Shop/db", "shop.vault.azure.net", CLOUDS[0], None),
            ("shop/db/0a1b", "shop.vault.azure.net", CLOUDS[0], Some("0a1b")),
            ("https://shop.vault.azure.cn/secrets/db/0a1b", "shop.vault.azure.cn", CLOUDS[1], Some("0a1b")),
            ("https://shop.vault.azure.net/db", "shop.vault.azure.net", CLOUDS[0], None),
        ] {
            let version = version.map(ToOwned::to_owned);
            let vault = Address { url: vault(host), cloud };
            let place = Place { vault, name: "db".to_owned(), version };
            assert_eq!(Place::parse(text), Ok(place), "{text}");
        }
        // Our token is for none of these.
        for text in [
            "shop",
            "shop/",
            "/db",
            "shop/a b",
            "shop/db/1/2",
            "shop/db/",
            "shop.evil.example/db",
            "https://evil.example/db",
            "https://vault.azure.net/db",
            "https://a.b.vault.azure.net/db",
            "https://shop.vault.azure.net.evil.example/db",
            "https://shop.vault.azure.net@evil.example/db",
            "https://shop.vault.azure.net:8443/db",
            "https://shop.vault.azure.net/keys/db/1",
            "http://shop.vault.azure.net/db",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_vault_is_a_name_or_an_address_of_a_cloud() {
        for (text, host) in [
            ("Shop", "shop.vault.azure.net"),
            ("https://shop.vault.azure.net", "shop.vault.azure.net"),
            ("https://shop.vault.usgovcloudapi.net/", "shop.vault.usgovcloudapi.net"),
        ] {
            let vault = Address::parse(text).unwrap();
            assert_eq!(vault.host(), host);
        }
        for text in [
            "",
            "https://",
            "shop.vault.azure.net",
            "https://shop.vault.azure.net/secrets",
            "a b",
            "http://shop",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
