//! Senders, and the clockwork that carries their packets along a path. It knows nothing of the estimators.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::path::{Stage, Transit};

/// One packet of a trace.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub at: f64,
    pub bytes: u32,
    pub arrived: Option<f64>,
    pub dropped: bool,
    pub flow: u32,
    pub is_tcp: bool,
}

/// What sends.
#[derive(Clone, Debug)]
pub enum Sender {
    /// So many packets a second, with jitter as a share of the gap; rates change at the given times.
    Paced { rates: Vec<(f64, f64)>, sizes: Vec<u32>, jitter: f64 },
    /// Bursts of so many packets at line rate, with pauses between them.
    Bursty { packets: (u32, u32), pause: (f64, f64), size: u32, line: f64 },
    /// Poisson arrivals in on and off periods.
    OnOff { rate: f64, on: f64, off: f64, size: u32 },
    /// TCP.
    Tcp { kind: Control, chunk: Option<(f64, f64)>, size: u32, line: f64 },
}

/// How a TCP sender controls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Reno,
    Cubic,
    Bbr,
}

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    pub sender: Sender,
    pub from: f64,
    pub to: f64,
    /// Time that acknowledgements take.
    pub back: f64,
    /// It stands in the trace; else it is cross traffic.
    pub is_seen: bool,
    /// It enters the path at this stage.
    pub enters: usize,
}

impl Flow {
    pub fn new(sender: Sender, to: f64) -> Self {
        Self { sender, from: 0.0, to, back: 0.02, is_seen: true, enters: 0 }
    }

    pub fn unseen(self) -> Self {
        Self { is_seen: false, ..self }
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    Send(usize),
    At { stage: usize, row: usize, transmission: u64 },
    Ack { flow: usize, transmission: u64 },
    Timeout { flow: usize, generation: u64 },
}

struct Clockwork {
    heap: BinaryHeap<(Reverse<u64>, Reverse<u64>, usize)>,
    events: Vec<What>,
    number: u64,
}

impl Clockwork {
    fn at(&mut self, time: f64, what: What) {
        self.number += 1;
        self.events.push(what);
        self.heap.push((Reverse((time * 1e9) as u64), Reverse(self.number), self.events.len() - 1));
    }
}

/// A TCP sender's state. Every transmission has its number; a transmission is lost when three later ones have arrived.
struct Tcp {
    kind: Control,
    window: f64,
    threshold: f64,
    in_flight: BTreeMap<u64, f64>,
    next: u64,
    recover: u64,
    resend: u32,
    smoothed: f64,
    least: f64,
    generation: u64,
    backoff: f64,
    peak: f64,
    epoch: f64,
    left: f64,
    delivered: f64,
    delivered_at: VecDeque<(u64, f64, f64)>,
    rates: VecDeque<(f64, f64)>,
    full: f64,
    full_rounds: u32,
    round_end: u64,
    startup: bool,
    waiting: bool,
}

impl Tcp {
    fn new(kind: Control) -> Self {
        Self {
            kind,
            window: 10.0,
            threshold: 1e9,
            in_flight: BTreeMap::new(),
            next: 0,
            recover: 0,
            resend: 0,
            smoothed: 0.1,
            least: 1.0,
            generation: 0,
            backoff: 1.0,
            peak: 0.0,
            epoch: 0.0,
            left: f64::INFINITY,
            delivered: 0.0,
            delivered_at: VecDeque::new(),
            rates: VecDeque::new(),
            full: 0.0,
            full_rounds: 0,
            round_end: 0,
            startup: true,
            waiting: false,
        }
    }

    fn bandwidth(&self) -> f64 {
        self.rates.iter().map(|r| r.1).fold(0.0, f64::max)
    }

    /// Packets per second at which it paces; none for the line's.
    fn pace(&self, now: f64) -> Option<f64> {
        if self.kind != Control::Bbr {
            return None;
        }
        let gain = if self.startup {
            2.89
        } else {
            [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0][(now / self.least.max(0.005)) as usize % 8]
        };
        Some((self.bandwidth() * gain).max(20.0))
    }

