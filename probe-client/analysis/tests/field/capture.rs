//! What captures make of packets: clocks of their own, coarse stamps, interrupts that wait for company, counters that wrap.

use probe_analysis::rate::Packet;
use probe_analysis::rate::judge::{self, Judgement};
use probe_analysis::rate::trace::{Analyser, Judged, Row, Transport};
use probe_protocol::finding::Direction;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::worlds::World;

/// How a trace was captured.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// Zero of the sender's clock, microseconds.
    pub zero: f64,
    /// The receiver's against it, microseconds.
    pub offset: f64,
    /// Drift, seconds per second.
    pub drift: f64,
    /// Resolution of both stamps, microseconds.
    pub resolution: f64,
    /// The receiver's interrupts wait so long, microseconds.
    pub gathers: f64,
    seed: u64,
}

impl Capture {
    pub fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xcab);
        let mut one = |of: &[f64]| of[rng.random_range(0..of.len())];
        Self {
            zero: one(&[0.0, 0.0, 1.75e15, 4.29e9 - 3e6, -5e6]),
            offset: one(&[0.0, 12_345_678.0, -9.8e11, 2.5e5]),
            drift: one(&[0.0, 2e-5, -8e-5, 1.5e-4]),
            resolution: one(&[1.0, 1.0, 1.0, 10.0, 100.0, 1000.0]),
            gathers: one(&[0.0, 0.0, 30.0, 150.0]),
            seed,
        }
    }
}

/// The rows as the capture has them.
fn rows(world: &World, capture: &Capture) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(capture.seed ^ 0x57a3);
    let mut order: Vec<usize> = (0..world.rows.len()).filter(|n| world.rows[*n].arrived.is_some()).collect();
    order.sort_by(|a, b| world.rows[*a].arrived.unwrap().total_cmp(&world.rows[*b].arrived.unwrap()));
    let mut stamps = vec![None; world.rows.len()];
    let (mut fires, mut before) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for n in order {
        let mut at = world.rows[n].arrived.unwrap() * 1e6;
        if capture.gathers > 0.0 {
            // The first packet starts the wait; whatever comes in it is stamped when it ends.
            if at > fires {
                fires = at + capture.gathers;
            }
            at = fires;
        }
        before = f64::max(before, at + rng.random::<f64>() * 2.0);
        let on_its_clock = before * (1.0 + capture.drift) + capture.offset + capture.zero;
        stamps[n] = Some((on_its_clock / capture.resolution).floor() * capture.resolution);
    }
    let mut out = Vec::with_capacity(world.rows.len());
    for (row, arrived_us) in world.rows.iter().zip(stamps) {
        let direction = if row.down { Direction::Down } else { Direction::Up };
        let transport = if row.udp { Transport::Udp } else { Transport::Tcp };
        out.push(Row {
            sent_us: ((row.at * 1e6 + capture.zero) / capture.resolution).floor() * capture.resolution,
            bytes: row.bytes,
            arrived_us,
            flow: row.flow as u32,
            direction: world.says_direction.then_some(direction),
            transport: world.says_transport.then_some(transport),
        });
    }
    out
}

pub fn judged(world: &World, capture: &Capture) -> Judged {
    let mut analyser = Analyser::default();
    rows(world, capture).iter().for_each(|row| analyser.push(row));
    analyser.finish()
}

/// What the estimators say of all packets together, to look into a case.
pub fn whole(world: &World, capture: &Capture) -> Judgement {
    let rows = rows(world, capture);
    let start = rows.first().map_or(0.0, |r| r.sent_us);
    let zero = rows.iter().find_map(|r| r.arrived_us.map(|a| a - r.sent_us)).unwrap_or(0.0);
    let series: Vec<Packet> = rows
        .iter()
        .map(|r| Packet {
            at: (r.sent_us - start) / 1e6,
            bytes: f64::from(r.bytes),
            delay: r.arrived_us.map(|a| (a - r.sent_us - zero) / 1e6),
        })
        .collect();
    judge::judge(&series)
}
