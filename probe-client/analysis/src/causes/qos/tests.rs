//! Steps of load as a path would make them, and what is said of each.

use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::Direction;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use crate::made_up::MadeUp;
use crate::model::Analysis;
use crate::observation::{
    Ceiling, DelayRange, FlowNo, Load, LoadBin, LoadEnd, LoadExperiment, Observation, Purpose,
};
use crate::{Evidence, analyse};

const TARGET: &str = "203.0.113.7:8886";

/// A path, in bytes per second and bytes.
#[derive(Clone, Copy, Default)]
struct Path {
    /// Rate, depth.
    policer: Option<(f64, f64)>,
    /// Rate, burst, limit.
    queue: Option<(f64, f64, f64)>,
    /// Packets per second, depth, seconds held.
    packets: Option<(f64, f64, f64)>,
    /// One packet in so many is lost.
    loses: u64,
    /// Delay that varies, seconds.
    jitter: f64,
}

/// The state of a path.
struct Run {
    path: Path,
    tokens: f64,
    packet_tokens: f64,
    held_until: f64,
    waits: f64,
    burst: f64,
    before: f64,
    seed: u64,
}

impl Run {
    fn new(path: Path) -> Self {
        Self {
            tokens: path.policer.map_or(0.0, |p| p.1),
            packet_tokens: path.packets.map_or(0.0, |p| p.1),
            burst: path.queue.map_or(0.0, |q| q.1),
            path,
            held_until: 0.0,
            waits: 0.0,
            before: 0.0,
            seed: 7,
        }
    }

    fn chance(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as f64 / f64::from(1u32 << 31)
    }

    /// How long a packet takes; none where it is lost.
    fn send(&mut self, at: f64, bytes: f64) -> Option<f64> {
        let passed = at - self.before;
        self.before = at;
        if self.path.loses > 0 && self.chance() * (self.path.loses as f64) < 1.0 {
            return None;
        }
        if let Some((rate, depth)) = self.path.policer {
            self.tokens = (self.tokens + rate * passed).min(depth);
            if self.tokens < bytes {
                return None;
            }
            self.tokens -= bytes;
        }
        if let Some((rate, depth, hold)) = self.path.packets {
            self.packet_tokens = (self.packet_tokens + rate * passed).min(depth);
            if at < self.held_until {
                return None;
            }
            if self.packet_tokens < 1.0 {
                self.held_until = at + hold;
                return None;
            }
            self.packet_tokens -= 1.0;
        }
        let mut wait = 0.0;
        if let Some((rate, burst, limit)) = self.path.queue {
            // What has left fills the bucket of the shaper once nothing waits.
            let left = rate * passed;
            let rest = (left - self.waits).max(0.0);
            self.waits = (self.waits - left).clamp(0.0, limit);
            self.burst = (self.burst + rest).min(burst);
            let over = (bytes - self.burst).max(0.0);
            if self.waits + over > limit {
                return None;
            }
            self.burst = (self.burst - bytes).max(0.0);
            self.waits += over;
            wait = self.waits / rate;
        }
        let jitter = self.path.jitter * self.chance();
        Some(0.02 + wait + jitter)
    }
}

/// A load as a check lays it: a stair until something is wrong, then what tells which limit it is.
struct Check {
    run: MadeUp,
    udp: FlowNo,
    fresh: FlowNo,
    tcp: FlowNo,
    next: u32,
    now: f64,
    path: Run,
}

impl Check {
    fn new(path: Path) -> Self {
        let mut run = MadeUp::new(TARGET, true);
        run.all_open();
        let mut plan = |name, carrier| {
            let flow = run.plan(name, carrier, Dress::Random, Purpose::Bulk);
            run.open(flow);
            flow
        };
        let (udp, fresh, tcp) = (
            plan("load/udp", Carrier::Udp),
            plan("load/fresh", Carrier::Udp),
            plan("load/tcp", Carrier::Tcp),
        );
        Self { run, udp, fresh, tcp, next: 0, now: 1.0, path: Run::new(path) }
    }

