//! Each cause from made-up runs, with its boundary twins: just below the threshold nothing is said.

mod check;
mod lives;
mod time;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Finding, Severity};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, Refusal};

use super::thresholds::{BENIGN_LOSS, FALSE_ALARM};
use crate::made_up::MadeUp;
use crate::model::{Analysis, Reach};
use crate::observation::{
    Attempt, DatagramCounts, End, Excluded, Fate, HostEvent, HostFault, ListenerRestarted, Moved,
    Observation, Outcome, PathMtu, Purpose, Rewritten,
};
use crate::stats::hypothesis::binomial_at_least;
use crate::{Evidence, analyse};

const TARGET: &str = "203.0.113.7:8886";

fn judged(run: MadeUp) -> Analysis {
    let mut evidence = Evidence::default();
    run.end().iter().for_each(|o| evidence.observe(o));
    assert_eq!(evidence.dropped, 0);
    analyse(&evidence)
}

fn causes(analysis: &Analysis) -> Vec<Cause> {
    analysis.findings.iter().map(|f| f.cause).collect()
}

fn only(analysis: &Analysis, cause: Cause) -> &Finding {
    assert_eq!(causes(analysis), [cause], "{:#?}", analysis.findings);
    &analysis.findings[0]
}

fn silent() -> Outcome {
    Outcome::Silent { connected: false }
}

/// All transports open and 500 probes each, with the fate of the plain UDP ones.
fn with_losses(fate: impl Fn(u64) -> Fate) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_open();
    for flow in [tcp, tls, quic] {
        run.probes(flow, 500, |_| Fate::Received);
    }
    run.probes(udp, 500, &fate).probes(ascii, 500, |n| fate(n + 13));
    judged(run)
}

#[test]
fn a_clean_path_is_clean() {
    let analysis = with_losses(|_| Fate::Received);
    assert_eq!(causes(&analysis), []);
    assert!(analysis.verdict.clean);
    assert!(analysis.reachability.each().iter().all(|(_, reach)| *reach == Reach::Open));
    let udp = &analysis.flows[2];
    assert_eq!((udp.sent, udp.received), (500, 500));
    let rtt = udp.rtt_us.unwrap();
    assert!((20_000.0..20_400.0).contains(&rtt.p50), "{rtt:?}");
    let one_way = udp.one_way_us.unwrap();
    assert!((one_way.up.p50 - 10_000.0).abs() <= one_way.error);
    let clock = analysis.clock.unwrap();
    assert!(clock.offset_s.unwrap().abs() <= clock.offset_error_s.unwrap());
}

#[test]
fn a_lost_packet_or_two_is_no_finding() {
    assert_eq!(causes(&with_losses(|n| if n == 77 || n == 301 { Fate::LostUp } else { Fate::Received })), []);
}

#[test]
fn one_long_burst_is_an_event_and_no_accusation() {
    // 1.5 s without anything: a Wi-Fi roam.
    let analysis = with_losses(|n| if (200..275).contains(&n) { Fate::LostUp } else { Fate::Received });
    assert_eq!(causes(&analysis), []);
    assert!(analysis.events.iter().any(|event| event.lost.is_some()));
}

#[test]
fn a_silence_of_two_seconds_and_more_is_not_explained_away() {
    let analysis = with_losses(|n| if (200..350).contains(&n) { Fate::LostUp } else { Fate::Received });
    let finding = only(&analysis, Cause::Unexplained);
    assert!(finding.evidence.iter().any(|e| e.says.contains("outage")), "{finding:#?}");
}

#[test]
fn three_percent_upwards_is_one_way_loss() {
    let analysis = with_losses(|n| if n % 33 == 5 { Fate::LostUp } else { Fate::Received });
    let finding = only(&analysis, Cause::OneWayLoss);
    assert_eq!(finding.direction, Some(Direction::Up));
    assert!((finding.parameters.loss_ratio.unwrap() - 0.03).abs() < 0.003);
    assert!(finding.probability >= 0.95);
    assert!(analysis.flows.iter().all(|flow| flow.lost.down == 0));
}

