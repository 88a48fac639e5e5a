//! The plan of `check`, and its time budget.
//!
//! | Seconds after the start | with an invite | why |
//! | --- | --- | --- |
//! | 0 to 2.4 | one flow of each image and transport, marks, path MTU | the first answers tell the most; reachability within 10 s, whatever happens |
//! | 2.4 to 31 | six flows of crossed rates, sizes and starts | packets, bytes and age of a death are told apart |
//! | 2.6 to 14 | each image of datagrams five times, in random order; TCP and TLS with the target's name, another and none | what a classifier does, five of five |
//! | 11.5 to 26 | a fan of source ports, fragments | a bad member of a bundle of links |
//! | 31 to 50 | the load, of a rate that is said beforehand | never beside a delay test |
//! | to 57 | the last replies and ledgers | |
//!
//! At most five flows open a second; before the load at most about 450 datagrams a second and 1 Mbit/s go each way.
//! `--full` goes on for 15 minutes at most, without load: six slower crossed flows, a ladder of concurrent flows, then ladders
//! of idle gaps. A
//! stranger gets few flows and a short run; the second address family gets the first line alone.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::experiments::{FAN, MAX_CONCURRENT, concurrent, fan, fragments, idle_ladder, named, trials};
use super::{FlowSpec, Life, Plan, Purpose, Refresh, Start, image_name, suffix};

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Reachability alone.
    Quick,
    /// Reachability, then everything that fits into a minute.
    Normal,
    /// The same, then ladders of concurrent flows and of idle gaps: 15 minutes at most.
    Full,
}

/// Datagrams of each look, beside one another.
const LOOKS: [(Carrier, Dress); 6] = [
    (Carrier::Udp, Dress::Random),
    (Carrier::Quic, Dress::Random),
    (Carrier::QuicInverse, Dress::Random),
    (Carrier::Udp, Dress::Ascii),
    (Carrier::Udp, Dress::Zero),
    (Carrier::Udp, Dress::QuicShaped),
];
/// Flows of crossed rates and sizes: interval in milliseconds, size, start in milliseconds. No two agree in more than one of
/// packets, bytes, age and moment; each reaches 700 packets or 300 kB within half a minute.
const CROSSED: [(u64, u16, u64); 6] =
    [(33, 800, 2400), (17, 250, 2900), (25, 600, 3700), (21, 330, 4300), (28, 450, 5200), (33, 420, 6100)];
/// The same of `--full`, for what takes minutes: start in seconds.
const CROSSED_LONG: [(u64, u16, u64); 6] =
    [(110, 300, 32), (170, 120, 34), (90, 200, 37), (140, 420, 41), (210, 250, 46), (125, 160, 52)];
/// When the experiments of a minute end, since the start.
const EXPERIMENTS: Duration = Duration::from_secs(31);
/// The busy flows of these end so long before: a bucket that they have emptied fills again before the load begins.
const REST: Duration = Duration::from_millis(700);
/// Measuring after the openings, with an invite.
const MEASURE: Duration = Duration::from_secs(24);
/// The same of `--full`.
const MEASURE_FULL: Duration = Duration::from_secs(860);
/// When `--full` opens its ladder of concurrent flows: minutes after the flows of the first minute, whose state boxes on the
/// way keep for two minutes (RFC 4787 section 4.3), and late enough to leave the idle ladders alone.
const CONCURRENT_FROM: Duration = Duration::from_secs(770);
/// First gaps of the idle ladders, seconds.
const GAPS: [u64; 6] = [10, 20, 40, 80, 150, 240];

/// What a check opens on each address: the transports first, one of each, so that the first answers tell the most.
const IMAGES: [(Carrier, Dress); 9] = [
    (Carrier::Udp, Dress::Random),
    (Carrier::Tcp, Dress::Random),
    (Carrier::Tls, Dress::Random),
    (Carrier::Quic, Dress::Random),
    (Carrier::Udp, Dress::Ascii),
    (Carrier::Tcp, Dress::Ascii),
    (Carrier::QuicInverse, Dress::Random),
    (Carrier::Udp, Dress::QuicShaped),
    (Carrier::Udp, Dress::Zero),
];

/// When the load of a check begins, since its start: after the delay tests.
const LOAD_AFTER: Duration = EXPERIMENTS;
/// Ends early when all is done; long enough for the load and its counts where every transport opened at once.
const MEASURE_WITH_LOAD: Duration = Duration::from_millis(42_500);

impl Plan {
    /// [`check`](Self::check) with a load of at most so many bits per second, on the first address: holders of an invite
    /// alone may have one, and a quick check has none.
    pub fn check_with_load(
        addresses: &[SocketAddr],
        invited: bool,
        depth: Depth,
        rate_bps: Option<u64>,
    ) -> Self {
        let mut plan = Self::check(addresses, invited, depth);
        let wanted = rate_bps.filter(|_| invited && depth == Depth::Normal);
        if let (Some(rate), Some(to)) = (wanted, addresses.first()) {
            plan.measure = MEASURE_WITH_LOAD;
            plan.add_check_load(*to, rate, LOAD_AFTER);
        }
        plan
    }