    fn load(
        &mut self,
        flow: FlowNo,
        carrier: Carrier,
        size: u16,
        bps: f64,
        seconds: f64,
        bins: Vec<LoadBin>,
    ) {
        let from = self.run.at(self.now);
        let experiment = if flow == self.fresh { LoadExperiment::Fresh } else { LoadExperiment::Staircase };
        self.run.push(Observation::Load(Load {
            flow,
            step: self.next,
            experiment,
            up: true,
            carrier,
            size,
            offered_bps: bps as u64,
            tos: 0,
            from,
            to: from + Duration::from_secs_f64(seconds),
            stopped_early: false,
            beside: Vec::new(),
            bins,
        }));
        self.next += 1;
        self.now += seconds + 0.1;
    }

    /// Sends datagrams at so many payload bits per second; answers with what arrived in the later half, bytes of IP per
    /// second, and whether anything is wrong.
    fn udp(&mut self, flow: FlowNo, size: u16, bps: f64, seconds: f64) -> (f64, bool) {
        let gap = f64::from(size) * 8.0 / bps;
        let ip = f64::from(size) + 28.0;
        let count = (seconds / gap) as u32;
        let mut bins: Vec<LoadBin> = Vec::new();
        let (mut got, mut lost, mut slow, mut index) = (0.0, 0, 0.0f64, u32::MAX);
        for n in 0..count {
            let at = f64::from(n) * gap;
            let took = self.path.send(self.now + at, ip);
            let bin = (at / 0.005) as u32;
            if bin != index {
                index = bin;
                bins.push(LoadBin { at: self.run.at(self.now + at), ..LoadBin::default() });
            }
            let open = bins.last_mut().unwrap();
            open.packets += 1;
            open.bytes += u64::from(size);
            if let Some(took) = took {
                let ns = (took * 1e9) as i64;
                let range = open.delay.get_or_insert(DelayRange { min: ns, mean: 0, max: ns });
                let before = i64::from(open.packets - open.lost - 1);
                range.mean = (range.mean * before + ns) / (before + 1);
                (range.min, range.max) = (range.min.min(ns), range.max.max(ns));
                got += if n >= count / 2 { ip } else { 0.0 };
                slow = slow.max(took);
            } else {
                open.lost += 1;
                open.lost_bytes += u64::from(size);
                lost += 1;
            }
        }
        self.load(flow, Carrier::Udp, size, bps, seconds, bins);
        // What waits is waited for.
        if let Some((rate, _, _)) = self.path.path.queue {
            self.now += (self.path.waits / rate).min(1.5);
        }
        (got / (seconds / 2.0), lost * 10 > count || slow > 0.08 + self.path.path.jitter)
    }

    /// TCP at so many IP bytes per second, of which it gets so much.
    fn tcp(&mut self, offered: f64, gets: f64) {
        let bin = |n: u32| LoadBin {
            at: self.run.at(self.now + f64::from(n) * 0.05),
            packets: 5,
            bytes: (gets.min(offered) * 0.05 / 1.036) as u64,
            delay: Some(DelayRange { min: 0, mean: 0, max: 0 }),
            ..LoadBin::default()
        };
        let bins = (0..30).map(bin).collect();
        self.load(self.tcp, Carrier::Tcp, 1200, offered * 8.0 / 1.036, 1.5, bins);
    }

    /// The whole check at up to `top` payload bits per second, where TCP gets `tcp` IP bytes per second.
    fn checked(mut self, top: f64, tcp: f64) -> Self {
        let mut limit = None;
        let stairs = (0..6).rev().map(|n| (1200, top / f64::from(1 << n), if n == 0 { 2.2 } else { 0.25 }));
        let small =
            [700.0, 1500.0, 3000.0, 6000.0].map(|p| (200, p * 1600.0, if p == 6000.0 { 0.6 } else { 0.25 }));
        for (size, bps, seconds) in stairs.chain(small) {
            let (mut got, wrong) = self.udp(self.udp, size, bps, seconds);
            if wrong {
                if let Some((_, _, hold)) = self.path.path.packets.filter(|p| p.2 > 0.0) {
                    self.now += hold;
                    got = bps / 8.0 * 0.75 * (1.0 + 28.0 / f64::from(size));
                }
                limit = Some((size, got));
                break;
            }
        }
        let Some((size, got)) = limit else { return self };
        let payload = |ip: f64, size: u16| ip * 8.0 / (1.0 + 28.0 / f64::from(size));
        for (share, seconds) in [(1.3, 1.0), (1.8, 0.8)] {
            let held = self.path.path.packets.map_or(0.0, |p| p.2);
            self.udp(self.udp, size, payload(got * share, size).min(top), seconds + held);
            self.now += held;
        }
        self.udp(self.fresh, size, payload(got * 3.0, size).min(top), 0.5);
        self.now += self.path.path.packets.map_or(0.0, |p| p.2);
        self.tcp((got * 1.8).min(top / 8.0 * 1.02), tcp);
        self.path.waits = 0.0;
        let packets = got / (f64::from(size) + 28.0);
        self.udp(self.udp, 200, (packets * 3.0 * 1600.0).min(top), 0.6);
        self.now += self.path.path.packets.map_or(0.0, |p| p.2);
        self.udp(self.udp, 200, payload(got * 1.3, 200).min(top), 0.5);
        self
    }

