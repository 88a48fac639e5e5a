//! What a classifier knows by the look of it: `quic-blocked`, `high-entropy-blocked`, `unknown-protocol-blocked`.
//!
//! Each image is tried several times beside the others, in random order, from ports of their own. An image lives where
//! its flows get through and go on; it dies where next to none does, five of five at least. A flow that opened and was cut off among its
//! first packets died too; one that lived counts only if it came further than those did.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use crate::causes::lives::{self, Death, Lives, rounded};
use crate::causes::{Case, Claim, thresholds};
use crate::evidence::{FlowEvidence, HEAD, Traffic};
use crate::observation::{FlowNo, Outcome};
use crate::stats::hypothesis::fisher_at_least;
use crate::summarise::reach::Place;

/// Datagrams of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Image {
    Quic,
    /// QUIC with every bit turned: same sizes and times.
    Inverse,
    Random,
    Ascii,
    Zero,
    /// Shaped like QUIC, and none.
    QuicShaped,
}

const IMAGES: [Image; 6] =
    [Image::Quic, Image::Inverse, Image::Random, Image::Ascii, Image::Zero, Image::QuicShaped];

impl Image {
    fn of(flow: &FlowEvidence) -> Option<Self> {
        match (flow.plan.carrier, flow.plan.dress) {
            (Carrier::Quic, _) => Some(Self::Quic),
            (Carrier::QuicInverse, _) => Some(Self::Inverse),
            (Carrier::Udp, Dress::Random) => Some(Self::Random),
            (Carrier::Udp, Dress::Ascii) => Some(Self::Ascii),
            (Carrier::Udp, Dress::Zero) => Some(Self::Zero),
            (Carrier::Udp, Dress::QuicShaped) => Some(Self::QuicShaped),
            (Carrier::Udp, _) | (Carrier::Tcp | Carrier::Tls, _) => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Quic => "QUIC",
            Self::Inverse => "QUIC with every bit turned",
            Self::Random => "random datagrams",
            Self::Ascii => "datagrams of text",
            Self::Zero => "datagrams of mostly zeros",
            Self::QuicShaped => "datagrams that only look like QUIC",
        }
    }
}

/// Probes without an answer at a flow's end from which on it is taken for silent.
const SILENT: u64 = 3;

/// A flow that fell silent within so many packets of where others died was cut off as they were, where so many were.
const ALIKE: f64 = 2.0;
const DEAD_ALIKE: usize = 3;

/// Of an image that is blocked one flow of so many gets through at most.
const STRAYS: u64 = 20;

/// How one image fared at one address.
#[derive(Clone, Debug, Default)]
struct Fared {
    /// Flows that got through and on.
    lived: u64,
    /// Attempts that never opened, each from a port of its own, and flows that were cut off among their first packets.
    died: u64,
    /// Of those, the ones that had opened, and after how many packets.
    cut: Vec<f64>,
    /// Handshakes of the stack below that passed, whatever came of the flow then.
    handshakes: u64,
    /// Attempts that did not even pass that.
    shut: u64,
    flows: Vec<String>,
    dead_flows: Vec<FlowNo>,
    /// Somebody else answered, or a host said no: that is another cause's.
    foreign: bool,
    /// Datagrams of the image that left the client and arrived: more than any that was cut off.
    far: u64,
}

impl Fared {
    /// Next to none gets through: what measures how random a packet looks errs with some.
    fn dies(&self) -> bool {
        self.lived * STRAYS <= self.died && self.died >= thresholds::ALIKE_FLOWS as u64 && !self.foreign
    }

    fn lives(&self) -> bool {
        self.lived > 0 && self.died * 4 <= self.lived.max(1) * 3
    }

    /// Its handshake passes every time: what is dropped of it comes later.
    fn begins(&self) -> bool {
        self.handshakes >= thresholds::ALIKE_FLOWS as u64 && self.shut == 0 && !self.foreign
    }

    fn tally(&self, image: Image) -> String {
        format!("{}: {} of {} got through", image.name(), self.lived, self.lived + self.died)
    }
}