    fn acked(&mut self, now: f64, transmission: u64) {
        let Some(sent) = self.in_flight.remove(&transmission) else { return };
        let sample = now - sent;
        self.smoothed += (sample - self.smoothed) / 8.0;
        self.least = self.least.min(sample);
        self.backoff = 1.0;
        self.delivered += 1.0;
        while let Some((first, _, _)) = self.delivered_at.front()
            && *first < transmission
        {
            self.delivered_at.pop_front();
        }
        if let Some((n, at, count)) = self.delivered_at.front().copied()
            && n == transmission
            && now > at
        {
            self.rates.push_back((now, (self.delivered - count) / (now - at)));
            let old = now - 10.0 * self.smoothed;
            while self.rates.front().is_some_and(|r| r.0 < old) {
                self.rates.pop_front();
            }
        }
        if transmission >= self.round_end {
            self.round_end = self.next;
            let bandwidth = self.bandwidth();
            if bandwidth > self.full * 1.25 {
                (self.full, self.full_rounds) = (bandwidth, 0);
            } else {
                self.full_rounds += 1;
                self.startup &= self.full_rounds < 3;
            }
        }
        match self.kind {
            Control::Bbr => {
                let gain = if self.startup { 2.89 } else { 2.0 };
                self.window = (self.bandwidth() * self.least * gain).max(4.0);
            }
            _ if self.window < self.threshold => self.window += 1.0,
            Control::Reno => self.window += 1.0 / self.window,
            Control::Cubic => {
                let k = (self.peak * 0.3 / 0.4).cbrt();
                let target = 0.4 * (now - self.epoch + self.smoothed - k).powi(3) + self.peak;
                let step = ((target - self.window) / self.window).clamp(0.01, 0.5);
                self.window += step;
            }
        }
        let lost: Vec<u64> =
            self.in_flight.range(..transmission.saturating_sub(3)).map(|(n, _)| *n).collect();
        for n in lost {
            self.in_flight.remove(&n);
            self.resend += 1;
            if n >= self.recover {
                self.recover = self.next;
                self.cut(now);
            }
        }
    }

    fn cut(&mut self, now: f64) {
        if self.kind == Control::Bbr {
            return;
        }
        let keep = if self.kind == Control::Cubic { 0.7 } else { 0.5 };
        self.peak = self.window;
        self.epoch = now;
        self.window = (self.window * keep).max(2.0);
        self.threshold = self.window;
    }

    fn timed_out(&mut self, now: f64) {
        self.resend += self.in_flight.len() as u32;
        self.in_flight.clear();
        self.cut(now);
        if self.kind != Control::Bbr {
            self.window = 1.0;
        }
        self.recover = self.next;
        self.backoff = (self.backoff * 2.0).min(32.0);
    }

