//! How much each cause matters to the product.

use probe_protocol::cause::Cause;
use probe_protocol::finding::Severity;

use self::Severity::{Blocking, Degraded, Info};

/// One row per cause.
pub static SEVERITIES: &[(Cause, Severity)] = &[
    (Cause::TcpRefused, Blocking),
    (Cause::TcpFiltered, Blocking),
    (Cause::UdpBlocked, Blocking),
    (Cause::UdpRepliesBlocked, Blocking),
    (Cause::Unreachable, Blocking),
    (Cause::CaptivePortal, Blocking),
    (Cause::ProxyOnly, Blocking),
    (Cause::LocalFilter, Blocking),
    (Cause::WrongHost, Blocking),
    (Cause::NotForwarded, Blocking),
    (Cause::Hairpin, Info),
    (Cause::CarrierNat, Blocking),
    (Cause::OsFirewall, Blocking),
    (Cause::PortInUse, Blocking),
    (Cause::LossyPath, Degraded),
    (Cause::OneWayLoss, Degraded),
    (Cause::Congestion, Degraded),
    (Cause::Bufferbloat, Degraded),
    (Cause::BadPathMember, Degraded),
    (Cause::Reordering, Degraded),
    (Cause::Duplication, Info),
    (Cause::UdpDeprioritized, Degraded),
    (Cause::UdpPolicer, Degraded),
    (Cause::UdpShaper, Degraded),
    (Cause::RateLimit, Info),
    (Cause::UdpFloodProtection, Degraded),
    (Cause::DscpRewritten, Info),
    (Cause::DscpDropped, Degraded),
    (Cause::EcnBleached, Info),
    (Cause::EcnDropped, Degraded),
    (Cause::QuicBlocked, Degraded),
    (Cause::TlsBlocked, Degraded),
    (Cause::HighEntropyBlocked, Blocking),
    (Cause::UnknownProtocolBlocked, Blocking),
    (Cause::FirstPacketsDropped, Degraded),
    (Cause::FlowKilledByPackets, Degraded),
    (Cause::FlowKilledByBytes, Degraded),
    (Cause::FlowKilledByAge, Degraded),
    (Cause::FlowThrottled, Degraded),
    (Cause::PenaltyBox, Degraded),
    (Cause::RstInjected, Degraded),
    (Cause::PolicyPush, Degraded),
    (Cause::StaleFlowState, Degraded),
    (Cause::FlowLimit, Degraded),
    (Cause::TlsIntercepted, Degraded),
    (Cause::TcpProxied, Info),
    (Cause::PayloadRewritten, Degraded),
    // Nearly every NAT forgets; it harms where the timeout is below the product's keepalive.
    (Cause::UdpIdleTimeout, Info),
    (Cause::UdpOneWayRefresh, Info),
    (Cause::TcpIdleTimeout, Info),
    (Cause::NatRebinding, Degraded),
    (Cause::AddressChanged, Degraded),
    (Cause::SymmetricNat, Info),
    (Cause::MtuBlackHole, Degraded),
    (Cause::FragmentsDropped, Info),
    (Cause::PeriodicDrop, Degraded),
    (Cause::Outage, Degraded),
    (Cause::LocalNetwork, Degraded),
    (Cause::Unexplained, Degraded),
    // The hosts: they spoil the measurement, not the path.
    (Cause::ListenerRestarted, Info),
    (Cause::ClientSuspended, Info),
    (Cause::ClockStepped, Info),
    (Cause::HostStalled, Info),
    (Cause::InterfaceChanged, Info),
    (Cause::EgressBlocked, Blocking),
    (Cause::EgressNameNotFound, Blocking),
    (Cause::EgressIntercepted, Degraded),
];

/// How severe a cause is.
pub fn severity(cause: Cause) -> Severity {
    SEVERITIES.iter().find(|(c, _)| *c == cause).map_or(Degraded, |(_, severity)| *severity)
}
