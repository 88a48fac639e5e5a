//! Families of paths and senders with what is true of each. Half of the parameters lie outside of the ranges that the
//! estimators were tuned on ([`Range::Beyond`]).

use probe_protocol::cause::Cause;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::path::{Aqm, Stage, Whose};
use crate::sim::{Control, Flow, Sender};

/// Which parameters are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    Tuned,
    Beyond,
}

/// What must be found.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub must: Option<(Cause, Option<&'static str>)>,
    /// Bytes per second and bytes, where they must be right.
    pub rate: Option<f64>,
    pub burst: Option<f64>,
    pub packets_per_second: Option<f64>,
    pub period: Option<f64>,
    pub may: Vec<Cause>,
    /// With fewer losses it need not be found.
    pub least_lost: usize,
    /// With a smaller share of losses it need not be found.
    pub least_ratio: f64,
}

/// One case.
pub struct World {
    pub path: Vec<Stage>,
    pub flows: Vec<Flow>,
    pub truth: Truth,
    pub most: usize,
    pub described: String,
}

pub const FAMILIES: &[&str] = &[
    "policer/tcp",
    "policer/tcp-several",
    "policer/tcp-chunks",
    "policer/udp",
    "policer/udp-bursty",
    "policer/udp-sizes",
    "policer/udp-control",
    "policer/in-part",
    "policer/and-loss",
    "shaper/tcp",
    "shaper/udp",
    "shaper/udp-control",
    "packets/bucket",
    "packets/window",
    "packets/hold",
    "congestion/udp",
    "congestion/tcp",
    "congestion/red",
    "loss/udp",
    "loss/tcp",
    "loss/bursts-udp",
    "loss/bursts-tcp",
    "periodic",
    "periodic/short",
    "outage",
    "bufferbloat",
    "benign/tcp",
    "benign/udp",
    "benign/line",
    "benign/codel",
    "benign/wifi-tcp",
    "benign/wifi-udp",
    "benign/cellular",
    "benign/shallow-tcp",
    "benign/shallow-udp",
    "benign/shared-shallow",
    "benign/reordering",
    "benign/mild-loss",
];

struct Draw {
    rng: ChaCha8Rng,
    range: Range,
}

impl Draw {
    /// Between, or beyond on either side by up to a factor of 2.5, on a logarithmic scale.
    fn log(&mut self, low: f64, high: f64) -> f64 {
        let (a, b) = match self.range {
            Range::Tuned => (low, high),
            Range::Beyond if self.rng.random::<bool>() => (low / 2.0, low),
            Range::Beyond => (high, high * 2.0),
        };
        (a.ln() + self.rng.random::<f64>() * (b / a).ln()).exp()
    }

    fn flat(&mut self, low: f64, high: f64) -> f64 {
        self.rng.random_range(low..high)
    }

    fn control(&mut self) -> Control {
        [Control::Reno, Control::Cubic, Control::Bbr][self.rng.random_range(0..3)]
    }

    fn wire(&mut self) -> Stage {
        let jitter = self.log(5e-5, 4e-4);
        Stage::wire(self.flat(0.004, 0.05), jitter)
    }

    fn rate(&mut self) -> f64 {
        self.log(1e5, 2.5e6)
    }

    fn depth(&mut self, rate: f64) -> f64 {
        let packets = self.log(8.0, 40.0) * 1500.0;
        let time = self.log(0.01, 0.3) * rate;
        packets.max(time)
    }

    fn tcp(&mut self) -> Sender {
        Sender::Tcp {
            kind: self.control(),
            chunk: None,
            size: 1448,
            line: [12.5e6, 125e6][self.rng.random_range(0..2)],
        }
    }

    fn udp(&mut self, rate: f64) -> Sender {
        let size = [200, 600, 1200, 1400][self.rng.random_range(0..4)].max((rate / 2000.0) as u32).min(1400);
        let jitter = [0.0, 0.05, 0.5][self.rng.random_range(0..3)];
        Sender::Paced { rates: vec![(0.0, rate / f64::from(size))], sizes: vec![size], jitter }
    }
}

/// Long enough for so many packets at a rate, within bounds.
fn length(rate: f64, packets: f64) -> f64 {
    (packets * 1448.0 / rate).clamp(8.0, 120.0)
}

