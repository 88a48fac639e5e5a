//! The plan of `soak`: old flows of every class side by side, fresh ones beside them, and the slow experiments.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::experiments::{idle, idle_ladder};
use super::{AfterDeath, FlowSpec, Idle, Life, Plan, Purpose, Refresh, Repeat, Start, image_name, suffix};

/// What can be chosen about a soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoakOptions {
    /// How long it measures, opening included; none until it is stopped.
    pub length: Option<Duration>,
    /// Whether the client has an invite: a listener gives a stranger few flows, and a minute.
    pub invited: bool,
    /// Time from one fresh flow to the next, at least a second; the images take turns. Left out, a minute, or less in a
    /// run of less than 40 minutes, so that there are enough of them beside old flows that decay.
    pub fresh_every: Option<Duration>,
    /// Old flows of each class, at least one. Six let a kill by age be named in a night.
    pub per_class: u8,
    /// Probes a second of all old flows together, at least one.
    pub probes_per_second: u32,
    /// Whether idle gaps, marks and the path MTU are tried beside the old flows.
    pub experiments: bool,
}

impl Default for SoakOptions {
    fn default() -> Self {
        Self {
            length: None,
            invited: true,
            fresh_every: None,
            per_class: 6,
            probes_per_second: 90,
            experiments: true,
        }
    }
}

impl SoakOptions {
    /// Time from one fresh flow to the next.
    pub fn time_between_fresh(&self) -> Duration {
        let length = self.length.unwrap_or(Plan::OPEN_END);
        self.fresh_every
            .unwrap_or_else(|| (length / 40).clamp(Duration::from_secs(2), FRESH_EVERY))
            .max(Duration::from_secs(1))
    }
}

/// The classes: every image that can be told apart on the wire, with the weight of each in the probes a second. Those
/// over UDP itself carry most, since they cost the fewest bytes and say the most.
const CLASSES: [(Carrier, Dress, u32); 8] = [
    (Carrier::Udp, Dress::Random, 4),
    (Carrier::Tcp, Dress::Random, 1),
    (Carrier::Tls, Dress::Random, 1),
    (Carrier::Quic, Dress::Random, 1),
    (Carrier::Udp, Dress::Ascii, 4),
    (Carrier::QuicInverse, Dress::Random, 1),
    (Carrier::Udp, Dress::QuicShaped, 4),
    (Carrier::Udp, Dress::Zero, 4),
];
/// What every dress can have, bytes: a night moves some gigabytes less with it than with the size of a check.
const SIZE: u16 = 88;
/// Inside QUIC, so that the datagram is about as long.
const QUIC_SIZE: u16 = 64;
/// Old flows keep their own time to within so much.
const JITTER: u8 = 25;
/// From one fresh flow to the next, where nobody says otherwise and the run is long.
const FRESH_EVERY: Duration = Duration::from_secs(60);
/// Rates and sizes of the old flows of a class, so that packets, bytes, age and moment of a death are told apart: no two
/// flows of a class agree in more than one of them. Rates, in per cent of the class's own, come to it on average; sizes
/// are added to [`SIZE`], the smaller the more often a flow probes, so that the bytes of a night stay what they were.
const CROSSED: [(u32, i16); 6] = [(150, -16), (80, 16), (120, -8), (60, 32), (100, 0), (90, 8)];
/// A fresh flow's life: long enough for packets 1 to 64 at a few a second.
const FRESH_LIFE: Duration = Duration::from_secs(25);
/// Longest time from one old flow of a class to the next.
const STAGGER: Duration = Duration::from_secs(600);
/// What strangers may have open at once, with room for one more.
const STRANGER_FLOWS: usize = 6;

