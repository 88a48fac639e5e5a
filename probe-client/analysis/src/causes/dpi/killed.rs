//! `flow-killed-by-packets`, `flow-killed-by-bytes`, `flow-killed-by-age` and `policy-push`: flows of datagrams die while
//! others live. Which it is, is told by what the deaths have in common: flows of crossed rates, sizes and starts agree in
//! one of the four alone.
//!
//! The measure in which the most deaths agree is taken, and it must be the only one: the deaths that agree in it and in
//! no rival are counted, and their agreeing by chance must be improbable. What it leaves over is judged again, so that
//! several causes are named as several; and flows that came further count against it only if they did so between the
//! first and the last of its deaths: a cause may begin, and stop, within a run.

use std::collections::BTreeSet;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use crate::causes::lives::{Agreement, Between, Death, Lives, born, hung, rounded};
use crate::causes::{Case, Claim, thresholds};
use crate::evidence::FlowEvidence;
use crate::observation::{End, FlowNo};
use crate::summarise::wall_of;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

/// What all deaths may have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Packets,
    Bytes,
    Age,
    Moment,
}

const MEASURES: [Measure; 4] = [Measure::Packets, Measure::Bytes, Measure::Age, Measure::Moment];
/// Those of QUIC connections.
const OF_CONNECTIONS: [Measure; 3] = [Measure::Packets, Measure::Age, Measure::Moment];

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

    /// How far off the value each death may be: a packet or two that chance took before the flow died.
    fn slack(self, death: &Death<'_>) -> f64 {
        let apart = death.moment.high - death.moment.low;
        match self {
            Self::Packets => 2.0,
            Self::Bytes => {
                2.0 * (death.bytes.high - death.bytes.low) / (death.packets.high - death.packets.low).max(1.0)
            }
            Self::Age | Self::Moment => apart.clamp(0.05, 1.5),
        }
    }

    /// What a flow of this life had of it by then: seconds, packets or bytes.
    fn reached(self, life: &Reached) -> f64 {
        match self {
            Self::Packets => life.packets,
            Self::Bytes => life.bytes,
            Self::Age => life.to - life.from,
            Self::Moment => life.to,
        }
    }

    fn says(self, value: f64) -> String {
        match self {
            Self::Packets => format!("after {value:.0} packets up (twice as many both ways)"),
            Self::Bytes => format!("after {value:.0} bytes up (twice as many both ways)"),
            Self::Age => format!("at an age of {value:.1} s"),
            Self::Moment => format!("at {value:.1} s of the run"),
        }
    }

    /// Deaths that must agree in it.
    const fn enough(self) -> usize {
        match self {
            Self::Packets | Self::Bytes | Self::Age => thresholds::DEATHS,
            Self::Moment => LEAST,
        }
    }
}

/// Fewer deaths have nothing in common that could be told.
const LEAST: usize = 3;
/// Laws that are looked for, one after the other.
const MAX_LAWS: usize = 3;
/// Share of the deaths that may be left over without being a riddle of their own.
const LEFT_OVER: f64 = 0.05;

/// A flow's last answer may be so much older than a silence of all, seconds.
const AROUND_S: f64 = 0.5;

/// What a classifier knows a flow by.
type Look = (Carrier, Dress);

fn look(flow: &FlowEvidence) -> Look {
    (flow.plan.carrier, flow.plan.dress)
}

/// How far a flow came, dead or alive, while packets of it still passed.
struct Reached {
    look: Look,
    from: f64,
    to: f64,
    packets: f64,
    bytes: f64,
}

/// One measure, and the deaths that agree in it.
struct Law {
    measure: Measure,
    agreement: Agreement,
}

