//! Plans are data: which flows to open, with what image, size, schedule, life and purpose. `check` and `soak` are two
//! plans for the one engine.
//!
//! | File | holds |
//! | --- | --- |
//! | `check` | the plan of `check` |
//! | `soak` | the plan of `soak` |
//! | `rehearse` | the plan of `rehearse` |
//! | `load`, `check_load` | steps of load; those of `check` |
//! | `experiments` | groups of flows that belong together: fans, trials, crossed rates, ladders, fragments |
//!
//! A plan holds single flows ([`FlowSpec`]), flows that come again and again ([`Repeat`]) and ladders of idle gaps whose
//! next rungs depend on the last ones ([`Ladder`]). The engine opens at most one flow per [`Plan::open_gap`], whoever
//! wants it.

mod check;
pub mod check_load;
pub mod experiments;
pub mod load;
pub mod rehearse;
mod soak;

use std::net::SocketAddr;
use std::time::Duration;

pub use probe_analysis::observation::{Purpose, Refresh, ServerNameKind};
use probe_protocol::wire::dress::{Dress, Form};
use probe_protocol::wire::hello::Carrier;

pub use self::check::Depth;
pub use self::soak::SoakOptions;

/// At most five new flows a second: a burst of openings is itself an anomaly that firewalls punish.
pub const OPEN_GAP: Duration = Duration::from_millis(200);
/// Slow enough for the listener's bound on clients without an invite.
const INTERVAL: Duration = Duration::from_millis(50);
/// What compared datagrams share: the smallest size that every dress and a QUIC packet with a probe in it can have.
pub const SIZE: u16 = 128;

/// One flow to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Its name in reports, `udp/random`. A flow that follows another one gets a number behind it.
    pub name: String,
    /// What it runs over.
    pub carrier: Carrier,
    /// What its records wear.
    pub dress: Dress,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it goes.
    pub to: SocketAddr,
    /// Length of its datagrams or records, bytes.
    pub size: u16,
    /// Time between its probes, on average.
    pub interval: Duration,
    /// Each interval is drawn at random from within so many percent of it, either way (0 to 90). Zero keeps exact time;
    /// anything else keeps a long run's own timers from looking like a period of the path.
    pub jitter_percent: u8,
    /// When it opens.
    pub start: Start,
    /// How long it lives.
    pub life: Life,
    /// What follows its death.
    pub death: AfterDeath,
    /// Which name it gives, for TLS and QUIC.
    pub server_name: ServerNameKind,
    /// What it does while it is open.
    pub script: Script,
}

/// When a flow opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// In its turn, from the start of the run on; opening ends with the plan's `reach`.
    #[default]
    Turn,
    /// So long after the start of the run, or as soon after that as the rate of new flows allows.
    At(Duration),
}

/// How long a flow lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// To the end of the run.
    #[default]
    Run,
    /// So long from its opening on.
    For(Duration),
    /// Until it has sent so many probes.
    Probes(u64),
}

/// What follows when a flow dies before its time: it was reset, or fell silent while others are heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterDeath {
    /// Nothing.
    #[default]
    Nothing,
    /// A flow with the same properties from a new port, at once; a silent one is kept and watched for a minute beside it.
    Reborn,
}

/// What a flow does while it is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Script {
    /// What its purpose says: probes by its interval, or the search for the path MTU.
    #[default]
    Purpose,
    /// Sends a few probes, is left alone for a time, and is tried again. UDP and TCP.
    Idle(Idle),
    /// Sends datagrams and asks for replies of this length of the IP packet, which may be fragmented, interleaved with
    /// small ones. UDP.
    Fragments {
        /// IP packet before fragmentation, bytes.
        size: u32,
        /// How many each way.
        count: u32,
    },
}

/// One idle gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How long the flow is left alone.
    pub gap: Duration,
    /// Who sends in the meantime.
    pub refreshed: Refresh,
    /// How often they do.
    pub every: Duration,
}

/// Flows that come again and again, each from a new source port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// What takes turns.
    pub specs: Vec<FlowSpec>,
    /// Whether each round has them in another random order.
    pub shuffled: bool,
    /// When the first one opens, since the start of the run.
    pub first: Duration,
    /// Time from one to the next, on average.
    pub every: Duration,
    /// As [`FlowSpec::jitter_percent`].
    pub jitter_percent: u8,
    /// How many flows in all; none for as long as the run measures.
    pub count: Option<u32>,
}

