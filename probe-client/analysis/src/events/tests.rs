use std::time::Duration;

use super::*;
use crate::analyse;
use crate::evidence::Evidence;
use crate::made_up::{Night, Weather};
use crate::model::{Event, Recovery};
use crate::observation::{FlowEnded, ListenerRestarted, Watch};

/// A quiet night of some minutes, changed on its way.
fn events(minutes: u64, change: impl Fn(&mut Observation) -> bool) -> Vec<Event> {
    let mut evidence = Evidence::default();
    for mut observation in Night::new(Weather::Clean, 10, Duration::from_secs(60 * minutes), 5) {
        if change(&mut observation) {
            evidence.observe(&observation);
        }
    }
    analyse(&evidence).events
}

fn at(seconds: f64) -> Timestamp {
    Night::start() + Duration::from_secs_f64(seconds)
}

/// Loses the probes of some flows that are sent within a window; tells whether the observation is to be kept.
fn lose(observation: &mut Observation, flows: std::ops::Range<u32>, from: f64, to: f64, fate: Fate) {
    if let Observation::Probe(probe) = observation
        && flows.contains(&probe.flow.0)
        && probe.sent >= at(from)
        && probe.sent < at(to)
    {
        probe.fate = fate;
        probe.reply = None;
    }
}

#[test]
fn a_quiet_night_has_no_events() {
    assert_eq!(events(5, |_| true), []);
}

#[test]
fn what_silences_all_flows_at_once_is_one_outage_with_its_edges() {
    let events = events(5, |o| {
        lose(o, 0..10, 100.0, 120.0, Fate::LostUp);
        true
    });
    let [outage] = &events[..] else { panic!("{events:#?}") };
    assert_eq!((outage.kind, outage.flows.len()), ("outage", 10));
    // Ten flows with a hundred probes a second in all tell the edges to within some of those.
    assert!((99.9..=100.1).contains(&outage.from_s) && (119.9..=120.1).contains(&outage.to_s), "{outage:?}");
    assert!(outage.lost.is_some_and(|lost| (1950..=2050).contains(&lost)), "{outage:?}");
    assert_eq!(outage.direction, Some(probe_protocol::finding::Direction::Up));
    assert_eq!(outage.cause, Some(probe_protocol::cause::Cause::Outage));
    assert_eq!(outage.recovery, Some(Recovery::ByItself));
    let meanwhile = outage.meanwhile.as_ref().unwrap();
    assert_eq!((meanwhile.gateway_silent, meanwhile.other_flows_answered), (Some(0), 0));
}

#[test]
fn connections_that_bring_everything_late_are_no_witnesses_of_a_path_that_was_alive() {
    let outage = |late: bool| {
        let events = events(5, |o| {
            for datagrams in [0..3, 5..8] {
                lose(o, datagrams, 100.0, 120.0, Fate::LostUp);
            }
            if let Observation::Probe(probe) = o
                && late
                && matches!(probe.flow.0 % 5, 3 | 4)
                && (at(100.0)..at(120.0)).contains(&probe.sent)
                && let Some(reply) = &mut probe.reply
            {
                reply.at = at(123.0);
            }
            true
        });
        events.into_iter().find(|event| event.lost.is_some()).unwrap()
    };
    let whole = outage(true);
    assert_eq!((whole.kind, whole.flows.len()), ("outage", 6), "{whole:?}");
    assert_eq!(whole.cause, Some(probe_protocol::cause::Cause::Outage));
    assert_eq!(whole.meanwhile.unwrap().other_flows_answered, 0);
    // Its twin: the connections are answered at once.
    let datagrams = outage(false);
    assert_eq!((datagrams.kind, datagrams.cause), ("silence", None), "{datagrams:?}");
    assert_eq!(datagrams.meanwhile.unwrap().other_flows_answered, 4);
}

#[test]
fn those_that_never_recover_from_an_outage_are_told_beside_it() {
    let events = events(5, |o| {
        lose(o, 0..10, 100.0, 106.0, Fate::LostUp);
        lose(o, 2..3, 100.0, 1000.0, Fate::LostUp);
        true
    });
    let [outage, dead] = &events[..] else { panic!("{events:#?}") };
    assert_eq!((outage.kind, outage.flows.len()), ("outage", 9));
    assert!((5.9..=6.1).contains(&(outage.to_s - outage.from_s)), "{outage:?}");
    assert_eq!((dead.kind, &dead.flows[..]), ("silence", &["quic/old-2".to_owned()][..]));
    assert_eq!(dead.recovery, Some(Recovery::Not));
}

#[test]
fn an_outage_with_the_gateway_gone_is_the_local_networks() {
    let events = events(5, |o| {
        lose(o, 0..10, 100.0, 120.0, Fate::LostUnknown);
        if let Observation::Watch(Watch { at: moment, gateway: Some(gateway), .. }) = o
            && *moment >= at(100.0)
            && *moment < at(120.0)
        {
            gateway.reachable = false;
        }
        true
    });
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].cause, Some(probe_protocol::cause::Cause::LocalNetwork));
}