    fn judged(self) -> Analysis {
        let mut evidence = Evidence::default();
        self.run.end().iter().for_each(|o| evidence.observe(o));
        analyse(&evidence)
    }
}

const TOP: f64 = 20e6;
/// TCP that nothing holds back.
const FREE: f64 = 1e9;

fn check(path: Path, tcp: f64) -> Analysis {
    Check::new(path).checked(TOP, tcp).judged()
}

fn causes(analysis: &Analysis) -> Vec<Cause> {
    analysis.findings.iter().map(|f| f.cause).collect()
}

fn is_near(value: Option<u64>, truth: f64, within: f64) -> bool {
    value.is_some_and(|v| (v as f64 / truth - 1.0).abs() <= within)
}

/// Rates below, within and near the end of what the load reaches, and depths from a few packets to more than a second.
const POLICERS: [(f64, f64); 9] = [
    (0.5e6, 8e3),
    (0.8e6, 16e3),
    (1.3e6, 5e3),
    (2e6, 64e3),
    (4e6, 564e3),
    (5e6, 32e3),
    (9e6, 250e3),
    (12e6, 16e3),
    (12e6, 1.5e6),
];

#[test]
fn policers_of_udp_are_named_with_rate_and_depth() {
    for (bps, depth) in POLICERS {
        let analysis = check(Path { policer: Some((bps / 8.0, depth)), ..Path::default() }, FREE);
        let says = format!("{bps} {depth}: {:#?}", analysis.findings);
        assert_eq!(causes(&analysis), [Cause::UdpPolicer], "{says}");
        let finding = &analysis.findings[0];
        assert_eq!(finding.direction, Some(Direction::Up));
        assert!(is_near(finding.parameters.rate_bps, bps, 0.05), "{says}");
        assert!(is_near(finding.parameters.burst_bytes, depth, 0.1), "{says}");
    }
}

#[test]
fn what_polices_tcp_too_is_the_line() {
    for (bps, depth) in POLICERS {
        // A policer's losses keep TCP below its rate, by much where its bucket is shallow.
        for share in [0.5, 0.97] {
            let analysis =
                check(Path { policer: Some((bps / 8.0, depth)), ..Path::default() }, bps / 8.0 * share);
            let found: Vec<_> = causes(&analysis);
            let says = format!("{bps} {depth} {share}: {:#?}", analysis.findings);
            if share > 0.9 {
                assert_eq!(found, [Cause::RateLimit], "{says}");
                assert_eq!(analysis.findings[0].parameters.kind.as_deref(), Some("policer"), "{says}");
                assert!(is_near(analysis.findings[0].parameters.rate_bps, bps, 0.05), "{says}");
            } else {
                // Nothing shows that it tried to be faster.
                assert_eq!(found, [Cause::Unexplained], "{says}");
            }
        }
    }
}

/// A limit so near to the highest rate that no two steps above it are far enough apart: nothing is claimed.
const NEAR_THE_TOP: f64 = 17e6;

#[test]
fn a_limit_near_the_highest_rate_accuses_nobody() {
    for tcp in [FREE, NEAR_THE_TOP / 8.0] {
        for path in [
            Path { policer: Some((NEAR_THE_TOP / 8.0, 64e3)), ..Path::default() },
            Path { queue: Some((NEAR_THE_TOP / 8.0, 16e3, 0.1 * NEAR_THE_TOP / 8.0)), ..Path::default() },
        ] {
            let found = causes(&check(path, tcp));
            assert!(found.iter().all(|cause| *cause == Cause::Unexplained), "{found:?}");
        }
    }
}

