//! The OS firewall: does it let the port in, for TCP and for UDP? Read, never changed.
//!
//! On Linux the kernel's own rules are evaluated, whoever wrote them ([`Rules`]); firewalld and ufw are asked only
//! where those may not be read, and for the words of the commands. Windows' rules come from the registry, macOS'
//! from its application firewall.

mod commands;
mod eval;
mod firewalld;
mod ipset;
mod iptables;
mod judge;
mod kernel;
mod macos;
mod model;
mod nft;
mod nft_match;
mod nft_text;
mod platform;
mod ufw;
pub(super) mod value;
mod windows;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Severity};

pub use eval::Place;
pub use judge::{Arrival, Judgement};
pub use model::{Origin, Protocol};

use super::network::Network;
use super::report::{Check, Part, State, finding};
use eval::Outcome;
use model::Ruleset;

/// Something that could not be seen, and what it would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What is hidden.
    pub what: String,
    /// Privileges, a tool.
    pub needs: String,
}

impl Gap {
    fn new(what: impl Into<String>, needs: impl Into<String>) -> Self {
        Self { what: what.into(), needs: needs.into() }
    }
}

/// The kernel's packet filter rules, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    ruleset: Ruleset,
    gaps: Vec<Gap>,
}

impl Rules {
    /// The rules that Linux holds now, as far as they may be read.
    pub async fn read() -> Self {
        let (ruleset, gaps) = kernel::read().await;
        Self { ruleset, gaps }
    }

    /// The rules in what `nft -j list ruleset` printed; `None` where it is not that.
    pub fn from_nft_json(json: &str) -> Option<Self> {
        Some(Self { ruleset: nft::parse(json).ok()?, gaps: Vec::new() })
    }

    /// What could not be seen.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Who gets through to `arrival`.
    pub fn judge(&self, arrival: &Arrival, protocol: Protocol) -> Judgement {
        judge::judge(&self.ruleset, arrival, protocol)
    }

    /// Whether one client's exchange with the listener gets through; `Err` names the construct it hangs on.
    pub fn admits(&self, arrival: &Arrival, protocol: Protocol, client: SocketAddr) -> Result<bool, String> {
        let (family, address) = value::number(client.ip());
        let (_, host) = value::number(arrival.address);
        let client = judge::Client { family, address, port: client.port() };
        match judge::exchange(&self.ruleset, arrival, host, protocol, &client) {
            Outcome::Passes => Ok(true),
            Outcome::Dropped(_) | Outcome::Rejected(_) | Outcome::Elsewhere(..) => Ok(false),
            Outcome::Limited(construct, _) | Outcome::Unknown(construct) => Err(construct),
        }
    }
}

impl Judgement {
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Closed(by)
            | Self::Only { by, .. }
            | Self::Limited { by, .. }
            | Self::Elsewhere { by, .. } => Some(by),
            Self::Open { .. } | Self::Unknown { .. } => None,
        }
    }

    /// How much it matters, where it is not good.
    fn severity(&self) -> Option<Severity> {
        match self {
            Self::Closed(_) | Self::Elsewhere { .. } => Some(Severity::Blocking),
            Self::Only { .. } | Self::Limited { .. } => Some(Severity::Degraded),
            Self::Open { .. } | Self::Unknown { .. } => None,
        }
    }
}

/// Who looks after the rules, and so whose commands change them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Manager {
    Firewalld { zone: Option<String> },
    Ufw,
    Nftables,
    Iptables,
    None,
}

impl Manager {
    fn name(&self) -> &'static str {
        match self {
            Self::Firewalld { .. } => "firewalld",
            Self::Ufw => "ufw",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::None => "no firewall",
        }
    }

    /// Of the rules that stopped something, or of those that are there.
    fn of(ruleset: &Ruleset, stopped_by: Option<&Place>) -> Self {
        let firewalld = Self::Firewalld { zone: None };
        match stopped_by {
            Some(place) if place.table == "firewalld" => firewalld,
            Some(place) if place.origin == Origin::Nftables && place.chain.to_uppercase() != place.chain => {
                Self::Nftables
            }
            _ if ruleset.has_chain_with_prefix("ufw") => Self::Ufw,
            Some(place) if place.origin == Origin::Nftables => Self::Nftables,
            Some(_) => Self::Iptables,
            None if ruleset.has_table("firewalld") => firewalld,
            None if !ruleset.filters() => Self::None,
            None if ruleset.tables.iter().all(|table| table.origin != Origin::Nftables) => Self::Iptables,
            None => Self::Nftables,
        }
    }
}

