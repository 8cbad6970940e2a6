//! Which identities there must be, and who may be each. Pure.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::iam::{Access, Account};

/// Federated credentials of one identity.
/// <https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations>
const CREDENTIALS: usize = 20;

/// The shortest and the longest name of an identity.
/// <https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules#microsoftmanagedidentity>
const NAME_CHARS: std::ops::RangeInclusive<usize> = 3..=128;

/// Room for `-N` at the end of a name.
const NUMBER_CHARS: usize = 4;

/// The most identities of one role: what `NUMBER_CHARS` have room for.
const IDENTITIES: u16 = 999;

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

    /// Whose token has this subject, without the role.
    pub(crate) fn of(subject: &str) -> Option<Self> {
        let (namespace, service_account) = subject.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
        Some(Self { namespace, service_account, role_arn: String::new() })
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

/// An identity of ours that is there.
#[derive(Debug)]
pub(crate) struct Holding {
    /// The role that it stands for.
    pub role_arn: String,
    /// Names of all its credentials, whoever made them.
    pub credentials: BTreeSet<String>,
}

/// What is there, by name in lower case: Azure's names know no case.
pub(crate) type Held = BTreeMap<String, Holding>;

/// One identity a role, or more where more accounts share the role than one identity has room for. Whoever
/// has a credential keeps it, whatever else is planned by now: its pods know the identity.
///
/// # Errors
/// Everything that is wrong, in words.
pub(crate) fn plan(
    associations: &BTreeSet<Association>,
    prefix: &str,
    account: Option<&Account>,
    held: &Held,
) -> Result<Vec<Identity>, Vec<String>> {
    let mut wrong: Vec<String> = associations.iter().filter_map(Association::wrong).collect();
    let mut roles = BTreeMap::new();
    let mut by_role: BTreeMap<&str, Vec<Association>> = BTreeMap::new();
    for association in associations {
        let Association { namespace, service_account, role_arn } = association;
        if let Some(other) = roles.insert((namespace, service_account), role_arn) {
            wrong.push(format!(
                "service account {namespace}/{service_account} has two roles, {other} and {role_arn}"
            ));
        }
        by_role.entry(role_arn).or_default().push(association.clone());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut taken = BTreeSet::new();
    let mut identities = Vec::new();
    for (role, accounts) in by_role {
        for (name, accounts) in parts(prefix, role, accounts, held, &mut taken) {
            let access = account.and_then(|account| account.access(role));
            identities.push(Identity { name, role_arn: role.to_owned(), accounts, access });
        }
    }
    Ok(identities)
}

/// A role's accounts by the names of their identities.
fn parts(
    prefix: &str,
    role: &str,
    mut accounts: Vec<Association>,
    held: &Held,
    taken: &mut BTreeSet<String>,
) -> Vec<(String, Vec<Association>)> {
    let of_role = held.iter().filter(|(_, holding)| holding.role_arn == role);
    let homes: BTreeMap<&str, &str> = of_role
        .flat_map(|(name, holding)| holding.credentials.iter().map(|held| (held.as_str(), name.as_str())))
        .collect();
    let mut parts = Vec::new();
    for name in names(prefix, role) {
        if accounts.is_empty() {
            break;
        }
        let key = name.to_ascii_lowercase();
        let holding = held.get(&key);
        if taken.contains(&key) || holding.is_some_and(|holding| holding.role_arn != role) {
            continue;
        }
        let mut room = CREDENTIALS.saturating_sub(holding.map_or(0, |holding| holding.credentials.len()));
        let mut is_here = |account: &Association| match homes.get(account.credential().as_str()) {
            Some(home) => *home == key,
            None if room > 0 => {
                room -= 1;
                true
            }
            None => false,
        };
        let (part, others): (Vec<_>, Vec<_>) = accounts.into_iter().partition(|account| is_here(account));
        accounts = others;
        if !part.is_empty() {
            taken.insert(key);
            parts.push((name, part));
        }
    }
    parts
}

/// What the identities of a role are called: `name`, `name-2`, `name-3`, …
fn names(prefix: &str, role: &str) -> impl Iterator<Item = String> {
    let name = base(prefix, role);
    let numbered = name.clone();
    std::iter::once(name).chain((2..=IDENTITIES).map(move |at| format!("{numbered}-{at}")))
}

fn base(prefix: &str, role: &str) -> String {
    let short = role.rsplit('/').next().unwrap_or(role);
    fitting(&format!("{prefix}{short}"))
}

/// Whether an identity of the role may be called so.
pub(crate) fn is_named_for(name: &str, prefix: &str, role: &str) -> bool {
    let (name, base) = (name.to_ascii_lowercase(), base(prefix, role).to_ascii_lowercase());
    let is_number = |text: &str| {
        !text.starts_with('0') && text.parse().is_ok_and(|at: u16| (2..=IDENTITIES).contains(&at))
    };
    name.strip_prefix(&base).is_some_and(|end| end.is_empty() || end.strip_prefix('-').is_some_and(is_number))
}

/// Letters, digits and hyphens, beginning with one of the first two.
fn fitting(name: &str) -> String {
    let most = NAME_CHARS.end() - NUMBER_CHARS;
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(most).collect();
    match name.trim_matches('-') {
        "" => "identity".to_owned(),
        short if short.len() < *NAME_CHARS.start() => format!("{short}-identity"),
        name => name.to_owned(),
    }
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
        let planned = plan(&all, "id-", None, &Held::new()).unwrap();
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
        let planned = plan(&all, "", None, &Held::new()).unwrap();
        let seen: Vec<_> = planned.iter().map(|i| (i.name.as_str(), i.accounts.len())).collect();
        assert_eq!(seen, [("web", 20), ("web-2", 20), ("web-3", 5)]);
    }

    #[test]
    fn what_is_no_account_or_role_is_told_all_at_once() {
        let mut odd = of("shop", "web", "web");
        odd.role_arn = "arn:aws:s3:::bucket".to_owned();
        let all: BTreeSet<_> = [odd, of("", "web", "web"), of("shop", "$(reboot)", "web")].into();
        assert_eq!(plan(&all, "", None, &Held::new()).unwrap_err().len(), 3);
    }

    #[test]
    fn one_account_has_one_role() {
        let all: BTreeSet<_> = [of("shop", "web", "a"), of("shop", "web", "b")].into();
        assert_eq!(
            plan(&all, "", None, &Held::new()).unwrap_err(),
            [
                "service account shop/web has two roles, arn:aws:iam::123456789012:role/a and arn:aws:iam::123456789012:role/b"
            ]
        );
    }

    #[test]
    fn names_are_as_long_as_azure_wants_them() {
        assert_eq!(fitting("ci"), "ci-identity");
        assert_eq!(fitting("-x-"), "x-identity");
        assert_eq!(fitting("--"), "identity");
        assert_eq!(fitting("web"), "web");
        assert_eq!(fitting(&"a".repeat(200)).len(), 124);
    }

    #[test]
    fn who_has_a_credential_keeps_it_and_the_others_take_what_room_there_is() {
        let role = |name: &str| format!("arn:aws:iam::123456789012:role/{name}");
        let names = |of: &[String]| of.iter().map(|name| format!("shop_{name}")).collect::<BTreeSet<_>>();
        let numbered =
            |range: std::ops::Range<usize>| range.map(|at| format!("m{at:02}")).collect::<Vec<_>>();
        let held = Held::from([
            ("web".to_owned(), Holding { role_arn: role("web"), credentials: names(&numbered(0..20)) }),
            ("web-3".to_owned(), Holding { role_arn: role("web"), credentials: names(&["z".to_owned()]) }),
            // Of another role with the same end, which sorts before it.
            ("web-2".to_owned(), Holding { role_arn: role("a/web"), credentials: BTreeSet::new() }),
        ]);
        let mut all: BTreeSet<_> = numbered(0..20).iter().map(|name| of("shop", name, "web")).collect();
        // Two that sort first, one that is there, and one of that other role.
        all.extend([
            of("shop", "a", "web"),
            of("shop", "b", "web"),
            of("shop", "z", "web"),
            of("shop", "y", "a/web"),
        ]);
        let planned = plan(&all, "", None, &held).unwrap();
        let seen: Vec<_> = planned.iter().map(|i| (i.name.as_str(), i.accounts.len())).collect();
        assert_eq!(seen, [("web-2", 1), ("web", 20), ("web-3", 3)]);
        assert!(planned[1].accounts.iter().all(|account| account.service_account.starts_with('m')));
        // What others have added takes room too.
        let held = Held::from([(
            "web".to_owned(),
            Holding {
                role_arn: role("web"),
                credentials: numbered(0..20).into_iter().map(|name| format!("by-hand-{name}")).collect(),
            },
        )]);
        let planned = plan(&[of("shop", "web", "web")].into(), "", None, &held).unwrap();
        assert_eq!(planned[0].name, "web-2");
    }

    #[test]
    fn an_identity_of_a_role_is_known_by_its_name() {
        let role = "arn:aws:iam::123456789012:role/team/Web";
        for (name, is_it) in [
            ("id-web", true),
            ("ID-Web-2", true),
            ("id-web-999", true),
            ("id-web-1", false),
            ("id-web-02", false),
            ("id-web2", false),
            ("id-web-1000", false),
            ("id-webber", false),
            ("other-web", false),
        ] {
            assert_eq!(is_named_for(name, "id-", role), is_it, "{name}");
        }
    }
}
