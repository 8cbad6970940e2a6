//! Azure Resource Manager as a strict stand-in of ours: it knows its paths, versions, filters and its token, pages,
//! and denies what it is told to.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use migrate_plugin_api::Severity;
use migrate_plugin_api::testing::RecordingHost;
use serde_json::{Value, json};

use super::*;
use crate::rules::document::Node;
use crate::rules::facts::Facts;
use crate::rules::object::objects;
use crate::rules::{Inputs, RuleSet};

/// What is denied, by the end of its path; and an answer in place of a next page.
#[derive(Default, Clone)]
struct Stand {
    denied: BTreeSet<&'static str>,
    elsewhere: bool,
}

fn refusal(status: u16, code: &str) -> Response {
    let body = json!({ "error": { "code": code, "message": "no" } });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

fn usage(name: &str, limit: i64, current: i64) -> Value {
    json!({ "unit": "Count", "limit": limit, "currentValue": current, "name": { "value": name, "localizedValue": name } })
}

fn sku(name: &str, family: &str, vcpus: &str, restrictions: &Value) -> Value {
    json!({ "resourceType": "virtualMachines", "name": name, "family": family, "locations": ["EastUS"],
        "capabilities": [{ "name": "MemoryGB", "value": "16" }, { "name": "vCPUs", "value": vcpus }], "restrictions": restrictions })
}

async fn manager(State(stand): State<Arc<Stand>>, request: Request) -> Response {
    let header =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if header("authorization") != "Bearer T0KEN" {
        return refusal(401, "InvalidAuthenticationToken");
    }
    let uri = request.uri().clone();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let Some(path) = uri.path().strip_prefix("/subscriptions/sub/") else {
        return refusal(404, "SubscriptionNotFound");
    };
    if stand.denied.iter().any(|end| path.ends_with(end)) {
        return refusal(403, "AuthorizationFailed");
    }
    let version = query.get("api-version").map(String::as_str);
    let host = header("host");
    let body = match (path, version) {
        ("resourceGroups/shop", Some("2021-04-01")) => json!({ "id": path, "location": "eastus" }),
        ("providers/Microsoft.Compute/locations/eastus/usages", Some("2024-07-01")) => {
            match query.get("page").map(String::as_str) {
                None => {
                    let host = if stand.elsewhere { "127.0.0.1:1" } else { host.as_str() };
                    json!({ "value": [usage("cores", 40, 10), usage("standardDSv5Family", 20, 4)],
                        "nextLink": format!("http://{host}{}?api-version=2024-07-01&page=2", uri.path()) })
                }
                Some(_) => {
                    json!({ "value": [usage("lowPriorityCores", 3, 0), usage("Standard NCASv3_T4 Family", 8, 0),
                    usage("availabilitySets", -1, 0)] })
                }
            }
        }
        ("providers/Microsoft.Compute/skus", Some("2021-07-01"))
            if query.get("$filter").is_some_and(|filter| filter == "location eq 'eastus'") =>
        {
            let here = json!([{ "type": "Location", "reasonCode": "NotAvailableForSubscription" }]);
            let zone = json!([{ "type": "Zone", "reasonCode": "NotAvailableForSubscription" }]);
            json!({ "value": [
                sku("Standard_D4s_v5", "standardDSv5Family", "4", &json!([])),
                sku("Standard_NC4as_T4_v3", "standardNCASv3_T4Family", "4", &zone),
                sku("Standard_E4s_v5", "standardESv5Family", "4", &here),
                { "resourceType": "disks", "name": "Premium_LRS", "locations": ["eastus"] },
            ] })
        }
        _ => return refusal(404, "NotFound"),
    };
    axum::Json(body).into_response()
}

struct Stage {
    _folder: tempfile::TempDir,
    ctx: StepContext,
    access: AzureAccess,
}

async fn stage(stand: Stand, subscription: &str) -> Stage {
    let router = Router::new().fallback(manager).with_state(Arc::new(stand));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let host = Arc::new(RecordingHost::default());
    host.put_secret("env:TOKEN", "T0KEN");
    let access = json!({ "subscription": subscription, "resource-group": "shop", "arm-endpoint": url, "token": "env:TOKEN" });
    Stage {
        ctx: host.context("assess", folder.path()),
        _folder: folder,
        access: serde_json::from_value(access).unwrap(),
    }
}

fn group(name: &str, kind: &str, desired: u64, most: u64, capacity: &str) -> Value {
    json!({ "apiVersion": "eks.aws/2017-11-01", "kind": "NodeGroup", "metadata": { "name": name }, "spec": {
        "instanceTypes": [kind], "capacityType": capacity,
        "scalingConfig": { "minSize": 1, "desiredSize": desired, "maxSize": most } } })
}

/// What rule EKS-TGT-008 says of these node groups.
fn found(groups: &[Value], subscription: &Subscription, target: Option<Target>) -> Vec<String> {
    let vm_sizes = [
        ("m5.xlarge", "Standard_D4s_v5"),
        ("r5.xlarge", "Standard_E4s_v5"),
        ("g4dn.xlarge", "standard_nc4as_t4_v3"),
    ];
    let vm_sizes = vm_sizes.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
    let inputs = Inputs { vm_sizes, ..Inputs::default() };
    let mut facts = Facts {
        subscription: Some(Arc::new(subscription.clone())),
        target: target.map(Arc::new),
        ..Facts::default()
    };
    let cluster = json!({ "apiVersion": "eks.aws/2017-11-01", "kind": "Cluster", "metadata": { "name": "a" }, "spec": {} });
    let nodes: Vec<Node> = groups.iter().chain([&cluster]).map(Node::of_value).collect();
    for node in &nodes {
        objects(node).iter().for_each(|object| facts.take(object));
    }
    let rules = RuleSet::shipped();
    let all = nodes.iter().flat_map(|node| rules.findings(node, None, &facts, &inputs));
    all.filter(|finding| finding.rule == "EKS-TGT-008").map(|finding| finding.message).collect()
}

#[tokio::test]
async fn node_groups_are_held_to_the_quotas_of_the_subscription() {
    let Stage { _folder, ctx, access } = stage(Stand::default(), "sub").await;
    assert_eq!(reach(&ctx, &access).await, None);
    let subscription = look(&ctx, &access, None).await.unwrap().unwrap();
    assert_eq!(subscription.location, "eastus");
    let d4 = |name: &str, desired: u64, most: u64| group(name, "m5.xlarge", desired, most, "ON_DEMAND");
    // 16 vCPUs are left of the family: exactly four nodes.
    assert_eq!(found(&[d4("a", 3, 3), d4("b", 1, 1)], &subscription, None), [] as [String; 0]);
    assert_eq!(
        found(&[d4("a", 3, 3), d4("b", 2, 2)], &subscription, None),
        [
            "node groups a, b need 20 vCPUs of standardDSv5Family more, and the subscription has 20 in eastus, of which 4 used"
        ]
    );
    assert_eq!(
        found(&[d4("a", 1, 8)], &subscription, None),
        [
            "node groups a need 32 vCPUs of cores more once grown to their most, and the subscription has 40 in eastus, of \
             which 10 used",
            "node groups a need 32 vCPUs of standardDSv5Family more once grown to their most, and the subscription has 20 in \
             eastus, of which 4 used"
        ]
    );
    // A family that the two lists write in two ways, and sizes in any case.
    let gpu = group("gpu", "g4dn.xlarge", 3, 3, "ON_DEMAND");
    assert!(
        found(&[gpu], &subscription, None)[0]
            .starts_with("node groups gpu need 12 vCPUs of standardNCASv3_T4Family")
    );
    let spot = group("spot", "m5.xlarge", 1, 1, "SPOT");
    assert!(
        found(&[spot], &subscription, None)[0]
            .starts_with("node groups spot need 4 vCPUs of lowPriorityCores more,")
    );
    assert_eq!(
        found(&[group("memory", "r5.xlarge", 1, 1, "ON_DEMAND")], &subscription, None),
        ["node groups memory become Standard_E4s_v5, which the subscription can't have in eastus"]
    );
    assert_eq!(
        found(&[group("odd", "m5.metal", 1, 1, "ON_DEMAND")], &subscription, None),
        ["node group odd is not counted: what it becomes has no size yet"]
    );
    // What the target has already is in what is used.
    let node =
        BTreeMap::from([("node.kubernetes.io/instance-type".to_owned(), "Standard_D4s_v5".to_owned())]);
    let target = Target { nodes: vec![node], ..Target::default() };
    assert_eq!(found(&[d4("a", 5, 5)], &subscription, Some(target)), [] as [String; 0]);
}

#[tokio::test]
async fn the_place_is_where_the_targets_nodes_are() {
    let Stage { _folder, ctx, access } = stage(Stand::default(), "sub").await;
    let at = |region: &str| {
        let labels = BTreeMap::from([(REGION.to_owned(), region.to_owned())]);
        Target { nodes: vec![labels], ..Target::default() }
    };
    assert_eq!(look(&ctx, &access, Some(&at("eastus"))).await.unwrap().unwrap().location, "eastus");
    // Asked there, and nowhere else: the stand-in has no other location.
    assert!(look(&ctx, &access, Some(&at("westus"))).await.unwrap_err().message.contains("quotas of westus"));
    // What is no location of Azure's never gets into a path: then it is where the resource group is.
    for region in ["../x", "us-east-1", ""] {
        assert_eq!(
            look(&ctx, &access, Some(&at(region))).await.unwrap().unwrap().location,
            "eastus",
            "{region}"
        );
    }
}

#[tokio::test]
async fn what_may_not_be_read_is_told_and_what_is_wrong_is_an_error() {
    let denied = Stand { denied: ["usages"].into(), ..Stand::default() };
    let Stage { _folder, ctx, access } = stage(denied, "sub").await;
    let said = look(&ctx, &access, None).await.unwrap().unwrap_err();
    assert_eq!(said, "Azure quotas (failed to read the quotas of eastus: 403 AuthorizationFailed no)");

    let denied = Stand { denied: ["resourceGroups/shop"].into(), ..Stand::default() };
    let Stage { _folder, ctx, access } = stage(denied, "sub").await;
    let problem = reach(&ctx, &access).await.unwrap();
    assert_eq!((problem.severity, problem.field.as_deref()), (Severity::Warning, Some("azure")));

    let Stage { _folder, ctx, access } = stage(Stand::default(), "other").await;
    assert!(look(&ctx, &access, None).await.unwrap_err().message.ends_with("404 SubscriptionNotFound no"));
    assert_eq!(reach(&ctx, &access).await.unwrap().severity, Severity::Error);

    // The token is not sent after a link to somewhere else.
    let Stage { _folder, ctx, access } = stage(Stand { elsewhere: true, ..Stand::default() }, "sub").await;
    let error = look(&ctx, &access, None).await.unwrap_err();
    assert!(error.message.ends_with("Azure names a next page that is not its own"), "{}", error.message);
}
