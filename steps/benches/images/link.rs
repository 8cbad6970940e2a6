//! A slow link of ours in front of a registry: what goes in comes out later, at a bounded rate that
//! all connections of one direction share. Counts the bytes of both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use crate::Result;

/// There and back.
pub const ROUND_TRIP: Duration = Duration::from_millis(40);

/// Each direction, all connections together.
pub const BYTES_PER_SECOND: f64 = 50.0 * 1024.0 * 1024.0;

const BUFFER_BYTES: usize = 32 * 1024;

/// How far what is taken in may be ahead of the wire.
const AHEAD: Duration = Duration::from_millis(20);

/// Pieces on their way in one connection: more than rate and delay need, so that neither waits.
const IN_FLIGHT: usize = 128;

/// One direction of the link.
#[derive(Default)]
struct Lane {
    /// When the wire is free again.
    free_at: Mutex<Option<Instant>>,
    bytes: AtomicU64,
}

impl Lane {
    /// Waits until `bytes` are about to pass the wire; says when they have.
    async fn pass(&self, bytes: usize) -> Instant {
        let at = {
            let mut free_at = self.free_at.lock().await;
            let start = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            let at = start + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
            *free_at = Some(at);
            at
        };
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // A timer's millisecond is longer than a piece: one connection alone must be able to fill the wire.
        if at > Instant::now() + AHEAD {
            tokio::time::sleep_until(at - AHEAD).await;
        }
        at
    }
}

/// The link in front of one registry.
pub struct Link {
    pub address: String,
    up: Arc<Lane>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (up, down) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
        let (upstream, counted) = (upstream.to_owned(), Arc::clone(&up));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                carry(client_read, server_write, Arc::clone(&up));
                carry(server_read, client_write, Arc::clone(&down));
            }
        });
        Ok(Self { address, up: counted, task })
    }

    /// Bytes that went to the registry, headers included.
    pub fn bytes_up(&self) -> u64 {
        self.up.bytes.load(Ordering::Relaxed)
    }
}

/// One direction of one connection: read, pass the wire, arrive half a round trip later.
fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lane: Arc<Lane>) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count) = from.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            let arrives = lane.pass(count).await + ROUND_TRIP / 2;
            if sender.send((arrives, buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((arrives, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(arrives).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    });
}
