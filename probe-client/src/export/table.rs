//! The tables that can be exported, and what stands in their columns.

use std::collections::BTreeMap;
use std::io;

use probe_analysis::observation::{Excluded, Fate, FlowNo, FlowPlanned, Observation, Probe};
use probe_protocol::time::{Timestamp, WallTime};

use super::ExportError;
use crate::record::Recording;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// A row per probe.
    Probes,
    /// A row per flow and second.
    Seconds,
    /// A row per other observation, its content as JSON.
    Observations,
}

/// What kind of values a column has. Every column may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers.
    Int,
    /// Numbers.
    Float,
    /// Words.
    Text,
    /// Yes or no.
    Bool,
    /// Moments of the client's wall clock, as it stood at the run's start and never set since.
    Time,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, with its unit.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Unknown, or not applicable.
    None,
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Float`].
    Float(f64),
    /// Of [`Kind::Text`].
    Text(&'a str),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Time`]: nanoseconds since 1970.
    Time(i64),
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

const PROBES: [Column; 26] = [
    column("flow", Kind::Int),
    column("name", Kind::Text),
    column("transport", Kind::Text),
    column("image", Kind::Text),
    column("purpose", Kind::Text),
    column("seq", Kind::Int),
    column("sent", Kind::Time),
    column("sent_s", Kind::Float),
    column("send_error_us", Kind::Float),
    column("size_bytes", Kind::Int),
    column("fate", Kind::Text),
    column("excluded_because", Kind::Text),
    column("rtt_us", Kind::Float),
    column("rtt_application_us", Kind::Float),
    column("listener_arrived_ns", Kind::Int),
    column("dwell_us", Kind::Float),
    column("kernel_timestamps", Kind::Bool),
    column("replies", Kind::Int),
    column("reordered", Kind::Bool),
    column("duplicated_up", Kind::Bool),
    column("ttl_up", Kind::Int),
    column("ttl_down", Kind::Int),
    column("tos_sent", Kind::Int),
    column("tos_up", Kind::Int),
    column("tos_asked", Kind::Int),
    column("tos_down", Kind::Int),
];

const SECONDS: [Column; 12] = [
    column("flow", Kind::Int),
    column("name", Kind::Text),
    column("time", Kind::Time),
    column("time_s", Kind::Float),
    column("sent", Kind::Int),
    column("lost_up", Kind::Int),
    column("lost_down", Kind::Int),
    column("lost_unknown", Kind::Int),
    column("excluded", Kind::Int),
    column("rtt_min_us", Kind::Float),
    column("rtt_mean_us", Kind::Float),
    column("rtt_max_us", Kind::Float),
];

const OBSERVATIONS: [Column; 3] =
    [column("number", Kind::Int), column("kind", Kind::Text), column("content", Kind::Text)];

impl Table {
    /// Its columns, in their order.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Probes => &PROBES,
            Self::Seconds => &SECONDS,
            Self::Observations => &OBSERVATIONS,
        }
    }
}

/// What is known of the run while its rows are made.
#[derive(Default)]
struct Context {
    start: Timestamp,
    wall: Option<WallTime>,
    flows: BTreeMap<FlowNo, FlowWords>,
}

/// A flow in words.
struct FlowWords {
    name: String,
    transport: &'static str,
    image: &'static str,
    purpose: String,
}

impl Context {
    fn see(&mut self, observation: &Observation) {
        if let Observation::RunStarted(o) = observation {
            (self.start, self.wall) = (o.at, Some(o.wall));
        } else if let Observation::FlowPlanned(o) = observation {
            self.flows.insert(o.flow, words(o));
        }
    }

    fn time(&self, at: Timestamp) -> Cell<'static> {
        self.wall.map_or(Cell::None, |wall| Cell::Time(wall.0.saturating_add(at.signed_since(self.start))))
    }

    fn seconds(&self, at: Timestamp) -> Cell<'static> {
        Cell::Float(at.signed_since(self.start) as f64 / 1e9)
    }

    fn name(&self, flow: FlowNo) -> Cell<'_> {
        self.flows.get(&flow).map_or(Cell::None, |flow| Cell::Text(&flow.name))
    }
}

fn words(plan: &FlowPlanned) -> FlowWords {
    use probe_protocol::wire::hello::Carrier;
    let purpose = serde_json::to_value(plan.purpose).ok();
    FlowWords {
        name: plan.name.clone(),
        transport: plan.carrier.name(),
        image: match plan.carrier {
            Carrier::Udp | Carrier::Tcp => plan.dress.name(),
            Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => plan.carrier.name(),
        },
        purpose: purpose.as_ref().and_then(|p| p.as_str()).unwrap_or_default().to_owned(),
    }
}