/// The check of this host's firewall for `port`.
pub(super) async fn check(port: u16, network: &Network) -> Part {
    if cfg!(target_os = "linux") {
        linux(port, network).await
    } else if cfg!(windows) {
        platform::windows(port).await
    } else if cfg!(target_os = "macos") {
        platform::macos(port).await
    } else {
        Protocol::BOTH.iter().fold(Part::default(), |part, protocol| {
            let says = "this system's firewall is not known to this program";
            part.check(Check::unknown(&check_name(*protocol), says, "Linux, Windows or macOS"))
        })
    }
}

fn check_name(protocol: Protocol) -> String {
    format!("firewall-{}", protocol.name())
}

async fn linux(port: u16, network: &Network) -> Part {
    let rules = Rules::read().await;
    let facing = network.facing();
    let mut early = None;
    for interface in &facing {
        early = early.or(kernel::before_netfilter(&interface.name).await);
    }
    let mut arrivals = Vec::new();
    for interface in &facing {
        for address in &interface.addresses {
            arrivals.push(Arrival {
                interface: interface.name.clone(),
                bridged: interface.bridged,
                address: *address,
                port,
            });
        }
    }
    if arrivals.is_empty() {
        return Protocol::BOTH.iter().fold(Part::default(), |part, protocol| {
            let says = "no interface but loopback has an address";
            part.check(Check::unknown(&check_name(*protocol), says, "a network"))
        });
    }
    // Rules of a big host take a while to walk; the listener's own tasks must not wait for it.
    let walked = tokio::task::spawn_blocking(move || {
        let judged = Protocol::BOTH.map(|protocol| {
            let each = arrivals.iter().map(|arrival| (arrival.clone(), rules.judge(arrival, protocol)));
            (protocol, each.collect::<Vec<_>>())
        });
        (rules, judged)
    });
    let Ok((rules, judged)) = walked.await else {
        let says = "the evaluation of the rules stopped early";
        return Part::default().check(Check::unknown("firewall-tcp", says, "a report of this as a bug"));
    };
    let stopped_by =
        judged.iter().flat_map(|(_, each)| each).find_map(|(_, judgement)| judgement.place()).cloned();
    let mut manager = Manager::of(&rules.ruleset, stopped_by.as_ref());
    let unreadable = rules.gaps.iter().any(|gap| gap.needs.contains("root"));
    if unreadable {
        return platform::without_privileges(port, network, &rules.gaps).await;
    }
    if let Manager::Firewalld { zone } = &mut manager {
        *zone = platform::firewalld_zone(network).await;
    }
    linux_part(port, &rules, &manager, &judged, early.as_deref())
}

/// Words for one protocol's judgements.
fn linux_part(
    port: u16,
    rules: &Rules,
    manager: &Manager,
    judged: &[(Protocol, Vec<(Arrival, Judgement)>)],
    early: Option<&str>,
) -> Part {
    let mut part = Part::default();
    let mut bad: Vec<(Protocol, String, &Judgement)> = Vec::new();
    for (protocol, each) in judged {
        let what = format!("{port}/{}", protocol.name());
        let name = check_name(*protocol);
        let worst = each.iter().max_by_key(|(_, judgement)| judgement.severity());
        if let Some((arrival, judgement)) = worst.filter(|(_, judgement)| judgement.severity().is_some()) {
            let good: Vec<String> = each
                .iter()
                .filter(|(_, other)| matches!(other, Judgement::Open { .. }))
                .map(|(arrival, _)| place_name(arrival))
                .collect();
            let but = if good.is_empty() {
                String::new()
            } else {
                format!("; it is let in on {}", good.join(", "))
            };
            let says = format!("{}: {what} {}{but}", place_name(arrival), sentence(judgement));
            part = part.check(Check::problem(&name, says.clone()));
            bad.push((*protocol, says, judgement));
            continue;
        }
        let unknown = each.iter().find_map(|(arrival, judgement)| match judgement {
            Judgement::Unknown { construct } => Some((arrival, construct)),
            Judgement::Open { .. }
            | Judgement::Closed(_)
            | Judgement::Only { .. }
            | Judgement::Limited { .. }
            | Judgement::Elsewhere { .. } => None,
        });
        if let Some((arrival, construct)) = unknown {
            let says = format!("{}: whether {what} is let in hangs on `{construct}`", place_name(arrival));
            part = part.check(Check::unknown(
                &name,
                says,
                format!("somebody who knows what `{construct}` does"),
            ));
        } else if let Some(gap) = rules.gaps.first() {
            let says = format!("what can be read of the rules lets {what} in, but {}", gap.what);
            part = part.check(Check::unknown(&name, says, gap.needs.clone()));
        } else if let Some(early) = early {
            let says = format!("the rules let {what} in, but {early} sees packets before them");
            part = part.check(Check::unknown(&name, says, format!("somebody who knows what {early} does")));
        } else {
            part = part.check(Check::ok(&name, open_sentence(&what, manager, each)));
        }
    }
    if bad.is_empty() {
        return part;
    }
    let protocols: Vec<Protocol> = bad.iter().map(|(protocol, ..)| *protocol).collect();
    let judgements: Vec<&Judgement> =
        judged.iter().flat_map(|(_, each)| each).map(|(_, judgement)| judgement).collect();
    let severity =
        bad.iter().filter_map(|(.., judgement)| judgement.severity()).max().unwrap_or(Severity::Blocking);
    let says = bad.iter().map(|(_, says, _)| says.as_str()).collect::<Vec<_>>().join("; ");
    let mut found = os_firewall(port, &protocols, severity, &says, manager.name());
    found.direction = bad
        .iter()
        .find_map(|(.., judgement)| judgement.place())
        .map(|place| if place.inbound { Direction::Up } else { Direction::Down });
    found.commands = commands::open(manager, port, &protocols, &judgements);
    part.finding(found)
}

