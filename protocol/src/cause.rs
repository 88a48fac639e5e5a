//! The catalogue of causes: one row each, with the id that stands in every output.
//!
//! To add a cause, add a row here; the compiler then leads to the detector, the severity and the words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The chapter of the catalogue a cause stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Whether the port can be reached at all.
    Reachability,
    /// Loss and delay without anybody's intent.
    Loss,
    /// Quality of service: rates, queues and marks.
    Qos,
    /// Deep packet inspection.
    Dpi,
    /// State kept on the way, and addresses.
    State,
    /// Patterns in time.
    Time,
    /// The two hosts themselves; these veto the rest.
    Hosts,
    /// Going out from the listener's own host.
    Egress,
}

macro_rules! causes {
    ($($name:ident = $id:literal, $group:ident, $is:literal;)*) => {
        /// What is wrong with a path or a host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Cause {
            $(#[doc = $is] #[serde(rename = $id)] $name,)*
        }

        impl Cause {
            /// Every cause, in the catalogue's order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The id that stands in the output.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// The chapter of the catalogue.
            pub const fn group(self) -> Group {
                match self { $(Self::$name => Group::$group,)* }
            }

            /// What it is, in a few words.
            pub const fn is(self) -> &'static str {
                match self { $(Self::$name => $is,)* }
            }
        }
    };
}

causes! {
    TcpRefused = "tcp-refused", Reachability, "TCP to the port is answered with a reset";
    TcpFiltered = "tcp-filtered", Reachability, "TCP to the port is dropped";
    UdpBlocked = "udp-blocked", Reachability, "no datagram reaches the listener";
    UdpRepliesBlocked = "udp-replies-blocked", Reachability, "datagrams arrive, no reply returns";
    Unreachable = "unreachable", Reachability, "neither protocol arrives";
    CaptivePortal = "captive-portal", Reachability, "a portal answers for everybody";
    ProxyOnly = "proxy-only", Reachability, "the site lets traffic out through a proxy alone";
    LocalFilter = "local-filter", Reachability, "the client's own host filters (VPN, endpoint security, its firewall)";
    WrongHost = "wrong-host", Reachability, "something else answers on the port";
    NotForwarded = "not-forwarded", Reachability, "the router answers for itself, or one protocol goes elsewhere than the other";
    Hairpin = "hairpin", Reachability, "the client is inside the network it should test from outside";
    CarrierNat = "carrier-nat", Reachability, "the listener has no public address of its own to forward";
    OsFirewall = "os-firewall", Reachability, "the listener's own host drops the port";
    PortInUse = "port-in-use", Reachability, "another program has the port";
    LossyPath = "lossy-path", Loss, "loss of all classes, no queueing before it";
    OneWayLoss = "one-way-loss", Loss, "one direction loses clearly more";
    Congestion = "congestion", Loss, "queueing delay rises before loss, for every class";
    Bufferbloat = "bufferbloat", Loss, "own load raises everybody's delay far";
    BadPathMember = "bad-path-member", Loss, "some source ports lose and others never do";
    Reordering = "reordering", Loss, "packets overtake one another";
    Duplication = "duplication", Loss, "packets arrive more than once";
    UdpDeprioritized = "udp-deprioritized", Qos, "UDP waits or dies first when the link is full";
    UdpPolicer = "udp-policer", Qos, "UDP above a byte rate is dropped without delay";
    UdpShaper = "udp-shaper", Qos, "UDP above a byte rate is queued, then dropped";
    RateLimit = "rate-limit", Qos, "the same for all traffic: the line or its plan";
    UdpFloodProtection = "udp-flood-protection", Qos, "UDP above a packet rate is dropped";
    DscpRewritten = "dscp-rewritten", Qos, "DSCP marks are changed on the way";
    DscpDropped = "dscp-dropped", Qos, "packets with DSCP marks are lost";
    EcnBleached = "ecn-bleached", Qos, "ECN marks are cleared on the way";
    EcnDropped = "ecn-dropped", Qos, "packets with ECN marks are lost";
    QuicBlocked = "quic-blocked", Dpi, "QUIC recognised and dropped";
    TlsBlocked = "tls-blocked", Dpi, "TLS or its server name recognised";
    HighEntropyBlocked = "high-entropy-blocked", Dpi, "what looks random is dropped";
    UnknownProtocolBlocked = "unknown-protocol-blocked", Dpi, "what the classifier does not know is dropped";
    FirstPacketsDropped = "first-packets-dropped", Dpi, "the first packets of each flow are lost";
    FlowKilledByPackets = "flow-killed-by-packets", Dpi, "a flow dies after N packets";
    FlowKilledByBytes = "flow-killed-by-bytes", Dpi, "a flow dies after B bytes";
    FlowKilledByAge = "flow-killed-by-age", Dpi, "a busy flow dies at an age";
    FlowThrottled = "flow-throttled", Dpi, "a flow is slowed once classified";
    PenaltyBox = "penalty-box", Dpi, "after a trigger, fresh flows die too, for a time";
    RstInjected = "rst-injected", Dpi, "TCP is reset by neither end";
    PolicyPush = "policy-push", Dpi, "old flows all die at one moment of wall time";
    StaleFlowState = "stale-flow-state", Dpi, "an old flow decays, a new port cures it";
    FlowLimit = "flow-limit", Dpi, "the next concurrent flow past a number dies";
    TlsIntercepted = "tls-intercepted", Dpi, "the TLS path has a third party in it";
    TcpProxied = "tcp-proxied", Dpi, "TCP ends at a middlebox";
    PayloadRewritten = "payload-rewritten", Dpi, "bytes changed on the way";
    UdpIdleTimeout = "udp-idle-timeout", State, "an idle UDP mapping is forgotten";
    UdpOneWayRefresh = "udp-one-way-refresh", State, "only one direction's packets keep the mapping";
    TcpIdleTimeout = "tcp-idle-timeout", State, "an idle TCP connection dies";
    NatRebinding = "nat-rebinding", State, "the source address of a busy flow changes";
    AddressChanged = "address-changed", State, "the client's public address changes";
    SymmetricNat = "symmetric-nat", State, "mapping differs by destination";
    MtuBlackHole = "mtu-black-hole", State, "big packets vanish without a word";
    FragmentsDropped = "fragments-dropped", State, "fragments vanish";
    PeriodicDrop = "periodic-drop", Time, "loss recurs with a period";
    Outage = "outage", Time, "the whole path was dead for a while";
    LocalNetwork = "local-network", Time, "the client's own network failed";
    Unexplained = "unexplained", Time, "something is wrong and the evidence does not decide";
    ListenerRestarted = "listener-restarted", Hosts, "the listener went away and came back";
    ClientSuspended = "client-suspended", Hosts, "the client slept";
    ClockStepped = "clock-stepped", Hosts, "a wall clock was set";
    HostStalled = "host-stalled", Hosts, "an end was too busy, or its socket buffer overflowed";
    InterfaceChanged = "interface-changed", Hosts, "route, VPN or Wi-Fi network changed";
    EgressBlocked = "egress-blocked", Egress, "the licence server cannot be reached";
    EgressNameNotFound = "egress-name-not-found", Egress, "the licence server's name does not resolve";
    EgressIntercepted = "egress-intercepted", Egress, "the licence server's certificate is replaced";
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_are_what_serde_writes() {
        let ids: std::collections::BTreeSet<_> = Cause::ALL.iter().map(|c| c.id()).collect();
        assert_eq!(ids.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_string(cause).unwrap(), format!("\"{}\"", cause.id()));
        }
    }
}
