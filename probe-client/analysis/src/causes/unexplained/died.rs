//! Open connections that were cut before their time: one riddle for all that were cut alike.

use std::collections::BTreeMap;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, lives};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::{End, FlowNo, Purpose};

/// How a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    Reset,
    Closed,
    TimedOut,
}

impl Cut {
    fn of(end: &End, carrier: Carrier) -> Option<Self> {
        match (end, carrier) {
            (End::Reset, _) => Some(Self::Reset),
            (End::Closed, Carrier::Tcp | Carrier::Tls) => Some(Self::Closed),
            (End::TimedOut, Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse) => {
                Some(Self::TimedOut)
            }
            // A silent UDP flow is told by its silence.
            (End::TimedOut, Carrier::Udp)
            | (End::Closed, Carrier::Udp | Carrier::Quic | Carrier::QuicInverse)
            | (End::Finished | End::NeverOpened | End::ListenerRestarted | End::Error(_), _) => None,
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Closed => "closed by the other end",
            Self::TimedOut => "silent for good",
        }
    }

    fn candidates(self) -> Vec<Cause> {
        match self {
            Self::Reset => vec![Cause::RstInjected],
            Self::Closed => vec![Cause::TcpProxied],
            Self::TimedOut => {
                vec![Cause::FlowKilledByAge, Cause::FlowKilledByBytes, Cause::FlowKilledByPackets]
            }
        }
    }
}

/// One that was cut: its age then, and when that was.
struct Victim<'c> {
    flow: &'c FlowEvidence,
    traffic: &'c Traffic,
    age_s: f64,
    from_s: f64,
    to_s: f64,
}

pub(super) fn detect(case: &Case<'_>, explained: &dyn Fn(FlowNo) -> bool) -> Vec<Claim> {
    let mut cut: BTreeMap<(Cut, bool), Vec<Victim<'_>>> = BTreeMap::new();
    for (flow, traffic) in &case.flows {
        let (Some(opened), Some(ended)) = (&flow.opened, &flow.ended) else { continue };
        // One that hung was let go of long after its death.
        let hung = lives::hung(case, flow, traffic);
        let end = traffic.life.answered.filter(|_| hung).map_or(ended.at, |answered| answered.at);
        let at = case.evidence.seconds(end);
        // What was left alone on purpose is its ladder's to judge.
        let judged = explained(flow.plan.flow) || flow.plan.purpose == Purpose::Idle;
        let cut_off = Cut::of(&ended.end, flow.plan.carrier).or(hung.then_some(Cut::TimedOut));
        let Some(how) = cut_off else { continue };
        if judged || case.host_acted(at - 5.0, at) {
            continue;
        }
        let stream = matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls);
        cut.entry((how, stream)).or_default().push(Victim {
            flow,
            traffic,
            age_s: end.since(opened.at).as_secs_f64(),
            from_s: case.evidence.seconds(opened.at),
            to_s: at,
        });
    }
    cut.into_iter().map(|((how, _), victims)| riddle(how, &victims)).collect()
}

fn riddle(how: Cut, victims: &[Victim<'_>]) -> Claim {
    let mut ages: Vec<f64> = victims.iter().map(|victim| victim.age_s).collect();
    ages.sort_by(f64::total_cmp);
    let (youngest, oldest) = (ages.first().copied().unwrap_or(0.0), ages.last().copied().unwrap_or(0.0));
    let says = match victims {
        [one] => format!(
            "{} was {} after {:.1} s, {} packets and {} bytes",
            one.flow.plan.name,
            how.says(),
            one.age_s,
            one.traffic.sent,
            one.traffic.bytes
        ),
        many => format!(
            "{} connections were {}, {youngest:.1} s to {oldest:.1} s after they had opened",
            many.len(),
            how.says()
        ),
    };
    let single = (victims.len() == 1).then(|| &victims[0]);
    Claim::new(Cause::Unexplained, Side::PathOrEndpoint)
        .probability(0.9)
        .because(Evidence {
            flows: victims.iter().map(|victim| victim.flow.plan.name.clone()).collect(),
            from_s: victims.iter().map(|victim| victim.from_s).min_by(f64::total_cmp),
            to_s: victims.iter().map(|victim| victim.to_s).max_by(f64::total_cmp),
            says,
            ..Evidence::default()
        })
        .parameters(Parameters {
            age_s: single.map(|one| (one.age_s * 1000.0).round() / 1000.0),
            packets: single.map(|one| one.traffic.sent),
            bytes: single.map(|one| one.traffic.bytes),
            number: Some(victims.len() as u64),
            ..Parameters::default()
        })
        .or(how.candidates(), "several flows of each kind, of different ages and rates")
}
