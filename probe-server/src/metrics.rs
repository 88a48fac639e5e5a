//! `--metrics`: Prometheus text on `/metrics`, and `/healthz`.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::shared::Shared;

/// Requests served at the same time.
const AT_ONCE: usize = 16;
const WITHIN: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 8 << 10;

/// What is held at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Sessions.
    pub sessions: usize,
    /// Flows, those included that are over and whose ledger is still held.
    pub flows: usize,
    /// TCP and QUIC connections.
    pub connections: usize,
}

pub(crate) fn held(shared: &Shared) -> Held {
    let (sessions, flows) = shared.hub().held();
    Held { sessions, flows, connections: shared.connections.load(Ordering::Relaxed) }
}

pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _place = place;
                    // A reader that goes away is its own concern.
                    let _ = timeout(WITHIN, answer(&shared, stream)).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept on the metrics port");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let path = loop {
        let mut more = [0; 1024];
        let n = stream.read(&mut more).await?;
        head.extend_from_slice(&more[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => break request.path.unwrap_or("").to_owned(),
            Ok(httparse::Status::Partial) if n > 0 && head.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => return Ok(()),
        }
    };
    let (status, body) = match path.split('?').next() {
        Some("/metrics") => ("200 OK", text(shared)),
        Some("/healthz") => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", "try /metrics or /healthz\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Prometheus text format 0.0.4.
fn text(shared: &Shared) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "# HELP probe_server_{name} {}\n# TYPE probe_server_{name} {kind}\nprobe_server_{name} {value}",
            help.trim()
        );
    };
    let held = held(shared);
    metric("sessions", "gauge", "Sessions held.", held.sessions as u64);
    metric("flows", "gauge", "Flows held.", held.flows as u64);
    metric("connections", "gauge", "TCP and QUIC connections.", held.connections as u64);
    for (name, help, value) in shared.counters.all() {
        metric(&format!("{name}_total"), "counter", help, value);
    }
    out
}
