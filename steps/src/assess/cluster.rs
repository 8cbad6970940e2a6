//! `assess.cluster`: what the namespaces to migrate hold. Reads only; natural to repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ListParams};
use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Progress, StepContext, StepError, StepPlan,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::claims::{Claim, Storage};
use super::eks::{self, Eks};
use super::estate::Estate;
use super::report::Assessment;
use super::{subscription, target};
use crate::identity::Association;
use crate::inventory::{Served, each_object, missing_namespaces, served};
use crate::kubernetes::{connect, kube_error, reach};
use crate::manifests::needs::Needs;
use crate::manifests::sharing;
use crate::manifests::strip::is_finished;
use crate::manifests::tree::problem_of;
use crate::rules::code::ingress_elsewhere::Others;
use crate::rules::code::ingress_groups::Classes;
use crate::rules::document::Node;
use crate::rules::facts::Facts;
use crate::rules::object::objects;
use crate::rules::{Finding, Inputs, RuleSet, RuleSeverity, Target};
use crate::site::{AwsAccess, AzureAccess, ClusterRef, RegistryRef};
use crate::workload;

/// Kinds that say nothing about what must move: they come and go, or repeat an object's past.
const PASSING_KINDS: [&str; 4] = ["Event", "Lease", "ControllerRevision", "PodMetrics"];

/// Those that may share a load balancer with one that is looked at.
const OTHER_INGRESSES: &str = "networking.k8s.io/v1/Ingress (of other namespaces)";

/// How many of what came or went are named.
const DRIFT_NAMED: usize = 10;

/// What `eks` needs besides.
const NEEDS_AWS: &str = "give `aws = \"${env.source.aws}\"` too";

/// `assess.cluster`.
pub(crate) struct AssessCluster;

/// `with` of `assess.cluster`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// The cluster to look at.
    pub cluster: ClusterRef,
    /// The registry whose images are to be moved.
    pub registry: RegistryRef,
    /// The namespaces to look at.
    #[schemars(length(min = 1))]
    pub namespaces: Vec<String>,
    /// What the rules need to say how each finding is solved: `${env.rewrite}`.
    #[serde(default)]
    pub inputs: Inputs,
    /// Files with rules of your own; default: `rules` of migration.toml.
    #[serde(default)]
    #[schemars(extend("x-env" = "rules"))]
    pub rules: Vec<PathBuf>,
    /// The target, so that what it lacks is found too.
    #[serde(default)]
    pub target: Option<ClusterRef>,
    /// Name of the EKS cluster, so that what only the EKS API knows of it is found too: version and support,
    /// node groups, Fargate profiles, add-ons, Pod Identity associations, access entries, settings of the VPC
    /// CNI. Needs `aws`.
    #[serde(default)]
    pub eks: Option<String>,
    /// How AWS is reached, for `eks`.
    #[serde(default)]
    pub aws: Option<AwsAccess>,
    /// The Azure subscription, so that what the node groups become (`inputs.vm-sizes`) is held to its quotas of
    /// vCPUs where the target's nodes are, or else its resource group. Needs `eks`.
    #[serde(default)]
    pub azure: Option<AzureAccess>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// Image references that live in `registry`, sorted, each once.
    pub images: Vec<String>,
    /// All other image references, sorted, each once.
    pub external_images: Vec<String>,
    /// Storage classes that claims and claim templates use, the default class included.
    pub storage_classes: Vec<String>,
    /// Every claim.
    pub claims: Vec<Claim>,
    /// Objects by `apiVersion/Kind`.
    pub objects: BTreeMap<String, u64>,
    /// Kinds that these credentials may not list, and API groups that did not answer.
    pub unreadable: Vec<String>,
    /// The cluster's version: `v1.36.3`.
    pub version: String,
    /// What is AWS's own, the most severe first.
    pub findings: Vec<Finding>,
    /// Pod Identity associations, where `eks` is given: what `identity.map` takes.
    #[serde(default)]
    pub associations: Vec<Association>,
}

impl Config {
    fn rule_set(&self, ctx: &StepContext) -> Result<RuleSet, StepError> {
        let files: Vec<PathBuf> = self.rules.iter().map(|file| ctx.path(file)).collect();
        RuleSet::with_files(&files).map_err(|e| StepError::permanent(e.to_string()))
    }

