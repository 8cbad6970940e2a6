//! The undo of `identity.map`, on the same stand-in.

use super::*;

#[tokio::test]
async fn what_was_there_before_is_not_taken_back() {
    let stage = Stage::new().await;
    let first = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    let (ctx, config) = stage.other("runner");
    let second = stage.step.apply(&ctx, &config).await.unwrap();
    assert_eq!(second["made"][0]["client-id"], first["made"][0]["client-id"]);
    assert_eq!(stage.names(), ["id-web", "jobs_runner", "shop_api", "shop_web"]);

    stage.step.undo(&ctx, &config, &second).await.unwrap();
    assert_eq!(
        (stage.names(), stage.assignments()),
        (vec!["id-web".to_owned(), "shop_api".to_owned(), "shop_web".to_owned()], 1)
    );
    assert_eq!(stage.warnings(), ["identity id-web stays: this node of this run has not made it"]);
    let evidence = stage.step.verify(&stage.ctx, &stage.config, &first, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");

    // Whoever made it leaves it to those who came later, with the roles that they found.
    stage.step.apply(&ctx, &config).await.unwrap();
    stage.step.undo(&stage.ctx, &stage.config, &first).await.unwrap();
    assert_eq!(
        (stage.names(), stage.assignments()),
        (vec!["id-web".to_owned(), "jobs_runner".to_owned()], 1)
    );
    let told = "identity id-web stays, with its roles: it has credentials that others made: jobs_runner";
    assert_eq!(stage.warnings()[1..], [told]);
}

#[tokio::test]
async fn what_an_earlier_attempt_has_made_in_the_identity_of_another_is_taken_back() {
    let stage = Stage::new().await;
    let mut bare = stage.config.clone();
    bare["assignments"] = json!([]);
    stage.step.apply(&stage.ctx, &bare).await.unwrap();
    let (ctx, config) = stage.other("runner");
    // The credential is made, and the role is refused.
    stage.stand.0.lock().unwrap().refused = Some("roleassignments");
    assert_eq!(stage.step.apply(&ctx, &config).await.unwrap_err().class, ErrorClass::Auth);
    assert_eq!(stage.names().len(), 4);
    stage.stand.0.lock().unwrap().refused = None;
    let outputs = stage.step.apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["made"][0]["added"], json!(["jobs_runner"]));
    assert_eq!(outputs["made"][0]["assignments"][0]["added"], true);
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    assert_eq!(
        (stage.names(), stage.assignments()),
        (vec!["id-web".to_owned(), "shop_api".to_owned(), "shop_web".to_owned()], 0)
    );
}

#[tokio::test]
async fn what_was_made_is_taken_back_when_it_was_made_again_with_less() {
    let stage = Stage::new().await;
    stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    stage.accounts(&["web"]);
    let outputs = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    assert_eq!(outputs["made"][0]["credentials"], json!(["shop_web"]));
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert_eq!((stage.resources(), stage.warnings()), (0, Vec::new()));

    // With more, too.
    let stage = Stage::new().await;
    stage.accounts(&["web"]);
    stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    stage.accounts(&["web", "api"]);
    let more = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    assert_eq!(more["made"][0]["client-id"], "client-0");
    stage.accounts(&["web"]);
    let outputs = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    // A credential of that name that is for somebody else is somebody else's.
    let id =
        stage.stand.0.lock().unwrap().resources.keys().find(|id| id.ends_with("shop_api")).cloned().unwrap();
    let ours = stage.stand.0.lock().unwrap().resources[&id].clone();
    let mut theirs = ours.clone();
    theirs["properties"]["subject"] = "system:serviceaccount:shop:other".into();
    stage.stand.0.lock().unwrap().resources.insert(id.clone(), theirs);
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert_eq!(stage.names(), ["id-web", "shop_api"]);
    stage.stand.0.lock().unwrap().resources.remove(&id);
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert_eq!(stage.resources(), 0);

    // An identity of which nothing is planned any more is not known well enough, and told.
    let stage = Stage::new().await;
    stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    let (_, mut config) = stage.other("runner");
    config["associations"][0]["role-arn"] = "arn:aws:iam::123456789012:role/jobs".into();
    config["assignments"] = json!([]);
    let outputs = stage.step.apply(&stage.ctx, &config).await.unwrap();
    stage.step.undo(&stage.ctx, &config, &outputs).await.unwrap();
    assert_eq!(stage.names(), ["id-web", "shop_api", "shop_web"]);
    let told =
        "identity id-web stays, with its roles and what this node has made in it: it is no more in the plan";
    assert_eq!(stage.warnings(), [told]);
}

