//! `tcp-proxied`: TCP ends at a box on the way. Its handshake is answered from there, so it is far quicker than the echo
//! through the same connection. The size that TCP settles on is no evidence, since routers clamp it; a container's port
//! proxy stands on the listener's own host, where the handshake takes as long as the echo.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, thresholds};

/// The handshake must be quicker than the echo by this factor, and by so many milliseconds: the listener's own time is
/// taken out, and what a busy host adds is less.
const FACTOR: f64 = 0.5;
const AT_LEAST_MS: f64 = 4.0;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut handshakes = Vec::new();
    let mut echo = f64::MAX;
    let mut names = Vec::new();
    for (flow, traffic) in &case.flows {
        let stream = matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls);
        let Some(connect) = flow.opened.as_ref().filter(|_| stream).and_then(|o| o.connect) else { continue };
        let Some(least) = traffic.app.min().filter(|_| traffic.app.count() >= 20) else { continue };
        handshakes.push(connect.as_secs_f64() * 1e3);
        echo = echo.min(least as f64 / 1e6);
        names.push(flow.plan.name.clone());
    }
    // Datagrams are answered by the listener itself: the path is no quicker than they are.
    let datagrams = case.steady_udp().filter_map(|(_, t)| t.app.min()).min().map(|ns| ns as f64 / 1e6);
    let slowest = handshakes.iter().copied().fold(0.0, f64::max);
    let below = |whole: f64| slowest < FACTOR * whole && whole - slowest > AT_LEAST_MS;
    if handshakes.len() < 2 || !below(echo) || !datagrams.is_none_or(below) {
        return Vec::new();
    }
    let says = format!(
        "{} TCP handshakes took {slowest:.1} ms at most, and the quickest echo through these connections {echo:.1} ms{}",
        handshakes.len(),
        datagrams.map(|ms| format!(" ({ms:.1} ms by datagram)")).unwrap_or_default()
    );
    let p = 0.5f64.powi(handshakes.len() as i32 * 4).max(1e-9);
    vec![
        Claim::new(Cause::TcpProxied, Side::Path)
            .probability(if p < 1.0 - thresholds::CERTAIN { 1.0 - p } else { 0.9 })
            .parameters(Parameters {
                added_delay_ms: Some(((echo - slowest) * 1e3).round() / 1e3),
                ..Parameters::default()
            })
            .because(Evidence { flows: names, says, ..Evidence::default() })
            .rather_than(
                Cause::Congestion,
                "the quickest of all echoes is compared, which no queue had delayed",
            )
            .or([], "more connections"),
    ]
}
