//! `bad-path-member`: one of several parallel links loses; which one a flow takes depends on its ports. Some source ports
//! lose, each at a constant rate from its first packet on, and the others do not. Only ports with packets of one length are
//! compared: a bucket that is nearly empty has room for short packets and none for long ones.

use std::collections::BTreeMap;
use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::{tells_of_the_path, while_it_lived};
use crate::causes::{Case, Claim, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::{Outcome, Purpose};
use crate::stats::hypothesis::{binomial_at_least, fisher_at_least};
use crate::stats::recurrence::chi_square_at_least;

/// Ports that must have been tried, and packets of each.
const PORTS: usize = 16;
const PACKETS: u64 = 25;
/// Chance at which one port is counted to the lossy ones, given the rate of the quieter half.
const PORT_CHANCE: f64 = 1e-3;

/// So many times what its moments explain a port must have lost.
const BEYOND_TIME: f64 = 1.5;
/// Share of a port's packets that must have been sent while quiet ports sent, too.
const BESIDE: f64 = 0.5;

/// Chance at which a port's halves differ as they do.
const CONSTANT: f64 = 0.01;
/// Chance at which the ports of the fan are as they are, and the others by accident not.
const UNMIXED: f64 = 1e-3;

/// Ports of one length of packets, fewer of which tell nothing of one another.
const ALIKE: usize = 4;

/// Probability that one port alone which loses has a path of its own: what else may make one flow lose is not told.
const ONE_PORT: f64 = 0.7;

/// One source port: half-seconds with loss, and in all, in the first and in the second half of its life.
struct Port {
    name: String,
    /// One of a fan that was opened to compare ports.
    of_fan: bool,
    /// Length of its packets: what has little room left drops long ones first, whatever their port.
    size: u16,
    /// What it looks like: an image that is treated worse than others is no port's doing.
    dress: Dress,
    halves: [(u64, u64); 2],
    /// Packets lost and sent in the same halves.
    packets: [(u64, u64); 2],
    lost: u64,
    sent: u64,
    up: u64,
    /// By half-second: what it sent, and of that lost.
    moments: Vec<(i64, u64, u64)>,
}

impl Port {
    fn bad(&self) -> u64 {
        self.halves[0].0 + self.halves[1].0
    }

    fn blocks(&self) -> u64 {
        self.halves[0].1 + self.halves[1].1
    }

    /// It lost more than the moments explain at which its packets were sent: a limit that is overrun at times hits whoever
    /// sends then, the quiet ports too.
    fn is_its_own(&self, quiet: &BTreeMap<i64, (u64, u64)>) -> bool {
        let (mut sent, mut lost, mut by_time) = (0, 0, 0.0);
        for (moment, own_sent, own_lost) in &self.moments {
            if let Some((all_lost, all_sent)) = quiet.get(moment).filter(|(_, sent)| *sent > 0) {
                sent += own_sent;
                lost += own_lost;
                by_time += *own_sent as f64 * *all_lost as f64 / *all_sent as f64;
            }
        }
        sent as f64 >= BESIDE * self.sent as f64 && lost as f64 > BEYOND_TIME * by_time
    }

    /// Its halves lose alike, as far as chance goes.
    fn is_constant(&self) -> bool {
        let [(a, n), (b, m)] = self.packets;
        self.halves.iter().all(|(bad, _)| *bad > 0)
            && fisher_at_least(a, n, b, m).min(fisher_at_least(b, m, a, n)) >= CONSTANT
    }

    fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// Its part of the chi-square, where a share `rate` of all blocks has loss.
    fn square(&self, rate: f64) -> f64 {
        let expected = rate * self.blocks() as f64;
        (self.bad() as f64 - expected).powi(2) / (expected * (1.0 - rate)).max(1e-9)
    }
}

/// Loss of the quieter half.
fn quiet(group: &[Port]) -> f64 {
    let mut sorted: Vec<&Port> = group.iter().collect();
    sorted.sort_by(|a, b| a.loss().total_cmp(&b.loss()));
    let half = &sorted[..sorted.len() / 2];
    let (lost, sent) = half.iter().fold((0, 0), |(l, s), port| (l + port.lost, s + port.sent));
    (lost as f64 + 1.0) / (sent as f64 + 2.0)
}

/// Flows whose ports are compared.
fn is_compared(flow: &FlowEvidence, traffic: &Traffic) -> bool {
    flow.plan.carrier == Carrier::Udp
        && matches!(
            flow.plan.purpose,
            Purpose::Fan | Purpose::Steady | Purpose::Crossed | Purpose::Old | Purpose::Trial
        )
        && traffic.counts.sent >= PACKETS
}

/// What these ports lost of what they sent, by half-seconds.
fn together(ports: &[&Port]) -> BTreeMap<i64, (u64, u64)> {
    let mut all: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for (moment, sent, lost) in ports.iter().flat_map(|port| &port.moments) {
        let sum = all.entry(*moment).or_default();
        *sum = (sum.0 + lost, sum.1 + sent);
    }
    all
}

fn moment(case: &Case<'_>, at: Timestamp) -> i64 {
    (case.evidence.seconds(at) * 2.0).floor() as i64
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let ports: Vec<Port> = case
        .flows
        .iter()
        .filter(|(flow, traffic)| is_compared(flow, traffic))
        .map(|(flow, traffic)| {
            // Losses after a flow's death are its death's, not its port's.
            let end = traffic.life.first_lost.filter(|_| traffic.life.trailing >= thresholds::DEATH_PACKETS);
            let blocks: Vec<_> = traffic
                .timeline
                .blocks()
                .filter(|(at, counts)| counts.sent > 0 && end.is_none_or(|end| *at < end.at))
                .collect();
            let middle = blocks.len() / 2;
            let mut port = Port {
                name: flow.plan.name.clone(),
                of_fan: flow.plan.purpose == Purpose::Fan,
                size: flow.plan.size,
                dress: flow.plan.dress,
                halves: [(0, 0); 2],
                packets: [(0, 0); 2],
                lost: 0,
                sent: 0,
                up: 0,
                moments: Vec::new(),
            };
            for (n, (at, counts)) in blocks.iter().enumerate() {
                // What all suffer at once is no port's.
                let all: (Timestamp, f64) = (*at, traffic.timeline.block_length().as_secs_f64());
                if is_shared(case, all) {
                    continue;
                }
                let half = &mut port.halves[usize::from(n >= middle)];
                half.0 += u64::from(counts.lost() > 0);
                half.1 += 1;
                let packets = &mut port.packets[usize::from(n >= middle)];
                *packets = (packets.0 + counts.lost(), packets.1 + counts.sent);
                port.lost += counts.lost();
                port.sent += counts.sent;
                port.up += counts.lost_up;
                port.moments.push((moment(case, *at), counts.sent, counts.lost()));
            }
            port
        })
        .filter(|port| port.blocks() >= 4)
        .collect();
    judge(&alike(ports)).or_else(|| dead_ports(case)).into_iter().collect()
}

/// Groups of ports whose packets have one length: only such ports are compared.
fn alike(ports: Vec<Port>) -> Vec<Vec<Port>> {
    let mut groups: BTreeMap<u16, Vec<Port>> = BTreeMap::new();
    for port in ports {
        groups.entry(port.size).or_default().push(port);
    }
    groups.into_values().filter(|group| group.len() >= ALIKE).collect()
}

/// An attempt that was given up after so long has sent its opening several times.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// Ports that must be dead, and alive, before it is said.
const DEAD_PORTS: usize = 3;
const LIVE_PORTS: usize = 12;
/// Chance that an opening or its answer is lost on a path that is taken for a good one (a tenth each way), and how often an
/// attempt sends it at least before it is given up.
const GOOD_LOSS: f64 = 0.19;
const SENT: i32 = 5;

/// Some source ports never get an opening through, though it is sent again and again, while others lose next to nothing.
/// A table that is full does that too, but then the later ones die: here both kinds must be mixed all the time. An image
/// that is blocked opens nowhere, and a path that is silent for a while opens nothing meanwhile.
fn dead_ports(case: &Case<'_>) -> Option<Claim> {
    let tried = tried(case);
    let is_dead = |one: &&Tried<'_>| !one.opened && is_alone(one, &tried);
    let dead: Vec<&Tried<'_>> = tried.iter().filter(is_dead).collect();
    let early = tried[..tried.len() / 2].iter().filter(is_dead).count();
    let alive = tried.iter().filter(|one| one.opened).count();
    let all = dead.len() + alive;
    let mixed = early * 4 >= dead.len() && (dead.len() - early) * 4 >= dead.len();
    let (lost, sent) = case.flows.iter().filter(|(flow, traffic)| tells_of_the_path(flow, traffic)).fold(
        (0, 0),
        |(lost, sent), (_, traffic)| {
            while_it_lived(case, traffic)
                .iter()
                .fold((lost, sent), |(lost, sent), (_, c)| (lost + c.lost(), sent + c.sent))
        },
    );
    let good = lost as f64 <= thresholds::BENIGN_LOSS * 4.0 * sent as f64;
    if dead.len() < DEAD_PORTS || alive < LIVE_PORTS || !mixed || !good {
        return None;
    }
    let p = binomial_at_least(dead.len() as u64, all as u64, GOOD_LOSS.powi(SENT));
    let share = dead.len() as f64 / all as f64;
    let mut names: Vec<String> = dead.iter().map(|one| one.flow.plan.name.clone()).collect();
    names.dedup();
    (p < thresholds::PORTS_DIFFER).then(|| {
        Claim::new(Cause::BadPathMember, Side::Path)
            .probability(0.97)
            .parameters(Parameters {
                share: Some((share * 1e3).round() / 1e3),
                number: Some(dead.len() as u64),
                loss_ratio: Some(1.0),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: names,
                says: format!(
                    "from {} of {all} source ports nothing got through at all, again and again, while the other {alive} \
                     lost {lost} of {sent} packets",
                    dead.len()
                ),
                test: Some(format!("{SENT} openings in a row lost by chance, each at {:.0} %", GOOD_LOSS * 100.0)),
                p: Some(p.max(1e-12)),
                ..Evidence::default()
            })
            .rather_than(Cause::FlowLimit, "dead and live ports alternate from the first on")
    })
}

/// One source port that a flow tried to open from.
struct Tried<'c> {
    from: Timestamp,
    to: Timestamp,
    opened: bool,
    flow: &'c FlowEvidence,
}

