//! OpenTelemetry: one more reader of the event stream. Exports a run as a trace over OTLP/HTTP
//! (protobuf) when the standard environment variables name a collector.
//!
//! `settings` (the variables) · `spans` (events → spans, pure) · `otlp` (spans → bytes). A slow or
//! dead collector never slows or fails a run: what doesn't fit into the bounded queue is dropped,
//! and how much was lost is told at the end.

mod otlp;
mod settings;
mod spans;

use std::time::Duration;

use migrate_engine::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::say::say;
use settings::Settings;
use spans::{Span, Tracer};

/// Events that wait for the exporter: minutes of a busy run.
const QUEUE: usize = 8_192;

/// Spans in one request: well below the 4 MiB that collectors take by default.
const MAX_BATCH: usize = 512;

/// How often finished spans are sent.
const SEND_EVERY: Duration = Duration::from_secs(5);

/// The longest that the end of a run waits for the collector.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Where events of a run go on their way to the collector.
pub struct Telemetry {
    events: mpsc::Sender<Event>,
    dropped: u64,
    exporter: JoinHandle<u64>,
}

impl Telemetry {
    /// Starts exporting if a collector is named.
    pub fn start() -> Option<Self> {
        let settings = match Settings::read(|name| std::env::var(name).ok()) {
            Ok(settings) => settings?,
            Err(why) => {
                say!("warning: no traces are exported: {why}");
                return None;
            }
        };
        Self::export_to(settings)
    }

    fn export_to(settings: Settings) -> Option<Self> {
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            // The headers may hold a key: they go to the collector that was named, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let client = match client {
            Ok(client) => client,
            Err(_) => {
                say!("warning: no traces are exported: the HTTP client can't be set up");
                return None;
            }
        };
        let (events, arrived) = mpsc::channel(QUEUE);
        let exporter = tokio::spawn(export(arrived, settings, client));
        Some(Self { events, dropped: 0, exporter })
    }

    /// Takes one event. Never waits.
    pub fn send(&mut self, event: &Event) {
        if self.events.try_send(event.clone()).is_err() {
            self.dropped += 1;
        }
    }

    /// Sends what is left, for a moment. Says what was lost.
    pub async fn finish(self) {
        let Self { events, dropped, exporter } = self;
        drop(events);
        let stop = exporter.abort_handle();
        match tokio::time::timeout(LAST_WAIT, exporter).await {
            Ok(Ok(0)) if dropped == 0 => {}
            Ok(Ok(lost)) => say!(
                "warning: traces are incomplete: {lost} spans not taken by the collector, {dropped} events dropped"
            ),
            _ => {
                stop.abort();
                say!("warning: traces are incomplete: the collector did not answer in time");
            }
        }
    }
}

/// Turns events into spans and sends them until there are no more. Returns how many were lost.
async fn export(mut events: mpsc::Receiver<Event>, settings: Settings, client: reqwest::Client) -> u64 {
    let mut tracer = Tracer::default();
    let (mut ready, mut lost) = (Vec::new(), 0);
    let mut timer = tokio::time::interval(SEND_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    tracer.take(&event, &mut ready);
                    if ready.len() < MAX_BATCH {
                        continue;
                    }
                    false
                }
                None => true,
            },
            _ = timer.tick() => false,
        };
        if ended {
            tracer.end(&mut ready);
        }
        while !ready.is_empty() {
            let batch: Vec<Span> = ready.drain(..ready.len().min(MAX_BATCH)).collect();
            let count = batch.len() as u64;
            if !post(&client, &settings, batch).await {
                lost += count;
            }
        }
        if ended {
            return lost;
        }
    }
}

/// Whether the collector took it. There is no retry: a trace is worth less than what it costs to wait.
async fn post(client: &reqwest::Client, settings: &Settings, batch: Vec<Span>) -> bool {
    let body = otlp::request(settings, batch);
    let mut request = client.post(&settings.endpoint).header("content-type", "application/x-protobuf");
    for (name, value) in &settings.headers {
        request = request.header(name, value);
    }
    matches!(request.body(body).send().await, Ok(response) if response.status().is_success())
}

#[cfg(test)]
mod tests;