#[allow(clippy::too_many_lines, reason = "a table")]
pub fn world(family: &str, seed: u64, range: Range) -> World {
    let mut d = Draw { rng: ChaCha8Rng::seed_from_u64(seed * 2 + u64::from(range == Range::Beyond)), range };
    let rate = d.rate();
    let depth = d.depth(rate);
    let wire = d.wire();
    let last = Stage::wire(0.003, 2e-5);
    let back = d.flat(0.003, 0.04);
    let t = length(rate, 9000.0).min(if family == "outage" || family.starts_with("congestion") {
        25.0
    } else {
        60.0
    });
    let over = d.log(1.15, 2.5).max(1.08);
    let policer = || Truth {
        must: Some((Cause::RateLimit, Some("policer"))),
        rate: Some(rate),
        burst: Some(depth),
        least_lost: 15,
        ..Truth::default()
    };
    let shaper = || Truth {
        must: Some((Cause::RateLimit, Some("shaper"))),
        rate: Some(rate),
        may: vec![Cause::Bufferbloat],
        ..Truth::default()
    };
    let only = |cause| Truth { must: Some((cause, None)), ..Truth::default() };
    let may = |may: &[Cause]| Truth { may: may.to_vec(), ..Truth::default() };
    let limit = d.log(0.03, 0.15) * rate + 8.0 * 1500.0;
    let flow = |sender: Sender| Flow { back, ..Flow::new(sender, t) };
    let police = Stage::police(rate, depth);
    let (path, flows, truth): (Vec<Stage>, Vec<Flow>, Truth) = match family {
        "policer/tcp" => (vec![wire, police, last], vec![flow(d.tcp())], policer()),
        "policer/tcp-several" => {
            let n = d.rng.random_range(2..5);
            (vec![wire, police, last], (0..n).map(|_| flow(d.tcp())).collect(), policer())
        }
        "policer/tcp-chunks" => {
            let chunk = Some((rate * d.flat(0.6, 1.5) + depth, d.flat(0.3, 1.5)));
            let sender = Sender::Tcp { kind: d.control(), chunk, size: 1448, line: 125e6 };
            (vec![wire, police, last], vec![flow(sender)], policer())
        }
        "policer/udp" => (vec![wire, police, last], vec![flow(d.udp(rate * over))], policer()),
        "policer/udp-bursty" => {
            // Bursts that empty the bucket, and pauses that fill some of it.
            let n = (depth / 1200.0) as u32 + 5;
            let pause = depth / rate;
            let sender = Sender::Bursty {
                packets: (n / 2, n * 2),
                pause: (pause * 0.2, pause * 1.2),
                size: 1200,
                line: rate * 8.0,
            };
            (vec![wire, police, last], vec![flow(sender)], policer())
        }
        "policer/udp-sizes" => {
            let sender = Sender::Paced {
                rates: vec![(0.0, rate * over / 700.0)],
                sizes: vec![100, 400, 900, 1400],
                jitter: 0.2,
            };
            (vec![wire, police, last], vec![flow(sender)], policer())
        }
        "policer/udp-control" => {
            let udp = d.udp(rate * over);
            let path = vec![wire, police.only(Whose::Udp), Stage::queue(rate * 8.0, rate * 0.3), last];
            let tcp = flow(Sender::Tcp { kind: Control::Cubic, chunk: None, size: 1448, line: rate * 5.0 });
            let truth = Truth {
                must: Some((Cause::UdpPolicer, None)),
                may: vec![Cause::RateLimit, Cause::Bufferbloat],
                ..policer()
            };
            (path, vec![flow(udp), tcp], truth)
        }
        "policer/in-part" => {
            let (from, to) = (t * d.flat(0.1, 0.4), t * d.flat(0.65, 1.1));
            let police =
                Stage::Police { rate, depth, tokens: depth, at: 0.0, whose: Whose::All, active: (from, to) };
            let sender = d.udp(rate * over.max(1.2));
            let truth = Truth { burst: None, may: vec![Cause::RateLimit], ..policer() };
            (vec![wire, police, last], vec![flow(sender)], truth)
        }
        "policer/and-loss" => {
            let loss = Stage::Loss { share: d.flat(0.0005, 0.004) };
            let sender = if d.rng.random() { d.udp(rate * over.max(1.2)) } else { d.tcp() };
            (vec![wire, loss, police, last], vec![flow(sender)], policer())
        }
        "shaper/tcp" => (vec![wire, Stage::shape(rate, depth, limit), last], vec![flow(d.tcp())], shaper()),
        "shaper/udp" => {
            let sender = d.udp(rate * over);
            (
                vec![wire, Stage::shape(rate, depth, limit), last],
                vec![flow(sender)],
                Truth { burst: Some(depth), ..shaper() },
            )
        }
        "shaper/udp-control" => {
            let udp = d.udp(rate * over);
            let path = vec![wire, Stage::shape(rate, depth, limit).only(Whose::Udp), last];
            let tcp = flow(Sender::Tcp { kind: Control::Cubic, chunk: None, size: 1448, line: rate * 4.0 });
            let truth = Truth {
                must: Some((Cause::UdpShaper, None)),
                may: vec![Cause::RateLimit, Cause::Bufferbloat],
                ..shaper()
            };
            (path, vec![flow(udp), tcp], truth)
        }
        "packets/bucket" => {
            let pps = d.log(300.0, 1500.0);
            let sender = Sender::Paced {
                rates: vec![(0.0, pps * over)],
                sizes: vec![100, 300, 900, 1400],
                jitter: 0.2,
            };
            let stage = Stage::PolicePackets {
                rate: pps,
                depth: pps / 10.0,
                tokens: pps / 10.0,
                at: 0.0,
                whose: Whose::All,
            };
            let truth = Truth { packets_per_second: Some(pps), ..only(Cause::UdpFloodProtection) };
            (vec![wire, stage, last], vec![flow(sender)], truth)
        }
        "packets/window" => {
            let pps = d.log(300.0, 1500.0).round();
            let sender =
                Sender::Paced { rates: vec![(0.0, pps * over.max(1.2))], sizes: vec![300], jitter: 0.2 };
            let stage = Stage::Window { packets: pps as u32, length: 1.0, number: -1, seen: 0 };
            let truth = Truth { packets_per_second: Some(pps), ..only(Cause::UdpFloodProtection) };
            (vec![wire, stage, last], vec![flow(sender)], truth)
        }
        "packets/hold" => {
            let pps = d.log(300.0, 1500.0);
            let sender = Sender::Paced {
                rates: (0..12)
                    .map(|n| (f64::from(n) * 4.0, pps * (1.25 + 0.25 * f64::from(n % 4))))
                    .collect(),
                sizes: vec![200],
                jitter: 0.2,
            };
            let stage = Stage::Hold {
                rate: pps,
                depth: pps / 10.0,
                tokens: pps / 10.0,
                at: 0.0,
                hold: 1.0,
                until: 0.0,
            };
            let truth = Truth { packets_per_second: Some(pps), ..only(Cause::UdpFloodProtection) };
            let f = Flow { to: 40.0, ..flow(sender) };
            (vec![wire, stage, last], vec![f], truth)
        }
        "congestion/udp" | "congestion/tcp" | "congestion/red" => {
            let capacity = rate * 2.0;
            let queue = Stage::queue(capacity, capacity * d.log(0.03, 0.12) + 15_000.0);
            let queue = if family == "congestion/red" {
                queue.with_aqm(Aqm::Red {
                    low: 0.01 * capacity,
                    high: 0.05 * capacity + 15_000.0,
                    most: 0.1,
                    average: 0.0,
                })
            } else {
                queue
            };
            let share = d.flat(0.3, 0.8);
            let own = if family == "congestion/tcp" { d.tcp() } else { d.udp(rate * share) };
            let mut flows = vec![flow(own)];
            if d.rng.random() {
                for _ in 0..3 {
                    let on_off = Sender::OnOff { rate: capacity * 0.6, on: 0.6, off: 0.5, size: 1000 };
                    flows.push(flow(on_off).unseen());
                }
            } else {
                let n = d.rng.random_range(2..5);
                flows.extend((0..n).map(|_| {
                    flow(Sender::Tcp { kind: Control::Cubic, chunk: None, size: 1448, line: 12.5e6 }).unseen()
                }));
            }
            let truth = Truth {
                may: vec![Cause::Bufferbloat],
                least_lost: 20,
                least_ratio: 0.009,
                ..only(Cause::Congestion)
            };
            (vec![wire, queue, last], flows, truth)
        }
        "loss/udp" => {
            let loss = Stage::Loss { share: d.log(0.012, 0.06) };
            (
                vec![wire, loss, last],
                vec![flow(d.udp(rate))],
                Truth {
                    least_ratio: 0.009,
                    least_lost: 15,
                    may: vec![Cause::RateLimit, Cause::Bufferbloat],
                    ..only(Cause::LossyPath)
                },
            )
        }
        "loss/tcp" => {
            let loss = Stage::Loss { share: d.log(0.015, 0.05) };
            (
                vec![Stage::queue(12.5e6, 1e6), wire, loss, last],
                vec![flow(d.tcp())],
                Truth {
                    least_ratio: 0.009,
                    least_lost: 15,
                    may: vec![Cause::RateLimit, Cause::Bufferbloat],
                    ..only(Cause::LossyPath)
                },
            )
        }
        "loss/bursts-udp" => {
            let loss = Stage::Bursts {
                to_bad: d.log(0.003, 0.01),
                to_good: d.log(0.15, 0.5).min(0.9),
                bad: false,
                in_bad: 0.9,
            };
            (
                vec![wire, loss, last],
                vec![flow(d.udp(rate))],
                Truth {
                    least_ratio: 0.009,
                    least_lost: 15,
                    may: vec![Cause::RateLimit, Cause::Bufferbloat],
                    ..only(Cause::LossyPath)
                },
            )
        }
        "loss/bursts-tcp" => {
            let loss = Stage::Bursts {
                to_bad: d.log(0.004, 0.01),
                to_good: d.log(0.2, 0.5).min(0.9),
                bad: false,
                in_bad: 0.8,
            };
            (
                vec![Stage::queue(12.5e6, 1e6), wire, loss, last],
                vec![flow(d.tcp())],
                Truth {
                    least_ratio: 0.009,
                    least_lost: 15,
                    may: vec![Cause::RateLimit, Cause::Bufferbloat],
                    ..only(Cause::LossyPath)
                },
            )
        }
        "periodic" => {
            let period = d.log(2.0, 9.0);
            let lost = Stage::Periodic { period, length: d.flat(0.08, 0.35), first: 1.3 };
            let f = Flow {
                to: 120.0,
                ..flow(Sender::Paced { rates: vec![(0.0, 100.0)], sizes: vec![300], jitter: 0.1 })
            };
            (vec![wire, lost, last], vec![f], Truth { period: Some(period), ..only(Cause::PeriodicDrop) })
        }
        // Whole seconds, and moments too short for a silence.
        "periodic/short" => {
            let period = [1.0, 2.0, 5.0, 10.0][d.rng.random_range(0..4)];
            let lost = Stage::Periodic { period, length: d.log(0.02, 0.05), first: 0.7 };
            let jitter = if d.rng.random() { 0.1 } else { 0.0 };
            let rates = vec![(0.0, d.log(200.0, 500.0))];
            let to = 10.0 * period;
            let f = Flow { to, ..flow(Sender::Paced { rates, sizes: vec![300], jitter }) };
            let may = vec![Cause::LossyPath];
            (
                vec![wire, lost, last],
                vec![f],
                Truth { period: Some(period), may, ..only(Cause::PeriodicDrop) },
            )
        }
        "outage" => {
            let from = t * d.flat(0.2, 0.5);
            let lost = Stage::Outage { from, to: from + d.log(1.6, 3.0) };
            let sender = if d.rng.random() { d.udp(rate) } else { d.tcp() };
            (
                vec![Stage::queue(12.5e6, 1e6), wire, lost, last],
                vec![flow(sender)],
                Truth {
                    may: vec![Cause::RateLimit, Cause::Bufferbloat],
                    least_lost: 3,
                    ..only(Cause::Outage)
                },
            )
        }
        "bufferbloat" => {
            let queue = Stage::queue(rate, rate * d.log(0.35, 0.9));
            let sender = Sender::Tcp {
                kind: if d.rng.random() { Control::Reno } else { Control::Cubic },
                chunk: None,
                size: 1448,
                line: 125e6,
            };
            let truth = Truth { may: vec![Cause::RateLimit, Cause::Congestion], ..only(Cause::Bufferbloat) };
            (vec![wire, queue, last], vec![flow(sender)], truth)
        }
        "benign/tcp" => {
            let chunk = Some((rate * 0.1 + 30_000.0, d.flat(0.2, 0.6)));
            let sender = Sender::Tcp { kind: d.control(), chunk, size: 1448, line: 125e6 };
            (vec![Stage::queue(25e6, 3e6), wire, last], vec![flow(sender)], may(&[Cause::RateLimit]))
        }
        "benign/udp" => {
            let sender = d.udp(rate);
            (vec![wire, Stage::queue(rate * 1.5, 5e5), last], vec![flow(sender)], Truth::default())
        }
        "benign/line" => (
            vec![wire, Stage::queue(rate, limit), last],
            vec![flow(d.tcp())],
            may(&[Cause::RateLimit, Cause::Bufferbloat, Cause::Congestion]),
        ),
        "benign/codel" => (
            vec![wire, Stage::queue(rate, 1e6).with_aqm(Stage::codel()), last],
            vec![flow(d.tcp()), flow(d.tcp()), flow(d.tcp()).unseen()],
            may(&[Cause::RateLimit, Cause::Bufferbloat, Cause::Congestion]),
        ),
        "benign/wifi-tcp" | "benign/wifi-udp" => {
            let radio =
                Stage::Aggregating { wait: d.log(0.001, 0.006), gate: 0.0, tail: 0.0, rate: rate * 2.0 };
            let rare = Stage::Bursts { to_bad: 0.0004, to_good: 0.5, bad: false, in_bad: 0.7 };
            let own = if family == "benign/wifi-tcp" { d.tcp() } else { d.udp(rate) };
            (
                vec![rare, radio, wire, last],
                vec![flow(own)],
                may(&[Cause::RateLimit, Cause::Bufferbloat, Cause::Congestion]),
            )
        }
        "benign/cellular" => {
            let radio = Stage::Wandering {
                low: rate * 0.4,
                high: rate * 2.5,
                now: rate,
                step: 0.1,
                next: 0.0,
                limit: rate * 0.3,
                tail: 0.0,
            };
            (vec![wire, radio, last], vec![flow(d.tcp())], may(&[Cause::Congestion, Cause::Bufferbloat]))
        }
        "benign/shallow-tcp" | "benign/shallow-udp" => {
            let queue = Stage::queue(rate * 3.0, 1500.0 * d.log(4.0, 12.0));
            let own = if family == "benign/shallow-tcp" { d.tcp() } else { d.udp(rate * 3.0 * over) };
            (vec![wire, queue, last], vec![flow(own)], may(&[Cause::RateLimit, Cause::Congestion]))
        }
        "benign/shared-shallow" => {
            let queue = Stage::queue(rate * 3.0, 1500.0 * d.log(6.0, 16.0));
            let others = flow(Sender::OnOff { rate: rate * 2.5, on: 0.3, off: 0.2, size: 1200 }).unseen();
            let tcp = flow(d.tcp());
            (vec![wire, queue, last], vec![tcp, others], may(&[Cause::Congestion]))
        }
        "benign/reordering" => {
            let sender = d.udp(rate);
            let loose = Stage::Loose { delay: 0.02, jitter: d.log(1e-4, 3e-4) };
            (vec![loose], vec![flow(sender)], may(&[Cause::Reordering]))
        }
        "benign/mild-loss" => {
            let loss = Stage::Loss { share: d.log(2e-4, 2e-3) };
            let sender = if d.rng.random() { d.udp(rate) } else { d.tcp() };
            (
                vec![Stage::queue(12.5e6, 1e6), wire, loss, last],
                vec![flow(sender)],
                may(&[Cause::RateLimit, Cause::Bufferbloat]),
            )
        }
        other => unreachable!("{other}"),
    };
    let described = format!("{path:?} {:?}", flows.iter().map(|f| &f.sender).collect::<Vec<_>>());
    World { path, flows, truth, most: if family == "outage" { 60_000 } else { 20_000 }, described }
}
