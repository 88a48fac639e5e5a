//! What a check alone brings: images beside one another, what the listener says of its own address and of what it could
//! not read, and a proxy.

use std::net::IpAddr;

use super::*;
use crate::observation::{FlowNo, OpeningArrivals, ProxyTried};

/// So many flows of an image, open or not.
fn image(
    run: &mut MadeUp,
    carrier: Carrier,
    dress: Dress,
    count: u32,
    outcome: Option<&Outcome>,
) -> Vec<FlowNo> {
    (0..count)
        .map(|n| {
            let flow =
                run.plan(&format!("{}/{}/{n}", carrier.name(), dress.name()), carrier, dress, Purpose::Trial);
            match outcome {
                None => run.open(flow),
                Some(outcome) => run.attempts(flow, 1, outcome),
            };
            flow
        })
        .collect()
}

/// Five flows of each image: those of QUIC die, and what becomes of the others is given.
fn quic_dies(inverse: Option<&Outcome>, shaped: Option<&Outcome>, random: Option<&Outcome>) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, ascii] = [
        run.plan("tcp", Carrier::Tcp, Dress::Random, Purpose::Steady),
        run.plan("tls", Carrier::Tls, Dress::Random, Purpose::Steady),
        run.plan("udp/ascii", Carrier::Udp, Dress::Ascii, Purpose::Steady),
    ];
    run.open(tcp).open(tls).open(ascii);
    image(&mut run, Carrier::Quic, Dress::Random, 6, Some(&silent()));
    image(&mut run, Carrier::QuicInverse, Dress::Random, 6, inverse);
    image(&mut run, Carrier::Udp, Dress::QuicShaped, 6, shaped);
    image(&mut run, Carrier::Udp, Dress::Random, 6, random);
    judged(run)
}

#[test]
fn quic_is_known_by_its_header_where_its_likeness_dies_too() {
    let by_more = quic_dies(None, None, None);
    assert!(
        only(&by_more, Cause::QuicBlocked).evidence.iter().any(|e| e.says.contains("more than its first"))
    );
    let by_header = quic_dies(None, Some(&silent()), None);
    assert!(only(&by_header, Cause::QuicBlocked).evidence.iter().any(|e| e.says.contains("by its header")));
}

#[test]
fn a_twin_that_only_begins_proves_its_sizes_and_one_that_does_not_begin_proves_nothing() {
    let begun = Outcome::Silent { connected: true };
    only(&quic_dies(Some(&begun), Some(&silent()), None), Cause::QuicBlocked);
    for analysis in [
        quic_dies(Some(&silent()), Some(&silent()), None),
        quic_dies(Some(&begun), Some(&silent()), Some(&silent())),
    ] {
        assert!(!causes(&analysis).contains(&Cause::QuicBlocked), "{:#?}", analysis.findings);
    }
}

/// Four flows of which one has a loss of its own, and the others none or the same.
fn one_loses(fate: impl Fn(u64) -> Fate + Copy, all: bool) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_open();
    let zero = run.plan("udp/zero", Carrier::Udp, Dress::Zero, Purpose::Steady);
    run.open(zero);
    let other = |n: u64| if all { fate(n) } else { Fate::Received };
    for flow in [tcp, tls, quic] {
        run.probes(flow, 1000, |_| Fate::Received);
    }
    run.probes(udp, 1000, fate).probes(ascii, 1000, other).probes(zero, 1000, other);
    judged(run)
}

#[test]
fn what_one_flow_loses_is_not_the_path_s() {
    let tenth = |n: u64| if n % 10 == 3 { Fate::LostUp } else { Fate::Received };
    assert!(!causes(&one_loses(tenth, false)).contains(&Cause::OneWayLoss));
    only(&one_loses(tenth, true), Cause::OneWayLoss);
}

#[test]
fn what_a_dying_flow_loses_is_not_the_path_s() {
    for death in [470, 480, 490, 500] {
        let dies = |n: u64| if n >= death { Fate::LostUp } else { Fate::Received };
        let analysis = one_loses(dies, false);
        assert!(
            !causes(&analysis).iter().any(|c| matches!(c, Cause::OneWayLoss | Cause::LossyPath)),
            "{:#?}",
            analysis.findings
        );
    }
}

/// What the listener said when it was asked.
fn told(listener: Option<&str>, strange: u32, udp: Vec<(FlowNo, u32, u32)>) -> Observation {
    Observation::Arrivals(OpeningArrivals {
        at: MadeUp::new(TARGET, true).at(9.0),
        udp,
        tcp_accepted: None,
        client_hellos: Some(0),
        strange_datagrams: Some(strange),
        listener: listener.and_then(|ip| ip.parse::<IpAddr>().ok()),
    })
}

/// UDP is answered with port unreachable by the address that was aimed at.
fn udp_refused(listener: Option<&str>) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    run.open(tcp).open(tls);
    let refused = Outcome::Refused { by: Some("203.0.113.7".parse().unwrap()) };
    for flow in [udp, ascii, quic] {
        run.attempts(flow, 4, &refused);
    }
    run.push(told(listener, 0, vec![(udp, 0, 8), (ascii, 0, 8)]));
    judged(run)
}

