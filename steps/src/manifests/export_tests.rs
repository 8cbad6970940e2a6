//! `manifest.export` against a stand-in of ours (`stand_in.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{CheckStatus, PlanConfig, StepError, TypedStep as _, VerifyDepth};
use serde_json::{Value, json};

use super::export::{Config, ManifestExport, Outputs};
use super::rewrite::ManifestRewrite;
use super::rewrite_files;
use super::stand_in::StandIn;
use crate::rules::RuleSet;

struct World {
    server: StandIn,
    host: Arc<RecordingHost>,
    config: Config,
    project: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let server = StandIn::start().await;
        let project = tempfile::tempdir().unwrap();
        server.kubeconfig(&project.path().join("kubeconfig"));
        let config = json!({ "cluster": { "kubeconfig": "kubeconfig", "context": "aks" }, "namespaces": ["shop"],
            "directory": "out" });
        let host = Arc::new(RecordingHost::default());
        Self { server, host, config: serde_json::from_value(config).unwrap(), project }
    }

    /// Puts objects of `shop` there, or of no namespace: `plural/name`.
    fn put(&self, at: &str, namespace: &str, rest: Value) {
        let (plural, name) = at.split_once('/').unwrap();
        let mut object = json!({ "metadata": { "name": name } });
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        self.server.with(|held| held.put(&format!("{plural}/{namespace}/{name}"), object));
    }

    async fn export(&self) -> Result<Outputs, StepError> {
        ManifestExport.apply(&self.host.context("export", self.project.path()), &self.config).await
    }

    fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        for folder in ["shop", "_cluster"] {
            let folder_path = self.project.path().join("out").join(folder);
            for entry in fs::read_dir(folder_path).unwrap() {
                files.insert(format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap()));
            }
        }
        files
    }
}

fn warned(outputs: &Outputs) -> Vec<String> {
    outputs.warnings.iter().map(|warned| format!("{}: {}", warned.object, warned.note)).collect()
}

#[tokio::test]
async fn addresses_that_people_wrote_go_along_and_data_of_the_source_does_not() {
    let world = World::new().await;
    world.put("services/web", "shop", json!({ "spec": { "selector": { "app": "web" } } }));
    world.put("services/db", "shop", json!({ "spec": { "ports": [{ "port": 5432 }] } }));
    for name in ["web", "db"] {
        let subsets = json!([{ "addresses": [{ "ip": "10.0.0.7" }], "ports": [{ "port": 5432 }] }]);
        world.put(&format!("endpoints/{name}"), "shop", json!({ "subsets": subsets }));
    }
    // As Patroni has them.
    world.put("services/pg", "shop", json!({ "spec": { "ports": [{ "port": 5432 }] } }));
    let pod = json!({ "ip": "10.0.0.8", "targetRef": { "kind": "Pod", "name": "pg-0" } });
    world.put(
        "endpoints/pg",
        "shop",
        json!({ "subsets": [{ "addresses": [pod], "ports": [{ "port": 5432 }] }] }),
    );
    let state = json!({ "name": "pg-config", "namespace": "shop", "annotations": { "initialize": "7" } });
    world.put("endpoints/pg-config", "shop", json!({ "metadata": state }));
    world.put("replicasets/alone", "shop", json!({ "spec": { "replicas": 1 } }));
    let source = json!({ "kind": "VolumeSnapshot", "name": "pre-upgrade" });
    let spec = json!({ "dataSource": source, "dataSourceRef": source, "storageClassName": "gp3" });
    world.put("persistentvolumeclaims/data", "shop", json!({ "spec": spec }));
    let of = json!({ "spec": { "source": { "persistentVolumeClaimName": "data" } } });
    world.put("volumesnapshots/pre-upgrade", "shop", of);

    let outputs = world.export().await.unwrap();
    let expected = [
        "_cluster/Namespace-shop.yaml",
        "shop/Endpoints-db.yaml",
        "shop/PersistentVolumeClaim-data.yaml",
        "shop/ReplicaSet-alone.yaml",
        "shop/Service-db.yaml",
        "shop/Service-pg.yaml",
        "shop/Service-web.yaml",
    ];
    assert_eq!(world.files(), expected.map(str::to_owned).into());
    let left: Vec<&str> = outputs.left_out.keys().map(String::as_str).collect();
    assert_eq!(
        left,
        [
            "snapshot.storage.k8s.io/v1/VolumeSnapshot: data of the source cluster: of a new volume it would be another \
             snapshot under its name",
            "v1/Endpoints: a controller keeps its state of the source cluster in it",
            "v1/Endpoints: its addresses are those of pods of the source cluster",
            "v1/Endpoints: the cluster makes it",
        ]
    );
    let claim =
        fs::read_to_string(world.project.path().join("out/shop/PersistentVolumeClaim-data.yaml")).unwrap();
    assert!(claim.contains("storageClassName: gp3") && !claim.contains("dataSource"), "{claim}");
    assert_eq!(
        warned(&outputs),
        [
            "Endpoints shop/pg: not exported: its addresses are those of pods of the source cluster",
            "Endpoints shop/pg-config: not exported: a controller keeps its state of the source cluster in it",
            "PersistentVolumeClaim shop/data: it was filled from VolumeSnapshot pre-upgrade once: exported without that, \
             for a new volume"
        ]
    );
}

