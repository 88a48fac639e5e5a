//! Is the port free, for TCP and UDP, over IPv4 and IPv6? And if not, which program has it?

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use probe_protocol::cause::Cause;
use probe_protocol::finding::Severity;
use socket2::{Domain, Socket, Type};

use super::exec::run;
use super::firewall::Protocol;
use super::report::{Check, Part, finding};

const NAME: &str = "port";
/// Descriptors that are looked through for a socket's owner.
const MAX_DESCRIPTORS: usize = 500_000;

/// How a trial of the port ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trial {
    Free,
    Taken,
    /// The host has no such IP version.
    NoFamily,
    Denied,
    Failed(String),
}

/// A program that has the port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    pid: u32,
    name: String,
    /// Path or command line, where the system tells.
    path: String,
}

impl Holder {
    /// The listener stands in for a product; it may be there already.
    fn is_the_product(&self) -> bool {
        format!("{} {}", self.name, self.path).to_lowercase().contains("jetstream")
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The check of the port. A port held by this very process counts as free: it is the listener's own, as it is where
/// the listener says so (`ours`).
pub(super) async fn check(port: u16, ours: bool) -> Part {
    if ours {
        return Part::default().check(Check::ok(NAME, format!("{port} is held by this listener")));
    }
    let mut taken: Vec<(Protocol, bool)> = Vec::new();
    let mut part = Part::default();
    let mut families = 0;
    for protocol in Protocol::BOTH {
        for v6 in [false, true] {
            let what = label(port, protocol, v6);
            match trial(port, protocol, v6) {
                Trial::Free => families += 1,
                Trial::NoFamily => {}
                Trial::Taken => taken.push((protocol, v6)),
                Trial::Denied => {
                    let says = format!("{what} may not be opened by this user");
                    return part.check(Check::unknown(
                        NAME,
                        says,
                        "privileges (root, or CAP_NET_BIND_SERVICE)",
                    ));
                }
                Trial::Failed(said) => {
                    let says = format!("{what} could not be tried: {said}");
                    part = part.check(Check::unknown(NAME, says, "a system that lets a socket be opened"));
                    return part;
                }
            }
        }
    }
    if taken.is_empty() {
        let says = if families == 0 { "no IP version is there to try" } else { "is free for TCP and UDP" };
        return part.check(Check::ok(NAME, format!("{port} {says}")));
    }
    let holders = holders(port, &taken).await;
    if !holders.is_empty() && holders.iter().all(|holder| holder.pid == std::process::id()) {
        return part.check(Check::ok(NAME, format!("{port} is held by this listener")));
    }
    part.and(taken_part(port, &taken, &holders))
}

fn taken_part(port: u16, taken: &[(Protocol, bool)], holders: &[Holder]) -> Part {
    let what = taken.iter().map(|(protocol, v6)| label(port, *protocol, *v6)).collect::<Vec<_>>().join(", ");
    let names = holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ");
    let by = if names.is_empty() {
        "a program that this user may not see (root would)".to_owned()
    } else {
        format!("by {names}")
    };
    let mut says = format!("taken: {what}, {by}");
    let mut fix = format!("Stop that program, or let the listener take another port than {port}.");
    if holders.iter().any(Holder::is_the_product) {
        says += "; that is the very product, installed already";
        fix = "The product itself is running: stop it for the test and start it again after, or test another port."
            .to_owned();
    } else if holders.iter().any(|holder| holder.name.starts_with("probe-server")) {
        says += "; that is another probe-server";
        fix = "Another probe-server is running: use that one, or stop it.".to_owned();
    }
    let mut found = finding(Cause::PortInUse, Severity::Blocking, says.clone(), fix);
    found.parameters.program = (!names.is_empty()).then_some(names);
    let mut kinds: Vec<&str> = taken.iter().map(|(protocol, _)| protocol.name()).collect();
    kinds.dedup();
    found.parameters.kind = Some(kinds.join("+"));
    found.commands = holders
        .iter()
        .map(|holder| {
            if cfg!(windows) {
                super::report::command("Windows", format!("taskkill /PID {}", holder.pid))
            } else {
                super::report::command("stop it", format!("kill {}", holder.pid))
            }
        })
        .collect();
    Part::default().check(Check::problem(NAME, says)).finding(found)
}

fn label(port: u16, protocol: Protocol, v6: bool) -> String {
    format!("{port}/{} over {}", protocol.name(), if v6 { "IPv6" } else { "IPv4" })
}

fn trial(port: u16, protocol: Protocol, v6: bool) -> Trial {
    match try_bind(port, protocol, v6) {
        Ok(()) => Trial::Free,
        Err(error) => {
            use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied, Unsupported};
            let kind = error.kind();
            if kind == AddrInUse || (kind == PermissionDenied && cfg!(windows)) {
                Trial::Taken
            } else if kind == PermissionDenied {
                Trial::Denied
            } else if v6 || matches!(kind, AddrNotAvailable | Unsupported) {
                // EAFNOSUPPORT, of a host without IPv6, has no kind of its own.
                Trial::NoFamily
            } else {
                Trial::Failed(error.to_string())
            }
        }
    }
}

/// Opens and closes the port, alone: no sharing option is set that could hide another listener.
fn try_bind(port: u16, protocol: Protocol, v6: bool) -> io::Result<()> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let address: SocketAddr =
        if v6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() };
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(domain, kind, None)?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    // Connections that linger after their end do not count; elsewhere than on Unix this option means sharing.
    #[cfg(unix)]
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(1)?;
    }
    Ok(())
}

