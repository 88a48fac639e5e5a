//! Soaks over the simulated network: long-lived flows through everything that a night brings.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]
#![allow(clippy::print_stdout, reason = "the simulation's speed is for people to see")]

mod sim_common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use probe_analysis::observation::{
    End, Excluded, Fate, FlowEnded, FlowNo, FlowOpened, FlowPlanned, HostFault, Observation, Probe, Purpose,
    Silence,
};
use probe_analysis::{Evidence, analyse};
use probe_client::judge::recorded;
use probe_client::plan::{Plan, SoakOptions};
use probe_client::record::{About, Clocks, Existing, Recorder, Recording, Resolution};
use probe_client::report::{Origin, Report, build, json};
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::hello::Carrier;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sim_common::{assert_true, count, rule, run, secs, topology};
use tests::packet::Protocol;
use tests::rules::units::Span;
use tests::rules::{Action, Direction, Every, Match};
use tests::sim::{Fault, Held, Ran, Setup, World, setup};

const HOUR: u64 = 3600;

fn soak(seed: u64, length: Duration, options: SoakOptions) -> Setup {
    let topology = topology();
    let plan = Plan::soak(&[setup::target(&topology)], &SoakOptions { length: Some(length), ..options });
    Setup::of(seed, topology, plan)
}

/// As many flows as ever, and few probes: what is shown does not depend on their rate, and the test ends sooner.
fn slow(probes_per_second: u32) -> SoakOptions {
    SoakOptions { probes_per_second, fresh_every: Some(secs(300)), ..SoakOptions::default() }
}

/// What a run told, but for its probes, which are counted.
#[derive(Default)]
struct Told {
    planned: BTreeMap<FlowNo, FlowPlanned>,
    opened: BTreeMap<FlowNo, FlowOpened>,
    ended: BTreeMap<FlowNo, FlowEnded>,
    silences: Vec<Silence>,
    others: Vec<Observation>,
    fates: BTreeMap<&'static str, u64>,
    /// That each probe is settled once is not looked at: a night has millions.
    counted_only: bool,
    settled: BTreeSet<(FlowNo, u64)>,
}

impl Told {
    fn see(&mut self, observation: Observation) {
        match observation {
            Observation::Probe(probe) => self.probe(&probe),
            Observation::FlowPlanned(o) => {
                let flow = o.flow;
                assert!(self.planned.insert(flow, o).is_none(), "{flow:?} is planned twice");
            }
            Observation::FlowOpened(o) => drop(self.opened.entry(o.flow).or_insert(o)),
            Observation::FlowEnded(o) => {
                let flow = o.flow;
                assert!(self.ended.insert(flow, o).is_none(), "{flow:?} ends twice");
            }
            Observation::Silence(o) => self.silences.push(o),
            // A night has one of these each second.
            Observation::Watch(_) if self.counted_only => {}
            other => self.others.push(other),
        }
    }

    fn probe(&mut self, probe: &Probe) {
        assert!(
            self.counted_only || self.settled.insert((probe.flow, probe.seq)),
            "settled twice: {probe:?}"
        );
        let fate = match probe.fate {
            Fate::Received => "received",
            Fate::LostUp => "lost up",
            Fate::LostDown => "lost down",
            Fate::LostUnknown => "unknown",
            Fate::Excluded(Excluded::Experiment) => "experiment",
            Fate::Excluded(Excluded::Suspended) => "suspended",
            Fate::Excluded(_) => "excluded",
        };
        *self.fates.entry(fate).or_default() += 1;
    }

    fn of(&self, carrier: Carrier, purpose: Purpose) -> Vec<&FlowPlanned> {
        self.planned.values().filter(|p| p.carrier == carrier && p.purpose == purpose).collect()
    }
}

/// A night: what it told, what is said of it, and how it went.
struct Night {
    told: Told,
    report: Report,
    ran: Ran,
}

/// Resident memory of this process, MB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    row.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1000.0
}

