//! Loads: steps that the plan lays down, executed on the flows of [`Purpose::Bulk`].
//!
//! A step is asked for at the listener, runs, and is told once both ends' counts are together: a packet that the sender
//! counted and the receiver did not is lost. What each end counts is [`Transfer`]'s; the engine sends the blocks of all
//! flows itself, unless the driver has said that it moves those over UDP in threads of its own
//! ([`Engine::move_loads_outside`]).

mod adapt;
mod ceilings;
mod fresh;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_analysis::observation::{DelayRange, FlowNo, Load, LoadBin, Observation, Purpose};
use probe_protocol::bulk::{Bin, LATE_ON_STREAMS, Order, Side, Transfer};
use probe_protocol::control::{BinsReply, BinsRequest, BulkReply, BulkRequest, Request};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::{HANDSHAKE_LEN, Header};

use self::adapt::Draining;
use self::ceilings::Ceilings;
use self::fresh::Fresh;
use self::watch::{Limit, Watch};
use super::flow::Flow;
use super::{Action, Engine, Reason, Transmit};
use crate::plan::load::{LoadExperiment, LoadPart, LoadPlan, LoadStep};

/// A load, shared between the engine and who moves it.
pub type SharedTransfer = Arc<Mutex<Transfer>>;

fn lock(transfer: &Mutex<Transfer>) -> MutexGuard<'_, Transfer> {
    transfer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the listener may take to say that it is ready.
const BEGIN_WITHIN: Duration = Duration::from_secs(2);
/// What is still under way when a step ends has this long to arrive.
const DRAIN: Duration = Duration::from_millis(400);
/// The same for a slice of a long step, whose queues may be full.
const SLICE_DRAIN: Duration = Duration::from_secs(2);
/// How long the counts of the other end are asked for.
const COUNTS_WITHIN: Duration = Duration::from_secs(8);
/// An early end takes this long at least, and so many packets.
const EARLY_AFTER: Duration = Duration::from_millis(600);
const EARLY_PACKETS: u64 = 50;
/// Loss and added delay that say enough.
const EARLY_LOSS: f64 = 0.25;
const EARLY_DELAY: Duration = Duration::from_millis(400);
/// Steps of one stair that ended early, after which the rest is left out.
const ENOUGH: u8 = 2;
/// Blocks handed out for one flow before the others have their turn.
const AT_ONCE: usize = 16;

/// The load of a run.
pub(super) struct LoadRun {
    plan: LoadPlan,
    stage: Stage,
    next_step: usize,
    told: u32,
    next_order: u32,
    transfers: BTreeMap<FlowNo, SharedTransfer>,
    parts: Vec<Part>,
    counting: VecDeque<Counting>,
    fresh: Fresh,
    ceilings: Ceilings,
    ended_early: BTreeMap<u16, u8>,
    /// What the steps have shown of each direction, up first.
    limits: [Option<Limit>; 2],
    /// A direction's stair was climbed a second time, since its limit was none.
    climbed_again: [bool; 2],
    watch: Option<Watch>,
    draining: Option<Draining>,
    outside: bool,
    /// Bytes that streams have not handed to the system yet.
    backlog: BTreeMap<FlowNo, usize>,
    fillers: BTreeMap<(FlowNo, usize), Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the first step, or between two.
    Pause(Timestamp),
    /// The listener has been asked.
    Asked(Timestamp),
    /// Blocks are on their way until then.
    Running(Timestamp),
    /// The counts of the last steps come in.
    Counting,
    Over,
}

/// One flow's part of the step that runs.
#[derive(Clone, Debug)]
struct Part {
    flow: FlowNo,
    carrier: Carrier,
    order: Order,
    /// What the listener granted; none while it has not answered.
    granted: Option<BulkReply>,
    refused: bool,
    /// First sequence number of the order, as far as this end knows.
    first_seq: u64,
    begun: Timestamp,
    /// The bin from which on nothing has been told.
    told_to: u32,
    stopped_early: bool,
}

/// A step, or a slice of one, whose counts are being put together.
#[derive(Clone, Debug)]
struct Counting {
    step: LoadStep,
    number: u32,
    part: Part,
    beside: Vec<FlowNo>,
    /// From when on the other end is asked, and until when.
    ask_at: Timestamp,
    give_up: Timestamp,
    /// The bins that it tells.
    bins: Range<u32>,
    /// The first of them that has not been fetched.
    next: u32,
    asked: Option<u32>,
    remote: BTreeMap<u32, Bin>,
    done: bool,
    to: Timestamp,
}

