//! Made-up runs for tests: observations as a driver would make them, without a network.

mod night;

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use crate::observation::{
    Attempt, Channel, End, Fate, FlowEnded, FlowNo, FlowOpened, FlowPlanned, Handshake, Observation,
    OpeningArrivals, Outcome, Probe, ProbeReply, Purpose, Resolved, RunEnded, RunStarted,
};

pub use self::night::{Night, Weather};

/// How far the listener's clock is ahead of the client's.
const AHEAD: Duration = Duration::from_secs(3600);
/// 2026-01-31T22:00:00Z.
const WALL: WallTime = WallTime(1_769_896_800_000_000_000);

/// A run being made up. Times are seconds after its start.
#[derive(Clone, Debug)]
pub struct MadeUp {
    /// What has been seen so far.
    pub observations: Vec<Observation>,
    to: SocketAddr,
    next: u32,
    end_s: f64,
}

fn at(seconds: f64) -> Timestamp {
    Timestamp(5_000_000_000_000) + Duration::from_secs_f64(seconds)
}

fn wall(seconds: f64) -> WallTime {
    WallTime(WALL.0 + (seconds * 1e9) as i64)
}

/// A number from 0 to 999 that looks random and is the same each time.
fn noise(n: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 1000
}

impl MadeUp {
    /// Begins a run against an address.
    pub fn new(to: &str, invited: bool) -> Self {
        let to: SocketAddr = to.parse().unwrap_or(SocketAddr::from(([203, 0, 113, 7], 8886)));
        let mut run = Self { observations: Vec::new(), to, next: 0, end_s: 0.0 };
        run.push(Observation::RunStarted(RunStarted {
            at: at(0.0),
            wall: wall(0.0),
            target: to.to_string(),
            invited,
            local: to.ip().is_loopback(),
            load_bps: 0,
        }));
        run.push(Observation::Resolved(Resolved {
            host: to.ip().to_string(),
            addresses: vec![to.ip()],
            error: None,
        }));
        run
    }

    /// A run whose target's name is unknown.
    pub fn unknown_name(host: &str) -> Self {
        let mut run = Self::new("203.0.113.7:8886", true);
        run.observations.truncate(1);
        if let Some(Observation::RunStarted(started)) = run.observations.first_mut() {
            started.target = format!("{host}:8886");
        }
        let error = Some("Name or service not known".to_owned());
        run.push(Observation::Resolved(Resolved { host: host.to_owned(), addresses: Vec::new(), error }));
        run
    }

    /// Adds an observation.
    pub fn push(&mut self, observation: Observation) -> &mut Self {
        self.observations.push(observation);
        self
    }

    /// From here on flows go to another address.
    pub fn towards(&mut self, to: &str) -> &mut Self {
        self.to = to.parse().unwrap_or(self.to);
        self
    }

    /// Announces a flow.
    pub fn plan(&mut self, name: &str, carrier: Carrier, dress: Dress, purpose: Purpose) -> FlowNo {
        let flow = FlowNo(self.next);
        self.next += 1;
        self.push(Observation::FlowPlanned(FlowPlanned {
            flow,
            name: name.to_owned(),
            at: at(0.01),
            carrier,
            dress,
            purpose,
            to: self.to,
            size: 200,
            interval: Duration::from_millis(20),
            replaces: None,
            server_name: None,
            life: None,
            marks: Vec::new(),
        }));
        flow
    }

    fn source(&self, flow: FlowNo) -> SocketAddr {
        let ip = if self.to.ip().is_loopback() { [127, 0, 0, 1] } else { [10, 0, 0, 2] };
        SocketAddr::from((ip, 50_000 + flow.0 as u16))
    }

    /// So many attempts end in the same way, one second each.
    pub fn attempts(&mut self, flow: FlowNo, count: u32, outcome: &Outcome) -> &mut Self {
        for n in 0..count {
            let attempt = Attempt {
                flow,
                from: at(0.01 + f64::from(n)),
                to: at(1.01 + f64::from(n)),
                source: Some(self.source(flow)),
                outcome: outcome.clone(),
            };
            self.push(Observation::Attempt(attempt));
        }
        self.end_s = self.end_s.max(1.01 + f64::from(count));
        self
    }

    /// A flow opens 40 ms after the start, seen from the address that a NAT gave it.
    pub fn open(&mut self, flow: FlowNo) -> &mut Self {
        let observed = if self.to.ip().is_loopback() {
            self.source(flow)
        } else {
            SocketAddr::from(([198, 51, 100, 4], 50_000 + flow.0 as u16))
        };
        self.open_as(flow, observed)
    }