    /// The plan of `check` for the addresses of a target, at most one per address family. Without an invite it is
    /// short.
    pub fn check(addresses: &[SocketAddr], invited: bool, depth: Depth) -> Self {
        // A listener gives a stranger few flows.
        let images = &IMAGES[..if invited { IMAGES.len() } else { 6 }];
        let mut flows = Vec::new();
        for (carrier, dress) in images {
            flows.extend(addresses.iter().map(|to| {
                let name = format!("{}{}", image_name(*carrier, *dress), suffix(addresses, to));
                FlowSpec::new(name, *carrier, *dress, Purpose::Steady, *to)
            }));
        }
        if depth != Depth::Quick {
            for to in addresses {
                let extra = |name: &str, purpose| {
                    let name = format!("udp/{name}{}", suffix(addresses, to));
                    FlowSpec::new(name, Carrier::Udp, Dress::Random, purpose, *to)
                };
                flows.push(extra("marks", Purpose::Marks));
                flows.push(FlowSpec { interval: Duration::ZERO, ..extra("path-mtu", Purpose::PathMtu) });
            }
        }
        let measure = match (depth, invited) {
            (Depth::Quick, _) => Duration::ZERO,
            (Depth::Normal, true) => MEASURE,
            (Depth::Full, true) => MEASURE_FULL,
            (Depth::Normal | Depth::Full, false) => Duration::from_secs(8),
        };
        let mut plan = Self { flows, measure, ..Self::default() };
        if let Some(to) = addresses.first().copied().filter(|_| invited && depth != Depth::Quick) {
            plan.add_experiments(to);
            if depth == Depth::Full {
                plan.add_ladders(to);
            }
        }
        plan
    }

    /// What fits into a minute.
    fn add_experiments(&mut self, to: SocketAddr) {
        let ms = Duration::from_millis;
        let slow = |carrier, dress, name: String| FlowSpec {
            interval: ms(100),
            ..FlowSpec::new(name, carrier, dress, Purpose::Trial, to)
        };
        for (n, (interval, size, start)) in (1..).zip(CROSSED) {
            self.flows.push(FlowSpec {
                size,
                interval: ms(interval),
                start: Start::At(ms(start)),
                life: Life::For(EXPERIMENTS.saturating_sub(ms(start) + REST)),
                ..FlowSpec::new(format!("udp/crossed/{n}"), Carrier::Udp, Dress::Random, Purpose::Crossed, to)
            });
        }
        let looks: Vec<FlowSpec> = LOOKS
            .into_iter()
            .map(|(carrier, dress)| slow(carrier, dress, format!("{}/trial", image_name(carrier, dress))))
            .collect();
        self.repeats.push(trials(&looks, ROUNDS, ms(2600), ms(230), TRIAL_PROBES));
        let mut streams = vec![slow(Carrier::Tcp, Dress::Random, "tcp/random/trial".to_owned())];
        streams.extend(named(to).into_iter().map(|spec| FlowSpec { interval: ms(100), ..spec }));
        self.repeats.push(trials(&streams, 2, ms(2800), ms(900), TRIAL_PROBES));
        let port = FlowSpec {
            interval: ms(100),
            ..FlowSpec::new("udp/port", Carrier::Udp, Dress::Random, Purpose::Fan, to)
        };
        self.flows.extend(fan(&port, FAN, ms(11_500), ms(210), Life::For(ms(7000))));
        self.flows.push(fragments(to, 2000, 10, Start::At(ms(19_000))));
    }

    /// What takes minutes.
    fn add_ladders(&mut self, to: SocketAddr) {
        for (n, (interval, size, start)) in (1..).zip(CROSSED_LONG) {
            self.flows.push(FlowSpec {
                size,
                interval: Duration::from_millis(interval),
                start: Start::At(Duration::from_secs(start)),
                ..FlowSpec::new(
                    format!("udp/crossed-long/{n}"),
                    Carrier::Udp,
                    Dress::Random,
                    Purpose::Crossed,
                    to,
                )
            });
        }
        let first = CONCURRENT_FROM;
        let rung = FlowSpec {
            interval: Duration::from_secs(1),
            ..FlowSpec::new("udp/concurrent", Carrier::Udp, Dress::Random, Purpose::Concurrent, to)
        };
        let life = Life::For(Duration::from_secs(36));
        self.flows.extend(concurrent(&rung, MAX_CONCURRENT, first, Duration::from_millis(210), life));
        let gaps: Vec<Duration> = GAPS.into_iter().map(Duration::from_secs).collect();
        let first = Duration::from_secs(95);
        for refreshed in [Refresh::None, Refresh::Up, Refresh::Down] {
            self.ladders.push(idle_ladder(to, Carrier::Udp, refreshed, &gaps, first, None));
        }
        self.ladders.push(idle_ladder(to, Carrier::Tcp, Refresh::None, &gaps, first, None));
    }
}

/// Trials of each image, and the probes of each.
const ROUNDS: u32 = 5;
const TRIAL_PROBES: u64 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_within_its_minute_and_names_its_flows_apart() {
        let addresses: Vec<SocketAddr> =
            vec!["192.0.2.1:8886".parse().unwrap(), "[2001:db8::1]:8886".parse().unwrap()];
        for (invited, depth) in [(true, Depth::Normal), (false, Depth::Normal), (true, Depth::Quick)] {
            let plan = Plan::check(&addresses, invited, depth);
            assert!(plan.duration() <= Duration::from_secs(55));
            let names: std::collections::BTreeSet<_> = plan.flows.iter().map(|f| &f.name).collect();
            assert_eq!(names.len(), plan.flows.len());
            // Those in turn are under way well before opening ends.
            let turns = plan.flows.iter().filter(|f| f.start == Start::Turn).count() as u32;
            assert!(plan.open_gap * turns <= plan.reach * 2 / 3);
        }
        assert!(Plan::check(&addresses, true, Depth::Full).duration() <= Duration::from_secs(15 * 60));
    }
}
