//! Carries the packets of all senders through the boxes, and brings back acknowledgements.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::boxes::{Box_, Seen};
use crate::tcp::Tcp;

/// One packet of a trace, in true time.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub at: f64,
    pub bytes: u32,
    pub arrived: Option<f64>,
    pub flow: usize,
    pub udp: bool,
    pub down: bool,
}

/// What sends.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a test has few of them")]
pub enum Sender {
    /// TCP with SACK, acknowledged every second segment.
    Tcp(Tcp),
    /// A frame of packets at each tick, as a video call or a game sends: sizes of frames vary, each third second is louder.
    Frames { per_second: f64, bytes: f64, packet: u32, spacing: f64 },
    /// Poisson arrivals at a rate that changes to a new one at exponential times.
    Poisson { rates: Vec<f64>, hold: f64, sizes: Vec<u32> },
    /// Evenly paced by a timer with such a resolution: what is due is sent at each tick together.
    Timer { rate: f64, bytes: u32, resolution: f64 },
    /// On for some seconds, off for others, evenly paced while on.
    OnOff { rate: f64, bytes: u32, on: f64, off: f64 },
}

/// A flow: what sends, when, on which way, and whether the trace shows it.
#[derive(Clone, Debug)]
pub struct Flow {
    pub sender: Sender,
    pub from: f64,
    pub to: f64,
    pub down: bool,
    pub shown: bool,
    /// Time that acknowledgements take.
    pub back: f64,
}

enum Event {
    /// A sender has something to do; of a TCP only the latest such event counts.
    Wake {
        flow: usize,
        turn: u64,
    },
    Hop {
        row: usize,
        hop: usize,
        number: u64,
    },
    Ack {
        flow: usize,
        numbers: Vec<u64>,
    },
    Flush(usize),
}

struct Queue {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: Vec<Option<Event>>,
}

impl Queue {
    fn push(&mut self, at: f64, event: Event) {
        self.heap.push(Reverse(((at * 1e9) as u64, self.events.len() as u64)));
        self.events.push(Some(event));
    }
}

