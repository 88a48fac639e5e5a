//! The words of causes that stand on the path: classifiers, state, and what happens in time.

use probe_protocol::cause::Cause;

use super::table::{Opens, SITE, USER, Words};

/// The rows.
pub(super) static PATHS: &[Words] = &[
    Words {
        cause: Cause::HighEntropyBlocked,
        kind: None,
        headline: "packets that look random are dropped, while plain text gets through",
        fix: "Exempt the listener's address and UDP port {port} from the rule that drops encrypted or unclassified traffic \
              (usual names: \"block unknown encrypted traffic\", \"entropy detection\", \"application control: unknown-udp\").",
        who: SITE,
        message: Some(
            "UDP packets to {target} are dropped when their content looks random, while text of the same size on the same \
             port passes. This is consistent with a filter on entropy or on unclassified encrypted traffic. Please exempt \
             this address and UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::UnknownProtocolBlocked,
        kind: None,
        headline: "only known protocols get through: anything that is not recognised is dropped",
        fix: "Add a rule that allows UDP port {port} to the listener's address by port, before application control (usual \
              names: \"unknown-udp\", \"unclassified\", \"application override\").",
        who: SITE,
        message: Some(
            "UDP packets to {target} are dropped as soon as they are found to be of no known protocol, while QUIC on the \
             same port passes. Please allow UDP port {port} to this address by port, or define an application override. \
             What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FirstPacketsDropped,
        kind: None,
        headline: "the first packets of every new connection over UDP are lost, {packets} of each",
        fix: "Look for a firewall that holds a new flow's first packets while it decides and then drops them (usual names: \
              \"flow setup\", \"first packet inspection\", \"SYN/UDP cookie\", a controller that installs flows on demand). \
              Until then every transfer starts late by as many repetitions.",
        who: SITE,
        message: Some(
            "The first {packets} packets of each UDP flow to {target} are lost, whatever they contain; later ones pass. \
             Please check flow setup and first-packet inspection for UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FlowKilledByPackets,
        kind: None,
        headline: "every UDP flow is cut off after {packets} packets",
        fix: "Exempt UDP port {port} to the listener's address from inspection that gives a verdict after a number of packets \
              (usual names: \"application control\", \"IPS\", \"session packet limit\").",
        who: SITE,
        message: Some(
            "UDP flows to {target} stop passing after exactly {packets} packets, at any rate and size; a new source port \
             works again. Please exempt UDP port {port} from the rule or limit that acts then. What was measured: \
             {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FlowKilledByBytes,
        kind: None,
        headline: "every UDP flow is cut off after about {bytes} bytes",
        fix: "Exempt UDP port {port} to the listener's address from limits and inspection by volume (usual names: \"session \
              byte limit\", \"quota\", \"inspection size limit\").",
        who: SITE,
        message: Some(
            "UDP flows to {target} stop passing after about {bytes} bytes, whatever the size of their packets; a new source \
             port works again. Please lift the limit by volume for UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FlowKilledByAge,
        kind: None,
        headline: "every UDP flow is cut off when it is {age} old, however busy it is",
        fix: "Raise the maximum lifetime of sessions for UDP port {port}, or lift it (usual names: \"session TTL\", \"maximum \
              session duration\", \"hard timeout\"); it is not the idle timeout.",
        who: SITE,
        message: Some(
            "UDP flows to {target} stop passing at an age of {age} although they are busy; a new source port works again. \
             Please check for a maximum (hard) session lifetime on UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::PolicyPush,
        kind: None,
        headline: "all existing UDP flows were cut off at one moment ({moment}), and new ones work",
        fix: "Ask what happened at that moment: a policy was installed, or a firewall failed over or restarted without the \
              state of its sessions. Let sessions survive policy changes (usual names: \"keep sessions on policy install\", \
              \"session synchronisation\", \"HA state sync\").",
        who: SITE,
        message: Some(
            "At {moment} all established UDP flows to {target} stopped at once, while new ones pass: session state was lost \
             at that moment. Please check what was installed, restarted or failed over then. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::PenaltyBox,
        kind: None,
        headline: "after a burst of new flows, all UDP is blocked for {hold}",
        fix: "Raise the limit of new UDP flows per second or of flows per host, or exempt the listener's address (usual names: \
              \"DoS policy\", \"UDP session limit\", \"scan protection\", \"quarantine\").",
        who: SITE,
        message: Some(
            "After a number of new UDP flows from one host to {target}, all its UDP is dropped for {hold}. Please exempt this \
             address, or raise the limits for UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FlowLimit,
        kind: None,
        headline: "no more than {number} UDP flows can be open at the same time",
        fix: "Raise the number of sessions or translated ports per host (usual names: \"per-IP session limit\", \"NAT port \
              block size\"); a carrier's shared address may have no more.",
        who: SITE,
        message: Some(
            "With {number} UDP flows from one host to {target} open, further ones get nothing. Please raise the limit of \
             sessions or of NAT ports per host. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::StaleFlowState,
        kind: None,
        headline: "old UDP flows begin to lose packets, and a new source port cures it",
        fix: "Look for a device that keeps outdated state of long flows: an offload or fast path, a load balancer's or NAT's \
              table, a link aggregate. Clearing that flow's entry cures it for a while; a change of firmware or of offload \
              settings may for good.",
        who: SITE,
        message: Some(
            "Long-lived UDP flows to {target} begin to lose packets while new flows from the same host are clean. Please \
             check per-flow state, offload and load balancing for UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::RstInjected,
        kind: None,
        headline: "TCP connections are reset by something between the two ends",
        fix: "Look for the device or program that resets connections to port {port}: an IPS, application control, or endpoint \
              security on either computer. Exempt the listener's address.",
        who: SITE,
        message: Some(
            "TCP connections to {target} are reset although neither end did it. Please check IPS and application control for \
             TCP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::TcpProxied,
        kind: None,
        headline: "TCP connections end at a device on the way, which makes its own to the listener",
        fix: "Nothing needs to be done if all works. If transfers over TCP stall, exempt the listener's address from the proxy \
              or WAN optimiser.",
        who: SITE,
        message: Some(
            "TCP connections to {target} are answered by a device on the way. Please exempt this address from transparent \
             proxies and WAN optimisers. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::BadPathMember,
        kind: None,
        headline: "some source ports lose packets and others never do: one of several parallel links is bad",
        fix: "Ask for the error counters of each member of link aggregates and of each parallel path (ECMP); one of them \
              drops packets. Take it out of service until it is mended.",
        who: "the network team or the internet provider",
        message: Some(
            "Some UDP source ports to {target} lose packets all the time and others never do. This is consistent with one bad \
             member of a link aggregate or of equal-cost paths. Please check the error counters of each member. What was \
             measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::DscpDropped,
        kind: None,
        headline: "packets with certain priority marks (DSCP) are lost {way}",
        fix: "Send without these marks, or ask for the rule or queue that drops them (a priority queue without room, a policy \
              on trust of DSCP).",
        who: SITE,
        message: Some(
            "Packets to {target} that carry certain DSCP marks are lost, while others of the same flow pass. Please check QoS \
             policies for these marks. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::EcnDropped,
        kind: None,
        headline: "packets that carry congestion marks (ECN) are lost {way}",
        fix: "Find the old or strict device that drops packets with ECN bits and let them pass; until then, send without ECN.",
        who: SITE,
        message: Some(
            "Packets to {target} with ECN marks (RFC 3168) are lost, while others of the same flow pass. Please let packets \
             with ECN bits through. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::UdpIdleTimeout,
        kind: None,
        headline: "a UDP flow that is silent for {timeout} is forgotten on the way",
        fix: "Nearly every router does so. It does harm only where the product is silent for longer: then raise the UDP \
              timeout of the router or firewall, or let the product send keepalives more often than that.",
        who: SITE,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::UdpOneWayRefresh,
        kind: None,
        headline: "only what one side sends keeps a UDP flow alive on the way",
        fix: "Let the product send something from that side more often than every {timeout}, also while it only receives.",
        who: SITE,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::TcpIdleTimeout,
        kind: None,
        headline: "a TCP connection that is silent for {timeout} is forgotten on the way",
        fix: "Let the product send TCP keepalives more often than that, or raise the TCP session timeout for port {port}.",
        who: SITE,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FragmentsDropped,
        kind: None,
        headline: "packets that had to be cut into fragments are lost {way}",
        fix: "Keep the product's packets below the path's size. Many firewalls drop fragments on purpose; if they must pass, \
              allow them (usual names: \"drop fragments\", \"fragment reassembly\").",
        who: SITE,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::PeriodicDrop,
        kind: None,
        headline: "every {period}, everything is lost for a moment",
        fix: "Look for what recurs with that period: a scan of a radio link, a routing or spanning-tree timer, a health check \
              that fails over, a scheduled task on a firewall.",
        who: "the network team or the internet provider",
        message: Some(
            "Packets to {target} are all lost for a moment every {period}. Please look for what recurs with that period. What \
             was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Outage,
        kind: None,
        headline: "the whole way to the listener was dead for {length}",
        fix: "Ask the internet provider, or whoever runs the network between, what happened at {moment}. This site's own gateway \
              answered all the time.",
        who: "the internet provider, or the network team between the two sites",
        message: Some(
            "At {moment} nothing reached {target} for {length}, over any protocol, while the local gateway answered. Please \
             check what happened then. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::LocalNetwork,
        kind: None,
        headline: "this site's own network failed for a while",
        fix: "Look at this computer's Wi-Fi or cable, and at the router: its own gateway did not answer. Try a cable instead of \
              Wi-Fi.",
        who: "you, or whoever looks after this site's network",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::InterfaceChanged,
        kind: None,
        headline: "this computer changed its way to the network during the run ({old} became {new})",
        fix: "Stay on one network (cable, one Wi-Fi, VPN on or off) and run the check again.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
];
