//! The TCP port: accepting connections, telling what opens, and serving it.

pub(crate) mod flow;
mod http;
pub(crate) mod open;
mod rewind;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_net::tcp;
use probe_protocol::control::TcpFacts;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::stream::{FirstBytes, first_bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::open::{Under, open};
use self::rewind::Rewind;
use crate::core::counters::Counters;
use crate::shared::{Shared, Silent};
use crate::tls::EXPORTER_LABEL;

/// How long a connection may take to say something known, handshakes included.
pub(crate) const SPEAK_WITHIN: Duration = Duration::from_secs(10);
/// Connections of one source that have not said anything known yet.
const MAX_SILENT: usize = 64;
/// After an error of accepting that is not one connection's, such as no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Accepts connections until it is dropped.
pub(crate) async fn accept_all(shared: Arc<Shared>, listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        Counters::bump(&shared.counters.tcp_accepted);
        let allowed = {
            let hub = shared.hub();
            hub.tcp_accepted().add(from.ip());
            hub.allow().allows(from.ip())
        };
        let silent = if allowed { Silent::enter(&shared, from.ip(), MAX_SILENT) } else { None };
        let (Some(silent), Some(entered)) = (silent, shared.enter()) else {
            Counters::bump(&shared.counters.tcp_refused);
            continue;
        };
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            let _entered = entered;
            if let Err(error) = connection(&shared, stream, from, tls, silent).await {
                tracing::debug!(%from, %error, "connection");
            }
        });
    }
}

async fn connection(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    from: SocketAddr,
    tls: TlsAcceptor,
    silent: Silent,
) -> io::Result<()> {
    tcp::prepare(&stream)?;
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let local = stream.local_addr().ok().map(|local| local.ip().to_canonical());
    let deadline = tokio::time::Instant::now() + SPEAK_WITHIN;
    let said = tokio::time::timeout_at(deadline, first(shared, &mut stream)).await;
    let Some((what, bytes)) = heard(shared, said)? else { return Ok(()) };
    if what != FirstBytes::Tls {
        let under = Under { carrier: Carrier::Tcp, from, local, binding: [0; 32], datagrams: None };
        return serve(shared, &mut stream, what, bytes, &under, silent, facts).await;
    }
    shared.hub().client_hellos().add(from.ip());
    let accepted = tokio::time::timeout_at(deadline, tls.accept(Rewind::new(bytes, stream))).await;
    let mut stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            Counters::bump(&shared.counters.tls_failed);
            tracing::debug!(%from, %error, "TLS handshake");
            return Ok(());
        }
        Err(_) => {
            Counters::bump(&shared.counters.tcp_silent);
            return Ok(());
        }
    };
    let mut binding = [0; 32];
    let exported = stream.get_ref().1.export_keying_material(&mut binding, EXPORTER_LABEL, Some(&[]));
    if exported.is_err() {
        binding = [0; 32];
    }
    let said = tokio::time::timeout_at(deadline, first(shared, &mut stream)).await;
    let Some((what, bytes)) = heard(shared, said)? else { return Ok(()) };
    let under = Under { carrier: Carrier::Tls, from, local, binding, datagrams: None };
    let facts = |stream: &TlsStream<Rewind<TcpStream>>| facts(stream.get_ref().0.get_ref());
    serve(shared, &mut stream, what, bytes, &under, silent, facts).await
}

pub(crate) type Said = io::Result<Option<(FirstBytes, Vec<u8>)>>;

/// What was said in time.
fn heard(shared: &Shared, said: Result<Said, tokio::time::error::Elapsed>) -> Said {
    match said {
        Ok(Ok(None)) | Err(_) => {
            Counters::bump(&shared.counters.tcp_silent);
            Ok(None)
        }
        Ok(other) => other,
    }
}

/// Reads until it is clear what opens; none where the connection ends before.
pub(crate) async fn first<S: AsyncRead + Unpin>(shared: &Shared, stream: &mut S) -> Said {
    let invites = Arc::clone(shared.hub().invites());
    let mut bytes = Vec::new();
    loop {
        let what = first_bytes(&bytes, |id| invites.find(id).is_some());
        if what != FirstBytes::More {
            return Ok(Some((what, bytes)));
        }
        let mut more = [0; 512];
        match stream.read(&mut more).await? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&more[..n]),
        }
    }
}

async fn serve<S>(
    shared: &Arc<Shared>,
    stream: &mut S,
    what: FirstBytes,
    bytes: Vec<u8>,
    under: &Under,
    silent: Silent,
    facts: impl Fn(&S) -> Option<TcpFacts>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match what {
        FirstBytes::Hello(dress, id) => {
            let opened = timeout(SPEAK_WITHIN, open(shared, stream, bytes, dress, id, under)).await;
            drop(silent);
            match opened {
                Ok(opened) => {
                    if let Some((flow, early)) = opened? {
                        let end = flow.run(stream, &early, facts, None).await;
                        tracing::debug!(from = %under.from, ?end, "flow");
                    }
                }
                Err(_) => Counters::bump(&shared.counters.tcp_silent),
            }
        }
        FirstBytes::Http => {
            Counters::bump(&shared.counters.http);
            let served = timeout(SPEAK_WITHIN, http::serve(stream, bytes, under.from, shared.port)).await;
            served.unwrap_or(Ok(()))?;
        }
        FirstBytes::Tls | FirstBytes::Unknown | FirstBytes::More => {
            Counters::bump(&shared.counters.tcp_unknown);
        }
    }
    Ok(())
}

/// TCP's own view of a connection.
fn facts(stream: &TcpStream) -> Option<TcpFacts> {
    let info = tcp::info(stream)?;
    let micros = |d: Option<Duration>| d.map_or(0, |d| u32::try_from(d.as_micros()).unwrap_or(u32::MAX));
    Some(TcpFacts {
        rtt_us: micros(info.rtt),
        min_rtt_us: micros(info.rtt_min),
        retransmits: info.retransmissions.unwrap_or(0),
        snd_mss: info.mss_send.unwrap_or(0),
        rcv_mss: info.mss_receive.unwrap_or(0),
        pmtu: info.path_mtu.unwrap_or(0),
    })
}
