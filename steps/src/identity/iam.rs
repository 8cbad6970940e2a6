//! What a role's policies allow, and the roles of Azure that come near it. Pure.
//!
//! Proposals, never more: a scope is for a person to choose, and what has no like is told.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A role of Azure that comes near what a role of AWS may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Proposal {
    /// `Storage Blob Data Reader`.
    pub role: String,
    /// Actions that it is for.
    pub actions: Vec<String>,
    /// Resources of AWS that they are allowed on.
    pub resources: Vec<String>,
}

/// What became of a role's policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Access {
    /// By role.
    pub proposals: Vec<Proposal>,
    /// What a person must look at, and why.
    pub open: Vec<String>,
}

/// Verbs that only read.
const READING: [&str; 6] = ["Get", "List", "Head", "Describe", "BatchGet", "Query"];

fn reads(name: &str) -> bool {
    READING.iter().any(|verb| name.starts_with(verb)) || name == "Scan" || name == "ConditionCheckItem"
}

/// Actions of Systems Manager on Parameter Store; the others run commands, patch machines and so on.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssystemsmanager.html>
const OF_PARAMETERS: [&str; 6] = [
    "DeleteParameter",
    "DescribeParameters",
    "GetParameter",
    "LabelParameterVersion",
    "PutParameter",
    "UnlabelParameterVersion",
];

/// Whether an action of Systems Manager, or one of those that `Get*` stands for, is of Parameter Store.
fn is_of_parameters(name: &str) -> bool {
    name.contains("Parameter")
        || name
            .strip_suffix('*')
            .is_some_and(|start| OF_PARAMETERS.iter().any(|action| action.starts_with(start)))
}

/// The role for an action of a service, where there is one.
/// <https://learn.microsoft.com/azure/role-based-access-control/built-in-roles>
fn role(service: &str, name: &str) -> Option<&'static str> {
    Some(match service {
        "s3" if reads(name) => "Storage Blob Data Reader",
        "s3" => "Storage Blob Data Contributor",
        "sqs" if name.starts_with("Send") => "Azure Service Bus Data Sender",
        "sqs" if name == "*" => "Azure Service Bus Data Owner",
        "sqs" => "Azure Service Bus Data Receiver",
        "sns" if name.starts_with("Publish") => "Azure Service Bus Data Sender",
        "ssm" if !is_of_parameters(name) => return None,
        "secretsmanager" | "ssm" if reads(name) => "Key Vault Secrets User",
        "secretsmanager" | "ssm" => "Key Vault Secrets Officer",
        "kms" if !name.starts_with("Create") && name != "*" => "Key Vault Crypto User",
        "dynamodb" if reads(name) => "Cosmos DB Built-in Data Reader",
        "dynamodb" => "Cosmos DB Built-in Data Contributor",
        "ecr" if reads(name) || name == "BatchCheckLayerAvailability" => "AcrPull",
        "ecr" => "AcrPush",
        "kinesis" if name.starts_with("Put") => "Azure Event Hubs Data Sender",
        "kinesis" if reads(name) || name == "SubscribeToShard" => "Azure Event Hubs Data Receiver",
        "events" if name.starts_with("Put") => "EventGrid Data Sender",
        "cloudwatch" if name == "PutMetricData" => "Monitoring Metrics Publisher",
        "route53" if !reads(name) => "DNS Zone Contributor",
        _ => return None,
    })
}

/// A policy of a role.
#[derive(Debug, Clone)]
pub(crate) enum Policy {
    /// As it is written.
    Document(Value),
    /// Why it is not known.
    Unread(String),
    /// The ARN of one that sets the role's bounds, and gives nothing.
    Boundary(String),
}