/// Every port that datagrams were sent from, in their order, of images that open at least as often as they do not.
fn tried<'c>(case: &Case<'c>) -> Vec<Tried<'c>> {
    let mut tried = Vec::new();
    let alike = case.flows.iter().filter(|(flow, _)| {
        flow.plan.carrier == Carrier::Udp
            && matches!(
                flow.plan.purpose,
                Purpose::Steady | Purpose::Crossed | Purpose::Trial | Purpose::Fan | Purpose::Fresh
            )
    });
    for (flow, _) in alike {
        for attempt in &flow.attempts {
            let (from, to) = (attempt.from, attempt.to);
            match attempt.outcome {
                Outcome::Opened => tried.push(Tried { from, to, opened: true, flow }),
                Outcome::Silent { .. } if to.since(from) >= GIVEN_UP => {
                    tried.push(Tried { from, to, opened: false, flow });
                }
                Outcome::Silent { .. }
                | Outcome::Refused { .. }
                | Outcome::NetworkError { .. }
                | Outcome::LocalError { .. }
                | Outcome::Foreign { .. }
                | Outcome::Refusal { .. }
                | Outcome::Cut { .. }
                | Outcome::HandshakeFailed { .. } => {}
            }
        }
    }
    tried.sort_by_key(|one| one.from);
    let opens = |dress: Dress| {
        let of = |opened: bool| {
            tried.iter().filter(|one| one.flow.plan.dress == dress && one.opened == opened).count()
        };
        of(true) >= of(false)
    };
    let blocked: Vec<Dress> = Dress::ALL.into_iter().filter(|dress| !opens(*dress)).collect();
    tried.retain(|one| !blocked.contains(&one.flow.plan.dress));
    tried
}

