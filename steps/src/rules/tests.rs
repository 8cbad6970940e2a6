//! Every shipped rule is held to its examples.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::read;
use super::facts::Facts;
use super::object::objects;
use super::*;
use crate::manifests::edit::EditError;

/// What the rules know of `text` alone.
fn facts(text: &str) -> Facts {
    let mut facts = Facts::default();
    for document in read(text).unwrap() {
        objects(&document.root).iter().for_each(|object| facts.take(object));
    }
    facts
}

pub(super) fn found(text: &str, inputs: &Inputs) -> Vec<Finding> {
    found_for(text, inputs, None)
}

fn found_for(text: &str, inputs: &Inputs, target: Option<&Target>) -> Vec<Finding> {
    found_with(text, inputs, &Example { target: target.cloned(), ..Example::default() })
}

fn found_with(text: &str, inputs: &Inputs, example: &Example) -> Vec<Finding> {
    let (set, mut facts) = (RuleSet::shipped(), facts(text));
    facts.target = example.target.clone().map(Arc::new);
    facts.subscription = example.subscription.clone().map(Arc::new);
    let documents = read(text).unwrap();
    set.findings_of_text(text, &documents, &facts, inputs)
}

pub(super) fn rewritten(set: &RuleSet, text: &str, inputs: &Inputs) -> Result<String, EditError> {
    set.rewrite(text, &read(text)?, &facts(text), inputs).map(|done| done.text)
}

