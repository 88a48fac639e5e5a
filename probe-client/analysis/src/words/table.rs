//! The words of each cause. Places: `{port}`, `{way}`, `{loss}`, `{mtu}`, `{reason}`, `{issuer}`, `{kind}`, `{old}`,
//! `{new}`, `{packets}`, `{bytes}`, `{number}`, `{age}`, `{hold}`, `{timeout}`, `{period}`, `{length}`, `{moment}`; in messages also `{target}` and `{evidence}`.

use probe_protocol::cause::Cause;

/// One cause's words.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// The cause.
    pub cause: Cause,
    /// The kind of it that these words are for; none where they are for all others.
    pub kind: Option<&'static str>,
    /// What is wrong, in one sentence for a person without network training; no full stop.
    pub headline: &'static str,
    /// What to change, and where it usually is.
    pub fix: &'static str,
    /// Who is likely able to change it.
    pub who: &'static str,
    /// A paragraph to send them.
    pub message: Option<&'static str>,
    /// What the commands open.
    pub opens: Opens,
}

/// What the commands of a cause open.
#[derive(Clone, Copy, Debug)]
pub enum Opens {
    /// There are none.
    Nothing,
    /// The port on the listener's host, for these protocols.
    Listener(&'static [&'static str]),
    /// The port outwards, on the client's host.
    Client,
    /// ICMP "packet too big".
    PacketTooBig,
}

pub(super) const SITE: &str = "the network team of this site, or of the listener's";
const LISTENER: &str = "the admin of the listener's host, or of the router and firewall before it";
pub(super) const USER: &str = "you, or whoever looks after this computer";

