//! The EKS API as a strict stand-in of ours: it knows its paths, checks that requests are signed for it, pages, and
//! denies what it is told to. moto (5.2) has no add-ons, associations, access entries or versions.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{ErrorClass, Severity};

use super::*;
use crate::rules::document::Node;
use crate::rules::facts::Facts;
use crate::rules::{Inputs, RuleSet};

const ROLE: &str = "arn:aws:iam::123456789012:role/team/web";

/// What is denied, by the end of its path.
type Denied = Arc<BTreeSet<&'static str>>;

fn refusal(status: StatusCode, code: &str) -> Response {
    (status, [("x-amzn-errortype", code.to_owned())], axum::Json(json!({ "message": code }))).into_response()
}

async fn eks(State(denied): State<Denied>, request: Request) -> Response {
    let signed = request.headers().get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !signed.contains("/us-east-1/eks/aws4_request") {
        return refusal(StatusCode::FORBIDDEN, "UnrecognizedClientException");
    }
    let uri = request.uri().clone();
    let path: Vec<String> =
        uri.path().trim_matches('/').split('/').map(|part| part.replace("%2F", "/")).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if path.last().is_some_and(|last| denied.contains(last)) {
        return refusal(StatusCode::FORBIDDEN, "AccessDeniedException");
    }
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let body = match path.as_slice() {
        ["clusters", "production"] => json!({ "cluster": {
            "name": "production", "version": "1.30", "certificateAuthority": { "data": "LS0t" },
            "resourcesVpcConfig": { "endpointPublicAccess": true, "publicAccessCidrs": ["203.0.113.0/24"] } } }),
        ["cluster-versions"] if query.get("clusterVersions").is_some_and(|v| v == "1.30") => {
            json!({ "clusterVersions": [{
            "clusterVersion": "1.30", "versionStatus": "EXTENDED_SUPPORT", "endOfStandardSupportDate": 1_753_228_800.0,
            "endOfExtendedSupportDate": 1_784_764_800 }] })
        }
        // Two pages.
        ["clusters", "production", "node-groups"] => match query.get("nextToken").map(String::as_str) {
            None => json!({ "nodegroups": ["spot"], "nextToken": "to/the+rest" }),
            Some("to/the+rest") => json!({ "nodegroups": ["own"], "nextToken": null }),
            Some(_) => return refusal(StatusCode::BAD_REQUEST, "InvalidParameterException"),
        },
        ["clusters", "production", "node-groups", "spot"] => json!({ "nodegroup": {
            "nodegroupName": "spot", "capacityType": "SPOT", "amiType": "AL2023_x86_64_STANDARD", "diskSize": 80,
            "instanceTypes": ["m5.large", "m5a.large"], "scalingConfig": { "minSize": 1, "desiredSize": 2, "maxSize": 4 } } }),
        ["clusters", "production", "node-groups", "own"] => {
            json!({ "nodegroup": { "nodegroupName": "own", "amiType": "CUSTOM",
            "launchTemplate": { "id": "lt-0a1b" }, "scalingConfig": { "minSize": 3, "desiredSize": 3, "maxSize": 3 } } })
        }
        ["clusters", "production", "fargate-profiles"] => json!({ "fargateProfileNames": ["jobs"] }),
        ["clusters", "production", "fargate-profiles", "jobs"] => {
            json!({ "fargateProfile": { "selectors": [{ "namespace": "jobs" }] } })
        }
        ["clusters", "production", "addons"] => {
            json!({ "addons": ["coredns", "adot", "cert-manager", "gone"] })
        }
        ["clusters", "production", "addons", name @ ("coredns" | "adot" | "cert-manager")] => {
            json!({ "addon": { "addonName": name, "addonVersion": "v1" } })
        }
        ["clusters", "production", "pod-identity-associations"] => {
            json!({ "associations": [{ "associationId": "a-1", "namespace": "shop", "serviceAccount": "web" }] })
        }
        ["clusters", "production", "pod-identity-associations", "a-1"] => json!({ "association": {
            "associationId": "a-1", "namespace": "shop", "serviceAccount": "web", "roleArn": ROLE } }),
        ["clusters", "production", "access-entries"] => {
            json!({ "accessEntries": [ROLE, "arn:aws:iam::123456789012:role/nodes"] })
        }
        ["clusters", "production", "access-entries", ROLE] => {
            json!({ "accessEntry": { "principalArn": ROLE, "type": "STANDARD", "kubernetesGroups": ["developers"] } })
        }
        ["clusters", "production", "access-entries", "arn:aws:iam::123456789012:role/nodes"] => {
            json!({ "accessEntry": { "type": "EC2_LINUX" } })
        }
        ["clusters", "production", "access-entries", ROLE, "access-policies"] => {
            json!({ "associatedAccessPolicies": [{
            "policyArn": "arn:aws:eks::aws:cluster-access-policy/AmazonEKSEditPolicy",
            "accessScope": { "type": "namespace", "namespaces": ["shop"] } }] })
        }
        ["clusters", "production", "access-entries", _, "access-policies"] => {
            json!({ "associatedAccessPolicies": [] })
        }
        _ => return refusal(StatusCode::NOT_FOUND, "ResourceNotFoundException"),
    };
    axum::Json(body).into_response()
}

