//! Cases about how a plugin speaks: the handshake, what it says of itself, lines, and its end. None
//! has an effect.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_plugin_api::protocol::Description;
use serde_json::{Value, json};

use super::{Case, Miss, Rig, initialize};
use crate::plugin::{check_name, check_sensitive};

/// A case without effects.
macro_rules! case {
    ($name:literal, $rule:literal, $mend:literal, |$rig:ident| $body:expr) => {
        Case {
            name: $name,
            rule: $rule,
            mend: $mend,
            needs_sample: false,
            check: |$rig| Box::pin(async move { $body }),
        }
    };
}

/// `Ok` where `holds`, else what was seen.
pub(super) fn that(holds: bool, what: impl FnOnce() -> String) -> Result<(), Miss> {
    if holds { Ok(()) } else { Err(Miss::Fail(what())) }
}

pub(super) fn cases() -> Vec<Case> {
    [handshake(), description(), lines(), end()].into_iter().flatten().collect()
}

fn handshake() -> Vec<Case> {
    vec![
        case!(
            "initialize",
            "`initialize` is answered with the version that was chosen",
            "answer `initialize` with {\"protocol_version\":1}",
            |rig| {
                let result = rig.start().await?.result("initialize", initialize(&[1])).await?;
                that(result["protocol_version"] == 1, || format!("it answered {result}"))
            }
        ),
        case!(
            "initialize-chooses",
            "of several versions that are offered, one that is spoken is chosen",
            "choose 1 out of `protocol_versions`, wherever it stands in the list",
            |rig| {
                let result = rig.start().await?.result("initialize", initialize(&[99, 1])).await?;
                that(result["protocol_version"] == 1, || format!("it answered {result}"))
            }
        ),
        case!(
            "initialize-refuses",
            "where no version is common, `initialize` is answered with the error -32001",
            "look at `protocol_versions` and answer with the error code -32001 if 1 is not in it",
            |rig| {
                let answer = rig.start().await?.ask("initialize", initialize(&[99])).await?;
                that(answer["error"]["code"] == -32001, || format!("it answered {answer}"))
            }
        ),
        case!(
            "initialize-unknown-fields",
            "unknown fields of `initialize` are ignored",
            "take from params what you need and ignore the rest",
            |rig| {
                let mut params = initialize(&[1]);
                params["some_day"] = json!({ "new": [1, "2", null] });
                params["limits"]["some_day"] = json!(true);
                rig.start().await?.result("initialize", params).await?;
                Ok(())
            }
        ),
        case!(
            "initialize-cancel",
            "`cancel` in the answer to `initialize` is true or false, or not there",
            "answer \"cancel\":true only if `cancel` is read while a call is at work",
            |rig| {
                let result = rig.start().await?.result("initialize", initialize(&[1])).await?;
                let cancel = result.get("cancel").unwrap_or(&Value::Bool(false)).clone();
                that(cancel.is_boolean(), || format!("it is {cancel}"))
            }
        ),
        case!(
            "silent-before-asked",
            "nothing is said before `initialize` is answered",
            "write nothing to stdout before the first request; banners belong to stderr",
            |rig| {
                let mut wire = rig.start().await?;
                wire.result("initialize", initialize(&[1])).await?;
                that(wire.said.is_empty(), || format!("it said {}", wire.said[0]))
            }
        ),
        case!(
            "two-at-once",
            "two processes of the plugin work at the same time",
            "hold no lock, port or file by a fixed name",
            |rig| {
                let (mut one, mut other) = (rig.open().await?, rig.open().await?);
                one.result("describe", json!({})).await?;
                other.result("describe", json!({})).await?;
                Ok(())
            }
        ),
    ]
}

async fn describe(rig: &Rig) -> Result<Description, Miss> {
    let result = rig.open().await?.result("describe", json!({})).await?;
    Ok(serde_json::from_value(result).map_err(|error| error.to_string())?)
}

