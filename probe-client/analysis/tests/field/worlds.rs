//! Paths and senders with what is true of each.

use probe_protocol::cause::Cause;
use probe_protocol::finding::Direction;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::boxes::Box_;
use crate::net::{Flow, Row, Sender, run};
use crate::tcp::{Kind, Source, Tcp};

/// What must be said, and what may.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub must: Option<(Cause, Option<&'static str>)>,
    /// Bytes per second.
    pub rate: Option<f64>,
    pub burst: Option<f64>,
    pub period: Option<f64>,
    pub direction: Option<Direction>,
    pub may: Vec<Cause>,
    /// With fewer losses it need not be found.
    pub least_lost: usize,
    pub least_ratio: f64,
}

pub struct World {
    pub rows: Vec<Row>,
    pub truth: Truth,
    pub says_direction: bool,
    pub says_transport: bool,
    pub described: String,
}

pub const FAMILIES: &[&str] = &[
    "policer/cubic",
    "policer/reno",
    "policer/model",
    "policer/chunks",
    "policer/many",
    "policer/ticks",
    "policer/frames",
    "policer/timer",
    "policer/poisson",
    "policer/on-off",
    "policer/boost",
    "policer/peak",
    "policer/later",
    "policer/fast",
    "policer/slow",
    "policer/behind-line",
    "policer/before-line",
    "policer/one-way",
    "udp-policer",
    "udp-shaper",
    "shaper/cubic",
    "shaper/model",
    "shaper/many",
    "shaper/timer",
    "shaper/frames",
    "shaper/boost",
    "shaper/packets",
    "shaper/fast",
    "loss/spells-udp",
    "loss/spells-tcp",
    "loss/random-model",
    "loss/random-cubic",
    "loss/one-way",
    "congestion/tcp",
    "congestion/udp",
    "congestion/bursts",
    "periodic",
    "clean/frames",
    "clean/chunks",
    "clean/model",
    "clean/sparse",
    "clean/few",
    "clean/air",
    "clean/two-ways",
    "clean/line",
    "clean/rare-loss",
    "clean/both",
];

struct Draw(ChaCha8Rng);

impl Draw {
    fn log(&mut self, low: f64, high: f64) -> f64 {
        (low.ln() + self.0.random::<f64>() * (high / low).ln()).exp()
    }

    fn flat(&mut self, low: f64, high: f64) -> f64 {
        self.0.random_range(low..high)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.random_range(0..of.len())]
    }

    fn tcp(&mut self, kind: Kind, source: Source) -> Sender {
        let segment = self.one(&[1448, 1460, 1380, 1220]);
        let paced = self.0.random();
        let line = self.one(&[12.5e6, 125e6]);
        Sender::Tcp(Tcp::new(kind, source, segment, paced, line, 4000.0))
    }

    fn any(&mut self) -> Kind {
        self.one(&[Kind::Reno, Kind::Cubic, Kind::Model])
    }
}

fn limit(kind: &'static str, rate: f64, burst: Option<f64>) -> Truth {
    let may = if kind == "shaper" { vec![Cause::Bufferbloat] } else { Vec::new() };
    Truth {
        must: Some((Cause::RateLimit, Some(kind))),
        rate: Some(rate),
        burst,
        may,
        least_lost: if kind == "policer" { 20 } else { 0 },
        ..Truth::default()
    }
}

fn only(cause: Cause) -> Truth {
    Truth { must: Some((cause, None)), ..Truth::default() }
}

fn may(causes: &[Cause]) -> Truth {
    Truth { may: causes.to_vec(), ..Truth::default() }
}

