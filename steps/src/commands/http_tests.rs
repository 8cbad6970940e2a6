//! `http` against a stand-in service.

use std::sync::Arc;
use std::time::Duration;

use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{
    CheckStatus, ErrorClass, Observation, Step, StepContext, StepError, Typed, VerifyDepth,
};
use serde_json::{Value, json};
use wiremock::matchers::{body_json, body_string, header, method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::http::Http;

/// A secret that must be nowhere.
const CANARY: &str = "canary-91ab04";

struct Stand {
    server: MockServer,
    host: Arc<RecordingHost>,
}

impl Stand {
    async fn new() -> Self {
        Self { server: MockServer::start().await, host: Arc::default() }
    }

    fn context(&self) -> StepContext {
        let cursor = self.host.recorded().cursors.last().cloned();
        self.host.context("ask", "/project").with_state(None, cursor)
    }

    /// A config for `path` with `more`.
    fn config(&self, path: &str, more: Value) -> Value {
        let mut config = json!({ "url": format!("{}{path}", self.server.uri()) });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    async fn answers(&self, verb: &str, at: &str, answer: ResponseTemplate) {
        Mock::given(method(verb)).and(path(at)).respond_with(answer).mount(&self.server).await;
    }

    async fn apply(&self, config: &Value) -> Result<Value, StepError> {
        Typed(Http).apply(&self.context(), config).await
    }

    async fn observe(&self, config: &Value) -> Observation {
        Typed(Http).observe(&self.context(), config).await.unwrap()
    }

    async fn received(&self) -> Vec<Request> {
        self.server.received_requests().await.unwrap()
    }
}

fn unknown(observation: Observation) -> String {
    match observation {
        Observation::Unknown { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_read_and_looked_at_again() {
    let stand = Stand::new().await;
    stand
        .answers("GET", "/state", ResponseTemplate::new(200).set_body_json(json!({ "state": "ready" })))
        .await;
    let config = stand.config("/state?token=x", json!({ "expect": { "json": { "/state": "ready" } } }));
    let outputs = stand.apply(&config).await.unwrap();
    let body = r#"{"state":"ready"}"#;
    assert_eq!(
        outputs,
        json!({ "status": 200, "body": body, "body_truncated": false, "json": { "state": "ready" } })
    );
    let verify = async || Typed(Http).verify(&stand.context(), &config, &outputs, VerifyDepth::Quick).await;
    let evidence = verify().await.unwrap();
    let told: Vec<_> = evidence.checks.iter().map(|c| (c.what.as_str(), c.target.as_str())).collect();
    assert_eq!(told, [("status", "200"), ("JSON at /state", "\"ready\"")]);
    assert!(!evidence.checks[0].subject.contains("token"), "{evidence:?}");

    stand.server.reset().await;
    stand.answers("GET", "/state", ResponseTemplate::new(503)).await;
    assert!(verify().await.unwrap_err().class.is_retryable(), "busy is no failed check");
    stand.server.reset().await;
    stand.answers("GET", "/state", ResponseTemplate::new(200).set_body_string("gone")).await;
    assert!(!verify().await.unwrap().passed());
}

#[tokio::test]
async fn bodies_and_secrets_are_sent_and_secrets_come_back_masked() {
    let stand = Stand::new().await;
    stand.host.put_secret("env:TOKEN", CANARY);
    stand.host.put_secret("file:key", "key-0e1f");
    Mock::given(method("POST"))
        .and(body_json(json!({ "text": "hello" })))
        .and(header("content-type", "application/json"))
        .and(header("authorization", format!("Bearer {CANARY}").as_str()))
        .and(header("x-api-key", "key-0e1f"))
        .and(header("x-plain", "plain"))
        .respond_with(ResponseTemplate::new(201).set_body_string(format!("you are {CANARY}")))
        .mount(&stand.server)
        .await;
    let more = json!({
        "method": "POST", "json": { "text": "hello" }, "bearer": "env:TOKEN",
        "headers": { "X-Plain": "plain" }, "secret-headers": { "X-Api-Key": "file:key" },
    });
    let outputs = stand.apply(&stand.config("/send", more)).await.unwrap();
    assert_eq!((&outputs["status"], &outputs["body"]), (&json!(201), &json!("you are ********")));

    Mock::given(method("PUT"))
        .and(body_string("text"))
        .respond_with(ResponseTemplate::new(400).set_body_string(format!("bad {CANARY}")))
        .mount(&stand.server)
        .await;
    let more = json!({ "method": "PUT", "body": "text", "bearer": "env:TOKEN" });
    let error = stand.apply(&stand.config("/send", more)).await.unwrap_err();
    assert!(error.message.ends_with("was answered with 400 Bad Request: bad ********"), "{error}");
    let recorded = stand.host.recorded();
    let everything = format!("{outputs} {error:?} {:?} {:?}", recorded.log, recorded.cursors);
    assert!(!everything.contains(CANARY), "{everything}");
}

#[tokio::test]
async fn a_secret_that_json_spells_otherwise_is_masked_too() {
    let stand = Stand::new().await;
    let secret = format!(r#"{CANARY}"/="#);
    stand.host.put_secret("env:TOKEN", &secret);
    let spelt = format!(r#"{CANARY}\u0022\/\u003d"#);
    let body = format!(r#"{{"t":"{spelt}","{spelt}":true}}"#);
    for status in [200, 400] {
        let answer = ResponseTemplate::new(status).set_body_string(&body);
        stand.answers("GET", &format!("/{status}"), answer).await;
    }
    let config = |path: &str| stand.config(path, json!({ "secret-headers": { "X-Key": "env:TOKEN" } }));
    let outputs = stand.apply(&config("/200")).await.unwrap();
    assert_eq!(outputs["json"], json!({ "t": "********", "********": true }));
    assert_eq!(outputs["body"], r#"{"t":"********","********":true}"#);
    let error = stand.apply(&config("/400")).await.unwrap_err();
    assert!(error.message.ends_with(r#"400 Bad Request: {"t":"********","********":true}"#), "{error}");
    let recorded = stand.host.recorded();
    let everything = format!("{outputs} {error:?} {:?} {:?}", recorded.log, recorded.cursors);
    assert!(!everything.contains(CANARY), "{everything}");
}

#[tokio::test]
async fn a_redirect_is_followed_by_who_reads_and_carries_nothing_to_another_host() {
    let (stand, other) = (Stand::new().await, Stand::new().await);
    stand.host.put_secret("env:TOKEN", CANARY);
    let away = format!("{}/there", other.server.uri());
    stand.answers("GET", "/away", ResponseTemplate::new(302).insert_header("location", away.as_str())).await;
    stand.answers("POST", "/away", ResponseTemplate::new(307).insert_header("location", away.as_str())).await;
    stand.answers("GET", "/near", ResponseTemplate::new(301).insert_header("location", "/away")).await;
    stand.answers("GET", "/circle", ResponseTemplate::new(302).insert_header("location", "/circle")).await;
    other.answers("GET", "/there", ResponseTemplate::new(200).set_body_string("there")).await;
    let secrets = json!({
        "bearer": "env:TOKEN", "secret-headers": { "X-Api-Key": "env:TOKEN" }, "headers": { "X-Mine": "1" },
        "redirects": "any",
    });
    let outputs = stand.apply(&stand.config("/near", secrets.clone())).await.unwrap();
    assert_eq!(outputs["body"], "there");
    assert!(stand.received().await.iter().all(|r| r.headers.contains_key("authorization")));
    let there = other.received().await;
    assert_eq!(there.len(), 1);
    for name in ["authorization", "x-api-key", "x-mine"] {
        assert!(!there[0].headers.contains_key(name), "{name}");
    }

    let mut post = secrets;
    post["method"] = "POST".into();
    let error = stand.apply(&stand.config("/away", post)).await.unwrap_err();
    assert!(error.message.ends_with("was answered with 307 Temporary Redirect"), "{error}");
    assert_eq!(other.received().await.len(), 1, "a body goes nowhere else");
    let error = stand.apply(&stand.config("/circle", json!({}))).await.unwrap_err();
    assert!(error.message.ends_with("is redirected in a circle"), "{error}");
}

/// As an ingress does before DNS has moved: its canonical name still leads to the old side.
#[tokio::test]
async fn what_another_host_answers_is_not_the_word_of_the_one_that_was_asked() {
    let (new, old) = (Stand::new().await, Stand::new().await);
    let away = format!("{}/health?token={CANARY}", old.server.uri());
    let redirect = |status| ResponseTemplate::new(status).insert_header("location", away.as_str());
    new.answers("GET", "/health", redirect(308)).await;
    new.answers("GET", "/near", ResponseTemplate::new(301).insert_header("location", "/health")).await;
    new.answers("GET", "/moved", ResponseTemplate::new(301).insert_header("location", "/ready")).await;
    let ready = || ResponseTemplate::new(200).set_body_json(json!({ "status": "ready" }));
    old.answers("GET", "/health", ready()).await;
    new.answers("GET", "/ready", ready()).await;

    let expect = json!({ "expect": { "json": { "/status": "ready" } } });
    for path in ["/health", "/near"] {
        let config = new.config(path, expect.clone());
        let outputs = json!({ "status": 200, "body": "", "body_truncated": false, "json": null });
        let verified = Typed(Http).verify(&new.context(), &config, &outputs, VerifyDepth::Quick).await;
        for error in [new.apply(&config).await.unwrap_err(), verified.unwrap_err()] {
            let told = format!("/health` is redirected to another origin, {}", old.server.uri());
            assert!(error.message.ends_with(&told), "{error}");
            assert!(!error.class.is_retryable() && error.hint.unwrap().contains("redirects"));
        }
    }
    assert!(old.received().await.is_empty(), "it is not even asked");

    new.apply(&new.config("/moved", expect.clone())).await.unwrap();
    let mut any = new.config("/health", expect);
    any["redirects"] = "any".into();
    new.apply(&any).await.unwrap();
    let only = json!({ "expect": { "status": [308] } });
    assert_eq!(new.apply(&new.config("/health", only)).await.unwrap()["status"], 308);
}

#[tokio::test]
async fn what_can_not_be_looked_at_is_a_warning() {
    let stand = Stand::new().await;
    let config = stand.config("/change", json!({ "method": "POST" }));
    let outputs = json!({ "status": 200, "body": "", "body_truncated": false, "json": null });
    let verified = Typed(Http).verify(&stand.context(), &config, &outputs, VerifyDepth::Deep).await.unwrap();
    assert_eq!(verified.checks[0].status, CheckStatus::Warning);
    assert!(verified.checks[0].note.as_ref().unwrap().contains("nothing was looked at"));
    assert!(stand.received().await.is_empty());
}

#[tokio::test]
async fn what_may_have_arrived_is_only_sent_again_where_that_is_harmless() {
    let stand = Stand::new().await;
    let post = |more: Value| {
        let mut config = stand.config("/pay", json!({ "method": "POST" }));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let plain = post(json!({}));
    assert!(unknown(stand.observe(&plain).await).ends_with("/pay` was not seen"));
    for harmless in [
        json!({ "method": "PUT" }),
        json!({ "method": "DELETE" }),
        json!({ "method": "GET" }),
        json!({ "idempotency": "natural" }),
        json!({ "method": "PUT", "idempotency-key-header": "Idempotency-Key" }),
    ] {
        assert_eq!(stand.observe(&post(harmless)).await, Observation::Absent);
    }
    unknown(stand.observe(&post(json!({ "method": "PUT", "idempotency": "none" }))).await);
    // Only under this key: another body would have another.
    let keyed = post(json!({ "idempotency-key-header": "Idempotency-Key" }));
    let begun = Observation::Running { handle: "ask-0000000000".to_owned() };
    assert_eq!(stand.observe(&keyed).await, begun);

    // A refusal is known to have done nothing; an error of the server isn't.
    for (status, class, is_absent) in [
        (429, ErrorClass::Throttled { retry_after_ms: Some(3000) }, true),
        (422, ErrorClass::Permanent, true),
        (408, ErrorClass::Transient { retry_after_ms: Some(3000) }, false),
        (500, ErrorClass::Transient { retry_after_ms: Some(3000) }, false),
    ] {
        stand.server.reset().await;
        stand.answers("POST", "/pay", ResponseTemplate::new(status).insert_header("retry-after", "3")).await;
        assert_eq!(stand.apply(&plain).await.unwrap_err().class, class);
        let observation = stand.observe(&plain).await;
        assert_eq!(observation == Observation::Absent, is_absent, "{status}: {observation:?}");
        assert_eq!(stand.observe(&keyed).await == Observation::Absent, is_absent, "{status}");
        // That this one was refused says nothing of the one before it.
        let cursor = stand.host.recorded().cursors.last().cloned();
        let ctx = stand.context().with_state(Some("ask-0000000000".to_owned()), cursor);
        assert_eq!(Typed(Http).observe(&ctx, &keyed).await.unwrap(), begun, "{status}");
    }
}

#[tokio::test]
async fn a_service_that_is_down_has_seen_nothing_and_a_silent_one_may_have() {
    let stand = Stand::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/pay", listener.local_addr().unwrap());
    let config = json!({ "url": url, "method": "POST", "answer-timeout": "100ms" });
    let silent = stand.apply(&config).await.unwrap_err();
    assert!(silent.class.is_retryable() && silent.message.contains("had no answer"), "{silent}");
    unknown(stand.observe(&config).await);
    drop(listener);
    assert!(stand.apply(&config).await.unwrap_err().class.is_retryable());
    assert_eq!(stand.observe(&config).await, Observation::Absent);
}

#[tokio::test]
async fn the_key_of_the_node_is_sent_where_it_is_asked_for() {
    let stand = Stand::new().await;
    Mock::given(header("idempotency-key", "ask-0000000000"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&stand.server)
        .await;
    let more = json!({ "method": "POST", "idempotency-key-header": "Idempotency-Key" });
    stand.apply(&stand.config("/pay", more)).await.unwrap();
}

#[tokio::test]
async fn a_long_answer_is_cut_and_said() {
    let stand = Stand::new().await;
    stand.answers("GET", "/", ResponseTemplate::new(200).set_body_string("1".repeat(100_000))).await;
    let outputs = stand.apply(&stand.config("/", json!({}))).await.unwrap();
    assert_eq!(outputs["body"].as_str().unwrap().len(), super::KEPT_BYTES);
    assert_eq!((&outputs["body_truncated"], &outputs["json"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn a_cancelled_request_ends_at_once() {
    let stand = Stand::new().await;
    stand.answers("GET", "/", ResponseTemplate::new(200).set_delay(Duration::from_secs(60))).await;
    let ctx = stand.context();
    ctx.cancel.cancel();
    let error = Typed(Http).apply(&ctx, &stand.config("/", json!({}))).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Cancelled);
}

#[tokio::test]
async fn mistakes_are_found_before_anything_is_sent() {
    let stand = Stand::new().await;
    let problems = async |config: Value| {
        let plan = Typed(Http).plan(&stand.context(), &config).await.unwrap();
        let told = plan.problems.into_iter();
        told.map(|p| format!("{}: {}", p.field.unwrap_or_default(), p.message)).collect::<Vec<_>>()
    };
    let all = [
        problems(json!({
            "url": "ftp://me:word@example/", "json": 1, "body": "2", "method": "HEAD",
            "headers": { "a b": "1", "X-Key": "1" }, "secret-headers": { "x-key": "env:NONE" },
            "expect": { "json": { "state": 1 } },
        }))
        .await,
        problems(json!({ "url": "https://example/", "bearer": "env:NONE" })).await,
    ];
    insta::assert_snapshot!(all.concat().join("\n"), @r"
    url: it is no web address
    url: the address holds credentials
    body: there can be `json` or `body`, not both
    headers: `a b` is no name of a header
    headers: header `x-key` is given twice
    expect: `state` is no JSON Pointer: it begins with `/`
    expect: an answer to HEAD has no JSON
    secret-headers: no secret at `env:NONE`
    ");
    assert!(stand.received().await.is_empty());
    let unknown = json!({ "url": { "$unknown": "nodes.a.url" } });
    let plan = Typed(Http).plan(&stand.context(), &unknown).await.unwrap();
    assert_eq!(plan.summary, "send a request to a service");
}

#[tokio::test]
async fn what_waits_for_another_node_is_checked_as_far_as_it_is_known() {
    let stand = Stand::new().await;
    let unknown = json!({ "$unknown": "nodes.a.stdout" });
    let plan = async |config: Value| Typed(Http).plan(&stand.context(), &config).await.unwrap();
    let problems = async |config: Value| {
        let told = plan(config).await.problems.into_iter();
        told.map(|p| format!("{:?} in {}: {}", p.severity, p.field.unwrap_or_default(), p.message))
            .collect::<Vec<_>>()
    };
    let all = [
        problems(json!({ "url": "ftp://me:word@example/", "bearer": "env:NONE", "json": { "v": unknown } }))
            .await,
        problems(json!({
            "url": unknown, "method": "HEAD", "headers": { "a b": "1", "C": unknown, "X-Key": "1" },
            "secret-headers": { "x-key": "file:key" }, "expect": { "json": { "state": 1 } },
        }))
        .await,
        problems(json!({ "url": "https://example/", "headers": unknown, "bearer": unknown })).await,
    ];
    insta::assert_snapshot!(all.concat().join("
"), @r"
    Error in url: it is no web address
    Error in url: the address holds credentials
    Error in bearer: no secret at `env:NONE`
    Error in headers: `a b` is no name of a header
    Error in headers: header `x-key` is given twice
    Error in expect: `state` is no JSON Pointer: it begins with `/`
    Error in expect: an answer to HEAD has no JSON
    Warning in secret-headers: no secret at `file:key`
    ");
    let delete = json!({ "url": "https://example/a?b", "method": "DELETE", "body": unknown });
    assert_eq!(plan(delete).await.destroys, ["https://example/a"]);
    assert!(stand.received().await.is_empty());
}
