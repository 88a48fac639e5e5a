//! Reads what `firewall-cmd` says of zones (firewall-cmd(1), firewalld.zones(5)): for the commands that open a port,
//! and for a judgement where the kernel's own rules may not be read.

use super::model::Protocol;
use super::value;

/// A zone, as far as it decides about a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) interfaces: Vec<String>,
    pub(super) sources: Vec<String>,
    pub(super) services: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) protocols: Vec<String>,
    pub(super) source_ports: Vec<String>,
    pub(super) rich_rules: Vec<String>,
}

/// What a zone does with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ZoneSays {
    Open,
    Closed,
    /// Hangs on this line of the zone.
    Unknown(String),
}

/// `firewall-cmd --list-all-zones`.
pub(super) fn zones(text: &str) -> Vec<Zone> {
    let mut zones: Vec<Zone> = Vec::new();
    let mut in_rich_rules = false;
    for line in text.lines() {
        if line.trim().is_empty() {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            let name = line.split_whitespace().next().unwrap_or_default().to_owned();
            zones.push(Zone { name, ..Zone::default() });
            in_rich_rules = false;
            continue;
        }
        let Some(zone) = zones.last_mut() else { continue };
        let line = line.trim();
        if in_rich_rules && line.starts_with("rule ") {
            zone.rich_rules.push(line.to_owned());
            continue;
        }
        let Some((key, rest)) = line.split_once(':') else { continue };
        let words = || rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        in_rich_rules = key == "rich rules";
        match key {
            "target" => zone.target = rest.trim().to_owned(),
            "interfaces" => zone.interfaces = words(),
            "sources" => zone.sources = words(),
            "services" => zone.services = words(),
            "ports" => zone.ports = words(),
            "protocols" => zone.protocols = words(),
            "source-ports" => zone.source_ports = words(),
            _ => {}
        }
    }
    zones
}

/// The zone that an interface's traffic goes through, where no zone claims its source.
pub(super) fn zone_of<'a>(zones: &'a [Zone], interface: &str, default: &str) -> Option<&'a Zone> {
    zones
        .iter()
        .find(|zone| zone.interfaces.iter().any(|name| name == interface))
        .or_else(|| zones.iter().find(|zone| zone.name == default))
}

impl Zone {
    /// What the zone does with new traffic to `port`; `service` gives the ports of a service it names.
    pub(super) fn says(
        &self,
        port: u16,
        protocol: Protocol,
        service: &dyn Fn(&str) -> Option<Vec<String>>,
    ) -> ZoneSays {
        // Rich rules may deny before anything allows.
        if let Some(rule) =
            self.rich_rules.iter().find(|rule| !rule_is_about_another_port(rule, port, protocol))
        {
            return ZoneSays::Unknown(format!("rich rule `{rule}`"));
        }
        let named = |list: &[String]| list.iter().any(|entry| holds(entry, port, protocol));
        if self.target == "ACCEPT"
            || named(&self.ports)
            || self.protocols.iter().any(|name| name == protocol.name())
        {
            return ZoneSays::Open;
        }
        if let Some(entry) = self.source_ports.iter().find(|entry| entry.ends_with(protocol.name())) {
            return ZoneSays::Unknown(format!("source port {entry}"));
        }
        let mut unknown = None;
        for name in &self.services {
            match service(name) {
                Some(ports) if named(&ports) => return ZoneSays::Open,
                Some(_) => {}
                None => {
                    unknown.get_or_insert_with(|| format!("service {name}"));
                }
            }
        }
        unknown.map_or(ZoneSays::Closed, ZoneSays::Unknown)
    }
}

/// `8886/tcp` or `8880-8890/udp` holds the port.
fn holds(entry: &str, port: u16, protocol: Protocol) -> bool {
    entry.split_once('/').is_some_and(|(ports, name)| {
        name == protocol.name() && value::ports(ports).is_some_and(|ranges| ranges.contains(port.into()))
    })
}

fn rule_is_about_another_port(rule: &str, port: u16, protocol: Protocol) -> bool {
    let value_of = |key: &str| rule.split_once(key).and_then(|(_, rest)| rest.split('"').next());
    match (value_of(" port=\""), value_of(" protocol=\"")) {
        (Some(ports), Some(name)) => !holds(&format!("{ports}/{name}"), port, protocol),
        _ => false,
    }
}

/// The ports of a service: `firewall-cmd --info-service=NAME`.
pub(super) fn service_ports(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("ports:"))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Vec<Zone> {
        zones(include_str!("../samples/firewalld-zones.txt"))
    }

    fn ssh_and_dhcp(name: &str) -> Option<Vec<String>> {
        matches!(name, "ssh" | "dhcpv6-client" | "mdns" | "samba-client").then(|| vec!["22/tcp".to_owned()])
    }

    #[test]
    fn recorded_zones_are_judged_port_by_port() {
        let zones = recorded();
        let says = |interface: &str, protocol| {
            zone_of(&zones, interface, "public").unwrap().says(8886, protocol, &ssh_and_dhcp)
        };
        assert_eq!(says("eth0", Protocol::Tcp), ZoneSays::Open);
        assert!(
            matches!(says("eth0", Protocol::Udp), ZoneSays::Unknown(rule) if rule.contains("192.0.2.0/24"))
        );
        assert_eq!(says("eth1", Protocol::Udp), ZoneSays::Open, "8880-8890/udp");
        assert_eq!(says("eth1", Protocol::Tcp), ZoneSays::Closed);
        assert_eq!(zone_of(&zones, "eth7", "public").unwrap().name, "public");
        let trusted = zones.iter().find(|zone| zone.name == "trusted").unwrap();
        assert_eq!(trusted.says(8886, Protocol::Udp, &ssh_and_dhcp), ZoneSays::Open);
        let drop = zones.iter().find(|zone| zone.name == "drop").unwrap();
        assert_eq!(drop.says(8886, Protocol::Udp, &ssh_and_dhcp), ZoneSays::Closed);
        let work = zones.iter().find(|zone| zone.name == "work").unwrap();
        assert_eq!(work.sources, ["198.51.100.0/24"]);
    }

    #[test]
    fn a_service_that_is_not_known_leaves_it_open_to_doubt() {
        let zone = Zone { services: vec!["jet".to_owned()], ..Zone::default() };
        assert_eq!(zone.says(8886, Protocol::Tcp, &|_| None), ZoneSays::Unknown("service jet".to_owned()));
        assert_eq!(zone.says(8886, Protocol::Tcp, &|_| Some(vec!["8886/tcp".to_owned()])), ZoneSays::Open);
        assert_eq!(
            service_ports("jet\n  ports: 8886/tcp 8886/udp\n  protocols: \n"),
            ["8886/tcp", "8886/udp"]
        );
    }
}
