//! The tools that the pair is compared with, and what their datagrams look like.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::Program;
use super::{BenchError, SERVER_CORE};

/// Whether a tool is installed.
pub(super) fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// A port that nobody has at the moment.
pub(super) fn free_port() -> Result<u16, BenchError> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(BenchError::during("looking for a free port"))?;
    Ok(socket.local_addr().map_err(BenchError::during("looking for a free port"))?.port())
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// `irtt server` without a bound on the rate.
pub(super) fn irtt_server() -> Result<(Program, SocketAddr), BenchError> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new("irtt");
    command.args(["server", "-i", "0", "-b", &addr.to_string()]);
    let server = Program::start(quiet(&mut command), Some(SERVER_CORE))?;
    for _ in 0..50 {
        if irtt_open(addr, 64).is_ok() {
            return Ok((server, addr));
        }
    }
    Err(BenchError::Program("irtt server does not answer".to_owned()))
}

/// `sockperf server` as it comes.
pub(super) fn sockperf_server() -> Result<(Program, SocketAddr), BenchError> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new("sockperf");
    command.args(["server", "-i", "127.0.0.1", "-p", &addr.port().to_string()]);
    let server = Program::start(quiet(&mut command), Some(SERVER_CORE))?;
    let socket = client_socket()?;
    let mut request = [0; 64];
    sockperf_request(0, &mut request);
    for _ in 0..50 {
        let mut reply = [0; 64];
        let sent = socket.send_to(&request, addr).is_ok();
        if sent && socket.recv(&mut reply).is_ok_and(|len| is_sockperf_reply(&reply[..len])) {
            return Ok((server, addr));
        }
    }
    Err(BenchError::Program("sockperf server does not answer".to_owned()))
}

fn client_socket() -> Result<UdpSocket, BenchError> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(BenchError::during("opening a socket"))?;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .map_err(BenchError::during("opening a socket"))?;
    Ok(socket)
}

/// What every datagram of irtt begins with; the next byte holds flags.
const IRTT_MAGIC: [u8; 3] = [0x14, 0xa7, 0x5b];
const IRTT_OPEN: u8 = 1;
const IRTT_REPLY: u8 = 2;
/// Where its connection token and its sequence number stand.
const IRTT_TOKEN: usize = 4;
const IRTT_SEQ: usize = 12;

fn irtt_open(to: SocketAddr, size: usize) -> Result<(UdpSocket, [u8; 8]), BenchError> {
    let socket = client_socket()?;
    irtt_open_on(&socket, to, size).map(|token| (socket, token))
}

/// Opens a test as irtt's client does, with its defaults; answers with the token.
pub(super) fn irtt_open_on(socket: &UdpSocket, to: SocketAddr, size: usize) -> Result<[u8; 8], BenchError> {
    let mut request = [&IRTT_MAGIC[..], &[IRTT_OPEN]].concat();
    // Parameters by number, as zigzag varints: version, an hour, at 1 ms, the length, both counts and windows of what
    // arrived, both timestamps, both clocks.
    let hour = 3_600_000_000_000;
    let parameters = [(1, 1), (2, hour), (3, 1_000_000), (4, size as u64), (5, 3), (6, 3), (7, 3)];
    for (number, value) in parameters {
        request.push(number);
        varint(value << 1, &mut request);
    }
    let system = |error| BenchError::System { what: "opening a test with irtt's server", error };
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(system)?;
    socket.send_to(&request, to).map_err(system)?;
    let mut reply = [0; 2048];
    let len = socket.recv(&mut reply).map_err(system)?;
    let opened = len > request.len() && reply[..3] == IRTT_MAGIC && reply[3] == IRTT_OPEN | IRTT_REPLY;
    match reply.get(IRTT_TOKEN..).and_then(|rest| rest.first_chunk()) {
        Some(token) if opened => Ok(*token),
        _ => Err(BenchError::Program("irtt's server answers an opening with something else".to_owned())),
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An echo request; the rest of `wire` stays as it is, which irtt's client leaves zero.
pub(super) fn irtt_request(token: [u8; 8], seq: u64, wire: &mut [u8]) {
    wire[..3].copy_from_slice(&IRTT_MAGIC);
    wire[3] = 0;
    wire[IRTT_TOKEN..IRTT_SEQ].copy_from_slice(&token);
    wire[IRTT_SEQ..IRTT_SEQ + 4].copy_from_slice(&(seq as u32).to_le_bytes());
}

pub(super) fn is_irtt_reply(token: [u8; 8], wire: &[u8]) -> bool {
    wire.len() >= 60
        && wire[..3] == IRTT_MAGIC
        && wire[3] == IRTT_REPLY
        && wire[IRTT_TOKEN..IRTT_SEQ] == token
}

/// A request for a reply: sequence number 8, flags 2 (from the client, wants a reply), length 4.
pub(super) fn sockperf_request(seq: u64, wire: &mut [u8]) {
    wire[..8].copy_from_slice(&seq.to_be_bytes());
    wire[8..10].copy_from_slice(&3_u16.to_be_bytes());
    let len = wire.len() as u32;
    wire[10..14].copy_from_slice(&len.to_be_bytes());
}

pub(super) fn is_sockperf_reply(wire: &[u8]) -> bool {
    wire.len() >= 14 && wire[8..10] == 2_u16.to_be_bytes()
}