/// Simulates a night, records it as the program does, and judges what was recorded: with `SOAK_KEEP` in that folder.
fn night(setup: Setup) -> Night {
    let (mut told, mut evidence, mut hour) =
        (Told { counted_only: true, ..Told::default() }, Evidence::default(), 0);
    let began = probe_net::clock::now();
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("SOAK_KEEP").map(std::path::PathBuf::from);
    let file = kept.as_deref().unwrap_or(folder.path()).join("night.probe");
    let about = About {
        kind: "soak".to_owned(),
        id: None,
        port: 8886,
        target: setup::target(&setup.topology).to_string(),
        quick: false,
        resolution: Resolution::Microsecond,
    };
    let now = Clocks { at: Timestamp(1_000_000_000_000), wall: WallTime(1_769_896_800_000_000_000) };
    let recorder = Recorder::create(&file, &about, now, 0, Existing::Refuse).unwrap();
    let ran = World::new(setup).unwrap().run(None, &mut |o| {
        let o = recorder.replay(o);
        evidence.observe(&o);
        if evidence.last.is_some_and(|last| evidence.seconds(last) >= f64::from(hour) * 3600.0) {
            println!("hour {hour}: {:.1} MB", memory());
            hour += 1;
        }
        told.see(o);
    });
    let ran = ran.unwrap();
    println!(
        "{:?} simulated in {:?}: {} flows, {:?}, held {:?}",
        ran.took,
        probe_net::clock::now().since(began),
        told.planned.len(),
        told.fates,
        ran.held
    );
    let origin = Origin { id: None, kind: "soak", port: 8886, quick: false };
    let report = build(analyse(&evidence), origin);
    let status = recorder.finish(Some(json::compact(&report).unwrap())).unwrap();
    let recording = Recording::open(&file).unwrap();
    let opened = probe_net::clock::now();
    let again = recorded(&recording, true).unwrap();
    println!(
        "{:.1} MB on disk for {} probes; judged afresh in {:?}; {:.1} MB resident",
        status.bytes as f64 / 1e6,
        recording.probes().unwrap(),
        probe_net::clock::now().since(opened),
        memory()
    );
    assert!(again.report == report, "judged again, it is judged alike");
    Night { told, report, ran }
}

/// What the engine holds in its last whole hours is what it held in its first ones.
fn assert_flat(held: &[Held]) {
    let most = |hours: &[Held]| {
        hours.iter().fold(Held::default(), |a, b| Held {
            flows: a.flows.max(b.flows),
            probes: a.probes.max(b.probes),
            entries: a.entries.max(b.entries),
        })
    };
    let (early, late) = (most(&held[..3]), most(&held[held.len() - 3..]));
    assert!(late.flows <= early.flows * 5 / 4, "{early:?} {late:?}");
    assert!(late.probes <= early.probes * 3 / 2, "{early:?} {late:?}");
    assert!(late.entries <= early.entries * 3 / 2, "{early:?} {late:?}");
}

#[test]
fn a_clean_soak_opens_everything_and_loses_nothing() {
    let options = SoakOptions { fresh_every: Some(secs(60)), ..SoakOptions::default() };
    let (observations, ran) = run(soak(1, secs(300), options));
    assert_true(&observations, &ran);
    let lost = |f| matches!(f, Fate::LostUp | Fate::LostDown | Fate::LostUnknown);
    assert_eq!(count(&observations, lost), 0);
    let mut told = Told::default();
    observations.into_iter().for_each(|o| told.see(o));
    assert!(told.silences.is_empty() && told.planned.values().all(|p| p.replaces.is_none()));
    for carrier in [Carrier::Tcp, Carrier::Tls, Carrier::Quic, Carrier::QuicInverse] {
        assert_eq!(told.of(carrier, Purpose::Old).len(), 6, "{carrier:?}");
    }
    assert_eq!(told.of(Carrier::Udp, Purpose::Old).len(), 24);
    assert_eq!(told.opened.len(), told.planned.len());
    // One each minute; which image it wears is drawn.
    let fresh = told.planned.values().filter(|p| p.purpose == Purpose::Fresh).count();
    assert!((4..=6).contains(&fresh), "{fresh}");
}

