//! What a detector claims, before it is known whether that is certain enough to be said.

use std::net::SocketAddr;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Finding, Parameters, Rival, Severity, Side};
use probe_protocol::wire::hello::Carrier;

use super::{Case, thresholds};
use crate::observation::FlowNo;
use crate::words;

/// A cause that a detector holds to be at work.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cause.
    pub cause: Cause,
    /// Where it sits.
    pub side: Side,
    /// Which way.
    pub direction: Option<Direction>,
    /// Probability that this is the cause.
    pub probability: f64,
    /// What was measured of it.
    pub parameters: Parameters,
    /// What speaks for it.
    pub evidence: Vec<Evidence>,
    /// The nearest rival.
    pub rival: Option<Rival>,
    /// Which address it is about; none where it is about all.
    pub address: Option<SocketAddr>,
    /// Transports whose not opening it explains, at that address.
    pub covers: &'static [Carrier],
    /// Flows whose death or silence it explains.
    pub explains: Vec<FlowNo>,
    /// Other candidates, where it is not certain.
    pub candidates: Vec<Cause>,
    /// What would decide between the candidates.
    pub decide: &'static str,
}

impl Claim {
    /// A claim that is certain as long as nothing else is said.
    pub fn new(cause: Cause, side: Side) -> Self {
        Self {
            cause,
            side,
            direction: None,
            probability: 0.99,
            parameters: Parameters::default(),
            evidence: Vec::new(),
            rival: None,
            address: None,
            covers: &[],
            explains: Vec::new(),
            candidates: Vec::new(),
            decide: "",
        }
    }

    /// Which way it harms.
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = Some(direction);
        self
    }

    /// How probable it is; never more than 0.99, since no test here knows of every rival.
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability.clamp(0.0, 0.99);
        self
    }

    /// What was measured.
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// Adds evidence.
    pub fn because(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    /// The nearest rival, and why it is not that.
    pub fn rather_than(mut self, cause: Cause, rejected_because: impl Into<String>) -> Self {
        self.rival = Some(Rival { cause, rejected_because: rejected_because.into() });
        self
    }

    /// It is about one address, and explains why these transports do not open there.
    pub fn at(mut self, address: SocketAddr, covers: &'static [Carrier]) -> Self {
        self.address = Some(address);
        self.covers = covers;
        self
    }

    /// It explains why these transports do not open, at any address.
    pub fn covering(mut self, covers: &'static [Carrier]) -> Self {
        self.covers = covers;
        self
    }

    /// It explains the death or silence of these flows.
    pub fn explaining(mut self, flows: impl IntoIterator<Item = FlowNo>) -> Self {
        self.explains.extend(flows);
        self
    }

    /// What else it may be, and what would decide.
    pub fn or(mut self, candidates: impl IntoIterator<Item = Cause>, decide: &'static str) -> Self {
        self.candidates.extend(candidates);
        self.decide = decide;
        self
    }

    /// The finding that is said.
    pub(super) fn into_finding(mut self, case: &Case<'_>) -> Finding {
        let partial = self.partial(case);
        if self.probability < thresholds::CERTAIN {
            self.doubt();
        }
        let severity = words::severity(self.cause);
        let severity = match (partial, self.cause) {
            // Nothing of ours at one address while another one works: good to know.
            (true, Cause::Unreachable) => Severity::Info,
            (true, _) => severity.min(Severity::Degraded),
            (false, _) => severity,
        };
        let fill = words::Fill { parameters: &self.parameters, direction: self.direction, port: case.port() };
        Finding {
            cause: self.cause,
            severity,
            side: self.side,
            direction: self.direction,
            probability: (self.probability * 1000.0).round() / 1000.0,
            fix: words::fix(self.cause, &fill),
            commands: words::commands(self.cause, self.parameters.kind.as_deref(), case.port()),
            parameters: self.parameters,
            evidence: self.evidence,
            rival: self.rival,
        }
    }

    /// Whether all that it explains works at another address of the target.
    fn partial(&self, case: &Case<'_>) -> bool {
        let Some(address) = self.address else { return false };
        !self.covers.is_empty()
            && self.covers.iter().all(|carrier| {
                case.places.iter().any(|place| place.address != address && place.of(*carrier).opened > 0)
                    || case
                        .places
                        .iter()
                        .all(|place| place.address == address || !place.openings.contains_key(carrier))
            })
            && case.places.iter().any(|place| place.address != address && place.reaches_listener())
    }

    /// Not certain enough: the cause becomes one of the candidates.
    fn doubt(&mut self) {
        let mut candidates = std::mem::take(&mut self.candidates);
        if self.cause != Cause::Unexplained {
            candidates.insert(0, self.cause);
        }
        if let Some(rival) = self.rival.take() {
            candidates.push(rival.cause);
        }
        candidates.dedup();
        let names: Vec<_> = candidates.iter().map(|cause| cause.id()).collect();
        let mut says = match names.as_slice() {
            [] => String::new(),
            names => format!("candidates: {}", names.join(", ")),
        };
        if !self.decide.is_empty() {
            let glue = if says.is_empty() { "" } else { "; " };
            says = format!("{says}{glue}what would decide: {}", self.decide);
        }
        self.cause = Cause::Unexplained;
        if !says.is_empty() {
            self.evidence.push(Evidence { says, ..Evidence::default() });
        }
    }
}