/// Rate, burst and limit of queues of 10 ms to 2 s.
const QUEUES: [(f64, f64, f64); 6] = [
    (0.5e6, 3e3, 0.2),
    (1e6, 0.0, 2.0),
    (2e6, 16e3, 0.05),
    (5e6, 0.0, 0.02),
    (8e6, 0.0, 1.0),
    (12e6, 5e3, 0.01),
];

#[test]
fn shapers_of_udp_and_lines_are_told_apart_by_tcp() {
    for (bps, burst, limit) in QUEUES {
        let path = Path { queue: Some((bps / 8.0, burst, limit * bps / 8.0)), ..Path::default() };
        let analysis = check(path, FREE);
        let says = format!("{bps} {burst} {limit}: {:#?}", analysis.findings);
        assert_eq!(causes(&analysis), [Cause::UdpShaper], "{says}");
        assert!(is_near(analysis.findings[0].parameters.rate_bps, bps, 0.05), "{says}");
        let analysis = check(path, bps / 8.0 * 0.98);
        let says = format!("{bps} {burst} {limit}: {:#?}", analysis.findings);
        let limited = analysis.findings.iter().find(|f| f.cause == Cause::RateLimit);
        let parameters = limited.map(|f| f.parameters.clone()).unwrap_or_default();
        assert_eq!(parameters.kind.as_deref(), Some("shaper"), "{says}");
        assert!(is_near(parameters.rate_bps, bps, 0.05), "{says}");
        let is_bloated = causes(&analysis).contains(&Cause::Bufferbloat);
        assert!(is_bloated == (limit >= 0.2) || limit == 0.1, "{says}");
    }
}

#[test]
fn tcp_that_does_not_beat_a_shaper_by_a_fifth_accuses_nobody() {
    let path = Path { queue: Some((5e6 / 8.0, 0.0, 12.5e3)), ..Path::default() };
    for (share, accuses) in [(1.12, false), (1.18, false), (1.22, true)] {
        let analysis = check(path, 5e6 / 8.0 * share);
        assert_eq!(
            causes(&analysis).contains(&Cause::UdpShaper),
            accuses,
            "{share}: {:#?}",
            analysis.findings
        );
    }
}

#[test]
fn packets_a_second_are_told_from_bytes() {
    for rate in [300.0, 800.0, 1000.0, 1700.0, 2600.0, 4500.0] {
        for depth in [5.0, rate / 10.0] {
            let analysis = check(Path { packets: Some((rate, depth, 0.0)), ..Path::default() }, FREE);
            let says = format!("{rate} {depth}: {:#?}", analysis.findings);
            assert_eq!(causes(&analysis), [Cause::UdpFloodProtection], "{says}");
            let got = analysis.findings[0].parameters.packets_per_second.unwrap();
            assert!((got / rate - 1.0).abs() <= 0.05, "{says}");
        }
    }
}

#[test]
fn a_hold_is_measured_with_the_rate_that_triggers_it() {
    for (rate, hold) in [(1000.0, 1.0), (1600.0, 2.0), (2600.0, 1.0), (4000.0, 0.5)] {
        let analysis = check(Path { packets: Some((rate, rate / 10.0, hold)), ..Path::default() }, FREE);
        let says = format!("{rate} {hold}: {:#?}", analysis.findings);
        assert_eq!(causes(&analysis), [Cause::UdpFloodProtection], "{says}");
        let p = &analysis.findings[0].parameters;
        assert!((p.packets_per_second.unwrap() / rate - 1.0).abs() <= 0.05, "{says}");
        assert!(p.hold_s.is_some_and(|s| (s - hold).abs() <= 0.1), "{says}");
    }
}

#[test]
fn a_hold_that_the_steps_do_not_settle_is_a_riddle() {
    let found = causes(&check(Path { packets: Some((400.0, 40.0, 1.0)), ..Path::default() }, FREE));
    assert_eq!(found, [Cause::Unexplained]);
}

