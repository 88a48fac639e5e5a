//! Whether the port can be reached at all.

pub(super) mod captive_portal;
pub(super) mod hairpin;
pub(super) mod local_filter;
pub(super) mod not_forwarded;
pub(super) mod proxy_only;
pub(super) mod tcp_filtered;
pub(super) mod tcp_refused;
pub(super) mod udp_blocked;
pub(super) mod udp_replies_blocked;
pub(super) mod unreachable;
pub(super) mod wrong_host;

use std::net::SocketAddr;

use probe_protocol::finding::{Evidence, Side};
use probe_protocol::wire::hello::Carrier;

use crate::summarise::reach::{Openings, Place};

/// Everything that runs over TCP.
const STREAMS: &[Carrier] = &[Carrier::Tcp, Carrier::Tls];
/// Everything that runs over UDP.
const DATAGRAMS: &[Carrier] = &[Carrier::Udp, Carrier::Quic, Carrier::QuicInverse];
/// All transports.
const ALL: &[Carrier] = &Carrier::ALL;

/// The attempts over several transports together.
fn together(place: &Place, carriers: &[Carrier]) -> Vec<Openings> {
    carriers.iter().map(|carrier| place.of(*carrier)).filter(|o| !o.flows.is_empty()).collect()
}

fn total(openings: &[Openings], count: impl Fn(&Openings) -> u64) -> u64 {
    openings.iter().map(count).sum()
}

fn any_reaches(openings: &[Openings]) -> bool {
    openings.iter().any(Openings::reaches_listener)
}

/// Evidence with the flows and the window of these attempts.
fn evidence(openings: &[Openings], says: String) -> Evidence {
    let windows = || openings.iter().filter_map(|o| o.window_s);
    let round = |s: f64| (s * 1000.0).round() / 1000.0;
    Evidence {
        flows: openings.iter().flat_map(|o| o.flows.iter().cloned()).collect(),
        from_s: windows().map(|w| w.0).min_by(f64::total_cmp).map(round),
        to_s: windows().map(|w| w.1).max_by(f64::total_cmp).map(round),
        says,
        ..Evidence::default()
    }
}

/// Evidence that the listener is alive at this address, by the other protocol.
fn alive(place: &Place, carriers: &[Carrier]) -> Option<Evidence> {
    let open: Vec<_> = together(place, carriers).into_iter().flat_map(|o| o.opened_flows).collect();
    (!open.is_empty()).then(|| Evidence {
        says: format!("the listener at {} answered over {}", place.address, open.join(", ")),
        flows: open,
        ..Evidence::default()
    })
}

/// Whose doing an ICMP message or a reset is: the listener's host's own, where it comes from the target's address.
fn side_of(by: impl IntoIterator<Item = std::net::IpAddr>, target: SocketAddr) -> Side {
    let mut by = by.into_iter().peekable();
    if by.peek().is_some() && by.all(|ip| ip == target.ip()) { Side::Listener } else { Side::Path }
}

/// `1 port`, `3 ports`.
fn ports(openings: &[Openings]) -> String {
    let n: usize = openings.iter().map(|o| o.source_ports.len()).sum();
    match n {
        0 => String::new(),
        1 => " from 1 source port".to_owned(),
        n => format!(" from {n} source ports"),
    }
}
