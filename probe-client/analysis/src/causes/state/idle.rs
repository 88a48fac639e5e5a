//! `udp-idle-timeout`, `udp-one-way-refresh`, `tcp-idle-timeout`: from ladders of single-use idle gaps.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::lives::rounded;
use crate::causes::{Case, Claim};
use crate::observation::{Death, FlowNo, IdleGap, Refresh};

/// A ladder's result: gaps survived up to `low`, none from `high` on.
struct Ladder<'c> {
    low: f64,
    high: f64,
    failed: Vec<&'c IdleGap>,
    survived: usize,
    /// A longer gap was survived than one that was not: no timeout does that.
    mixed: bool,
}

impl<'c> Ladder<'c> {
    fn of(case: &'c Case<'_>, stream: bool, refreshed: Refresh) -> Self {
        let rungs = case
            .evidence
            .idle_gaps
            .iter()
            .filter(|gap| gap.refreshed == refreshed && is_stream(case, gap.flow) == Some(stream));
        let (mut low, mut high, mut failed, mut survived) = (0.0f64, f64::INFINITY, Vec::new(), 0);
        for rung in rungs {
            let gap = rung.gap.as_secs_f64();
            match rung.survived {
                Some(true) => {
                    low = low.max(gap);
                    survived += 1;
                }
                Some(false) => {
                    high = high.min(gap);
                    failed.push(rung);
                }
                None => {}
            }
        }
        Self { low, high, mixed: low >= high, failed, survived }
    }

    fn timeout(&self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    fn names(&self, case: &Case<'_>) -> Vec<String> {
        self.failed.iter().map(|gap| case.evidence.name(gap.flow)).collect()
    }

    /// Several rungs failed and a shorter one did not: chance takes one, not all above a gap.
    fn is_told(&self) -> bool {
        !self.mixed && self.failed.len() >= 2 && self.survived >= 1
    }
}

fn is_stream(case: &Case<'_>, flow: FlowNo) -> Option<bool> {
    let carrier = case.evidence.flows.get(&flow)?.plan.carrier;
    Some(matches!(carrier, Carrier::Tcp | Carrier::Tls))
}

pub(in crate::causes) fn udp(case: &Case<'_>) -> Vec<Claim> {
    timeout(case, false, Cause::UdpIdleTimeout).into_iter().collect()
}

pub(in crate::causes) fn tcp(case: &Case<'_>) -> Vec<Claim> {
    timeout(case, true, Cause::TcpIdleTimeout).into_iter().collect()
}

fn timeout(case: &Case<'_>, stream: bool, cause: Cause) -> Option<Claim> {
    let ladder = Ladder::of(case, stream, Refresh::None);
    if ladder.failed.is_empty() {
        return None;
    }
    let kind = match ladder.failed.iter().filter_map(|gap| gap.how).max() {
        Some(Death::Moved) => "moved",
        Some(Death::Reset) => "reset",
        Some(Death::Silent) | None => "silent",
    };
    let says = format!(
        "{} {} survived being left alone for up to {:.1} s, and none of {} survived {:.1} s or more ({kind})",
        ladder.survived,
        if stream { "connections" } else { "flows" },
        ladder.low,
        ladder.failed.len(),
        ladder.high
    );
    Some(
        Claim::new(cause, Side::Path)
            .probability(if ladder.is_told() { 0.98 } else { 0.8 })
            .parameters(Parameters {
                timeout_s: Some(rounded(ladder.timeout(), 2)),
                kind: Some(kind.to_owned()),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: ladder.names(case),
                says,
                test: Some("ladder of single-use gaps beside fresh flows".to_owned()),
                ..Evidence::default()
            })
            .rather_than(Cause::LossyPath, "fresh flows got through at the moment when these no longer did")
            .or([], "more gaps near the shortest that was not survived"),
    )
}

pub(in crate::causes) fn one_way(case: &Case<'_>) -> Vec<Claim> {
    let idle = Ladder::of(case, false, Refresh::None);
    let (up, down) = (Ladder::of(case, false, Refresh::Up), Ladder::of(case, false, Refresh::Down));
    // The mapping is forgotten when nobody sends; one side keeps it far beyond that time, the other does not.
    let keeps = |ladder: &Ladder<'_>| ladder.failed.is_empty() && ladder.low > idle.high;
    let loses = |ladder: &Ladder<'_>| ladder.failed.iter().any(|gap| gap.gap.as_secs_f64() >= idle.high);
    let (direction, loser) = if idle.failed.is_empty() || idle.mixed {
        return Vec::new();
    } else if keeps(&up) && loses(&down) {
        (Direction::Up, &down)
    } else if keeps(&down) && loses(&up) {
        (Direction::Down, &up)
    } else {
        return Vec::new();
    };
    let who = if direction == Direction::Up { "this client" } else { "the listener" };
    let says = format!(
        "what {who} alone sends keeps the mapping alive beyond {:.0} s; what the other side alone sends does not ({} of {} \
         flows were forgotten)",
        idle.timeout(),
        loser.failed.len(),
        loser.failed.len() + loser.survived
    );
    vec![
        Claim::new(Cause::UdpOneWayRefresh, Side::Path)
            .direction(direction)
            .probability(0.97)
            .parameters(Parameters { timeout_s: Some(rounded(idle.timeout(), 2)), ..Parameters::default() })
            .because(Evidence {
                flows: loser.names(case),
                says,
                test: Some("ladders refreshed from each side alone".to_owned()),
                ..Evidence::default()
            })
            .rather_than(Cause::UdpIdleTimeout, "the flows were not idle: one side went on sending"),
    ]
}