/// Another port opened while this one tried in vain: the path was there.
fn is_alone(one: &Tried<'_>, tried: &[Tried<'_>]) -> bool {
    tried.iter().any(|other| other.opened && other.from >= one.from && other.to < one.to)
}

/// Half of all datagrams were lost in this block.
fn is_shared(case: &Case<'_>, (at, length): (Timestamp, f64)) -> bool {
    let from = case.evidence.seconds(at);
    let all = case.evidence.datagrams.within(from, from + length);
    u32::from(all.lost()) * 2 > u32::from(all.sent)
}

/// Whether the fan has its part of the lossy ports: those that others had open before and with it lose for other reasons
/// where it has none.
fn is_mixed(lossy: &[&Port], clean: &[&Port]) -> bool {
    let of = |fan: bool| {
        let count = |ports: &[&Port]| ports.iter().filter(|port| port.of_fan == fan).count() as u64;
        (count(lossy), count(lossy) + count(clean))
    };
    let ((fan, fans), (other, others)) = (of(true), of(false));
    fans == 0 || others == 0 || fisher_at_least(other, others, fan, fans) >= UNMIXED
}

fn judge(groups: &[Vec<Port>]) -> Option<Claim> {
    let ports: Vec<&Port> = groups.iter().flatten().collect();
    if ports.len() < PORTS {
        return None;
    }
    let (mut square, mut freedom) = (0.0, 0);
    let (mut lossy, mut clean): (Vec<&Port>, Vec<&Port>) = (Vec::new(), Vec::new());
    let mut untold = 0;
    for group in groups {
        let (bad, blocks) = group.iter().fold((0, 0), |(b, n), port| (b + port.bad(), n + port.blocks()));
        let rate = bad as f64 / blocks.max(1) as f64;
        if rate >= 1.0 {
            continue;
        }
        freedom += group.len() - 1;
        if bad > 0 {
            square += group.iter().map(|port| port.square(rate)).sum::<f64>();
        }
        let base = quiet(group).max(0.02);
        let (high, low): (Vec<&Port>, Vec<&Port>) =
            group.iter().partition(|port| binomial_at_least(port.lost, port.sent, base) < PORT_CHANCE);
        let beside = together(&low);
        let (own, shared): (Vec<&Port>, Vec<&Port>) =
            high.into_iter().partition(|port| port.is_its_own(&beside));
        lossy.extend(own);
        // What lost as all did at its moments tells nothing of its port.
        untold += shared.len();
        clean.extend(low);
    }
    // Where all of one image lose, it is what they look like.
    lossy.retain(|port| clean.iter().any(|other| other.dress == port.dress));
    if lossy.is_empty() {
        return None;
    }
    let p = chi_square_at_least(square, freedom);
    // Constant per port from the first packet on: both halves of nearly every lossy port lose.
    let constant = lossy.iter().filter(|port| port.is_constant()).count();
    let ratio = |ports: &[&Port]| {
        let (lost, sent) = ports.iter().fold((0, 0), |(l, s), port| (l + port.lost, s + port.sent));
        lost as f64 / sent.max(1) as f64
    };
    let (lossy_ratio, clean_ratio) = (ratio(&lossy), ratio(&clean));
    let apart = lossy_ratio > 5.0 * clean_ratio.max(thresholds::BENIGN_LOSS);
    if p > thresholds::PORTS_DIFFER
        || untold > lossy.len()
        || clean.len() * 4 < ports.len()
        || constant * 10 < lossy.len() * 8
        || !apart
    {
        return None;
    }
    let (lost, up) = lossy.iter().fold((0, 0), |(l, u), port| (l + port.lost, u + port.up));
    let direction = match (up * 10 >= lost * 9, up * 10 <= lost) {
        (true, _) => Direction::Up,
        (_, true) => Direction::Down,
        (false, false) => Direction::Both,
    };
    if !is_mixed(&lossy, &clean) {
        return None;
    }
    let share = lossy.len() as f64 / ports.len() as f64;
    let says = format!(
        "{} of {} source ports lost {:.1} % of their packets from the first on, the other {} lost {:.1} %",
        lossy.len(),
        ports.len(),
        100.0 * lossy_ratio,
        clean.len(),
        100.0 * clean_ratio
    );
    Some(
        Claim::new(Cause::BadPathMember, Side::Path)
            .direction(direction)
            .probability(if lossy.len() < 2 { ONE_PORT } else { 1.0 - p })
            .parameters(Parameters {
                share: Some((share * 1e3).round() / 1e3),
                number: Some(lossy.len() as u64),
                loss_ratio: Some((lossy_ratio * 1e4).round() / 1e4),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: lossy.iter().map(|port| port.name.clone()).collect(),
                says,
                test: Some(format!("chi-square of half-seconds with loss over {} source ports", ports.len())),
                p: Some(p.max(1e-12)),
                ..Evidence::default()
            })
            .rather_than(Cause::LossyPath, "on a lossy path all source ports lose alike"),
    )
}