#[test]
fn what_silences_some_flows_is_theirs_alone() {
    let events = events(5, |o| {
        lose(o, 3..5, 100.0, 1000.0, Fate::LostUp);
        true
    });
    let [silence] = &events[..] else { panic!("{events:#?}") };
    assert_eq!((silence.kind, silence.cause), ("silence", None));
    assert_eq!(silence.flows, ["tcp/old-3", "tls/old-4"]);
    assert_eq!(silence.recovery, Some(Recovery::Not));
    assert_eq!(silence.meanwhile.as_ref().unwrap().other_flows_answered, 8);
}

#[test]
fn two_outages_are_two_although_one_flow_was_dead_through_both() {
    let events = events(6, |o| {
        lose(o, 0..1, 50.0, 340.0, Fate::LostUp);
        lose(o, 0..10, 100.0, 120.0, Fate::LostUp);
        lose(o, 0..10, 200.0, 230.0, Fate::LostDown);
        true
    });
    let kinds: Vec<&str> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["silence", "outage", "outage"], "{events:#?}");
}

#[test]
fn a_restart_of_the_listener_is_named_as_the_cause() {
    let events = events(5, |o| {
        lose(o, 0..10, 100.0, 104.0, Fate::LostUnknown);
        if let Observation::Watch(watch) = o
            && watch.at == at(104.0)
        {
            *o = Observation::ListenerRestarted(ListenerRestarted {
                last_seen: at(100.0),
                at: at(104.0),
                old: 7,
                new: 8,
            });
        }
        true
    });
    let outage = events.iter().find(|event| event.kind == "outage").unwrap();
    assert_eq!(outage.cause, Some(probe_protocol::cause::Cause::ListenerRestarted));
    assert_eq!(outage.recovery, Some(Recovery::ListenerRestart));
}

#[test]
fn scattered_loss_is_no_event_and_a_burst_of_it_is() {
    let scattered = events(5, |o| {
        if let Observation::Probe(probe) = o
            && probe.seq % 40 == 3
        {
            probe.fate = Fate::LostUp;
            probe.reply = None;
        }
        true
    });
    assert_eq!(scattered, []);
    let burst = events(5, |o| {
        if let Observation::Probe(probe) = o
            && probe.seq % 3 == 0
        {
            lose(o, 2..3, 100.0, 110.0, Fate::LostDown);
        }
        true
    });
    let [loss] = &burst[..] else { panic!("{burst:#?}") };
    assert_eq!(loss.kind, "loss");
    assert!(loss.lost.is_some_and(|lost| (30..=36).contains(&lost)), "{loss:?}");
}

#[test]
fn a_shift_of_the_delay_is_one_event_of_all_its_flows_and_noise_is_none() {
    let slower = |from: f64, to: f64, by: u64| {
        events(10, move |o| {
            if let Observation::Probe(probe) = o
                && probe.sent >= at(from)
                && probe.sent < at(to)
                && let Some(reply) = &mut probe.reply
            {
                let by = Duration::from_millis(by);
                reply.at += by;
                if let Some(kernel) = &mut reply.kernel {
                    *kernel += by;
                }
            }
            true
        })
    };
    let shifted = slower(200.0, 300.0, 40);
    let [shift] = &shifted[..] else { panic!("{shifted:#?}") };
    assert_eq!((shift.kind, shift.flows.len()), ("delay-shift", 10));
    assert!((195.0..=205.0).contains(&shift.from_s) && (290.0..=305.0).contains(&shift.to_s), "{shift:?}");
    assert!(shift.says.contains("went back"), "{}", shift.says);
    // A shift that stays, and one that is too small.
    assert_eq!(slower(200.0, 2000.0, 40).len(), 1);
    assert_eq!(slower(200.0, 300.0, 4), []);
}

#[test]
fn a_night_of_troubles_stays_within_its_bounds() {
    let mut ledger = Ledger::default();
    for observation in Night::new(Weather::Lossy, 10, Duration::from_secs(60), 5) {
        ledger.observe(&observation);
    }
    for number in 0..3000 {
        let flow = FlowNo(number);
        for seq in 0..8 {
            let sent = at(f64::from(number) + seq as f64 / 10.0);
            ledger.observe(&Observation::Probe(Probe {
                flow,
                seq,
                scheduled: sent,
                sent,
                size: 100,
                fate: Fate::LostUp,
                reply: None,
                extra_replies: 0,
            }));
        }
        let ended = FlowEnded { flow, at: at(0.0), end: crate::observation::End::TimedOut };
        ledger.observe(&Observation::FlowEnded(ended));
    }
    assert!(ledger.bursts().len() <= MAX_EPISODES);
    assert!(ledger.dropped() > 0);
}