/// Whether the deaths are those of some images among their first packets, while others came further and went on.
pub(super) fn one_sided(case: &Case<'_>, deaths: &[&Death<'_>]) -> bool {
    let furthest = deaths.iter().map(|death| death.packets.low).fold(0.0, f64::max);
    if furthest > HEAD as f64 {
        return false;
    }
    let dead: Vec<Option<Image>> = deaths.iter().map(|death| Image::of(death.flow)).collect();
    // Another image of datagrams came further than any that died.
    case.flows.iter().any(|(flow, traffic)| {
        let image = Image::of(flow);
        let far = match flow.plan.carrier {
            Carrier::Quic | Carrier::QuicInverse => {
                flow.datagrams.map_or(0, |counts| counts.sent_up - counts.lost_up)
            }
            Carrier::Udp | Carrier::Tcp | Carrier::Tls => {
                traffic.life.answered.map_or(0, |mark| mark.packets)
            }
        };
        // One that is silent itself went no further: what it sent since then was lost.
        let went_on = traffic.life.trailing < SILENT;
        image.is_some() && !dead.contains(&image) && went_on && far as f64 > furthest * 1.05 + 3.0
    })
}

/// Packets after which a flow was cut off that ended too soon to be called dead by itself: where others died early, and it
/// fell silent at just their count.
fn cut_short(lives: &Lives<'_>, flow: &FlowEvidence, traffic: &Traffic) -> Option<f64> {
    let passed = lives::passed(flow, traffic);
    let early = lives.dead.iter().map(|death| death.packets.low).filter(|low| *low <= HEAD as f64);
    let alike = early.filter(|low| (low - passed).abs() <= ALIKE).count();
    (traffic.life.trailing >= SILENT && alike >= DEAD_ALIKE).then_some(passed)
}

fn fared(case: &Case<'_>, lives: &Lives<'_>, place: &Place, image: Image) -> Fared {
    let mut fared = Fared::default();
    let early = |death: &&Death<'_>| death.packets.low <= HEAD as f64;
    let cuts = lives.dead.iter().filter(early).map(|death| death.packets.low).fold(0.0, f64::max);
    let flows = case.flows.iter().filter(|(flow, _)| flow.plan.to == place.address);
    for (flow, traffic) in flows.filter(|(flow, _)| Image::of(flow) == Some(image)) {
        let failed = flow.attempts.iter().filter(|attempt| attempt.outcome != Outcome::Opened);
        let (mut silent, mut other) = (0, 0);
        for attempt in failed {
            let begun = matches!(attempt.outcome, Outcome::Silent { connected: true } | Outcome::Cut { .. });
            let stack = matches!(image, Image::Quic | Image::Inverse);
            fared.handshakes += u64::from(stack && begun);
            fared.shut += u64::from(!begun);
            match attempt.outcome {
                Outcome::Silent { .. } | Outcome::HandshakeFailed { .. } | Outcome::Cut { .. } => silent += 1,
                Outcome::Opened => {}
                Outcome::Refused { .. }
                | Outcome::NetworkError { .. }
                | Outcome::LocalError { .. }
                | Outcome::Foreign { .. }
                | Outcome::Refusal { .. } => other += 1,
            }
        }
        fared.foreign |= other > 0;
        if flow.attempts.is_empty() {
            continue;
        }
        fared.flows.push(flow.plan.name.clone());
        if flow.opened.is_none() {
            fared.died += silent;
            continue;
        }
        fared.handshakes += 1;
        let far = match flow.datagrams {
            Some(counts) => counts.sent_up.saturating_sub(counts.lost_up),
            None => traffic.life.answered.map_or(0, |mark| mark.packets),
        };
        let death = match image {
            // Datagrams of the stack, acknowledgements and all, are counted at its socket.
            Image::Quic | Image::Inverse => lives::fell_silent(case, flow, traffic).then_some(far as f64),
            Image::Random | Image::Ascii | Image::Zero | Image::QuicShaped => lives
                .dead
                .iter()
                .find(|death| death.flow.plan.flow == flow.plan.flow)
                .map(|death| death.packets.low)
                .or_else(|| cut_short(lives, flow, traffic)),
        };
        match death {
            Some(after) if after <= HEAD as f64 => {
                fared.died += 1;
                fared.cut.push(after);
                fared.dead_flows.push(flow.plan.flow);
            }
            _ => {
                fared.far = fared.far.max(far);
                // A flow that ended before the others were cut off proves nothing.
                fared.lived += u64::from(far as f64 > cuts * 1.2 || traffic.counts.sent == 0 && cuts <= 0.0);
                // Attempts before the one that opened were lost by chance, or to the image.
                fared.died += silent;
            }
        }
    }
    fared
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let lives = &case.lives;
    case.live_places().filter_map(|place| judge(case, lives, place)).collect()
}

