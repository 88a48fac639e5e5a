//! Plain sockets in a lab: what is not our product looks at what the lab does.
#![allow(dead_code, reason = "each test program uses what it needs")]

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::kernel::{Host, Lab};
use tests::middlebox::{Forwarding, NatKind, Topology};
use tests::rules::Rule;

/// Generous: only a packet that never comes takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must come before it counts as lost.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// The product's.
pub(crate) const PORT: u16 = probe_protocol::DEFAULT_PORT;

/// Rules as a scenario has them.
pub(crate) fn rules(text: &str) -> Vec<Rule> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        rule: Vec<Rule>,
    }
    toml::from_str::<File>(text).unwrap().rule
}

/// A NAT at either end.
pub(crate) fn natted() -> Topology {
    Topology {
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    }
}

/// A socket on the listener's port.
pub(crate) fn udp_server(lab: &Lab) -> UdpSocket {
    let socket = lab.server().run(|| UdpSocket::bind(("::", PORT))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A socket of the client's, connected to the target.
pub(crate) fn udp_client(lab: &Lab, target: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    let socket = lab.client().run(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a datagram from the client and gives what the server got and from whom.
pub(crate) fn up(client: &UdpSocket, server: &UdpSocket, payload: &[u8]) -> (Vec<u8>, SocketAddr) {
    client.send(payload).unwrap();
    let mut buffer = [0; 65_536];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

/// Sends a datagram there and back, and gives the address that the server saw.
pub(crate) fn echo(client: &UdpSocket, server: &UdpSocket, payload: &[u8]) -> SocketAddr {
    let (got, from) = up(client, server, payload);
    assert_eq!(got, payload);
    server.send_to(&got, from).unwrap();
    let mut buffer = [0; 65_536];
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], payload);
    from
}

/// Whether nothing comes.
pub(crate) fn silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let result = socket.recv(&mut [0; 65_536]);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Whether a tool is installed. Says so loudly where not: then nobody else has looked at that rule. Where nothing may
/// be skipped, that fails.
pub(crate) fn has_tool(tool: &str, test: &str) -> bool {
    let found =
        Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        writeln!(std::io::stderr().lock(), "SKIPPED (no {tool}): {test}").unwrap();
        assert!(!tests::kernel::must_not_skip(), "{test} was skipped: {tool} is not installed");
    }
    found
}

/// Waits until a port of a host is taken.
pub(crate) fn wait_until_taken(host: &Host, tcp: bool) {
    for _ in 0..500 {
        let free = host
            .run(|| match tcp {
                true => std::net::TcpListener::bind(("0.0.0.0", PORT)).is_ok(),
                false => UdpSocket::bind(("0.0.0.0", PORT)).is_ok(),
            })
            .unwrap();
        if !free {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nothing took the port");
}

/// A child that is killed when it is no longer needed.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