#[tokio::test]
async fn what_a_second_attempt_finds_in_the_identity_of_another_is_taken_back() {
    let stage = Stage::new().await;
    let mut bare = stage.config.clone();
    bare["assignments"] = json!([]);
    let first = stage.step.apply(&stage.ctx, &bare).await.unwrap();
    let before = stage.tags();
    let (ctx, config) = stage.other("runner");
    let outputs = stage.step.apply(&ctx, &config).await.unwrap();
    let writes = stage.writes().len();
    // Made again, and nothing is known of the first time.
    assert_eq!(stage.step.apply(&ctx, &config).await.unwrap(), outputs);
    assert_eq!(stage.writes().len(), writes);
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    assert_eq!(
        (stage.names(), stage.assignments()),
        (vec!["id-web".to_owned(), "shop_api".to_owned(), "shop_web".to_owned()], 0)
    );
    assert_eq!(stage.tags(), before);
    assert_eq!(stage.step.apply(&stage.ctx, &bare).await.unwrap(), first);
    stage.step.undo(&stage.ctx, &bare, &first).await.unwrap();
    assert_eq!(stage.resources(), 0);
}

#[tokio::test]
async fn an_assignment_in_the_identity_of_another_is_taken_back_when_it_is_no_longer_in_the_plan() {
    let stage = Stage::new().await;
    let mut bare = stage.config.clone();
    bare["assignments"] = json!([]);
    stage.step.apply(&stage.ctx, &bare).await.unwrap();
    let before = stage.tags();
    let (ctx, mut config) = stage.other("runner");
    stage.step.apply(&ctx, &config).await.unwrap();
    assert_eq!(stage.assignments(), 1);
    // The same of another, in the same place.
    let theirs = format!("{SCOPE}/providers/Microsoft.Authorization/roleAssignments/theirs").to_lowercase();
    let role = json!({ "properties": { "principalId": "principal-0", "roleDefinitionId": "another" } });
    stage.stand.0.lock().unwrap().resources.insert(theirs.clone(), role);
    config["assignments"] = json!([]);
    let outputs = stage.step.apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["made"][0]["assignments"], json!([]));
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    let left: Vec<String> = stage
        .stand
        .0
        .lock()
        .unwrap()
        .resources
        .keys()
        .filter(|id| id.contains("roleassignments"))
        .cloned()
        .collect();
    assert_eq!((left, stage.tags()), (vec![theirs], before));
}

/// Makes an identity that another node has, and then in it an assignment on `scope` that leaves the plan again. That
/// node with its outputs, the tags of the identity without it, and the name of the assignment.
async fn with_an_assignment_that_left(
    stage: &Stage,
    scope: &str,
) -> (StepContext, Value, Value, Vec<String>, String) {
    let mut config = stage.config.clone();
    config["assignments"] = json!([]);
    stage.step.apply(&stage.ctx, &config).await.unwrap();
    let before = stage.tags();
    let (ctx, mut config) = stage.other("runner");
    config["assignments"][0]["scope"] = scope.into();
    let outputs = stage.step.apply(&ctx, &config).await.unwrap();
    let name = outputs["made"][0]["assignments"][0]["name"].as_str().unwrap().to_owned();
    config["assignments"] = json!([]);
    let outputs = stage.step.apply(&ctx, &config).await.unwrap();
    assert_eq!((stage.assignments(), &outputs["made"][0]["assignments"]), (1, &json!([])));
    (ctx, config, outputs, before, name)
}

#[tokio::test]
async fn an_assignment_that_is_not_found_keeps_its_mark_until_its_subscription_is_known() {
    let stage = Stage::new().await;
    let (ctx, mut config, outputs, before, name) = with_an_assignment_that_left(&stage, FAR).await;
    for _ in 0..2 {
        stage.step.undo(&ctx, &config, &outputs).await.unwrap();
        // The credential is gone, and its mark.
        assert_eq!(stage.names(), ["id-web", "shop_api", "shop_web"]);
        assert_eq!((stage.assignments(), stage.tags().len()), (1, before.len() + 1));
        assert!(stage.tags().contains(&format!("migrate-made-by-{name}")));
    }
    let told = format!(
        "identity id-web keeps the tags of role assignments that are no longer in the plan and were not found: {name}; \
         looked for in /subscriptions/sub; if they are there, take them back yourself: \
         `az role assignment list --all --assignee principal-0 --subscription ID`"
    );
    assert_eq!(stage.warnings()[0], told);

    // Another role there is planned.
    config["assignments"] =
        json!([{ "role-arn": ROLE, "role": "Reader", "scope": "/subscriptions/far/resourceGroups/data" }]);
    let told = stage.warnings().len();
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    assert_eq!((stage.assignments(), stage.tags()), (0, before));
    assert_eq!(stage.warnings()[told..], ["identity id-web stays: this node of this run has not made it"]);
}

