//! Both ends in one process over loopback, without namespaces: what a fresh machine can run.

use std::collections::BTreeMap;

use probe_analysis::observation::{Fate, FlowNo, Observation, Outcome};
use probe_client::check::{Order, prepare};
use probe_client::driver::Stop;
use probe_client::plan::Depth;
use probe_protocol::wire::hello::Carrier;

#[test]
fn every_flow_opens_and_every_probe_has_one_fate() {
    let prepared =
        prepare(Order { target: None, depth: Depth::Normal, load_bps: None, stop: Stop::default() }).unwrap();
    let at_least = prepared.plan().flows.len();
    let mut seen = Vec::new();
    let mut measured = prepared.run(&mut |o, _| seen.push(o)).unwrap();
    let kept = measured.hand_in(b"a verdict", &mut |o, _| seen.push(o));
    measured.finish();

    let told = |o: &&Observation| !matches!(o, Observation::Probe(_) | Observation::Missed(_));
    let story = || seen.iter().filter(told).map(|o| format!("{o:?}\n")).collect::<String>();
    let opened = seen.iter().filter(|o| matches!(o, Observation::FlowOpened(_))).count();
    // Repeats bring more than those that the plan lists.
    let planned: Vec<_> = seen
        .iter()
        .filter_map(|o| if let Observation::FlowPlanned(flow) = o { Some(flow) } else { None })
        .collect();
    assert!(planned.len() > at_least, "{} flows of {at_least} and more", planned.len());
    assert_eq!(opened, planned.len(), "{}", story());
    for o in &seen {
        if let Observation::Attempt(attempt) = o {
            assert_eq!(attempt.outcome, Outcome::Opened, "{}", story());
        }
        if let Observation::Channel(channel) = o {
            assert_eq!(channel.same_exporter, Some(true));
            assert_eq!(channel.expected, Some(channel.fingerprint));
        }
        if let Observation::Datagrams(counts) = o {
            assert!(counts.sent_up >= 40 && counts.sent_down >= 40, "{counts:?}");
            assert_eq!((counts.lost_up, counts.lost_down), (0, 0), "{counts:?}");
        }
    }
    let quic = seen.iter().filter(|o| matches!(o, Observation::Datagrams(_))).count();
    let over_quic = |c| matches!(c, Carrier::Quic | Carrier::QuicInverse);
    let wanted = planned.iter().filter(|flow| over_quic(flow.carrier)).count();
    assert!(wanted >= 2);
    assert_eq!(quic, wanted, "QUIC and its inverse are counted at their sockets\n{}", story());

    let mut fates: BTreeMap<FlowNo, Vec<(u64, Fate)>> = BTreeMap::new();
    for o in &seen {
        if let Observation::Probe(probe) = o {
            fates.entry(probe.flow).or_default().push((probe.seq, probe.fate));
        }
    }
    assert_eq!(fates.len(), planned.len());
    for (flow, probes) in &fates {
        // Numbers without a gap, each once.
        assert!(probes.iter().map(|p| p.0).eq(0..probes.len() as u64), "{flow:?}");
        let lost: Vec<_> = probes.iter().filter(|p| p.1 != Fate::Received).collect();
        assert!(lost.is_empty(), "{flow:?} {lost:?}\n{}", story());
    }
    assert!(kept, "the listener keeps the verdict\n{}", story());
}
