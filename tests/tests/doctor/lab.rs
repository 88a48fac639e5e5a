//! Network namespaces of the tests' own, and real packets through them.
//!
//! A namespace is held by a file descriptor; work runs in it on a thread of its own. Nothing here touches the
//! namespace that the tests were started in.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use probe_server::doctor::firewall::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// How long a packet that must arrive may take.
pub(crate) const GENEROUS: Duration = Duration::from_secs(10);
/// How long anything may take that is done in a namespace: beyond, it hangs.
const LONGEST: Duration = Duration::from_secs(300);
/// How long a packet that must not arrive is waited for.
const SHORT: Duration = Duration::from_millis(250);

/// A network namespace; it goes when this value and the last thread in it go.
pub(crate) struct Netns(File);

impl Netns {
    /// A new namespace with loopback up.
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            File::open("/proc/thread-self/ns/net").expect("namespace file")
        })
        .join()
        .expect("namespace thread");
        let ns = Self(file);
        ns.sh("ip link set lo up");
        ns
    }

    /// Runs `work` in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a future in the namespace.
    pub(crate) fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        let bounded = async { tokio::time::timeout(LONGEST, work).await.expect("it has not ended in time") };
        self.run(|| runtime().block_on(bounded))
    }

    /// Runs a shell script in the namespace; it must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|error| panic!("{script}\n{error}"))
    }

    /// Runs a shell script in the namespace.
    pub(crate) fn try_sh(&self, script: &str) -> Result<String, String> {
        self.run(|| {
            let out = std::process::Command::new("timeout").args(["120", "sh", "-ec", script]).output();
            let out = out.expect("timeout and sh");
            if out.status.success() {
                Ok(String::from_utf8_lossy(&out.stdout).into_owned())
            } else {
                Err(String::from_utf8_lossy(&out.stderr).into_owned())
            }
        })
    }

    /// Feeds `input` to `nft -f -`, which wants a line's end between the braces that close a chain and its table.
    pub(crate) fn nft(&self, input: &str) {
        let input = input.replace(" } }", "\n}\n}");
        let script = format!("nft -f - <<'RULES'\n{input}\nRULES");
        self.sh(&script);
    }

    /// Joins this namespace's new interface `name` with `peer` in `other`.
    pub(crate) fn join(&self, name: &str, other: &Self, peer: &str) {
        use std::os::fd::AsRawFd as _;
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.sh(&format!(
            "ip link add {name} type veth peer name {peer} netns {there} && ip link set {name} up"
        ));
        other.sh(&format!("ip link set {peer} up"));
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

/// Whether namespaces and these tools can be had. Says loudly that `name` is skipped where not; in CI that fails.
pub(crate) fn can(name: &str, tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| {
        !["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"]
            .iter()
            .any(|folder| std::path::Path::new(folder).join(tool).exists())
    });
    let namespaces = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap_or(false);
    let reason = match missing {
        _ if !namespaces => "no namespaces".to_owned(),
        Some(tool) => format!("no {tool}"),
        None => return true,
    };
    println!("SKIPPED ({reason}): {name}");
    eprintln!("SKIPPED ({reason}): {name}");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "a skip is a failure in CI: {name} ({reason})");
    false
}

/// The listener's host and a place where clients are, joined by two links.
///
/// `eth0` of the host has 203.0.113.7 and 2001:db8:1::7, `eth1` has 10.7.0.1. Clients send from 203.0.113.100,
/// 198.51.100.5, 192.0.2.5 and 2001:db8:1::100 to `eth0`, and from 10.7.0.2 to `eth1`.
pub(crate) struct Site {
    pub(crate) host: Netns,
    pub(crate) clients: Netns,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    echo: Option<std::thread::JoinHandle<()>>,
}

/// Interface, host's address on it, client's address.
pub(crate) const WAYS: [(&str, &str, &str); 5] = [
    ("eth0", "203.0.113.7", "203.0.113.100"),
    ("eth0", "203.0.113.7", "198.51.100.5"),
    ("eth0", "203.0.113.7", "192.0.2.5"),
    ("eth0", "2001:db8:1::7", "2001:db8:1::100"),
    ("eth1", "10.7.0.1", "10.7.0.2"),
];

