//! `identity.map`: the managed identities and federated credentials that IAM roles of service accounts
//! become, as a folder of az commands, Bicep and Terraform, and in Azure itself with `apply`. Natural to
//! repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use migrate_plugin_api::{
    Check, CheckStatus, Evidence, Idempotency, PlanConfig, Problem, StepContext, StepError, StepPlan,
    TypedObservation, TypedStep, VerifyDepth, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::iam::Account;
use super::live;
use super::make::{Assignment, Azure, Limits, Made, Site};
use super::plan::{Association, Held, Identity, plan};
use super::render::{self, Place};
use crate::manifests::source;
use crate::manifests::tree::{self, Draft};
use crate::site::{AwsAccess, AzureAccess};

/// The longest file of an account's policies that is read: an account has at most some thousand roles.
const POLICIES_BYTES: u64 = 256 * 1024 * 1024;

/// `identity.map`.
#[derive(Default)]
pub(crate) struct IdentityMap {
    pub(super) limits: Limits,
}

/// `with` of `identity.map`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder of manifests, with the service accounts and their roles, as on EKS.
    pub from: PathBuf,
    /// Folder to write; replaced as a whole, where it was written by `migrate`.
    pub to: PathBuf,
    /// The issuer of the target's tokens: `az aks show --query oidcIssuerProfile.issuerUrl`.
    pub issuer: String,
    /// Where the identities are made.
    pub resource_group: String,
    /// In which region.
    pub location: String,
    /// What their names begin with.
    #[serde(default)]
    pub prefix: String,
    /// Pod Identity associations, which no manifest has: `aws eks list-pod-identity-associations`.
    #[serde(default)]
    pub associations: Vec<Association>,
    /// A file that `aws iam get-account-authorization-details` has printed: then roles of Azure are proposed.
    #[serde(default)]
    pub policies: Option<PathBuf>,
    /// How AWS is reached: then the roles' policies are read from IAM, instead of `policies`.
    #[serde(default)]
    pub aws: Option<AwsAccess>,
    /// Whether they are made in Azure too, through Resource Manager. Needs `azure`.
    #[serde(default)]
    pub apply: bool,
    /// How Azure is reached, for `apply`; `resource-group` above says where in its subscription.
    #[serde(default)]
    pub azure: Option<AzureAccess>,
    /// Roles that identities get, for `apply`: which and on what is yours to choose.
    #[serde(default)]
    pub assignments: Vec<Assignment>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outputs {
    /// The folder, as in `to`: `identities.sh`, `identities.bicep`, `identities.tf`.
    pub directory: PathBuf,
    /// Every identity, with who may be it and what is proposed for it.
    pub identities: Vec<Identity>,
    /// Digest over names and contents of all written files.
    pub digest: String,
    /// What is in Azure, with `apply`.
    #[serde(default)]
    pub made: Vec<Made>,
    /// Client IDs by `NAMESPACE/SERVICEACCOUNT`, with `apply`: what `[rewrite.identities]` takes.
    #[serde(default)]
    pub client_ids: BTreeMap<String, String>,
}

impl Config {
    fn problem(&self) -> Option<Problem> {
        if !self.issuer.starts_with("https://") || self.issuer.chars().any(char::is_whitespace) {
            let problem = Problem::error("the issuer is no https address").in_field("issuer");
            return Some(problem.with_hint("az aks show --query oidcIssuerProfile.issuerUrl"));
        }
        for (field, text) in [("resource-group", &self.resource_group), ("location", &self.location)] {
            if text.trim().is_empty() {
                return Some(Problem::error(format!("`{field}` is empty")).in_field(field));
            }
        }
        if self.apply && self.azure.is_none() {
            let problem = Problem::error("`apply` is given, and not how Azure is reached").in_field("azure");
            return Some(problem.with_hint("give `azure = \"${env.target.azure}\"` too"));
        }
        if self.aws.is_some() && self.policies.is_some() {
            let problem = Problem::error("policies come from a file or from IAM, not from both");
            return Some(problem.in_field("policies").with_hint("leave out `policies` or `aws`"));
        }
        let assignment = self.assignments.iter().find_map(|assignment| {
            let Assignment { role, scope, .. } = assignment;
            if role.starts_with("Cosmos DB ") {
                return Some((
                    format!("`{role}` is a role of Cosmos DB itself"),
                    "az cosmosdb sql role assignment create",
                ));
            }
            let is_id = scope.starts_with("/subscriptions/")
                && !scope.contains(['?', '#', '%'])
                && !scope.contains("..");
            (!is_id).then(|| {
                (
                    format!("`{scope}` is no ID of a resource"),
                    "/subscriptions/…, as `az … show --query id` prints it",
                )
            })
        });
        assignment.map(|(message, hint)| Problem::error(message).in_field("assignments").with_hint(hint))
    }