#[test]
fn every_rule_finds_and_rewrites_its_examples() {
    let set = RuleSet::shipped();
    let mut wrong = Vec::new();
    for rule in set.rules() {
        if rule.examples.is_empty() {
            wrong.push(format!("{}: no example", rule.id));
        }
        for example in &rule.examples {
            let before = example.before.trim_start_matches('\n');
            let after = example.after.as_deref().map_or(before, |after| after.trim_start_matches('\n'));
            let all = found_with(before, &example.inputs, example);
            let finding = all.into_iter().find(|f| f.rule == rule.id);
            match finding {
                None => wrong.push(format!("{}: does not find its example", rule.id)),
                Some(finding)
                    if rule.kind != RuleKind::Manual
                        && example.after.is_some()
                        && !finding.needs.is_empty() =>
                {
                    wrong.push(format!("{}: misses {:?}", rule.id, finding.needs));
                }
                Some(_) => {}
            }
            match rewritten(&set, before, &example.inputs) {
                Ok(done) if done != after => {
                    wrong.push(format!("{}: is\n{}\nand should be\n{after}", rule.id, done));
                }
                Ok(done) => {
                    let again = rewritten(&set, &done, &example.inputs).unwrap();
                    if again != done {
                        wrong.push(format!("{}: twice is another than once:\n{}", rule.id, again));
                    }
                }
                Err(e) => wrong.push(format!("{}: {e}", rule.id)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_rule_that_needs_an_input_asks_for_it_by_name() {
    let set = RuleSet::shipped();
    for rule in set.rules().filter(|rule| rule.kind == RuleKind::Input && rule.id != "EKS-IMG-003") {
        let given = rule.examples.iter().find(|example| example.after.is_some());
        let before = given
            .unwrap_or_else(|| panic!("{}: no example with an effect", rule.id))
            .before
            .trim_start_matches('\n');
        let needs: Vec<String> = found(before, &Inputs::default())
            .into_iter()
            .filter(|f| f.rule == rule.id)
            .flat_map(|f| f.needs)
            .collect();
        // These are found by what the input says.
        if matches!(rule.id.as_str(), "EKS-ID-008" | "EKS-STO-017") {
            continue;
        }
        assert!(
            needs.iter().all(|need| need.starts_with("rewrite.")) && !needs.is_empty(),
            "{}: {needs:?}",
            rule.id
        );
    }
}

#[test]
fn ids_are_unique_and_texts_are_whole() {
    let set = RuleSet::shipped();
    let mut ids: Vec<&str> = set.rules().map(|rule| rule.id.as_str()).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count);
    for rule in set.rules() {
        assert!(!rule.why.is_empty() && !rule.azure.is_empty() && !rule.links.is_empty(), "{}", rule.id);
        assert!(rule.links.iter().all(|link| link.starts_with("https://")), "{}", rule.id);
    }
}

#[test]
fn a_secret_is_never_looked_into() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nstringData: {key: \"arn:aws:iam::1:role/hunter2\", host: \
                123456789012.dkr.ecr.us-east-1.amazonaws.com/a}\n";
    assert_eq!(found(text, &Inputs::default()), Vec::new());
}

#[test]
fn of_a_text_only_the_reference_is_repeated() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata:\n  a: |\n    password: hunter2\n    topic: \
                arn:aws:sns:us-east-1:123456789012:orders hunter2\n    url: https://user:hunter2@sqs.us-east-1.amazonaws.com/1\n";
    let all = format!("{:?}", found(text, &Inputs::default()));
    assert!(all.contains("orders") && !all.contains("hunter2"), "{all}");
}

/// A target with everything that an ordinary web application needs.
fn target() -> Target {
    toml::from_str(
        r#"
        version = "v1.36.3"
        storage-classes = ["managed-csi"]
        default-storage-class = "managed-csi"
        ingress-classes = ["webapprouting.kubernetes.azure.com"]
        kinds = ["v1/Pod", "v1/PersistentVolumeClaim", "networking.k8s.io/v1/Ingress", "networking.k8s.io/v1/NetworkPolicy"]
        nodes = [
            { "kubernetes.io/arch" = "amd64", "kubernetes.azure.com/agentpool" = "workers", "topology.kubernetes.io/zone" = "eastus-1" },
            { "kubernetes.io/arch" = "arm64" },
        ]
        policy-engine = "cilium"
        "#,
    )
    .unwrap()
}

#[test]
fn findings_about_the_target_are_of_what_objects_become() {
    let inputs: Inputs = toml::from_str(
        r#"
        ingress = "nginx"
        storage-classes = { gp3 = "managed-csi", io2 = "premium" }
        node-pools = { blue = "workers", green = "gpu" }
        zones = { us-east-1a = "eastus-1", us-east-1b = "eastus-2" }
        "#,
    )
    .unwrap();
    let of_target = |text: &str, inputs: &Inputs| -> Vec<(String, Option<String>)> {
        let all = found_for(text, inputs, Some(&target()));
        all.into_iter().filter(|f| f.rule.starts_with("EKS-TGT")).map(|f| (f.rule, f.found)).collect()
    };
    let claim = |class: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: a}}\nspec: {{{class}resources: {{}}}}\n"
        )
    };
    let found = |rule: &str, what: &str| vec![(rule.to_owned(), Some(what.to_owned()))];
    assert_eq!(of_target(&claim("storageClassName: gp3, "), &inputs), []);
    assert_eq!(of_target(&claim("storageClassName: io2, "), &inputs), found("EKS-TGT-001", "premium"));
    assert_eq!(of_target(&claim(""), &inputs), []);
    // What waits for an input is that rule's.
    assert_eq!(of_target(&claim("storageClassName: gp3, "), &Inputs::default()), []);
    let own =
        "---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: mine}\nprovisioner: x\n";
    let mine = claim("storageClassName: mine, ") + own;
    assert!(!of_target(&mine, &inputs).iter().any(|(rule, _)| rule == "EKS-TGT-001"));

    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec: {ingressClassName: alb}\n";
    assert_eq!(of_target(ingress, &inputs), []);
    let gateway = Inputs { ingress: Some(IngressTarget::Gateway), ..inputs.clone() };
    assert_eq!(of_target(ingress, &gateway), [("EKS-TGT-002".to_owned(), None)]);

    let pod = |selector: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  nodeSelector: {{{selector}}}\n  containers: [{{name: a}}]\n"
        )
    };
    assert_eq!(of_target(&pod("kubernetes.io/arch: arm64"), &inputs), []);
    assert_eq!(of_target(&pod("disk: fast"), &inputs), []);
    assert_eq!(of_target(&pod("eks.amazonaws.com/nodegroup: blue"), &inputs), []);
    let gpu = found("EKS-TGT-005", "kubernetes.azure.com/agentpool: gpu");
    assert_eq!(of_target(&pod("eks.amazonaws.com/nodegroup: green"), &inputs), gpu);
    assert_eq!(of_target(&pod("eks.amazonaws.com/nodegroup: other"), &inputs), []);
    let affinity = |zones: &str| {
        let terms = format!(
            "{{matchExpressions: [{{key: topology.kubernetes.io/zone, operator: In, values: [{zones}]}}]}}"
        );
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers: [{{name: a}}]\n  affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{terms}]}}}}}}\n"
        )
    };
    assert_eq!(of_target(&affinity("us-east-1a, us-east-1b"), &inputs), []);
    assert_eq!(
        of_target(&affinity("us-east-1b"), &inputs),
        found("EKS-TGT-005", "topology.kubernetes.io/zone: eastus-2")
    );

    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";
    assert_eq!(of_target(policy, &inputs), []);
    let lattice =
        "apiVersion: application-networking.k8s.aws/v1alpha1\nkind: TargetGroupPolicy\nmetadata: {name: a}\n";
    assert_eq!(of_target(lattice, &inputs), []);
    let coupon = "apiVersion: shop.example.com/v1\nkind: Coupon\nmetadata: {name: a}\n";
    assert_eq!(of_target(coupon, &inputs), found("EKS-TGT-003", "shop.example.com/v1 Coupon"));
    let definition = "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\nspec: {group: shop.example.com, names: {kind: Coupon}}\n";
    let own = of_target(&(coupon.to_owned() + definition), &inputs);
    assert!(
        !own.iter().any(|(_, found)| found.as_deref().is_some_and(|found| found.contains("Coupon"))),
        "{own:?}"
    );
}