    fn patience(&self) -> f64 {
        (2.0 * self.smoothed).max(0.2) * self.backoff
    }
}

/// Runs all flows along the path; answers the rows of those that are seen, in sending order.
pub fn run(seed: u64, mut path: Vec<Stage>, flows: &[Flow], most: usize) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut clock = Clockwork { heap: BinaryHeap::new(), events: Vec::new(), number: 0 };
    let mut rows: Vec<(Row, bool)> = Vec::new();
    let mut tcp: Vec<Option<Tcp>> = flows
        .iter()
        .map(|f| match &f.sender {
            Sender::Tcp { kind, chunk, size, .. } => {
                let mut state = Tcp::new(*kind);
                if let Some((bytes, _)) = chunk {
                    state.left = bytes / f64::from(*size);
                }
                Some(state)
            }
            _ => None,
        })
        .collect();
    let mut free: Vec<f64> = flows.iter().map(|f| f.from).collect();
    let mut bursts: Vec<u32> = vec![0; flows.len()];
    for (n, flow) in flows.iter().enumerate() {
        clock.at(flow.from, What::Send(n));
        if tcp[n].is_some() {
            clock.at(flow.from + 1.0, What::Timeout { flow: n, generation: 0 });
        }
    }
    while let Some((Reverse(ns), _, index)) = clock.heap.pop() {
        let now = ns as f64 / 1e9;
        if rows.len() >= most {
            break;
        }
        match clock.events[index] {
            What::Send(n) => {
                let flow = &flows[n];
                if now > flow.to {
                    continue;
                }
                let mut emit = |size: u32, transmission: u64, clock: &mut Clockwork| {
                    let is_tcp = matches!(flow.sender, Sender::Tcp { .. });
                    rows.push((
                        Row { at: now, bytes: size, arrived: None, dropped: false, flow: n as u32, is_tcp },
                        flow.is_seen,
                    ));
                    clock.at(now, What::At { stage: flow.enters, row: rows.len() - 1, transmission });
                };
                match &flow.sender {
                    Sender::Paced { rates, sizes, jitter } => {
                        let rate = rates.iter().rev().find(|r| r.0 <= now).map_or(rates[0].1, |r| r.1);
                        let size = sizes[rng.random_range(0..sizes.len())];
                        emit(size, 0, &mut clock);
                        free[n] += 1.0 / rate;
                        if free[n] < now {
                            free[n] = now;
                        }
                        let next = free[n] + rng.random::<f64>() * jitter / rate;
                        clock.at(next.max(now), What::Send(n));
                    }
                    Sender::Bursty { packets, pause, size, line } => {
                        emit(*size, 0, &mut clock);
                        if bursts[n] == 0 {
                            bursts[n] = rng.random_range(packets.0..=packets.1);
                            clock.at(now + rng.random_range(pause.0..pause.1), What::Send(n));
                        } else {
                            bursts[n] -= 1;
                            clock.at(now + f64::from(*size) / line, What::Send(n));
                        }
                    }
                    Sender::OnOff { rate, on, off, size } => {
                        emit(*size, 0, &mut clock);
                        let gap = -(1.0 - rng.random::<f64>()).ln() * f64::from(*size) / rate;
                        let pause = if rng.random::<f64>() < gap / on {
                            -off * (1.0 - rng.random::<f64>()).ln()
                        } else {
                            0.0
                        };
                        clock.at(now + gap + pause, What::Send(n));
                    }
                    Sender::Tcp { size, line, chunk, .. } => {
                        let Some(state) = &mut tcp[n] else { continue };
                        state.waiting = false;
                        let has_data = state.resend > 0 || state.left >= 1.0;
                        if !has_data {
                            if state.in_flight.is_empty()
                                && let Some((bytes, pause)) = chunk
                            {
                                state.left = bytes / f64::from(*size);
                                state.waiting = true;
                                clock.at(now + pause, What::Send(n));
                            }
                            continue;
                        }
                        if (state.in_flight.len() as f64) >= state.window.floor().max(1.0) {
                            continue;
                        }
                        if state.resend > 0 {
                            state.resend -= 1;
                        } else {
                            state.left -= 1.0;
                        }
                        let transmission = state.next;
                        state.next += 1;
                        state.in_flight.insert(transmission, now);
                        state.delivered_at.push_back((transmission, now, state.delivered));
                        let gap = state
                            .pace(now)
                            .map_or(f64::from(*size) / line, |p| (1.0 / p).max(f64::from(*size) / line));
                        state.waiting = true;
                        emit(*size, transmission, &mut clock);
                        clock.at(now + gap, What::Send(n));
                    }
                }
            }
            What::At { stage, row, transmission } => {
                let r = rows[row].0;
                match path.get_mut(stage) {
                    Some(s) => {
                        let transit = Transit { bytes: f64::from(r.bytes), is_tcp: r.is_tcp };
                        match s.pass(now, &transit, &mut rng) {
                            Some(leaves) => {
                                clock.at(leaves, What::At { stage: stage + 1, row, transmission });
                            }
                            None => rows[row].0.dropped = true,
                        }
                    }
                    None => {
                        rows[row].0.arrived = Some(now);
                        if r.is_tcp {
                            let n = r.flow as usize;
                            clock.at(now + flows[n].back, What::Ack { flow: n, transmission });
                        }
                    }
                }
            }
            What::Ack { flow, transmission } => {
                let Some(state) = &mut tcp[flow] else { continue };
                state.acked(now, transmission);
                state.generation += 1;
                let (generation, patience) = (state.generation, state.patience());
                clock.at(now + patience, What::Timeout { flow, generation });
                if !state.waiting {
                    state.waiting = true;
                    clock.at(now, What::Send(flow));
                }
            }
            What::Timeout { flow, generation } => {
                let Some(state) = &mut tcp[flow] else { continue };
                if state.generation != generation || now > flows[flow].to {
                    continue;
                }
                if !state.in_flight.is_empty() {
                    state.timed_out(now);
                }
                let patience = state.patience();
                state.generation += 1;
                let generation = state.generation;
                clock.at(now + patience, What::Timeout { flow, generation });
                if !state.waiting {
                    state.waiting = true;
                    clock.at(now, What::Send(flow));
                }
            }
        }
    }
    // What is still under way at the end is neither lost nor arrived: it is no part of the trace.
    let is_settled = |r: &Row| r.dropped || r.arrived.is_some();
    let mut seen: Vec<Row> =
        rows.into_iter().filter(|(r, is_seen)| *is_seen && is_settled(r)).map(|(r, _)| r).collect();
    seen.sort_by(|a, b| a.at.total_cmp(&b.at));
    seen
}