impl Law {
    fn of(measure: Measure, deaths: &[&Death<'_>]) -> Option<Self> {
        let values: Vec<Between> = deaths.iter().map(|death| measure.of(death)).collect();
        let slack: Vec<f64> = deaths.iter().map(|death| measure.slack(death)).collect();
        let agreement = Agreement::of(&values, &slack)?;
        // Moments have no zero, so their share of a mean says nothing: they lie together or they do not.
        let alike = measure == Measure::Moment || agreement.variation < thresholds::DEATH_VARIATION;
        (agreement.of.len() >= LEAST && alike).then_some(Self { measure, agreement })
    }

    /// How many of its deaths another law does not explain.
    fn alone(&self, rival: &Self) -> usize {
        self.agreement.of.iter().filter(|n| !rival.agreement.of.contains(n)).count()
    }

    /// Share of what a death might have been that agrees by chance.
    fn width(&self, deaths: &[&Death<'_>]) -> f64 {
        let scale = match self.measure {
            Measure::Packets | Measure::Bytes | Measure::Age => self.agreement.value,
            // Would the flows die at their own ages, the moments would lie as far apart as those.
            Measure::Moment => {
                let ages = || self.agreement.of.iter().map(|n| deaths[*n].age.middle());
                ages().fold(f64::MIN, f64::max) - ages().fold(f64::MAX, f64::min)
            }
        };
        (self.agreement.width / scale.max(1e-9)).clamp(0.01, 1.0)
    }

    /// A flow of the same looks came beyond the value between the first and the last of the deaths.
    fn is_contradicted(&self, deaths: &[&Death<'_>], others: &[Reached]) -> bool {
        let of = || self.agreement.of.iter().map(|n| deaths[*n]);
        let looks: BTreeSet<Look> = of().map(|death| look(death.flow)).collect();
        let first = of().map(|death| death.moment.low).fold(f64::MAX, f64::min);
        let last = of().map(|death| death.moment.high).fold(f64::MIN, f64::max);
        let (value, measure) = (self.agreement.value, self.measure);
        others.iter().filter(|life| looks.contains(&life.look)).any(|life| {
            let beyond = match measure {
                Measure::Packets => value * 1.05 + 2.0,
                Measure::Bytes => value * 1.05 + 3000.0,
                Measure::Age => value * 1.05 + 1.0,
                // Born before it and alive after it.
                Measure::Moment => return life.from < value - 1.0 && life.to > value + 2.0,
            };
            let reached = measure.reached(life);
            let crossed = life.from + (life.to - life.from) * beyond / reached.max(1e-9);
            reached > beyond && (first..=last).contains(&crossed)
        })
    }
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut claims = Vec::new();
    for up in [true, false] {
        let deaths: Vec<&Death<'_>> = case.lives.dead.iter().filter(|death| death.up == up).collect();
        claims.extend(judge(case, deaths, up, &MEASURES));
    }
    // What takes flows of datagrams takes connections over datagrams with them.
    let explained: BTreeSet<FlowNo> =
        claims.iter().flat_map(|claim| claim.explains.iter().copied()).collect();
    for up in [true, false] {
        let is_left = |death: &&Death<'_>| death.up == up && !explained.contains(&death.flow.plan.flow);
        let deaths = case.lives.connections.dead.iter().filter(is_left).collect();
        claims.extend(judge(case, deaths, up, &OF_CONNECTIONS));
    }
    claims
}

fn judge(case: &Case<'_>, mut deaths: Vec<&Death<'_>>, up: bool, measures: &[Measure]) -> Vec<Claim> {
    let mut claims: Vec<Claim> = Vec::new();
    let all = deaths.len();
    for _ in 0..MAX_LAWS {
        // Of one image alone, and among its first packets, it is a filter of that image, which others tell.
        if deaths.len() < LEAST || super::images::one_sided(case, &deaths) {
            break;
        }
        let others = reached(&case.lives, &deaths);
        let mut laws: Vec<Law> = measures
            .iter()
            .filter_map(|measure| Law::of(*measure, &deaths))
            .filter(|law| !law.is_contradicted(&deaths, &others_than(law, &deaths, &others)))
            .collect();
        laws.sort_by_key(|law| std::cmp::Reverse(law.agreement.of.len()));
        let Some((law, rivals)) = laws.split_first() else {
            if claims.is_empty() {
                claims.push(undecided(case, &deaths, &[]));
            }
            break;
        };
        let alone = rivals.iter().map(|rival| law.alone(rival)).min().unwrap_or(law.agreement.of.len() - 1);
        let alone = alone.min(law.agreement.of.len() - 1);
        let p = law.width(&deaths).powi(i32::try_from(alone).unwrap_or(i32::MAX)).max(1e-9);
        if law.agreement.of.len() < law.measure.enough() || p > 1.0 - thresholds::CERTAIN {
            claims.push(undecided(case, &deaths, &laws));
            break;
        }
        claims.push(named(case, law, &deaths, p, up));
        let left: Vec<&Death<'_>> = deaths
            .iter()
            .enumerate()
            .filter(|(n, _)| !law.agreement.of.contains(n))
            .map(|(_, death)| *death)
            .collect();
        deaths = left;
        // Those that ended in everybody's silence died at some moment of it, and of this cause as well as of another.
        let in_silence =
            |death: &&Death<'_>| case.was_silent(death.moment.low - AROUND_S, death.moment.high + AROUND_S);
        let (untold, left): (Vec<_>, Vec<_>) = deaths.into_iter().partition(in_silence);
        deaths = left;
        if let Some(claim) = claims.last_mut() {
            claim.explains.extend(untold.iter().map(|death| death.flow.plan.flow));
        }
        if (deaths.len() as f64) <= LEFT_OVER * all as f64 {
            break;
        }
    }
    if let Some(claim) = claims.first_mut().filter(|claim| claim.cause != Cause::Unexplained)
        && (deaths.len() as f64) <= (LEFT_OVER * all as f64).max(1.0)
    {
        claim.explains.extend(deaths.iter().map(|death| death.flow.plan.flow));
    }
    claims
}

/// How far all flows came, but for those deaths.
fn reached(lives: &Lives<'_>, deaths: &[&Death<'_>]) -> Vec<Reached> {
    let (alive, dead) = ([&lives.alive, &lives.connections.alive], [&lives.dead, &lives.connections.dead]);
    let alive = alive.into_iter().flatten().map(|alive| Reached {
        look: look(alive.flow),
        from: alive.from,
        to: alive.to,
        packets: alive.packets,
        bytes: alive.bytes,
    });
    let is_judged = |flow: FlowNo| deaths.iter().any(|death| death.flow.plan.flow == flow);
    let dead = dead.into_iter().flatten().filter(|death| !is_judged(death.flow.plan.flow));
    alive.chain(dead.map(before_death)).collect()
}

fn before_death(death: &Death<'_>) -> Reached {
    Reached {
        look: look(death.flow),
        from: death.moment.low - death.age.low,
        to: death.moment.low,
        packets: death.packets.low,
        bytes: death.bytes.low,
    }
}

/// The same, with the deaths that a law does not explain.
fn others_than(law: &Law, deaths: &[&Death<'_>], others: &[Reached]) -> Vec<Reached> {
    let left = deaths.iter().enumerate().filter(|(n, _)| !law.agreement.of.contains(n));
    let copy = |r: &Reached| Reached { ..*r };
    others.iter().map(copy).chain(left.map(|(_, death)| before_death(death))).collect()
}

fn named(case: &Case<'_>, law: &Law, deaths: &[&Death<'_>], p: f64, up: bool) -> Claim {
    let Law { measure, agreement } = law;
    let of: Vec<&Death<'_>> = agreement.of.iter().map(|n| deaths[*n]).collect();
    let is_quic = of.iter().all(|death| death.flow.plan.carrier != Carrier::Udp);
    let measures: &[Measure] = if is_quic { &OF_CONNECTIONS } else { &MEASURES };
    let spreads: Vec<(Measure, f64)> = measures
        .iter()
        .copied()
        .filter(|other| other != measure && *other != Measure::Moment)
        .map(|other| (other, spread(&of, other)))
        .collect();
    let differ: Vec<String> =
        spreads.iter().map(|(other, by)| format!("{} by {:.0} %", name(*other), 100.0 * by)).collect();
    let says = format!(
        "{} {} died {} ({}), while later or younger ones got through; they differ in {}",
        of.len(),
        if is_quic { "QUIC connections" } else { "flows of datagrams" },
        measure.says(agreement.value),
        if up { "nothing arrived any more" } else { "no reply came any more" },
        differ.join(", ")
    );
    let nearest = spreads.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(Cause::Outage, |(m, _)| m.cause());
    let first = of.iter().map(|d| d.moment.low).fold(f64::MAX, f64::min);
    let last = of.iter().map(|d| d.moment.high).fold(f64::MIN, f64::max);
    Claim::new(measure.cause(), Side::Path)
        .direction(if up { Direction::Up } else { Direction::Down })
        .probability(1.0 - p)
        .parameters(parameters(case, *measure, agreement.value, of.len()))
        .because(Evidence {
            flows: of.iter().map(|death| death.flow.plan.name.clone()).collect(),
            from_s: Some(rounded(first, 3)),
            to_s: Some(rounded(last, 3)),
            says,
            test: Some(format!(
                "agreement of {} deaths, coefficient of variation {:.1} %",
                of.len(),
                100.0 * agreement.variation
            )),
            p: Some(p),
        })
        .explaining(of.iter().map(|death| death.flow.plan.flow))
        .explaining(others_dead(case, Some(law), first, last))
        .rather_than(nearest, why_not(*measure, nearest))
}

/// Connections that died of the same: those of QUIC run over datagrams that are not counted one by one here, so the time
/// must do; those of TCP must have died at the same age or moment.
fn others_dead(case: &Case<'_>, law: Option<&Law>, first_s: f64, last_s: f64) -> Vec<FlowNo> {
    // What a slow flow's next probe and an acknowledgement under way take.
    let margin = 10.0;
    case.flows
        .iter()
        .filter(|(flow, traffic)| {
            let end = flow.ended.as_ref().map(|ended| &ended.end);
            let cut = matches!(end, Some(End::TimedOut | End::Reset | End::Closed));
            flow.plan.carrier != Carrier::Udp && (cut || hung(case, flow, traffic))
        })
        .filter(|(flow, traffic)| {
            let Some(answered) = traffic.life.answered else { return false };
            let at = case.evidence.seconds(answered.at);
            let quic = matches!(flow.plan.carrier, Carrier::Quic | Carrier::QuicInverse);
            let during = (first_s - margin..=last_s + margin).contains(&at);
            match law.map(|law| (law.measure, law.agreement.value)) {
                Some((Measure::Moment, value)) => (at - value).abs() < margin,
                Some((Measure::Age, value)) => {
                    let age = answered.at.since(born(flow)).as_secs_f64();
                    quic && during || (age - value).abs() < 0.05 * value + margin.min(0.5 * value)
                }
                Some((Measure::Packets | Measure::Bytes, _)) | None => quic && during,
            }
        })
        .map(|(flow, _)| flow.plan.flow)
        .collect()
}

/// Coefficient of variation of a measure over deaths.
fn spread(of: &[&Death<'_>], measure: Measure) -> f64 {
    let n = of.len() as f64;
    let values = || of.iter().map(|death| measure.of(death).middle());
    let mean = values().sum::<f64>() / n;
    let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    variance.sqrt() / mean.abs().max(1e-9)
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
    if measure == Measure::Moment {
        return "flows of different ages and counts died at one moment. A fail-over or restart of a box that keeps the \
                state of flows does the same: its state was lost at that moment"
            .to_owned();
    }
    let differ = match MEASURES.into_iter().find(|measure| measure.cause() == rival) {
        Some(Measure::Packets) => "their counts of packets differ",
        Some(Measure::Bytes) => "their counts of bytes differ",
        Some(Measure::Age) => "their ages differ",
        Some(Measure::Moment) => "the moments differ",
        None => "others got through at that time",
    };
    format!("all agree in {}, and {differ}", name(measure))
}

fn parameters(case: &Case<'_>, measure: Measure, value: f64, deaths: usize) -> Parameters {
    let number = Some(deaths as u64);
    match measure {
        Measure::Packets => Parameters { packets: Some(value as u64), number, ..Parameters::default() },
        Measure::Bytes => Parameters { bytes: Some(value.round() as u64), number, ..Parameters::default() },
        Measure::Age => Parameters { age_s: Some(rounded(value, 2)), number, ..Parameters::default() },
        Measure::Moment => {
            Parameters { moment: wall_of(case.evidence, value), number, ..Parameters::default() }
        }
    }
}

/// Of these laws none can be told from the others; where there is none, the deaths have nothing in common.
fn undecided(case: &Case<'_>, deaths: &[&Death<'_>], laws: &[Law]) -> Claim {
    let most = laws.first().map_or(0, |law| law.agreement.of.len());
    let near = laws.iter().filter(|law| law.agreement.of.len() * 10 >= most * 8);
    let mut candidates: Vec<Cause> = near.map(|law| law.measure.cause()).collect();
    if candidates.is_empty() {
        candidates = vec![Cause::StaleFlowState, Cause::FlowKilledByAge, Cause::PenaltyBox];
    }
    let from = deaths.iter().map(|d| d.moment.low).fold(f64::MAX, f64::min);
    let to = deaths.iter().map(|d| d.moment.high).fold(f64::MIN, f64::max);
    Claim::new(Cause::Unexplained, Side::Path)
        .probability(0.9)
        .because(Evidence {
            flows: deaths.iter().map(|death| death.flow.plan.name.clone()).collect(),
            from_s: Some(rounded(from, 3)),
            to_s: case.evidence.last.map(|last| rounded(case.evidence.seconds(last), 3)),
            says: format!("{} flows over UDP died, while others got through", deaths.len()),
            ..Evidence::default()
        })
        .explaining(deaths.iter().map(|death| death.flow.plan.flow))
        .explaining(others_dead(case, None, from, to))
        .or(candidates, "a longer run with flows of other rates, sizes and starts")
}