/// A ladder of single-use idle gaps: all gaps of a round are tried side by side on flows of their own; then the interval
/// between the longest that was survived and the shortest that was not is divided again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// What its flows are: name, carrier (UDP or TCP), dress, target, size. The gap stands behind the name.
    pub spec: FlowSpec,
    /// The gaps of the first round.
    pub gaps: Vec<Duration>,
    /// Who sends during a gap.
    pub refreshed: Refresh,
    /// How often they do.
    pub every: Duration,
    /// Flows for each gap.
    pub copies: u8,
    /// Where bisection ends: the interval is shorter than this, or than 2 % of its lower end.
    pub resolution: Duration,
    /// When its first flow opens, since the start of the run.
    pub first: Duration,
    /// When its last gap must be over, since the start of the run; none for the end of the measuring.
    pub until: Option<Duration>,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The flows; those without a start of their own open in this order.
    pub flows: Vec<FlowSpec>,
    /// Flows that come again and again.
    pub repeats: Vec<Repeat>,
    /// Ladders of idle gaps.
    pub ladders: Vec<Ladder>,
    /// Time from one opening to the next.
    pub open_gap: Duration,
    /// When opening ends, since the start: what is not open by then never was.
    pub reach: Duration,
    /// How long to measure after that; [`Plan::OPEN_END`] until it is stopped.
    pub measure: Duration,
    /// How long to wait for the last replies.
    pub drain: Duration,
    /// How long to ask for ledgers after that, at most.
    pub settle: Duration,
    /// How often ledgers are asked for while measuring.
    pub ledger_every: Duration,
    /// It is a long run: probes are thinned out while nothing at all is heard for minutes.
    pub long: bool,
    /// Its load, where it has one.
    pub load: Option<load::LoadPlan>,
}

impl FlowSpec {
    /// A flow with the usual size and interval that stays to the end of the run.
    pub fn new(
        name: impl Into<String>,
        carrier: Carrier,
        dress: Dress,
        purpose: Purpose,
        to: SocketAddr,
    ) -> Self {
        Self {
            name: name.into(),
            carrier,
            dress,
            purpose,
            to,
            size: SIZE,
            interval: INTERVAL,
            jitter_percent: 0,
            start: Start::Turn,
            life: Life::Run,
            death: AfterDeath::Nothing,
            server_name: ServerNameKind::Target,
            script: Script::Purpose,
        }
    }

    /// How long it is meant to live from its opening on; none to the end of the run.
    pub fn lifetime(&self) -> Option<Duration> {
        match (&self.script, self.life) {
            (Script::Idle(idle), _) => Some(idle.gap + IDLE_AROUND),
            (_, Life::Run) => None,
            (_, Life::For(life)) => Some(life),
            (_, Life::Probes(count)) => {
                Some(self.interval.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
            }
        }
    }

    /// When it opens, since the start of the run, where that is laid down.
    pub fn starts_at(&self) -> Option<Duration> {
        match self.start {
            Start::Turn => None,
            Start::At(at) => Some(at),
        }
    }

    /// What goes with each record one way beside its own bytes: headers, framing, encryption, and its share of the
    /// transport's own acknowledgements.
    fn overhead(&self) -> u64 {
        let ip = if self.to.is_ipv6() { 40 } else { 20 };
        match self.carrier {
            Carrier::Udp => ip + 8,
            // 32 of header with timestamps, 4 of framing, and a bare acknowledgement for every other segment.
            Carrier::Tcp => ip + 36 + (ip + 32) / 2,
            Carrier::Tls => ip + 58 + (ip + 32) / 2,
            // Short header, frame and tag, and a datagram that acknowledges.
            Carrier::Quic | Carrier::QuicInverse => ip + 38 + ip + 35,
        }
    }

    /// Bytes that its life moves both ways at most, where it lives for `time` at most, with IP and transport headers.
    fn bytes(&self, time: Duration) -> u64 {
        let handshakes = 16 * self.dress.dressed_len(Form::Opening, self.dress.row().handshake_len) as u64;
        let time = self.lifetime().map_or(time, |life| life.min(time));
        let each = u64::from(self.size) + self.overhead();
        let probes = match (&self.script, self.purpose) {
            (Script::Idle(idle), _) => {
                let refreshes = time.as_nanos().checked_div(idle.every.as_nanos()).unwrap_or(0) as u64;
                (12 + refreshes) * each
            }
            (Script::Fragments { size, count }, _) => {
                2 * u64::from(*count) * (u64::from(*size) + 4 * self.overhead())
            }
            (Script::Purpose, Purpose::PathMtu) => 200 * 1500,
            (Script::Purpose, _) => {
                time.as_nanos().checked_div(self.interval.as_nanos()).unwrap_or(0) as u64 * each
            }
        };
        2 * (handshakes + probes)
    }
}

/// What an idle flow needs beside its gap: to open, to warm up and to be tried.
const IDLE_AROUND: Duration = Duration::from_secs(15);

impl Default for Plan {
    fn default() -> Self {
        Self {
            flows: Vec::new(),
            repeats: Vec::new(),
            ladders: Vec::new(),
            open_gap: OPEN_GAP,
            reach: Duration::from_millis(8500),
            measure: Duration::ZERO,
            drain: Duration::from_secs(2),
            settle: Duration::from_secs(4),
            ledger_every: Duration::from_secs(2),
            long: false,
            load: None,
        }
    }
}

impl Plan {
    /// As [`Plan::measure`]: until the run is stopped. Longer than anybody waits.
    pub const OPEN_END: Duration = Duration::from_secs(100 * 365 * 86_400);