#[test]
fn three_percent_both_ways_is_a_lossy_path() {
    let analysis = with_losses(|n| match n % 50 {
        5 => Fate::LostUp,
        31 => Fate::LostDown,
        _ => Fate::Received,
    });
    let finding = only(&analysis, Cause::LossyPath);
    assert_eq!(finding.direction, Some(Direction::Both));
}

#[test]
fn loss_has_a_boundary() {
    // The fewest losses of 1,000 that a benign path shows less often than once in 10,000 runs.
    let fewest = (1..1000).find(|k| binomial_at_least(*k, 1000, BENIGN_LOSS) < FALSE_ALARM).unwrap();
    let losing = |lost: u64| {
        let mut run = MadeUp::new(TARGET, true);
        let [_, _, udp, _, _] = run.all_open();
        run.probes(udp, 1000, |n| {
            let is_lost = (n * lost) / 1000 != ((n + 1) * lost) / 1000;
            if is_lost { Fate::LostUp } else { Fate::Received }
        });
        let analysis = judged(run);
        assert_eq!(analysis.flows[2].lost.up, lost);
        analysis
    };
    assert_eq!(causes(&losing(fewest - 1)), []);
    only(&losing(fewest), Cause::OneWayLoss);
}

#[test]
fn loss_of_plain_udp_alone_is_not_called_a_lossy_path() {
    let mut run = MadeUp::new(TARGET, true);
    let [_, _, udp, ascii, quic] = run.all_open();
    let fate = |n: u64| match n % 40 {
        5 => Fate::LostUp,
        25 => Fate::LostDown,
        _ => Fate::Received,
    };
    run.probes(udp, 500, fate).probes(ascii, 500, fate);
    run.push(Observation::Datagrams(DatagramCounts {
        flow: quic,
        sent_up: 700,
        lost_up: 0,
        sent_down: 700,
        lost_down: 0,
    }));
    let analysis = judged(run);
    let finding = only(&analysis, Cause::Unexplained);
    assert!(finding.evidence.iter().any(|e| e.says.contains("udp-deprioritized")), "{finding:#?}");
}

/// UDP stays closed; the rest is open.
fn udp_closed(outcome: &Outcome, hellos: Option<(u32, u32)>) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    run.open(tcp).open(tls).channel(tls, None);
    for flow in [udp, ascii, quic] {
        run.attempts(flow, 5, outcome);
    }
    if let Some((arrived, sent)) = hellos {
        run.hellos(&[(udp, arrived, sent), (ascii, 0, sent)]);
    }
    judged(run)
}

#[test]
fn udp_that_the_ledger_lacks_is_blocked() {
    let analysis = udp_closed(&silent(), Some((0, 5)));
    let finding = only(&analysis, Cause::UdpBlocked);
    assert_eq!((finding.severity, finding.direction), (Severity::Blocking, Some(Direction::Up)));
    assert_eq!((analysis.reachability.udp, analysis.reachability.quic), (Reach::Blocked, Reach::Blocked));
    assert!(finding.commands.iter().any(|c| c.run.contains("8886/udp")));
    assert!(!analysis.verdict.clean && analysis.run.measured);
}

#[test]
fn without_the_ledger_it_is_not_known_which_way() {
    only(&udp_closed(&silent(), None), Cause::Unexplained);
    // One hello in each of two flows, all lost: one in 25 on a bad path.
    only(&udp_closed(&silent(), Some((0, 1))), Cause::Unexplained);
    only(&udp_closed(&silent(), Some((0, 2))), Cause::UdpBlocked);
}