#[test]
fn a_quota_lets_in_what_it_has_room_for() {
    let deployment = |replicas: u32, resources: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a, namespace: shop}}\nspec:\n  replicas: {replicas}\n  \
             template:\n    spec:\n      initContainers: [{{name: i, resources: {{requests: {{cpu: 700m, memory: 1Mi}}}}}}]\n      \
             containers: [{{name: a, resources: {{{resources}}}}}]\n"
        )
    };
    let found = |hard: &str, limit_ranges: &str, text: &str| -> Vec<String> {
        let quota = format!(
            "limit-ranges = [{limit_ranges}]\n[[quotas]]\nnamespace = \"shop\"\nname = \"team\"\nhard = {{ {hard} }}\n\
             used = {{ \"requests.cpu\" = \"1\", cpu = \"1\" }}"
        );
        let target: Target = toml::from_str(&quota).unwrap();
        let all = found_for(text, &Inputs::default(), Some(&target));
        all.into_iter().filter(|f| f.rule == "EKS-TGT-007").map(|f| f.message).collect()
    };
    let half = deployment(3, "requests: {cpu: 500m, memory: 64Mi}");
    // What comes first needs more, and then alone: three times 0.7 beside the one that is used.
    assert_eq!(found("\"requests.cpu\" = \"3100m\"", "", &half), [] as [String; 0]);
    let message = "it asks for 2.100 CPUs (requests.cpu), and quota `team` of namespace shop has 3.099 CPUs, of which \
                   1.000 CPUs used";
    assert_eq!(found("\"requests.cpu\" = \"3099m\"", "", &half), [message]);
    assert_eq!(found("cpu = \"3\"", "", &half).len(), 1, "by its older name");
    assert_eq!(found("pods = \"2\"", "", &half).len(), 1);
    assert_eq!(found("\"requests.cpu\" = \"1\"", "", &deployment(0, "")).len(), 1, "not stated");
    assert_eq!(
        found("\"requests.cpu\" = \"1\"", "\"shop\"", &deployment(0, "")),
        [] as [String; 0],
        "a default"
    );
    let elsewhere = half.replace("namespace: shop", "namespace: other");
    assert_eq!(found("pods = \"0\"", "", &elsewhere), [] as [String; 0]);
    let stateful = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a, namespace: shop}\nspec:\n  replicas: 3\n  \
                    volumeClaimTemplates:\n    - {metadata: {name: d}, spec: {resources: {requests: {storage: 10Gi}}}}\n";
    assert_eq!(found("\"requests.storage\" = \"30Gi\"", "", stateful), [] as [String; 0]);
    assert_eq!(found("\"requests.storage\" = \"29Gi\"", "", stateful).len(), 1);
    assert_eq!(found("persistentvolumeclaims = \"2\"", "", stateful).len(), 1);
}