impl Plan {
    /// The plan of `soak` for the addresses of a target, at most one per address family; the first one carries most.
    ///
    /// With the defaults it sends about 90 probes a second and moves less than 200 kbit/s both ways together.
    pub fn soak(addresses: &[SocketAddr], options: &SoakOptions) -> Self {
        let length = options.length.unwrap_or(Self::OPEN_END);
        let mut plan = Self {
            reach: Duration::from_secs(20).min(length / 2).max(Duration::from_secs(4)),
            drain: Duration::from_secs(4),
            settle: Duration::from_secs(12),
            ledger_every: Duration::from_secs(6),
            long: true,
            ..Self::default()
        };
        plan.measure = if options.length.is_none() { length } else { length.saturating_sub(plan.reach) };
        let per_class = if options.invited { u32::from(options.per_class.max(1)) } else { 1 };
        let weights: u32 = CLASSES.iter().map(|(_, _, weight)| weight).sum();
        let pps = options.probes_per_second.max(1);
        // The second address family is watched with one flow of each class.
        let places = per_class + addresses.len().saturating_sub(1) as u32;
        let stagger = (length / 40).min(STAGGER);
        for (at, to) in addresses.iter().enumerate() {
            let copies = if at == 0 { per_class } else { 1 };
            for copy in 0..copies {
                for (class, (carrier, dress, weight)) in (0u32..).zip(CLASSES) {
                    let interval = Duration::from_secs(1) * (weights * places) / (weight * pps);
                    let (rate, size) = crossed(copy, copies, carrier, dress);
                    let name = match copies {
                        1 => image_name(carrier, dress),
                        _ => format!("{}/{}", image_name(carrier, dress), copy + 1),
                    };
                    // Uneven steps: neither the run's start nor a class's fellow is at a constant distance.
                    let uneven = (class * 5 + copy * 3) % 8;
                    let start = match copy {
                        0 => Start::Turn,
                        copy => Start::At(stagger * copy + stagger * uneven / 16),
                    };
                    plan.flows.push(FlowSpec {
                        interval: interval * 100 / rate,
                        size,
                        start,
                        death: AfterDeath::Reborn,
                        ..base(&format!("{name}{}", suffix(addresses, to)), carrier, dress, Purpose::Old, *to)
                    });
                }
            }
        }
        if !options.invited {
            plan.flows.truncate(STRANGER_FLOWS);
            return plan;
        }
        if let Some(to) = addresses.first().copied() {
            plan.repeats.push(fresh(to, options.time_between_fresh(), length));
            if options.experiments {
                plan.add_slow_experiments(to, length);
            }
        }
        plan
    }

    /// Idle gaps, marks and the path MTU.
    fn add_slow_experiments(&mut self, to: SocketAddr, length: Duration) {
        let first = Duration::from_secs(30);
        let longest = length / 4;
        let gaps = |seconds: &[u64]| -> Vec<Duration> {
            seconds.iter().map(|s| Duration::from_secs(*s)).filter(|gap| *gap <= longest).collect()
        };
        let udp = gaps(&[15, 30, 60, 120, 240, 480, 900]);
        for refreshed in [Refresh::None, Refresh::Up, Refresh::Down] {
            if !udp.is_empty() {
                self.ladders.push(idle_ladder(to, Carrier::Udp, refreshed, &udp, first, None));
            }
        }
        let tcp = gaps(&[60, 240, 600, 1200, 2400, 3900, 7500]);
        if !tcp.is_empty() {
            self.ladders.push(idle_ladder(to, Carrier::Tcp, Refresh::None, &tcp, first, None));
        }
        // And again through the night, sparsely: a timeout may change with the load of whoever keeps the state.
        let sparse: Vec<FlowSpec> = gaps(&[25, 50, 100, 200, 400])
            .into_iter()
            .map(|gap| {
                let spec = FlowSpec {
                    interval: Duration::ZERO,
                    ..base("udp/sparse", Carrier::Udp, Dress::Random, Purpose::Idle, to)
                };
                let every = Duration::from_secs(8);
                idle(&spec, Idle { gap, refreshed: Refresh::None, every }, Start::Turn)
            })
            .collect();
        let every = |specs: Vec<FlowSpec>, first: u64, every: u64| Repeat {
            specs,
            shuffled: true,
            first: Duration::from_secs(first),
            every: Duration::from_secs(every),
            jitter_percent: 30,
            count: None,
        };
        if !sparse.is_empty() && length > Duration::from_secs(3600) {
            self.repeats.push(every(sparse, 1800, 700));
        }
        let marks = FlowSpec {
            life: Life::For(Duration::from_secs(40)),
            interval: Duration::from_millis(400),
            ..base("udp/marks", Carrier::Udp, Dress::Random, Purpose::Marks, to)
        };
        let mtu = FlowSpec {
            life: Life::For(Duration::from_secs(60)),
            interval: Duration::ZERO,
            ..base("udp/path-mtu", Carrier::Udp, Dress::Random, Purpose::PathMtu, to)
        };
        self.repeats.push(every(vec![marks, mtu], 25, 1900));
    }
}

fn base(name: &str, carrier: Carrier, dress: Dress, purpose: Purpose, to: SocketAddr) -> FlowSpec {
    let size = match carrier {
        Carrier::Udp | Carrier::Tcp | Carrier::Tls => SIZE,
        Carrier::Quic | Carrier::QuicInverse => QUIC_SIZE,
    };
    FlowSpec { size, jitter_percent: JITTER, ..FlowSpec::new(name, carrier, dress, purpose, to) }
}