#[test]
fn udp_that_the_ledger_has_is_blocked_on_the_way_back() {
    let analysis = udp_closed(&silent(), Some((3, 5)));
    let finding = only(&analysis, Cause::UdpRepliesBlocked);
    assert_eq!(finding.direction, Some(Direction::Down));
    assert_eq!(analysis.reachability.udp, Reach::OneWay);
    only(&udp_closed(&silent(), Some((2, 5))), Cause::Unexplained);
}

/// TCP stays closed; UDP and QUIC are open.
fn tcp_closed(count: u32, outcome: &Outcome) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    run.open(udp).open(ascii).open(quic).channel(quic, None);
    run.attempts(tcp, count, outcome).attempts(tls, count, outcome);
    judged(run)
}

#[test]
fn refused_tcp_takes_five_of_five() {
    let analysis = tcp_closed(3, &Outcome::Refused { by: None });
    only(&analysis, Cause::TcpRefused);
    assert_eq!((analysis.reachability.tcp, analysis.reachability.udp), (Reach::Refused, Reach::Open));
    only(&tcp_closed(2, &Outcome::Refused { by: None }), Cause::Unexplained);
}

#[test]
fn silent_tcp_is_filtered() {
    let analysis = tcp_closed(2, &silent());
    only(&analysis, Cause::TcpFiltered);
    assert_eq!((analysis.reachability.tcp, analysis.reachability.tls), (Reach::Filtered, Reach::Filtered));
    only(&tcp_closed(1, &silent()), Cause::Unexplained);
}

#[test]
fn an_icmp_prohibition_is_a_filter_with_a_reason() {
    let by = Some("203.0.113.7".parse().unwrap());
    let says = "No route to host (os error 113)".to_owned();
    let analysis = tcp_closed(1, &Outcome::NetworkError { says, by });
    let finding = only(&analysis, Cause::TcpFiltered);
    assert_eq!(finding.side, probe_protocol::finding::Side::Listener);
    assert!(finding.parameters.reason.as_ref().unwrap().contains("No route"));
}

fn all_closed(outcome: &Outcome) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    for flow in run.all_planned() {
        run.attempts(flow, 3, outcome);
    }
    judged(run)
}

#[test]
fn nothing_there_is_unreachable_with_its_reason() {
    for (outcome, kind) in [
        (silent(), "silence"),
        (Outcome::Refused { by: None }, "refused"),
        (Outcome::NetworkError { says: "Network is unreachable".into(), by: None }, "no-route"),
        (Outcome::NetworkError { says: "host unreachable".into(), by: Some([10, 0, 0, 1].into()) }, "icmp"),
    ] {
        let analysis = all_closed(&outcome);
        let finding = only(&analysis, Cause::Unreachable);
        assert_eq!(finding.parameters.kind.as_deref(), Some(kind));
        assert!(!analysis.run.measured && !analysis.verdict.clean);
    }
    let analysis = judged(MadeUp::unknown_name("nowhere.example"));
    let finding = only(&analysis, Cause::Unreachable);
    assert_eq!(finding.parameters.kind.as_deref(), Some("name-not-found"));
    assert!(finding.commands.is_empty());
}

#[test]
fn a_host_that_forbids_is_a_local_filter() {
    only(
        &all_closed(&Outcome::LocalError { says: "Operation not permitted (os error 1)".into() }),
        Cause::LocalFilter,
    );
    only(
        &all_closed(&Outcome::LocalError { says: "Too many open files (os error 24)".into() }),
        Cause::Unreachable,
    );
}

fn web_server(looks_like: &str) -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    let foreign =
        Outcome::Foreign { looks_like: looks_like.to_owned(), http: looks_like.starts_with("HTTP") };
    run.attempts(tcp, 2, &foreign).attempts(
        tls,
        2,
        &Outcome::HandshakeFailed { says: "corrupt message".into() },
    );
    for flow in [udp, ascii, quic] {
        run.attempts(flow, 3, &silent());
    }
    run
}