#[test]
fn what_becomes_one_key_stands_there_once() {
    let service = |annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations:\n{annotations}spec:\n  \
             type: LoadBalancer\n  ports: [{{port: 80}}]\n"
        )
    };
    let key = "service.beta.kubernetes.io/azure-load-balancer-internal";
    let old = "    service.beta.kubernetes.io/aws-load-balancer-internal: \"true\"\n";
    let new = "    service.beta.kubernetes.io/aws-load-balancer-scheme: internal\n";
    let done = format!("    {key}: \"true\"\n");
    for before in
        [format!("{old}{new}"), format!("{new}{old}"), format!("{old}{done}"), format!("{done}{new}{old}")]
    {
        let (set, text, inputs) = (RuleSet::shipped(), service(&before), Inputs::default());
        let all = set.rewrite(&text, &read(&text).unwrap(), &facts(&text), &inputs).unwrap();
        assert_eq!(all.text, service(&done), "{before}");
        let removed = all.changes.iter().filter(|change| change.new.is_empty()).count();
        assert_eq!(removed, before.lines().count() - 1, "{:?}", all.changes);
    }
}

/// Rules of `area` that find something, with whether it is rewritten.
fn of_area(area: &str, text: &str, inputs: &Inputs) -> Vec<(String, bool)> {
    let all = found(text, inputs).into_iter().filter(|f| f.rule.starts_with(area));
    all.map(|f| (f.rule, f.rewritten)).collect()
}

#[test]
fn who_comes_from_iam_is_known_by_the_config_map_and_by_access_entries() {
    let text = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: aws-auth, namespace: kube-system}
data:
  mapUsers: |
    - {userarn: "arn:aws:iam::123456789012:user/alice", username: alice, groups: [developers]}
  mapRoles: |
    - {rolearn: "arn:aws:iam::123456789012:role/nodes", username: "system:node:{{EC2PrivateDNSName}}", groups: ["system:nodes"]}
---
apiVersion: eks.aws/2017-11-01
kind: AccessEntry
metadata: {name: "arn:aws:iam::123456789012:role/audit"}
spec: {username: audit, kubernetesGroups: [auditors]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: all, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: view}
subjects:
  - {kind: User, name: alice}
  - {kind: Group, name: developers}
  - {kind: User, name: audit}
  - {kind: Group, name: auditors}
  - {kind: Group, name: "system:nodes"}
  - {kind: ServiceAccount, name: alice}
"#;
    let all = found(text, &Inputs::default()).into_iter().filter(|f| f.rule == "EKS-ID-012");
    let names: Vec<_> = all.filter_map(|f| f.found).collect();
    assert_eq!(names, ["alice", "developers", "audit", "auditors"]);
}