#[test]
fn benign_paths_are_accused_of_nothing() {
    let benign = [
        Path::default(),
        Path { jitter: 0.09, ..Path::default() },
        Path { jitter: 0.03, loses: 100, ..Path::default() },
        Path { loses: 30, ..Path::default() },
        // Just above and far above what the load reaches.
        Path { policer: Some((21e6 / 8.0, 64e3)), ..Path::default() },
        Path { queue: Some((22e6 / 8.0, 0.0, 100e3)), ..Path::default() },
    ];
    for (n, path) in benign.into_iter().enumerate() {
        let found = causes(&check(path, FREE));
        let accuses = |c: &Cause| {
            matches!(
                c,
                Cause::UdpPolicer
                    | Cause::UdpShaper
                    | Cause::UdpFloodProtection
                    | Cause::RateLimit
                    | Cause::UdpDeprioritized
                    | Cause::Bufferbloat
                    | Cause::FlowThrottled
            )
        };
        assert!(!found.iter().any(accuses), "{n}: {found:?}");
    }
}

#[test]
fn an_end_s_own_ceiling_is_not_the_path_s() {
    for (ceiling, expected) in [(9_100_000, vec![]), (60_000_000, vec![Cause::UdpPolicer])] {
        let mut check = Check::new(Path { policer: Some((9e6 / 8.0, 64e3)), ..Path::default() });
        for (end, sends) in [(LoadEnd::Client, true), (LoadEnd::Listener, false)] {
            check.run.push(Observation::Ceiling(Ceiling {
                end,
                sends,
                carrier: Carrier::Udp,
                size: 1200,
                bps: ceiling,
                packets_per_second: ceiling as f64 / 9600.0,
                at: check.run.at(0.5),
                length: Duration::from_millis(200),
            }));
        }
        assert_eq!(causes(&check.checked(TOP, FREE).judged()), expected);
    }
}

/// A minute in steps of a second, throttled after a third of it.
fn rehearsal(fresh: Option<f64>) -> Analysis {
    let mut check = Check::new(Path::default());
    let step = |check: &mut Check, flow, experiment, n: u32, rate: f64| {
        let from = check.run.at(1.0 + f64::from(n));
        let bin = |m: u32| {
            let packets = 50u32;
            let lost = (f64::from(packets) * (1.0 - rate / 49e6).max(0.0)) as u32;
            LoadBin {
                at: from + Duration::from_millis(u64::from(m) * 10),
                packets,
                bytes: u64::from(packets) * 1200,
                lost,
                lost_bytes: u64::from(lost) * 1200,
                delay: Some(DelayRange { min: 0, mean: 0, max: 0 }),
            }
        };
        check.run.push(Observation::Load(Load {
            flow,
            step: n,
            experiment,
            up: true,
            carrier: Carrier::Udp,
            size: 1200,
            offered_bps: 48_000_000,
            tos: 0,
            from,
            to: from + Duration::from_secs(1),
            stopped_early: false,
            beside: Vec::new(),
            bins: (0..100).map(bin).collect(),
        }));
    };
    for n in 0..60u32 {
        let flow = check.udp;
        step(&mut check, flow, LoadExperiment::Rehearsal, n, if n < 20 { 50e6 } else { 10e6 });
        if let Some(rate) = fresh.filter(|_| n == 25) {
            step(&mut check, flow, LoadExperiment::Fresh, n, rate);
        }
    }
    check.judged()
}

#[test]
fn a_rehearsal_that_is_slowed_while_a_fresh_flow_is_fast_was_throttled() {
    let analysis = rehearsal(Some(48e6));
    assert_eq!(causes(&analysis), [Cause::FlowThrottled], "{:#?}", analysis.findings);
    let p = &analysis.findings[0].parameters;
    // Whole packets: eleven of fifty arrive every ten milliseconds.
    assert!((p.rate_bps.unwrap() as f64 / (11.0 * 1228.0 * 8.0 * 100.0) - 1.0).abs() < 0.01, "{p:?}");
    assert!((p.age_s.unwrap() - 20.0).abs() < 1.1, "{p:?}");
    // A path that is slow for everybody throttles nobody.
    assert_eq!(causes(&rehearsal(Some(10e6))), [Cause::Unexplained]);
    assert_eq!(causes(&rehearsal(None)), [Cause::Unexplained]);
}