#[test]
fn a_restarted_listener_is_survived_by_every_class() {
    let restart = Fault::RestartListener { at: secs(100), gap: secs(5) };
    let (observations, ran) =
        run(Setup { faults: vec![restart], ..soak(2, secs(240), SoakOptions::default()) });
    assert_true(&observations, &ran);
    let restarts: Vec<_> = observations
        .iter()
        .filter_map(|o| if let Observation::ListenerRestarted(r) = o { Some(*r) } else { None })
        .collect();
    assert_eq!(restarts.len(), 1, "{restarts:?}");
    // Every place is filled again, on the new boot, and loses nothing there.
    let late = restarts[0].at + secs(90);
    let mut told = Told::default();
    let mut after = BTreeMap::new();
    for observation in observations {
        if let Observation::Probe(probe) = &observation
            && probe.sent > late
        {
            assert!(matches!(probe.fate, Fate::Received | Fate::Excluded(Excluded::Experiment)), "{probe:?}");
            *after.entry(probe.flow).or_insert(0u32) += 1;
        }
        told.see(observation);
    }
    for carrier in [Carrier::Tcp, Carrier::Tls, Carrier::Quic, Carrier::QuicInverse] {
        let alive = told.of(carrier, Purpose::Old).iter().filter(|p| after.contains_key(&p.flow)).count();
        assert_eq!(alive, 6, "{carrier:?}");
    }
    assert_eq!(told.of(Carrier::Udp, Purpose::Old).len(), 24, "UDP flows open again under their number");
}

#[test]
fn one_dead_port_is_followed_at_once_and_its_successor_works_while_it_is_dead() {
    // From a minute on, a tenth of the flows that are open by then are dropped for good.
    let matches = Match {
        after: Some(Span::secs(60)),
        began_before: Some(Span::secs(20)),
        protocol: vec![Protocol::Udp],
        flow_share: Some(0.2),
        ..Match::default()
    };
    let dead = rule("dead", matches, Action::Drop {});
    let (observations, ran) = run(Setup { rules: vec![dead], ..soak(3, secs(240), SoakOptions::default()) });
    assert_true(&observations, &ran);
    let mut told = Told::default();
    observations.into_iter().for_each(|o| told.see(o));
    let successors: Vec<_> = told.planned.values().filter(|p| p.replaces.is_some()).collect();
    assert!(!successors.is_empty());
    for planned in &successors {
        let old = planned.replaces.unwrap();
        let before = &told.planned[&old];
        assert_eq!(
            (before.carrier, before.dress, before.size, before.interval, before.purpose),
            (planned.carrier, planned.dress, planned.size, planned.interval, planned.purpose)
        );
        let silence = told.silences.iter().find(|s| s.flow == old && !s.over).unwrap();
        let opened = told.opened.get(&planned.flow).unwrap();
        let ended = told.ended.get(&old).unwrap();
        // At once, and while the old one is watched: it is kept a minute longer.
        assert!(opened.at.since(silence.at) < secs(3), "{planned:?}");
        assert_eq!(ended.end, End::TimedOut);
        let watched = ended.at.since(silence.at);
        assert!(watched >= secs(60) && watched < secs(65), "{planned:?} {watched:?}");
    }
    // Nobody else was touched.
    let dead: BTreeSet<_> = successors.iter().filter_map(|p| p.replaces).collect();
    assert!(told.silences.iter().all(|s| dead.contains(&s.flow)), "{:?}", told.silences);
}

#[test]
fn an_hour_without_a_path_is_placed_probe_by_probe() {
    let dark = Every { period: Span::secs(1_000_000), length: Span::secs(HOUR), first: Span::secs(600) };
    let blackout = rule("blackout", Match { every: Some(dark), ..Match::default() }, Action::Drop {});
    let setup = Setup { rules: vec![blackout], ..soak(4, secs(2 * HOUR), slow(20)) };
    let (observations, ran) = run(setup);
    assert_true(&observations, &ran);
    println!("held {:?}", ran.held);
    let mut told = Told::default();
    observations.into_iter().for_each(|o| told.see(o));
    println!("{:?}", told.fates);
    // All that was lost was lost on the way up, and the ledger says so of each.
    let really = ran.truth.probes().filter(|(_, _, way)| way.up == 0).count() as u64;
    assert!(really > 3000, "{really}");
    let lost_up = told.fates["lost up"];
    assert!(lost_up >= really * 99 / 100 && !told.fates.contains_key("unknown"), "{lost_up} of {really}");
    // Few ports are tried while nothing is heard: an hour holds 180 canaries at most, beside successors of slow flows that
    // fell silent before it was clear that all had.
    let (from, to) = (1000 + 600 + 30, 1000 + 600 + HOUR);
    let during = |at: Timestamp| (from..to).contains(&(at.as_nanos() / 1_000_000_000));
    let tried: Vec<_> = told.planned.values().filter(|p| during(p.at)).collect();
    let canaries = tried.iter().filter(|p| p.purpose == Purpose::Old).count();
    assert!((60..=190).contains(&canaries), "{canaries}");
    assert!(tried.iter().all(|p| p.purpose != Purpose::Fresh), "{tried:?}");
    // And within minutes of its end every place is filled again.
    let alive = told.planned.values().filter(|p| {
        let lives = told.ended.get(&p.flow).is_none_or(|e| e.end == End::Finished);
        p.purpose == Purpose::Old && lives && told.opened.contains_key(&p.flow)
    });
    let places: BTreeSet<&str> = alive.map(|p| p.name.split('#').next().unwrap()).collect();
    assert_eq!(places.len(), 48, "{places:?}");
}

