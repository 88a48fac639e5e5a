//! From an analysis to the report's model.

use jiff::{Timestamp, Unit};
use probe_analysis::Analysis;
use probe_analysis::model as judged;
use probe_analysis::words;
use probe_protocol::time::WallTime;

use super::model::{Advice, Event, NotExamined, Report, Run, SCHEMA_VERSION, Tool};

/// What a report says of a run that the analysis does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The session's id.
    pub id: Option<String>,
    /// The command.
    pub kind: &'static str,
    /// The target's port.
    pub port: u16,
    /// Only reachability was asked for.
    pub quick: bool,
}

/// Builds the report.
pub fn build(analysis: Analysis, origin: Origin) -> Report {
    let not_examined = not_examined(&analysis, &origin);
    let run = analysis.run;
    let advice = analysis.findings.iter().map(|finding| Advice {
        cause: finding.cause,
        says: words::sentence(&words::headline(finding, origin.port)),
        who: words::who(finding).to_owned(),
        message: words::message(finding, &run.target, origin.port),
    });
    Report {
        schema_version: SCHEMA_VERSION,
        tool: Tool { name: "probe-client".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        advice: advice.collect(),
        run: Run {
            id: origin.id,
            kind: origin.kind.to_owned(),
            started: run.started.and_then(rfc3339),
            duration_s: run.duration_s,
            target: run.target,
            client_observed_as: run.client_observed_as,
            complete: run.complete,
            invited: run.invited,
            authenticated: run.authenticated,
            measured: run.measured,
            local: run.local,
            listener_version: run.listener_version,
        },
        verdict: analysis.verdict,
        refused: analysis.refused,
        reachability: analysis.reachability,
        reachability_by_address: analysis.reachability_by_address,
        findings: analysis.findings,
        path: analysis.path,
        flows: analysis.flows,
        groups: analysis.groups,
        events: analysis.events.into_iter().map(event).collect(),
        transfers: analysis.transfers,
        under_load: analysis.under_load,
        unlimited: analysis.unlimited,
        path_mtu: analysis.path_mtu,
        clock: analysis.clock,
        instrument: analysis.instrument,
        not_examined,
    }
}

fn event(event: judged::Event) -> Event {
    Event {
        kind: event.kind.to_owned(),
        from: event.from.and_then(rfc3339),
        to: event.to.and_then(rfc3339),
        from_s: event.from_s,
        to_s: event.to_s,
        flows: event.flows,
        direction: event.direction,
        lost: event.lost,
        cause: event.cause,
        length_s: ((event.to_s - event.from_s) * 1000.0).round() / 1000.0,
        recovery: event.recovery,
        meanwhile: event.meanwhile,
        says: event.says,
    }
}

/// To the millisecond; none outside of the years that a calendar has.
fn rfc3339(wall: WallTime) -> Option<String> {
    let time = Timestamp::from_nanosecond(i128::from(wall.0)).ok()?;
    Some(time.round(Unit::Millisecond).ok()?.to_string())
}

/// Flows of the ladder of concurrent flows, which `--full` alone opens.
const CONCURRENT: &str = "udp/concurrent/";

fn not_examined(analysis: &Analysis, origin: &Origin) -> Vec<NotExamined> {
    let mut list = Vec::new();
    let mut add =
        |what: &str, why: &str| list.push(NotExamined { what: what.to_owned(), why: why.to_owned() });
    if !analysis.run.measured {
        return list;
    }
    if origin.quick {
        add("loss, delay, marks and packet sizes", "--quick stops after reachability");
    } else if analysis.run.authenticated == Some(false) {
        add("more than a short check", "without an invite the listener allows no more");
    }
    if origin.kind == "soak" {
        add("high rates", "a soak sends at a slow rate alone");
    } else {
        if analysis.under_load.is_empty() && analysis.transfers.is_empty() {
            add("high rates", "there was no load: it takes an invite, and neither --quick nor --no-load");
        }
        let full = analysis.flows.iter().any(|flow| flow.id.starts_with(CONCURRENT));
        if full {
            add("what happens to connections after hours", "`check --full` ends within a quarter of an hour");
        } else {
            add(
                "what happens to connections after minutes or hours, or after a pause",
                "a check ends within a minute: `check --full` or `soak` takes longer",
            );
            add(
                "how many connections may be open at the same time (flow-limit)",
                "it is a load on the path's tables, which `check --full` alone lays on it",
            );
        }
    }
    if !origin.quick {
        let closed = |reach: judged::Reach| reach != judged::Reach::Open && reach != judged::Reach::NotTested;
        if closed(analysis.reachability.udp) {
            add(
                "loss, marks, packet sizes, and what is done to datagrams later in their life",
                "no datagrams get through",
            );
        }
        if closed(analysis.reachability.tcp) {
            add("what is done to TCP connections later in their life", "no TCP connection opens");
        }
    }
    if !origin.quick && !analysis.instrument.kernel_timestamps {
        add(
            "delay as the wire saw it",
            "there were no kernel timestamps at both ends; the application's clock was used",
        );
    }
    if analysis.run.local || origin.kind == "analyze" {
        return list;
    }
    add(
        "whether the site's address translation differs by destination (symmetric-nat)",
        "the target has one address of each family and one port: it takes two destinations to compare",
    );
    add(
        "the listener's own host: its firewall, its router's address, who has the port, the licence server (os-firewall, \
         carrier-nat, port-in-use, egress-blocked, egress-name-not-found, egress-intercepted)",
        "only `probe-server doctor` on that host can see it",
    );
    add(
        "which box on the way sent a reset or dropped a connection's first packet",
        "it takes privileges to see the resets' TTL and the packets themselves",
    );
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(WallTime(1_769_896_800_000_000_000)).as_deref(), Some("2026-01-31T22:00:00Z"));
        assert_eq!(rfc3339(WallTime(1_769_896_800_123_456_789)).as_deref(), Some("2026-01-31T22:00:00.123Z"));
        assert!(rfc3339(WallTime(i64::MAX)).is_some_and(|text| text.starts_with("2262")));
    }
}
