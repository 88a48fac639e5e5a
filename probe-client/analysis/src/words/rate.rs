//! The words of what limits rates, fills queues and falls silent. Places as in [`super::table`], and `{rate}`, `{burst}`,
//! `{pps}`, `{hold}`, `{delay}`, `{period}`, `{length}`.

use probe_protocol::cause::Cause;

use super::table::{Opens, Words};

const SITE: &str = "the network team of this site, or of the listener's";
const PROVIDER: &str = "whoever runs the line: this site's network team, or the internet provider";

/// Words of rates.
pub static RATE: &[Words] = &[
    Words {
        cause: Cause::UdpPolicer,
        kind: None,
        headline: "UDP above {rate} is dropped {way}, while TCP is not",
        fix: "Look for a rate limit on UDP on the firewall, the router or the provider's edge (\"policer\", \"CAR\", \"storm \
              control\", \"QoS profile\", \"traffic policy\") and lift it for UDP port {port}, or shape instead of policing. \
              Until then send below {rate}, in bursts of at most {burst}.",
        who: SITE,
        message: Some(
            "UDP between this site and {target} (port {port}) is policed {way}: what exceeds {rate} with bursts of {burst} is \
             dropped at once, without queueing, while TCP on the same path is not. Please exempt UDP port {port} from \
             that limit or raise it. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::UdpShaper,
        kind: None,
        headline: "UDP above {rate} is held back {way}, while TCP is not",
        fix: "Look for a bandwidth class for UDP on the firewall, the router or a traffic manager (\"shaping\", \"bandwidth \
              profile\", \"guaranteed and maximum bandwidth\") and raise it for UDP port {port}. Until then send below \
              {rate}.",
        who: SITE,
        message: Some(
            "UDP between this site and {target} (port {port}) is shaped {way} to {rate} with bursts of {burst}, while TCP on \
             the same path is faster. Please raise that class for UDP port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::RateLimit,
        kind: None,
        headline: "the line carries {rate} {way}, and no more",
        fix: "This is the rate of the line or of its plan. Set the transfer's rate below {rate}; for more, a faster plan or \
              line is needed.",
        who: PROVIDER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::RateLimit,
        kind: Some("policer"),
        headline: "everything above {rate} is dropped {way}",
        fix: "This is the rate of the line, or of a limit on it that drops what exceeds it instead of queueing it. Set the \
              transfer's rate below {rate}, with bursts of at most {burst}. Whoever runs the limit can shape instead of \
              policing, which costs transfers far less.",
        who: PROVIDER,
        message: Some(
            "Traffic between this site and {target} is policed {way} at {rate} with bursts of {burst}: what exceeds it is \
             dropped at once. Please check whether that rate is meant, and shape instead of policing where possible. What \
             was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::UdpFloodProtection,
        kind: None,
        headline: "UDP above {pps} packets a second is dropped {way}, as if it were an attack",
        fix: "Look for flood or denial-of-service protection on the firewall (\"UDP flood\", \"screen\", \"DoS policy\", \"zone \
              protection\") and raise its UDP threshold, or exempt UDP port {port}. Larger packets at the same bit rate stay \
              below it.",
        who: SITE,
        message: Some(
            "UDP between this site and {target} (port {port}) is dropped {way} above {pps} packets a second, whatever their \
             size. That is consistent with flood protection. Please exempt UDP port {port} or raise the threshold. What was \
             measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::UdpDeprioritized,
        kind: None,
        headline: "when the line is full, UDP waits or is dropped before TCP {way}",
        fix: "Look for a priority or queue policy that puts UDP, or this port, into a low class (\"scavenger\", \"best \
              effort\", \"low priority\"), and put UDP port {port} into the class of other business traffic.",
        who: SITE,
        message: Some(
            "When the line is full, UDP between this site and {target} (port {port}) is dropped or delayed before TCP {way}. \
             Please give UDP port {port} the same class. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::FlowThrottled,
        kind: None,
        headline: "a transfer is slowed to {rate} {way} once it has run for a while",
        fix: "Look for a policy that limits long or large flows (\"application control\", \"per-flow rate limit\", \"fair \
              use\", \"elephant flow\") and exempt UDP port {port}.",
        who: SITE,
        message: Some(
            "A flow between this site and {target} (port {port}) is slowed {way} to {rate} after a while, and a fresh flow is \
             fast again at that moment. Please exempt port {port} from limits on long flows. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Congestion,
        kind: None,
        headline: "the path is congested {way}: packets wait, and then some are lost",
        fix: "Other traffic fills a link on the way. Find out which link and when (ask for utilisation and drop counters), move \
              large transfers to quieter hours, or get more capacity. A lower rate helps everybody on the link.",
        who: PROVIDER,
        message: Some(
            "The path between this site and {target} is congested {way}: delay rises before packets are lost, for all kinds \
             of traffic. Please check utilisation and queue drops of the links on it. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Bufferbloat,
        kind: None,
        headline: "a full line adds {delay} to everybody's delay {way}",
        fix: "Switch on queue management (\"SQM\", \"fq_codel\", \"CAKE\", \"smart queue\") on the router before the slowest \
              line, or set the transfer's rate a little below the line's.",
        who: "whoever looks after the router before the slowest line, often this site's or the home router",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::DscpDropped,
        kind: None,
        headline: "packets with some quality-of-service marks are lost {way}",
        fix: "Do not mark the transfer's packets, or have the marks that are dropped ({kind}) let through or set to zero at \
              the edge instead.",
        who: SITE,
        message: Some(
            "Packets between this site and {target} with the DSCP marks {kind} are dropped {way}. Please forward them, or set \
             the marks to zero instead of dropping. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::EcnDropped,
        kind: None,
        headline: "packets with congestion marks (ECN) are lost {way}",
        fix: "Have the device that drops packets with ECN marks mended or updated; until then switch ECN off at the ends.",
        who: SITE,
        message: Some(
            "Packets between this site and {target} with ECN marks are dropped {way} (RFC 3168 asks to forward them). Please \
             check firewalls that look at the TOS byte. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::PeriodicDrop,
        kind: None,
        headline: "everything is lost {way} for {length}, again and again, each {period}",
        fix: "Look for what runs with that period: a scan of the radio, a routing or redundancy timer, a backup, a table \
              that is cleared.",
        who: PROVIDER,
        message: Some(
            "Traffic between this site and {target} is interrupted {way} for {length} each {period}. Please look for a timer \
             with that period. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Outage,
        kind: None,
        headline: "the path was dead {way} for {length}",
        fix: "Ask what happened at that time: maintenance, a fail-over, a line that went down.",
        who: PROVIDER,
        message: Some(
            "Nothing got through between this site and {target} {way} for {length}. Please check what happened at that time. \
             What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
];