    /// Everything in Azure that there is to reach, where it is to be made.
    async fn azure(&self, ctx: &StepContext, limits: Limits) -> Result<Option<Azure>, StepError> {
        let Some(access) = self.azure.as_ref().filter(|_| self.apply) else { return Ok(None) };
        let site = Site {
            access,
            resource_group: &self.resource_group,
            location: &self.location,
            issuer: &self.issuer,
        };
        Azure::new(ctx, &site, limits).await.map(Some)
    }

    /// Who has which role, without what the roles may do.
    fn wanted(&self, ctx: &StepContext) -> Result<Wanted, StepError> {
        let facts = source::open(&ctx.path(&self.from))?.facts;
        let mut all: BTreeSet<Association> = self.associations.iter().cloned().collect();
        let mut told = Vec::new();
        for (namespace, name, role) in facts.roles.iter() {
            let is_it = |a: &&Association| a.namespace == namespace && a.service_account == name;
            match self.associations.iter().find(is_it) {
                // On EKS it takes precedence over the annotation: `buildPodPatchConfig` in
                // <https://github.com/aws/amazon-eks-pod-identity-webhook/blob/master/pkg/handler/handler.go>.
                Some(association) if association.role_arn != *role => told.push(format!(
                    "service account {namespace}/{name} is annotated with {role}, and gets {} by its Pod Identity \
                     association, as on EKS",
                    association.role_arn
                )),
                Some(_) => {}
                None => {
                    all.insert(Association {
                        namespace: namespace.to_owned(),
                        service_account: name.to_owned(),
                        role_arn: role.clone(),
                    });
                }
            }
        }
        Ok(Wanted { associations: all, told, account: None })
    }

    /// With what the roles may do.
    async fn informed(&self, ctx: &StepContext) -> Result<Wanted, StepError> {
        let mut wanted = self.wanted(ctx)?;
        // What is wrong with the plan is told before anybody is asked.
        wanted.identities(&self.prefix, &Held::new())?;
        wanted.account = match (&self.policies, &self.aws) {
            (Some(file), _) => Some(read_account(&ctx.path(file))?),
            (None, Some(aws)) => {
                let roles = wanted.associations.iter().map(|a| a.role_arn.as_str()).collect();
                Some(live::account(ctx, aws, &roles).await?)
            }
            (None, None) => None,
        };
        Ok(wanted)
    }

    /// Assignments to roles that no identity stands for: nobody would get them.
    fn strays(&self, identities: &[Identity]) -> Vec<Problem> {
        let roles: BTreeSet<&str> = identities.iter().map(|identity| identity.role_arn.as_str()).collect();
        let strays: BTreeSet<&str> = self.assignments.iter().map(|a| a.role_arn.as_str()).collect();
        let problem = |stray: &&str| {
            let similarity = |role: &str| strsim::jaro_winkler(role, stray);
            let near = roles.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            let problem = Problem::error(format!("no service account has the role {stray}"));
            let problem = problem.in_field("assignments");
            match near {
                Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
                None => problem,
            }
        };
        strays.difference(&roles).map(problem).collect()
    }
}

/// What is to be planned.
struct Wanted {
    associations: BTreeSet<Association>,
    /// What a person should know of them.
    told: Vec<String>,
    /// What the roles may do, where that is known.
    account: Option<Account>,
}

impl Wanted {
    fn identities(&self, prefix: &str, held: &Held) -> Result<Vec<Identity>, StepError> {
        plan(&self.associations, prefix, self.account.as_ref(), held)
            .map_err(|wrong| StepError::permanent(wrong.join("; ")))
    }

    /// Also as Azure has them already, where it is asked.
    async fn settled(&self, prefix: &str, azure: Option<&Azure>) -> Result<Vec<Identity>, StepError> {
        let identities = self.identities(prefix, &Held::new())?;
        match azure {
            Some(azure) => self.identities(prefix, &azure.held(&identities, prefix).await?),
            None => Ok(identities),
        }
    }
}

/// Client IDs by service account.
fn client_ids(identities: &[Identity], made: &[Made]) -> BTreeMap<String, String> {
    let of = |identity: &Identity| {
        made.iter().find(|made| made.name == identity.name).map(|m| m.client_id.clone())
    };
    let accounts = |identity| {
        let id = of(identity);
        identity.accounts.iter().filter_map(move |account| {
            Some((format!("{}/{}", account.namespace, account.service_account), id.clone()?))
        })
    };
    identities.iter().flat_map(accounts).collect()
}