    /// The same, seen from a given address.
    pub fn open_as(&mut self, flow: FlowNo, observed: SocketAddr) -> &mut Self {
        let source = self.source(flow);
        let invited = self.observations.iter().any(|o| matches!(o, Observation::RunStarted(s) if s.invited));
        let attempt =
            Attempt { flow, from: at(0.01), to: at(0.04), source: Some(source), outcome: Outcome::Opened };
        self.push(Observation::Attempt(attempt));
        self.push(Observation::FlowOpened(FlowOpened {
            flow,
            at: at(0.04),
            source,
            observed,
            connect: None,
            boot: 7,
            epoch: 1,
            authenticated: invited,
            software: [0, 1, 0],
            listener_wall: wall(0.025),
            handshake: None,
        }))
    }

    /// The channel of a flow: presented by the listener itself, or by somebody else.
    pub fn channel(&mut self, flow: FlowNo, intercepted_by: Option<&str>) -> &mut Self {
        let fingerprint = if intercepted_by.is_some() { [9; 32] } else { [1; 32] };
        self.push(Observation::Channel(Channel {
            flow,
            at: at(0.04),
            fingerprint,
            expected: Some([1; 32]),
            issuer: Some(intercepted_by.unwrap_or("CN=probe-server").to_owned()),
            same_exporter: Some(intercepted_by.is_none()),
        }))
    }

    /// Probes each 20 ms from 50 ms on, 10 ms each way with a little noise, with the fate that `fate` gives each.
    pub fn probes(&mut self, flow: FlowNo, count: u64, fate: impl Fn(u64) -> Fate) -> &mut Self {
        for seq in 0..count {
            let fate = fate(seq);
            let probe = self.probe(flow, seq, fate);
            self.push(Observation::Probe(probe));
        }
        self.end_s = self.end_s.max(0.2 + count as f64 * 0.02);
        self
    }

    /// One such probe.
    pub fn probe(&self, flow: FlowNo, seq: u64, fate: Fate) -> Probe {
        let local = self.to.ip().is_loopback();
        let way = Duration::from_micros(if local { 12 } else { 10_000 });
        let jitter = |salt: u64| Duration::from_nanos(noise(seq * 7 + salt) * if local { 5 } else { 200 });
        let scheduled = at(0.05 + seq as f64 * 0.02);
        let sent = scheduled + Duration::from_nanos(2_000 + noise(seq) * 20);
        let arrived = sent + way + jitter(1);
        let dwell = Duration::from_micros(15);
        let kernel = arrived + dwell + way + jitter(2);
        let udp = self.is_udp(flow);
        let reply = ProbeReply {
            at: kernel + Duration::from_micros(20) + jitter(3) / 4,
            kernel: udp.then_some(kernel),
            listener_arrived: arrived + AHEAD,
            listener_kernel: udp,
            dwell,
            reordered: false,
            duplicated_up: false,
            ttl_up: udp.then_some(if local { 64 } else { 57 }),
            ttl_down: udp.then_some(if local { 64 } else { 57 }),
            tos_sent: 0,
            tos_up: udp.then_some(0),
            tos_asked: 0,
            tos_down: udp.then_some(0),
        };
        let reply = (fate == Fate::Received).then_some(reply);
        Probe { flow, seq, scheduled, sent, size: 200, fate, reply, extra_replies: 0 }
    }

    fn is_udp(&self, flow: FlowNo) -> bool {
        self.observations
            .iter()
            .any(|o| matches!(o, Observation::FlowPlanned(p) if p.flow == flow && p.carrier == Carrier::Udp))
    }

