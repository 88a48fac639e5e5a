//! A load that keeps a server saturated: so many requests of each flow are always on their way.
//!
//! The same loop drives all servers; what a request and a valid reply look like is a [`Traffic`]'s to say. It polls
//! without sleeping, on a core of its own.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use probe_net::clock;
use probe_net::udp::{MAX_BATCH, RecvBatch, SendBatch, UdpOptions, UdpSocket};
use probe_protocol::invite::Invite;
use probe_protocol::time::Timestamp;
use rand::RngCore;
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::ours::{self, Flow};
use super::{BenchError, tools};

/// How requests are spread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Length of the UDP payload, bytes.
    pub(super) size: usize,
    /// Source ports.
    pub(super) flows: usize,
    /// Requests on their way per flow.
    pub(super) window: usize,
    /// Requests of one flow that leave back to back, before the next flow's.
    pub(super) burst: usize,
}

/// What a load saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Valid replies.
    pub(super) echoes: u64,
    /// Replies that were not valid.
    pub(super) strange: u64,
    /// Requests given up.
    pub(super) lost: u64,
    pub(super) elapsed: Duration,
    /// CPU time of the server in that time.
    pub(super) cpu: Duration,
}

impl Tally {
    pub(super) fn per_second(&self) -> f64 {
        self.echoes as f64 / self.elapsed.as_secs_f64()
    }

    /// The server's CPU time per echo, microseconds.
    pub(super) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.echoes as f64
    }
}

/// One flow's protocol.
enum Protocol {
    Ours(Box<Flow>),
    Irtt { token: [u8; 8], seq: u64 },
    Sockperf { seq: u64 },
}

/// Which server a load is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Server {
    Ours(SocketAddr, Invite),
    Irtt(SocketAddr),
    Sockperf(SocketAddr),
}

struct Lane {
    socket: UdpSocket,
    protocol: Protocol,
    under_way: usize,
    heard: Timestamp,
}

/// Flows that are open, ready to be loaded.
pub(super) struct Load {
    lanes: Vec<Lane>,
    to: SocketAddr,
    shape: Shape,
    out: SendBatch,
    batch: RecvBatch,
    tally: Tally,
}

/// After this much silence what is missing counts as lost.
const SILENCE: Duration = Duration::from_millis(50);

impl Load {
    /// Opens the flows.
    pub(super) fn open(server: Server, shape: Shape) -> Result<Self, BenchError> {
        let to = match server {
            Server::Ours(to, _) | Server::Irtt(to) | Server::Sockperf(to) => to,
        };
        let mut session = [0; 16];
        OsRng.unwrap_err().fill_bytes(&mut session);
        let mut lanes = Vec::new();
        for nonce in 0..shape.flows as u64 {
            let system = |error| BenchError::System { what: "opening a socket for the load", error };
            let socket = StdSocket::bind("127.0.0.1:0").map_err(system)?;
            let protocol = match server {
                Server::Ours(to, invite) => {
                    let hello = ours::hello(session, nonce, shape.size);
                    Protocol::Ours(Box::new(Flow::open(&socket, to, &invite, hello)?))
                }
                Server::Irtt(to) => {
                    Protocol::Irtt { token: tools::irtt_open_on(&socket, to, shape.size)?, seq: 0 }
                }
                Server::Sockperf(_) => Protocol::Sockperf { seq: 0 },
            };
            socket.connect(to).map_err(system)?;
            let mut options = UdpOptions::new(to);
            // The generator must not be what limits: its own runs leave as one, and it wants no timestamps.
            options.coalesce = true;
            options.timestamps = false;
            options.recv_buffer = Some(4 << 20);
            let socket = UdpSocket::adopt(socket, &options).map_err(system)?;
            lanes.push(Lane { socket, protocol, under_way: 0, heard: clock::now() });
        }
        Ok(Self {
            lanes,
            to,
            shape,
            out: SendBatch::new(shape.burst.min(MAX_BATCH), shape.size),
            batch: RecvBatch::new(MAX_BATCH, shape.size + 16),
            tally: Tally::default(),
        })
    }

    /// Loads the server for a while, after a warm-up that does not count. `cpu` tells the server's CPU time so far.
    pub(super) fn run(
        &mut self,
        warm_up: Duration,
        length: Duration,
        cpu: impl Fn() -> Option<Duration>,
    ) -> Tally {
        self.drive(clock::now() + warm_up);
        self.tally = Tally::default();
        let (begun, cpu_before) = (clock::now(), cpu());
        self.drive(begun + length);
        let mut tally = std::mem::take(&mut self.tally);
        tally.elapsed = clock::now().since(begun);
        tally.cpu = cpu().zip(cpu_before).map_or(Duration::ZERO, |(after, before)| after - before);
        tally
    }

    fn drive(&mut self, until: Timestamp) {
        while clock::now() < until {
            for at in 0..self.lanes.len() {
                self.take_in(at);
                self.top_up(at);
            }
        }
    }

    fn take_in(&mut self, at: usize) {
        let Some(lane) = self.lanes.get_mut(at) else { return };
        let Ok(count) = lane.socket.recv(&mut self.batch) else {
            if lane.under_way > 0 && clock::now().since(lane.heard) > SILENCE {
                self.tally.lost += lane.under_way as u64;
                lane.under_way = 0;
            }
            return;
        };
        lane.heard = clock::now();
        lane.under_way = lane.under_way.saturating_sub(count);
        for datagram in self.batch.datagrams() {
            let size = self.shape.size;
            let valid = datagram.bytes.len() == size
                && match &mut lane.protocol {
                    Protocol::Ours(flow) => flow.read_echo(datagram.bytes).is_some(),
                    Protocol::Irtt { token, .. } => tools::is_irtt_reply(*token, datagram.bytes),
                    Protocol::Sockperf { .. } => tools::is_sockperf_reply(datagram.bytes),
                };
            if valid { self.tally.echoes += 1 } else { self.tally.strange += 1 }
        }
    }

    fn top_up(&mut self, at: usize) {
        let Some(lane) = self.lanes.get_mut(at) else { return };
        let burst = self.shape.burst;
        if lane.under_way + burst > self.shape.window {
            return;
        }
        if lane.under_way == 0 {
            lane.heard = clock::now();
        }
        self.out.clear();
        for _ in 0..burst {
            self.out.push(self.shape.size, self.to, |wire| match &mut lane.protocol {
                Protocol::Ours(flow) => flow.write_probe(wire),
                Protocol::Irtt { token, seq } => {
                    tools::irtt_request(*token, *seq, wire);
                    *seq += 1;
                }
                Protocol::Sockperf { seq } => {
                    tools::sockperf_request(*seq, wire);
                    *seq += 1;
                }
            });
        }
        lane.under_way += lane.socket.send_batch(&mut self.out).sent;
    }
}