#[test]
fn a_sleep_and_a_clock_that_is_set_are_the_host_s_own() {
    let faults = vec![
        Fault::SetClientClock { at: secs(60), by_ns: 3_600_000_000_000 },
        Fault::SuspendClient { at: secs(120), length: secs(1200) },
        Fault::SetClientClock { at: secs(1400), by_ns: -7_200_000_000_000 },
    ];
    let (observations, ran) = run(Setup { faults, ..soak(5, secs(1600), slow(40)) });
    assert_true(&observations, &ran);
    said_of_the_host(&observations);
    let mut told = Told::default();
    observations.into_iter().for_each(|o| told.see(o));
    let host = |o: &Observation| if let Observation::Host(event) = o { Some(event.clone()) } else { None };
    let host: Vec<_> = told.others.iter().filter_map(host).collect();
    let steps: Vec<i64> = host
        .iter()
        .filter_map(|e| if let HostFault::ClockStepped(by) = e.what { Some(by) } else { None })
        .collect();
    assert_eq!(steps, [3_600_000_000_000, -7_200_000_000_000], "{host:?}");
    let slept: Vec<_> = host.iter().filter(|e| e.what == HostFault::Suspended).collect();
    assert_eq!(slept.len(), 1);
    assert!(slept[0].to.since(slept[0].from) >= secs(1200), "{slept:?}");
    for fate in ["lost up", "lost down", "unknown"] {
        assert!(!told.fates.contains_key(fate), "{:?}", told.fates);
    }
    // Nothing died of it but what the listener's or a router's own patience ended.
    assert!(told.silences.is_empty(), "{:?}", told.silences);
}

/// The sleep and both steps of the clock are told as what they were, and nothing else is said.
fn said_of_the_host(observations: &[Observation]) {
    let mut evidence = Evidence::default();
    observations.iter().for_each(|o| evidence.observe(o));
    let report = build(analyse(&evidence), Origin { id: None, kind: "soak", port: 8886, quick: false });
    let told: Vec<(&str, u64)> =
        report.events.iter().map(|event| (event.kind.as_str(), event.from_s.round() as u64)).collect();
    let wanted = [("clock-stepped", 60), ("suspended", 120), ("clock-stepped", 1400)];
    assert_eq!(told.len(), wanted.len(), "{told:?}");
    for ((kind, at), (wanted, when)) in told.iter().zip(wanted) {
        assert!(*kind == wanted && at.abs_diff(when) <= 1, "{told:?}");
    }
    let slept = report.events[1].to_s - report.events[1].from_s;
    assert!((1199.0..1202.0).contains(&slept), "{slept}");
    let causes: Vec<&str> = report.findings.iter().map(|finding| finding.cause.id()).collect();
    assert!(causes.contains(&"client-suspended") && causes.contains(&"clock-stepped"), "{causes:?}");
    assert_eq!(
        causes.iter().filter(|c| !["client-suspended", "clock-stepped"].contains(c)).count(),
        0,
        "{causes:?}"
    );
    assert!(report.verdict.clean, "{:?}", report.verdict);
}

/// Age at which QUIC flows are killed in the night, seconds.
const KILLED_AT: u64 = 3 * HOUR;
/// When the address changes in it: a lease of a day was taken seventeen hours before the run.
const LEASE_ENDS: u64 = 7 * HOUR;

/// Twelve hours with a classifier that kills QUIC at an age, and a new address.
fn classified_night() -> Night {
    let (age, changes) = (KILLED_AT, LEASE_ENDS);
    let quic = Match {
        protocol: vec![Protocol::Udp],
        quic: Some(tests::rules::ServerName::default()),
        age_over: Some(Span::secs(age)),
        ..Match::default()
    };
    let kill = rule("classifier", quic, Action::Drop {});
    let lease = Match { after: Some(Span::secs(changes)), ..Match::default() };
    let lease =
        rule("lease", lease, Action::Rebind { address: Some("203.0.113.99".parse().unwrap()), port_step: 0 });
    let pps = std::env::var("SOAK_PROBES").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let setup = Setup { rules: vec![kill, lease], keep_truth: false, ..soak(6, secs(12 * HOUR), slow(pps)) };
    night(setup)
}

