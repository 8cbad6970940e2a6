//! The policies of roles, read from IAM: <https://docs.aws.amazon.com/IAM/latest/APIReference/>.
//!
//! Of each role what is attached and what is its own, in their versions of now. What may not be read is told
//! with the role, and the rest is read all the same.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{StepContext, StepError};
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::Value;

use super::iam::{Account, Policy};
use crate::aws::{Api, Denial};
use crate::site::AwsAccess;

const VERSION: &str = "2010-05-08";

/// Roles read at once: IAM lets through about 15 requests a second.
const AT_ONCE: usize = 3;

/// Pages of one list that are read, of 100 items: a role has at most 20 attached policies.
const MAX_PAGES: usize = 20;

/// Reads the policies of `roles`, which are ARNs.
///
/// # Errors
/// When IAM does not answer.
pub(crate) async fn account(
    ctx: &StepContext,
    access: &AwsAccess,
    roles: &BTreeSet<&str>,
) -> Result<Account, StepError> {
    let iam = Iam { api: Api::iam(ctx, access).await? };
    let reading: Vec<_> = roles.iter().map(|arn| iam.role(arn)).collect();
    let all: BTreeMap<String, Vec<Policy>> =
        futures::stream::iter(reading).buffered(AT_ONCE).try_collect().await?;
    Ok(Account::of_roles(all))
}

struct Iam {
    api: Api,
}

impl Iam {
    async fn ask(&self, fields: &[(&str, &str)]) -> Result<Result<String, Denial>, StepError> {
        let fields = [&[("Version", VERSION)], fields].concat();
        Ok(match self.api.form(&fields).await? {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(denial) => Err(denial),
        })
    }

    async fn role(&self, arn: &str) -> Result<(String, Vec<Policy>), StepError> {
        Ok((arn.to_owned(), self.policies(arn).await?))
    }

    async fn policies(&self, arn: &str) -> Result<Vec<Policy>, StepError> {
        let name = arn.rsplit('/').next().unwrap_or_default();
        let mut all = Vec::new();
        match self.ask(&[("Action", "GetRole"), ("RoleName", name)]).await? {
            // IAM finds roles by their names in the account of whoever asks.
            Ok(xml) if texts(&xml, "Arn").first().is_some_and(|found| found == arn) => {
                all.extend(texts(&xml, "PermissionsBoundaryArn").pop().map(Policy::Boundary));
            }
            Ok(_) => {
                return Ok(vec![Policy::Unread(format!(
                    "role {arn} is of another account: its policies are not read"
                ))]);
            }
            Err(denial) => return Ok(vec![unread(&format!("role {arn}"), &denial)]),
        }
        match self.list(&[("Action", "ListRolePolicies"), ("RoleName", name)], "member").await? {
            Ok(own) => {
                for policy in own {
                    let fields =
                        [("Action", "GetRolePolicy"), ("RoleName", name), ("PolicyName", policy.as_str())];
                    all.push(
                        self.document(&fields, "PolicyDocument", &format!("policy {policy} of role {name}"))
                            .await?,
                    );
                }
            }
            Err(denial) => all.push(unread(&format!("policies of role {name}"), &denial)),
        }
        match self.list(&[("Action", "ListAttachedRolePolicies"), ("RoleName", name)], "PolicyArn").await? {
            Ok(attached) => {
                for policy in attached {
                    all.push(self.attached(&policy).await?);
                }
            }
            Err(denial) => all.push(unread(&format!("policies attached to role {name}"), &denial)),
        }
        Ok(all)
    }

    async fn attached(&self, arn: &str) -> Result<Policy, StepError> {
        let what = format!("policy {arn}");
        let about = match self.ask(&[("Action", "GetPolicy"), ("PolicyArn", arn)]).await? {
            Ok(xml) => xml,
            Err(denial) => return Ok(unread(&what, &denial)),
        };
        let Some(version) = texts(&about, "DefaultVersionId").pop() else {
            return Ok(Policy::Unread(format!("{what} has no version")));
        };
        let fields = [("Action", "GetPolicyVersion"), ("PolicyArn", arn), ("VersionId", version.as_str())];
        self.document(&fields, "Document", &what).await
    }

    async fn document(&self, fields: &[(&str, &str)], tag: &str, what: &str) -> Result<Policy, StepError> {
        let xml = match self.ask(fields).await? {
            Ok(xml) => xml,
            Err(denial) => return Ok(unread(what, &denial)),
        };
        let text = texts(&xml, tag).pop().unwrap_or_default();
        Ok(match read_document(&text) {
            Some(document) => Policy::Document(document),
            None => Policy::Unread(format!("{what} is no JSON")),
        })
    }

    /// The texts of `tag` on all pages.
    async fn list(
        &self,
        fields: &[(&str, &str)],
        tag: &str,
    ) -> Result<Result<Vec<String>, Denial>, StepError> {
        let (mut all, mut marker) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let mut fields = fields.to_vec();
            if !marker.is_empty() {
                fields.push(("Marker", &marker));
            }
            let xml = match self.ask(&fields).await? {
                Ok(xml) => xml,
                Err(denial) => return Ok(Err(denial)),
            };
            all.extend(texts(&xml, tag));
            let next = texts(&xml, "Marker").pop().unwrap_or_default();
            if texts(&xml, "IsTruncated").first().map(String::as_str) != Some("true") || next.is_empty() {
                return Ok(Ok(all));
            }
            marker = next;
        }
        Err(StepError::permanent("IAM's list of policies has no end"))
    }
}

fn unread(what: &str, denial: &Denial) -> Policy {
    Policy::Unread(format!("{what} could not be read ({})", denial.code))
}

/// The texts of every element `tag`, in order; those that have elements in them have none.
fn texts(xml: &str, tag: &str) -> Vec<String> {
    let mut reader = Reader::from_str(xml);
    let (mut all, mut open): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                open = (start.local_name().as_ref() == tag.as_bytes()).then(String::new);
            }
            Ok(Event::Text(text)) => {
                if let (Some(open), Ok(text)) = (&mut open, text.decode()) {
                    open.push_str(&text);
                }
            }
            Ok(Event::GeneralRef(reference)) => {
                let resolved = reference.resolve_char_ref().ok().flatten().or_else(|| {
                    Some(match reference.decode().ok()?.as_ref() {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    })
                });
                if let (Some(open), Some(c)) = (&mut open, resolved) {
                    open.push(c);
                }
            }
            Ok(Event::End(end)) => {
                if end.local_name().as_ref() == tag.as_bytes() {
                    all.extend(open.take().map(|text| text.trim().to_owned()));
                }
                open = None;
            }
            Ok(Event::Eof) | Err(_) => return all,
            Ok(_) => {}
        }
    }
}

/// IAM gives documents percent-encoded (RFC 3986).
fn read_document(text: &str) -> Option<Value> {
    // `+`, `&` and `=` stand for themselves here, unlike in forms.
    let text = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let (decoded, _) = url::form_urlencoded::parse(text.as_bytes()).next()?;
    serde_json::from_str(&decoded).ok()
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