fn read_account(file: &std::path::Path) -> Result<Account, StepError> {
    let failed = || format!("failed to read {}", file.display());
    let bytes = std::fs::metadata(file).map_err(|e| StepError::permanent(failed()).with_source(e))?.len();
    if bytes > POLICIES_BYTES {
        return Err(StepError::permanent(format!("{} is {bytes} bytes long", file.display())));
    }
    let text = std::fs::read(file).map_err(|e| StepError::permanent(failed()).with_source(e))?;
    let details: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| StepError::permanent(failed()).with_source(e))?;
    if details.get("RoleDetailList").is_none() {
        return Err(StepError::permanent(format!("{} has no RoleDetailList", file.display())).with_hint(
            "aws iam get-account-authorization-details --filter Role LocalManagedPolicy AWSManagedPolicy",
        ));
    }
    Ok(Account::of(&details))
}

impl IdentityMap {
    /// What a plan says of the identities.
    async fn survey(
        &self,
        ctx: &StepContext,
        config: &Config,
        wanted: &Wanted,
        identities: &[Identity],
        plan: &mut StepPlan,
    ) {
        plan.items = Some(identities.len() as u64);
        plan.problems.extend(config.strays(identities));
        let warning = |told: &String| Problem::warning(told.clone()).in_field("associations");
        plan.problems.extend(wanted.told.iter().map(warning));
        let looked = async {
            let Some(azure) = config.azure(ctx, self.limits).await? else { return Ok(None) };
            let identities = wanted.settled(&config.prefix, Some(&azure)).await?;
            Ok::<_, StepError>(Some((identities.len(), azure.survey(&identities).await?)))
        };
        match looked.await {
            Ok(Some((count, there))) => {
                plan.items = Some(count as u64);
                let group = &config.resource_group;
                plan.summary =
                    format!("make {count} managed identities in {group}, of which {there} are there");
            }
            Ok(None) => {}
            Err(e) => plan.problems.push(tree::problem_of(&e, "azure")),
        }
    }
}

#[async_trait]
impl TypedStep for IdentityMap {
    const NAME: &'static str = "identity.map";
    const SUMMARY: &'static str =
        "Plans or makes managed identities and federated credentials for IAM roles of service accounts";
    const IDEMPOTENCY: Idempotency = Idempotency::Natural;
    const SUPPORTS_UNDO: bool = true;

    type Config = Config;
    type Outputs = Outputs;

    async fn plan(&self, ctx: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
        let mut plan = StepPlan::new("plan the managed identities");
        if let Some(to) = config.field::<PathBuf>("to")? {
            plan.summary = format!("plan the managed identities into {}", to.display());
            tree::plan_replacing(&mut plan, &ctx.path(&to), &to, "to");
        }
        let Some(config) = config.known() else { return Ok(plan) };
        if let Some(problem) = config.problem() {
            plan.problems.push(problem);
            return Ok(plan);
        }
        if ctx.path(&config.from).exists() {
            let planned = async {
                let wanted = config.informed(ctx).await?;
                let identities = wanted.identities(&config.prefix, &Held::new())?;
                Ok::<_, StepError>((wanted, identities))
            };
            match planned.await {
                Ok((wanted, identities)) => self.survey(ctx, config, &wanted, &identities, &mut plan).await,
                Err(e) => plan.problems.push(tree::problem_of(&e, "from")),
            }
        }
        Ok(plan)
    }

