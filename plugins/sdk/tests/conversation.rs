//! The plugin's side of the protocol, line by line.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::sync::Arc;

use migrate_plugin_sdk::{
    Evidence, Idempotency, Observation, Progress, SecretRef, ServeError, Step, StepContext, StepError,
    StepInfo, StepPlan, VerifyDepth, async_trait, serve_on,
};
use serde_json::{Value, json};

/// Does what its config says.
struct Probe;

#[async_trait]
impl Step for Probe {
    fn describe(&self) -> StepInfo {
        StepInfo {
            name: "test.probe".into(),
            version: "1".into(),
            summary: "Does what it is told".into(),
            config_schema: json!({}),
            output_schema: json!({}),
            sensitive: Vec::new(),
            idempotency: Idempotency::Keyed,
            supports_undo: true,
        }
    }

    async fn plan(&self, _: &StepContext, _: &Value) -> Result<StepPlan, StepError> {
        Ok(StepPlan::new("do something"))
    }

    async fn observe(&self, _: &StepContext, _: &Value) -> Result<Observation, StepError> {
        Ok(Observation::Running { handle: "h".into() })
    }

    async fn apply(&self, ctx: &StepContext, config: &Value) -> Result<Value, StepError> {
        match config["do"].as_str().unwrap_or_default() {
            "place" => {
                ctx.progress(Progress::message("half").items(1, 2));
                ctx.info("a line");
                ctx.heartbeat();
                ctx.set_handle("h-1").await?;
                ctx.checkpoint(&json!({ "at": 1 })).await?;
                Ok(json!({ "cursor": ctx.cursor::<Value>()?, "handle": ctx.handle(), "key": ctx.key }))
            }
            "secret" => {
                let reference = SecretRef::try_from("env:TOKEN".to_owned()).expect("a reference");
                Ok(json!({ "length": ctx.secret(&reference).await?.expose().len() }))
            }
            "wait" => {
                ctx.info("waiting");
                ctx.cancel.cancelled().await;
                Err(StepError::cancelled())
            }
            "panic" => panic!("on purpose"),
            "long" => Ok(json!({ "text": "x".repeat(5_000_000) })),
            _ => Err(StepError::conflict("in the way").with_hint("look")),
        }
    }

    async fn verify(
        &self,
        _: &StepContext,
        _: &Value,
        _: &Value,
        depth: VerifyDepth,
    ) -> Result<Evidence, StepError> {
        let found = if depth == VerifyDepth::Deep { "deep" } else { "quick" };
        Ok(Evidence { checks: vec![migrate_plugin_sdk::Check::equal("thing", "depth", "deep", found)] })
    }

    async fn undo(&self, _: &StepContext, _: &Value, _: &Value) -> Result<(), StepError> {
        Ok(())
    }
}

/// The host's side.
struct Talk {
    to: PipeWriter,
    from: BufReader<PipeReader>,
    served: std::thread::JoinHandle<Result<(), ServeError>>,
}

impl Talk {
    /// A conversation that has begun.
    fn new() -> Self {
        let mut talk = Self::silent();
        let limits = json!({ "message_bytes": 4_194_304, "output_bytes": 1, "cancel_grace_seconds": 8 });
        let params = json!({ "protocol_versions": [2, 1], "host": { "name": "migrate", "version": "0" }, "limits": limits });
        let answer = talk.ask(0, "initialize", &params);
        assert_eq!(answer["result"], json!({ "protocol_version": 1, "cancel": true }));
        talk
    }

    fn silent() -> Self {
        let ((input, to), (from, output)) = (pipe().unwrap(), pipe().unwrap());
        let served = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let served = runtime.block_on(serve_on(Arc::new(Probe), input, output));
            runtime.shutdown_background();
            served
        });
        Self { to, from: BufReader::new(from), served }
    }

    fn write(&mut self, line: &str) {
        self.to.write_all(line.as_bytes()).and_then(|()| self.to.write_all(b"\n")).unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    fn begin(&mut self, id: u32, method: &str, params: &Value) {
        self.write(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string());
    }

    fn ask(&mut self, id: u32, method: &str, params: &Value) -> Value {
        self.begin(id, method, params);
        self.read()
    }

    fn call(&mut self, id: u32, method: &str, config: Value) -> Value {
        self.ask(id, method, &params(config))
    }
}

fn params(config: Value) -> Value {
    let context = json!({ "run": "r", "node": "n", "attempt": 1, "key": "n-1", "project_dir": "/project" });
    json!({ "context": context, "config": config, "outputs": {}, "depth": "quick" })
}