/// Runs until `until` or `most` packets; answers the rows of shown flows in sending order.
pub fn run(
    seed: u64,
    up: Vec<Box_>,
    down: Vec<Box_>,
    mut flows: Vec<Flow>,
    until: f64,
    most: usize,
) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xf1e1d);
    let mut ways = [up, down];
    let mut queue = Queue { heap: BinaryHeap::new(), events: Vec::new() };
    let mut rows: Vec<Row> = Vec::new();
    let mut settled: Vec<bool> = Vec::new();
    let mut next: Vec<f64> = flows.iter().map(|f| f.from).collect();
    let mut turns: Vec<u64> = vec![0; flows.len()];
    let mut pending: Vec<Vec<u64>> = vec![Vec::new(); flows.len()];
    let mut current: Vec<(f64, f64)> = vec![(0.0, 0.0); flows.len()];
    for (n, flow) in flows.iter().enumerate() {
        queue.push(flow.from, Event::Wake { flow: n, turn: 0 });
    }
    while let Some(Reverse((ns, index))) = queue.heap.pop() {
        let now = ns as f64 / 1e9;
        if now > until || rows.len() >= most {
            break;
        }
        let Some(event) = queue.events[index as usize].take() else { continue };
        match event {
            Event::Wake { flow: n, turn } => {
                let flow = &mut flows[n];
                if now > flow.to || turn != turns[n] {
                    continue;
                }
                let udp = !matches!(flow.sender, Sender::Tcp(_));
                let (down, mut out) = (flow.down, Vec::<(f64, u32, u64)>::new());
                match &mut flow.sender {
                    Sender::Tcp(tcp) => {
                        while let Some(number) = tcp.transmit(now) {
                            out.push((0.0, tcp.segment, number));
                        }
                        if let Some(at) = tcp.wake(now) {
                            turns[n] += 1;
                            queue.push(at.max(now + 1e-6), Event::Wake { flow: n, turn: turns[n] });
                        }
                    }
                    Sender::Frames { per_second, bytes, packet, spacing } => {
                        let loud = if (now as u64).is_multiple_of(3) { 1.6 } else { 0.7 };
                        let count =
                            (*bytes * loud * rng.random_range(0.5..1.5) / f64::from(*packet)).ceil() as u64;
                        for k in 0..count {
                            let short = k + 1 == count;
                            let size = if short { rng.random_range(80..=*packet) } else { *packet };
                            out.push((k as f64 * *spacing, size, 0));
                        }
                        next[n] += 1.0 / *per_second;
                        queue.push(next[n], Event::Wake { flow: n, turn });
                    }
                    Sender::Poisson { rates, hold, sizes } => {
                        if now >= current[n].0 {
                            current[n] = (
                                now - *hold * (1.0 - rng.random::<f64>()).ln(),
                                rates[rng.random_range(0..rates.len())],
                            );
                        }
                        let size = sizes[rng.random_range(0..sizes.len())];
                        out.push((0.0, size, 0));
                        let gap = -(1.0 - rng.random::<f64>()).ln() * f64::from(size) / current[n].1;
                        queue.push(now + gap, Event::Wake { flow: n, turn });
                    }
                    Sender::Timer { rate, bytes, resolution } => {
                        current[n].0 += *rate * *resolution;
                        while current[n].0 >= f64::from(*bytes) {
                            current[n].0 -= f64::from(*bytes);
                            out.push((out.len() as f64 * 2e-6, *bytes, 0));
                        }
                        next[n] += *resolution;
                        queue.push(next[n], Event::Wake { flow: n, turn });
                    }
                    Sender::OnOff { rate, bytes, on, off } => {
                        out.push((0.0, *bytes, 0));
                        if now >= current[n].0 {
                            let pause = -*off * (1.0 - rng.random::<f64>()).ln();
                            let busy = -*on * (1.0 - rng.random::<f64>()).ln();
                            let was_on = current[n].0 > 0.0;
                            let at = if was_on { now + pause } else { now };
                            current[n].0 = at + busy;
                            queue.push(at + f64::from(*bytes) / *rate, Event::Wake { flow: n, turn });
                        } else {
                            queue.push(now + f64::from(*bytes) / *rate, Event::Wake { flow: n, turn });
                        }
                    }
                }
                for (later, bytes, number) in out {
                    rows.push(Row { at: now + later, bytes, arrived: None, flow: n, udp, down });
                    settled.push(false);
                    queue.push(now + later, Event::Hop { row: rows.len() - 1, hop: 0, number });
                }
            }
            Event::Hop { row, hop, number } => {
                let r = rows[row];
                let seen = Seen { bytes: f64::from(r.bytes), udp: r.udp };
                match ways[usize::from(r.down)].get_mut(hop) {
                    Some(found) => match found.take(now, &seen, &mut rng) {
                        Some(at) => queue.push(at, Event::Hop { row, hop: hop + 1, number }),
                        None => settled[row] = true,
                    },
                    None => {
                        rows[row].arrived = Some(now);
                        settled[row] = true;
                        if !r.udp {
                            pending[r.flow].push(number);
                            if pending[r.flow].len() >= 2 {
                                let numbers = std::mem::take(&mut pending[r.flow]);
                                queue.push(now + flows[r.flow].back, Event::Ack { flow: r.flow, numbers });
                            } else {
                                queue.push(now + 0.025, Event::Flush(r.flow));
                            }
                        }
                    }
                }
            }
            Event::Flush(flow) => {
                if !pending[flow].is_empty() {
                    let numbers = std::mem::take(&mut pending[flow]);
                    queue.push(now + flows[flow].back, Event::Ack { flow, numbers });
                }
            }
            Event::Ack { flow, numbers } => {
                if let Sender::Tcp(tcp) = &mut flows[flow].sender {
                    tcp.acknowledged(now, &numbers);
                    turns[flow] += 1;
                    queue.push(now, Event::Wake { flow, turn: turns[flow] });
                }
            }
        }
    }
    let mut shown: Vec<Row> = rows
        .into_iter()
        .zip(settled)
        .filter(|(r, done)| *done && flows[r.flow].shown)
        .map(|(r, _)| r)
        .collect();
    shown.sort_by(|a, b| a.at.total_cmp(&b.at));
    shown
}