/// Policies of an account: as `aws iam get-account-authorization-details` prints them, or as read from IAM.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// By the role's ARN.
    roles: BTreeMap<String, Vec<Policy>>,
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// One text, or a list of them.
fn texts(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

impl Account {
    /// Of the whole document.
    pub(crate) fn of(details: &Value) -> Self {
        let default = |policy: &Value| {
            let version = list(policy, "PolicyVersionList").find(|v| v["IsDefaultVersion"] == true)?;
            Some((text(policy, "Arn").to_owned(), version["Document"].clone()))
        };
        let managed: BTreeMap<String, Value> = list(details, "Policies").filter_map(default).collect();
        let role = |role: &Value| {
            let own =
                list(role, "RolePolicyList").map(|policy| Policy::Document(policy["PolicyDocument"].clone()));
            let attached = list(role, "AttachedManagedPolicies");
            let attached = attached.map(|policy| {
                let arn = text(policy, "PolicyArn");
                let missing = || Policy::Unread(format!("policy {arn} is not among the account's details"));
                managed.get(arn).cloned().map_or_else(missing, Policy::Document)
            });
            let bounds = role.get("PermissionsBoundary").map(|bounds| text(bounds, "PermissionsBoundaryArn"));
            let bounds = bounds.map(|arn| Policy::Boundary(arn.to_owned()));
            (text(role, "Arn").to_owned(), own.chain(attached).chain(bounds).collect())
        };
        Self { roles: list(details, "RoleDetailList").map(role).collect() }
    }

    /// Of roles by their ARNs.
    pub(crate) fn of_roles(roles: BTreeMap<String, Vec<Policy>>) -> Self {
        Self { roles }
    }

    /// What a role may do; `None` where the account does not have it.
    pub(crate) fn access(&self, role: &str) -> Option<Access> {
        self.roles.get(role).map(|policies| access(policies))
    }
}

fn access(policies: &[Policy]) -> Access {
    let mut found: BTreeMap<&'static str, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    let mut open = BTreeSet::new();
    for policy in policies {
        let document = match policy {
            Policy::Document(document) => document,
            Policy::Unread(reason) => {
                open.insert(reason.clone());
                continue;
            }
            Policy::Boundary(arn) => {
                open.insert(format!("a permissions boundary is not carried over: {arn}"));
                continue;
            }
        };
        let statements: Vec<&Value> = match document.get("Statement") {
            Some(Value::Array(items)) => items.iter().collect(),
            Some(one) => vec![one],
            None => Vec::new(),
        };
        for statement in statements {
            take(statement, &mut found, &mut open);
        }
    }
    let proposal = |(role, (actions, resources)): (&str, (BTreeSet<String>, BTreeSet<String>))| Proposal {
        role: role.to_owned(),
        actions: actions.into_iter().collect(),
        resources: resources.into_iter().collect(),
    };
    Access { proposals: found.into_iter().map(proposal).collect(), open: open.into_iter().collect() }
}

fn take(
    statement: &Value,
    found: &mut BTreeMap<&'static str, (BTreeSet<String>, BTreeSet<String>)>,
    open: &mut BTreeSet<String>,
) {
    let actions = texts(statement.get("Action"));
    if text(statement, "Effect") != "Allow" {
        open.insert(format!("a denial has no like in role assignments: {}", actions.join(", ")));
        return;
    }
    if actions.is_empty() {
        open.insert("a statement allows all but some actions (NotAction)".to_owned());
    }
    if statement.get("NotResource").is_some() {
        open.insert(format!("all but some resources (NotResource): {}", actions.join(", ")));
    }
    if statement.get("Condition").is_some() {
        open.insert(format!("a condition is not carried over: {}", actions.join(", ")));
    }
    for action in actions {
        let (service, name) = action.split_once(':').unwrap_or((action, ""));
        match role(&service.to_ascii_lowercase(), name) {
            Some(role) => {
                let (all, resources) = found.entry(role).or_default();
                all.insert(action.to_owned());
                resources.extend(texts(statement.get("Resource")).into_iter().map(str::to_owned));
            }
            None => {
                open.insert(format!("no role of Azure is proposed for {action}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn actions_become_the_least_role_that_has_them_and_the_rest_is_told() {
        let account = Account::of(&json!({
            "RoleDetailList": [{
                "Arn": "arn:aws:iam::1:role/web",
                "RolePolicyList": [{ "PolicyDocument": { "Statement": [
                    { "Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "arn:aws:s3:::a" },
                    { "Effect": "Allow", "Action": "sqs:SendMessage", "Resource": ["arn:aws:sqs:us-east-1:1:q"] },
                    { "Effect": "Allow", "Action": "rds-db:connect", "Resource": "*" },
                    { "Effect": "Deny", "Action": "s3:DeleteObject", "Resource": "*" },
                ] } }],
                "AttachedManagedPolicies": [{ "PolicyArn": "arn:aws:iam::1:policy/p" }, { "PolicyArn": "arn:aws:iam::aws:policy/Gone" }],
            }],
            "Policies": [{ "Arn": "arn:aws:iam::1:policy/p", "PolicyVersionList": [
                { "IsDefaultVersion": false, "Document": { "Statement": { "Effect": "Allow", "Action": "*", "Resource": "*" } } },
                { "IsDefaultVersion": true, "Document": { "Statement": { "Effect": "Allow", "Action": "dynamodb:*",
                    "Resource": "arn:aws:dynamodb:us-east-1:1:table/t", "Condition": { "StringEquals": {} } } } },
            ] }],
        }));
        let found = account.access("arn:aws:iam::1:role/web").unwrap();
        let roles: Vec<_> =
            found.proposals.iter().map(|p| (p.role.as_str(), p.resources.join(" "))).collect();
        assert_eq!(
            roles,
            [
                ("Azure Service Bus Data Sender", "arn:aws:sqs:us-east-1:1:q".to_owned()),
                ("Cosmos DB Built-in Data Contributor", "arn:aws:dynamodb:us-east-1:1:table/t".to_owned()),
                ("Storage Blob Data Reader", "arn:aws:s3:::a".to_owned()),
            ]
        );
        assert_eq!(
            found.open,
            [
                "a condition is not carried over: dynamodb:*",
                "a denial has no like in role assignments: s3:DeleteObject",
                "no role of Azure is proposed for rds-db:connect",
                "policy arn:aws:iam::aws:policy/Gone is not among the account's details",
            ]
        );
        assert!(account.access("arn:aws:iam::1:role/other").is_none());
    }

    #[test]
    fn a_right_to_everything_proposes_nothing() {
        let all = access(&[Policy::Document(
            json!({ "Statement": { "Effect": "Allow", "Action": "*", "Resource": "*" } }),
        )]);
        assert_eq!(
            (all.proposals.len(), all.open.as_slice()),
            (0, &["no role of Azure is proposed for *".to_owned()][..])
        );
    }

    #[test]
    fn of_systems_manager_only_parameters_are_secrets() {
        for (name, expected) in [
            ("GetParameter", Some("Key Vault Secrets User")),
            ("GetParametersByPath", Some("Key Vault Secrets User")),
            ("Get*", Some("Key Vault Secrets User")),
            ("PutParameter", Some("Key Vault Secrets Officer")),
            ("*", Some("Key Vault Secrets Officer")),
            ("SendCommand", None),
            ("StartSession", None),
            ("PutInventory", None),
            ("PutInv*", None),
            ("GetCommandInvocation", None),
        ] {
            assert_eq!(role("ssm", name), expected, "{name}");
        }
    }

    #[test]
    fn what_bounds_a_role_is_told() {
        let account = Account::of(&json!({ "RoleDetailList": [{
            "Arn": "arn:aws:iam::1:role/web",
            "PermissionsBoundary": { "PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": "arn:aws:iam::1:policy/b" },
            "RolePolicyList": [{ "PolicyDocument": { "Statement":
                { "Effect": "Allow", "Action": "s3:GetObject", "NotResource": "arn:aws:s3:::payroll/*" } } }],
        }] }));
        assert_eq!(
            account.access("arn:aws:iam::1:role/web").unwrap().open,
            [
                "a permissions boundary is not carried over: arn:aws:iam::1:policy/b",
                "all but some resources (NotResource): s3:GetObject",
            ]
        );
    }
}