/// All words.
pub static TABLE: &[Words] = &[
    Words {
        cause: Cause::Unexplained,
        kind: None,
        headline: "something on the way is wrong, and this check could not tell what",
        fix: "Run the check again, from here and from another network (a phone's hotspot, for example): what differs \
              points at the culprit. Send both reports to the admin.",
        who: "nobody yet: first find out more",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::TcpRefused,
        kind: None,
        headline: "TCP connections to port {port} are refused, while UDP gets through",
        fix: "Let TCP port {port} through as UDP already is. Look first at the listener's own firewall and at the port \
              forwarding of the router before it (a rule for UDP alone is common), then at firewalls that answer with a \
              reset instead of silence (\"reject\", \"reset\", \"TCP RST\").",
        who: LISTENER,
        message: Some(
            "TCP connections to {target} are answered with a reset, while UDP to the same address and port works. Please \
             allow TCP port {port} to this host and forward it like UDP {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Listener(&["tcp"]),
    },
    Words {
        cause: Cause::TcpFiltered,
        kind: None,
        headline: "TCP connections to port {port} get no answer, while UDP gets through",
        fix: "Let TCP port {port} through. Silence is how firewalls drop by default: look at the listener's own firewall, \
              at the port forwarding for TCP, and at this site's rule for outgoing connections to port {port}.",
        who: SITE,
        message: Some(
            "TCP connections to {target} are dropped without an answer, while UDP to the same address and port works. \
             Please allow outgoing and incoming TCP port {port} between these hosts. What was measured: {evidence}.",
        ),
        opens: Opens::Listener(&["tcp"]),
    },
    Words {
        cause: Cause::UdpBlocked,
        kind: None,
        headline: "no UDP packet to port {port} reaches the listener, while TCP gets through",
        fix: "Let UDP port {port} through: at the listener's own firewall, in the port forwarding of the router before it \
              (a rule for TCP alone is common), and at this site's firewall (outgoing UDP is often closed except for DNS; \
              usual names: \"UDP outbound\", \"block QUIC\", \"unknown UDP\").",
        who: SITE,
        message: Some(
            "UDP packets to {target} never arrive, while TCP to the same address and port works. Please allow UDP port \
             {port} from this site to that host, and replies back (stateful), and make sure that it is forwarded like TCP \
             {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Listener(&["udp"]),
    },
    Words {
        cause: Cause::UdpRepliesBlocked,
        kind: None,
        headline: "UDP packets reach the listener on port {port}, but its answers do not come back",
        fix: "Let the answers back: a firewall must keep state for UDP, or allow UDP from source port {port}. Look also for \
              two ways out on the listener's side (the answer leaves by another router than the one the question came \
              through) and for rules on outgoing UDP on the listener's host.",
        who: SITE,
        message: Some(
            "UDP packets to {target} arrive and are answered, but the answers (source port {port}) are lost on the way \
             back. Please check stateful UDP handling, asymmetric routing and outgoing UDP rules for this host. What was \
             measured: {evidence}.",
        ),
        opens: Opens::Listener(&["udp"]),
    },
    Words {
        cause: Cause::Unreachable,
        kind: None,
        headline: "the listener cannot be reached at all ({reason})",
        fix: "Check in this order: is the address right and up to date; is probe-server running there (it prints the \
              address it listens on); does the router before it forward TCP and UDP port {port}; does the firewall of that \
              host, and of this site, let port {port} through. `probe-server doctor` on that host says what is wrong there.",
        who: LISTENER,
        message: Some(
            "Neither TCP nor UDP port {port} of {target} can be reached from outside. Please check that the host is up, \
             that its firewall allows TCP and UDP {port}, and that the router forwards both to it. What was measured: \
             {evidence}.",
        ),
        opens: Opens::Listener(&["tcp", "udp"]),
    },
    Words {
        cause: Cause::Unreachable,
        kind: Some("name-not-found"),
        headline: "the listener's name is not known ({reason})",
        fix: "Check the spelling of the name. If it is right, use the address itself, or ask the admin for one: this \
              computer's name server does not know the name, or could not be asked.",
        who: "you, or whoever looks after this site's name server",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Unreachable,
        kind: Some("no-route"),
        headline: "this computer knows no way to the listener ({reason})",
        fix: "Check that this computer is connected (cable, Wi-Fi, VPN), and that the address is right: an IPv6 address \
              needs a network with IPv6.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Unreachable,
        kind: Some("local"),
        headline: "this computer could not even try to reach the listener ({reason})",
        fix: "Look at what this computer says, mend that, and run the check again.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::CaptivePortal,
        kind: None,
        headline: "a sign-in page answers instead of the listener",
        fix: "Open a web browser on this computer and sign in to the network (hotel, guest Wi-Fi, site access), then run the \
              check again.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::ProxyOnly,
        kind: None,
        headline: "this site lets traffic out through its proxy ({reason}) alone, which UDP cannot use",
        fix: "Have this site's firewall allow TCP and UDP port {port} to the listener's address directly. A proxy carries \
              the API over TCP at best, never the bulk data over UDP.",
        who: "the network team of this site",
        message: Some(
            "Connections to {target} get through the web proxy alone; direct ones are dropped. The product needs direct TCP \
             and UDP on port {port} to this address. Please add an outgoing rule for both. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::LocalFilter,
        kind: None,
        headline: "this computer itself forbids {KIND} traffic to port {port}",
        fix: "Allow outgoing {KIND} to port {port} in this computer's firewall, endpoint security or VPN client, then run \
              the check again.",
        who: USER,
        message: Some(
            "This computer's own security software refuses to send {KIND} to {target}: {evidence}. Please allow outgoing \
             TCP and UDP to port {port}.",
        ),
        opens: Opens::Client,
    },
    Words {
        cause: Cause::WrongHost,
        kind: None,
        headline: "something else answers on that port ({kind})",
        fix: "Check the address and the port. If they are right, another program has port {port} on that host, or the \
              router forwards the port to another machine: stop that program, or correct the forwarding, and start \
              probe-server there.",
        who: LISTENER,
        message: Some(
            "On port {port} something other than probe-server answers: {evidence}. Please check which program listens on \
             that port, and to which machine the router forwards it.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::NotForwarded,
        kind: None,
        headline: "{KIND} to port {port} ends up somewhere else than the other protocol",
        fix: "Forward {KIND} port {port} to the same machine as the other protocol. Routers often need one rule for TCP and \
              one for UDP, or \"both\"; some answer for themselves where the rule is missing.",
        who: LISTENER,
        message: Some(
            "{KIND} port {port} of {target} does not reach the same machine as the other protocol. Please forward TCP and \
             UDP {port} to the same internal host. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Hairpin,
        kind: None,
        headline: "this check ran from inside the network that it should test from outside",
        fix: "Run the check from outside (another site, a phone's hotspot): from in here, the traffic turns around at the \
              router and does not see what users outside will see.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::TlsIntercepted,
        kind: None,
        headline: "encrypted connections are opened on the way (certificate of {issuer})",
        fix: "Exempt the listener's address and port {port} from SSL inspection (usual names: \"SSL inspection\", \"TLS \
              decryption\", \"HTTPS scanning\", \"deep inspection\"; also in endpoint security on this computer).",
        who: "the network team of this site, or whoever looks after this computer's security software",
        message: Some(
            "TLS connections to {target} are decrypted on the way by a certificate issued by {issuer}. Please exempt this \
             address and TCP port {port} from TLS inspection. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::TlsBlocked,
        kind: None,
        headline: "TLS connections to port {port} are cut, while plain TCP gets through",
        fix: "Exempt the listener's address and port {port} from TLS inspection and application control, and allow TLS on \
              ports other than 443 (usual names: \"SSL inspection: block untrusted certificates\", \"application control: \
              SSL on non-standard ports\", \"application default ports only\").",
        who: SITE,
        message: Some(
            "TLS connections to {target} are cut at their first message, while plain TCP to the same port passes. This is \
             consistent with a filter that allows TLS on known ports alone, or with inspection that refuses the \
             certificate. Please allow TLS on TCP port {port} to this address and exempt it from inspection. What was \
             measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::TlsBlocked,
        kind: Some("name"),
        headline: "TLS connections that give the listener's name are cut, while those with another name get through",
        fix: "Allow the listener's name in the filter that looks at server names (usual names: \"URL filtering\", \"SNI \
              filtering\", \"web category: uncategorised or newly registered\").",
        who: SITE,
        message: Some(
            "TLS connections to {target} are cut when they give this server's name, while the same connection with another \
             name passes. This is consistent with a filter on server names (SNI). Please allow this name, or exempt TCP \
             port {port} to this address. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::QuicBlocked,
        kind: None,
        headline: "QUIC is recognised and dropped, while other UDP packets of the same size get through",
        fix: "Allow QUIC to the listener's address (usual names: \"block QUIC\", \"application control: QUIC\", \"force \
              HTTP/3 downgrade\").",
        who: SITE,
        message: Some(
            "QUIC to {target} is dropped, while other UDP packets of the same size and rate on the same port pass. This is \
             consistent with an application filter for QUIC. Please allow QUIC on UDP port {port} to this address. What \
             was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::PayloadRewritten,
        kind: None,
        headline: "something on the way changes the content of packets",
        fix: "Look for a device that rewrites payloads: an application-level gateway (\"ALG\", \"SIP helper\"), a protocol \
              normaliser, or a WAN optimiser; switch it off for port {port}.",
        who: SITE,
        message: Some(
            "Packets to or from {target} arrive with changed content although all checksums agree. Please switch off \
             application-level gateways and payload normalisation for port {port}. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::OneWayLoss,
        kind: None,
        headline: "{loss} of the packets are lost {way}, clearly more than on the other way",
        fix: "Ask for the error and drop counters of every device on that way: a full or failing link, a duplex mismatch, a \
              rate limit in one direction, or a weak radio link. The other direction is a control: what both share is not \
              the culprit.",
        who: "the network team or the internet provider of the side that sends that way",
        message: Some(
            "Packets between this site and {target} (port {port}) are lost {way} only. Please check interface errors, \
             drops, duplex and one-sided rate limits on that way. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::LossyPath,
        kind: None,
        headline: "{loss} of all packets are lost {way}",
        fix: "Try from a cable instead of Wi-Fi first. If it stays, ask for the error and drop counters of the access line \
              and of every device on the way.",
        who: "whoever runs this site's network, or the internet provider",
        message: Some(
            "Packets between this site and {target} (port {port}) are lost at a steady rate, without congestion. Please \
             check the line's error counters. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Reordering,
        kind: None,
        headline: "packets overtake one another {way} more than is usual",
        fix: "Look for load balancing per packet (\"round robin\", \"per-packet ECMP\", bonded lines) and set it to per \
              flow.",
        who: "the network team or the internet provider",
        message: Some(
            "Packets between this site and {target} arrive out of order. Please balance load per flow rather than per \
             packet. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::Duplication,
        kind: None,
        headline: "some packets arrive more than once",
        fix: "Look for a mirrored port or a bridge loop, or for retransmission on a radio link. It does little harm.",
        who: "the network team",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::DscpRewritten,
        kind: None,
        headline: "priority marks (DSCP) are changed on the way",
        fix: "Nothing needs to be done unless priority is wanted end to end; then ask every network on the way to keep DSCP \
              (\"trust DSCP\").",
        who: "the networks on the way",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::EcnBleached,
        kind: None,
        headline: "congestion marks (ECN) are cleared on the way",
        fix: "Nothing needs to be done; with ECN kept, congestion could be signalled without loss.",
        who: "the networks on the way",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::MtuBlackHole,
        kind: None,
        headline: "packets larger than {mtu} vanish {way} without a word",
        fix: "Let ICMP \"fragmentation needed\" and ICMPv6 \"packet too big\" through every firewall on the way, or lower the \
              MTU of the tunnel or VPN interface to {mtu}. Until then, set the product's packet size below that.",
        who: "the network team of the site whose VPN, tunnel or firewall is on the way",
        message: Some(
            "Packets larger than {mtu} to or from {target} vanish without an ICMP message. Please allow ICMP type 3 code 4 \
             and ICMPv6 type 2, or clamp the size. What was measured: {evidence}.",
        ),
        opens: Opens::PacketTooBig,
    },
    Words {
        cause: Cause::NatRebinding,
        kind: None,
        headline: "the router gave a busy flow another port in the middle ({old} became {new})",
        fix: "Look at the router or firewall that translates addresses for this site: a full or restarted state table, a \
              fail-over without state, or a very short UDP timeout.",
        who: "whoever runs this site's router or firewall",
        message: Some(
            "The NAT of this site changed the source port of a busy UDP flow to {target}. Please check the size of the \
             state table, fail-over synchronisation and UDP timeouts. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::AddressChanged,
        kind: None,
        headline: "this site's public address changed in the middle of the run",
        fix: "Look for two internet lines that are used in turn (\"load balancing\", \"WAN fail-over\"), a new lease from the \
              provider, or a VPN that came or went. Pin traffic to port {port} to one line.",
        who: "whoever runs this site's internet access",
        message: Some(
            "The public address of this site changed during a run to {target}. Please pin traffic to port {port} to one \
             line. What was measured: {evidence}.",
        ),
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::ListenerRestarted,
        kind: None,
        headline: "the listener was restarted during the run",
        fix: "Nothing on the path needs to be done. If nobody restarted it, look at its log.",
        who: "the admin of the listener",
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::ClientSuspended,
        kind: None,
        headline: "this computer slept during the run",
        fix: "Keep this computer awake and run the check again. What was measured while it was awake still counts.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::ClockStepped,
        kind: None,
        headline: "this computer's clock was set during the run",
        fix: "Nothing needs to be done: the measurement does not rely on it. Times of day in the report may jump.",
        who: USER,
        message: None,
        opens: Opens::Nothing,
    },
    Words {
        cause: Cause::HostStalled,
        kind: None,
        headline: "a computer at one end was too busy to measure well",
        fix: "Close what keeps the computer busy and run the check again; losses during that time were not blamed on the \
              path.",
        who: "whoever runs that computer",
        message: None,
        opens: Opens::Nothing,
    },
];