#[test]
fn a_claim_of_no_class_needs_a_volume_that_is_there() {
    let claim = |spec: &str| {
        format!("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: a}}\nspec: {{{spec}}}\n")
    };
    let volume = |spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: by-hand}}\nspec: {{{spec}}}\n"
        )
    };
    let storage = |text: String| of_area("EKS-STO", &text, &Inputs::default());
    let open = [("EKS-STO-029".to_owned(), false)];
    let bound = claim("storageClassName: \"\", volumeName: by-hand");
    // One that AWS's provisioner named, as from a backup: no other comes instead of it.
    let named = "storageClassName: \"\", volumeName: pvc-0f6f9bb0-6a3c-4f0e-9a43-5f1f1e0c7a11";
    assert_eq!(storage(claim(named)), open);
    assert_eq!(storage(bound.clone()), open);
    assert_eq!(storage(claim("storageClassName: \"\"")), open);
    let on_aws = volume("csi: {driver: efs.csi.aws.com, volumeHandle: fs-1}");
    assert_eq!(storage(bound.clone() + &on_aws)[..1], open);
    assert_eq!(storage(bound.clone() + &volume("storageClassName: slow, nfs: {server: a, path: /}")), open);
    assert_eq!(storage(bound + &volume("nfs: {server: a, path: /}")), []);
    assert_eq!(storage(claim("storageClassName: \"\"") + &volume("nfs: {server: a, path: /}")), []);
    // No class at all is the default one.
    assert_eq!(storage(claim("storageClassName: , volumeName: by-hand")), []);
}

#[test]
fn the_size_of_a_claim_on_efs_is_asked_for_however_large_it_is() {
    let claim = |size: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: a, namespace: shop}}\nspec: \
             {{storageClassName: efs-sc, resources: {{requests: {{storage: {size}}}}}}}\n"
        )
    };
    let inputs: Inputs =
        toml::from_str("storage-classes = { efs-sc = \"nfs\" }\nclaim-sizes = { \"shop/a\" = \"4Ti\" }")
            .unwrap();
    let sizes = |size: &str, inputs: &Inputs| of_area("EKS-STO-015", &claim(size), inputs);
    for size in ["5Gi", "100Gi", "8Ti", "odd"] {
        assert_eq!(sizes(size, &Inputs::default()), [("EKS-STO-015".to_owned(), false)], "{size}");
        assert_eq!(sizes(size, &inputs), [("EKS-STO-015".to_owned(), true)], "{size}");
    }
    assert_eq!(sizes("4Ti", &inputs), []);
    // Its class would hide that its size is not known.
    let unsized_claim = Inputs { claim_sizes: BTreeMap::new(), ..inputs };
    let text = claim("5Gi");
    assert_eq!(rewritten(&RuleSet::shipped(), &text, &unsized_claim).unwrap(), text);
    let needs: Vec<_> = found(&text, &unsized_claim).into_iter().flat_map(|f| f.needs).collect();
    assert_eq!(needs, ["rewrite.claim-sizes.\"shop/a\""; 2]);
}

#[test]
fn a_class_stays_one_of_efs_while_a_claim_of_it_lacks_its_size() {
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: shared}\nprovisioner: efs.csi.aws.com\n";
    let claim = "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a, namespace: shop}\nspec: \
                 {storageClassName: shared, resources: {requests: {storage: 5Gi}}}\n";
    let stateful = "---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: b, namespace: shop}\nspec: \
                    {volumeClaimTemplates: [{metadata: {name: d}, spec: {storageClassName: shared, resources: {requests: \
                    {storage: 5Gi}}}}]}\n";
    let (set, text) = (RuleSet::shipped(), [class, claim, stateful].concat());
    let sizes = |text: &str| toml::from_str::<Inputs>(&format!("claim-sizes = {{ {text} }}")).unwrap();
    for missing in [Inputs::default(), sizes("a = \"1Ti\""), sizes("\"shop/d-b\" = \"2Ti\"")] {
        let open = rewritten(&set, &text, &missing).unwrap();
        assert!(open.contains("provisioner: efs.csi.aws.com"), "{open}");
        let all = found(&open, &missing).into_iter();
        let needs: Vec<_> = all.filter(|f| f.rule == "EKS-STO-014").flat_map(|f| f.needs).collect();
        assert_eq!(needs.len(), 2 - missing.claim_sizes.len(), "{needs:?}");
        let done = rewritten(&set, &open, &sizes("a = \"1Ti\", \"shop/d-b\" = \"2Ti\"")).unwrap();
        assert!(done.contains("file.csi.azure.com") && !done.contains("5Gi"), "{done}");
        assert!(done.contains("1Ti") && done.contains("2Ti"), "{done}");
    }
    // Its claims are elsewhere, or there are none.
    assert!(rewritten(&set, class, &Inputs::default()).unwrap().contains("file.csi.azure.com"));
}

