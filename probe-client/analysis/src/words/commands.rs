//! Commands that mend a cause, ready to type.

use probe_protocol::cause::Cause;
use probe_protocol::finding::Command;

use super::of;
use super::table::Opens;

/// The commands for a cause; none where no command mends it.
pub fn commands(cause: Cause, kind: Option<&str>, port: u16) -> Vec<Command> {
    match of(cause, kind).opens {
        Opens::Nothing => Vec::new(),
        Opens::Listener(protocols) => incoming(protocols, port),
        Opens::Client => outgoing(port),
        Opens::PacketTooBig => packet_too_big(),
    }
}

fn command(place: &str, run: String) -> Command {
    Command { place: place.to_owned(), run }
}

/// Lets the port in, on the listener's host.
fn incoming(protocols: &[&str], port: u16) -> Vec<Command> {
    let each = |line: &dyn Fn(&str) -> String, glue: &str| {
        protocols.iter().map(|protocol| line(protocol)).collect::<Vec<_>>().join(glue)
    };
    let firewalld = each(&|p| format!("sudo firewall-cmd --permanent --add-port={port}/{p}"), " && ");
    let windows = each(
        &|p| {
            let upper = p.to_uppercase();
            format!(
                "New-NetFirewallRule -DisplayName 'Port {port} {upper}' -Direction Inbound -Protocol {upper} -LocalPort \
                 {port} -Action Allow"
            )
        },
        "; ",
    );
    vec![
        command("firewalld", format!("{firewalld} && sudo firewall-cmd --reload")),
        command("ufw", each(&|p| format!("sudo ufw allow {port}/{p}"), " && ")),
        command(
            "nftables",
            each(&|p| format!("sudo nft insert rule inet filter input {p} dport {port} accept"), " && "),
        ),
        command("Windows Defender Firewall", windows),
        command(
            "macOS",
            "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --add \"$(which probe-server)\" --unblockapp \
             \"$(which probe-server)\""
                .to_owned(),
        ),
    ]
}

/// Lets the port out, on the client's host.
fn outgoing(port: u16) -> Vec<Command> {
    vec![
        command(
            "firewalld",
            format!(
                "sudo firewall-cmd --direct --add-rule ipv4 filter OUTPUT 0 -p udp --dport {port} -j ACCEPT && sudo \
                 firewall-cmd --direct --add-rule ipv4 filter OUTPUT 0 -p tcp --dport {port} -j ACCEPT"
            ),
        ),
        command("ufw", format!("sudo ufw allow out {port}")),
        command(
            "nftables",
            format!(
                "sudo nft insert rule inet filter output udp dport {port} accept && sudo nft insert rule inet filter \
                 output tcp dport {port} accept"
            ),
        ),
        command(
            "Windows Defender Firewall",
            format!(
                "New-NetFirewallRule -DisplayName 'Port {port} out' -Direction Outbound -Protocol UDP -RemotePort {port} \
                 -Action Allow; New-NetFirewallRule -DisplayName 'Port {port} out TCP' -Direction Outbound -Protocol TCP \
                 -RemotePort {port} -Action Allow"
            ),
        ),
        command("macOS", "sudo pfctl -sr   # shows the rules; look for a block that matches".to_owned()),
    ]
}

/// Lets "packet too big" through, so that hosts learn the path MTU.
fn packet_too_big() -> Vec<Command> {
    vec![
        command(
            "firewalld",
            "sudo firewall-cmd --permanent --remove-icmp-block=destination-unreachable && sudo firewall-cmd --permanent \
             --remove-icmp-block=packet-too-big && sudo firewall-cmd --reload"
                .to_owned(),
        ),
        command(
            "nftables",
            "sudo nft insert rule inet filter input icmp type destination-unreachable accept && sudo nft insert rule inet \
             filter input icmpv6 type packet-too-big accept"
                .to_owned(),
        ),
        command(
            "Windows Defender Firewall",
            "New-NetFirewallRule -DisplayName 'ICMP fragmentation needed' -Direction Inbound -Protocol ICMPv4 -IcmpType \
             3:4 -Action Allow"
                .to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_target_s() {
        for command in commands(Cause::UdpBlocked, None, 9000).iter().filter(|c| c.place != "macOS") {
            assert!(command.run.contains("9000") && !command.run.contains("8886"), "{command:?}");
            assert!(!command.run.to_lowercase().contains("tcp"), "{command:?}");
        }
        assert!(commands(Cause::OneWayLoss, None, 9000).is_empty());
    }
}
