//! A rule's criteria, made ready to be tested against packets.

use std::net::IpAddr;
use std::time::Duration;

use probe_protocol::time::Timestamp;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::data::{Content, Direction, Every, Match, ServerName};
use super::flow::Flow;
use super::pipeline::{BadRule, Moment, Parcel};
use super::recognise::{Hello, Needs, entropy};
use crate::packet::{Part, Protocol, flag};

/// One criterion.
#[derive(Clone, Debug)]
enum Test {
    Direction(Direction),
    Protocol(Vec<Protocol>),
    Port(Vec<u16>),
    ClientPort(Vec<u16>),
    Address(Vec<IpAddr>),
    ClientAddress(Vec<IpAddr>),
    Content(Option<usize>, Vec<u8>),
    Entropy(f64, f64),
    Printable(bool),
    Tls(ServerName),
    Quic(ServerName),
    Known(bool),
    TcpFlags { all: u8, none: u8 },
    Size(u64, u64),
    Dscp(Vec<u8>),
    DscpMarked(bool),
    Ecn(Vec<u8>),
    Fragment(bool),
    Age(Duration, Duration),
    Packets(u64, u64, Option<Direction>),
    Bytes(u64, u64, Option<Direction>),
    Idle(Duration, Option<Direction>),
    Since(Duration, Duration),
    Every(Every),
    TimeOfDay(Duration, Duration),
    Concurrent(usize),
    BeganBefore(Duration),
    Switch(usize),
    Probability(f64),
    FlowShare(f64),
}

/// A [`Match`], compiled.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    tests: Vec<Test>,
    not: bool,
    sticky: bool,
}

/// What the tests look at beside the packet itself.
pub(super) struct View<'a> {
    pub(super) moment: Moment,
    pub(super) start: Timestamp,
    pub(super) seed: u64,
    pub(super) rng: &'a mut ChaCha8Rng,
    /// Until when each switch is on.
    pub(super) switches: &'a [Timestamp],
}

impl Matcher {
    /// Makes a match ready. `switch` gives the number of a switch by its name.
    pub(super) fn new(data: &Match, switch: &mut dyn FnMut(&str) -> usize) -> Result<Self, BadRule> {
        let mut tests = Vec::new();
        let mut add = |test: Option<Test>| tests.extend(test);
        add(data.direction.map(Test::Direction));
        add(some(&data.protocol).map(Test::Protocol));
        add(some(&data.port).map(Test::Port));
        add(some(&data.client_port).map(Test::ClientPort));
        add(some(&data.address).map(Test::Address));
        add(some(&data.client_address).map(Test::ClientAddress));
        add(data.size_over.or(data.size_under).map(|_| {
            Test::Size(data.size_over.map_or(0, |s| s.0 + 1), data.size_under.map_or(u64::MAX, |s| s.0))
        }));
        if data.tcp_flags.is_some() || data.tcp_flags_not.is_some() {
            let all = tcp_flags(data.tcp_flags.as_deref().unwrap_or(""))?;
            let none = tcp_flags(data.tcp_flags_not.as_deref().unwrap_or(""))?;
            add(Some(Test::TcpFlags { all, none }));
        }
        add(some(&data.dscp).map(Test::Dscp));
        add(data.dscp_marked.map(Test::DscpMarked));
        add(some(&data.ecn).map(Test::Ecn));
        add(data.fragment.map(Test::Fragment));
        add(data.age_over.or(data.age_under).map(|_| {
            let over = data.age_over.map_or(Duration::ZERO, |s| s.0 + Duration::from_nanos(1));
            Test::Age(over, data.age_under.map_or(Duration::MAX, |s| s.0))
        }));
        add(data.packets_over.or(data.packets_upto).map(|_| {
            let over = data.packets_over.map_or(0, |n| n + 1);
            Test::Packets(over, data.packets_upto.unwrap_or(u64::MAX), data.count)
        }));
        add(data.bytes_over.or(data.bytes_upto).map(|_| {
            let over = data.bytes_over.map_or(0, |n| n.0 + 1);
            Test::Bytes(over, data.bytes_upto.map_or(u64::MAX, |n| n.0), data.count)
        }));
        add(data.idle_over.map(|idle| Test::Idle(idle.0, data.idle_side)));
        add(data.after.or(data.before).map(|_| {
            Test::Since(
                data.after.map_or(Duration::ZERO, |s| s.0),
                data.before.map_or(Duration::MAX, |s| s.0),
            )
        }));
        if data.every.is_some_and(|every| every.period.0.is_zero()) {
            return Err(BadRule::Field("every.period", "must not be zero".into()));
        }
        add(data.every.map(Test::Every));
        add(data.time_of_day.map(|(from, to)| Test::TimeOfDay(from.0, to.0)));
        add(data.concurrent_over.map(Test::Concurrent));
        add(data.began_before.map(|span| Test::BeganBefore(span.0)));
        add(data.switch.as_deref().map(|name| Test::Switch(switch(name))));
        add(data.content.as_ref().map(content).transpose()?);
        add(data.printable.map(Test::Printable));
        add(data
            .entropy_over
            .or(data.entropy_under)
            .map(|_| Test::Entropy(data.entropy_over.unwrap_or(-1.0), data.entropy_under.unwrap_or(2.0))));
        add(data.tls.clone().map(Test::Tls));
        add(data.quic.clone().map(Test::Quic));
        add(data.known_protocol.map(Test::Known));
        add(data.flow_share.map(|share| ratio("flow_share", share).map(Test::FlowShare)).transpose()?);
        // Last, so that only packets for which all else holds use up chance.
        add(data.probability.map(|share| ratio("probability", share).map(Test::Probability)).transpose()?);
        Ok(Self { tests, not: data.not, sticky: data.sticky })
    }