fn judge(case: &Case<'_>, lives: &Lives<'_>, place: &Place) -> Option<Claim> {
    let all: Vec<(Image, Fared)> = IMAGES
        .into_iter()
        .map(|image| (image, fared(case, lives, place, image)))
        .filter(|(_, fared)| !fared.flows.is_empty())
        .collect();
    let of = |image: Image| all.iter().find(|(i, _)| *i == image).map(|(_, fared)| fared);
    let dies = |image| of(image).is_some_and(Fared::dies);
    let is_alive = |image| of(image).is_some_and(Fared::lives);
    let dead: Vec<Image> = all.iter().filter(|(_, f)| f.dies()).map(|(image, _)| *image).collect();
    let alive: Vec<Image> = all.iter().filter(|(_, f)| f.lives()).map(|(image, _)| *image).collect();
    if dead.is_empty() || alive.is_empty() {
        return None;
    }
    let claim = if let Some(claim) = quic_blocked(place, &all) {
        claim
    } else if is_alive(Image::Quic) && dies(Image::Random) && dies(Image::Ascii) && dies(Image::Inverse) {
        Claim::new(Cause::UnknownProtocolBlocked, Side::Path)
            .at(place.address, &[Carrier::Udp, Carrier::QuicInverse])
            .rather_than(
                Cause::HighEntropyBlocked,
                "plain text dies as well, and QUIC, which looks random, lives",
            )
    } else if dies(Image::Random)
        && dies(Image::Inverse)
        && is_alive(Image::Ascii)
        && of(Image::Zero).is_none_or(|zero| !zero.dies())
    {
        Claim::new(Cause::HighEntropyBlocked, Side::Path)
            .at(place.address, &[Carrier::Udp, Carrier::Quic, Carrier::QuicInverse])
            .rather_than(
                Cause::UnknownProtocolBlocked,
                "text of no known protocol gets through from the same host to the same port",
            )
    } else {
        return Some(undecided(place, &all, &dead));
    };
    if claim.cause == Cause::QuicBlocked {
        // QUIC's own size and times belong to its twin alone, where that one lives.
        let twin = is_alive(Image::Inverse);
        let controls = if twin { vec![Image::Inverse] } else { alive };
        return Some(with_evidence(claim, &all, &[Image::Quic], &controls));
    }
    Some(with_evidence(claim, &all, &dead, &alive))
}

/// QUIC dies, and what it does not share its look with lives: text, zeros, random datagrams, and its own twin.
///
/// What only looks like QUIC may die with it: then QUIC is known by its header, not by what is in it. Who looks at the
/// first bit of a datagram alone (RFC 8999 section 5.1) drops the twin's short packets too, which have it set, and only
/// those: its handshake, of QUIC's own sizes, must still pass every time.
fn quic_blocked(place: &Place, all: &[(Image, Fared)]) -> Option<Claim> {
    let of = |image: Image| all.iter().find(|(i, _)| *i == image).map(|(_, fared)| fared);
    let lives = |image: Image| of(image).is_some_and(Fared::lives);
    let quic = of(Image::Quic).filter(|quic| quic.dies())?;
    let twin = of(Image::Inverse)?;
    let plain = [Image::Ascii, Image::Zero].into_iter().all(|image| of(image).is_none_or(Fared::lives));
    if !plain || !lives(Image::Random) || !(twin.lives() || twin.begins() && quic.handshakes == 0) {
        return None;
    }
    let shaped = of(Image::QuicShaped);
    let how = if shaped.is_some_and(Fared::dies) {
        Some("what only looks like QUIC dies as well, so QUIC is known by its header")
    } else if shaped.is_some_and(Fared::lives) {
        Some("what only looks like QUIC gets through, so QUIC is known by more than its first bytes")
    } else {
        None
    };
    let rejected = if twin.lives() {
        "its bitwise inverse of the same sizes and times, which no classifier knows, gets through"
    } else {
        "the handshake of its bitwise inverse, of the same sizes and times, gets through, and so do random datagrams"
    };
    let mut claim = Claim::new(Cause::QuicBlocked, Side::Path)
        .at(place.address, &[Carrier::Quic])
        .rather_than(Cause::UnknownProtocolBlocked, rejected);
    let looks_alike = [Image::QuicShaped, Image::Inverse].into_iter().filter_map(of);
    claim.explains.extend(looks_alike.flat_map(|fared| fared.dead_flows.iter().copied()));
    if let Some(says) = how {
        claim = claim.because(Evidence { says: says.to_owned(), ..Evidence::default() });
    }
    Some(claim)
}