    /// The EKS cluster to ask about, and how.
    fn eks(&self) -> Result<Option<(&str, &AwsAccess)>, StepError> {
        match (&self.eks, &self.aws) {
            (None, _) => Ok(None),
            (Some(name), Some(aws)) => Ok(Some((name, aws))),
            (Some(_), None) => {
                Err(StepError::permanent("`eks` is given, and not how AWS is reached").with_hint(NEEDS_AWS))
            }
        }
    }

    /// The subscription whose quotas are looked at.
    fn azure(&self) -> Result<Option<&AzureAccess>, StepError> {
        match (&self.azure, &self.eks) {
            (Some(_), None) => Err(StepError::permanent(
                "`azure` is given, and not the EKS cluster whose node groups need room",
            )
            .with_hint("give `eks = \"NAME\"` too")),
            (azure, _) => Ok(azure.as_ref()),
        }
    }

    async fn look_at_target(&self, ctx: &StepContext) -> Result<Option<Target>, StepError> {
        match &self.target {
            Some(cluster) => Ok(Some(target::target(ctx, cluster).await?)),
            None => Ok(None),
        }
    }
}

impl AssessCluster {
    pub(super) async fn gather(
        &self,
        ctx: &StepContext,
        config: &Config,
        rules: &RuleSet,
        client: &Client,
        target: Option<Target>,
    ) -> Result<(Outputs, Assessment), StepError> {
        let version = client
            .apiserver_version()
            .await
            .map_err(|e| kube_error(format!("cluster `{}` can't be reached", config.cluster.context), e))?;
        let (all, broken) = served(client).await?;
        let mut gathered = Gathered::new(target);
        for class in storage_classes(client).await? {
            gathered.class(class);
        }
        let mut unreadable: BTreeSet<String> = broken.into_iter().collect();
        if let Some(access) = config.azure()? {
            ctx.progress(Progress::message("quotas of the subscription"));
            match subscription::look(ctx, access, gathered.facts.target.as_deref()).await? {
                Ok(found) => gathered.facts.subscription = Some(Arc::new(found)),
                Err(said) => {
                    unreadable.insert(said);
                }
            }
        }
        if let Some((name, aws)) = config.eks()? {
            ctx.progress(Progress::message(format!("EKS cluster {name}")));
            let mut found = eks::look(ctx, aws, name).await?;
            found.objects.extend(eks::vpc_cni(client, &mut found.unreadable).await?);
            gathered.eks(found, &mut unreadable);
        }
        let (kinds, global): (Vec<&Served>, Vec<&Served>) = all.iter().partition(|k| k.namespaced);
        let kinds: Vec<&Served> = kinds.into_iter().filter(|k| k.listable && !is_passing(k)).collect();
        let total = (kinds.len() * config.namespaces.len()) as u64;
        let mut done = 0;
        for namespace in &config.namespaces {
            for kind in &kinds {
                let id = kind.id();
                ctx.progress(
                    Progress::message(format!("{namespace}: {}", kind.resource.kind)).items(done, total),
                );
                let listed = each_object(ctx, client, kind, namespace, |object| {
                    gathered.take(namespace, &id, &object);
                    Ok(())
                })
                .await?;
                if !listed {
                    unreadable.insert(id);
                }
                done += 1;
            }
        }
        let mut needs = std::mem::take(&mut gathered.needs);
        let unread = needs.read(ctx, client, &global, &config.namespaces, |_, object| {
            gathered.judge(&object);
            Ok(())
        });
        let unread = unread.await?;
        let is_class = |id: &String| id.ends_with("/IngressClass");
        gathered.facts.ingresses.known =
            if unread.iter().any(is_class) { Classes::Unread } else { Classes::Read };
        unreadable.extend(unread);
        let others = sharing::others(ctx, client, &all, &gathered.facts.ingresses).await?;
        if others == Others::Unread {
            unreadable.insert(OTHER_INGRESSES.to_owned());
        }
        gathered.facts.ingresses.others = others;
        ctx.progress(Progress::message("done").items(done, total));
        Ok(gathered.finish(config, rules, version.git_version, unreadable))
    }
}

fn is_passing(kind: &Served) -> bool {
    PASSING_KINDS.contains(&kind.resource.kind.as_str())
}

