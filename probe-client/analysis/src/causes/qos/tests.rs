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

/// A step of a second in bins of 10 ms: what gets through, of IP bits per second, and the delay, milliseconds.
#[derive(Clone, Copy)]
struct Shape {
    through: f64,
    burst: f64,
    delay_ms: i64,
}

#[allow(clippy::too_many_arguments, reason = "a table of steps reads best as one")]
fn step(
    run: &MadeUp,
    flow: FlowNo,
    number: u32,
    carrier: Carrier,
    experiment: LoadExperiment,
    size: u16,
    ip_bps: f64,
    shape: Shape,
) -> Load {
    let from = run.at(1.0 + f64::from(number) * 1.5);
    let header = if carrier == Carrier::Udp { 28.0 } else { 0.0 };
    let ip = f64::from(size) + header;
    let (mut credit, mut owed, mut bins) = (shape.burst, 0.0, Vec::new());
    for n in 0..100u32 {
        owed += ip_bps / 800.0 / ip;
        let packets = owed as u32;
        owed -= f64::from(packets);
        credit = (credit + shape.through / 800.0).min(shape.burst.max(shape.through / 800.0));
        let passes = packets.min((credit / ip) as u32);
        credit -= f64::from(passes) * ip;
        let lost = packets - passes;
        let full = lost > 0 || n > 30;
        let delay = 20_000_000 + if full { shape.delay_ms * 1_000_000 } else { 0 };
        bins.push(LoadBin {
            at: from + Duration::from_millis(u64::from(n) * 10),
            packets,
            bytes: u64::from(packets) * u64::from(size),
            lost,
            lost_bytes: u64::from(lost) * u64::from(size),
            delay: (passes > 0).then_some(DelayRange { min: 20_000_000, mean: delay, max: delay }),
        });
    }
    Load {
        flow,
        step: number,
        experiment,
        up: true,
        carrier,
        size,
        offered_bps: (ip_bps * f64::from(size) / ip) as u64,
        tos: 0,
        from,
        to: from + Duration::from_secs(1),
        stopped_early: false,
        beside: Vec::new(),
        bins,
    }
}

struct Stairs {
    run: MadeUp,
    udp: FlowNo,
    tcp: FlowNo,
    next: u32,
}

impl Stairs {
    fn new() -> Self {
        let mut run = MadeUp::new(TARGET, true);
        run.all_open();
        let udp = run.plan("udp/load", Carrier::Udp, Dress::Random, Purpose::Bulk);
        let tcp = run.plan("tcp/load", Carrier::Tcp, Dress::Random, Purpose::Bulk);
        run.open(udp);
        run.open(tcp);
        Self { run, udp, tcp, next: 0 }
    }

    /// A staircase over 2 to 20 Mbit/s.
    fn udp(mut self, size: u16, shape: impl Fn(f64) -> Shape) -> Self {
        for mbit in [2.0, 4.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0] {
            let load = step(
                &self.run,
                self.udp,
                self.next,
                Carrier::Udp,
                LoadExperiment::Staircase,
                size,
                mbit * 1e6,
                shape(mbit * 1e6),
            );
            self.run.push(Observation::Load(load));
            self.next += 1;
        }
        self
    }

    fn tcp(mut self, bps: f64) -> Self {
        let shape = Shape { through: 1e9, burst: 1e6, delay_ms: 0 };
        let load =
            step(&self.run, self.tcp, self.next, Carrier::Tcp, LoadExperiment::Staircase, 1200, bps, shape);
        self.run.push(Observation::Load(load));
        self.next += 1;
        self
    }

    fn ceiling(mut self, bps: u64) -> Self {
        for (end, sends) in [(LoadEnd::Client, true), (LoadEnd::Listener, false)] {
            self.run.push(Observation::Ceiling(Ceiling {
                end,
                sends,
                carrier: Carrier::Udp,
                size: 1200,
                bps,
                packets_per_second: bps as f64 / 9600.0,
                at: self.run.at(0.5),
                length: Duration::from_millis(200),
            }));
        }
        self
    }

    fn judged(self) -> Analysis {
        let mut evidence = Evidence::default();
        self.run.end().iter().for_each(|o| evidence.observe(o));
        analyse(&evidence)
    }
}

fn causes(analysis: &Analysis) -> Vec<Cause> {
    analysis.findings.iter().map(|f| f.cause).collect()
}

const POLICED: Shape = Shape { through: 9e6, burst: 64_000.0, delay_ms: 0 };
const QUEUED: Shape = Shape { through: 9e6, burst: 0.0, delay_ms: 60 };