#[test]
fn a_night_with_a_classifier_and_a_new_lease_stays_flat_and_is_told() {
    let (age, changes) = (KILLED_AT, LEASE_ENDS);
    let Night { told, ran, report } = classified_night();
    assert_flat(&ran.held);
    said_of_the_night(&serde_json::to_value(report).unwrap(), age as f64, changes as f64);
    // Each QUIC flow that could grow so old died at three hours, and was followed.
    let mut ages = Vec::new();
    for planned in told.of(Carrier::Quic, Purpose::Old) {
        let (Some(opened), Some(ended)) = (told.opened.get(&planned.flow), told.ended.get(&planned.flow))
        else {
            continue;
        };
        let silence = told.silences.iter().find(|s| s.flow == planned.flow && !s.over);
        let last = silence.map_or(ended.at, |s| s.since);
        if ended.end != End::Finished {
            ages.push(last.since(opened.at).as_secs());
        }
    }
    println!("{ages:?}");
    let of_age = ages.iter().filter(|a| (age - 300..=age + 300).contains(*a)).count();
    assert!(of_age >= 12, "{ages:?}");
    // Its twin lives.
    let inverse = told.of(Carrier::QuicInverse, Purpose::Old);
    assert!(inverse.iter().all(|p| {
        let end = &told.ended[&p.flow];
        end.end == End::Finished || end.at.as_nanos() / 1_000_000_000 >= 1000 + changes
    }));
    let moved = told.others.iter().filter(|o| matches!(o, Observation::Moved(_))).count();
    assert!(moved >= 24, "{moved}");
}

/// Both are in the events and in the findings with their parameters, and nothing else is.
fn said_of_the_night(report: &serde_json::Value, age: f64, changes: f64) {
    let (findings, events) = (report["findings"].as_array().unwrap(), report["events"].as_array().unwrap());
    let causes: BTreeSet<&str> = findings.iter().map(|f| f["cause"].as_str().unwrap()).collect();
    for finding in findings {
        println!("{finding}");
    }
    let finding =
        |cause: &str| findings.iter().find(|f| f["cause"] == cause).unwrap_or_else(|| panic!("{causes:?}"));
    let killed = finding("flow-killed-by-age");
    let said = killed["parameters"]["age_s"].as_f64().unwrap();
    assert!((said - age).abs() <= age * 0.02, "{killed}");
    let address = finding("address-changed");
    assert!(address["parameters"]["new"].as_str().unwrap().starts_with("203.0.113.99"), "{address}");
    let told = ["flow-killed-by-age", "address-changed"];
    assert!(
        findings.iter().all(|f| told.contains(&f["cause"].as_str().unwrap()) || f["severity"] == "info"),
        "{causes:?}"
    );
    let at = |event: &serde_json::Value| event["from_s"].as_f64().unwrap();
    let moves: Vec<_> = events.iter().filter(|e| e["kind"] == "moved").collect();
    assert!(
        moves.iter().any(|e| (at(e) - changes).abs() < 120.0 && e["cause"] == "address-changed"),
        "{moves:?}"
    );
    let died = events.iter().filter(|e| {
        e["kind"] == "silence"
            && e["flows"].as_array().unwrap().iter().all(|f| f.as_str().unwrap().starts_with("quic/"))
    });
    let died = died.count();
    assert!(died >= 6, "{died}");
}