async fn storage_classes(client: &Client) -> Result<Vec<Value>, StepError> {
    let classes: Api<StorageClass> = Api::all(client.clone());
    let list = classes.list(&ListParams::default()).await;
    let list = list.map_err(|e| kube_error("failed to list storage classes", e))?;
    list.items
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()
        .map_err(|e| StepError::permanent("failed to read a storage class as JSON").with_source(e))
}

struct Gathered {
    images: BTreeSet<String>,
    objects: BTreeMap<String, u64>,
    storage: Storage,
    facts: Facts,
    estate: Estate,
    classes: BTreeMap<String, Node>,
    needs: Needs,
    /// What people made: what a controller made is described by its owner.
    made: Vec<Node>,
    /// What the EKS API says.
    cluster: Vec<Node>,
    associations: Vec<Association>,
}

impl Gathered {
    fn new(target: Option<Target>) -> Self {
        let target = target.map(Arc::new);
        Self {
            images: BTreeSet::new(),
            objects: BTreeMap::new(),
            storage: Storage::default(),
            facts: Facts { is_live: true, target, ..Facts::default() },
            estate: Estate::default(),
            classes: BTreeMap::new(),
            needs: Needs::default(),
            made: Vec::new(),
            cluster: Vec::new(),
            associations: Vec::new(),
        }
    }

    fn eks(&mut self, found: Eks, unreadable: &mut BTreeSet<String>) {
        for node in found.objects.iter().map(Node::of_value) {
            objects(&node).iter().for_each(|object| self.facts.take(object));
            self.cluster.push(node);
        }
        self.associations.extend(found.associations);
        unreadable.extend(found.unreadable);
    }

    fn class(&mut self, mut class: Value) {
        self.storage.class(&class);
        class["apiVersion"] = "storage.k8s.io/v1".into();
        class["kind"] = "StorageClass".into();
        let node = Node::of_value(&class);
        objects(&node).iter().for_each(|object| self.facts.take(object));
        self.classes
            .insert(workload::text(&class, &["metadata", "name"]).unwrap_or_default().to_owned(), node);
    }

    fn take(&mut self, namespace: &str, id: &str, object: &Value) {
        *self.objects.entry(id.to_owned()).or_default() += 1;
        self.storage.object(namespace, object);
        if runs(object) {
            self.images.extend(workload::images(object).into_iter().map(str::to_owned));
        }
        if workload::controller(object).is_some() {
            return;
        }
        self.needs.take(object);
        self.judge(object);
    }

    /// Also of what is in no namespace.
    fn judge(&mut self, object: &Value) {
        let node = Node::of_value(&judged(object));
        for object in objects(&node) {
            self.facts.take(&object);
            self.estate.take(&object);
        }
        self.made.push(node);
    }

    fn finish(
        self,
        config: &Config,
        rules: &RuleSet,
        version: String,
        unreadable: BTreeSet<String>,
    ) -> (Outputs, Assessment) {
        let (images, external_images) =
            self.images.into_iter().partition(|image| workload::lives_in(image, &config.registry.host));
        let (claims, used) = self.storage.finish();
        let classes = used.iter().filter_map(|(name, _)| self.classes.get(name));
        let findings = self.made.iter().chain(classes).chain(&self.cluster);
        let findings =
            findings.flat_map(|node| rules.findings(node, None, &self.facts, &config.inputs)).collect();
        let count = self.made.len() as u64;
        let assessment = Assessment::new(findings, &self.estate, rules, count, 0);
        let outputs = Outputs {
            images,
            external_images,
            storage_classes: used.into_iter().map(|(name, _)| name).collect(),
            claims,
            objects: self.objects,
            unreadable: unreadable.into_iter().collect(),
            version,
            findings: assessment.findings.clone(),
            associations: self.associations,
        };
        (outputs, assessment)
    }
}

/// The object without what no rule may see or needs: a Secret's data, and copies of the object itself.
fn judged(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        if fields.get("kind").and_then(Value::as_str) == Some("Secret") {
            fields.shift_remove("data");
            fields.shift_remove("stringData");
        }
        let annotations = fields.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    object
}

/// Whether another step of the workflow takes care of it, and says so itself.
fn is_moved(finding: &Finding) -> bool {
    finding.kind == "StorageClass"
        || matches!(finding.rule.as_str(), "EKS-IMG-001" | "EKS-IMG-003" | "EKS-STO-016")
}