#[test]
fn a_web_server_is_the_wrong_host_and_a_portal_is_a_portal() {
    let analysis = judged(web_server("HTTP 400"));
    only(&analysis, Cause::WrongHost);
    assert_eq!(analysis.reachability.tcp, Reach::WrongHost);
    only(&judged(web_server("HTTP 302 to http://portal.hotel/sign-in")), Cause::CaptivePortal);
    only(&judged(web_server("HTTP 302 to https://203.0.113.7/")), Cause::WrongHost);
}

#[test]
fn tcp_that_goes_elsewhere_is_not_forwarded() {
    let analysis = tcp_closed(2, &Outcome::Foreign { looks_like: "SSH".into(), http: false });
    let finding = only(&analysis, Cause::NotForwarded);
    assert_eq!(finding.parameters.kind.as_deref(), Some("tcp"));
}

#[test]
fn a_refusal_is_an_outcome_and_no_finding() {
    let refusal = Outcome::Refusal { reason: Some(Refusal::InviteExpired), software: [0, 1, 0] };
    let analysis = all_closed(&refusal);
    assert_eq!(causes(&analysis), []);
    assert!(!analysis.verdict.clean && !analysis.run.measured);
    assert_eq!(analysis.refused.unwrap().reason, "invite-expired");
    assert_eq!(analysis.reachability.udp, Reach::Open);
}

#[test]
fn an_invite_taken_back_in_the_middle_is_said_and_nothing_else() {
    let run = |reason: Option<Refusal>| {
        let mut run = MadeUp::new(TARGET, true);
        let [tcp, tls, udp, ..] = run.all_open();
        run.probes(udp, 1000, |_| Fate::Received);
        if reason.is_some() {
            let outcome = Outcome::Refusal { reason, software: [0, 1, 0] };
            let (from, to) = (run.at(20.1), run.at(20.3));
            run.push(Observation::Attempt(Attempt { flow: udp, from, to, source: None, outcome }));
        }
        run.over(tcp, End::Closed).over(tls, End::Closed).over(udp, End::Finished);
        judged(run)
    };
    for (reason, name) in
        [(Refusal::InviteRevoked, "invite-revoked"), (Refusal::InviteExpired, "invite-expired")]
    {
        let analysis = run(Some(reason));
        assert_eq!(causes(&analysis), []);
        let refused = analysis.refused.unwrap();
        assert_eq!(refused.reason, name);
        assert!(refused.says.starts_with("after 20 s, "), "{}", refused.says);
        assert!(!analysis.verdict.clean && analysis.run.measured);
    }
    // What is full for a moment ends nothing, and explains nothing.
    for reason in [None, Some(Refusal::Full)] {
        let analysis = run(reason);
        // Riddles of one kind are one finding.
        assert_eq!(causes(&analysis), [Cause::Unexplained]);
        assert!(analysis.refused.is_none());
    }
}

#[test]
fn a_third_party_in_tls_is_named() {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    for flow in [tcp, tls, udp, ascii, quic] {
        run.open(flow);
    }
    run.channel(tls, Some("CN=Example Corp Inspection CA")).channel(quic, None);
    let analysis = judged(run);
    let finding = only(&analysis, Cause::TlsIntercepted);
    assert_eq!(finding.parameters.issuer.as_deref(), Some("CN=Example Corp Inspection CA"));
    assert_eq!((analysis.reachability.tls, analysis.reachability.quic), (Reach::Intercepted, Reach::Open));
}