async fn stage(denied: &[&'static str]) -> (tempfile::TempDir, StepContext, AwsAccess) {
    let router = Router::new().fallback(eks).with_state(Denied::new(denied.iter().copied().collect()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let file = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
    std::fs::write(folder.path().join("credentials"), file).unwrap();
    let ctx = Arc::new(RecordingHost::default()).context("assess", folder.path());
    let access = json!({ "region": "us-east-1", "credentials-file": "credentials", "eks-endpoint": url });
    (folder, ctx, serde_json::from_value(access).unwrap())
}

fn findings(eks: &Eks) -> Vec<String> {
    let inputs = Inputs {
        vm_sizes: [("m5.large".to_owned(), "Standard_D2s_v5".to_owned())].into(),
        ..Inputs::default()
    };
    let rules = RuleSet::shipped();
    let nodes: Vec<Node> = eks.objects.iter().map(Node::of_value).collect();
    let all = nodes.iter().flat_map(|node| rules.findings(node, None, &Facts::default(), &inputs));
    let mut all: Vec<String> = all
        .map(|f| format!("{} {}: {} ({})", f.rule, f.object(), f.message, f.found.unwrap_or_default()))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn everything_that_only_the_api_knows_is_a_finding() {
    let (_folder, ctx, access) = stage(&[]).await;
    assert_eq!(reach(&ctx, &access, "production").await, None);
    let eks = look(&ctx, &access, "production").await.unwrap();
    assert_eq!(eks.unreadable, [] as [String; 0]);
    assert_eq!(eks.associations.len(), 1);
    assert_eq!(
        (eks.associations[0].service_account.as_str(), eks.associations[0].role_arn.as_str()),
        ("web", ROLE)
    );
    insta::assert_snapshot!(findings(&eks).join("\n"), @r#"
    EKS-CLU-001 Cluster production: version 1.30 of Kubernetes, standard support until 2025-07-23, extended support until 2026-07-23 (1.30)
    EKS-CLU-002 Cluster production: Version out of standard support (EXTENDED_SUPPORT)
    EKS-CLU-004 Cluster production: API server open to some addresses only (203.0.113.0/24)
    EKS-CLU-010 NodeGroup own: 3 nodes (3 to 3) of the launch template's type, image CUSTOM ()
    EKS-CLU-010 NodeGroup spot: 2 nodes (1 to 4) of m5.large (becomes Standard_D2s_v5), m5a.large, image AL2023_x86_64_STANDARD, disks of 80 GiB ()
    EKS-CLU-011 NodeGroup own: Nodes of an image of yours (CUSTOM)
    EKS-CLU-014 NodeGroup spot: Spot nodes (SPOT)
    EKS-CLU-015 NodeGroup own: Nodes from a launch template (lt-0a1b)
    EKS-CLU-020 FargateProfile jobs: Fargate profile (jobs)
    EKS-CLU-030 AddOn coredns: Add-on that AKS has itself ()
    EKS-CLU-031 AddOn adot: Add-on with another service behind it ()
    EKS-CLU-032 AddOn cert-manager: Add-on ()
    EKS-CLU-040 PodIdentityAssociation shop/web: Pod Identity association (arn:aws:iam::123456789012:role/team/web)
    EKS-CLU-041 AccessEntry arn:aws:iam::123456789012:role/team/web: an IAM principal may: groups developers; AmazonEKSEditPolicy in shop ()
    "#);
}

#[tokio::test]
async fn a_right_that_is_missing_costs_what_it_is_for_and_nothing_else() {
    let (_folder, ctx, access) = stage(&["addons", "production", "access-policies", "own"]).await;
    let eks = look(&ctx, &access, "production").await.unwrap();
    assert_eq!(
        eks.unreadable,
        [
            "eks:DescribeCluster (AccessDeniedException)",
            "eks: NodeGroup own (AccessDeniedException)",
            "eks: addons (AccessDeniedException)",
            "eks:ListAssociatedAccessPolicies (AccessDeniedException)",
            "eks:ListAssociatedAccessPolicies (AccessDeniedException)",
        ]
    );
    let kinds: Vec<&str> = eks.objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(
        kinds,
        ["NodeGroup", "FargateProfile", "PodIdentityAssociation", "AccessEntry", "AccessEntry"]
    );
    let problem = reach(&ctx, &access, "production").await.unwrap();
    assert_eq!(problem.severity, Severity::Warning);
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told() {
    let (_folder, ctx, access) = stage(&[]).await;
    let error = look(&ctx, &access, "prodction").await.unwrap_err();
    assert_eq!(
        (error.class, error.message.as_str()),
        (ErrorClass::Permanent, "there is no EKS cluster `prodction` in us-east-1")
    );
    assert_eq!(reach(&ctx, &access, "prodction").await.unwrap().severity, Severity::Error);
}

#[test]
fn settings_of_the_vpc_cni_are_found() {
    let daemon = json!({ "metadata": { "name": "aws-node" }, "spec": { "selector": {}, "template": { "spec": { "containers": [
        { "name": "aws-node", "env": [
            { "name": "ENABLE_POD_ENI", "value": "true" }, { "name": "ENABLE_PREFIX_DELEGATION", "value": "false" },
            { "name": "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "value": "true" },
            { "name": "MY_NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } } ] },
        { "name": "aws-eks-nodeagent", "args": ["--enable-network-policy=true", "--enable-ipv6=false"] } ] } } } });
    let object = cni(&serde_json::from_value(daemon).unwrap());
    let eks = Eks { objects: vec![object], ..Eks::default() };
    let rules: Vec<String> = findings(&eks).iter().map(|line| line[..11].to_owned()).collect();
    assert_eq!(rules, ["EKS-CLU-050", "EKS-CLU-051", "EKS-CLU-054"]);
}