/// Whether the object's images are (or will be) run: not those of finished pods and jobs, nor of
/// the old ReplicaSets that a Deployment keeps for rollbacks.
fn runs(object: &Value) -> bool {
    match workload::text(object, &["kind"]) {
        Some("Pod") => !matches!(workload::text(object, &["status", "phase"]), Some("Succeeded" | "Failed")),
        Some("ReplicaSet") => object.pointer("/spec/replicas").and_then(Value::as_i64) != Some(0),
        Some("Job") => !is_finished(object),
        _ => true,
    }
}

fn evidence(outputs: &Outputs) -> Evidence {
    let warnings = outputs.findings.iter().filter(|f| f.severity > RuleSeverity::Info && !is_moved(f));
    let note = "could not be read: what it holds is not in the inventory";
    let unreadable = outputs.unreadable.iter().map(|kind| Check::told(kind, "listed", note));
    warnings.map(Finding::to_check).chain(unreadable).collect()
}

/// What later steps were told, compared with what is there now.
fn drift(before: &Outputs, now: &Outputs) -> Vec<Check> {
    let claims = |outputs: &Outputs| -> Vec<String> {
        outputs.claims.iter().map(|c| format!("{}/{}", c.namespace, c.name)).collect()
    };
    vec![
        same("images", &before.images, &now.images),
        same("storage classes", &before.storage_classes, &now.storage_classes),
        same("claims", &claims(before), &claims(now)),
    ]
}

fn same(what: &str, before: &[String], now: &[String]) -> Check {
    let mut check = Check::equal("inventory", what, before.len().to_string(), now.len().to_string());
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|item| !those.contains(item)).take(DRIFT_NAMED).cloned().collect()
    };
    let (gone, new) = (only(before, now), only(now, before));
    if !gone.is_empty() || !new.is_empty() {
        check.status = CheckStatus::Failed;
        check = check.with_note(format!("gone: {}; new: {}", gone.join(", "), new.join(", ")));
    }
    check
}