#[test]
fn a_node_pool_waits_while_its_class_stays() {
    let class = |spec: &str| {
        format!(
            "apiVersion: karpenter.k8s.aws/v1\nkind: EC2NodeClass\nmetadata: {{name: dense}}\nspec: {{{spec}}}\n"
        )
    };
    let pool = |class: &str| {
        format!(
            "---\napiVersion: karpenter.sh/v1\nkind: NodePool\nmetadata: {{name: general}}\nspec: {{template: {{spec: \
             {{nodeClassRef: {{group: karpenter.k8s.aws, kind: EC2NodeClass, name: {class}}}}}}}}}\n"
        )
    };
    let set = RuleSet::shipped();
    for spec in [
        "kubelet: {maxPods: 200}",
        "userData: x",
        "amiSelectorTerms: [{id: ami-1}]",
        "amiSelectorTerms: [{tags: {a: b}}]",
    ] {
        let text = class(spec) + &pool("dense");
        assert_eq!(rewritten(&set, &text, &Inputs::default()).unwrap(), text);
        let left = found(&text, &Inputs::default()).into_iter().find(|f| f.rule == "EKS-NOD-009").unwrap();
        assert!(!left.rewritten && left.message.contains("stays"), "{left:?}");
        let other = rewritten(&set, &(class(spec) + &pool("other")), &Inputs::default()).unwrap();
        assert!(other.contains("kind: AKSNodeClass") && other.contains("kind: EC2NodeClass"), "{other}");
    }
    let text = class("amiSelectorTerms: [{alias: al2023@latest}]") + &pool("dense");
    let done = rewritten(&set, &text, &Inputs::default()).unwrap();
    assert_eq!(done.matches("kind: AKSNodeClass").count(), 2, "{done}");
    assert!(!done.contains("EC2NodeClass"), "{done}");
}

#[test]
fn a_class_stays_one_of_ebs_while_a_setting_waits_for_its_input() {
    let class = |parameters: &str| {
        format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: gp3}}\nprovisioner: ebs.csi.aws.com\n\
             parameters: {{{parameters}}}\n"
        )
    };
    let inputs: Inputs =
        toml::from_str("provisioned-iops-sku = \"UltraSSD_LRS\"\ndisk-encryption-sets = { k = \"set\" }")
            .unwrap();
    for parameters in ["type: io2", "type: gp3, kmsKeyId: k", "kmskeyid: k"] {
        let text = class(parameters);
        let open = rewritten(&RuleSet::shipped(), &text, &Inputs::default()).unwrap();
        assert!(open.contains("provisioner: ebs.csi.aws.com"), "{open}");
        assert!(found(&open, &Inputs::default()).iter().any(|f| !f.needs.is_empty()), "{open}");
        let done = rewritten(&RuleSet::shipped(), &open, &inputs).unwrap();
        assert!(done.contains("provisioner: disk.csi.azure.com") && !done.contains("kms"), "{done}");
        // Its claims are those of a class that is there.
        let claim = "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a}\nspec: {storageClassName: gp3}\n";
        assert_eq!(found(&(done + claim), &inputs), []);
    }
}