#[tokio::test]
async fn an_assignment_that_may_not_be_looked_for_keeps_its_mark() {
    let stage = Stage::new().await;
    let (ctx, config, outputs, before, name) = with_an_assignment_that_left(&stage, SCOPE).await;
    stage.stand.0.lock().unwrap().hidden = Some("/subscriptions/sub/");
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    assert_eq!((stage.assignments(), stage.tags().len()), (1, before.len() + 1));
    let told = format!(
        "identity id-web keeps the tags of role assignments that are no longer in the plan and were not found: {name}; \
         failed to list the role assignments of /subscriptions/sub: 403 AuthorizationFailed no; if they are there, \
         take them back yourself: `az role assignment list --all --assignee principal-0 --subscription ID`"
    );
    assert_eq!(stage.warnings()[0], told);
    stage.stand.0.lock().unwrap().hidden = None;
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    assert_eq!((stage.assignments(), stage.tags()), (0, before));
}

#[tokio::test]
async fn a_role_that_somebody_has_assigned_in_the_identity_of_another_needs_no_right_on_the_subscription() {
    let stage = Stage::new().await;
    let mut bare = stage.config.clone();
    bare["assignments"] = json!([]);
    stage.step.apply(&stage.ctx, &bare).await.unwrap();
    let before = stage.tags();
    let said = json!({ "properties": { "roleDefinitionId": "/subscriptions/sub/providers/Microsoft.Authorization/roleDefinitions/2a2b9908",
        "principalId": "principal-0", "principalType": "ServicePrincipal" } });
    let theirs = format!("{SCOPE}/providers/Microsoft.Authorization/roleAssignments/theirs").to_lowercase();
    stage.stand.0.lock().unwrap().resources.insert(theirs.clone(), said);
    let (ctx, config) = stage.other("runner");
    let outputs = stage.step.apply(&ctx, &config).await.unwrap();
    assert_eq!(outputs["made"][0]["assignments"][0]["id"], "");
    stage.stand.0.lock().unwrap().hidden = Some("roleassignments");
    stage.step.undo(&ctx, &config, &outputs).await.unwrap();
    assert_eq!(stage.tags(), before);
    assert_eq!(stage.warnings(), ["identity id-web stays: this node of this run has not made it"]);
    assert!(stage.stand.0.lock().unwrap().resources.contains_key(&theirs));
}

#[tokio::test]
async fn what_the_version_before_has_made_is_taken_back() {
    let stage = Stage::new().await;
    let outputs = stage.apply_as_before().await;
    let evidence = stage.step.verify(&stage.ctx, &stage.config, &outputs, VerifyDepth::Quick).await.unwrap();
    assert!(evidence.passed(), "{evidence:?}");
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert_eq!((stage.resources(), stage.warnings()), (0, Vec::new()));

    // Not what somebody else has added since.
    let stage = Stage::new().await;
    let outputs = stage.apply_as_before().await;
    let (ctx, config) = stage.other("runner");
    stage.step.apply(&ctx, &config).await.unwrap();
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert_eq!(
        (stage.names(), stage.assignments()),
        (vec!["id-web".to_owned(), "jobs_runner".to_owned()], 1)
    );
    let told =
        "identity id-web stays, with its roles: it has credentials that are not in the plan: jobs_runner";
    assert_eq!(stage.warnings(), [told]);

    // Begun by it and ended by this one: nobody knows, and all of it is named.
    let stage = Stage::new().await;
    stage.apply_as_before().await;
    let outputs = stage.step.apply(&stage.ctx, &stage.config).await.unwrap();
    stage.step.undo(&stage.ctx, &stage.config, &outputs).await.unwrap();
    assert_eq!(stage.names(), ["id-web", "shop_api", "shop_web"]);
    let told = format!(
        "identity id-web stays, with credential shop_api, credential shop_web, Storage Blob Data Reader on {SCOPE}: \
         its tags do not say who made it"
    );
    assert_eq!(stage.warnings(), [told]);
}