fn description() -> Vec<Case> {
    let mut cases = vec![
        case!(
            "describe",
            "`describe` is answered with name, version and summary, in their form",
            "answer `describe` with the fields of docs/plugins/protocol.md",
            |rig| {
                describe(rig).await?;
                Ok(())
            }
        ),
        case!(
            "describe-name",
            "`name` is `word` or `family.verb`, as the file's name says",
            "name the step in lowercase letters, digits and `-`, and the file migrate-step-NAME",
            |rig| {
                let name = describe(rig).await?.name;
                check_name(&name)?;
                let file = rig.suite.launch.program.file_name().and_then(|file| file.to_str());
                let by_file = file.and_then(|file| file.strip_prefix(crate::FILE_PREFIX));
                let is_same =
                    by_file.is_none_or(|by_file| by_file == name || !rig.suite.launch.args.is_empty());
                that(is_same, || format!("it is `{name}`, and its file is {}", file.unwrap_or_default()))
            }
        ),
        case!(
            "describe-version",
            "`version` is not empty",
            "give it a version, and change it when earlier results must not be reused",
            |rig| that(!describe(rig).await?.version.trim().is_empty(), || "it is empty".to_owned())
        ),
        case!(
            "describe-summary",
            "`summary` is one sentence on one line, without a period",
            "say in a few words what the step does",
            |rig| {
                let text = describe(rig).await?.summary;
                let is_good = !text.trim().is_empty() && !text.contains('\n') && !text.ends_with('.');
                that(is_good, || format!("it is {text:?}"))
            }
        ),
        case!(
            "describe-twice",
            "`describe` says the same again, in the same process and in another",
            "keep times, random values and what depends on the machine out of it",
            |rig| {
                let mut wire = rig.open().await?;
                let first = wire.result("describe", json!({})).await?;
                let again = wire.result("describe", json!({})).await?;
                let other = rig.open().await?.result("describe", json!({})).await?;
                that(first == again && first == other, || format!("{first} became {again} and {other}"))
            }
        ),
        case!(
            "describe-bare",
            "`describe` works without any variable beyond PATH",
            "read credentials and settings in the calls, not at the start",
            |rig| {
                let mut suite = rig.suite.clone();
                suite.launch.env = BTreeSet::new();
                let mut wire = super::wire::Wire::start(&suite)?;
                wire.result("initialize", initialize(&[1])).await?;
                wire.result("describe", json!({})).await?;
                Ok(())
            }
        ),
    ];
    cases.extend(schemas());
    cases
}

fn schemas() -> Vec<Case> {
    vec![
        case!(
            "config-schema",
            "`config_schema` is a JSON Schema that needs no other document",
            "mend the schema; a `$ref` must begin with `#`",
            |rig| {
                let schema = describe(rig).await?.config_schema;
                jsonschema::validator_for(&schema).map_err(|error| error.to_string())?;
                that(foreign(&schema).is_none(), || {
                    format!("it refers to {}", foreign(&schema).unwrap_or(""))
                })
            }
        ),
        case!(
            "output-schema",
            "`output_schema` is a JSON Schema that needs no other document",
            "mend the schema; a `$ref` must begin with `#`",
            |rig| {
                let schema = describe(rig).await?.output_schema;
                jsonschema::validator_for(&schema).map_err(|error| error.to_string())?;
                that(foreign(&schema).is_none(), || {
                    format!("it refers to {}", foreign(&schema).unwrap_or(""))
                })
            }
        ),
        case!(
            "config-examples",
            "the `examples` of `config_schema` fit it",
            "mend the examples or the schema",
            |rig| {
                let schema = describe(rig).await?.config_schema;
                let Some(examples) = schema["examples"].as_array() else {
                    return Err(Miss::Skip("the config_schema has no examples".to_owned()));
                };
                let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_string())?;
                for example in examples {
                    validator.validate(example).map_err(|error| format!("{example}: {error}"))?;
                }
                Ok(())
            }
        ),
        case!(
            "sensitive",
            "`sensitive` has JSON Pointers of what `output_schema` knows",
            "write them as /field or /field/inner; there are no wildcards: name a list as a whole",
            |rig| {
                let described = describe(rig).await?;
                Ok(check_sensitive(&described.sensitive, &described.output_schema)?)
            }
        ),
    ]
}

