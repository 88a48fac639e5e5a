//! The client's end of TCP and TLS flows: the model of TCP, with real rustls on it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_client::driver::tls;
use probe_client::engine::{ChannelFacts, Closed};
use probe_protocol::time::Timestamp;
use rustls::{ClientConfig, ClientConnection};

use super::tcp::{Over, Tcp};
use crate::packet::Packet;

/// What a connection has to say to the engine.
pub(super) enum StreamNews {
    Connected {
        source: SocketAddr,
        connect: Option<Duration>,
        channel: Option<ChannelFacts>,
    },
    /// TCP is connected, and TLS begins.
    Reached(Duration),
    Bytes(Vec<u8>),
    Closed(Closed),
}

pub(super) struct ClientStream {
    pub(super) tcp: Tcp,
    tls: Option<ClientConnection>,
    connected: bool,
    reached: bool,
    failed: Option<String>,
}

impl ClientStream {
    pub(super) fn open(
        local: SocketAddr,
        to: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        name: Option<&str>,
        iss: u32,
        now: Timestamp,
    ) -> Result<Self, String> {
        let name = tls::server_name(name, to.ip());
        let tls = tls.map(|config| ClientConnection::new(Arc::clone(config), name)).transpose();
        let tls = tls.map_err(|error| error.to_string())?;
        Ok(Self {
            tcp: Tcp::connect(local, to, iss, now),
            tls,
            connected: false,
            reached: false,
            failed: None,
        })
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes).is_ok(),
            None => self.tcp.write(bytes),
        }
    }

    pub(super) fn close(&mut self, now: Timestamp) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            encrypt(tls, &mut self.tcp);
        }
        self.tcp.close(now);
    }

    pub(super) fn flush(&mut self, now: Timestamp, out: &mut Vec<Packet>) {
        if let Some(tls) = self.tls.as_mut().filter(|_| self.tcp.connected().is_some()) {
            encrypt(tls, &mut self.tcp);
        }
        self.tcp.poll(now, out);
    }

    /// The next thing to tell the engine.
    pub(super) fn news(&mut self, _now: Timestamp) -> Option<StreamNews> {
        let connect = self.tcp.connected();
        let source = self.tcp.local;
        let Some(tls) = &mut self.tls else {
            if connect.is_some() && !self.connected {
                self.connected = true;
                return Some(StreamNews::Connected { source, connect, channel: None });
            }
            let bytes = self.tcp.take_read();
            if !bytes.is_empty() {
                return Some(StreamNews::Bytes(bytes));
            }
            return self.tcp.take_over().map(|over| StreamNews::Closed(closed(over)));
        };
        if let Some(connect) = connect.filter(|_| !self.reached) {
            self.reached = true;
            return Some(StreamNews::Reached(connect));
        }
        let bytes = self.tcp.take_read();
        let mut rest = &bytes[..];
        while !rest.is_empty() && self.failed.is_none() {
            if tls.read_tls(&mut rest).is_err() {
                break;
            }
            if let Err(error) = tls.process_new_packets() {
                self.failed = Some(error.to_string());
            }
        }
        encrypt(tls, &mut self.tcp);
        if !self.connected && connect.is_some() && !tls.is_handshaking() && self.failed.is_none() {
            self.connected = true;
            match tls.export_keying_material([0; 32], tls::EXPORTER_LABEL, Some(&[])) {
                Ok(exporter) => {
                    let channel = tls::facts(tls.peer_certificates().unwrap_or_default(), exporter);
                    return Some(StreamNews::Connected { source, connect, channel: Some(channel) });
                }
                Err(error) => self.failed = Some(error.to_string()),
            }
        }
        let mut plain = Vec::new();
        // Would block, or the end: both leave nothing more to read now.
        let _ = tls.reader().read_to_end(&mut plain);
        if !plain.is_empty() {
            return Some(StreamNews::Bytes(plain));
        }
        if let Some(says) = self.failed.take() {
            return Some(StreamNews::Closed(Closed::Handshake { says }));
        }
        self.tcp.take_over().map(|over| StreamNews::Closed(closed(over)))
    }
}

fn encrypt(tls: &mut ClientConnection, tcp: &mut Tcp) {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        if !matches!(tls.write_tls(&mut bytes), Ok(1..)) {
            break;
        }
    }
    if !bytes.is_empty() {
        // A connection that is over says so itself.
        let _ = tcp.write(&bytes);
    }
}

fn closed(over: Over) -> Closed {
    match over {
        Over::Refused => Closed::Refused,
        Over::Reset => Closed::Reset,
        Over::Ended => Closed::Ended,
        Over::TimedOut => Closed::TimedOut,
        Over::Unreachable(says) => Closed::Unreachable { says },
    }
}