#[test]
fn a_lost_way_to_the_network_is_the_host_s_own_and_another_one_gets_new_ports() {
    for another in [false, true] {
        let fault = Fault::LoseWay { at: secs(60), length: secs(60), another };
        let (observations, ran) = run(Setup {
            faults: vec![fault],
            ..soak(7, secs(260), SoakOptions { per_class: 2, ..slow(40) })
        });
        assert_true(&observations, &ran);
        let mut told = Told::default();
        observations.into_iter().for_each(|o| told.see(o));
        let changes = told.others.iter().filter(
            |o| matches!(o, Observation::Host(e) if matches!(e.what, HostFault::InterfaceChanged { .. })),
        );
        assert_eq!(changes.count(), 2);
        for fate in ["lost up", "lost down", "unknown"] {
            assert!(!told.fates.contains_key(fate), "{another} {:?}", told.fates);
        }
        // Failures to send are put together, not told one by one.
        let failures = told
            .others
            .iter()
            .filter(|o| matches!(o, Observation::Host(e) if matches!(e.what, HostFault::SendFailed(_))));
        assert!((1..=6).contains(&failures.count()));
        let udp = told.of(Carrier::Udp, Purpose::Old);
        let successors = udp.iter().filter(|p| p.replaces.is_some()).count();
        assert_eq!((udp.len(), successors), if another { (16, 8) } else { (8, 0) });
    }
}

/// Something that happens to the network or a host within the first two minutes.
fn misfortune(rng: &mut ChaCha8Rng) -> (Vec<tests::rules::Rule>, Vec<Fault>) {
    let at = secs(rng.random_range(10..100));
    let length = Duration::from_millis(rng.random_range(500..40_000));
    let after = Some(Span(at));
    let direction = [None, Some(Direction::Up), Some(Direction::Down)][rng.random_range(0..3)];
    let matches = Match { after, direction, ..Match::default() };
    let drops = |matches| (vec![rule("some", matches, Action::Drop {})], Vec::new());
    match rng.random_range(0..10) {
        0 => drops(Match { probability: Some(rng.random_range(0.01..0.5)), ..matches }),
        1 => drops(Match { packets_over: Some(rng.random_range(1..200)), ..matches }),
        2 => drops(Match { age_over: Some(Span::secs(rng.random_range(5..60))), ..matches }),
        3 => {
            let every = Every { period: Span::secs(1_000_000), length: Span(length), first: Span(at) };
            drops(Match { every: Some(every), direction, ..Match::default() })
        }
        4 => drops(Match { flow_share: Some(0.4), began_before: Some(Span(at)), ..matches }),
        5 => {
            let address = rng.random_bool(0.5).then(|| "203.0.113.99".parse().unwrap());
            let rebind = Action::Rebind { address, port_step: rng.random_range(1..900) };
            (vec![rule("rebind", Match { after, ..Match::default() }, rebind)], Vec::new())
        }
        6 => (Vec::new(), vec![Fault::RestartListener { at, gap: length }]),
        7 => (Vec::new(), vec![Fault::SuspendClient { at, length: length * 5 }]),
        8 => (Vec::new(), vec![Fault::StallClient { at, length: length / 10 }]),
        _ => (Vec::new(), vec![Fault::ForgetMappings { at }]),
    }
}

#[test]
fn whatever_happens_every_probe_has_one_true_fate_and_every_flow_one_end() {
    let seeds = std::env::var("SOAK_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    for seed in 0..seeds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let options = SoakOptions { per_class: 2, fresh_every: Some(secs(5)), ..slow(30) };
        let mut setup = soak(seed, secs(180), options);
        for _ in 0..rng.random_range(1..3) {
            let (rules, faults) = misfortune(&mut rng);
            setup.rules.extend(rules);
            // One fault of the hosts at a time, so that each is whole.
            if setup.faults.is_empty() {
                setup.faults = faults;
            }
        }
        let shown = format!("seed {seed}: {:?} {:?}", setup.rules, setup.faults);
        let judged = std::panic::catch_unwind(|| {
            let (observations, ran) = run(setup.clone());
            assert_true(&observations, &ran);
            let mut told = Told::default();
            observations.into_iter().for_each(|o| told.see(o));
            for (flow, planned) in &told.planned {
                assert!(told.ended.contains_key(flow), "{planned:?} has no end");
                let mut over = told.silences.iter().filter(|s| s.flow == *flow).map(|s| s.over);
                assert!(!over.next().unwrap_or(false), "{flow:?} was never silent");
            }
            let starts: BTreeSet<Timestamp> = told.planned.values().map(|p| p.at).collect();
            let starts: Vec<Timestamp> = starts.into_iter().collect();
            assert!(starts.windows(6).all(|w| w[5].since(w[0]) >= Duration::from_millis(990)), "too fast");
            // A sleep may outlast the run.
            assert!(ran.took <= secs(100 + 200 + 30), "{:?}", ran.took);
        });
        assert!(judged.is_ok(), "{shown}");
    }
}
