//! What was judged of a trace, in the shape of every other analysis.

use probe_protocol::DEFAULT_PORT;
use probe_protocol::finding::{Direction, Severity};

use super::{FlowCounts, Judged, Silence, Transport};
use crate::model::{Analysis, Event, FlowSummary, Instrument, Lost, Reachability, RunFacts, Verdict};
use crate::words;

/// Flows that are listed; the others are in the findings alone.
const LISTED: usize = 64;
/// Silences that are listed as events.
const EVENTS: usize = 256;

impl Judged {
    /// The analysis of the trace called `target`; `name` names its flows.
    pub fn into_analysis(self, target: &str, name: impl Fn(u32) -> String) -> Analysis {
        let run = RunFacts {
            target: target.to_owned(),
            duration_s: (self.duration_s * 1e3).round() / 1e3,
            complete: true,
            measured: self.rows > 0,
            ..RunFacts::default()
        };
        let mut flows = self.flows.clone();
        flows.sort_by_key(|(_, _, counts)| std::cmp::Reverse(counts.sent));
        flows.truncate(LISTED);
        flows.sort_by_key(|(flow, direction, _)| (*flow, *direction));
        let single = self.flows.len() <= 1;
        Analysis {
            verdict: verdict(&self),
            refused: None,
            reachability: Reachability::default(),
            reachability_by_address: Vec::new(),
            path: None,
            groups: Vec::new(),
            flows: flows
                .iter()
                .map(|(flow, direction, counts)| {
                    let reordered =
                        self.reordered.iter().filter(|(d, _)| single && d == direction).map(|r| r.1).sum();
                    summary(name(*flow), *direction, counts, reordered)
                })
                .collect(),
            events: self.silences.iter().take(EVENTS).map(|(d, s)| event(*d, s)).collect(),
            transfers: Vec::new(),
            under_load: Vec::new(),
            unlimited: Vec::new(),
            path_mtu: Vec::new(),
            clock: None,
            instrument: Instrument::default(),
            findings: self.findings,
            run,
        }
    }
}

fn verdict(judged: &Judged) -> Verdict {
    let bad: Vec<_> = judged.findings.iter().filter(|f| f.severity >= Severity::Degraded).collect();
    let summary = match bad.as_slice() {
        [] => {
            let info = judged.findings.first().map(|f| format!("; {}", words::headline(f, DEFAULT_PORT)));
            format!("nothing wrong was found in {} packets{}", judged.rows, info.unwrap_or_default())
        }
        [first] => words::headline(first, DEFAULT_PORT),
        [first, _] => format!("{}, and one more problem was found", words::headline(first, DEFAULT_PORT)),
        [first, rest @ ..] => {
            format!("{}, and {} more problems were found", words::headline(first, DEFAULT_PORT), rest.len())
        }
    };
    Verdict {
        clean: judged.rows > 0 && bad.is_empty(),
        summary: words::capital(&summary),
        worst: judged.findings.iter().map(|f| f.severity).max(),
    }
}

fn summary(id: String, direction: Option<Direction>, counts: &FlowCounts, reordered: u64) -> FlowSummary {
    let lost = match direction {
        Some(Direction::Up) => Lost { up: counts.lost, ..Lost::default() },
        Some(Direction::Down) => Lost { down: counts.lost, ..Lost::default() },
        Some(Direction::Both) | None => Lost { unknown: counts.lost, ..Lost::default() },
    };
    let transport = match counts.transport {
        Some(Transport::Tcp) => "tcp",
        Some(Transport::Udp) => "udp",
        None => "unknown",
    };
    FlowSummary {
        id: match direction {
            Some(Direction::Up) => format!("{id} up"),
            Some(Direction::Down) => format!("{id} down"),
            Some(Direction::Both) | None => id,
        },
        transport: transport.to_owned(),
        image: "trace".to_owned(),
        destination: "unknown".to_owned(),
        source: None,
        observed_as: None,
        started_s: (counts.from_s * 1e3).round() / 1e3,
        ended_s: Some((counts.to_s * 1e3).round() / 1e3),
        end: None,
        size_bytes: u16::try_from(counts.longest).unwrap_or(u16::MAX),
        interval_ms: None,
        sent: counts.sent,
        received: counts.sent - counts.lost,
        duplicates: 0,
        reordered,
        lost,
        excluded: 0,
        rtt_us: None,
        rtt_application_us: None,
        ipdv_up_us: None,
        ipdv_down_us: None,
        jitter_rfc3550_us: None,
        jitter_up_rfc3550_us: None,
        one_way_us: None,
        reordering: None,
        loss_periods: None,
        ttl_up: None,
        ttl_down: None,
        marks: Vec::new(),
        datagrams: None,
        tcp_retransmits: None,
    }
}

fn event(direction: Option<Direction>, silence: &Silence) -> Event {
    Event {
        kind: "loss",
        from_s: (silence.from * 1e3).round() / 1e3,
        to_s: (silence.to * 1e3).round() / 1e3,
        from: None,
        to: None,
        flows: Vec::new(),
        direction,
        lost: Some(silence.lost),
        cause: None,
        recovery: None,
        meanwhile: None,
        says: format!("all {} packets were lost", silence.lost),
    }
}