    /// What it needs to know of a flow's content.
    pub(super) fn needs(&self) -> Needs {
        let has = |f: fn(&Test) -> bool| self.tests.iter().any(f);
        Needs {
            tls: has(|t| matches!(t, Test::Tls(_))),
            quic: has(|t| matches!(t, Test::Quic(_))),
            known: has(|t| matches!(t, Test::Known(_))),
        }
    }

    /// Whether it asks how many flows are live.
    pub(super) fn counts_concurrent(&self) -> bool {
        self.tests.iter().any(|t| matches!(t, Test::Concurrent(_)))
    }

    fn looks_at_flow(&self) -> bool {
        self.sticky || self.tests.iter().any(|t| matches!(t, Test::Tls(_) | Test::Quic(_) | Test::Known(_)))
    }

    /// Whether the packet matches. `bit` is the rule's own in [`Flow::stuck`]; `flow` looks the flow up.
    pub(super) fn matches<'f>(
        &self,
        parcel: &Parcel,
        view: &mut View<'_>,
        bit: u64,
        flow: impl FnOnce() -> Option<&'f mut Flow>,
    ) -> bool {
        let flow = if self.looks_at_flow() { flow() } else { None };
        if self.sticky && flow.as_ref().is_some_and(|flow| flow.stuck & bit != 0) {
            return true;
        }
        let holds = self.tests.iter().all(|test| test.holds(parcel, view, flow.as_deref())) != self.not;
        if let Some(flow) = flow
            && self.sticky
            && holds
        {
            flow.stuck |= bit;
        }
        holds
    }
}