#[test]
fn jobs_are_dropped_only_if_they_do_nothing_but_refresh_a_pull_secret() {
    let job = |containers: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: a}}\nspec:\n  template:\n    spec:\n      containers:\n{containers}"
        )
    };
    let container = |script: &str| format!("        - command: [sh, -c, \"{script}\"]\n");
    let images = |containers: String| of_area("EKS-IMG", &job(&containers), &Inputs::default());
    let (dropped, stays) = ([("EKS-IMG-006".to_owned(), true)], [("EKS-IMG-007".to_owned(), false)]);
    let refresh =
        "aws ecr get-login-password > t; kubectl create secret docker-registry ecr --docker-password=x";
    assert_eq!(images(container(refresh)), dropped);
    assert_eq!(
        images(
            "        - command: [aws, ecr, get-login-password]\n".to_owned()
                + &container("kubectl create secret docker-registry x")
        ),
        dropped
    );
    // It patches accounts, and says who it is.
    assert_eq!(
        images(container(&format!(
            "aws sts get-caller-identity; {refresh}; kubectl patch sa default -p imagePullSecrets"
        ))),
        dropped
    );
    for other in [
        "aws ecr get-login-password | docker login --password-stdin r && docker build .",
        "aws ecr get-login-password | helm registry login r && kubectl apply -f app.yaml",
        &format!("{refresh}; docker push r/a"),
        &format!("{refresh}; kubectl -n shop rollout restart deployment/web"),
        &format!("{refresh}; kubectl apply -f app.yaml"),
        &format!("{refresh}; aws s3 cp dump s3://backup"),
    ] {
        assert_eq!(images(container(other)), stays, "{other}");
    }
    for more in [
        "for ns in $(kubectl get ns -o name | cut -d/ -f2); do kubectl -n $ns get sa -o name > l; done",
        "if ! kubectl get secret ecr > /dev/null 2>&1; then sleep 5; fi; kubectl delete secret/ecr || true",
        "set -e; export AWS_PAGER=; aws configure list && /bin/echo `date` # now, or psql later",
        "(kubectl -n shop create secret docker-registry ecr --dry-run=client -o yaml | kubectl apply -n shop -f -)",
        "kubectl create secret generic b --from-file=.dockerconfigjson=c | kubectl replace --filename=-",
        "kubectl patch serviceaccount/default -p '{imagePullSecrets: [{name: ecr}]}'",
    ] {
        assert_eq!(images(container(&format!("{refresh}; {more}"))), dropped, "{more}");
    }
    for more in [
        "kubectl apply -n shop -f /manifests",
        "kubectl apply --server-side --filename /manifests",
        "kubectl apply -k /manifests",
        "cat /manifests/a.yaml | kubectl apply -f -",
        "kubectl create secret docker-registry ecr | kubectl apply -f - < /manifests/a.yaml",
        "kubectl create secret docker-registry ecr | kubectl apply -f - -f /manifests",
        "kubectl create job report --from=cronjob/x",
        "kubectl create secret generic db --from-literal=a=b",
        "kubectl create secret docker-registry hub --docker-server=docker.io",
        "kubectl delete secret db",
        "kubectl delete secret $(cat names)",
        "kubectl get all -A -o yaml > /backup/all",
        "kubectl patch deployment web -p x",
        "kubectl patch sa default -p x",
        "kubectl delete pods -l app=web",
        "aws ecr batch-delete-image",
        "aws --region us-east-1 s3 sync a s3://b",
        "psql -c x",
        "curl -X POST x",
        "./deploy.sh",
        "python3 sync.py",
        "echo $(psql -c x)",
        "A=`psql -c x`",
        "B=1 psql -c x",
        "if true; then psql -c x; fi",
        "(psql -c x)",
        "true && { psql -c x; }",
        "echo () { psql -c x; }",
        "echo 'a'\\\\'b; psql -c x",
        "$TOOL x",
        "sh /work.sh",
        "eval x",
        "echo x | sh",
        "echo <(psql)",
        "echo ${A:-$(psql)}",
        "kubectl apply -f - <<EOF\\n{}\\nEOF",
    ] {
        assert_eq!(images(container(&format!("{refresh}; {more}"))), stays, "{more}");
        assert_eq!(images(container(&format!("{more}; {refresh}"))), stays, "{more} before");
    }
    let hook = "          lifecycle: {postStart: {exec: {command: [psql]}}}\n";
    assert_eq!(images(container(refresh) + hook), stays, "a hook");
    assert_eq!(
        images(
            "        - {command: [sh, /refresh.sh, aws ecr get-login, kubectl docker-registry]}\n".to_owned()
        ),
        stays
    );
    assert_eq!(images(container(refresh) + &container("pg_dump > /backup/x")), stays, "another container");
    assert_eq!(images(container("kubectl create secret docker-registry x")), []);
}
