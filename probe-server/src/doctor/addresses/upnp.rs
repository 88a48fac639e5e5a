//! UPnP-IGD: found by SSDP (UPnP Device Architecture 1.1 section 1.3), asked for its external address and for
//! mappings of our port that are there (WANIPConnection:1 sections 2.4.18 and 2.4.15). Nothing is added or deleted.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::net::UdpSocket;

use super::http::{self, Url};
use crate::doctor::firewall::Protocol;

const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// Answers may come up to MX seconds later; one more half for a slow router.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Devices that are asked for their description.
const MAX_DEVICES: usize = 4;
const DEVICES: [&str; 2] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
];

/// An internet gateway, as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Igd {
    pub(super) external: Option<Ipv4Addr>,
    /// Mappings of our port that are there.
    pub(super) mappings: Vec<(Protocol, Mapping)>,
}

/// Where the router forwards our port to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Mapping {
    pub(in crate::doctor) client: Ipv4Addr,
    pub(in crate::doctor) port: u16,
    pub(in crate::doctor) enabled: bool,
}

/// The gateway of the network that `own` is in.
pub(super) async fn ask(own: Ipv4Addr, port: u16) -> Option<Igd> {
    for location in search(own).await? {
        let Some((200, description)) = http::request(own, &location, "", None).await else { continue };
        let Some((service, control)) = control_url(&description) else { continue };
        let Some(control) = location.join(&control) else { continue };
        let Some((200, answer)) = call(own, &control, &service, "GetExternalIPAddress", "").await else {
            continue;
        };
        let mut igd = Igd {
            external: element(&answer, "NewExternalIPAddress").and_then(|text| text.trim().parse().ok()),
            mappings: Vec::new(),
        };
        for protocol in Protocol::BOTH {
            let arguments = format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort><NewProtocol>{}</NewProtocol>",
                protocol.name().to_uppercase()
            );
            let answer = call(own, &control, &service, "GetSpecificPortMappingEntry", &arguments).await;
            if let Some(mapping) =
                answer.filter(|(status, _)| *status == 200).and_then(|(_, body)| mapping(&body))
            {
                igd.mappings.push((protocol, mapping));
            }
        }
        return Some(igd);
    }
    None
}

/// The descriptions of the gateways that answer a multicast search.
async fn search(own: Ipv4Addr) -> Option<Vec<Url>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).ok()?;
    socket.bind(&SocketAddrV4::new(own, 0).into()).ok()?;
    socket.set_multicast_if_v4(&own).ok()?;
    socket.set_multicast_ttl_v4(2).ok()?;
    socket.set_nonblocking(true).ok()?;
    let socket = UdpSocket::from_std(socket.into()).ok()?;
    let mut found: Vec<Url> = Vec::new();
    for device in DEVICES {
        let message = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {SSDP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {device}\r\n\r\n"
        );
        socket.send_to(message.as_bytes(), SSDP).await.ok()?;
    }
    let listen = async {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            // Its own description only: an answer must not send us elsewhere.
            let url = location(&buffer[..length]).filter(|url| IpAddr::V4(*url.host.ip()) == from.ip());
            if let Some(url) = url.filter(|url| !found.contains(url)) {
                found.push(url);
                if found.len() == MAX_DEVICES {
                    break;
                }
            }
        }
    };
    // What has come by then is what there is.
    let _ = tokio::time::timeout(PATIENCE, listen).await;
    Some(found)
}

/// The `LOCATION` of an SSDP answer.
fn location(answer: &[u8]) -> Option<Url> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(answer).ok()?;
    if response.code != Some(200) {
        return None;
    }
    let location = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("location"))?;
    Url::parse(std::str::from_utf8(location.value).ok()?)
}

/// The service that maps ports, and where it is asked.
fn control_url(description: &str) -> Option<(String, String)> {
    let mut rest = description;
    while let Some(service) = element(rest, "service") {
        let kind = element(service, "serviceType").unwrap_or_default().trim();
        let maps = ["WANIPConnection:", "WANPPPConnection:"].iter().any(|name| kind.contains(name));
        if maps && kind.chars().all(|letter| letter.is_ascii_graphic() && letter != '"' && letter != '<') {
            let control = element(service, "controlURL")?.trim();
            return Some((kind.to_owned(), control.to_owned()));
        }
        rest = &rest[rest.find("</service>")? + "</service>".len()..];
    }
    None
}

/// A SOAP call.
async fn call(
    own: Ipv4Addr,
    url: &Url,
    service: &str,
    action: &str,
    arguments: &str,
) -> Option<(u16, String)> {
    let body = format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{service}\">\
         {arguments}</u:{action}></s:Body></s:Envelope>\r\n"
    );
    let head = format!("Content-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{service}#{action}\"\r\n");
    http::request(own, url, &head, Some(&body)).await
}

fn mapping(answer: &str) -> Option<Mapping> {
    Some(Mapping {
        client: element(answer, "NewInternalClient")?.trim().parse().ok()?,
        port: element(answer, "NewInternalPort")?.trim().parse().ok()?,
        enabled: element(answer, "NewEnabled").is_none_or(|text| text.trim() != "0"),
    })
}

/// What stands in the first element of this name. Routers' XML is often not well-formed: no parser would take it.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let open = format!("<{name}");
    let mut from = 0;
    loop {
        let start = from + xml.get(from..)?.find(&open)? + open.len();
        match xml.get(start..)?.chars().next()? {
            '>' => {}
            space if space.is_whitespace() => {}
            // A longer name that begins alike.
            _ => {
                from = start;
                continue;
            }
        }
        let body = start + xml.get(start..)?.find('>')? + 1;
        let end = body + xml.get(body..)?.find(&format!("</{name}>"))?;
        return xml.get(body..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = "<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1\
        </serviceType><controlURL>/l3f</controlURL></service></serviceList><deviceList><device><serviceList><service>\
        <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl/IPConn</controlURL>\
        </service></serviceList></device></deviceList></device></root>";

    #[test]
    fn a_description_names_the_service_that_maps_ports() {
        let (service, control) = control_url(DESCRIPTION).unwrap();
        assert_eq!(service, "urn:schemas-upnp-org:service:WANIPConnection:1");
        assert_eq!(control, "/ctl/IPConn");
        assert_eq!(control_url(&DESCRIPTION.replace("WANIPConnection", "Other")), None);
        for cut in 0..DESCRIPTION.len() {
            let _ = control_url(&DESCRIPTION[..cut]);
        }
    }

    #[test]
    fn answers_are_read() {
        let answer = "<u:R><NewInternalPort>8886</NewInternalPort><NewInternalClient>192.168.1.20</NewInternalClient>\
                      <NewEnabled>1</NewEnabled></u:R>";
        let expected = Mapping { client: Ipv4Addr::new(192, 168, 1, 20), port: 8886, enabled: true };
        assert_eq!(mapping(answer), Some(expected));
        assert_eq!(mapping("<s:Fault/>"), None);
        assert_eq!(element("<ab>1</ab><a x='1'>2</a>", "a"), Some("2"));
        assert_eq!(element("<a>1", "a"), None);
        let ssdp = b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nLocation: http://192.168.1.1:5000/d.xml\r\n\r\n";
        assert_eq!(location(ssdp).unwrap().path, "/d.xml");
        assert_eq!(location(b"NOTIFY * HTTP/1.1\r\nLocation: http://192.168.1.1/\r\n\r\n"), None);
    }
}