impl Test {
    fn holds(&self, parcel: &Parcel, view: &mut View<'_>, flow: Option<&Flow>) -> bool {
        let packet = &parcel.packet;
        let facts = &parcel.facts;
        let now = view.moment.now;
        match self {
            Self::Direction(direction) => parcel.direction == *direction,
            Self::Protocol(any) => any.contains(&packet.protocol()),
            Self::Port(any) => any.contains(&parcel.far().port()),
            Self::ClientPort(any) => any.contains(&parcel.near().port()),
            Self::Address(any) => any.contains(&parcel.far().ip()),
            Self::ClientAddress(any) => any.contains(&parcel.near().ip()),
            Self::Content(Some(at), bytes) => {
                packet.payload().get(*at..).is_some_and(|rest| rest.starts_with(bytes))
            }
            Self::Content(None, bytes) => packet.payload().windows(bytes.len()).any(|w| w == bytes),
            Self::Entropy(over, under) => {
                let share = entropy(packet.payload());
                !packet.payload().is_empty() && share > *over && share < *under
            }
            Self::Printable(wanted) => {
                let payload = packet.payload();
                let printable = payload.iter().all(|b| matches!(b, 0x20..=0x7e | b'\n' | b'\r' | b'\t'));
                !payload.is_empty() && printable == *wanted
            }
            Self::Tls(name) => flow.and_then(|f| f.classifier.tls.as_ref()).is_some_and(|h| named(h, name)),
            Self::Quic(name) => flow.and_then(|f| f.classifier.quic.as_ref()).is_some_and(|h| named(h, name)),
            Self::Known(wanted) => flow.and_then(|f| f.classifier.known) == Some(*wanted),
            Self::TcpFlags { all, none } => {
                let flags = packet.tcp_flags();
                packet.protocol() == Protocol::Tcp && flags & all == *all && flags & none == 0
            }
            Self::Size(from, under) => (*from..*under).contains(&(packet.size() as u64)),
            Self::Dscp(any) => any.contains(&(packet.tos() >> 2)),
            Self::DscpMarked(wanted) => (packet.tos() >> 2 != 0) == *wanted,
            Self::Ecn(any) => any.contains(&(packet.tos() & 3)),
            Self::Fragment(wanted) => (packet.part() != Part::Whole) == *wanted,
            Self::Age(from, under) => (*from..*under).contains(&facts.arrived.since(facts.first)),
            Self::Packets(from, upto, count) => (*from..=*upto).contains(&counted(facts.packets, *count)),
            Self::Bytes(from, upto, count) => (*from..=*upto).contains(&counted(facts.bytes, *count)),
            Self::Idle(over, side) => {
                let last = match side {
                    Some(way) => facts.previous[way.index()],
                    None => facts.previous.into_iter().flatten().max(),
                };
                // A side that never spoke has been idle since the flow began.
                let last = last.unwrap_or(facts.first);
                facts.arrived.since(last) > *over
            }
            Self::Since(from, to) => (*from..*to).contains(&now.since(view.start)),
            Self::Every(every) => every.end_of_window(now.since(view.start)).is_some(),
            Self::TimeOfDay(from, to) => {
                let second = view.moment.wall.as_secs().rem_euclid(86_400).unsigned_abs();
                let time = Duration::from_secs(second);
                if from <= to { (*from..*to).contains(&time) } else { time >= *from || time < *to }
            }
            Self::Concurrent(over) => facts.ordinal > *over,
            Self::BeganBefore(span) => facts.first < view.start + *span,
            Self::Switch(number) => view.switches.get(*number).is_some_and(|until| now < *until),
            Self::Probability(share) => view.rng.random_bool(*share),
            Self::FlowShare(share) => (facts.key.hash(view.seed) as f64) < share * u64::MAX as f64,
        }
    }
}

impl Every {
    /// Where the time lies in a window, when that one ends; both counted from the network's start.
    pub fn end_of_window(&self, elapsed: Duration) -> Option<Duration> {
        let after = elapsed.checked_sub(self.first.0)?;
        let period = self.period.0.as_nanos().max(1);
        let inside = after.as_nanos() % period;
        let left = self.length.0.as_nanos().checked_sub(inside).filter(|left| *left > 0)?;
        Some(elapsed + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)))
    }
}

fn counted(both: [u64; 2], way: Option<Direction>) -> u64 {
    way.map_or(both[0] + both[1], |way| both[way.index()])
}

fn named(hello: &Hello, wanted: &ServerName) -> bool {
    let name = hello.name.as_deref().unwrap_or("");
    let listed = wanted.names.iter().any(|suffix| {
        name == suffix || name.strip_suffix(suffix.as_str()).is_some_and(|front| front.ends_with('.'))
    });
    if wanted.names.is_empty() { true } else { listed != wanted.except }
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn ratio(field: &'static str, share: f64) -> Result<f64, BadRule> {
    super::pipeline::ratio(field, share)
}

fn tcp_flags(letters: &str) -> Result<u8, BadRule> {
    letters.chars().try_fold(0, |flags, letter| {
        Ok(flags
            | match letter {
                'S' => flag::SYN,
                'A' => flag::ACK,
                'F' => flag::FIN,
                'R' => flag::RST,
                other => return Err(BadRule::Field("tcp_flags", format!("`{other}` is none of S, A, F, R"))),
            })
    })
}

fn content(content: &Content) -> Result<Test, BadRule> {
    let mut bytes = super::pipeline::hexadecimal("content.hex", &content.hex)?;
    bytes.extend_from_slice(content.text.as_bytes());
    if bytes.is_empty() {
        return Err(BadRule::Field("content", "needs `hex` or `text`".into()));
    }
    Ok(Test::Content(content.at, bytes))
}
