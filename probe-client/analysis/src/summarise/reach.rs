//! What gets through: the attempts to open flows, gathered by address and transport.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use probe_protocol::wire::hello::{Carrier, Refusal};

use crate::evidence::{Evidence, FlowEvidence};
use crate::model::{AddressReachability, Reach, Reachability};
use crate::observation::Outcome;

/// Attempts to open one transport to one address.
#[derive(Clone, Debug, Default)]
pub struct Openings {
    /// Names of the flows.
    pub flows: Vec<String>,
    /// Names of those that opened.
    pub opened_flows: Vec<String>,
    /// Flows that opened.
    pub opened: u64,
    /// Attempts that ended, those that opened included.
    pub attempts: u64,
    /// Attempts that were answered with nothing.
    pub silent: u64,
    /// Of those, how many had a TCP connection.
    pub silent_connected: u64,
    /// Attempts that were refused.
    pub refused: u64,
    /// Who refused.
    pub refused_by: BTreeSet<IpAddr>,
    /// Attempts to which the network said no, with its words.
    pub network_errors: Vec<(String, Option<IpAddr>)>,
    /// Attempts that were cut after they had connected.
    pub cut: u64,
    /// Of those, how many with a reset.
    pub cut_by_reset: u64,
    /// What the client's own system said.
    pub local_errors: Vec<String>,
    /// What answered in our listener's place, and whether it spoke HTTP.
    pub foreign: Vec<(String, bool)>,
    /// What the listener refused with.
    pub refusals: Vec<(Option<Refusal>, [u8; 3])>,
    /// How TLS or QUIC failed.
    pub handshake_errors: Vec<String>,
    /// Local ports used.
    pub source_ports: BTreeSet<u16>,
    /// Hellos of unopened flows that reached the listener.
    pub hellos_arrived: u64,
    /// Hellos of unopened flows sent in that time; none where the listener was not asked.
    pub hellos_sent: Option<u64>,
    /// Flows whose channel had a third party in it.
    pub intercepted: Vec<Interception>,
    /// Seconds after the run's start, first attempt to last.
    pub window_s: Option<(f64, f64)>,
}

/// A third party in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// Which flow.
    pub flow: String,
    /// Who issued the certificate.
    pub issuer: Option<String>,
    /// The ends derive different secrets (RFC 9266): proof.
    pub exporter_differs: bool,
    /// The certificate is not the invite's.
    pub certificate_differs: bool,
    /// The listener accepted the flow inside the channel.
    pub opened: bool,
}

impl Openings {
    fn note(&mut self, evidence: &Evidence, flow: &FlowEvidence, hellos: Option<(u32, u32)>) {
        let name = &flow.plan.name;
        self.flows.push(name.clone());
        if flow.opened.is_some() {
            self.opened += 1;
            self.opened_flows.push(name.clone());
        } else if let Some((arrived, sent)) = hellos {
            self.hellos_arrived += u64::from(arrived);
            *self.hellos_sent.get_or_insert(0) += u64::from(sent);
        }
        for attempt in &flow.attempts {
            self.attempts += 1;
            self.source_ports.extend(attempt.source.map(|source| source.port()));
            let (from, to) = (evidence.seconds(attempt.from), evidence.seconds(attempt.to));
            self.window_s = Some(self.window_s.map_or((from, to), |(f, t)| (f.min(from), t.max(to))));
            self.outcome(&attempt.outcome);
        }
        self.attempts += flow.more_attempts;
        if let Some(opened) = &flow.opened {
            self.source_ports.insert(opened.source.port());
        }
        self.intercepted.extend(interception(flow));
    }

    fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Opened => {}
            Outcome::Silent { connected } => {
                self.silent += 1;
                self.silent_connected += u64::from(*connected);
            }
            Outcome::Refused { by } => {
                self.refused += 1;
                self.refused_by.extend(by);
            }
            Outcome::NetworkError { says, by } => self.network_errors.push((says.clone(), *by)),
            Outcome::Cut { reset, .. } => {
                self.cut += 1;
                self.cut_by_reset += u64::from(*reset);
            }
            Outcome::LocalError { says } => self.local_errors.push(says.clone()),
            Outcome::Foreign { looks_like, http } => self.foreign.push((looks_like.clone(), *http)),
            Outcome::Refusal { reason, software } => self.refusals.push((*reason, *software)),
            Outcome::HandshakeFailed { says } => self.handshake_errors.push(says.clone()),
        }
    }

    /// Attempts that did not open, each from a state of its own.
    pub fn failures(&self) -> u64 {
        self.silent
            + self.refused
            + self.network_errors.len() as u64
            + self.cut
            + self.local_errors.len() as u64
            + self.foreign.len() as u64
            + self.handshake_errors.len() as u64
    }

    /// Whether it reached a listener of ours.
    pub fn reaches_listener(&self) -> bool {
        self.opened > 0 || !self.refusals.is_empty()
    }

    fn reach(&self, carrier: Carrier, plain_tcp_open: bool) -> Reach {
        let stream = matches!(carrier, Carrier::Tcp | Carrier::Tls);
        let silent = if stream { Reach::Filtered } else { Reach::Blocked };
        let dominant = [
            (self.silent - self.silent_connected + self.network_errors.len() as u64, silent),
            (self.refused, Reach::Refused),
            (self.foreign.len() as u64, Reach::WrongHost),
            (
                self.silent_connected
                    + self.cut
                    + self.local_errors.len() as u64
                    + self.handshake_errors.len() as u64,
                Reach::Blocked,
            ),
        ];
        if !self.intercepted.is_empty() && (self.opened > 0 || plain_tcp_open) {
            Reach::Intercepted
        } else if self.reaches_listener() {
            Reach::Open
        } else if !self.foreign.is_empty() {
            Reach::WrongHost
        } else if self.hellos_arrived > 0 {
            Reach::OneWay
        } else {
            // The first of equals: what is seen oftenest.
            let most = dominant.iter().map(|(n, _)| *n).max().unwrap_or(0);
            dominant
                .iter()
                .find(|(n, _)| *n == most && most > 0)
                .map_or(Reach::NotTested, |(_, reach)| *reach)
        }
    }
}

fn interception(flow: &FlowEvidence) -> Option<Interception> {
    let channel = flow.channel.as_ref()?;
    let certificate_differs = channel.expected.is_some_and(|expected| expected != channel.fingerprint);
    let exporter_differs = channel.same_exporter == Some(false);
    // Equal exporters prove that nobody is between, whatever certificate the admin uses by now.
    (exporter_differs || certificate_differs && channel.same_exporter.is_none()).then(|| Interception {
        flow: flow.plan.name.clone(),
        issuer: channel.issuer.clone(),
        exporter_differs,
        certificate_differs,
        opened: flow.opened.is_some(),
    })
}

/// All attempts to open flows to one address.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address and port.
    pub address: SocketAddr,
    /// By transport.
    pub openings: BTreeMap<Carrier, Openings>,
}

impl Place {
    /// The attempts over one transport; empty where there were none.
    pub fn of(&self, carrier: Carrier) -> Openings {
        self.openings.get(&carrier).cloned().unwrap_or_default()
    }

    /// Whether a transport gets through.
    pub fn reach(&self, carrier: Carrier) -> Reach {
        let plain_tcp_open = self.openings.get(&Carrier::Tcp).is_some_and(Openings::reaches_listener);
        self.openings.get(&carrier).map_or(Reach::NotTested, |o| o.reach(carrier, plain_tcp_open))
    }

    /// Whether anything reached a listener of ours.
    pub fn reaches_listener(&self) -> bool {
        self.openings.values().any(Openings::reaches_listener)
    }

    /// The row of the output.
    pub fn reachability(&self) -> Reachability {
        Reachability {
            tcp: self.reach(Carrier::Tcp),
            tls: self.reach(Carrier::Tls),
            udp: self.reach(Carrier::Udp),
            quic: self.reach(Carrier::Quic),
        }
    }

    fn score(&self) -> usize {
        self.openings.values().filter(|o| o.reaches_listener()).count()
    }
}

/// Gathers all attempts by address, in the order in which the addresses were tried.
pub(crate) fn places(evidence: &Evidence) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for (number, flow) in &evidence.flows {
        let address = flow.plan.to;
        let place = match places.iter().position(|place| place.address == address) {
            Some(at) => &mut places[at],
            None => {
                places.push(Place { address, openings: BTreeMap::new() });
                let last = places.len() - 1;
                &mut places[last]
            }
        };
        let hellos = evidence.hellos.get(number).copied();
        place.openings.entry(flow.plan.carrier).or_default().note(evidence, flow, hellos);
    }
    places
}

/// The place that most gets through to; the first of equals.
pub(crate) fn best(places: &[Place]) -> Option<&Place> {
    let most = places.iter().map(Place::score).max()?;
    places.iter().find(|place| place.score() == most)
}

/// The rows of the output.
pub(crate) fn by_address(places: &[Place]) -> Vec<AddressReachability> {
    places
        .iter()
        .map(|place| AddressReachability {
            address: place.address.to_string(),
            reachability: place.reachability(),
        })
        .collect()
}