#[async_trait]
impl TypedStep for AssessCluster {
    const NAME: &'static str = "assess.cluster";
    const SUMMARY: &'static str =
        "Lists images, claims, objects and what is AWS's own in a cluster's namespaces";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let namespaces: Option<Vec<String>> = config.field("namespaces")?;
        let mut plan = StepPlan::new("look at the cluster");
        if let Some(cluster) = config.field::<ClusterRef>("cluster")? {
            let what = namespaces.as_ref().map_or_else(|| "namespaces".to_owned(), |names| names.join(", "));
            plan.summary = format!("look at {what} in cluster `{}`", cluster.context);
            match reach(ctx, &cluster, "cluster").await {
                Ok((client, _)) => {
                    if let Some(names) = &namespaces {
                        plan.problems.extend(missing_namespaces(&client, names, "namespaces").await?);
                    }
                }
                Err(problem) => plan.problems.push(*problem),
            }
        }
        if let Some(config) = config.known() {
            match config.eks() {
                Ok(Some((name, aws))) => plan.problems.extend(eks::reach(ctx, aws, name).await),
                Ok(None) => {}
                Err(error) => plan.problems.push(problem_of(&error, "eks")),
            }
            match config.azure() {
                Ok(Some(access)) => plan.problems.extend(subscription::reach(ctx, access).await),
                Ok(None) => {}
                Err(error) => plan.problems.push(problem_of(&error, "azure")),
            }
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        let client = connect(ctx, &config.cluster).await?;
        let missing = missing_namespaces(&client, &config.namespaces, "namespaces").await?;
        if let Some(problem) = missing.into_iter().next() {
            return Err(problem.into());
        }
        let target = config.look_at_target(ctx).await?;
        let (outputs, _) = self.gather(ctx, config, &config.rule_set(ctx)?, &client, target).await?;
        ctx.info(format!(
            "{} images to move, {} others, {} claims, {} objects, {} findings",
            outputs.images.len(),
            outputs.external_images.len(),
            outputs.claims.len(),
            outputs.objects.values().sum::<u64>(),
            outputs.findings.len()
        ));
        Ok(outputs)
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let client = connect(ctx, &config.cluster).await?;
        let mut checks = Vec::new();
        if depth == VerifyDepth::Deep {
            let target = config.look_at_target(ctx).await?;
            let (now, _) = self.gather(ctx, config, &config.rule_set(ctx)?, &client, target).await?;
            checks = drift(outputs, &now);
        } else {
            let missing = missing_namespaces(&client, &config.namespaces, "namespaces").await?;
            let found = config.namespaces.len().saturating_sub(missing.len());
            checks.push(Check::equal(
                format!("cluster {}", config.cluster.context),
                "namespaces",
                config.namespaces.len().to_string(),
                found.to_string(),
            ));
        }
        checks.extend(evidence(outputs).checks);
        Ok(Evidence { checks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::stand_in::StandIn;
    use migrate_plugin_api::testing::RecordingHost;
    use serde_json::json;

    fn config() -> Config {
        serde_json::from_value(json!({
            "cluster": { "context": "eks" }, "registry": { "host": "old.io" }, "namespaces": ["shop"],
        }))
        .unwrap()
    }

    #[test]
    fn only_images_that_run_are_to_be_moved() {
        let mut gathered = Gathered::new(None);
        let pod = |kind: &str, image: &str, extra: Value| {
            let mut object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "a", "namespace": "shop" },
                "spec": { "containers": [{ "name": "a", "image": image }] } });
            object["status"] = extra["status"].clone();
            object["spec"]["replicas"] = extra["replicas"].clone();
            object
        };
        gathered.take("shop", "v1/Pod", &pod("Pod", "old.io/b", json!({})));
        gathered.take("shop", "v1/Pod", &pod("Pod", "old.io/a", json!({ "status": { "phase": "Running" } })));
        gathered.take(
            "shop",
            "v1/Pod",
            &pod("Pod", "old.io/done", json!({ "status": { "phase": "Succeeded" } })),
        );
        gathered.take(
            "shop",
            "apps/v1/ReplicaSet",
            &pod("ReplicaSet", "old.io/past", json!({ "replicas": 0 })),
        );
        gathered.take(
            "shop",
            "apps/v1/Deployment",
            &pod("Deployment", "docker.io/c", json!({ "replicas": 0 })),
        );
        gathered.take("shop", "apps/v1/Deployment", &pod("Deployment", "old.io/a", json!({})));
        let ended = json!({ "status": { "conditions": [{ "type": "Complete", "status": "True" }] } });
        gathered.take("shop", "batch/v1/Job", &pod("Job", "old.io/ended", ended));
        gathered.take("shop", "batch/v1/Job", &pod("Job", "old.io/begun", json!({})));
        let (outputs, _) = gathered.finish(&config(), &RuleSet::shipped(), "v1.36.3".into(), BTreeSet::new());
        assert_eq!(outputs.images, ["old.io/a", "old.io/b", "old.io/begun"]);
        assert_eq!(outputs.external_images, ["docker.io/c"]);
        assert_eq!(outputs.objects["v1/Pod"], 3);
        let json = serde_json::to_value(&outputs).unwrap();
        assert_eq!(serde_json::from_value::<Outputs>(json).unwrap(), outputs);
    }

    #[tokio::test]
    async fn a_store_for_all_namespaces_is_looked_at_where_one_of_them_needs_it() {
        let server = StandIn::start().await;
        let project = tempfile::tempdir().unwrap();
        server.kubeconfig(&project.path().join("kubeconfig"));
        server.with(|held| {
            let store = json!({ "aws": { "service": "SecretsManager", "region": "us-east-1" } });
            held.put(
                "clustersecretstores//aws",
                json!({ "metadata": { "name": "aws" }, "spec": { "provider": store } }),
            );
            held.put(
                "clustersecretstores//unused",
                json!({ "metadata": { "name": "unused" }, "spec": { "provider": store } }),
            );
            let spec = json!({ "secretStoreRef": { "kind": "ClusterSecretStore", "name": "aws" },
                "data": [{ "secretKey": "password", "remoteRef": { "key": "prod/shop_db" } }] });
            let metadata = json!({ "name": "db", "namespace": "shop" });
            held.put("externalsecrets/shop/db", json!({ "metadata": metadata, "spec": spec }));
        });
        let mut config = config();
        config.cluster =
            serde_json::from_value(json!({ "kubeconfig": "kubeconfig", "context": "aks" })).unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("assess", project.path());
        let outputs = AssessCluster.apply(&ctx, &config).await.unwrap();
        let found: Vec<(String, String)> =
            outputs.findings.iter().map(|found| (found.rule.clone(), found.object())).collect();
        let expected = |rule: &str, object: &str| (rule.to_owned(), object.to_owned());
        assert!(found.contains(&expected("EKS-SEC-002", "ClusterSecretStore aws")), "{found:?}");
        assert!(found.contains(&expected("EKS-SEC-003", "ExternalSecret shop/db")), "{found:?}");
        assert!(!found.iter().any(|(_, object)| object.ends_with("unused")), "{found:?}");
    }

