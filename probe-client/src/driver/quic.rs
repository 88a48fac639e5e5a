//! QUIC flows and their inverse: quinn on tokio, one endpoint and so one source port each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_net::clock;
use probe_net::quic::{Arrival, Own, QuicOptions, QuicSocket, Tap};
use probe_net::udp::{Fault, UdpOptions, UdpSocket};
use probe_protocol::control::datagram_hash;
use probe_protocol::time::Timestamp;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig};
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;

use super::{Remote, Uplink, tls};
use crate::engine::{Closed, SendError};

/// The application protocol that both ends name (RFC 7301).
const ALPN: &[u8] = b"probe";
/// Most commands that wait for one connection.
const MAX_COMMANDS: usize = 1024;
/// A connection that hears nothing for so long is given up by QUIC itself: later than the engine, which watches a silent
/// flow for a minute.
const IDLE: Duration = Duration::from_secs(150);

enum Command {
    Bytes(Vec<u8>),
    Datagram(Vec<u8>, Option<u64>),
}

/// A connection's end of the channel to its task; dropping it closes the connection.
pub(super) struct QuicFlow {
    commands: mpsc::Sender<Command>,
}

impl QuicFlow {
    pub(super) fn open(
        to: SocketAddr,
        inverse: bool,
        name: Option<&str>,
        uplink: Uplink,
        runtime: &tokio::runtime::Handle,
    ) -> io::Result<Self> {
        let mut options = UdpOptions::towards(to);
        options.addr = SocketAddr::new(probe_net::host::local_towards(to.ip())?, 0);
        let socket = UdpSocket::bind(&options)?;
        let source = socket.local_addr()?;
        let _inside = runtime.enter();
        let tap = Arc::new(UplinkTap(uplink.clone()));
        let socket =
            QuicSocket::new(Own::new(socket)?, QuicOptions { inverse, tap, ..QuicOptions::default() });
        let quinn_runtime = Arc::new(quinn::TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, quinn_runtime)?;
        // quinn takes text; an address in it is not sent as a server name.
        let name = tls::server_name(name, to.ip()).to_str().into_owned();
        let connecting = endpoint.connect_with(config()?, to, &name).map_err(io::Error::other)?;
        let (commands, orders) = mpsc::channel(MAX_COMMANDS);
        runtime.spawn(async move {
            let closed = match connecting.await {
                Ok(connection) => serve(&connection, source, &uplink, orders).await,
                Err(error) => closed_by(&error, false),
            };
            uplink.send(Remote::Closed(closed));
            endpoint.close(0u32.into(), b"");
            // The farewell leaves before the endpoint goes; bounded, as nobody need answer it.
            let _ = tokio::time::timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
        });
        Ok(Self { commands })
    }

    pub(super) fn send(&self, wire: &[u8], datagram: bool, seq: Option<u64>) -> Result<(), SendError> {
        let command =
            if datagram { Command::Datagram(wire.to_vec(), seq) } else { Command::Bytes(wire.to_vec()) };
        self.commands.try_send(command).map_err(|_| SendError::NoRoom)
    }

    pub(super) fn close(self) {
        drop(self.commands);
    }
}

async fn serve(
    connection: &Connection,
    source: SocketAddr,
    uplink: &Uplink,
    mut orders: mpsc::Receiver<Command>,
) -> Closed {
    let mut exporter = [0; 32];
    if connection.export_keying_material(&mut exporter, tls::EXPORTER_LABEL, &[]).is_err() {
        return Closed::Handshake { says: "the channel has no exporter".to_owned() };
    }
    let identity = connection.peer_identity().and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
    let channel = tls::facts(identity.as_deref().map(Vec::as_slice).unwrap_or_default(), exporter);
    let (mut send, mut recv) = match connection.open_bi().await {
        Ok(streams) => streams,
        Err(error) => return closed_by(&error, true),
    };
    uplink.send(Remote::Connected { source, channel });
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return Closed::Ended,
                Some(Command::Bytes(bytes)) => {
                    if send.write_all(&bytes).await.is_err() {
                        return connection.close_reason().map_or(Closed::Ended, |e| closed_by(&e, true));
                    }
                }
                Some(Command::Datagram(bytes, seq)) => {
                    if let Err(error) = connection.send_datagram(bytes.into()) {
                        let why = SendError::Other(error.to_string());
                        uplink.send(Remote::SendFailed { seq, why });
                    }
                }
            },
            datagram = connection.read_datagram() => match datagram {
                Ok(bytes) => uplink.send(Remote::Datagram { bytes: bytes.to_vec(), at: clock::now() }),
                Err(error) => return closed_by(&error, true),
            },
            read = recv.read(&mut buffer) => match read {
                Ok(Some(count)) => {
                    uplink.send(Remote::Bytes { bytes: buffer[..count].to_vec(), at: clock::now() });
                }
                Ok(None) | Err(_) => {
                    return connection.close_reason().map_or(Closed::Ended, |e| closed_by(&e, true));
                }
            },
        }
    }
}

fn closed_by(error: &ConnectionError, established: bool) -> Closed {
    match error {
        ConnectionError::TimedOut => Closed::TimedOut,
        ConnectionError::Reset => Closed::Reset,
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => Closed::Ended,
        ConnectionError::ConnectionClosed(_) if established => Closed::Ended,
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::CidsExhausted => Closed::Handshake { says: error.to_string() },
    }
}

fn config() -> io::Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls::config(Some(ALPN))?).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(probe_net::quic::transport(IDLE)));
    Ok(config)
}

/// Tells the engine of every UDP datagram under a connection.
#[derive(Debug)]
struct UplinkTap(Uplink);

impl Tap for UplinkTap {
    fn sent(&self, _to: SocketAddr, datagram: &[u8], _at: Timestamp) {
        self.0.send(Remote::Tapped { sent: true, hash: datagram_hash(datagram) });
    }

    fn received(&self, arrival: &Arrival<'_>) {
        self.0.send(Remote::Tapped { sent: false, hash: datagram_hash(arrival.bytes) });
    }

    fn failed(&self, _to: SocketAddr, _datagram: &[u8], _at: Timestamp, fault: Fault) {
        self.0.send(Remote::SendFailed { seq: None, why: SendError::Other(fault.to_string()) });
    }
}