#[allow(clippy::too_many_lines, reason = "a table")]
pub fn world(family: &str, seed: u64) -> World {
    let mut d = Draw(ChaCha8Rng::seed_from_u64(seed.wrapping_mul(7919) + family.len() as u64));
    // 256 kbit/s to 200 Mbit/s, and bursts of 5 kB to 2 MB that are filled again in 10 ms to 2 s.
    let rate = d.log(32e3, 25e6).clamp(60e3, 12e6);
    let burst = (rate * d.log(0.01, 0.8)).clamp(8_000.0, 2e6);
    let rtt = d.log(0.008, 0.12);
    let cable = Box_::Cable { delay: rtt * 0.4 };
    let back = rtt * 0.5;
    let over = d.one(&[1.05, 1.15, 1.4, 2.0, 4.0]);
    let mut until = (12_000.0 * 1448.0 / rate).clamp(10.0, 90.0);
    let mut most = 30_000;
    let bytes = d.one(&[200u32, 500, 1000, 1200, 1372, 1500]).max((rate * over / 4000.0) as u32).min(1500);
    let flow = |sender: Sender| Flow { sender, from: 0.0, to: f64::INFINITY, down: false, shown: true, back };
    let tick = 1e-6;
    let meter = Box_::meter(rate, burst, tick);
    let ahead = Box_::fifo((rate * 6.0).max(12.5e6), 0.0, 2e6);
    let own_line = [Cause::Bufferbloat, Cause::RateLimit];
    // TCP beside a limited UDP fills the line that both share.
    let over_udp = [Cause::Bufferbloat, Cause::RateLimit, Cause::Congestion];
    let mut down: Vec<Box_> = Vec::new();
    let (up, flows, truth): (Vec<Box_>, Vec<Flow>, Truth) = match family {
        "policer/cubic" | "policer/reno" | "policer/model" => {
            let kind = match family {
                "policer/cubic" => Kind::Cubic,
                "policer/reno" => Kind::Reno,
                _ => Kind::Model,
            };
            let sender = d.tcp(kind, Source::Endless);
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst)))
        }
        "policer/chunks" => {
            let every = d.flat(1.0, 4.0);
            let kind = d.any();
            let chunk = (rate * every * d.flat(0.7, 1.1) + burst) / 1448.0;
            let sender = d.tcp(kind, Source::Chunks(chunk, every));
            until = until.max(25.0 * every).min(120.0);
            (vec![ahead, cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst)))
        }
        "policer/many" => {
            let n = d.0.random_range(3..8);
            let flows = (0..n)
                .map(|k| {
                    let kind = d.any();
                    Flow { from: f64::from(k) * d.flat(0.0, 1.0), ..flow(d.tcp(kind, Source::Endless)) }
                })
                .collect();
            (vec![cable, meter], flows, limit("policer", rate, Some(burst)))
        }
        "policer/ticks" => {
            let meter = Box_::meter(rate, burst.max(rate * 0.03), d.one(&[0.001, 0.004, 0.01]));
            let sender = Sender::Timer { rate: rate * over.max(1.15), bytes, resolution: 0.001 };
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst.max(rate * 0.03))))
        }
        "policer/frames" => {
            let per_second = d.one(&[24.0, 30.0, 60.0]);
            let sender = Sender::Frames {
                per_second,
                bytes: rate * over.max(1.15) / per_second,
                packet: bytes.max(500),
                spacing: d.one(&[5e-6, 5e-5]),
            };
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst)))
        }
        "policer/timer" => {
            let sender = Sender::Timer { rate: rate * over, bytes, resolution: d.one(&[1e-4, 1e-3, 4e-3]) };
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst)))
        }
        "policer/poisson" => {
            let sender = Sender::Poisson {
                rates: vec![rate * 0.5, rate * 1.3, rate * 2.5],
                hold: burst / rate * 3.0 + 0.2,
                sizes: vec![120, 600, 1300],
            };
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst)))
        }
        "policer/on-off" => {
            let sender =
                Sender::OnOff { rate: rate * over.max(2.0), bytes, on: burst / rate + 0.3, off: 1.0 };
            until = 90.0;
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, Some(burst)))
        }
        "policer/boost" => {
            // A large first allowance, once: what it was is seen in the beginning alone.
            let burst = rate * d.flat(3.0, 8.0);
            until = (burst / rate * 4.0).clamp(20.0, 60.0);
            most = 60_000;
            let kind = d.any();
            let sender = if d.0.random() {
                d.tcp(kind, Source::Endless)
            } else {
                Sender::Timer { rate: rate * over.max(1.4), bytes, resolution: 1e-3 }
            };
            let line = Box_::fifo(rate * 4.0, 0.0, rate);
            let truth = Truth { may: vec![Cause::Bufferbloat], ..limit("policer", rate, None) };
            (vec![line, cable, Box_::meter(rate, burst, tick)], vec![flow(sender)], truth)
        }
        "policer/peak" => {
            let mut meter = Box_::meter(rate, burst.max(60_000.0), tick);
            if let Box_::Meter { peak, .. } = &mut meter {
                *peak = Some((rate * 3.0, 20_000.0));
            }
            let kind = d.any();
            let sender = d.tcp(kind, Source::Endless);
            (vec![cable, meter], vec![flow(sender)], limit("policer", rate, None))
        }
        "policer/later" => {
            let mut meter = Box_::meter(rate, burst, tick);
            if let Box_::Meter { after, .. } = &mut meter {
                *after = until * d.flat(0.2, 0.6);
            }
            let kind = d.any();
            let sender = if d.0.random() {
                d.tcp(kind, Source::Endless)
            } else {
                Sender::Timer { rate: rate * over.max(1.4), bytes, resolution: 1e-3 }
            };
            let truth = Truth { may: vec![Cause::Bufferbloat], ..limit("policer", rate, None) };
            (vec![Box_::fifo(rate * 4.0, 0.0, rate * 0.4), cable, meter], vec![flow(sender)], truth)
        }
        "policer/fast" => {
            let rate = d.log(12.5e6, 125e6);
            let burst = (rate * d.log(0.004, 0.05)).clamp(60_000.0, 2e6);
            (until, most) = (8.0, 60_000);
            let kind = d.any();
            let sender = if d.0.random() {
                let tcp = Tcp::new(kind, Source::Endless, 1448, true, 1.25e9, 60_000.0);
                Sender::Tcp(tcp)
            } else {
                Sender::Timer { rate: rate * over.max(1.15), bytes: 1400, resolution: 1e-4 }
            };
            let cable = Box_::Cable { delay: 0.004 };
            let f = Flow { back: 0.004, ..flow(sender) };
            (vec![cable, Box_::meter(rate, burst, tick)], vec![f], limit("policer", rate, Some(burst)))
        }
        "policer/slow" => {
            let rate = d.log(32e3, 100e3);
            let burst = d.log(8e3, 60e3);
            let kind = d.any();
            until = 90.0;
            let sender = d.tcp(kind, Source::Endless);
            (
                vec![ahead, cable, Box_::meter(rate, burst, tick)],
                vec![flow(sender)],
                limit("policer", rate, Some(burst)),
            )
        }
        "policer/behind-line" => {
            // A line of twice the rate before the policer: packets come spaced.
            let kind = d.any();
            let line = Box_::fifo(rate * 2.0, 0.0, rate * 0.3);
            let sender = d.tcp(kind, Source::Endless);
            let truth = Truth { may: vec![Cause::Bufferbloat], ..limit("policer", rate, Some(burst)) };
            (vec![line, cable, meter], vec![flow(sender)], truth)
        }
        "policer/before-line" => {
            let kind = d.any();
            let line = Box_::fifo(rate * 2.0, 0.0, rate * 0.6 + 2.0 * burst);
            let sender = d.tcp(kind, Source::Endless);
            let truth = Truth { may: vec![Cause::Bufferbloat], ..limit("policer", rate, Some(burst)) };
            (vec![cable, meter, line], vec![flow(sender)], truth)
        }
        "policer/one-way" => {
            let kind = d.any();
            let sender = d.tcp(kind, Source::Endless);
            let other = Flow { down: true, ..flow(Sender::Timer { rate, bytes, resolution: 1e-3 }) };
            down = vec![Box_::Cable { delay: rtt * 0.5 }];
            let truth = Truth { direction: Some(Direction::Up), ..limit("policer", rate, Some(burst)) };
            (vec![cable, meter], vec![flow(sender), other], truth)
        }
        "udp-policer" => {
            let udp = Sender::Timer { rate: rate * over.max(1.4), bytes, resolution: 1e-3 };
            let tcp = d.tcp(Kind::Cubic, Source::Endless);
            let truth = Truth {
                must: Some((Cause::UdpPolicer, None)),
                may: over_udp.to_vec(),
                ..limit("policer", rate, Some(burst))
            };
            (
                vec![cable, meter.for_udp(), Box_::fifo(rate * 6.0, 0.0, rate * 0.2)],
                vec![flow(udp), flow(tcp)],
                truth,
            )
        }
        "udp-shaper" => {
            let udp = Sender::Timer { rate: rate * over.max(1.15), bytes, resolution: 1e-3 };
            let tcp = d.tcp(Kind::Cubic, Source::Endless);
            let queue = Box_::fifo(rate, burst.min(rate * 0.2), rate * 0.2 + 20_000.0).for_udp();
            let truth = Truth {
                must: Some((Cause::UdpShaper, None)),
                may: over_udp.to_vec(),
                ..limit("shaper", rate, None)
            };
            (vec![cable, queue, Box_::fifo(rate * 6.0, 0.0, rate * 0.1)], vec![flow(udp), flow(tcp)], truth)
        }
        "shaper/cubic" | "shaper/model" | "shaper/many" => {
            let n = if family == "shaper/many" { d.0.random_range(2..6) } else { 1 };
            let depth = rate * d.log(0.03, 0.4) + 20_000.0;
            let flows = (0..n)
                .map(|_| {
                    let kind = if family == "shaper/model" {
                        Kind::Model
                    } else {
                        d.one(&[Kind::Cubic, Kind::Reno])
                    };
                    flow(d.tcp(kind, Source::Endless))
                })
                .collect();
            let burst = burst.min(rate * 0.3);
            (vec![cable, Box_::fifo(rate, burst, depth)], flows, limit("shaper", rate, None))
        }
        "shaper/timer" => {
            let depth = rate * d.log(0.02, 0.5) + 10_000.0;
            let burst = burst.min(rate * 0.3);
            let sender = Sender::Timer { rate: rate * over, bytes, resolution: 1e-3 };
            (vec![cable, Box_::fifo(rate, burst, depth)], vec![flow(sender)], limit("shaper", rate, None))
        }
        "shaper/frames" => {
            let sender = Sender::Frames {
                per_second: 30.0,
                bytes: rate / 30.0 * 1.05,
                packet: bytes.max(500),
                spacing: 1e-5,
            };
            let depth = rate * d.log(0.1, 0.6) + 10_000.0;
            (vec![cable, Box_::fifo(rate, 0.0, depth)], vec![flow(sender)], limit("shaper", rate, None))
        }
        "shaper/boost" => {
            let burst = rate * d.flat(2.0, 6.0);
            until = 40.0;
            most = 60_000;
            let kind = d.one(&[Kind::Cubic, Kind::Model]);
            let sender = if d.0.random() {
                d.tcp(kind, Source::Endless)
            } else {
                Sender::Timer { rate: rate * over.max(1.4), bytes, resolution: 1e-3 }
            };
            let path = vec![
                Box_::fifo(rate * 4.0, 0.0, rate * 0.5),
                cable,
                Box_::fifo(rate, burst, rate * 0.15 + 20_000.0),
            ];
            (path, vec![flow(sender)], limit("shaper", rate, None))
        }
        "shaper/packets" => {
            let mut queue = Box_::fifo(rate, 0.0, f64::INFINITY);
            if let Box_::Fifo { packets, .. } = &mut queue {
                *packets = d.one(&[50, 100, 300]);
            }
            let kind = d.any();
            let sender = d.tcp(kind, Source::Endless);
            (vec![cable, queue], vec![flow(sender)], limit("shaper", rate, None))
        }
        "shaper/fast" => {
            let rate = d.log(12.5e6, 125e6);
            (until, most) = (6.0, 60_000);
            let sender = Sender::Timer { rate: rate * over.max(1.15), bytes: 1400, resolution: 1e-4 };
            (
                vec![cable, Box_::fifo(rate, 0.0, rate * d.log(0.005, 0.05))],
                vec![flow(sender)],
                limit("shaper", rate, None),
            )
        }
        "loss/spells-udp" | "loss/spells-tcp" => {
            let spells = Box_::Spells {
                good: d.log(0.3, 2.0),
                bad: d.log(0.01, 0.08),
                in_good: 0.002,
                in_bad: d.flat(0.4, 1.0),
                until: 0.0,
                is_bad: true,
            };
            let sender = if family == "loss/spells-udp" {
                Sender::Timer { rate, bytes, resolution: 1e-3 }
            } else {
                let kind = d.any();
                d.tcp(kind, Source::Endless)
            };
            let line = Box_::fifo(25e6, 0.0, 4e6);
            let truth =
                Truth { least_ratio: 0.01, least_lost: 20, may: own_line.to_vec(), ..only(Cause::LossyPath) };
            (vec![line, cable, spells], vec![flow(sender)], truth)
        }
        "loss/random-model" | "loss/random-cubic" => {
            let share = d.log(0.012, 0.08);
            let loss =
                Box_::Spells { good: 1e9, bad: 1.0, in_good: share, in_bad: share, until: 0.0, is_bad: true };
            let kind = if family == "loss/random-model" { Kind::Model } else { Kind::Cubic };
            let sender = d.tcp(kind, Source::Endless);
            let line = Box_::fifo(12.5e6, 0.0, 1e6);
            let truth =
                Truth { least_ratio: 0.01, least_lost: 20, may: own_line.to_vec(), ..only(Cause::LossyPath) };
            (vec![line, cable, loss], vec![flow(sender)], truth)
        }
        "loss/one-way" => {
            let share = d.log(0.015, 0.08);
            let loss =
                Box_::Spells { good: 1e9, bad: 1.0, in_good: share, in_bad: share, until: 0.0, is_bad: true };
            let sender = Sender::Timer { rate, bytes, resolution: 1e-3 };
            let other = Flow { down: true, ..flow(sender.clone()) };
            down = vec![Box_::Cable { delay: rtt * 0.5 }];
            let truth = Truth { direction: Some(Direction::Up), least_lost: 20, ..only(Cause::OneWayLoss) };
            (vec![cable, loss], vec![flow(sender), other], truth)
        }
        "congestion/tcp" | "congestion/udp" | "congestion/bursts" => {
            let capacity = rate * 2.0;
            let queue = Box_::fifo(capacity, 0.0, capacity * d.log(0.03, 0.2) + 20_000.0);
            let share = d.flat(0.3, 0.8);
            let sender = if family == "congestion/tcp" {
                let kind = d.one(&[Kind::Cubic, Kind::Reno]);
                d.tcp(kind, Source::Endless)
            } else {
                Sender::Timer { rate: capacity * share, bytes, resolution: 1e-3 }
            };
            let mut flows = vec![flow(sender)];
            for n in 0..d.0.random_range(2..6) {
                let other = if family == "congestion/bursts" {
                    Sender::OnOff { rate: capacity * 0.5, bytes: 1200, on: 0.3, off: 0.4 }
                } else if n % 2 == 0 {
                    d.tcp(Kind::Cubic, Source::Endless)
                } else {
                    d.tcp(Kind::Cubic, Source::Chunks(capacity * 0.7 / 1448.0, 2.3))
                };
                flows.push(Flow { shown: false, from: f64::from(n) * 0.9, ..flow(other) });
            }
            most = 90_000;
            let truth = Truth {
                least_lost: 25,
                least_ratio: 0.011,
                may: vec![Cause::Bufferbloat],
                ..only(Cause::Congestion)
            };
            (vec![cable, queue], flows, truth)
        }
        "periodic" => {
            let period = d.log(0.8, 30.0);
            let length = d.flat(0.06, 0.12f64.max(period * 0.08));
            until = (period * 14.0).clamp(60.0, 400.0);
            let sender = Sender::Timer { rate: 1200.0 * 100.0, bytes: 1200, resolution: 0.01 };
            most = 60_000;
            let box_ = Box_::Clockwork { period, length, phase: d.flat(0.1, period) };
            let truth = Truth { period: Some(period), ..only(Cause::PeriodicDrop) };
            (vec![cable, box_], vec![flow(sender)], truth)
        }
        "clean/frames" => {
            let sender = Sender::Frames { per_second: 30.0, bytes: rate / 30.0, packet: 1200, spacing: 2e-5 };
            let air =
                Box_::Air { delay: rtt * 0.4, sway: d.log(5e-4, 8e-3), spike: 0.0, every: 10.0, out: 0.0 };
            (vec![Box_::fifo(rate * 10.0, 0.0, rate * 2.0), air], vec![flow(sender)], Truth::default())
        }
        "clean/chunks" => {
            let kind = d.any();
            let sender = d.tcp(kind, Source::Chunks(rate / 1448.0, 2.0));
            (
                vec![Box_::fifo(25e6, 0.0, 4e6), cable],
                vec![flow(sender)],
                may(&[Cause::RateLimit, Cause::Bufferbloat]),
            )
        }
        "clean/model" => {
            let sender = d.tcp(Kind::Model, Source::Endless);
            (
                vec![Box_::fifo(rate, 0.0, rate * 0.8), cable],
                vec![flow(sender)],
                may(&[Cause::RateLimit, Cause::Bufferbloat]),
            )
        }
        "clean/sparse" => {
            until = 600.0;
            let sender = Sender::Poisson { rates: vec![100.0], hold: 10.0, sizes: vec![84, 200] };
            let loss =
                Box_::Spells { good: 1e9, bad: 1.0, in_good: 0.001, in_bad: 0.001, until: 0.0, is_bad: true };
            let air = Box_::Air { delay: rtt * 0.4, sway: 0.004, spike: 0.2, every: 61.0, out: 0.0 };
            (vec![loss, air], vec![flow(sender)], Truth::default())
        }
        "clean/few" => {
            (until, most) = (5.0, 1 + seed as usize * 7 % 120);
            (vec![cable], vec![flow(Sender::Timer { rate, bytes, resolution: 1e-3 })], Truth::default())
        }
        "clean/air" => {
            // A radio with a hand-over or a scan now and then: late, not lost.
            let air = Box_::Air {
                delay: rtt * 0.4,
                sway: d.log(1e-3, 1.5e-2),
                spike: d.flat(0.05, 0.4),
                every: d.flat(4.0, 15.0),
                out: 0.0,
            };
            (
                vec![air],
                vec![flow(Sender::Timer { rate: rate.min(1e6), bytes, resolution: 1e-3 })],
                may(&[Cause::Bufferbloat]),
            )
        }
        "clean/two-ways" => {
            let loose = Box_::TwoWays { share: d.flat(0.02, 0.3), longer: d.log(5e-4, 5e-3) };
            (
                vec![cable, loose],
                vec![flow(Sender::Timer { rate, bytes, resolution: 1e-3 })],
                may(&[Cause::Reordering]),
            )
        }
        "clean/line" => {
            let sender =
                Sender::Timer { rate: rate * d.flat(0.3, 0.9), bytes, resolution: d.one(&[1e-3, 1e-2]) };
            (vec![cable, Box_::fifo(rate, 0.0, 1e6)], vec![flow(sender)], Truth::default())
        }
        "clean/rare-loss" => {
            let share = d.log(1e-4, 2e-3);
            let loss =
                Box_::Spells { good: 1e9, bad: 1.0, in_good: share, in_bad: share, until: 0.0, is_bad: true };
            let kind = d.any();
            let sender = if d.0.random() {
                d.tcp(kind, Source::Endless)
            } else {
                Sender::Timer { rate, bytes, resolution: 1e-3 }
            };
            (
                vec![Box_::fifo(25e6, 0.0, 3e6), cable, loss],
                vec![flow(sender)],
                may(&[Cause::RateLimit, Cause::Bufferbloat]),
            )
        }
        "clean/both" => {
            let kind = d.any();
            let sender = d.tcp(kind, Source::Chunks(rate / 1448.0, 1.0));
            let other = Flow {
                down: true,
                ..flow(Sender::Frames { per_second: 30.0, bytes: rate / 60.0, packet: 1100, spacing: 1e-5 })
            };
            down = vec![Box_::Cable { delay: rtt * 0.5 }];
            (
                vec![Box_::fifo(25e6, 0.0, 4e6), cable],
                vec![flow(sender), other],
                may(&[Cause::RateLimit, Cause::Bufferbloat]),
            )
        }
        other => unreachable!("{other}"),
    };
    let described = format!("rate {rate:.0} burst {burst:.0} over {over} rtt {rtt:.3} bytes {bytes} {up:?}");
    let says_direction = !down.is_empty();
    // Only some captures say the transport; what needs it has it.
    let says_transport = family.starts_with("udp-") || d.0.random();
    let rows = run(seed, up, down, flows, until, most);
    World { rows, truth, says_direction, says_transport, described }
}