    #[tokio::test]
    async fn an_ingress_is_judged_with_what_its_class_says() {
        let server = StandIn::start().await;
        let project = tempfile::tempdir().unwrap();
        server.kubeconfig(&project.path().join("kubeconfig"));
        let ingress = |held: &mut crate::manifests::stand_in::Held, name: &str, class: &str| {
            let spec = json!({ "ingressClassName": class,
                "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } } });
            let metadata = json!({ "name": name, "namespace": "shop" });
            held.put(&format!("ingresses/shop/{name}"), json!({ "metadata": metadata, "spec": spec }));
            let params =
                json!({ "apiGroup": "eks.amazonaws.com", "kind": "IngressClassParams", "name": class });
            let spec = json!({ "controller": "eks.amazonaws.com/alb", "parameters": params });
            held.put(
                &format!("ingressclasses//{class}"),
                json!({ "metadata": { "name": class }, "spec": spec }),
            );
            held.put(
                &format!("ingressclassparams//{class}"),
                json!({ "metadata": { "name": class }, "spec": { "scheme": "internet-facing" } }),
            );
        };
        server.with(|held| {
            ingress(held, "web", "alb");
            ingress(held, "staff", "office");
        });
        let mut config = config();
        config.cluster =
            serde_json::from_value(json!({ "kubeconfig": "kubeconfig", "context": "aks" })).unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("assess", project.path());
        let found = async || -> Vec<(String, String, String)> {
            let outputs = AssessCluster.apply(&ctx, &config).await.unwrap();
            let told = |f: &Finding| (f.rule.clone(), f.object(), f.message.clone());
            outputs.findings.iter().map(told).collect()
        };
        let is_told = |all: &[(String, String, String)], rule: &str, object: &str| {
            all.iter().any(|found| found.0 == rule && found.1 == object)
        };
        // They are public.
        let all = found().await;
        assert!(!all.iter().any(|found| found.0 == "EKS-NET-002"), "{all:#?}");
        for object in ["Ingress shop/web", "Ingress shop/staff"] {
            assert!(is_told(&all, "EKS-NET-001", object), "{all:#?}");
        }
        assert!(is_told(&all, "EKS-NET-013", "IngressClass office"), "{all:#?}");
        // What is not known is not told as if it were.
        server.with(|held| {
            held.hook = Some(Box::new(|request, _| request.contains("ingressclasses/").then_some(403)));
        });
        let all = found().await;
        assert!(!all.iter().any(|found| found.0 == "EKS-NET-002"), "{all:#?}");
        let web = all.iter().find(|found| found.0 == "EKS-NET-001" && found.1 == "Ingress shop/web");
        assert!(
            web.is_some_and(|found| found.2.contains("what its IngressClass `alb` says isn't known")),
            "{all:#?}"
        );
    }

    #[test]
    fn a_finding_is_one_warning_and_never_a_failure() {
        let mut gathered = Gathered::new(None);
        gathered.take("shop", "v1/ConfigMap", &json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "web", "namespace": "shop" }, "data": { "topic": "arn:aws:sns:us-east-1:1:a" } }));
        let (outputs, _) = gathered.finish(
            &config(),
            &RuleSet::shipped(),
            "v1.36.3".into(),
            BTreeSet::from(["metrics.k8s.io".into()]),
        );
        let evidence = evidence(&outputs);
        assert!(evidence.passed());
        assert_eq!(evidence.checks.len(), 2);
        assert_eq!(evidence.checks[0].subject, "ConfigMap shop/web");
        let mut later = outputs.clone();
        assert!(drift(&outputs, &later).iter().all(|c| c.status == CheckStatus::Passed));
        later.images.push("old.io/new".into());
        let images = &drift(&outputs, &later)[0];
        assert_eq!(images.status, CheckStatus::Failed);
        assert_eq!(images.note.as_deref(), Some("gone: ; new: old.io/new"));
    }
}