    /// A flow of datagrams with a schedule of its own: planned and opened at `start_s` (two packets of 192 bytes), probes of
    /// `size` bytes each `interval_s` from 50 ms later on until `end_s`. `fate` is told the packet's number on the wire
    /// (those of the opening included), its bytes on the wire so far, and the seconds since the run's start.
    pub fn scheduled(
        &mut self,
        name: &str,
        (dress, purpose): (Dress, Purpose),
        (start_s, end_s): (f64, f64),
        (interval_s, size): (f64, u16),
        fate: impl Fn(u64, u64, f64) -> Fate,
    ) -> FlowNo {
        let flow = FlowNo(self.next);
        self.next += 1;
        self.push(Observation::FlowPlanned(FlowPlanned {
            flow,
            name: name.to_owned(),
            at: at(start_s),
            carrier: Carrier::Udp,
            dress,
            purpose,
            to: self.to,
            size,
            interval: Duration::from_secs_f64(interval_s),
            replaces: None,
            server_name: None,
            life: None,
            marks: Vec::new(),
        }));
        let source = self.source(flow);
        let attempt = Attempt {
            flow,
            from: at(start_s),
            to: at(start_s + 0.04),
            source: Some(source),
            outcome: Outcome::Opened,
        };
        self.push(Observation::Attempt(attempt));
        self.push(Observation::FlowOpened(FlowOpened {
            flow,
            at: at(start_s + 0.04),
            source,
            observed: SocketAddr::from(([198, 51, 100, 4], source.port())),
            connect: None,
            boot: 7,
            epoch: 1,
            authenticated: true,
            software: [0, 1, 0],
            listener_wall: wall(start_s + 0.025),
            handshake: Some(Handshake { packets: 2, bytes: 2 * 192, unanswered_first: Some(0) }),
        }));
        let mut seq = 0;
        let mut bytes = 2 * 192;
        loop {
            let when = start_s + 0.05 + seq as f64 * interval_s;
            if when >= end_s {
                break;
            }
            bytes += u64::from(size) + 28;
            let fate = fate(seq + 3, bytes, when);
            let mut probe = self.probe(flow, seq, fate);
            let shift = |t: Timestamp| at(when) + t.since(probe.scheduled);
            let reply = probe.reply.map(|reply| ProbeReply {
                at: shift(reply.at),
                kernel: reply.kernel.map(shift),
                listener_arrived: shift(reply.listener_arrived),
                ..reply
            });
            (probe.sent, probe.scheduled) = (shift(probe.sent), at(when));
            self.push(Observation::Probe(Probe { size, reply, ..probe }));
            seq += 1;
        }
        self.end_s = self.end_s.max(end_s);
        flow
    }

    /// The listener says how many hellos of unopened UDP flows arrived, of how many.
    pub fn hellos(&mut self, flows: &[(FlowNo, u32, u32)]) -> &mut Self {
        self.push(Observation::Arrivals(OpeningArrivals {
            at: at(6.0),
            udp: flows.to_vec(),
            tcp_accepted: None,
            client_hellos: None,
            strange_datagrams: None,
            listener: None,
        }))
    }

    /// The flow is over.
    pub fn over(&mut self, flow: FlowNo, end: End) -> &mut Self {
        let at = at(self.end_s);
        self.push(Observation::FlowEnded(FlowEnded { flow, at, end }))
    }

    /// A moment of this run.
    pub fn at(&self, seconds: f64) -> Timestamp {
        at(seconds)
    }

    /// The transports of a check, all open: plain TCP, TLS, UDP random and ASCII, QUIC, in this order.
    pub fn all_open(&mut self) -> [FlowNo; 5] {
        let flows = self.all_planned();
        for (n, flow) in flows.into_iter().enumerate() {
            self.open(flow);
            if n == 1 || n == 4 {
                self.channel(flow, None);
            }
        }
        flows
    }

    /// The transports of a check, none open yet: plain TCP, TLS, UDP random and ASCII, QUIC, in this order.
    pub fn all_planned(&mut self) -> [FlowNo; 5] {
        [
            self.plan("tcp/steady", Carrier::Tcp, Dress::Random, Purpose::Steady),
            self.plan("tls/steady", Carrier::Tls, Dress::Random, Purpose::Steady),
            self.plan("udp/steady", Carrier::Udp, Dress::Random, Purpose::Steady),
            self.plan("udp/ascii", Carrier::Udp, Dress::Ascii, Purpose::Steady),
            self.plan("quic/steady", Carrier::Quic, Dress::Random, Purpose::Steady),
        ]
    }

    /// Ends the run: every flow that opened has finished, every other one never opened.
    pub fn end(mut self) -> Vec<Observation> {
        for flow in (0..self.next).map(FlowNo) {
            let is_end = |o: &Observation| matches!(o, Observation::FlowEnded(o) if o.flow == flow);
            let is_opening = |o: &Observation| matches!(o, Observation::FlowOpened(o) if o.flow == flow);
            if !self.observations.iter().any(is_end) {
                let opened = self.observations.iter().any(is_opening);
                self.over(flow, if opened { End::Finished } else { End::NeverOpened });
            }
        }
        let at = at(self.end_s + 0.1);
        self.push(Observation::RunEnded(RunEnded { at, complete: true, receive_buffer: Some(425_984) }));
        self.observations
    }
}