/// Adds what the images did, and the chance that images that are alike fare so differently.
fn with_evidence(mut claim: Claim, all: &[(Image, Fared)], dead: &[Image], alive: &[Image]) -> Claim {
    let sum = |images: &[Image], count: fn(&Fared) -> u64| {
        all.iter().filter(|(image, _)| images.contains(image)).map(|(_, f)| count(f)).sum::<u64>()
    };
    let (failed, tried) = (sum(dead, |f| f.died), sum(dead, |f| f.died + f.lived));
    let (failed_beside, beside) = (sum(alive, |f| f.died), sum(alive, |f| f.died + f.lived));
    let p = fisher_at_least(failed, tried, failed_beside, beside);
    let cuts: Vec<f64> = all
        .iter()
        .filter(|(image, _)| dead.contains(image))
        .flat_map(|(_, fared)| fared.cut.iter().copied())
        .collect();
    let after = cuts.iter().copied().fold(0.0, f64::max);
    let says: Vec<String> = all.iter().map(|(image, fared)| fared.tally(*image)).collect();
    let flows = |images: &[Image]| {
        all.iter()
            .filter(|(image, _)| images.contains(image))
            .flat_map(|(_, fared)| fared.flows.iter().cloned())
            .collect::<Vec<_>>()
    };
    claim.explains.extend(
        all.iter().filter(|(image, _)| dead.contains(image)).flat_map(|(_, f)| f.dead_flows.iter().copied()),
    );
    claim = claim
        .direction(Direction::Both)
        .probability(if p < 1.0 - thresholds::CERTAIN { 1.0 - p } else { 0.8 })
        .or([], "each image several times more")
        .because(Evidence {
            flows: flows(dead),
            says: says.join("; "),
            test: Some("Fisher's exact test, images beside one another in random order".to_owned()),
            p: Some(p),
            ..Evidence::default()
        })
        .because(Evidence {
            flows: flows(alive),
            says: "these got through at the same time, to the same port, with the same sizes".to_owned(),
            ..Evidence::default()
        });
    let packets = if cuts.is_empty() { None } else { Some(rounded(after, 0) as u64) };
    let kind = if cuts.is_empty() { "opening" } else { "packets" };
    claim.parameters(Parameters { packets, kind: Some(kind.to_owned()), ..Parameters::default() })
}

fn undecided(place: &Place, all: &[(Image, Fared)], dead: &[Image]) -> Claim {
    let candidates: Vec<Cause> = match dead {
        [Image::Quic] => vec![Cause::QuicBlocked],
        [Image::Quic, Image::Inverse] => vec![Cause::MtuBlackHole, Cause::QuicBlocked],
        _ if dead.contains(&Image::Random) && !dead.contains(&Image::Ascii) => {
            vec![Cause::HighEntropyBlocked, Cause::UnknownProtocolBlocked]
        }
        _ => vec![Cause::UnknownProtocolBlocked, Cause::HighEntropyBlocked],
    };
    let covers: &'static [Carrier] =
        if dead.iter().all(|image| *image == Image::Quic || *image == Image::Inverse) {
            &[Carrier::Quic, Carrier::QuicInverse]
        } else {
            &[Carrier::Udp, Carrier::QuicInverse]
        };
    let says: Vec<String> = all.iter().map(|(image, fared)| fared.tally(*image)).collect();
    let explains =
        all.iter().filter(|(i, _)| dead.contains(i)).flat_map(|(_, f)| f.dead_flows.iter().copied());
    Claim::new(Cause::Unexplained, Side::Path)
        .at(place.address, covers)
        .probability(0.9)
        .because(Evidence {
            flows: all
                .iter()
                .filter(|(image, _)| dead.contains(image))
                .flat_map(|(_, f)| f.flows.iter().cloned())
                .collect(),
            says: says.join("; "),
            ..Evidence::default()
        })
        .explaining(explains)
        .or(candidates, "each wire image several times, interleaved in random order")
}