async fn holders(port: u16, taken: &[(Protocol, bool)]) -> Vec<Holder> {
    let mut found = if cfg!(target_os = "linux") {
        let taken = taken.to_vec();
        // A busy host has many processes to look through.
        tokio::task::spawn_blocking(move || linux(port, &taken)).await.unwrap_or_default()
    } else if cfg!(target_os = "macos") {
        lsof(&run("lsof", &["-nP", &format!("-i:{port}"), "-F", "pcn"]).await.unwrap_or_default(), port)
    } else if cfg!(windows) {
        windows(port).await
    } else {
        Vec::new()
    };
    found.sort();
    found.dedup();
    found
}

/// Sockets of the port in `/proc/net/{tcp,tcp6,udp,udp6}` (proc(5)), by inode.
fn inodes(table: &str, port: u16, protocol: Protocol) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let local = words.get(1)?.rsplit_once(':')?.1;
            let listens = protocol == Protocol::Udp || *words.get(3)? == LISTEN;
            (u16::from_str_radix(local, 16).ok()? == port && listens).then_some(())?;
            words.get(9)?.parse().ok()
        })
        .collect()
}

fn linux(port: u16, taken: &[(Protocol, bool)]) -> Vec<Holder> {
    let mut sockets = Vec::new();
    for (protocol, _) in taken {
        // A socket of IPv6 may hold IPv4's port too.
        for version in ["", "6"] {
            let path = format!("/proc/thread-self/net/{}{version}", protocol.name());
            let table = std::fs::read_to_string(path).unwrap_or_default();
            sockets.extend(inodes(&table, port, *protocol));
        }
    }
    let wanted: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut found = Vec::new();
    let mut looked_at = 0;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let path = process.path();
        for descriptor in std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > MAX_DESCRIPTORS {
                return found;
            }
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            if target.to_str().is_some_and(|target| wanted.iter().any(|wanted| wanted == target)) {
                let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
                found.push(Holder {
                    pid,
                    name: read("comm").trim().to_owned(),
                    path: read("cmdline").replace('\0', " ").trim().to_owned(),
                });
                break;
            }
        }
    }
    found
}

/// `lsof -F pcn`: a line each for process, command and name of a socket.
fn lsof(text: &str, port: u16) -> Vec<Holder> {
    let (mut pid, mut name) = (0, String::new());
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.is_char_boundary(1)) {
        let (kind, rest) = line.split_at(1);
        match kind {
            "p" => pid = rest.parse().unwrap_or(0),
            "c" => rest.clone_into(&mut name),
            // A connection has an arrow in its name; a listener has not.
            "n" if !rest.contains("->") && rest.ends_with(&format!(":{port}")) => {
                found.push(Holder { pid, name: name.clone(), path: String::new() });
            }
            _ => {}
        }
    }
    found
}