/// A `$ref` to another document.
fn foreign(schema: &Value) -> Option<&str> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).filter(|to| !to.starts_with('#'));
            own.or_else(|| fields.values().find_map(foreign))
        }
        Value::Array(items) => items.iter().find_map(foreign),
        _ => None,
    }
}

fn lines() -> Vec<Case> {
    let mut cases = vec![
        case!(
            "several-requests",
            "several requests are answered one after another in one process",
            "read requests in a loop until stdin ends",
            |rig| {
                let mut wire = rig.open().await?;
                for _ in 0..3 {
                    wire.result("describe", json!({})).await?;
                }
                Ok(())
            }
        ),
        case!(
            "unknown-method",
            "an unknown method is answered with the error -32601",
            "answer what you don't know with the error code -32601, and go on",
            |rig| {
                let mut wire = rig.open().await?;
                let answer = wire.ask("some.day", json!({})).await?;
                that(answer["error"]["code"] == -32601, || format!("it answered {answer}"))?;
                wire.result("describe", json!({})).await?;
                Ok(())
            }
        ),
        case!(
            "unknown-notification",
            "an unknown notification is ignored, and not answered",
            "answer only what has an `id`",
            |rig| {
                let mut wire = rig.open().await?;
                wire.send(&json!({ "jsonrpc": "2.0", "method": "some.day", "params": {} })).await?;
                wire.result("describe", json!({})).await?;
                Ok(())
            }
        ),
        case!(
            "cancel-of-nothing",
            "`cancel` of a call that isn't there is ignored",
            "a call may have ended when its `cancel` comes: ignore it",
            |rig| {
                let mut wire = rig.open().await?;
                let cancel = json!({ "jsonrpc": "2.0", "method": "cancel", "params": { "call": 7 } });
                wire.send(&cancel).await?;
                wire.result("describe", json!({})).await?;
                Ok(())
            }
        ),
        case!(
            "unknown-fields",
            "unknown fields of a message and of its params are ignored",
            "take what you need and ignore the rest",
            |rig| {
                let mut wire = rig.open().await?;
                wire.result("describe", json!({ "some_day": { "deep": [null, 1.5, "x"] } })).await?;
                Ok(())
            }
        ),
    ];
    cases.extend(bytes());
    cases
}

/// `describe` as request 2, with `inner` in its params and `end` after it, is answered as request 2.
async fn answers_raw(rig: &Rig, inner: &str, end: &str, id: i64) -> Result<(), Miss> {
    let mut wire = rig.open().await?;
    let line =
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"describe\",\"params\":{{{inner}}}}}{end}");
    wire.send_raw(line.as_bytes()).await?;
    let answer = wire.answer_to(id, "describe", super::PATIENCE).await?;
    that(answer.get("result").is_some(), || format!("it answered {answer}"))
}

