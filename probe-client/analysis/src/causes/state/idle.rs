//! `udp-idle-timeout`, `udp-one-way-refresh`, `tcp-idle-timeout`: from ladders of single-use idle gaps.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::lives::rounded;
use crate::causes::{Case, Claim, silent};
use crate::observation::{Death, FlowNo, IdleGap, Purpose, Refresh};

/// Between the end of a gap and the verdict on it lie so many seconds at least, and at most: packets of the listener are
/// waited for, then the client's own are answered or not.
const VERDICT_S: (f64, f64) = (4.0, 25.0);
/// Share of the gaps that were short enough and yet not survived, that chance may have taken.
const BY_CHANCE: f64 = 0.15;

/// A ladder's result: gaps survived up to `low`, none from `high` on.
struct Ladder<'c> {
    low: f64,
    high: f64,
    failed: Vec<&'c IdleGap>,
    survived: usize,
    /// Longer gaps were survived than several that were not: no timeout does that.
    mixed: bool,
}

impl<'c> Ladder<'c> {
    fn of(case: &Case<'c>, stream: bool, refreshed: Refresh) -> Self {
        let silences = if stream { silent(&case.evidence.streams) } else { silent(&case.evidence.datagrams) };
        let rungs: Vec<&IdleGap> = case
            .evidence
            .idle_gaps
            .iter()
            .filter(|gap| gap.refreshed == refreshed && is_stream(case, gap.flow) == Some(stream))
            .collect();
        let survivors: Vec<f64> =
            rungs.iter().filter(|r| r.survived == Some(true)).map(|r| r.gap.as_secs_f64()).collect();
        let low = survivors.iter().copied().fold(0.0, f64::max);
        let lost = rungs.into_iter().filter(|rung| rung.survived == Some(false));
        let (failed, by_chance): (Vec<&IdleGap>, Vec<&IdleGap>) = lost
            .filter(|rung| is_controlled(case, rung, stream, &silences))
            .partition(|rung| rung.gap.as_secs_f64() > low);
        let high = failed.iter().map(|rung| rung.gap.as_secs_f64()).fold(f64::INFINITY, f64::min);
        let mixed = by_chance.len() as f64 > (BY_CHANCE * survivors.len() as f64).max(1.0)
            || failed.is_empty() && !by_chance.is_empty();
        Self { low, high, mixed, failed, survived: survivors.len() }
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

/// Whether it was being idle that the flow died of: a busy one like it, no younger, lived on beyond the gap; the path
/// was not silent when the gap ended; and no host did anything meanwhile.
fn is_controlled(case: &Case<'_>, rung: &IdleGap, stream: bool, silences: &[(f64, f64)]) -> bool {
    let seconds = |at| case.evidence.seconds(at);
    let Some(opened) = case.evidence.flows.get(&rung.flow).and_then(|flow| flow.opened.as_ref()) else {
        return false;
    };
    let (from, to) = (seconds(opened.at), seconds(rung.at));
    let busy = case.flows.iter().any(|(flow, traffic)| {
        let born = flow.opened.as_ref().is_some_and(|opened| seconds(opened.at) <= from);
        let lived = traffic.life.answered.is_some_and(|mark| seconds(mark.at) >= to - VERDICT_S.0);
        flow.plan.purpose != Purpose::Idle && is_stream(case, flow.plan.flow) == Some(stream) && born && lived
    });
    // A reset tells by itself when it was.
    let ended = if rung.how == Some(Death::Reset) { to } else { to - VERDICT_S.1 };
    let silent = silences.iter().any(|(begin, end)| *begin < to && *end > ended.max(from));
    busy && !silent && !case.host_left_alone(from, to)
}

pub(in crate::causes) fn udp(case: &Case<'_>) -> Vec<Claim> {
    timeout(case, false, Cause::UdpIdleTimeout).into_iter().collect()
}

pub(in crate::causes) fn tcp(case: &Case<'_>) -> Vec<Claim> {
    timeout(case, true, Cause::TcpIdleTimeout).into_iter().collect()
}

fn timeout(case: &Case<'_>, stream: bool, cause: Cause) -> Option<Claim> {
    let ladder = Ladder::of(case, stream, Refresh::None);
    // Nothing failed, or so little that chance takes it.
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
    let (direction, loser) = if !idle.is_told() {
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