async fn windows(port: u16) -> Vec<Holder> {
    let table = run("netstat", &["-ano"]).await.unwrap_or_default();
    let mut found = Vec::new();
    // Bounded: a port has few holders.
    for pid in netstat(&table, port).into_iter().take(4) {
        let row = run("tasklist", &["/FI", &format!("PID eq {pid}"), "/FO", "CSV", "/NH"])
            .await
            .unwrap_or_default();
        found.push(Holder {
            pid,
            name: tasklist(&row).unwrap_or("a program").to_owned(),
            path: String::new(),
        });
    }
    found
}

/// `netstat -ano`: protocol, own address, other address, (state,) pid; the state's word depends on the language.
fn netstat(text: &str, port: u16) -> Vec<u32> {
    let end = format!(":{port}");
    let mut pids: Vec<u32> = text
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [protocol, own, other, .., pid] = words.as_slice() else { return None };
            let listens = match *protocol {
                "TCP" => other.ends_with(":0"),
                "UDP" => true,
                _ => false,
            };
            (listens && own.ends_with(&end)).then_some(())?;
            pid.parse().ok()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// `tasklist /FO CSV /NH`: `"name.exe","4711",…`.
fn tasklist(row: &str) -> Option<&str> {
    row.trim().strip_prefix('"')?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_tables_name_the_sockets_of_a_port() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 00000000:22B6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41234 1 0\n   \
                   1: 0100007F:22B6 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 41235 1 0\n   \
                   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 40001 1 0\n";
        assert_eq!(inodes(tcp, 8886, Protocol::Tcp), [41234]);
        assert_eq!(inodes(tcp, 8886, Protocol::Udp), [41234, 41235]);
        assert_eq!(inodes("head\nnonsense\n1: x y z\n", 8886, Protocol::Tcp), [0; 0]);
    }

    #[test]
    fn lsof_and_netstat_name_the_holder() {
        let lsof_text = "p612\ncjetstreamd\nf7\nn*:8886\nf9\nn10.0.0.1:8886->10.0.0.2:50000\np700\nccurl\nn10.0.0.1:50001->10.0.0.9:8886\n";
        let found = lsof(lsof_text, 8886);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "jetstreamd (pid 612)");
        assert!(found[0].is_the_product());
        let netstat_text = "  Proto  Lokale Adresse         Remoteadresse          Status           PID\r\n  TCP    \
                            0.0.0.0:8886           0.0.0.0:0              ABHÖREN         4711\r\n  TCP    \
                            10.0.0.1:8886          10.0.0.2:50000         HERGESTELLT     4711\r\n  TCP    [::]:8886      \
                            [::]:0                 ABHÖREN         4711\r\n  UDP    0.0.0.0:8886           *:*            \
                            4712\r\n";
        assert_eq!(netstat(netstat_text, 8886), [4711, 4712]);
        assert_eq!(
            tasklist("\"server.exe\",\"4711\",\"Services\",\"0\",\"9.000 K\"\r\n"),
            Some("server.exe")
        );
    }

    #[test]
    fn the_product_is_told_apart() {
        let holder = |name: &str| Holder { pid: 7, name: name.to_owned(), path: String::new() };
        let part = taken_part(
            8886,
            &[(Protocol::Tcp, false), (Protocol::Udp, false)],
            &[holder("jetstream-server")],
        );
        assert!(part.checks[0].says.contains("the very product"), "{}", part.checks[0].says);
        assert_eq!(part.findings[0].parameters.kind.as_deref(), Some("tcp+udp"));
        let part = taken_part(8886, &[(Protocol::Udp, true)], &[holder("nginx")]);
        assert_eq!(part.findings[0].parameters.program.as_deref(), Some("nginx (pid 7)"));
        assert!(!part.checks[0].says.contains("product"));
        let part = taken_part(8886, &[(Protocol::Udp, true)], &[]);
        assert_eq!(part.findings[0].parameters.program, None);
    }
}