#[test]
fn quic_alone_dead_needs_its_twin_to_be_named() {
    let dead_quic = |twins: u32| {
        let mut run = MadeUp::new(TARGET, true);
        let [tcp, tls, udp, ascii, quic] = run.all_planned();
        for flow in [tcp, tls, udp, ascii] {
            run.open(flow);
        }
        run.attempts(quic, 5, &silent());
        for n in 0..twins {
            let twin =
                run.plan(&format!("quic-inverse/{n}"), Carrier::QuicInverse, Dress::Random, Purpose::Reach);
            run.open(twin);
        }
        judged(run)
    };
    only(&dead_quic(0), Cause::Unexplained);
    only(&dead_quic(1), Cause::Unexplained);
    let analysis = dead_quic(5);
    only(&analysis, Cause::QuicBlocked);
    assert_eq!(analysis.reachability.quic, Reach::Blocked);
}

#[test]
fn tls_alone_dead_is_said_without_a_culprit() {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    for flow in [tcp, udp, ascii, quic] {
        run.open(flow);
    }
    run.attempts(tls, 5, &Outcome::Cut { reset: true, received: 0 });
    let analysis = judged(run);
    let finding = only(&analysis, Cause::Unexplained);
    assert!(finding.evidence.iter().any(|e| e.says.contains("tls-blocked")));
}

#[test]
fn one_dress_dead_is_said_without_a_culprit() {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    for flow in [tcp, tls, ascii, quic] {
        run.open(flow);
    }
    run.attempts(udp, 5, &silent());
    let analysis = judged(run);
    assert!(
        only(&analysis, Cause::Unexplained).evidence.iter().any(|e| e.says.contains("high-entropy-blocked"))
    );
}

#[test]
fn another_address_that_is_dead_is_good_to_know() {
    let mut run = MadeUp::new(TARGET, true);
    run.all_open();
    run.towards("[2001:db8::7]:8886");
    for flow in run.all_planned() {
        run.attempts(flow, 3, &silent());
    }
    let analysis = judged(run);
    assert_eq!(only(&analysis, Cause::Unreachable).severity, Severity::Info);
    assert!(analysis.verdict.clean);
    assert_eq!(analysis.reachability_by_address.len(), 2);
    assert_eq!(analysis.reachability_by_address[1].reachability.tcp, Reach::Filtered);
}

fn with(observation: Observation) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [_, _, udp, _, _] = run.all_open();
    run.probes(udp, 300, |_| Fate::Received);
    run.push(observation);
    judged(run)
}

#[test]
fn sources_that_change() {
    let run = MadeUp::new(TARGET, true);
    let moved = |new: &str| {
        Observation::Moved(Moved {
            flow: crate::observation::FlowNo(2),
            at: run.at(2.0),
            old: "198.51.100.4:50002".parse().unwrap(),
            new: new.parse().unwrap(),
        })
    };
    only(&with(moved("198.51.100.4:61000")), Cause::NatRebinding);
    only(&with(moved("198.51.100.9:50002")), Cause::AddressChanged);
    assert_eq!(causes(&with(moved("198.51.100.4:50002"))), []);
    // A host that was busy for a moment moves no flow of its own; one that slept left it alone.
    let beside = |what, seconds| {
        let mut made = MadeUp::new(TARGET, true);
        let [_, _, udp, _, _] = made.all_open();
        made.probes(udp, 300, |_| Fate::Received).push(moved("198.51.100.4:61000"));
        made.push(Observation::Host(HostEvent { from: run.at(1.0), to: run.at(1.0 + seconds), what }));
        causes(&judged(made))
    };
    assert_eq!(beside(HostFault::Stalled, 0.4), [Cause::NatRebinding]);
    assert!(!beside(HostFault::Stalled, 8.0).contains(&Cause::NatRebinding));
    assert!(!beside(HostFault::Suspended, 0.8).contains(&Cause::NatRebinding));
}

#[test]
fn big_packets_that_vanish() {
    let search = |told, smallest_lost| {
        Observation::PathMtu(PathMtu {
            flow: crate::observation::FlowNo(2),
            up: true,
            largest: Some(1400),
            smallest_lost,
            told,
            interface: Some(1500),
        })
    };
    let analysis = with(search(None, Some(1401)));
    assert_eq!(only(&analysis, Cause::MtuBlackHole).parameters.mtu_bytes, Some(1400));
    assert_eq!(causes(&with(search(Some(1400), Some(1401)))), [], "the network said so");
    assert_eq!(causes(&with(search(None, Some(1501)))), [], "beyond the interface's own MTU");
    assert_eq!(causes(&with(search(None, None))), []);
}

