//! KEDA's scalers on SQS.

use serde_json::json;

use super::identity::client_id;
use super::items;
use crate::manifests::edit::Edit;
use crate::rules::document::Node;
use crate::rules::engine::{Look, Match};
use crate::rules::inputs::QueueTarget;
use crate::rules::path::{key, with};

/// Triggers of type `aws-sqs-queue`.
pub(super) fn sqs(look: &Look<'_>) -> Vec<Match> {
    let spec = vec![key("spec")];
    let Some(node) = look.object.node.get("spec") else { return Vec::new() };
    let mut all = Vec::new();
    for (path, trigger) in items(node, &spec, "triggers") {
        if trigger.text_at(&["type"]) != Some("aws-sqs-queue") {
            continue;
        }
        let text = |name: &str| trigger.text_at(&["metadata", name]);
        let url = text("queueURL").or_else(|| text("queueURLFromEnv")).unwrap_or_default();
        let mut found = Match::at(with(&path, "type")).found(url);
        let account = found.need(look.inputs.single("queue-account"));
        let target = look.inputs.queue_target.ok_or_else(|| "rewrite.queue-target".to_owned());
        let target = match target {
            Ok(target) => Some(target),
            Err(missing) => {
                found.needs.push(missing);
                None
            }
        };
        let mapped = look.inputs.entry("queues", url);
        let queue = match url.rsplit_once('/') {
            Some((_, name)) => Some(mapped.unwrap_or_else(|_| name.to_owned())),
            None => found.need(mapped),
        };
        if let (Some(account), Some(target), Some(queue)) = (account, target, queue) {
            let length = text("queueLength").unwrap_or("5");
            let (kind, mut metadata) = match target {
                QueueTarget::Servicebus => (
                    "azure-servicebus",
                    json!({ "queueName": queue, "namespace": account, "messageCount": length }),
                ),
                QueueTarget::Storage => (
                    "azure-queue",
                    json!({ "queueName": queue, "accountName": account, "queueLength": length }),
                ),
            };
            if let Some(activation) = text("activationQueueLength") {
                let name = match target {
                    QueueTarget::Servicebus => "activationMessageCount",
                    QueueTarget::Storage => "activationQueueLength",
                };
                metadata[name] = activation.into();
            }
            found = found.edit(Edit::Set { path: with(&path, "type"), value: kind.into() });
            found = found.edit(Edit::Set { path: with(&path, "metadata"), value: metadata });
        }
        all.push(found);
    }
    all
}

/// Authentications by a role of AWS.
pub(super) fn authentication(look: &Look<'_>) -> Vec<Match> {
    let path = vec![key("spec"), key("podIdentity")];
    let Some(identity) = look.object.node.at(&["spec", "podIdentity"]) else { return Vec::new() };
    let provider = identity.text_at(&["provider"]).unwrap_or_default();
    if !matches!(provider, "aws" | "aws-eks" | "aws-kiam") {
        return Vec::new();
    }
    let role = identity.get("roleArn").and_then(Node::text);
    let mut found = Match::at(with(&path, "provider")).found(role.unwrap_or(provider));
    let client = client_id(look, "keda", "keda-operator", role);
    if let Some(client) = found.need(client) {
        let value = json!({ "provider": "azure-workload", "identityId": client });
        found = found.edit(Edit::Set { path, value });
    }
    vec![found]
}