#[tokio::test]
async fn what_is_at_work_stays_and_what_fires_on_both_clusters_is_told() {
    let world = World::new().await;
    world.put("jobs/once", "shop", json!({ "status": { "active": 1 } }));
    world.put("jobs/later", "shop", json!({ "spec": { "suspend": true } }));
    let template = json!({ "spec": { "template": { "spec": { "containers": [] } } } });
    let cron = |suspend: bool| json!({ "spec": { "schedule": "@daily", "suspend": suspend, "jobTemplate": template } });
    world.put("cronjobs/bills", "shop", cron(false));
    world.put("cronjobs/off", "shop", cron(true));
    let config = serde_json::to_value(&world.config).unwrap();
    let ctx = world.host.context("export", world.project.path());
    let plan = ManifestExport.plan(&ctx, &PlanConfig::new(&config).unwrap()).await.unwrap();
    let fires = "CronJob shop/bills: it fires on both clusters from when it is applied: suspend it on one (`spec.suspend`)";
    assert_eq!(plan.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [fires]);
    let outputs = world.export().await.unwrap();
    let expected = [
        "_cluster/Namespace-shop.yaml",
        "shop/CronJob-bills.yaml",
        "shop/CronJob-off.yaml",
        "shop/Job-later.yaml",
    ];
    assert_eq!(world.files(), expected.map(str::to_owned).into());
    let at_work =
        "Job shop/once: not exported: it is at work on the source cluster and would run a second time";
    let mut told = warned(&outputs);
    told.sort();
    assert_eq!(told, [fires, at_work]);
}

#[tokio::test]
async fn what_does_not_come_again_is_not_taken_for_unchanged() {
    let world = World::new().await;
    world.put("configmaps/web", "shop", json!({}));
    world.put("services/web", "shop", json!({}));
    let outputs = world.export().await.unwrap();
    let ctx = world.host.context("export", world.project.path());
    let seen = || async {
        let evidence = ManifestExport.verify(&ctx, &world.config, &outputs, VerifyDepth::Deep).await.unwrap();
        let failed: Vec<String> = evidence.failures().map(|check| check.target.clone()).collect();
        let warned = evidence.checks.iter().filter(|check| check.status == CheckStatus::Warning);
        (failed, warned.map(|check| check.subject.clone()).collect::<Vec<_>>())
    };
    assert_eq!(seen().await, (Vec::new(), Vec::new()));
    world.server.with(|held| {
        held.hook = Some(Box::new(|request, _| (request == "GET services/shop/").then_some(403)));
    });
    let lost = "shop/Service-web.yaml (gone, or not to be read)";
    assert_eq!(seen().await, (vec![lost.to_owned()], vec!["v1/Service".to_owned()]));
    world.server.with(|held| {
        held.hook = None;
        held.objects.remove("configmaps/shop/web");
    });
    let gone = "shop/ConfigMap-web.yaml (gone, or not to be read)";
    assert_eq!(seen().await, (vec![gone.to_owned()], Vec::new()));
}