    async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
        Ok(TypedObservation::Absent)
    }

    async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
        if let Some(problem) = config.problem() {
            return Err(StepError::permanent(problem.message));
        }
        let wanted = config.informed(ctx).await?;
        let azure = config.azure(ctx, self.limits).await?;
        if let Some(problem) =
            config.strays(&wanted.identities(&config.prefix, &Held::new())?).into_iter().next()
        {
            return Err(StepError { hint: problem.hint, ..StepError::permanent(problem.message) });
        }
        let identities = wanted.settled(&config.prefix, azure.as_ref()).await?;
        for told in &wanted.told {
            ctx.warn(told.clone());
        }
        let place = Place {
            resource_group: &config.resource_group,
            location: &config.location,
            issuer: &config.issuer,
        };
        let to = ctx.path(&config.to);
        let draft = Draft::new(&to, &ctx.key)?;
        draft.write("identities.sh", render::az(&identities, &place).as_bytes(), false)?;
        draft.write("identities.bicep", render::bicep(&identities, &place).as_bytes(), false)?;
        draft.write("identities.tf", render::terraform(&identities, &place).as_bytes(), false)?;
        draft.commit()?;
        ctx.info(format!("{} identities are planned in {}", identities.len(), config.to.display()));
        let made = match azure {
            Some(azure) => {
                let made = azure.make(ctx, &identities, &config.assignments).await?;
                ctx.info(format!("{} identities are in {}", made.len(), config.resource_group));
                made
            }
            None => Vec::new(),
        };
        let client_ids = client_ids(&identities, &made);
        Ok(Outputs { directory: config.to.clone(), identities, digest: tree::digest(&to)?, made, client_ids })
    }

    async fn verify(
        &self,
        ctx: &StepContext,
        config: &Config,
        outputs: &Outputs,
        _: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let to = ctx.path(&config.to);
        let folder = format!("folder {}", config.to.display());
        let digest = if to.is_dir() { tree::digest(&to)? } else { "not there".to_owned() };
        let mut checks = vec![Check::equal(folder, "sha256", &outputs.digest, digest)];
        let now = config.wanted(ctx)?;
        let then: BTreeSet<&Association> = outputs.identities.iter().flat_map(|i| &i.accounts).collect();
        let changed = then.symmetric_difference(&now.associations.iter().collect()).count();
        checks.push(Check::equal("service accounts", "changed since", "0", changed.to_string()));
        checks.extend(now.told.into_iter().map(|told| {
            let mut check = Check::equal("service accounts", "roles", "", "").with_note(told);
            check.status = CheckStatus::Warning;
            check
        }));
        if let Some(azure) = config.azure(ctx, self.limits).await? {
            checks.extend(azure.compare(&outputs.identities, &outputs.made).await?);
        }
        for identity in &outputs.identities {
            let open = identity.access.iter().flat_map(|access| &access.open);
            checks.extend(open.map(|open| Check {
                target: identity.name.clone(),
                ..Check::told(&identity.role_arn, "policies", open)
            }));
        }
        Ok(Evidence { checks })
    }

    /// What is in Azure goes first, then the folder, unless somebody has changed it.
    async fn undo(&self, ctx: &StepContext, config: &Config, outputs: &Outputs) -> Result<(), StepError> {
        if let Some(azure) = config.azure(ctx, self.limits).await? {
            azure.take_back(ctx, &outputs.identities, &outputs.made, &config.assignments).await?;
        }
        let to = ctx.path(&config.to);
        if !to.is_dir() {
            return Ok(());
        }
        if tree::digest(&to)? != outputs.digest {
            ctx.warn(format!("{} was changed, and stays", config.to.display()));
            return Ok(());
        }
        std::fs::remove_dir_all(&to).map_err(|e| {
            StepError::permanent(format!("failed to remove {}", config.to.display())).with_source(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_plugin_api::testing::RecordingHost;
    use migrate_plugin_api::{Step, Typed};
    use std::fs;
    use std::sync::Arc;

    fn project() -> (tempfile::TempDir, StepContext) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        let account = |name: &str| {
            format!(
                "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: shop\n  annotations: {{eks.amazonaws.com/role-arn: 'arn:aws:iam::123456789012:role/shop'}}\n---\n"
            )
        };
        fs::write(dir.path().join("in/accounts.yaml"), account("web") + &account("api")).unwrap();
        fs::write(
            dir.path().join("iam.json"),
            r#"{"RoleDetailList":[{"Arn":"arn:aws:iam::123456789012:role/shop","RolePolicyList":[{"PolicyDocument":{"Statement":[
                {"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::shop/*"},
                {"Effect":"Allow","Action":"dynamodb:Query","Resource":"*"},
                {"Effect":"Allow","Action":"rds-db:connect","Resource":"*"}]}}]}]}"#,
        )
        .unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("map", dir.path());
        (dir, ctx)
    }

    fn config() -> serde_json::Value {
        serde_json::json!({ "from": "in", "to": "out", "issuer": "https://eastus.oic.prod-aks.azure.com/t/i/",
            "resource-group": "shop", "location": "eastus", "prefix": "id-", "policies": "iam.json",
            "associations": [{ "namespace": "jobs", "service-account": "runner", "role-arn": "arn:aws:iam::123456789012:role/jobs" }] })
    }

    #[tokio::test]
    async fn roles_of_manifests_and_associations_become_a_plan_in_three_languages() {
        let (dir, ctx) = project();
        let step = Typed(IdentityMap::default());
        assert_eq!(step.plan(&ctx, &config()).await.unwrap().items, Some(2));
        let outputs = step.apply(&ctx, &config()).await.unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        insta::assert_snapshot!("az", read("identities.sh"));
        insta::assert_snapshot!("bicep", read("identities.bicep"));
        insta::assert_snapshot!("terraform", read("identities.tf"));
        let evidence = step.verify(&ctx, &config(), &outputs, VerifyDepth::Deep).await.unwrap();
        assert!(evidence.passed());
        let told: Vec<_> = evidence.checks.iter().filter_map(|check| check.note.as_deref()).collect();
        assert_eq!(told, ["no role of Azure is proposed for rds-db:connect"]);
        assert_eq!(step.apply(&ctx, &config()).await.unwrap(), outputs);
        fs::write(dir.path().join("out/identities.sh"), "reboot").unwrap();
        assert!(!step.verify(&ctx, &config(), &outputs, VerifyDepth::Quick).await.unwrap().passed());
    }

    #[tokio::test]
    async fn what_can_not_be_planned_is_told_before_anything_is_written() {
        let (dir, ctx) = project();
        let step = Typed(IdentityMap::default());
        for (field, value, words) in [
            ("issuer", "http://issuer", "https"),
            ("location", " ", "location"),
            ("policies", "in/accounts.yaml", "failed to read"),
        ] {
            let mut wrong = config();
            wrong[field] = value.into();
            let problems = step.plan(&ctx, &wrong).await.unwrap().problems;
            assert!(problems.iter().any(|problem| problem.message.contains(words)), "{field}: {problems:?}");
            assert!(step.apply(&ctx, &wrong).await.is_err());
        }
        assert!(!dir.path().join("out").exists());
    }

    #[tokio::test]
    async fn an_association_counts_before_an_annotation_and_two_roles_are_none() {
        let (_dir, ctx) = project();
        let step = Typed(IdentityMap::default());
        let mut both = config();
        let association = |role: &str| {
            serde_json::json!({ "namespace": "shop", "service-account": "web",
                "role-arn": format!("arn:aws:iam::123456789012:role/{role}") })
        };
        both["associations"] = serde_json::json!([association("a-shop")]);
        let problems = step.plan(&ctx, &both).await.unwrap().problems;
        let told = "service account shop/web is annotated with arn:aws:iam::123456789012:role/shop, and gets \
                    arn:aws:iam::123456789012:role/a-shop by its Pod Identity association, as on EKS";
        assert_eq!((problems.len(), problems[0].message.as_str()), (1, told));
        assert_eq!(problems[0].severity, migrate_plugin_api::Severity::Warning);
        let outputs = step.apply(&ctx, &both).await.unwrap();
        let of = |at: usize| {
            (&outputs["identities"][at]["name"], outputs["identities"][at]["accounts"].as_array().unwrap())
        };
        assert_eq!(
            (of(0).0, of(0).1.len(), &of(0).1[0]["service-account"]),
            (&"id-a-shop".into(), 1, &"web".into())
        );
        assert_eq!(
            (of(1).0, of(1).1.len(), &of(1).1[0]["service-account"]),
            (&"id-shop".into(), 1, &"api".into())
        );
        let evidence = step.verify(&ctx, &both, &outputs, VerifyDepth::Quick).await.unwrap();
        assert!(evidence.passed());
        assert!(evidence.checks.iter().any(|check| check.note.as_deref() == Some(told)));
        // Nobody is told what the account has anyway.
        both["associations"] = serde_json::json!([association("shop")]);
        assert!(step.plan(&ctx, &both).await.unwrap().problems.is_empty());
        // Only one of them can be what EKS has.
        both["associations"] = serde_json::json!([association("a"), association("b")]);
        let problems = step.plan(&ctx, &both).await.unwrap().problems;
        assert!(problems[0].message.contains("shop/web has two roles, arn:"), "{problems:?}");
        assert!(step.apply(&ctx, &both).await.is_err());
    }

    #[tokio::test]
    async fn another_role_of_an_account_is_noticed_though_there_are_as_many_identities() {
        let (_dir, ctx) = project();
        let step = Typed(IdentityMap::default());
        let outputs = step.apply(&ctx, &config()).await.unwrap();
        let mut changed = config();
        changed["associations"][0]["role-arn"] = "arn:aws:iam::123456789012:role/other".into();
        assert!(!step.verify(&ctx, &changed, &outputs, VerifyDepth::Quick).await.unwrap().passed());
    }
}