#[test]
fn every_call_is_answered_in_the_protocols_form() {
    let mut talk = Talk::new();
    let described = talk.ask(1, "describe", &json!({}))["result"].clone();
    assert_eq!((&described["name"], &described["idempotency"]), (&json!("test.probe"), &json!("keyed")));
    let answers =
        ["plan", "observe", "verify", "undo"].map(|method| talk.call(2, method, json!({}))["result"].clone());
    let check = json!({ "subject": "thing", "what": "depth", "source": "deep", "target": "quick", "status": "failed" });
    let expected = [
        json!({ "summary": "do something" }),
        json!({ "state": "running", "handle": "h" }),
        json!({ "checks": [check] }),
        json!({}),
    ];
    assert_eq!(answers, expected);
    for (method, code) in [("validate", -32601), ("bogus", -32601), ("initialize", -32602)] {
        assert_eq!(talk.call(3, method, json!({}))["error"]["code"], code, "{method}");
    }
    assert_eq!(talk.ask(4, "apply", &json!({}))["error"]["code"], -32602);
    talk.write(r#"{"jsonrpc":"2.0","method":"shutdown","params":{}}"#);
    talk.served.join().unwrap().unwrap();
}

#[test]
fn what_a_step_tells_comes_before_its_answer_and_waits_until_it_is_durable() {
    let mut talk = Talk::new();
    let mut asked = params(json!({ "do": "place" }));
    asked["context"]["cursor"] = json!([3]);
    asked["context"]["handle"] = json!("h-0");
    talk.begin(1, "apply", &asked);
    let told = [talk.read(), talk.read(), talk.read()].map(|m| (m["method"].clone(), m["params"].clone()));
    let expected = [
        (json!("progress"), json!({ "message": "half", "items": { "done": 1, "total": 2 } })),
        (json!("log"), json!({ "level": "info", "message": "a line" })),
        (json!("heartbeat"), json!({})),
    ];
    assert_eq!(told, expected);
    for (method, wanted) in
        [("set_handle", json!({ "handle": "h-1" })), ("checkpoint", json!({ "cursor": { "at": 1 } }))]
    {
        let request = talk.read();
        assert_eq!((&request["method"], &request["params"]), (&json!(method), &wanted));
        talk.write(&json!({ "jsonrpc": "2.0", "id": request["id"], "result": {} }).to_string());
    }
    let outputs = json!({ "cursor": [3], "handle": "h-0", "key": "n-1" });
    assert_eq!(talk.read()["result"], json!({ "outputs": outputs }));
}

#[test]
fn a_refused_request_stops_the_step_with_the_same_error() {
    let mut talk = Talk::new();
    let request = talk.call(1, "apply", json!({ "do": "secret" }));
    let error =
        json!({ "code": -32000, "message": "it is not set", "data": { "class": "auth", "hint": "set it" } });
    talk.write(&json!({ "jsonrpc": "2.0", "id": request["id"], "error": error }).to_string());
    assert_eq!(talk.read()["error"], error);
}

#[test]
fn a_secret_is_read_from_its_file_and_has_a_limit() {
    let mut talk = Talk::new();
    let folder = std::env::temp_dir().join(format!("migrate-sdk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("secret");
    for (length, is_read) in [(12, true), (64 * 1024, true), (64 * 1024 + 1, false)] {
        std::fs::write(&file, "x".repeat(length)).unwrap();
        let request = talk.call(1, "apply", json!({ "do": "secret" }));
        assert_eq!(request["params"], json!({ "reference": "env:TOKEN" }));
        talk.write(&json!({ "jsonrpc": "2.0", "id": request["id"], "result": { "path": file } }).to_string());
        let answer = talk.read();
        assert_eq!(answer["result"]["outputs"]["length"] == length, is_read, "{answer}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn errors_panics_and_answers_that_are_too_long_cost_their_call() {
    let mut talk = Talk::new();
    let failed = |talk: &mut Talk, what: &str| talk.call(1, "apply", json!({ "do": what }))["error"].clone();
    let conflict =
        json!({ "code": -32000, "message": "in the way", "data": { "class": "conflict", "hint": "look" } });
    assert_eq!(failed(&mut talk, "other"), conflict);
    assert_eq!(failed(&mut talk, "panic")["message"], "the step panicked");
    assert_eq!(failed(&mut talk, "long")["message"], "the answer is longer than 4194304 bytes");
    assert_eq!(talk.call(1, "plan", json!({}))["result"]["summary"], "do something");
}

#[test]
fn a_call_is_cancelled_by_its_own_number_only() {
    let mut talk = Talk::new();
    talk.begin(7, "apply", &params(json!({ "do": "wait" })));
    assert_eq!(talk.read()["params"]["message"], "waiting");
    talk.write(r#"{"jsonrpc":"2.0","method":"cancel","params":{"call":6}}"#);
    // Answered while the call goes on, so the wrong number was no cancel.
    assert_eq!(talk.call(8, "plan", json!({}))["error"]["code"], -32600);
    talk.write(r#"{"jsonrpc":"2.0","method":"cancel","params":{"call":7}}"#);
    let answer = talk.read();
    assert_eq!((&answer["id"], &answer["error"]["data"]["class"]), (&json!(7), &json!("cancelled")));
}

#[test]
fn a_host_that_is_gone_ends_it_in_the_middle_of_a_call() {
    let mut talk = Talk::new();
    talk.begin(1, "apply", &params(json!({ "do": "wait" })));
    talk.read();
    drop(talk.to);
    talk.served.join().unwrap().unwrap();
}

#[test]
fn what_is_no_message_is_told_and_an_endless_line_ends_it() {
    let mut talk = Talk::silent();
    assert_eq!(talk.call(1, "plan", json!({}))["error"]["message"], "`initialize` must come first");
    for (line, code) in [("{", -32700), ("[]", -32600), ("7", -32600)] {
        talk.write("");
        talk.write(line);
        let answer = talk.read();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(code)), "{line}");
    }
    let limits = json!({ "message_bytes": 1, "output_bytes": 1, "cancel_grace_seconds": 1 });
    let params =
        json!({ "protocol_versions": [7], "host": { "name": "m", "version": "0" }, "limits": limits });
    let refused = talk.ask(2, "initialize", &params)["error"].clone();
    assert_eq!((&refused["code"], &refused["data"]["protocol_versions"]), (&json!(-32001), &json!([1])));
    let Talk { mut to, served, .. } = talk;
    // The pipe breaks as soon as it is given up.
    let _ = std::thread::spawn(move || to.write_all(&vec![b'x'; 5 * 1024 * 1024])).join();
    let error = served.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the host sent a line of more than 4194304 bytes");
}
