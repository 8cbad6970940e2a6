//! Which identities there must be, and who may be each. Pure.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::iam::{Access, Account};

/// Federated credentials of one identity.
/// <https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations>
const CREDENTIALS: usize = 20;

/// The longest name of an identity.
/// <https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules#microsoftmanagedidentity>
const NAME_CHARS: usize = 128;

/// The longest name of a federated credential.
const CREDENTIAL_CHARS: usize = 120;

/// A service account and the role that its pods have on EKS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Association {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// `arn:aws:iam::123456789012:role/NAME`.
    pub role_arn: String,
}

impl Association {
    /// What Entra sees as the subject of its token.
    pub(crate) fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }

    /// Name of its federated credential, another for each account: Kubernetes' names have no `_`.
    pub(crate) fn credential(&self) -> String {
        let name = format!("{}_{}", self.namespace, self.service_account).replace('.', "__");
        if name.len() <= CREDENTIAL_CHARS {
            return name;
        }
        let digest = hex::encode(digest(&SHA256, self.subject().as_bytes()));
        format!("{}_{}", &name[..CREDENTIAL_CHARS - 17], &digest[..16])
    }

    /// What is wrong with it, in words.
    fn wrong(&self) -> Option<String> {
        let is_name = |name: &str| {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            !name.is_empty() && name.len() <= 253 && name.chars().all(is_plain)
        };
        if !is_name(&self.service_account) {
            return Some(format!("`{}` is no name of a service account", self.service_account));
        }
        if self.namespace.is_empty() {
            return Some(format!(
                "service account {} names no namespace, and a federated credential needs one",
                self.service_account
            ));
        }
        if !is_name(&self.namespace) {
            return Some(format!("`{}` is no namespace", self.namespace));
        }
        let arn: Vec<&str> = self.role_arn.splitn(6, ':').collect();
        let is_role = matches!(arn.as_slice(), ["arn", partition, "iam", "", account, path]
            if partition.starts_with("aws") && account.chars().all(|c| c.is_ascii_digit()) && path.starts_with("role/"));
        (!is_role).then(|| format!("`{}` is no ARN of a role", self.role_arn))
    }
}

/// A managed identity to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Identity {
    /// Its name.
    pub name: String,
    /// The role that it stands for.
    pub role_arn: String,
    /// Who may be it.
    pub accounts: Vec<Association>,
    /// What the role may do, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// One identity a role, or more where more accounts share the role than one identity has room for.
///
/// # Errors
/// Everything that is wrong, in words.
pub(crate) fn plan(
    associations: &BTreeSet<Association>,
    prefix: &str,
    account: Option<&Account>,
) -> Result<Vec<Identity>, Vec<String>> {
    let wrong: Vec<String> = associations.iter().filter_map(Association::wrong).collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut by_role: BTreeMap<&str, Vec<Association>> = BTreeMap::new();
    for association in associations {
        by_role.entry(&association.role_arn).or_default().push(association.clone());
    }
    let mut taken = BTreeSet::new();
    let mut identities = Vec::new();
    for (role, accounts) in by_role {
        let short = role.rsplit('/').next().unwrap_or(role);
        for part in accounts.chunks(CREDENTIALS) {
            identities.push(Identity {
                name: free(&fitting(&format!("{prefix}{short}"), NAME_CHARS - 4), &mut taken),
                role_arn: role.to_owned(),
                accounts: part.to_vec(),
                access: account.and_then(|account| account.access(role)),
            });
        }
    }
    Ok(identities)
}

/// Letters, digits and hyphens, beginning with one of the first two.
fn fitting(name: &str, most: usize) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(most).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "identity".to_owned() } else { name.to_owned() }
}

/// `name`, or the first of `name-2`, `name-3`, … that is free. Azure's names know no case.
fn free(name: &str, taken: &mut BTreeSet<String>) -> String {
    let candidates = std::iter::once(name.to_owned()).chain((2..).map(|at| format!("{name}-{at}")));
    let mut free = candidates.skip_while(|name| taken.contains(&name.to_ascii_lowercase()));
    let name = free.next().unwrap_or_default();
    taken.insert(name.to_ascii_lowercase());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespace: &str, account: &str, role: &str) -> Association {
        Association {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            role_arn: format!("arn:aws:iam::123456789012:role/{role}"),
        }
    }

    #[test]
    fn a_role_becomes_one_identity_with_a_credential_for_each_account() {
        let all: BTreeSet<_> =
            [of("shop", "web", "web"), of("shop", "api", "web"), of("db", "x", "path/to/Web")].into();
        let planned = plan(&all, "id-", None).unwrap();
        let seen: Vec<_> = planned.iter().map(|i| (i.name.as_str(), i.accounts.len())).collect();
        assert_eq!(seen, [("id-Web", 1), ("id-web-2", 2)]);
        assert_eq!(planned[1].accounts[0].subject(), "system:serviceaccount:shop:api");
    }

    #[test]
    fn no_two_accounts_have_a_credential_of_one_name() {
        let long = "a".repeat(200);
        let pairs = [
            ("a-b", "c"),
            ("a", "b-c"),
            ("a", "b.c"),
            ("a", "b--c"),
            ("a", &long),
            ("a", &format!("{long}b")),
        ];
        let names: BTreeSet<String> = pairs.iter().map(|(n, a)| of(n, a, "web").credential()).collect();
        assert_eq!(names.len(), pairs.len());
        assert!(names.iter().all(|name| name.len() <= CREDENTIAL_CHARS));
    }

    #[test]
    fn more_accounts_than_an_identity_has_room_for_get_another() {
        let all: BTreeSet<_> = (0..45).map(|at| of("shop", &format!("a{at}"), "web")).collect();
        let planned = plan(&all, "", None).unwrap();
        let seen: Vec<_> = planned.iter().map(|i| (i.name.as_str(), i.accounts.len())).collect();
        assert_eq!(seen, [("web", 20), ("web-2", 20), ("web-3", 5)]);
    }

    #[test]
    fn what_is_no_account_or_role_is_told_all_at_once() {
        let mut odd = of("shop", "web", "web");
        odd.role_arn = "arn:aws:s3:::bucket".to_owned();
        let all: BTreeSet<_> = [odd, of("", "web", "web"), of("shop", "$(reboot)", "web")].into();
        assert_eq!(plan(&all, "", None).unwrap_err().len(), 3);
    }
}