fn bytes() -> Vec<Case> {
    vec![
        case!(
            "line-lf",
            "a request that ends with LF is answered at once, while stdin is open",
            "read line by line, not to the end of stdin, and flush stdout after every message",
            |rig| answers_raw(rig, "", "\n", 2).await
        ),
        case!(
            "line-crlf",
            "a CR before the LF is no part of the message",
            "strip white space from the line before reading its JSON",
            |rig| answers_raw(rig, "", "\r\n", 2).await
        ),
        case!("line-empty", "empty lines are ignored", "skip lines that are empty", |rig| {
            let mut wire = rig.open().await?;
            wire.send_raw(b"\n\n").await?;
            wire.result("describe", json!({})).await?;
            Ok(())
        }),
        case!(
            "line-in-pieces",
            "a line may come in pieces",
            "read until LF, not what one read gives",
            |rig| {
                let mut wire = rig.open().await?;
                for piece in
                    ["{\"jsonrpc\":\"2.0\",\"id\":2,\"meth", "od\":\"describe\",\"par", "ams\":{}}\n"]
                {
                    wire.send_raw(piece.as_bytes()).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                wire.answer_to(2, "describe", super::PATIENCE).await?;
                Ok(())
            }
        ),
        case!(
            "line-together",
            "two lines may come together",
            "keep what was read after LF for the next message",
            |rig| {
                let mut wire = rig.open().await?;
                let line = |id| {
                    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"describe\",\"params\":{{}}}}\n")
                };
                wire.send_raw(format!("{}{}", line(2), line(3)).as_bytes()).await?;
                wire.answer_to(2, "describe", super::PATIENCE).await?;
                wire.answer_to(3, "describe", super::PATIENCE).await?;
                Ok(())
            }
        ),
        case!(
            "unicode",
            "text in any script, escaped or not, is taken",
            "read stdin as UTF-8, whatever the locale says",
            |rig| answers_raw(rig, "\"x\":\"größe 数据 \\u00e9\\ud83d\\ude80 🚀 \\n \\\"\"", "\n", 2).await
        ),
        case!(
            "line-long",
            "a line of a megabyte is taken",
            "use no buffer of a fixed size for a line; up to 4 MiB may come",
            |rig| answers_raw(rig, &format!("\"x\":\"{}\"", "y".repeat(1 << 20)), "\n", 2).await
        ),
        case!(
            "id-large",
            "an ID is given back as it came, also a large one",
            "keep the ID as an integer, not as a floating-point number",
            |rig| answers_raw(rig, "", "\n", 4_503_599_627_370_497).await
        ),
    ]
}

fn end() -> Vec<Case> {
    vec![
        case!(
            "shutdown",
            "after `shutdown` and the end of stdin it ends soon, with exit code 0",
            "leave the loop at `shutdown` or at the end of stdin, and exit with 0",
            |rig| {
                let mut wire = rig.open().await?;
                wire.send(&json!({ "jsonrpc": "2.0", "method": "shutdown", "params": {} })).await?;
                wire.hang_up();
                let status = wire.exit().await?;
                that(status.success(), || format!("it {}", crate::process::ending(status)))
            }
        ),
        case!(
            "end-of-stdin",
            "at the end of stdin it ends soon, with exit code 0",
            "leave the loop at the end of stdin, and exit with 0",
            |rig| {
                let mut wire = rig.open().await?;
                wire.hang_up();
                let status = wire.exit().await?;
                that(status.success(), || format!("it {}", crate::process::ending(status)))
            }
        ),
        case!(
            "end-before-anything",
            "where stdin ends at once, it ends soon",
            "leave the loop at the end of stdin",
            |rig| {
                let mut wire = rig.start().await?;
                wire.hang_up();
                wire.exit().await?;
                Ok(())
            }
        ),
        case!(
            "end-in-a-line",
            "where stdin ends in the middle of a line, it ends soon and answers nothing",
            "treat half a line at the end of stdin as the end",
            |rig| {
                let mut wire = rig.open().await?;
                wire.send_raw(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"desc").await?;
                wire.hang_up();
                let said = wire.next_line(super::PATIENCE).await;
                let what = match &said {
                    Ok(None) => None,
                    Ok(Some(line)) => Some(String::from_utf8_lossy(line).into_owned()),
                    Err(why) => Some(why.clone()),
                };
                // To say that it is no JSON is right too.
                let is_refusal = what.as_deref().is_some_and(|line| line.contains("-32700"));
                that(what.is_none() || is_refusal, || what.unwrap_or_default())
            }
        ),
    ]
}