#[test]
fn loss_that_is_alike_both_ways_is_not_called_one_sided_however_much_it_is() {
    // Of seven packets one is lost on the way up, and of those that arrive one of seven on the way down.
    let alike = |n: u64| match (n * 7919) % 49 {
        0..7 => Fate::LostUp,
        7..13 => Fate::LostDown,
        _ => Fate::Received,
    };
    only(&with_losses(alike), Cause::LossyPath);
    let twice = |n: u64| match (n * 7919) % 49 {
        0..12 => Fate::LostUp,
        12..17 => Fate::LostDown,
        _ => Fate::Received,
    };
    assert_eq!(only(&with_losses(twice), Cause::OneWayLoss).direction, Some(Direction::Up));
}

#[test]
fn what_the_hosts_did() {
    let run = MadeUp::new(TARGET, true);
    let host =
        |what, seconds| Observation::Host(HostEvent { from: run.at(1.0), to: run.at(1.0 + seconds), what });
    only(&with(host(HostFault::Suspended, 3.0)), Cause::ClientSuspended);
    only(&with(host(HostFault::ClockStepped(-2_000_000_000), 0.0)), Cause::ClockStepped);
    only(&with(host(HostFault::Stalled, 2.0)), Cause::HostStalled);
    assert_eq!(causes(&with(host(HostFault::Stalled, 0.3))), []);
    let restarted = ListenerRestarted { last_seen: run.at(1.0), at: run.at(2.5), old: 1, new: 2 };
    let analysis = with(Observation::ListenerRestarted(restarted));
    assert_eq!(only(&analysis, Cause::ListenerRestarted).parameters.gap_s, Some(1.5));
    assert!(analysis.verdict.clean);
}

#[test]
fn what_an_overflow_spoils_is_not_the_path_s() {
    let analysis =
        with_losses(|n| if n % 20 == 3 { Fate::Excluded(Excluded::ReceiveOverflow) } else { Fate::Received });
    only(&analysis, Cause::HostStalled);
    assert_eq!(analysis.flows[2].excluded, 25);
}

#[test]
fn what_is_lost_while_a_host_is_busy_is_nobodys_and_the_rest_is_the_paths() {
    // A probe of each flow every 20 ms; the host is busy from the second second to the fourth.
    let busy = |lost: fn(u64) -> bool| {
        let mut run = MadeUp::new(TARGET, true);
        let [tcp, tls, udp, ascii, quic] = run.all_open();
        for flow in [tcp, tls, quic] {
            run.probes(flow, 500, |_| Fate::Received);
        }
        let fate = |n| if lost(n) { Fate::LostUp } else { Fate::Received };
        run.probes(udp, 500, fate).probes(ascii, 500, |n| fate(n + 1));
        let (from, to) = (run.at(2.0), run.at(4.0));
        run.push(Observation::Host(HostEvent { from, to, what: HostFault::Stalled }));
        causes(&judged(run))
    };
    assert_eq!(busy(|n| (100..200).contains(&n) && n % 4 == 0), [Cause::HostStalled]);
    assert_eq!(busy(|n| n % 20 == 3), [Cause::OneWayLoss, Cause::HostStalled]);
}