impl Counting {
    /// Of a part that has just ended: the rest of its bins, once what is under way has had its time.
    fn ended(
        step: LoadStep,
        number: u32,
        part: Part,
        beside: Vec<FlowNo>,
        now: Timestamp,
        drain: Duration,
    ) -> Self {
        let bins = part.told_to..u32::MAX;
        Self {
            step,
            number,
            beside,
            ask_at: now + drain,
            give_up: now + drain + COUNTS_WITHIN,
            next: bins.start,
            bins,
            asked: None,
            remote: BTreeMap::new(),
            done: part.granted.is_none(),
            to: now,
            part,
        }
    }
}

impl LoadRun {
    pub(super) fn new(plan: LoadPlan, start: Timestamp) -> Self {
        Self {
            stage: Stage::Pause(start + plan.first),
            plan,
            next_step: 0,
            told: 0,
            next_order: 1,
            transfers: BTreeMap::new(),
            parts: Vec::new(),
            counting: VecDeque::new(),
            fresh: Fresh::default(),
            ceilings: Ceilings::default(),
            ended_early: BTreeMap::new(),
            limits: [None; 2],
            climbed_again: [false; 2],
            watch: None,
            draining: None,
            outside: false,
            backlog: BTreeMap::new(),
            fillers: BTreeMap::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// When the next block or acknowledgement of a flow that is moved here is due.
    pub(super) fn next_deadline(&self, moves: impl Fn(FlowNo) -> bool) -> Option<Timestamp> {
        let inside = self.transfers.iter().filter(|(no, _)| moves(**no));
        let due = |(no, transfer): (&FlowNo, &SharedTransfer)| {
            let at = lock(transfer).next_deadline()?;
            // A stream that is behind is asked again at the next tick.
            self.backlog.get(no).is_none_or(|n| *n == 0).then_some(at)
        };
        inside.filter_map(due).min()
    }
}

impl Engine {
    /// The driver moves the loads of UDP flows by itself: it is told of each by [`Action::Load`].
    pub fn move_loads_outside(&mut self) {
        if let Some(load) = &mut self.load {
            load.outside = true;
        }
    }

    /// Whether the run has a load whose streams' backlogs matter.
    pub fn has_load(&self) -> bool {
        self.load.as_ref().is_some_and(|l| !l.is_over())
    }

    /// So many bytes of this stream wait to be handed to the system: no block is added before they have gone.
    pub fn stream_backlog(&mut self, flow: FlowNo, bytes: usize) {
        if let Some(load) = &mut self.load
            && load.transfers.contains_key(&flow)
        {
            load.backlog.insert(flow, bytes);
        }
    }

    pub(super) fn load_deadline(&self) -> Option<Timestamp> {
        let load = self.load.as_ref()?;
        let outside = load.outside;
        // A flow that is over sends nothing, whatever is due on it.
        load.next_deadline(|no| self.flow(no).is_some_and(|f| f.is_open() && (f.has_stream() || !outside)))
    }

    pub(super) fn load_is_over(&self) -> bool {
        self.load.as_ref().is_none_or(LoadRun::is_over)
    }

    /// Takes note of a load's record that arrived on this flow.
    pub(super) fn load_record(&mut self, no: FlowNo, header: Header, record: &[u8], arrived: Timestamp) {
        if let Some(transfer) = self.load.as_ref().and_then(|l| l.transfers.get(&no)) {
            // What is not understood counts nowhere: it shows as loss.
            let _ = lock(transfer).note(header, record, arrived);
        }
    }

    /// Does what is due for the load.
    pub(super) fn load_due(&mut self, now: Timestamp) {
        let Some(mut load) = self.load.take() else { return };
        match load.stage {
            Stage::Pause(until) if now >= until => {
                if !load.is_draining(now) {
                    self.next_load_step(now, &mut load);
                }
            }
            Stage::Asked(until) => self.begin_blocks(now, until, &mut load),
            Stage::Running(until) => self.look_at_step(now, until, &mut load),
            Stage::Counting if load.counting.is_empty() && load.fresh.is_idle() => load.stage = Stage::Over,
            Stage::Pause(_) | Stage::Counting | Stage::Over => {}
        }
        self.count(now, &mut load);
        self.fresh_due(now, &mut load);
        if load.stage == Stage::Over {
            // What measured beside the load has nothing more to measure.
            for flow in self.flows.values_mut().filter(|f| f.spec.purpose == Purpose::Loaded) {
                flow.probing = false;
            }
        } else {
            self.at(now + load.plan.tick, Reason::Load);
        }
        self.load = Some(load);
    }

    /// Ends the load early, in order: what has been sent is still told.
    pub(super) fn stop_load(&mut self, now: Timestamp) {
        let Some(mut load) = self.load.take() else { return };
        if matches!(load.stage, Stage::Asked(_) | Stage::Running(_)) {
            self.end_step(now, &mut load, false);
        }
        load.next_step = load.plan.steps.len();
        if load.stage != Stage::Over {
            load.stage = Stage::Counting;
        }
        self.load = Some(load);
    }

    fn next_load_step(&mut self, now: Timestamp, load: &mut LoadRun) {
        let ends = self.started + load.plan.until;
        loop {
            let Some(step) = load.plan.steps.get(load.next_step).cloned() else {
                load.stage = Stage::Counting;
                return;
            };
            let Some(step) = load.adapted(step) else {
                load.next_step += 1;
                continue;
            };
            if load.waits_for_counts(now, &step) {
                return;
            }
            load.next_step += 1;
            let enough = load.ended_early.get(&step.stair).is_some_and(|n| *n >= ENOUGH);
            let open: Vec<(FlowNo, Carrier, &LoadPart)> = step
                .parts
                .iter()
                .filter_map(|part| {
                    let fits = |f: &&Flow| f.spec.name == part.flow && f.is_open();
                    let flow = self.flows.values().find(fits)?;
                    (flow.spec.purpose == Purpose::Bulk).then_some((flow.no, flow.spec.carrier, part))
                })
                .collect();
            if enough || open.len() < step.parts.len() || now + step.usual() > ends {
                continue;
            }
            load.parts.clear();
            for (no, carrier, part) in open {
                let Some(transfer) = self.load_of(load, no) else { continue };
                let order = Order {
                    number: load.next_order,
                    up: part.up,
                    rate_bps: part.rate_bps,
                    size: part.size,
                    burst: part.burst,
                    length_us: u64::try_from(step.length.as_micros()).unwrap_or(u64::MAX),
                    bin_us: u32::try_from(step.bin.as_micros()).unwrap_or(u32::MAX),
                    tos: part.tos,
                }
                .bounded();
                load.next_order += 1;
                let first_seq = {
                    let mut transfer = lock(&transfer);
                    if order.up {
                        transfer.next_seq()
                    } else {
                        transfer.expect(order, now);
                        transfer.receipts().highest().map_or(0, |h| h + 1)
                    }
                };
                load.parts.push(Part {
                    flow: no,
                    carrier,
                    order,
                    granted: None,
                    refused: false,
                    first_seq,
                    begun: now,
                    told_to: 0,
                    stopped_early: false,
                });
            }
            load.stage = Stage::Asked(now + BEGIN_WITHIN);
            for part in &load.parts {
                self.ask_load(now, part.flow, part.order, false);
            }
            return;
        }
    }

    /// The flow's load; made when it is first wanted.
    fn load_of(&mut self, load: &mut LoadRun, no: FlowNo) -> Option<SharedTransfer> {
        if let Some(transfer) = load.transfers.get(&no) {
            return Some(Arc::clone(transfer));
        }
        let flow = self.flow(no)?;
        let link = flow.link.as_ref()?;
        let zeros = !flow.spec.dress.row().random_filler;
        let mut transfer = Transfer::new(link.id, link.secret, Side::Client, zeros);
        if flow.has_stream() {
            transfer.allow_lateness(LATE_ON_STREAMS);
        }
        let is_outside = load.outside && !flow.has_stream();
        let transfer = Arc::new(Mutex::new(transfer));
        load.transfers.insert(no, Arc::clone(&transfer));
        if is_outside {
            let handed = HandedLoad(Arc::clone(&transfer));
            self.actions.push_back(Action::Load { flow: no, transfer: handed });
        }
        Some(transfer)
    }

    fn ask_load(&mut self, now: Timestamp, about: FlowNo, order: Order, stop: bool) {
        if let Some(id) = self.flow(about).and_then(|f| f.ledger_id) {
            self.ask(now, about, Request::Bulk(BulkRequest { flow: id, order, stop }));
        }
    }

    /// The listener has answered a request for a load; none where it refused.
    pub(super) fn load_answered(&mut self, about: FlowNo, asked: &BulkRequest, reply: Option<BulkReply>) {
        let Some(load) = &mut self.load else { return };
        let number = asked.order.number;
        let parts = load.parts.iter_mut().chain(load.fresh.part_mut());
        let ours = parts.into_iter().find(|p| p.flow == about && p.order.number == number);
        if let Some(part) = ours.filter(|_| !asked.stop) {
            part.refused = reply.is_none();
            part.granted = reply;
        }
    }

    /// The listener has told what it counted.
    pub(super) fn bins_answered(&mut self, about: FlowNo, asked: &BinsRequest, reply: Option<BinsReply>) {
        let Some(load) = &mut self.load else { return };
        let ours = |c: &&mut Counting| {
            c.part.flow == about && c.part.order.number == asked.order && c.asked == Some(asked.from)
        };
        let Some(counting) = load.counting.iter_mut().find(ours) else { return };
        counting.asked = None;
        // An error: the counts are gone, and so is the step.
        let Some(reply) = reply else {
            counting.give_up = Timestamp::ZERO;
            return;
        };
        let wanted = counting.bins.clone();
        load.ceilings.listener = load.ceilings.listener.or(reply.ceiling);
        counting
            .remote
            .extend(reply.bins.iter().filter(|b| wanted.contains(&b.index)).map(|b| (b.index, *b)));
        match reply.next.filter(|next| *next < wanted.end) {
            Some(next) => counting.next = next,
            None => counting.done = true,
        }
    }

    fn begin_blocks(&mut self, now: Timestamp, until: Timestamp, load: &mut LoadRun) {
        let waits = load.parts.iter().any(|p| p.granted.is_none() && !p.refused);
        if waits && now < until {
            return;
        }
        load.parts.retain(|p| p.granted.is_some());
        if load.parts.is_empty() {
            load.stage = Stage::Pause(now);
            return;
        }
        let mut longest = Duration::ZERO;
        for part in &mut load.parts {
            part.begun = now;
            if let Some(granted) = &part.granted {
                part.order = granted.order;
            }
            longest = longest.max(part.order.length());
            if part.order.up
                && let Some(transfer) = load.transfers.get(&part.flow)
            {
                lock(transfer).send(part.order, now);
                self.actions.push_back(Action::LoadChanged { flow: part.flow });
            }
        }
        load.stage = Stage::Running(now + longest);
        let step = load.plan.steps.get(load.next_step.saturating_sub(1));
        let watched = step.is_some_and(|s| s.adapts.is_some() && s.experiment == LoadExperiment::Staircase);
        load.watch = load
            .parts
            .first()
            .filter(|p| watched && p.carrier == Carrier::Udp)
            .map(|part| Watch::new(now, part.order.rate_bps as f64 / (f64::from(part.order.size) * 8.0)));
    }

    fn look_at_step(&mut self, now: Timestamp, until: Timestamp, load: &mut LoadRun) {
        let Some(step) = load.plan.steps.get(load.next_step.saturating_sub(1)).cloned() else { return };
        load.look(now);
        if now >= until {
            self.end_step(now, load, false);
            return;
        }
        let quiet = step.adapts.as_ref().and_then(|a| a.quiet);
        if load.watch.as_ref().is_some_and(|w| w.is_enough(now, quiet)) {
            self.end_step(now, load, false);
            return;
        }
        if let Some(slice) = step.slice {
            self.cut_slices(now, &step, slice, load);
        }
        let says_enough =
            |part: &Part| load.transfers.get(&part.flow).is_some_and(|t| says_enough(&lock(t), part, now));
        if step.stops_early && load.parts.iter().any(says_enough) {
            *load.ended_early.entry(step.stair).or_default() += 1;
            self.end_step(now, load, true);
        }
    }

    /// Tells the parts of a long step that are over, while it goes on.
    fn cut_slices(&mut self, now: Timestamp, step: &LoadStep, slice: Duration, load: &mut LoadRun) {
        let per_slice = bins_in(slice, step.bin);
        let beside = beside(&load.parts);
        for at in 0..load.parts.len() {
            let Some(part) = load.parts.get_mut(at) else { continue };
            let to = part.told_to + per_slice;
            let ends = part.begun + step.bin * to;
            if now < ends {
                continue;
            }
            let bins = part.told_to..to;
            part.told_to = to;
            let (number, part) = (load.told, part.clone());
            let beside = beside.iter().filter(|no| **no != part.flow).copied().collect();
            load.counting.push_back(Counting {
                step: step.clone(),
                number,
                part,
                beside,
                ask_at: now + SLICE_DRAIN,
                give_up: Timestamp::NEVER,
                next: bins.start,
                bins,
                asked: None,
                remote: BTreeMap::new(),
                done: false,
                to: ends,
            });
            load.told += 1;
        }
    }

    /// Ends the step that runs.
    fn end_step(&mut self, now: Timestamp, load: &mut LoadRun, early: bool) {
        let Some(step) = load.plan.steps.get(load.next_step.saturating_sub(1)).cloned() else { return };
        let beside = beside(&load.parts);
        let waits = load.conclude(now, &step);
        let drain = if step.slice.is_some() || waits { SLICE_DRAIN } else { DRAIN };
        for mut part in std::mem::take(&mut load.parts) {
            part.stopped_early = early;
            if part.order.up {
                if let Some(transfer) = load.transfers.get(&part.flow) {
                    lock(transfer).stop_sending();
                }
            } else if now < part.begun + part.order.length() {
                self.ask_load(now, part.flow, part.order, true);
            }
            let others = beside.iter().filter(|no| **no != part.flow).copied().collect();
            load.counting.push_back(Counting::ended(step.clone(), load.told, part, others, now, drain));
        }
        load.told += 1;
        load.stage = Stage::Pause(now + load.plan.gap);
    }

    /// Asks for the other end's counts, and tells the steps whose counts are together.
    fn count(&mut self, now: Timestamp, load: &mut LoadRun) {
        let mut waiting = VecDeque::new();
        let mut asked: Vec<FlowNo> = Vec::new();
        for mut counting in std::mem::take(&mut load.counting) {
            let flow = counting.part.flow;
            // In their order: what has been fetched is forgotten at the listener.
            let first = !asked.contains(&flow);
            asked.push(flow);
            if counting.done {
                if let Some(told) = tell(&counting, load.transfers.get(&flow)) {
                    if told.carrier == Carrier::Udp {
                        self.tell_ceilings(now, load, told.size);
                    }
                    self.fresh_wanted(now, load, &counting.step, &told);
                    self.observe(Observation::Load(told));
                }
                continue;
            }
            if now >= counting.give_up {
                continue;
            }
            if first && now >= counting.ask_at && counting.asked.is_none() {
                let from = counting.next;
                let id = self.flow(flow).and_then(|f| f.ledger_id);
                if let Some(id) = id {
                    counting.asked = Some(from);
                    let request = BinsRequest { flow: id, order: counting.part.order.number, from };
                    self.ask(now, flow, Request::Bins(request));
                }
            }
            waiting.push_back(counting);
        }
        waiting.append(&mut load.counting);
        load.counting = waiting;
        if load.stage == Stage::Counting && load.counting.is_empty() && load.fresh.is_idle() {
            load.stage = Stage::Over;
        }
    }

    /// A request about a load was given up.
    pub(super) fn load_unanswered(&mut self, about: FlowNo, request: &Request) {
        let Some(load) = &mut self.load else { return };
        if let Request::Bins(asked) = request {
            for counting in &mut load.counting {
                if counting.part.flow == about && counting.part.order.number == asked.order {
                    counting.asked = None;
                }
            }
        }
    }

    /// The next block or acknowledgement of a load, written into `wire`.
    pub(super) fn load_transmit(&mut self, now: Timestamp, wire: &mut Vec<u8>) -> Option<Transmit> {
        let mut load = self.load.take()?;
        let transmit = self.load_transmit_of(now, &mut load, wire);
        self.load = Some(load);
        transmit
    }

    fn load_transmit_of(
        &mut self,
        now: Timestamp,
        load: &mut LoadRun,
        wire: &mut Vec<u8>,
    ) -> Option<Transmit> {
        for (no, transfer) in &load.transfers {
            let Some(flow) = self.flows.get_mut(no).filter(|f| f.is_open()) else { continue };
            let on_stream = flow.has_stream();
            if load.outside && !on_stream {
                continue;
            }
            let behind = load.backlog.get(no).is_some_and(|n| *n > 0);
            let mut transfer = lock(transfer);
            let mut sack = [0; HANDSHAKE_LEN];
            if transfer.write_sack(now, &mut sack) {
                return finish(flow, &sack, 0, wire);
            }
            let Some((_, size, tos)) = transfer.due(now, AT_ONCE).filter(|_| !behind) else { continue };
            let record = load.fillers.entry((*no, size)).or_insert_with(|| {
                let mut record = vec![0; size];
                transfer.fill(0, &mut record);
                record
            });
            if transfer.write_block(now, record) {
                return finish(flow, record, tos, wire);
            }
        }
        None
    }
}

/// Puts a sealed record of a load on its way.
fn finish(flow: &mut Flow, record: &[u8], tos: u8, wire: &mut Vec<u8>) -> Option<Transmit> {
    wire.clear();
    let datagram = !flow.has_stream();
    if datagram {
        wire.extend_from_slice(record);
    } else {
        flow.link.as_mut()?.stream.as_mut()?.0.frame(record, wire).ok()?;
    }
    Some(Transmit { flow: flow.no, datagram, tos, seq: None })
}

fn beside(parts: &[Part]) -> Vec<FlowNo> {
    parts.iter().map(|p| p.flow).collect()
}

fn bins_in(length: Duration, bin: Duration) -> u32 {
    u32::try_from(length.as_nanos().checked_div(bin.as_nanos()).unwrap_or(1).max(1)).unwrap_or(u32::MAX)
}

/// Whether a part has lost, or is held up, so much that more of it tells nothing new.
fn says_enough(transfer: &Transfer, part: &Part, now: Timestamp) -> bool {
    if now.since(part.begun) < EARLY_AFTER {
        return false;
    }
    let (highest, received, delay) = if part.order.up {
        let Some(sack) = transfer.acknowledged() else { return true };
        (sack.highest, sack.received, sack.delay)
    } else {
        let received = transfer.tally(part.order.number).map_or(0, |t| t.packets);
        (transfer.receipts().highest().unwrap_or(0), received, transfer.last_delay())
    };
    let gone = (highest + 1).saturating_sub(part.first_seq);
    let lost = gone.saturating_sub(received);
    let delayed = delay > i64::try_from(EARLY_DELAY.as_nanos()).unwrap_or(i64::MAX);
    delayed || (gone >= EARLY_PACKETS && lost as f64 >= EARLY_LOSS * gone as f64)
}

/// Puts the counts of both ends together.
fn tell(counting: &Counting, transfer: Option<&SharedTransfer>) -> Option<Load> {
    let Counting { step, part, .. } = counting;
    let granted = part.granted.as_ref()?;
    let mut transfer = lock(transfer?);
    let tally = transfer.tally_mut(part.order.number)?;
    let range = counting.bins.clone();
    let local: BTreeMap<u32, Bin> =
        tally.bins.from(range.start).take_while(|b| b.index < range.end).map(|b| (b.index, b)).collect();
    let (sent, received) =
        if part.order.up { (&local, &counting.remote) } else { (&counting.remote, &local) };
    let start = if part.order.up {
        tally.from
    } else {
        // The listener's start as the first block brought it over: its clock is not ours.
        Timestamp((granted.now.as_nanos() as i64).wrapping_add(tally.base.unwrap_or(0)) as u64)
    };
    let bin = |sent: &Bin| {
        let got = received.get(&sent.index);
        let packets = got.map_or(0, |g| g.packets);
        LoadBin {
            at: start + Duration::from_micros(sent.at_us),
            packets: sent.packets,
            bytes: sent.bytes,
            lost: sent.packets.saturating_sub(packets),
            lost_bytes: sent.bytes.saturating_sub(got.map_or(0, |g| g.bytes)),
            delay: got.filter(|g| g.packets > 0).map(|g| DelayRange {
                min: g.delay_min,
                mean: g.delay_mean,
                max: g.delay_max,
            }),
        }
    };
    let bins: Vec<LoadBin> = sent.values().map(bin).collect();
    let last = bins.last().map_or(counting.to, |b| b.at + step.bin).min(counting.to.max(start));
    tally.bins.settle_below(if range.end == u32::MAX { range.start } else { range.end });
    Some(Load {
        flow: part.flow,
        step: counting.number,
        experiment: step.experiment,
        up: part.order.up,
        carrier: part.carrier,
        size: part.order.size,
        offered_bps: part.order.rate_bps,
        tos: part.order.tos,
        from: start + step.bin * range.start,
        to: last,
        stopped_early: part.stopped_early,
        beside: counting.beside.clone(),
        bins,
    })
}

/// A load that is handed to the driver.
#[derive(Clone, Debug)]
pub struct HandedLoad(pub SharedTransfer);

impl PartialEq for HandedLoad {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for HandedLoad {}
