//! TCP and TLS flows, on the engine's own thread, so that their times are as good as UDP's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use probe_analysis::observation::FlowNo;
use probe_net::wait::{Event as Readiness, Interest, Poller};
use probe_net::{clock, tcp};
use probe_protocol::control::TcpFacts;
use probe_protocol::time::Timestamp;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

use super::{closed_by, tls};
use crate::engine::{Closed, Engine, Event, SendError};

/// Most bytes that wait for a connection to take them; a stalled one is told by its probes.
const MAX_WAITING: usize = 256 * 1024;
/// Most bytes read from one connection before the others have their turn.
const MAX_READ: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Handshaking,
    Up,
}

pub(super) struct StreamFlow {
    socket: TcpStream,
    token: u64,
    stage: Stage,
    tls: Option<ClientConnection>,
    began: Timestamp,
    connect: Option<Duration>,
    waiting: Vec<u8>,
    interest: Interest,
}

impl StreamFlow {
    pub(super) fn open(
        to: SocketAddr,
        tls: Option<(&Arc<ClientConfig>, Option<&str>)>,
        poller: &Poller,
        flow: FlowNo,
    ) -> io::Result<Self> {
        let tls = match tls {
            Some((config, name)) => {
                let name = tls::server_name(name, to.ip());
                Some(ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?)
            }
            None => None,
        };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let began = clock::now();
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if in_progress(&error) => {}
            Err(error) => return Err(error),
        }
        let socket = TcpStream::from(socket);
        let token = u64::from(flow.0);
        poller.add(&socket, token, Interest::BOTH)?;
        let interest = Interest::BOTH;
        Ok(Self {
            socket,
            token,
            stage: Stage::Connecting,
            tls,
            began,
            connect: None,
            waiting: Vec::new(),
            interest,
        })
    }

    pub(super) fn close(mut self, poller: &Poller) {
        let _ = poller.remove(&self.socket);
        if let Some(tls) = self.tls.as_mut() {
            tls.send_close_notify();
            // The peer learns of the end by TCP's own FIN, should there be no room for the alert.
            let _ = tls.write_tls(&mut self.socket);
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8], poller: &Poller) -> Result<(), SendError> {
        let full = match self.tls.as_mut() {
            Some(tls) => tls.writer().write_all(bytes).is_err(),
            None if self.waiting.len() + bytes.len() > MAX_WAITING => true,
            None => {
                self.waiting.extend_from_slice(bytes);
                false
            }
        };
        if full {
            return Err(SendError::NoRoom);
        }
        // A broken connection shows itself at the next reading.
        let _ = self.flush();
        self.update_interest(poller);
        Ok(())
    }

    /// Bytes that the system has not taken yet; of TLS, whether there are any.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.tls.as_ref().map_or(0, |tls| usize::from(tls.wants_write()))
    }

    /// Takes in what the poller says; a connection that is over is told by its return.
    pub(super) fn take_in(
        &mut self,
        flow: FlowNo,
        readiness: &Readiness,
        poller: &Poller,
        engine: &mut Engine,
    ) -> Option<Closed> {
        let result = self.progress(flow, readiness, engine);
        self.update_interest(poller);
        match result {
            Ok(()) => None,
            Err(Ended::Io(error)) => Some(closed_by(&error, self.stage != Stage::Connecting)),
            Err(Ended::Tls(error)) => Some(Closed::Handshake { says: error.to_string() }),
        }
    }

    /// What the kernel knows of the connection.
    pub(super) fn facts(&self) -> Option<TcpFacts> {
        let info = tcp::info(&self.socket)?;
        let us = |d: Option<Duration>| d.map_or(0, |d| u32::try_from(d.as_micros()).unwrap_or(u32::MAX));
        Some(TcpFacts {
            rtt_us: us(info.rtt),
            min_rtt_us: us(info.rtt_min),
            retransmits: info.retransmissions.unwrap_or(0),
            snd_mss: info.mss_send.unwrap_or(0),
            rcv_mss: info.mss_receive.unwrap_or(0),
            pmtu: info.path_mtu.unwrap_or(0),
        })
    }

    fn progress(&mut self, flow: FlowNo, readiness: &Readiness, engine: &mut Engine) -> Result<(), Ended> {
        if self.stage == Stage::Connecting {
            if let Some(error) = self.socket.take_error()? {
                return Err(error.into());
            }
            if self.socket.peer_addr().is_err() {
                return Ok(());
            }
            self.connect = Some(clock::now().since(self.began));
            tcp::prepare(&self.socket)?;
            if self.tls.is_some() {
                self.stage = Stage::Handshaking;
                if let Some(connect) = self.connect {
                    engine.handle(clock::now(), flow, Event::Reached { connect });
                }
            } else {
                self.stage = Stage::Up;
                let (source, connect) = (self.socket.local_addr()?, self.connect);
                engine.handle(clock::now(), flow, Event::Connected { source, connect, channel: None });
            }
        }
        self.flush()?;
        if readiness.readable || readiness.failed {
            self.read(flow, engine)?;
        }
        Ok(self.flush()?)
    }

    fn read(&mut self, flow: FlowNo, engine: &mut Engine) -> Result<(), Ended> {
        let mut buffer = [0; 16 * 1024];
        let mut total = 0;
        while total < MAX_READ {
            let read = match self.tls.as_mut() {
                Some(tls) => tls.read_tls(&mut self.socket),
                None => self.socket.read(&mut buffer),
            };
            let at = clock::now();
            let count = match read {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            total += count;
            match self.tls.as_mut() {
                None => engine.handle(at, flow, Event::Bytes { bytes: &buffer[..count], at }),
                Some(tls) => {
                    if let Err(error) = tls.process_new_packets() {
                        // The alert tells the peer why.
                        let _ = tls.write_tls(&mut self.socket);
                        return Err(Ended::Tls(error));
                    }
                    self.handshake_done(flow, engine)?;
                    self.read_plaintext(flow, at, &mut buffer, engine)?;
                }
            }
        }
        Ok(())
    }

    fn handshake_done(&mut self, flow: FlowNo, engine: &mut Engine) -> Result<(), Ended> {
        let Some(tls) =
            self.tls.as_mut().filter(|tls| self.stage == Stage::Handshaking && !tls.is_handshaking())
        else {
            return Ok(());
        };
        self.stage = Stage::Up;
        let exporter =
            tls.export_keying_material([0; 32], tls::EXPORTER_LABEL, Some(&[])).map_err(Ended::Tls)?;
        let channel = tls::facts(tls.peer_certificates().unwrap_or_default(), exporter);
        let (source, connect) = (self.socket.local_addr()?, self.connect);
        engine.handle(clock::now(), flow, Event::Connected { source, connect, channel: Some(channel) });
        Ok(())
    }

    fn read_plaintext(
        &mut self,
        flow: FlowNo,
        at: Timestamp,
        buffer: &mut [u8],
        engine: &mut Engine,
    ) -> Result<(), Ended> {
        loop {
            let Some(tls) = self.tls.as_mut() else { return Ok(()) };
            match tls.reader().read(buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => engine.handle(at, flow, Event::Bytes { bytes: &buffer[..count], at }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands the system as much as it takes.
    fn flush(&mut self) -> io::Result<()> {
        if self.stage == Stage::Connecting {
            return Ok(());
        }
        loop {
            let written = match self.tls.as_mut() {
                Some(tls) if tls.wants_write() => tls.write_tls(&mut self.socket).map(|_| ()),
                Some(_) => return Ok(()),
                None if self.waiting.is_empty() => return Ok(()),
                None => self.socket.write(&self.waiting).map(|count| {
                    self.waiting.drain(..count);
                }),
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn update_interest(&mut self, poller: &Poller) {
        let wants_write = self.stage == Stage::Connecting
            || !self.waiting.is_empty()
            || self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let wanted = Interest { readable: true, writable: wants_write };
        if wanted != self.interest && poller.modify(&self.socket, self.token, wanted).is_ok() {
            self.interest = wanted;
        }
    }
}

enum Ended {
    Io(io::Error),
    Tls(rustls::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn in_progress(error: &io::Error) -> bool {
    // Unix says EINPROGRESS, for which the standard library has no stable kind; Windows says WouldBlock.
    #[cfg(unix)]
    let unix = error.raw_os_error() == Some(libc::EINPROGRESS);
    #[cfg(not(unix))]
    let unix = false;
    unix || error.kind() == io::ErrorKind::WouldBlock
}
