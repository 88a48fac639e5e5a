//! A host of the lab: a network namespace that lives as long as somebody holds it open, and no longer.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::Netlink;
use super::sys;
use crate::middlebox::HostAddresses;
use crate::middlebox::topology::LINK_MTU;

/// The name of a host's one link beside the loopback.
pub(super) const LINK: &str = "wan0";

/// Packets that wait in a TUN device for the middlebox. The kernel's 500 would lose bursts before any rule sees them.
const TUN_QUEUE: u32 = 16_384;

/// A host of the lab. Its namespace goes away with the last handle and the last process in it.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: Arc<File>,
    addresses: HostAddresses,
}

impl Host {
    /// A new host with nothing but a loopback.
    pub(super) fn new(addresses: HostAddresses) -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            Netlink::open()?.set_up("lo", None, None)?;
            // Lets every program send ICMP echoes. Where the system forbids to say so, root can anyway.
            let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
            Ok::<_, io::Error>(namespace)
        });
        let namespace =
            made.join().map_err(|_| io::Error::other("the thread that makes a namespace died"))??;
        Ok(Self { namespace: Arc::new(namespace), addresses })
    }

    /// Its addresses and its gateway's.
    pub fn addresses(&self) -> HostAddresses {
        self.addresses
    }

    /// Runs code inside the host, on a thread of its own; sockets that it opens stay there.
    ///
    /// # Panics
    /// Where the code panics.
    pub fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&*self.namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(code())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the host for good: for threads that the caller made for that.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.namespace, CloneFlags::CLONE_NEWNET)?)
    }

    /// A command that will run inside the host. Its process is killed when the thread that starts it ends, so that
    /// nothing stays behind; start it from a thread that outlives it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::start_inside(&mut command, self.namespace.clone());
        command
    }

    /// The same, in a process namespace of its own: whatever it starts dies with it.
    pub fn contained_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::start_contained(&mut command, self.namespace.clone());
        command
    }

    /// A counter of the host's own kernel, as `/proc/net/snmp` names it: `("Udp", "InCsumErrors")`.
    pub fn counter(&self, group: &str, name: &str) -> io::Result<u64> {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let mut rows = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = (rows.next().unwrap_or(""), rows.next().unwrap_or(""));
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs
            .find(|(known, _)| *known == name)
            .and_then(|(_, value)| value.parse().ok())
            .ok_or_else(|| io::Error::other(format!("the kernel counts no {group} {name}")))
    }

    /// Packets that the host's kernel dropped because its link's queue was full.
    pub fn link_drops(&self) -> io::Result<u64> {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let row = text.lines().find_map(|line| line.trim_start().strip_prefix(LINK)?.strip_prefix(':'));
        let fields: Vec<&str> = row.unwrap_or("").split_whitespace().collect();
        // Received: bytes packets errs drop ...; sent from column 8 on, drop is its fourth.
        fields.get(11).and_then(|drops| drops.parse().ok()).ok_or_else(|| io::Error::other("no such link"))
    }

    /// Gives the host a TUN device as its link and routes everything through it. What the host sends is read from
    /// the file, what is written there the host receives; without anything to read it says so at once.
    pub(super) fn add_tun(&self, ipv6: bool) -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt;
        self.run(|| {
            let mut options = File::options();
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            let file = options.open("/dev/net/tun")?;
            sys::become_tun(&file, LINK)?;
            let netlink = Netlink::open()?;
            netlink.set_up(LINK, Some(LINK_MTU), Some(TUN_QUEUE))?;
            self.add_addresses(&netlink, ipv6)?;
            netlink.add_default_route(LINK, IpAddr::V4(self.addresses.gateway_v4))?;
            if ipv6 {
                netlink.add_default_route(LINK, IpAddr::V6(self.addresses.gateway_v6))?;
            }
            Ok(file)
        })?
    }

    /// Joins this host and another by a virtual cable.
    pub(super) fn join(&self, other: &Self, ipv6: bool) -> io::Result<()> {
        let fd = other.namespace.as_raw_fd();
        self.run(|| Netlink::open()?.add_cable(LINK, fd))??;
        for host in [self, other] {
            host.run(|| {
                let netlink = Netlink::open()?;
                netlink.set_up(LINK, None, None)?;
                host.add_addresses(&netlink, ipv6)
            })??;
        }
        Ok(())
    }

    fn add_addresses(&self, netlink: &Netlink, ipv6: bool) -> io::Result<()> {
        netlink.add_address(LINK, IpAddr::V4(self.addresses.v4), 24)?;
        if ipv6 {
            netlink.add_address(LINK, IpAddr::V6(self.addresses.v6), 64)?;
        }
        Ok(())
    }
}
