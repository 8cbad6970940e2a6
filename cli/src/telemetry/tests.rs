//! A collector on loopback that decodes what it gets, and collectors that are dead or don't answer.

use std::time::{Duration, Instant};

use migrate_engine::{EVENT_VERSION, Event, EventKind, RunState};
use migrate_plugin_api::{ErrorClass, ErrorRecord, Evidence, NodeId, Progress, RunId};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Telemetry;
use super::otlp::{AnyValueKind, ExportRequest, OtlpSpan};
use super::settings::Settings;

fn settings(endpoint: &str) -> Settings {
    let find = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.to_owned()),
        "OTEL_EXPORTER_OTLP_HEADERS" => Some("api-key=canary".to_owned()),
        _ => None,
    };
    Settings::read(find).unwrap().unwrap()
}

fn story() -> Vec<Event> {
    let node = || NodeId::new("copy").unwrap();
    let error = ErrorRecord {
        class: ErrorClass::Throttled { retry_after_ms: None },
        message: "too fast".to_owned(),
        causes: Vec::new(),
        hint: None,
    };
    let progress = Progress::default().bytes(7, 7);
    let evidence = Evidence::default();
    let started = |attempt| EventKind::NodeStarted { node: node(), step: "blob.copy".to_owned(), attempt };
    let kinds = [
        EventKind::RunStarted { workflow: "w".to_owned(), resumed: false, nodes: vec![node()] },
        started(1),
        EventKind::NodeRetrying { node: node(), attempt: 1, error, delay_ms: 5 },
        started(2),
        EventKind::NodeProgress { node: node(), progress },
        EventKind::NodeVerifying { node: node() },
        EventKind::NodeFinished {
            node: node(),
            attempts: 2,
            duration_ms: 9,
            outputs: serde_json::json!({ "token": "canary" }),
            evidence,
        },
        EventKind::RunFinished { state: RunState::Done, duration_ms: 10 },
    ];
    let run = RunId::new("r").unwrap();
    let event = |(second, kind)| Event {
        version: EVENT_VERSION,
        at: migrate_engine::Timestamp::from_second(second).unwrap(),
        run: run.clone(),
        kind,
    };
    (1..).zip(kinds).map(event).collect()
}

/// Answers one request and returns its head and body.
async fn one_request(listener: TcpListener) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.unwrap();
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            return (head, bytes[end + 4..].to_vec());
        }
    }
}

fn attribute(span: &OtlpSpan, name: &str) -> Option<AnyValueKind> {
    span.attributes.iter().find(|a| a.key == name)?.value.clone()?.value
}

#[tokio::test]
async fn a_run_is_one_trace_of_run_node_and_attempts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut telemetry = Telemetry::export_to(settings(&endpoint)).unwrap();
    story().iter().for_each(|event| telemetry.send(event));
    let ((head, body), ()) = tokio::join!(one_request(listener), telemetry.finish());
    assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
    assert!(head.contains("api-key: canary"));
    assert!(!String::from_utf8_lossy(&body).contains("canary"), "no outputs and no headers are in a trace");
    let request = ExportRequest::decode(&*body).unwrap();
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["attempt 1", "attempt 2", "copy", "run w"]);
    let [first, second, node, run] = &spans[..] else { panic!("{spans:?}") };
    assert!(spans.iter().all(|span| span.trace_id == run.trace_id && span.trace_id.len() == 16));
    assert!(run.parent_span_id.is_empty());
    assert_eq!(node.parent_span_id, run.span_id);
    assert_eq!([&first.parent_span_id, &second.parent_span_id], [&node.span_id; 2]);
    assert_ne!(first.span_id, second.span_id);
    assert_eq!(first.status.as_ref().unwrap().message, "too fast");
    assert_eq!(attribute(first, "error.type"), Some(AnyValueKind::Text("throttled".to_owned())));
    assert_eq!(attribute(node, "migrate.retries"), Some(AnyValueKind::Number(1)));
    assert_eq!(attribute(node, "migrate.bytes"), Some(AnyValueKind::Number(7)));
    assert_eq!((node.start_time_unix_nano, node.end_time_unix_nano), (2_000_000_000, 7_000_000_000));
    assert_eq!(run.end_time_unix_nano, 8_000_000_000);
}

#[tokio::test]
async fn a_dead_or_silent_collector_costs_a_moment_at_the_end_and_nothing_else() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let mut telemetry = Telemetry::export_to(settings(&format!("http://{address}"))).unwrap();
    let began = Instant::now();
    for _ in 0..20_000 {
        story().iter().take(1).for_each(|event| telemetry.send(event));
    }
    assert!(telemetry.dropped > 0, "the queue is bounded");
    telemetry.finish().await;
    // Accepts, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut telemetry =
        Telemetry::export_to(settings(&format!("http://{}", silent.local_addr().unwrap()))).unwrap();
    story().iter().for_each(|event| telemetry.send(event));
    telemetry.finish().await;
    assert!(began.elapsed() < super::LAST_WAIT + Duration::from_secs(20));
}