#[test]
fn a_plateau_without_delay_that_tcp_beats_is_a_policer_of_udp() {
    let analysis = Stairs::new().udp(1200, |_| POLICED).tcp(18e6).judged();
    assert_eq!(causes(&analysis), [Cause::UdpPolicer], "{:#?}", analysis.findings);
    let finding = &analysis.findings[0];
    assert_eq!(finding.direction, Some(Direction::Up));
    assert!((finding.parameters.rate_bps.unwrap() as f64 / 9e6 - 1.0).abs() < 0.03, "{finding:#?}");
    assert!((finding.parameters.burst_bytes.unwrap() as f64 / 64e3 - 1.0).abs() < 0.3, "{finding:#?}");
}

#[test]
fn with_delay_it_is_a_shaper() {
    let analysis = Stairs::new().udp(1200, |_| QUEUED).tcp(18e6).judged();
    assert_eq!(causes(&analysis), [Cause::UdpShaper], "{:#?}", analysis.findings);
}

#[test]
fn what_tcp_meets_too_is_the_line() {
    let analysis = Stairs::new().udp(1200, |_| QUEUED).tcp(8.8e6).judged();
    assert_eq!(causes(&analysis), [Cause::RateLimit]);
    assert_eq!(analysis.findings[0].parameters.kind.as_deref(), Some("shaper"));
    assert!(analysis.verdict.clean);
}

#[test]
fn without_tcp_nobody_is_accused() {
    let analysis = Stairs::new().udp(1200, |_| POLICED).judged();
    assert_eq!(causes(&analysis), [Cause::Unexplained]);
}

#[test]
fn an_end_s_own_ceiling_is_not_the_path_s() {
    let analysis = Stairs::new().ceiling(9_100_000).udp(1200, |_| POLICED).tcp(18e6).judged();
    assert_eq!(causes(&analysis), []);
    let twin = Stairs::new().ceiling(60_000_000).udp(1200, |_| POLICED).tcp(18e6).judged();
    assert_eq!(causes(&twin), [Cause::UdpPolicer]);
}

#[test]
fn a_fast_path_is_clean() {
    let free = Shape { through: 1e9, burst: 1e6, delay_ms: 1 };
    assert_eq!(causes(&Stairs::new().udp(1200, |_| free).udp(200, |_| free).tcp(20e6).judged()), []);
}

#[test]
fn the_same_packets_a_second_of_two_sizes_are_flood_protection() {
    // 1,000 packets a second get through, of 228 or of 1,228 bytes.
    let pps = |size: f64| Shape { through: 1000.0 * (size + 28.0) * 8.0, burst: 4000.0, delay_ms: 0 };
    let analysis = Stairs::new().udp(200, |_| pps(200.0)).udp(1200, |_| pps(1200.0)).tcp(18e6).judged();
    assert_eq!(causes(&analysis), [Cause::UdpFloodProtection], "{:#?}", analysis.findings);
    let got = analysis.findings[0].parameters.packets_per_second.unwrap();
    assert!((got / 1000.0 - 1.0).abs() < 0.05, "{got}");
}

#[test]
fn a_deep_queue_is_bufferbloat() {
    let deep = Shape { through: 9e6, burst: 0.0, delay_ms: 400 };
    let analysis = Stairs::new().udp(1200, |_| deep).tcp(8.9e6).judged();
    assert_eq!(causes(&analysis), [Cause::Bufferbloat, Cause::RateLimit], "{:#?}", analysis.findings);
}

/// An hour in steps of ten seconds, throttled after a third of it.
fn rehearsal(fresh: Option<f64>) -> Analysis {
    let mut stairs = Stairs::new();
    for n in 0..60u32 {
        let rate = if n < 20 { 50e6 } else { 10e6 };
        let shape = Shape { through: rate, burst: 10_000.0, delay_ms: 0 };
        let load =
            step(&stairs.run, stairs.udp, n, Carrier::Udp, LoadExperiment::Rehearsal, 1200, 49e6, shape);
        stairs.run.push(Observation::Load(load));
        if let Some(rate) = fresh.filter(|_| n == 25) {
            let shape = Shape { through: rate, burst: 10_000.0, delay_ms: 0 };
            let load =
                step(&stairs.run, stairs.udp, n, Carrier::Udp, LoadExperiment::Fresh, 1200, 49e6, shape);
            stairs.run.push(Observation::Load(load));
        }
    }
    stairs.judged()
}

#[test]
fn a_rehearsal_that_is_slowed_while_a_fresh_flow_is_fast_was_throttled() {
    let analysis = rehearsal(Some(48e6));
    assert_eq!(causes(&analysis), [Cause::FlowThrottled], "{:#?}", analysis.findings);
    let p = &analysis.findings[0].parameters;
    assert!((p.rate_bps.unwrap() as f64 / 10e6 - 1.0).abs() < 0.05, "{p:?}");
    assert!((p.age_s.unwrap() - 30.0).abs() < 1.6, "{p:?}");
    // A path that is slow for everybody throttles nobody.
    assert_eq!(causes(&rehearsal(Some(10e6))), [Cause::Unexplained]);
    assert_eq!(causes(&rehearsal(None)), [Cause::Unexplained]);
}
