//! Ingresses of other namespaces that share a load balancer with those of these: what they say of it counts for all of
//! them. They are judged by and go nowhere. Reads only.

use std::collections::BTreeSet;

use kube::Client;
use migrate_plugin_api::{StepContext, StepError};
use serde_json::Value;

use super::needs::{Needs, is_for_classes};
use crate::inventory::{Served, each_object};
use crate::rules::code::ingress_elsewhere::Others;
use crate::rules::code::ingress_groups::Ingresses;
use crate::rules::document::Node;
use crate::rules::object::objects;
use crate::workload::text;

/// Those that share one with any of `own`, as far as their classes are known, and which groups these are. Nothing is read
/// where they share nothing.
///
/// # Errors
/// What the API server says; `Cancelled` on request.
pub(crate) async fn others(
    ctx: &StepContext,
    client: &Client,
    kinds: &[Served],
    own: &Ingresses,
) -> Result<Others, StepError> {
    let groups = own.groups();
    let is_ingress = |kind: &&Served| {
        kind.resource.group == "networking.k8s.io" && kind.resource.kind == "Ingress" && kind.listable
    };
    let Some(kind) = kinds.iter().find(is_ingress).filter(|_| !groups.is_empty()) else {
        return Ok(Others::Read { groups, all: BTreeSet::new() });
    };
    let (mut there, mut needs) = (Ingresses::default(), Needs::default());
    // As one that is in no namespace, a kind is listed in all of them.
    let everywhere = Served { namespaced: false, ..kind.clone() };
    let listed = each_object(ctx, client, &everywhere, "", |ingress| {
        let part = |name: &str| text(&ingress, &["metadata", name]).unwrap_or_default().to_owned();
        if !own.is_among(&(part("namespace"), part("name"))) {
            needs.take(&ingress);
            take(&mut there, &ingress);
        }
        Ok(())
    });
    if !listed.await? {
        return Ok(Others::Unread);
    }
    let classes: Vec<&Served> = kinds.iter().filter(|kind| is_for_classes(kind)).collect();
    let unread = needs.read(ctx, client, &classes, &[], |_, object| {
        take(&mut there, &object);
        Ok(())
    });
    if !unread.await?.is_empty() {
        return Ok(Others::Unread);
    }
    Ok(Others::Read { all: there.of_groups(&groups), groups })
}

/// An object as rules know it.
pub(crate) fn take(ingresses: &mut Ingresses, object: &Value) {
    let node = Node::of_value(object);
    objects(&node).iter().for_each(|object| ingresses.take(object));
}