#[test]
fn altered_records_need_a_constant_place() {
    let altered = |offsets: &[u32]| {
        let mut run = MadeUp::new(TARGET, true);
        let [_, _, udp, _, _] = run.all_open();
        for offset in offsets {
            let at = run.at(1.0);
            run.push(Observation::Rewritten(Rewritten {
                flow: udp,
                at,
                up: Some(true),
                offset: Some(*offset),
            }));
        }
        judged(run)
    };
    assert_eq!(only(&altered(&[40; 3]), Cause::PayloadRewritten).parameters.bytes, Some(40));
    assert_eq!(causes(&altered(&[40; 2])), []);
    only(&altered(&[40, 50, 60]), Cause::Unexplained);
}

/// Sends 6 probes with a TOS byte, which arrive as `got` up and as sent down.
fn marked(count: u64, tos: u8, got: u8) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    run.all_open();
    let marks = run.plan("udp/marks", Carrier::Udp, Dress::Random, Purpose::Marks);
    run.open(marks);
    for seq in 0..count {
        let mut probe = run.probe(marks, seq, Fate::Received);
        if let Some(reply) = &mut probe.reply {
            (reply.tos_sent, reply.tos_up) = (tos, Some(got));
        }
        run.push(Observation::Probe(probe));
    }
    judged(run)
}

#[test]
fn marks_that_change() {
    let analysis = marked(6, 46 << 2, 0);
    let finding = only(&analysis, Cause::DscpRewritten);
    assert_eq!((finding.severity, finding.direction), (Severity::Info, Some(Direction::Up)));
    assert_eq!(finding.parameters.map.as_ref().unwrap()["46"], "0");
    assert!(analysis.verdict.clean);
    only(&marked(6, 2, 0), Cause::EcnBleached);
    assert_eq!(causes(&marked(6, 2, 3)), [], "a mark of congestion");
    assert_eq!(causes(&marked(6, 46 << 2, 46 << 2)), []);
    assert_eq!(causes(&marked(4, 46 << 2, 0)), [], "too few");
}

#[test]
fn inside_the_network_is_a_hairpin() {
    let from = |observed: &str| {
        let mut run = MadeUp::new(TARGET, true);
        for flow in run.all_planned() {
            run.open_as(flow, observed.parse().unwrap());
        }
        judged(run)
    };
    only(&from("192.168.1.1:50000"), Cause::Hairpin);
    only(&from("203.0.113.7:50000"), Cause::Hairpin);
    assert_eq!(causes(&from("198.51.100.4:50000")), []);
    assert_eq!(causes(&from("10.0.0.2:50000")), [], "no translation at all");
}

#[test]
fn reordering_and_duplication_beyond_the_benign() {
    let shuffled = |step: u64, extra: u16| {
        let mut run = MadeUp::new(TARGET, true);
        let [_, _, udp, _, _] = run.all_open();
        for seq in 0..1000 {
            let mut probe = run.probe(udp, seq, Fate::Received);
            if seq % step == 7 {
                probe.extra_replies = extra;
                if let (Some(reply), 0) = (&mut probe.reply, extra) {
                    // Held back at the listener's side for two intervals.
                    let late = std::time::Duration::from_millis(45);
                    (reply.kernel, reply.at, reply.reordered) =
                        (reply.kernel.map(|at| at + late), reply.at + late, true);
                }
            }
            run.push(Observation::Probe(probe));
        }
        judged(run)
    };
    let analysis = shuffled(25, 0);
    let finding = only(&analysis, Cause::Reordering);
    assert_eq!((finding.direction, finding.parameters.number), (Some(Direction::Down), Some(2)));
    assert_eq!(causes(&shuffled(100, 0)), []);
    assert_eq!(only(&shuffled(100, 1), Cause::Duplication).severity, Severity::Info);
    assert_eq!(causes(&shuffled(500, 1)), []);
}

#[test]
fn a_connection_that_dies_is_said_without_a_culprit() {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, ..] = run.all_open();
    run.probes(tcp, 100, |_| Fate::Received).over(tcp, End::Reset);
    let analysis = judged(run);
    assert!(only(&analysis, Cause::Unexplained).evidence.iter().any(|e| e.says.contains("rst-injected")));
}