#[tokio::test]
async fn what_is_in_no_namespace_and_needed_goes_along_or_is_told() {
    let world = World::new().await;
    let spec = json!({ "priorityClassName": "high", "containers": [{ "name": "a", "image": "a" }] });
    world.put("pods/web", "shop", json!({ "spec": spec }));
    let store = json!({ "kind": "ClusterSecretStore", "name": "aws" });
    world.put("externalsecrets/db", "shop", json!({ "spec": { "secretStoreRef": store } }));
    world.put("ingresses/web", "shop", json!({ "spec": { "ingressClassName": "alb" } }));
    world.put("ingresses/other", "shop", json!({ "spec": { "ingressClassName": "nginx" } }));
    let controller = |name: &str| json!({ "spec": { "controller": name } });
    world.put("ingressclasses/alb", "", controller("ingress.k8s.aws/alb"));
    world.put("ingressclasses/nginx", "", controller("k8s.io/ingress-nginx"));
    world.put("ingressclasses/unused", "", controller("eks.amazonaws.com/alb"));
    world.put("priorityclasses/high", "", json!({ "value": 1000 }));
    world.put("priorityclasses/unused", "", json!({ "value": 1 }));
    world.put("clustersecretstores/aws", "", json!({ "spec": { "provider": { "aws": {} } } }));
    let definition = "customresourcedefinitions/clustersecretstores.external-secrets.io";
    world.put(definition, "", json!({ "spec": { "group": "external-secrets.io" } }));
    for role in ["reader", "other", "cluster-admin"] {
        world.put(&format!("clusterroles/{role}"), "", json!({ "rules": [] }));
    }
    let binding = |name: &str, role: &str, namespaces: &[&str]| {
        let account =
            |namespace: &&str| json!({ "kind": "ServiceAccount", "name": "web", "namespace": namespace });
        let subjects: Vec<Value> = namespaces.iter().map(account).collect();
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
        world.put(
            &format!("clusterrolebindings/{name}"),
            "",
            json!({ "roleRef": role, "subjects": subjects }),
        );
    };
    binding("web", "reader", &["shop"]);
    binding("both", "other", &["shop", "bank"]);
    binding("bank", "other", &["bank"]);
    binding("system:web", "other", &["shop"]);
    binding("admin", "cluster-admin", &["shop"]);

    let outputs = world.export().await.unwrap();
    let expected = [
        "_cluster/ClusterRole-reader.yaml",
        "_cluster/ClusterRoleBinding-web.yaml",
        "_cluster/ClusterSecretStore-aws.yaml",
        "_cluster/CustomResourceDefinition-clustersecretstores.external-secrets.io.yaml",
        "_cluster/IngressClass-alb.yaml",
        "_cluster/Namespace-shop.yaml",
        "_cluster/PriorityClass-high.yaml",
        "shop/ExternalSecret-db.yaml",
        "shop/Ingress-other.yaml",
        "shop/Ingress-web.yaml",
        "shop/Pod-web.yaml",
    ];
    assert_eq!(world.files(), expected.map(str::to_owned).into());
    assert_eq!(
        warned(&outputs),
        [
            "ClusterRoleBinding admin: not exported, and needed by accounts of the namespaces: it gives all rights there \
             are: decide whether they have them on AKS",
            "ClusterRoleBinding both: not exported, and needed by accounts of the namespaces: it is about others too",
            "IngressClass nginx: not exported, and needed by Ingress shop/other: it comes with its controller",
        ]
    );
    let ctx = world.host.context("export", world.project.path());
    let evidence = ManifestExport.verify(&ctx, &world.config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    assert_eq!(evidence.checks.iter().filter(|check| check.what == "exported").count(), 3);
}

#[tokio::test]
async fn what_is_needed_and_may_not_be_read_is_told() {
    let world = World::new().await;
    world.put("pods/web", "shop", json!({ "spec": { "priorityClassName": "high" } }));
    world.server.with(|held| {
        held.hook = Some(Box::new(|request, _| {
            let is_refused = request.contains("clusterrolebindings/") || request.contains("priorityclasses/");
            is_refused.then_some(403)
        }));
    });
    let outputs = world.export().await.unwrap();
    let expected = ["rbac.authorization.k8s.io/v1/ClusterRoleBinding", "scheduling.k8s.io/v1/PriorityClass"];
    assert_eq!(outputs.unreadable, expected);
    // Left out by a person, it is not asked for.
    let mut config = world.config.clone();
    config.exclude_kinds = ["ClusterRoleBinding", "PriorityClass"].map(str::to_owned).to_vec();
    let ctx = world.host.context("export", world.project.path());
    let outputs = ManifestExport.apply(&ctx, &config).await.unwrap();
    assert_eq!((outputs.unreadable.len(), outputs.warnings.len()), (0, 0));
}

/// What becomes of a folder that was exported, with a Gateway for each Ingress that may have one, and the findings.
async fn rewritten(world: &World) -> (String, Vec<(String, String)>) {
    rewritten_from(world, "out", "new").await
}

fn inputs() -> Value {
    json!({ "ingress": "gateway", "application-load-balancer": "alb-infra/alb" })
}

async fn rewritten_from(world: &World, from: &str, to: &str) -> (String, Vec<(String, String)>) {
    let config = json!({ "from": from, "to": to, "inputs": inputs() });
    let ctx = world.host.context("rewrite", world.project.path());
    let outputs = ManifestRewrite.apply(&ctx, &serde_json::from_value(config).unwrap()).await.unwrap();
    let mut all = String::new();
    for folder in ["", "shop", "_cluster"] {
        for entry in fs::read_dir(world.project.path().join(to).join(folder)).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_file() {
                all.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    (all, outputs.findings.into_iter().map(|found| (found.rule, found.message)).collect())
}

#[tokio::test]
async fn an_exported_ingress_is_as_public_as_its_class_lets_it_be() {
    let public = json!({ "alb.ingress.kubernetes.io/scheme": "internet-facing" });
    let class = |name: &str, annotations: Value, group: Option<&str>| {
        let mut class = json!({ "metadata": { "name": name, "annotations": annotations },
            "spec": { "controller": "eks.amazonaws.com/alb" } });
        if let Some(group) = group {
            class["spec"]["parameters"] =
                json!({ "apiGroup": group, "kind": "IngressClassParams", "name": "p" });
        }
        class
    };
    let default = json!({ "ingressclass.kubernetes.io/is-default-class": "true" });
    let service = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let closed = json!({ "scheme": "internet-facing", "inboundCIDRs": ["192.0.2.0/24"] });
    let open = json!({ "scheme": "internet-facing" });
    let none = json!({});
    // Whether the Ingress names a class, the class, what its parameters say, whether a Gateway is made.
    let cases = [
        (Some("alb"), class("alb", none.clone(), Some("elbv2.k8s.aws")), Some(&closed), false),
        (Some("alb"), class("alb", none.clone(), Some("eks.amazonaws.com")), Some(&open), true),
        (Some("alb"), class("alb", none.clone(), Some("eks.amazonaws.com")), None, false),
        (Some("alb"), class("alb", none.clone(), None), None, true),
        (Some("alb"), class("other", none.clone(), None), None, false),
        (None, class("office", default.clone(), Some("elbv2.k8s.aws")), Some(&closed), false),
        (None, class("office", default.clone(), Some("elbv2.k8s.aws")), Some(&open), true),
    ];
    for (at, (named, class, params, is_open)) in cases.into_iter().enumerate() {
        let world = World::new().await;
        let mut spec = json!({ "defaultBackend": service });
        if let Some(name) = named {
            spec["ingressClassName"] = name.into();
        }
        let metadata = json!({ "name": "web", "namespace": "shop", "annotations": public });
        world.put("ingresses/web", "shop", json!({ "metadata": metadata, "spec": spec }));
        world.put(
            "services/web",
            "shop",
            json!({ "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } }),
        );
        let name = class["metadata"]["name"].as_str().unwrap().to_owned();
        world.put(&format!("ingressclasses/{name}"), "", class);
        if let Some(params) = params {
            world.put("ingressclassparams/p", "", json!({ "spec": params }));
        }
        world.export().await.unwrap();
        let (text, findings) = rewritten(&world).await;
        assert_eq!(text.contains("kind: Gateway\n"), is_open, "{at}: {text}\n{findings:#?}");
        assert_eq!(text.contains("kind: Ingress\n"), !is_open, "{at}: {text}");
        assert!(!text.contains("CustomResourceDefinition"), "{at}: {text}");

        // Of a part of the folder nobody knows what the class says, which is in another.
        let (text, findings) = rewritten_from(&world, "out/shop", "part").await;
        assert!(text.contains("kind: Ingress\n") && !text.contains("kind: Gateway\n"), "{at}: {text}");
        let said = findings.iter().find(|(rule, _)| rule == "EKS-NET-001").unwrap();
        assert!(said.1.contains("isn't known; give it too"), "{at}: {said:?}");
        let (rules, inputs) = (RuleSet::shipped(), serde_json::from_value(inputs()).unwrap());
        for part in ["out/shop", "out/shop/Ingress-web.yaml"] {
            let files = rewrite_files(&world.project.path().join(part), &rules, &inputs).unwrap().files;
            assert!(!files.iter().any(|file| file.after.contains("kind: Gateway\n")), "{at}: {part}");
        }
    }
}

#[tokio::test]
async fn an_exported_ingress_whose_class_could_not_be_read_stays() {
    let annotations = json!({ "alb.ingress.kubernetes.io/scheme": "internet-facing" });
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    for spec in [
        json!({ "ingressClassName": "alb", "defaultBackend": backend }),
        json!({ "defaultBackend": backend }),
    ] {
        let mut world = World::new().await;
        let metadata = json!({ "name": "web", "namespace": "shop", "annotations": annotations });
        world.put("ingresses/web", "shop", json!({ "metadata": metadata, "spec": spec }));
        world.put("ingressclasses/alb", "", json!({ "spec": { "controller": "ingress.k8s.aws/alb" } }));
        world.server.with(|held| {
            held.hook = Some(Box::new(|request, _| request.contains("ingressclasses/").then_some(403)));
        });
        let outputs = world.export().await.unwrap();
        assert_eq!(outputs.unreadable, ["networking.k8s.io/v1/IngressClass"]);
        let (text, findings) = rewritten(&world).await;
        assert!(text.contains("kind: Ingress\n") && !text.contains("kind: Gateway\n"), "{text}");
        let said = findings.iter().find(|(rule, _)| rule == "EKS-NET-001").map(|(_, found)| found.as_str());
        assert!(said.is_some_and(|said| said.contains("isn't known; give it too")), "{findings:#?}");
        // Nor is it any better known of what was written.
        let (text, _) = rewritten_from(&world, "new", "again").await;
        assert!(text.contains("kind: Ingress\n") && !text.contains("kind: Gateway\n"), "{text}");
        // Left out by a person, it is as little known.
        world.config.exclude_kinds = vec!["IngressClass".to_owned()];
        assert_eq!(world.export().await.unwrap().unreadable, [] as [&str; 0]);
        assert!(!rewritten(&world).await.0.contains("kind: Gateway\n"));
    }
}

/// Puts an Ingress there that is public in the group `public`, or another, and says more.
fn put_member(world: &World, (namespace, name, class): (&str, &str, &str), more: Value) {
    let mut annotations = json!({ "alb.ingress.kubernetes.io/scheme": "internet-facing",
        "alb.ingress.kubernetes.io/group.name": "public" });
    for (setting, value) in more.as_object().unwrap() {
        annotations[format!("alb.ingress.kubernetes.io/{setting}")] = value.clone();
    }
    let backend = json!({ "service": { "name": name, "port": { "number": 80 } } });
    let metadata = json!({ "name": name, "namespace": namespace, "annotations": annotations });
    let spec = json!({ "ingressClassName": class, "defaultBackend": backend });
    world.put(&format!("ingresses/{name}"), namespace, json!({ "metadata": metadata, "spec": spec }));
}

#[tokio::test]
async fn an_exported_ingress_is_as_open_as_those_elsewhere_with_its_load_balancer_let_it_be() {
    let guarded = json!({ "group": { "name": "public" }, "inboundCIDRs": ["192.0.2.0/24"] });
    let none = json!({});
    // What the other one says, what its class says, and why the exported one stays.
    let cases = [
        (none.clone(), &none, None),
        (json!({ "wafv2-acl-arn": "arn" }), &none, Some("`wafv2-acl-arn` of Ingress platform/base")),
        (json!({ "scheme": "internal" }), &none, Some("inside the network")),
        (json!({ "group.name": "x", "security-groups": "sg-1" }), &none, None),
        (json!({ "group.name": "x" }), &guarded, Some("`inbound-cidrs` of Ingress platform/base")),
    ];
    for (at, (says, params, kept)) in cases.into_iter().enumerate() {
        let world = World::new().await;
        put_member(&world, ("shop", "web", "alb"), json!({}));
        put_member(&world, ("platform", "base", "office"), says);
        world.put("ingressclasses/alb", "", json!({ "spec": { "controller": "ingress.k8s.aws/alb" } }));
        let of = json!({ "apiGroup": "elbv2.k8s.aws", "kind": "IngressClassParams", "name": "office" });
        let class = json!({ "controller": "ingress.k8s.aws/alb", "parameters": of });
        world.put("ingressclasses/office", "", json!({ "spec": class }));
        world.put("ingressclassparams/office", "", json!({ "spec": params }));
        world.export().await.unwrap();
        let expected =
            ["_cluster/IngressClass-alb.yaml", "_cluster/Namespace-shop.yaml", "shop/Ingress-web.yaml"];
        assert_eq!(world.files(), expected.map(str::to_owned).into(), "{at}");
        let stays = |text: &str| text.contains("kind: Ingress\n") && !text.contains("kind: Gateway\n");
        let (text, findings) = rewritten(&world).await;
        assert_eq!(stays(&text), kept.is_some(), "{at}: {text}\n{findings:#?}");
        let said = |findings: &[(String, String)], words: &str| {
            findings.iter().any(|(rule, said)| rule == "EKS-NET-001" && said.contains(words))
        };
        assert!(kept.is_none_or(|words| said(&findings, words)), "{at}: {findings:#?}");
        let (text, _) = rewritten_from(&world, "new", "again").await;
        assert_eq!(stays(&text), kept.is_some(), "{at}: {text}");
        // Of a part of the folder nobody knows which others there are.
        let (text, _) = rewritten_from(&world, "out/shop", "part").await;
        assert!(stays(&text), "{at}: {text}");
    }
}

#[tokio::test]
async fn an_exported_ingress_stays_where_those_elsewhere_could_not_be_read() {
    let world = World::new().await;
    put_member(&world, ("shop", "web", "alb"), json!({}));
    world.put("ingressclasses/alb", "", json!({ "spec": { "controller": "ingress.k8s.aws/alb" } }));
    world.server.with(|held| {
        held.hook = Some(Box::new(|request, _| (request == "GET ingresses//").then_some(403)));
    });
    let outputs = world.export().await.unwrap();
    // The folder lacks nothing that belongs into it.
    assert_eq!(outputs.unreadable, [] as [&str; 0]);
    assert!(warned(&outputs).concat().contains("`group.name`"), "{:?}", outputs.warnings);
    for (from, to) in [("out", "new"), ("new", "again")] {
        let (text, findings) = rewritten_from(&world, from, to).await;
        assert!(text.contains("kind: Ingress\n") && !text.contains("kind: Gateway\n"), "{text}");
        let said = findings.iter().find(|(rule, _)| rule == "EKS-NET-001").map(|(_, said)| said.as_str());
        // The class goes with what is written first.
        let unknown = if from == "out" { "`group.name: public`" } else { "its IngressClass `alb`" };
        assert!(said.is_some_and(|said| said.contains(unknown)), "{findings:#?}");
        assert!(!findings.iter().any(|(rule, _)| rule == "EKS-NET-002"), "{findings:#?}");
    }
    // One that shares nothing needs no others.
    world.server.with(|held| {
        let web = held.objects.get_mut("ingresses/shop/web").unwrap();
        let annotations = web["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove("alb.ingress.kubernetes.io/group.name").unwrap();
    });
    assert_eq!(warned(&world.export().await.unwrap()), [] as [&str; 0]);
    assert!(rewritten(&world).await.0.contains("kind: Gateway\n"));
}

#[tokio::test]
async fn an_ingress_stays_where_its_group_was_never_asked_for() {
    let class = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "office" },
        "spec": { "controller": "ingress.k8s.aws/alb", "parameters":
            { "apiGroup": "elbv2.k8s.aws", "kind": "IngressClassParams", "name": "edge" } } });
    let params = json!({ "apiVersion": "elbv2.k8s.aws/v1beta1", "kind": "IngressClassParams",
        "metadata": { "name": "edge" }, "spec": { "group": { "name": "edge" } } });
    // What is left out, whether the parameters may not be read, and whether people wrote the Ingress beside the export.
    let cases = [
        (Some("IngressClass"), false, false),
        (Some("IngressClassParams"), false, false),
        (None, true, false),
        (None, false, true),
    ];
    for (at, (excluded, is_refused, is_beside)) in cases.into_iter().enumerate() {
        let mut world = World::new().await;
        put_member(&world, ("shop", "web", "office"), json!({}));
        put_member(
            &world,
            ("platform", "base", "alb"),
            json!({ "group.name": "edge", "wafv2-acl-arn": "arn" }),
        );
        world.put("ingressclasses/office", "", json!({ "spec": class["spec"] }));
        world.put("ingressclasses/alb", "", json!({ "spec": { "controller": "ingress.k8s.aws/alb" } }));
        world.put("ingressclassparams/edge", "", json!({ "spec": params["spec"] }));
        let own = world.server.with(|held| {
            held.hook = Some(Box::new(move |request, _| {
                (is_refused && request.contains("ingressclassparams/")).then_some(403)
            }));
            let mut own = held.objects["ingresses/shop/web"].clone();
            (own["apiVersion"], own["kind"]) = ("networking.k8s.io/v1".into(), "Ingress".into());
            if is_beside {
                held.objects.remove("ingresses/shop/web");
            }
            own
        });
        world.config.exclude_kinds = excluded.into_iter().map(str::to_owned).collect();
        world.export().await.unwrap();
        let beside = [("class", &class), ("params", &params), ("web", &own)];
        for (name, object) in &beside[..if is_beside { 3 } else { 2 }] {
            fs::write(world.project.path().join(format!("out/{name}.yaml")), object.to_string()).unwrap();
        }
        let (text, findings) = rewritten(&world).await;
        assert!(!text.contains("kind: Gateway\n"), "{at}: {text}");
        let said = findings.iter().find(|(rule, _)| rule == "EKS-NET-001").map(|(_, said)| said.as_str());
        assert!(said.is_some_and(|said| said.contains("`group.name: edge`")), "{at}: {findings:#?}");
    }
}

/// An export of nothing would replace the folder, and what is applied from it with `prune` would delete everything.
#[tokio::test]
async fn a_list_that_names_no_namespace_is_refused_and_replaces_nothing() {
    let mut world = World::new().await;
    world.put("configmaps/a", "shop", json!({}));
    world.export().await.unwrap();
    let files = world.files();
    world.config.namespaces.clear();
    let ctx = world.host.context("export", world.project.path());
    let config = json!({ "cluster": world.config.cluster, "namespaces": [], "directory": "out" });
    let plan = ManifestExport.plan(&ctx, &PlanConfig::new(&config).unwrap()).await.unwrap();
    assert_eq!(
        plan.problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>(),
        ["no namespace is named"]
    );
    assert_eq!(world.export().await.unwrap_err().message, "no namespace is named");
    assert_eq!(world.files(), files);
    let unknown = json!({ "cluster": world.config.cluster, "namespaces": migrate_plugin_api::unknown("nodes.a.b"),
        "directory": "out" });
    assert!(
        ManifestExport.plan(&ctx, &PlanConfig::new(&unknown).unwrap()).await.unwrap().problems.is_empty()
    );
}

/// As docs/migration-toml.md says: whoever may do this and no more can export.
#[tokio::test]
async fn the_rights_of_the_table_suffice() {
    let table = include_str!("../../../docs/migration-toml.md");
    let rights = table.lines().find(|line| line.starts_with("| `manifest.export` |")).unwrap();
    let world = World::new().await;
    world.put("pods/web", "shop", json!({ "spec": { "priorityClassName": "high" } }));
    world.put("priorityclasses/high", "", json!({ "value": 1 }));
    put_member(&world, ("shop", "web", "alb"), json!({}));
    put_member(&world, ("bank", "web", "alb"), json!({}));
    let params = json!({ "apiGroup": "elbv2.k8s.aws", "kind": "IngressClassParams", "name": "p" });
    let class = json!({ "controller": "ingress.k8s.aws/alb", "parameters": params });
    world.put("ingressclasses/alb", "", json!({ "spec": class }));
    world.put("ingressclassparams/p", "", json!({ "spec": {} }));
    let role = json!({ "kind": "ClusterRole", "name": "reader" });
    let account = json!({ "kind": "ServiceAccount", "name": "web", "namespace": "shop" });
    world.put("clusterrolebindings/web", "", json!({ "roleRef": role, "subjects": [account] }));
    world.put("clusterroles/reader", "", json!({ "rules": [] }));
    let store = json!({ "kind": "ClusterSecretStore", "name": "aws" });
    world.put("externalsecrets/db", "shop", json!({ "spec": { "secretStoreRef": store } }));
    world.put("clustersecretstores/aws", "", json!({ "spec": { "provider": { "aws": {} } } }));
    world.put("customresourcedefinitions/clustersecretstores.external-secrets.io", "", json!({ "spec": {} }));
    let (_, rights) = rights.split_once("source: ").unwrap();
    // `list and get Namespaces`: the kinds of each verb, without the last clause, of what is in the namespaces.
    let mut may = BTreeSet::new();
    for clause in rights.split("; ").filter(|clause| !clause.contains("every kind")) {
        let words: Vec<&str> =
            clause.split([' ', ',']).filter(|word| !word.is_empty() && *word != "and").collect();
        let verbs: Vec<&str> = words.iter().copied().filter(|word| ["list", "get"].contains(word)).collect();
        for kind in words.iter().filter(|word| word.starts_with(char::is_uppercase)) {
            may.extend(verbs.iter().map(|verb| format!("{verb} {}", kind.to_lowercase())));
        }
    }
    world.server.with(|held| {
        held.hook = Some(Box::new(move |request, _| {
            let (method, at) = request.split_once(' ').unwrap();
            let mut parts = at.splitn(3, '/');
            let (plural, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
            let verb = if name.is_empty() { "list" } else { "get" };
            let is_allowed = match namespace {
                "" => may.contains(&format!("{verb} {plural}")),
                _ => verb == "list",
            };
            (method != "GET" || !is_allowed).then_some(403)
        }));
    });
    let outputs = world.export().await.unwrap();
    assert_eq!(outputs.unreadable, [] as [&str; 0]);
    assert!(!warned(&outputs).concat().contains("could not be read"), "{outputs:?}");
    assert_eq!(outputs.files, 11, "{outputs:?}");
}