/// Makes the rows of a table, one after another.
pub(super) fn fill(
    recording: &Recording,
    table: Table,
    row: &mut dyn FnMut(&[Cell<'_>]) -> io::Result<()>,
) -> Result<(), ExportError> {
    match table {
        Table::Probes => probes(recording, row),
        Table::Seconds => seconds(recording, row),
        Table::Observations => others(recording, row),
    }
}

fn probes(
    recording: &Recording,
    row: &mut dyn FnMut(&[Cell<'_>]) -> io::Result<()>,
) -> Result<(), ExportError> {
    let mut context = Context::default();
    for observation in recording.observations() {
        let observation = observation?;
        context.see(&observation);
        if let Observation::Probe(probe) = &observation {
            row(&probe_cells(&context, probe))?;
        }
    }
    Ok(())
}

fn us(nanos: i64) -> Cell<'static> {
    Cell::Float(nanos as f64 / 1e3)
}

fn probe_cells<'a>(context: &'a Context, probe: &Probe) -> [Cell<'a>; PROBES.len()] {
    let flow = context.flows.get(&probe.flow);
    let (fate, because) = match probe.fate {
        Fate::Received => ("received", None),
        Fate::LostUp => ("lost-up", None),
        Fate::LostDown => ("lost-down", None),
        Fate::LostUnknown => ("lost-unknown", None),
        Fate::Excluded(why) => ("excluded", Some(excluded(why))),
    };
    let reply = probe.reply.as_ref();
    let small = |value: Option<u8>| value.map_or(Cell::None, |value| Cell::Int(i64::from(value)));
    let of = |cell: &dyn Fn(&probe_analysis::observation::ProbeReply) -> Cell<'static>| {
        reply.map_or(Cell::None, cell)
    };
    let dwell = |nanos: u128| i64::try_from(nanos).unwrap_or(i64::MAX);
    [
        Cell::Int(i64::from(probe.flow.0)),
        flow.map_or(Cell::None, |flow| Cell::Text(&flow.name)),
        flow.map_or(Cell::None, |flow| Cell::Text(flow.transport)),
        flow.map_or(Cell::None, |flow| Cell::Text(flow.image)),
        flow.map_or(Cell::None, |flow| Cell::Text(&flow.purpose)),
        Cell::Int(i64::try_from(probe.seq).unwrap_or(i64::MAX)),
        context.time(probe.sent),
        context.seconds(probe.sent),
        us(probe.sent.signed_since(probe.scheduled)),
        Cell::Int(i64::from(probe.size)),
        Cell::Text(fate),
        because.map_or(Cell::None, Cell::Text),
        of(&|reply| {
            let back = reply.kernel.unwrap_or(reply.at);
            us(back.signed_since(probe.sent).saturating_sub(dwell(reply.dwell.as_nanos())))
        }),
        of(&|reply| us(reply.at.signed_since(probe.sent))),
        of(&|reply| Cell::Int(i64::try_from(reply.listener_arrived.0).unwrap_or(i64::MAX))),
        of(&|reply| us(dwell(reply.dwell.as_nanos()))),
        of(&|reply| Cell::Bool(reply.kernel.is_some() && reply.listener_kernel)),
        Cell::Int(i64::from(probe.extra_replies) + i64::from(reply.is_some())),
        of(&|reply| Cell::Bool(reply.reordered)),
        of(&|reply| Cell::Bool(reply.duplicated_up)),
        of(&|reply| small(reply.ttl_up)),
        of(&|reply| small(reply.ttl_down)),
        of(&|reply| Cell::Int(i64::from(reply.tos_sent))),
        of(&|reply| small(reply.tos_up)),
        of(&|reply| Cell::Int(i64::from(reply.tos_asked))),
        of(&|reply| small(reply.tos_down)),
    ]
}

fn excluded(why: Excluded) -> &'static str {
    match why {
        Excluded::SendFailed => "send-failed",
        Excluded::Suspended => "suspended",
        Excluded::ReceiveOverflow => "receive-overflow",
        Excluded::ListenerOverflow => "listener-overflow",
        Excluded::RunEnded => "run-ended",
        Excluded::InterfaceChanged => "interface-changed",
        Excluded::Experiment => "experiment",
    }
}

fn seconds(
    recording: &Recording,
    row: &mut dyn FnMut(&[Cell<'_>]) -> io::Result<()>,
) -> Result<(), ExportError> {
    let mut context = Context::default();
    recording.rows_of(&["RunStarted", "FlowPlanned"], &mut |observation| context.see(observation))?;
    let mut done = Ok(());
    recording.seconds(|second| {
        if done.is_err() {
            return;
        }
        let at = Timestamp(second.second.saturating_mul(1_000_000_000));
        let rtt = |n: usize| second.rtt.map_or(Cell::None, |rtt| Cell::Float(rtt[n] as f64 / 1e3));
        let count = |n: u32| Cell::Int(i64::from(n));
        done = row(&[
            count(second.flow),
            context.name(FlowNo(second.flow)),
            context.time(at),
            context.seconds(at),
            count(second.sent),
            count(second.lost_up),
            count(second.lost_down),
            count(second.lost_unknown),
            count(second.excluded),
            rtt(0),
            rtt(1),
            rtt(2),
        ]);
    })?;
    Ok(done?)
}

fn others(
    recording: &Recording,
    row: &mut dyn FnMut(&[Cell<'_>]) -> io::Result<()>,
) -> Result<(), ExportError> {
    for (number, observation) in recording.observations().enumerate() {
        let observation = observation?;
        if matches!(observation, Observation::Probe(_)) {
            continue;
        }
        let value = serde_json::to_value(&observation).map_err(io::Error::other)?;
        if let Some((kind, content)) = value.as_object().and_then(|fields| fields.iter().next()) {
            let content = content.to_string();
            row(&[Cell::Int(number as i64), Cell::Text(kind), Cell::Text(&content)])?;
        }
    }
    Ok(())
}