    /// Whether it measures until it is stopped.
    pub fn is_open_ended(&self) -> bool {
        self.measure >= Self::OPEN_END
    }

    /// How long the run takes at most; beyond all measure where it [is open-ended](Self::is_open_ended).
    pub fn duration(&self) -> Duration {
        self.reach.saturating_add(self.measure).saturating_add(self.drain).saturating_add(self.settle)
    }

    /// How many bytes the run moves at most, both ways together, with IP and transport headers; of an open-ended one,
    /// in each hour after its first.
    pub fn bytes(&self) -> u64 {
        if self.is_open_ended() {
            let hours = |n: u64| self.bytes_within(Duration::from_secs(n * 3600));
            return hours(2).saturating_sub(hours(1));
        }
        self.bytes_within(self.reach + self.measure)
    }

    fn bytes_within(&self, time: Duration) -> u64 {
        let single = self.flows.iter().map(|flow| {
            let start = flow.starts_at().unwrap_or_default();
            if start < time { flow.bytes(time - start) } else { 0 }
        });
        let repeated = self.repeats.iter().map(|repeat| {
            let flows = time.saturating_sub(repeat.first).as_nanos().checked_div(repeat.every.as_nanos());
            let flows = flows.map_or(0, |n| n as u64 + 1).min(repeat.count.map_or(u64::MAX, u64::from));
            let round: u64 = repeat.specs.iter().map(|spec| spec.bytes(time)).sum();
            flows * round.div_ceil(repeat.specs.len().max(1) as u64)
        });
        // Some rounds of bisection beside the first one.
        let ladders = self.ladders.iter().filter(|ladder| ladder.first < time).map(|ladder| {
            let rung = |gap: Duration| {
                let script = Script::Idle(Idle { gap, refreshed: ladder.refreshed, every: ladder.every });
                FlowSpec { script, ..ladder.spec.clone() }.bytes(time)
            };
            2 * u64::from(ladder.copies) * ladder.gaps.iter().map(|gap| rung(*gap)).sum::<u64>()
        });
        let load = self.load.iter().filter(|load| load.first < time).map(load::LoadPlan::bytes);
        single.chain(repeated).chain(ladders).chain(load).sum()
    }

    /// The shortest interval of any flow, where there is one: how precise sending has to be.
    pub fn shortest_interval(&self) -> Option<Duration> {
        let repeated = self.repeats.iter().flat_map(|repeat| &repeat.specs);
        let load = self.load.iter().filter_map(load::LoadPlan::shortest_interval);
        let probes = self.flows.iter().chain(repeated).map(|flow| flow.interval);
        probes.filter(|i| !i.is_zero()).chain(load).min()
    }
}

/// What a carrier in a dress is called.
pub(crate) fn image_name(carrier: Carrier, dress: Dress) -> String {
    match carrier {
        Carrier::Udp | Carrier::Tcp => format!("{}/{}", carrier.name(), dress.name()),
        Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => carrier.name().to_owned(),
    }
}

/// What is put behind the names of flows to this address, where there are several.
fn suffix(addresses: &[SocketAddr], to: &SocketAddr) -> &'static str {
    match (addresses.len() > 1, to) {
        (false, _) => "",
        (true, SocketAddr::V4(_)) => "@ipv4",
        (true, SocketAddr::V6(_)) => "@ipv6",
    }
}