pub(crate) const PORT: u16 = 8886;

impl Site {
    /// The site, with an echo on TCP and UDP 8886 of the host.
    pub(crate) fn new() -> Self {
        let (host, clients) = (Netns::new(), Netns::new());
        host.join("eth0", &clients, "c0");
        host.join("eth1", &clients, "c1");
        host.sh("ip addr add 203.0.113.7/24 dev eth0; ip addr add 2001:db8:1::7/64 dev eth0 nodad
             ip addr add 10.7.0.1/24 dev eth1
             ip route add 198.51.100.0/24 dev eth0; ip route add 192.0.2.0/24 dev eth0");
        clients.sh("ip addr add 203.0.113.100/24 dev c0; ip addr add 2001:db8:1::100/64 dev c0 nodad
             ip addr add 198.51.100.5/32 dev c0; ip addr add 192.0.2.5/32 dev c0
             ip addr add 10.7.0.2/24 dev c1");
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let namespace = host.0.try_clone().expect("namespace file");
        let echo = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("setns");
            runtime().block_on(async {
                let tcp = TcpListener::bind(("::", PORT)).await.expect("TCP echo");
                let udp = UdpSocket::bind(("::", PORT)).await.expect("UDP echo");
                ready.send(()).expect("ready");
                tokio::select! {
                    () = echo_tcp(tcp) => {}
                    () = echo_udp(udp) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv_timeout(GENEROUS).expect("echo");
        let site = Self { host, clients, stop: Some(stop), echo: Some(echo) };
        // Addresses and neighbours are known before anything is filtered.
        for open in site.exchanges(&[true; 10]) {
            assert!(open, "the site carries every exchange while nothing filters");
        }
        site
    }

    /// Real exchanges, each protocol over each of [`WAYS`], in that order; `expected` says how long to wait for each.
    pub(crate) fn exchanges(&self, expected: &[bool]) -> Vec<bool> {
        let wanted: Vec<(Protocol, usize)> =
            Protocol::BOTH.iter().flat_map(|protocol| (0..WAYS.len()).map(|way| (*protocol, way))).collect();
        let expected = expected.to_vec();
        self.clients.block_on(async move {
            let tasks: Vec<_> = wanted
                .into_iter()
                .zip(expected)
                .map(|((protocol, way), open)| {
                    let patience = if open { GENEROUS } else { SHORT };
                    tokio::spawn(exchange(protocol, WAYS[way].2.parse().unwrap(), to(way), patience))
                })
                .collect();
            let mut out = Vec::new();
            for task in tasks {
                out.push(task.await.expect("exchange"));
            }
            out
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(echo) = self.echo.take() {
            drop(echo.join());
        }
    }
}

fn to(way: usize) -> SocketAddr {
    SocketAddr::new(WAYS[way].1.parse().unwrap(), PORT)
}

async fn echo_tcp(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
        });
    }
}

async fn echo_udp(socket: UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        // An ICMP error of an earlier answer is no reason to stop.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            drop(socket.send_to(&buffer[..length], from).await);
        }
    }
}

/// A source port that no earlier exchange used, so that no connection is known from before.
pub(crate) fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Two bytes there and back.
pub(crate) async fn exchange(protocol: Protocol, from: IpAddr, to: SocketAddr, patience: Duration) -> bool {
    let from = SocketAddr::new(from, fresh_port());
    let all = async {
        match protocol {
            Protocol::Tcp => {
                let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.bind(from)?;
                let mut stream = socket.connect(to).await?;
                for byte in [1, 2] {
                    stream.write_all(&[byte]).await?;
                    stream.read_u8().await?;
                }
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(from).await?;
                socket.connect(to).await?;
                for byte in [1, 2] {
                    socket.send(&[byte]).await?;
                    socket.recv(&mut [0; 8]).await?;
                }
            }
        }
        std::io::Result::Ok(())
    };
    matches!(tokio::time::timeout(patience, all).await, Ok(Ok(())))
}