#[test]
fn a_router_that_answers_for_itself_is_told_by_the_listener_s_own_address() {
    let analysis = udp_refused(Some("192.168.1.20"));
    assert_eq!(only(&analysis, Cause::NotForwarded).parameters.kind.as_deref(), Some("udp"));
    // The listener has the very address, or did not tell: it may be its own host.
    only(&udp_refused(Some("203.0.113.7")), Cause::UdpBlocked);
    only(&udp_refused(None), Cause::UdpBlocked);
}

/// A client that the listener sees by its own private address.
fn from_inside(listener: Option<&str>) -> Analysis {
    let mut run = MadeUp::new("8.8.4.4:8886", true);
    for flow in run.all_planned() {
        run.open_as(flow, format!("10.0.0.2:{}", 50_000 + flow.0).parse().unwrap());
    }
    run.push(told(listener, 0, Vec::new()));
    judged(run)
}

#[test]
fn a_private_source_behind_a_translated_target_is_inside() {
    only(&from_inside(Some("10.0.0.7")), Cause::Hairpin);
    // A network without translation, and a listener that does not tell.
    assert_eq!(causes(&from_inside(Some("8.8.4.4"))), []);
    assert_eq!(causes(&from_inside(None)), []);
}

/// Large packets never arrive; of 100 the listener counted some that it could not read.
fn large_ones_lost(strange: u32) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_open();
    for flow in [tcp, tls, udp, ascii, quic] {
        run.probes(flow, 300, |_| Fate::Received);
    }
    let large = run.plan("udp/large", Carrier::Udp, Dress::Random, Purpose::Crossed);
    run.open(large).probes(large, 100, |_| Fate::LostUp);
    run.push(told(None, strange, Vec::new()));
    judged(run)
}

#[test]
fn packets_that_come_unreadable_are_altered_and_not_lost() {
    let analysis = large_ones_lost(100);
    assert_eq!(only(&analysis, Cause::PayloadRewritten).direction, Some(Direction::Up));
    assert!(!causes(&large_ones_lost(50)).contains(&Cause::PayloadRewritten));
}

fn behind_a_proxy(through: bool) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    for flow in run.all_planned() {
        run.attempts(flow, 3, &silent());
    }
    let at = run.at(6.0);
    let says = "the listener's own page came through it".to_owned();
    run.push(Observation::Proxy(ProxyTried { at, proxy: "gate:3128".to_owned(), through, says }));
    judged(run)
}

#[test]
fn a_proxy_that_gets_through_alone_is_named() {
    let finding = behind_a_proxy(true);
    assert_eq!(only(&finding, Cause::ProxyOnly).parameters.reason.as_deref(), Some("gate:3128"));
    only(&behind_a_proxy(false), Cause::Unreachable);
}

/// Twenty-four source ports, of which some never get through.
fn ports(is_dead: impl Fn(u32) -> bool) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_open();
    for flow in [tcp, tls, udp, ascii, quic] {
        run.probes(flow, 300, |_| Fate::Received);
    }
    for n in 0..24 {
        let flow = run.plan(&format!("udp/port/{n}"), Carrier::Udp, Dress::Random, Purpose::Fan);
        if is_dead(n) {
            run.attempts(flow, 1, &silent());
        } else {
            run.open(flow).probes(flow, 50, |_| Fate::Received);
        }
    }
    judged(run)
}

#[test]
fn ports_that_are_dead_all_along_are_a_path_member_s_and_those_at_the_end_are_not() {
    let analysis = ports(|n| n % 4 == 1);
    assert_eq!(only(&analysis, Cause::BadPathMember).parameters.number, Some(6));
    // From some moment on none opens: a limit, a penalty or what else, and no property of a port.
    assert_eq!(causes(&ports(|n| n >= 18)), [Cause::Unexplained]);
    // Three that are thrown in between others are no chance; two may be anything.
    only(&ports(|n| n % 8 == 1), Cause::BadPathMember);
    assert_eq!(causes(&ports(|n| n % 12 == 1)), []);
}

#[test]
fn a_connection_that_hangs_while_others_go_on_is_never_passed_over() {
    let hanging = |lost: u64| {
        let mut run = MadeUp::new(TARGET, true);
        let [tcp, tls, udp, ascii, quic] = run.all_open();
        for flow in [tls, udp, ascii, quic] {
            run.probes(flow, 800, |_| Fate::Received);
        }
        run.probes(tcp, 800, |n| if n < 800 - lost { Fate::Received } else { Fate::LostUp });
        run.over(tcp, End::Finished);
        causes(&judged(run))
    };
    // A probe each 20 ms: 8 s, and 4 s, in which TCP may still be sending again.
    assert_eq!(hanging(400), [Cause::Unexplained]);
    assert_eq!(hanging(200), []);
}

#[test]
fn a_flow_that_falls_silent_beside_others_is_never_passed_over() {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_open();
    for flow in [tcp, tls, udp, ascii, quic] {
        run.probes(flow, 500, |_| Fate::Received);
    }
    let crossed = run.plan("udp/crossed/1", Carrier::Udp, Dress::Random, Purpose::Crossed);
    run.open(crossed).probes(crossed, 500, |n| if n < 200 { Fate::Received } else { Fate::LostUp });
    only(&judged(run), Cause::Unexplained);
}