/// The finding, without commands.
fn os_firewall(
    port: u16,
    protocols: &[Protocol],
    severity: Severity,
    says: &str,
    firewall: &str,
) -> probe_protocol::finding::Finding {
    let names = protocols.iter().map(|protocol| protocol.name()).collect::<Vec<_>>();
    let fix = format!(
        "Let {} in on this host's own firewall ({firewall}); the product needs both TCP and UDP.",
        names.iter().map(|name| format!("{port}/{name}")).collect::<Vec<_>>().join(" and ")
    );
    let mut found = finding(Cause::OsFirewall, severity, says, fix);
    found.direction = Some(Direction::Up);
    found.parameters.firewall = Some(firewall.to_owned());
    found.parameters.kind = Some(names.join("+"));
    found
}

fn place_name(arrival: &Arrival) -> String {
    format!("{} ({})", arrival.interface, arrival.address)
}

fn sentence(judgement: &Judgement) -> String {
    let some = |names: &[String]| {
        let more = names.len().saturating_sub(judge::NAMED);
        let named = names.iter().take(judge::NAMED).cloned().collect::<Vec<_>>().join(", ");
        if more == 0 { named } else { format!("{named} and {more} more") }
    };
    match judgement {
        Judgement::Open { except } if except.is_empty() => "is let in".to_owned(),
        Judgement::Open { except } => format!("is let in, except from {}", some(except)),
        Judgement::Closed(by) if by.inbound => format!("is stopped by {by}"),
        Judgement::Closed(by) => format!("comes in, but the answers are stopped by {by}"),
        Judgement::Only { from, by } => {
            format!("is let in only from {}; all else is stopped by {by}", some(from))
        }
        Judgement::Limited { limit, by } => {
            format!("is let in only within `{limit}`; what is above it meets {by}")
        }
        Judgement::Elsewhere { to, by } => {
            format!("is sent on to {to} by {by}, and never reaches the listener")
        }
        Judgement::Unknown { construct } => format!("hangs on `{construct}`"),
    }
}

fn open_sentence(what: &str, manager: &Manager, each: &[(Arrival, Judgement)]) -> String {
    let places = each.iter().map(|(arrival, _)| place_name(arrival)).collect::<Vec<_>>().join(", ");
    let except = each.iter().find(|(_, judgement)| *judgement != Judgement::Open { except: Vec::new() });
    match (manager, except) {
        (Manager::None, _) => format!("no rule stops {what} on {places}"),
        (_, None) => format!("{} lets {what} in on {places}", manager.name()),
        (_, Some((arrival, judgement))) => format!("{}: {what} {}", place_name(arrival), sentence(judgement)),
    }
}

/// Checks of one state and wording for both protocols.
fn both(port: u16, state: State, says: &dyn Fn(&str) -> String, needs: Option<&str>) -> Vec<Check> {
    Protocol::BOTH
        .iter()
        .map(|protocol| Check {
            needs: needs.map(str::to_owned),
            ..Check::new(&check_name(*protocol), state, says(&format!("{port}/{}", protocol.name())))
        })
        .collect()
}