/// Rate, in per cent of the class's, and size of a class's flow.
fn crossed(copy: u32, copies: u32, carrier: Carrier, dress: Dress) -> (u32, u16) {
    let of = |copy: u32| CROSSED[copy as usize % CROSSED.len()];
    let sum: u32 = (0..copies).map(|copy| of(copy).0).sum();
    let (rate, more) = of(copy);
    let size = match (carrier, dress) {
        // Letters need more room than bytes: never smaller than the smallest that every dress can have.
        (Carrier::Udp, Dress::Ascii) => SIZE.saturating_add_signed(more.max(0)),
        (Carrier::Udp, _) => SIZE.saturating_add_signed(more),
        (Carrier::Tcp | Carrier::Tls, _) => SIZE,
        (Carrier::Quic | Carrier::QuicInverse, _) => QUIC_SIZE,
    };
    (rate * 100 * copies / sum.max(1), size)
}

/// Fresh flows of every image in turn, each from a new source port.
fn fresh(to: SocketAddr, every: Duration, length: Duration) -> Repeat {
    let specs = CLASSES.iter().map(|(carrier, dress, _)| FlowSpec {
        interval: Duration::from_millis(400),
        life: Life::For(FRESH_LIFE),
        ..base(&format!("{}/fresh", image_name(*carrier, *dress)), *carrier, *dress, Purpose::Fresh, to)
    });
    Repeat {
        specs: specs.collect(),
        shuffled: true,
        first: every.min(length / 10),
        every,
        jitter_percent: 30,
        count: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to() -> Vec<SocketAddr> {
        vec!["192.0.2.1:8886".parse().unwrap()]
    }

    fn night() -> Plan {
        let length = Some(Duration::from_secs(12 * 3600));
        Plan::soak(&to(), &SoakOptions { length, ..SoakOptions::default() })
    }

    #[test]
    fn a_night_keeps_to_the_rates_it_promises() {
        let plan = night();
        let pps: f64 = plan.flows.iter().map(|f| 1.0 / f.interval.as_secs_f64()).sum();
        assert!((85.0..=100.0).contains(&pps), "{pps} probes a second");
        let bps = plan.bytes() as f64 * 8.0 / (12.0 * 3600.0);
        assert!((100_000.0..=200_000.0).contains(&bps), "{bps} bit/s");
        let open = Plan::soak(&to(), &SoakOptions::default());
        assert!(open.is_open_ended() && !plan.is_open_ended());
        let bps = open.bytes() as f64 * 8.0 / 3600.0;
        assert!((100_000.0..=200_000.0).contains(&bps), "{bps} bit/s");
    }

    #[test]
    fn every_dress_has_room_for_a_probe() {
        for (carrier, dress, _) in CLASSES {
            if carrier == Carrier::Udp {
                for copy in 0..6 {
                    let (_, size) = crossed(copy, 6, carrier, dress);
                    let len = dress.record_len(usize::from(size));
                    assert!(len >= probe_protocol::wire::MIN_LEN, "{dress:?} {len}");
                }
            }
        }
    }

    #[test]
    fn every_class_has_six_flows_of_staggered_ages() {
        let plan = night();
        for (carrier, dress, _) in CLASSES {
            let flows: Vec<_> =
                plan.flows.iter().filter(|f| f.carrier == carrier && f.dress == dress).collect();
            assert_eq!(flows.len(), 6, "{carrier:?} {dress:?}");
            let starts: std::collections::BTreeSet<_> = flows.iter().map(|f| f.starts_at()).collect();
            assert_eq!(starts.len(), 6);
            let intervals: std::collections::BTreeSet<_> = flows.iter().map(|f| f.interval).collect();
            assert_eq!(intervals.len(), 6);
            // Five of them reach an age of eight hours.
            assert!(starts.iter().flatten().all(|s| *s < Duration::from_secs(4 * 3600)));
        }
        let names: std::collections::BTreeSet<_> = plan.flows.iter().map(|f| &f.name).collect();
        assert_eq!(names.len(), plan.flows.len());
    }

    #[test]
    fn a_soak_of_minutes_fits_into_them() {
        let length = Duration::from_secs(120);
        let plan = Plan::soak(&to(), &SoakOptions { length: Some(length), ..SoakOptions::default() });
        assert_eq!(plan.reach + plan.measure, length);
        assert!(plan.flows.iter().filter_map(FlowSpec::starts_at).all(|s| s < length / 4));
        assert!(plan.ladders.iter().flat_map(|l| &l.gaps).all(|gap| *gap <= length / 4));
    }
}
