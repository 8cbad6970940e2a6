//! Cases about the calls of the contract. Those with a sample have the effects that it describes.

use migrate_plugin_api::protocol::{
    ApplyResult, ArtifactParams, CheckpointParams, HandleParams, LogParams, SecretParams, ValidateResult,
};
use migrate_plugin_api::{
    CheckStatus, Evidence, Idempotency, Observation, Progress, Severity, StepInfo, StepPlan,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::talk::that;
use super::wire::{Store, Wire};
use super::{Case, Miss, Rig, all_unknown};
use crate::limits::CANCEL_GRACE;

macro_rules! case {
    ($sample:literal, $name:literal, $rule:literal, $mend:literal, |$rig:ident| $body:expr) => {
        Case {
            name: $name,
            rule: $rule,
            mend: $mend,
            needs_sample: $sample,
            check: |$rig| Box::pin(async move { $body }),
        }
    };
}

pub(super) fn cases() -> Vec<Case> {
    [unknown_inputs(), wrong_input(), before(), apply(), after(), stopping(), undo()]
        .into_iter()
        .flatten()
        .collect()
}

fn form<T: DeserializeOwned>(method: &str, value: Value) -> Result<T, Miss> {
    let shown = value.to_string();
    serde_json::from_value(value)
        .map_err(|error| Miss::Fail(format!("the result of `{method}` has another form: {error}: {shown}")))
}

/// The result of a method that may be missing.
async fn optional(wire: &mut Wire, method: &str, params: Value) -> Result<Value, Miss> {
    wire.optional(method, params).await?.ok_or_else(|| Miss::Skip(format!("it has no `{method}`")))
}

fn fits(info: &StepInfo, outputs: &Value) -> Result<(), Miss> {
    let validator = jsonschema::validator_for(&info.output_schema).map_err(|error| error.to_string())?;
    validator.validate(outputs).map_err(|error| Miss::Fail(format!("at {}: {error}", error.instance_path())))
}

fn unknown_inputs() -> Vec<Case> {
    vec![
        case!(
            false,
            "validate-unknown",
            "`validate` takes a config whose inputs are all unknown yet",
            "an object {\"$unknown\":\"…\"} may stand for any value: say nothing about it",
            |rig| {
                let config = all_unknown(&rig.info()?.config_schema);
                let result = optional(&mut rig.open().await?, "validate", rig.params(&config)).await?;
                let found: ValidateResult = form("validate", result)?;
                let errors = found.problems.iter().filter(|problem| problem.severity == Severity::Error);
                let said: Vec<_> = errors.map(|problem| problem.message.clone()).collect();
                that(said.is_empty(), || said.join("; "))
            }
        ),
        case!(
            false,
            "plan-unknown",
            "`plan` takes a config whose inputs are all unknown yet",
            "plan with what is known; an object {\"$unknown\":\"…\"} may stand for any value",
            |rig| {
                let config = all_unknown(&rig.info()?.config_schema);
                let result = optional(&mut rig.open().await?, "plan", rig.params(&config)).await?;
                let plan: StepPlan = form("plan", result)?;
                that(!plan.summary.trim().is_empty(), || "its `summary` is empty".to_owned())
            }
        ),
        case!(
            false,
            "plan-stores-nothing",
            "`plan` asks for no `checkpoint` and no `set_handle`",
            "keep these for `apply`: `plan` only reads",
            |rig| {
                let config = all_unknown(&rig.info()?.config_schema);
                let mut wire = rig.open().await?;
                optional(&mut wire, "plan", rig.params(&config)).await?;
                let stores =
                    |said: &&Value| matches!(said["method"].as_str(), Some("checkpoint" | "set_handle"));
                that(!wire.said.iter().any(|said| stores(&said)), || "it did".to_owned())
            }
        ),
    ]
}

/// `config` is answered, in whatever way, and the process goes on.
async fn survives(rig: &Rig, method: &str, params: Value) -> Result<(), Miss> {
    let mut wire = rig.open().await?;
    wire.ask(method, params).await?;
    wire.result("describe", json!({})).await?;
    Ok(())
}

fn wrong_input() -> Vec<Case> {
    vec![
        case!(
            false,
            "plan-without-params",
            "`plan` without params is answered, and the process goes on",
            "answer wrong params with the error code -32602 instead of ending",
            |rig| survives(rig, "plan", json!({})).await
        ),
        case!(
            false,
            "plan-of-no-object",
            "`plan` of a config that is no object is answered, and the process goes on",
            "answer what can't be read with an error instead of ending",
            |rig| survives(rig, "plan", rig.params(&json!(7))).await
        ),
        case!(
            false,
            "validate-of-no-object",
            "`validate` of a config that is no object is answered, and the process goes on",
            "answer what can't be read with an error or a problem instead of ending",
            |rig| survives(rig, "validate", rig.params(&json!([null]))).await
        ),
        case!(
            false,
            "observe-of-no-object",
            "`observe` of a config that is no object is answered, and the process goes on",
            "answer what can't be read with an error instead of ending",
            |rig| survives(rig, "observe", rig.params(&json!("text"))).await
        ),
        case!(
            false,
            "verify-without-params",
            "`verify` without params is answered, and the process goes on",
            "answer wrong params with the error code -32602 instead of ending",
            |rig| survives(rig, "verify", json!({})).await
        ),
    ]
}

fn before() -> Vec<Case> {
    vec![
        case!(
            true,
            "sample-fits",
            "the config to apply fits `config_schema`",
            "mend the schema or the sample",
            |rig| {
                let (info, sample) = (rig.info()?, rig.sample()?);
                let validator =
                    jsonschema::validator_for(&info.config_schema).map_err(|error| error.to_string())?;
                validator.validate(&sample).map_err(|error| Miss::Fail(error.to_string()))
            }
        ),
        case!(
            true,
            "validate-sample",
            "`validate` finds no error in a good config",
            "return {\"problems\":[]} where nothing is wrong",
            |rig| {
                let params = rig.params(&rig.sample()?);
                let result = optional(&mut rig.open().await?, "validate", params).await?;
                let found: ValidateResult = form("validate", result)?;
                let error = found.problems.into_iter().find(|problem| problem.severity == Severity::Error);
                that(error.is_none(), || error.map(|problem| problem.message).unwrap_or_default())
            }
        ),
        case!(
            true,
            "plan-sample",
            "`plan` of a good config works before anything has run",
            "return at least {\"summary\":\"…\"}, and look only at what is there already",
            |rig| {
                let params = rig.params(&rig.sample()?);
                let mut wire = rig.open().await?;
                let plan: StepPlan = form("plan", optional(&mut wire, "plan", params.clone()).await?)?;
                let again: StepPlan = form("plan", optional(&mut wire, "plan", params).await?)?;
                that(!plan.summary.is_empty() && !again.summary.is_empty(), || {
                    "its summary is empty".to_owned()
                })
            }
        ),
        case!(
            true,
            "observe-before",
            "`observe` works where nothing has been done",
            "return {\"state\":\"absent\"} where there is nothing",
            |rig| {
                let params = rig.params(&rig.sample()?);
                let result = optional(&mut rig.open().await?, "observe", params).await?;
                form::<Observation>("observe", result)?;
                Ok(())
            }
        ),
    ]
}

/// Applies the sample and keeps what came of it.
async fn apply_sample(rig: &Rig) -> Result<(Wire, Value), Miss> {
    let params = rig.params(&rig.sample()?);
    let mut wire = rig.open().await?;
    let applied: ApplyResult = form("apply", wire.result("apply", params).await?)?;
    let outputs = Value::Object(applied.outputs);
    let mut learnt = rig.learnt();
    for said in &wire.said {
        match said["method"].as_str() {
            Some("checkpoint") => learnt.cursor = Some(said["params"]["cursor"].clone()),
            Some("set_handle") => learnt.handle = said["params"]["handle"].as_str().map(str::to_owned),
            _ => {}
        }
    }
    learnt.outputs = Some(outputs.clone());
    drop(learnt);
    Ok((wire, outputs))
}

fn apply() -> Vec<Case> {
    vec![
        case!(
            true,
            "apply",
            "`apply` is answered with {\"outputs\":{…}}, and outputs fit `output_schema`",
            "return an object under `outputs`, with the fields that the schema says",
            |rig| {
                let (_, outputs) = apply_sample(rig).await?;
                fits(&rig.info()?, &outputs)
            }
        ),
        case!(
            true,
            "apply-again",
            "`apply` with the same key, config, cursor and handle is as if done once, and gives outputs again",
            "look for what is there already by the key, or say idempotency `none`",
            |rig| {
                let info = rig.info()?;
                if info.idempotency == Idempotency::None {
                    return Err(Miss::Skip("its idempotency is `none`".to_owned()));
                }
                let (_, outputs) = apply_sample(rig).await?;
                fits(&info, &outputs)
            }
        ),
        case!(
            true,
            "apply-messages",
            "what is said during `apply` has the form of the protocol",
            "see \"Notifications of the plugin\" and \"Requests of the plugin\" in docs/plugins/protocol.md",
            |rig| {
                if rig.info()?.idempotency == Idempotency::None {
                    return Err(Miss::Skip("its idempotency is `none`".to_owned()));
                }
                let (wire, _) = apply_sample(rig).await?;
                wire.said.iter().try_for_each(well_formed)
            }
        ),
        case!(
            true,
            "apply-store-fails",
            "where a `checkpoint` is refused, the call ends with an error",
            "stop when `checkpoint` or `set_handle` is answered with an error, and answer with it",
            |rig| {
                if rig.info()?.idempotency == Idempotency::None {
                    return Err(Miss::Skip("its idempotency is `none`".to_owned()));
                }
                let mut wire = rig.open().await?;
                wire.store = Store::Refuses;
                let sample = rig.sample()?;
                // From the beginning: with a cursor there may be nothing left to keep.
                let mut params = rig.params(&sample);
                if let Some(context) = params["context"].as_object_mut() {
                    context.remove("cursor");
                    context.remove("handle");
                }
                let answer = wire.ask("apply", params).await?;
                let refused =
                    |said: &Value| matches!(said["method"].as_str(), Some("checkpoint" | "set_handle"));
                if !wire.said.iter().any(refused) {
                    return Err(Miss::Skip("it keeps nothing".to_owned()));
                }
                that(answer.get("error").is_some(), || format!("it answered {answer}"))
            }
        ),
    ]
}

fn well_formed(said: &Value) -> Result<(), Miss> {
    let params = said["params"].clone();
    let method = said["method"].as_str().unwrap_or_default();
    match method {
        "progress" => form::<Progress>(method, params).map(drop),
        "log" => form::<LogParams>(method, params).map(drop),
        "artifact" => form::<ArtifactParams>(method, params).map(drop),
        "heartbeat" => Ok(()),
        "checkpoint" => form::<CheckpointParams>(method, params).map(drop),
        "set_handle" => form::<HandleParams>(method, params).map(drop),
        "secret" => form::<SecretParams>(method, params).map(drop),
        _ => Err(Miss::Fail(format!("`{method}` means nothing"))),
    }?;
    let is_request = matches!(method, "checkpoint" | "set_handle" | "secret");
    that(is_request == said.get("id").is_some(), || match is_request {
        true => format!("`{method}` is a request and needs an `id`"),
        false => format!("`{method}` is a notification and has no `id`"),
    })
}

/// Params of `verify` and `undo`, about what was applied and as it is stored.
fn about(rig: &Rig) -> Result<Value, Miss> {
    let outputs = rig.learnt().outputs.clone();
    let mut outputs = outputs.ok_or_else(|| Miss::Skip("`apply` gave nothing to look at".to_owned()))?;
    rig.info()?.mask(&mut outputs);
    let mut params = rig.params(&rig.sample()?);
    params["outputs"] = outputs;
    Ok(params)
}

async fn verify(rig: &Rig, depth: &str) -> Result<(), Miss> {
    let mut params = about(rig)?;
    params["depth"] = json!(depth);
    let evidence: Evidence = form("verify", optional(&mut rig.open().await?, "verify", params).await?)?;
    let failed = evidence.checks.into_iter().find(|check| check.status == CheckStatus::Failed);
    that(failed.is_none(), || failed.map(|check| format!("{check:?}")).unwrap_or_default())
}

fn after() -> Vec<Case> {
    vec![
        case!(
            true,
            "observe-after",
            "`observe` after `apply` says what is there; `done` comes with outputs that fit",
            "return outputs as `apply` would, or `unknown` where it can't look; `absent` of a `keyed` step means that \
             nothing has this key",
            |rig| {
                about(rig)?;
                let params = rig.params(&rig.sample()?);
                let result = optional(&mut rig.open().await?, "observe", params).await?;
                let info = rig.info()?;
                match form("observe", result)? {
                    Observation::Done { outputs } => fits(&info, &outputs),
                    Observation::Absent if info.idempotency == Idempotency::Keyed => {
                        Err(Miss::Fail("it says `absent` of what it has just made under this key".to_owned()))
                    }
                    _ => Ok(()),
                }
            }
        ),
        case!(
            true,
            "verify-quick",
            "`verify` with depth `quick` finds what `apply` has just made",
            "return {\"checks\":[…]} with what was compared; see CHECK in docs/plugins/protocol.md",
            |rig| verify(rig, "quick").await
        ),
        case!(
            true,
            "verify-deep",
            "`verify` with depth `deep` finds what `apply` has just made",
            "take both depths",
            |rig| verify(rig, "deep").await
        ),
        case!(
            true,
            "sensitive-outputs",
            "what `sensitive` names is in the outputs or left out, but never beside them",
            "name fields of the outputs: /token for {\"token\":…}",
            |rig| {
                let outputs = about(rig)?["outputs"].clone();
                let info = rig.info()?;
                let known = |pointer: &String| {
                    let field = pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
                    outputs.get(field).is_some() || info.output_schema["properties"].get(field).is_some()
                };
                let wrong = info.sensitive.iter().find(|pointer| !known(pointer));
                that(wrong.is_none(), || format!("there is no {}", wrong.cloned().unwrap_or_default()))
            }
        ),
    ]
}

fn stopping() -> Vec<Case> {
    vec![
        case!(
            true,
            "cancel",
            "after `cancel` the call is answered, or SIGTERM ends the process",
            "say \"cancel\":true in `initialize` only if `cancel` is read while a call is at work; don't ignore SIGTERM",
            |rig| {
                if rig.info()?.idempotency == Idempotency::None {
                    return Err(Miss::Skip("its idempotency is `none`".to_owned()));
                }
                let mut wire = rig.start().await?;
                let agreed = wire.result("initialize", super::initialize(&[1])).await?;
                let reads = agreed["cancel"] == true;
                let id = wire.request("apply", rig.params(&rig.sample()?)).await?;
                wire.send(&json!({ "jsonrpc": "2.0", "method": "cancel", "params": { "call": id } })).await?;
                if !reads {
                    wire.terminate();
                    wire.exit().await?;
                    return Ok(());
                }
                let answer = wire.answer_to(id, "apply", CANCEL_GRACE).await?;
                let class = answer["error"]["data"]["class"].clone();
                that(answer.get("result").is_some() || class == "cancelled", || {
                    format!("it answered {answer}")
                })
            }
        ),
        case!(
            true,
            "end-in-a-call",
            "where stdin ends in the middle of a call, the process ends soon",
            "stop and change nothing more when stdin ends: the host has died",
            |rig| {
                if rig.info()?.idempotency == Idempotency::None {
                    return Err(Miss::Skip("its idempotency is `none`".to_owned()));
                }
                let mut wire = rig.open().await?;
                wire.request("apply", rig.params(&rig.sample()?)).await?;
                wire.hang_up();
                // What was begun may take a moment; what can't read meanwhile is killed by the guard.
                wire.exit().await?;
                Ok(())
            }
        ),
    ]
}

async fn undo_sample(rig: &Rig) -> Result<(), Miss> {
    if !rig.info()?.supports_undo {
        return Err(Miss::Skip("it does not support undo".to_owned()));
    }
    let params = about(rig)?;
    rig.open().await?.result("undo", params).await?;
    Ok(())
}

fn undo() -> Vec<Case> {
    vec![
        case!(
            true,
            "undo",
            "`undo` takes back what `apply` made, where `supports_undo` says so",
            "answer `undo` with {} once the effect is durably gone, or say supports_undo false",
            |rig| undo_sample(rig).await
        ),
        case!(
            true,
            "undo-again",
            "`undo` of what is gone already is no error",
            "treat what isn't there as undone",
            |rig| undo_sample(rig).await
        ),
    ]
}
