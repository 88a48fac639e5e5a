//! `flow-killed-by-packets`, `flow-killed-by-bytes`, `flow-killed-by-age` and `policy-push`: flows of datagrams die while
//! others live. Which it is, is told by what all deaths have in common: flows of crossed rates, sizes and starts agree in
//! one of the four alone.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use crate::causes::lives::{Agreement, Between, Death, Lives, rounded};
use crate::causes::{Case, Claim, thresholds};
use crate::summarise::wall_of;

/// What all deaths may have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Packets,
    Bytes,
    Age,
    Moment,
}

const MEASURES: [Measure; 4] = [Measure::Packets, Measure::Bytes, Measure::Age, Measure::Moment];

impl Measure {
    const fn cause(self) -> Cause {
        match self {
            Self::Packets => Cause::FlowKilledByPackets,
            Self::Bytes => Cause::FlowKilledByBytes,
            Self::Age => Cause::FlowKilledByAge,
            Self::Moment => Cause::PolicyPush,
        }
    }

    fn of(self, death: &Death<'_>) -> Between {
        match self {
            Self::Packets => death.packets,
            Self::Bytes => death.bytes,
            Self::Age => death.age,
            Self::Moment => death.moment,
        }
    }

    /// How far a value may be off in each flow: a packet or two that chance took.
    fn slack(self, deaths: &[&Death<'_>]) -> f64 {
        let gap = deaths.iter().map(|d| d.moment.high - d.moment.low).fold(0.0, f64::max);
        match self {
            Self::Packets => 2.0,
            Self::Bytes => 2.0 * 1500.0,
            Self::Age | Self::Moment => gap.max(0.1),
        }
    }

    fn says(self, value: f64) -> String {
        match self {
            Self::Packets => format!("after {value:.0} packets"),
            Self::Bytes => format!("after {value:.0} bytes"),
            Self::Age => format!("at an age of {value:.1} s"),
            Self::Moment => format!("at {value:.1} s of the run"),
        }
    }
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let lives = Lives::of(case);
    let mut claims = Vec::new();
    for up in [true, false] {
        let deaths: Vec<&Death<'_>> = lives.dead.iter().filter(|death| death.up == up).collect();
        claims.extend(judge(case, &lives, &deaths, up));
    }
    claims
}

fn judge(case: &Case<'_>, lives: &Lives<'_>, deaths: &[&Death<'_>], up: bool) -> Option<Claim> {
    // Of one image alone it is a filter of that image, which others tell.
    if deaths.len() < 3 || super::images::one_sided(case, deaths) {
        return None;
    }
    let agreements: Vec<(Measure, Agreement)> = MEASURES
        .into_iter()
        .filter_map(|measure| {
            let values: Vec<Between> = deaths.iter().map(|death| measure.of(death)).collect();
            Some((measure, Agreement::of(&values)?))
        })
        .collect();
    let fitting: Vec<&(Measure, Agreement)> = agreements
        .iter()
        .filter(|(measure, agreement)| {
            fits(*measure, agreement, deaths) && !contradicted(*measure, agreement, lives, up)
        })
        .collect();
    let flows = || deaths.iter().map(|death| death.flow.plan.name.clone()).collect::<Vec<_>>();
    let [(measure, agreement)] = fitting.as_slice() else {
        return Some(undecided(case, deaths, fitting.iter().map(|(measure, _)| measure.cause()), flows()));
    };
    let enough = if *measure == Measure::Moment { 3 } else { thresholds::DEATHS };
    let others: Vec<String> = agreements
        .iter()
        .filter(|(other, _)| other != measure && *other != Measure::Moment)
        .map(|(other, a)| format!("{} by {:.0} %", name(*other), 100.0 * a.variation))
        .collect();
    let says = format!(
        "{} flows of datagrams died {} ({}), while later or younger ones got through; they differ in {}",
        deaths.len(),
        measure.says(agreement.value),
        if up { "nothing arrived any more" } else { "no reply came any more" },
        others.join(", ")
    );
    let p = chance(*measure, agreement, deaths);
    let certain = deaths.len() >= enough && p < 1.0 - thresholds::CERTAIN;
    let side = Side::Path;
    let rival = agreements
        .iter()
        .filter(|(other, _)| other != measure)
        .min_by(|a, b| a.1.variation.total_cmp(&b.1.variation))
        .map_or(Cause::Outage, |(other, _)| other.cause());
    Some(
        Claim::new(measure.cause(), side)
            .direction(if up { Direction::Up } else { Direction::Down })
            .probability(if certain { 1.0 - p } else { 0.9 })
            .parameters(parameters(case, *measure, agreement.value, deaths))
            .because(Evidence {
                flows: flows(),
                from_s: deaths.iter().map(|d| rounded(d.moment.low, 3)).min_by(f64::total_cmp),
                to_s: deaths.iter().map(|d| rounded(d.moment.high, 3)).max_by(f64::total_cmp),
                says,
                test: Some(format!(
                    "agreement of {} deaths, coefficient of variation {:.1} %",
                    deaths.len(),
                    100.0 * agreement.variation
                )),
                p: Some(p),
            })
            .explaining(deaths.iter().map(|death| death.flow.plan.flow))
            .rather_than(rival, why_not(*measure, rival))
            .or([], "more flows of other rates, sizes and starts"),
    )
}

fn fits(measure: Measure, agreement: &Agreement, deaths: &[&Death<'_>]) -> bool {
    if measure == Measure::Moment {
        // Moments have no zero, so their share of a mean says nothing: they lie together or they do not.
        let ages: Vec<f64> = deaths.iter().map(|d| d.age.middle()).collect();
        let spread = agreement.low - agreement.high;
        let apart =
            ages.iter().copied().fold(f64::MIN, f64::max) - ages.iter().copied().fold(f64::MAX, f64::min);
        return spread <= measure.slack(deaths) && apart > 4.0 * measure.slack(deaths);
    }
    agreement.fits(measure.slack(deaths))
}

/// A flow that lived beyond the value, or was born before a push and outlived it.
fn contradicted(measure: Measure, agreement: &Agreement, lives: &Lives<'_>, up: bool) -> bool {
    let margin = 1.05;
    let dead_beyond = |value: fn(&Death<'_>) -> f64| {
        lives.dead.iter().any(|death| death.up != up && value(death) > agreement.value * margin)
    };
    let beyond: Vec<_> = lives
        .alive
        .iter()
        .filter(|alive| match measure {
            Measure::Packets => alive.packets > agreement.value * margin + 2.0,
            Measure::Bytes => alive.bytes > agreement.value * margin + 3000.0,
            Measure::Age => alive.age > agreement.value * margin + 1.0,
            Measure::Moment => alive.from < agreement.value - 1.0 && alive.to > agreement.value + 2.0,
        })
        .collect();
    let dead = match measure {
        Measure::Packets => dead_beyond(|d| d.packets.low),
        Measure::Bytes => dead_beyond(|d| d.bytes.low),
        Measure::Age => dead_beyond(|d| d.age.low),
        Measure::Moment => false,
    };
    !beyond.is_empty() || dead
}

/// Chance that independent deaths agree so well: each further one falls as near the first one's value.
fn chance(measure: Measure, agreement: &Agreement, deaths: &[&Death<'_>]) -> f64 {
    let width = match measure {
        Measure::Moment => {
            let ages = deaths.iter().map(|d| d.age.middle()).fold(0.0, f64::max);
            ((agreement.low - agreement.high).abs() + measure.slack(deaths)) / ages.max(1.0)
        }
        Measure::Packets | Measure::Bytes | Measure::Age => {
            4.0 * agreement.variation.max(1.0 / agreement.value.max(1.0)).max(0.01)
        }
    };
    width.min(1.0).powi(i32::try_from(deaths.len() - 1).unwrap_or(i32::MAX)).max(1e-9)
}

fn name(measure: Measure) -> &'static str {
    match measure {
        Measure::Packets => "packets",
        Measure::Bytes => "bytes",
        Measure::Age => "age",
        Measure::Moment => "moment",
    }
}

fn why_not(measure: Measure, rival: Cause) -> String {
    let differ = match MEASURES.into_iter().find(|measure| measure.cause() == rival) {
        Some(Measure::Packets) => "their counts of packets differ",
        Some(Measure::Bytes) => "their counts of bytes differ",
        Some(Measure::Age) => "their ages differ",
        Some(Measure::Moment) => "the moments differ",
        None => "others got through at that time",
    };
    format!("all agree in {}, and {differ}", name(measure))
}

fn parameters(case: &Case<'_>, measure: Measure, value: f64, deaths: &[&Death<'_>]) -> Parameters {
    let number = Some(deaths.len() as u64);
    match measure {
        Measure::Packets => {
            // The last packet that passed in any flow: beyond it none did.
            let passed = deaths.iter().map(|death| death.packets.low).fold(0.0, f64::max);
            Parameters { packets: Some(passed as u64), number, ..Parameters::default() }
        }
        Measure::Bytes => Parameters { bytes: Some(value.round() as u64), number, ..Parameters::default() },
        Measure::Age => Parameters { age_s: Some(rounded(value, 2)), number, ..Parameters::default() },
        Measure::Moment => {
            Parameters { moment: wall_of(case.evidence, value), number, ..Parameters::default() }
        }
    }
}

fn undecided(
    case: &Case<'_>,
    deaths: &[&Death<'_>],
    fitting: impl Iterator<Item = Cause>,
    flows: Vec<String>,
) -> Claim {
    let mut candidates: Vec<Cause> = fitting.collect();
    if candidates.is_empty() {
        candidates = vec![Cause::StaleFlowState, Cause::FlowKilledByAge, Cause::PenaltyBox];
    }
    let from = deaths.iter().map(|d| d.moment.low).fold(f64::MAX, f64::min);
    let to = case.evidence.last.map(|last| rounded(case.evidence.seconds(last), 3));
    Claim::new(Cause::Unexplained, Side::Path)
        .probability(0.9)
        .because(Evidence {
            flows,
            from_s: Some(rounded(from, 3)),
            to_s: to,
            says: format!("{} flows of datagrams died, while others got through", deaths.len()),
            ..Evidence::default()
        })
        .explaining(deaths.iter().map(|death| death.flow.plan.flow))
        .or(candidates, "a longer run with flows of other rates, sizes and starts")
}
