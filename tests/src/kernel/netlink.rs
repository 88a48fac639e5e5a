//! Links, addresses and routes of the calling thread's network namespace, by rtnetlink (RFC 3549).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// A message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        append_attribute(&mut self.0, kind, value);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn append_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_attribute(&mut bytes, kind, value);
    bytes
}

/// A socket to the kernel's routing tables.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one in the calling thread's namespace, which it keeps whatever the thread does later.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?))
    }

    fn ask(&self, message: Message) -> io::Result<()> {
        send(self.0.as_raw_fd(), &message.finish(), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let Some(code) = answer[..length].get(16..20) else {
            return Err(io::Error::other("the kernel's answer is cut short"));
        };
        match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    /// Sets a link up, with an MTU (bytes) and a transmit queue (packets) where given.
    pub(super) fn set_up(&self, name: &str, mtu: Option<u16>, queue: Option<u32>) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(if_nametoindex(name)?, up));
        if let Some(mtu) = mtu {
            message = message.attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        if let Some(queue) = queue {
            message = message.attribute(libc::IFLA_TXQLEN, &queue.to_ne_bytes());
        }
        self.ask(message)
    }

    /// Gives a link an address.
    pub(super) fn add_address(&self, name: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let (family, octets) = family_and_octets(address);
        let index = if_nametoindex(name)?;
        // No duplicate address detection: the address is ours, and would be unusable for a second.
        let mut body = vec![family, prefix, libc::IFA_F_NODAD as u8 * u8::from(address.is_ipv6()), 0];
        body.extend_from_slice(&index.to_ne_bytes());
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.ask(
            Message::new(libc::RTM_NEWADDR, flags, &body)
                .attribute(libc::IFA_LOCAL, &octets)
                .attribute(libc::IFA_ADDRESS, &octets),
        )
    }

    /// Routes everything through a gateway on a link.
    pub(super) fn add_default_route(&self, name: &str, gateway: IpAddr) -> io::Result<()> {
        let (family, octets) = family_and_octets(gateway);
        let index = if_nametoindex(name)?;
        let mut body = vec![
            family,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ];
        body.extend_from_slice(&0u32.to_ne_bytes());
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.ask(
            Message::new(libc::RTM_NEWROUTE, flags, &body)
                .attribute(libc::RTA_GATEWAY, &octets)
                .attribute(libc::RTA_OIF, &index.to_ne_bytes()),
        )
    }

    /// Makes a virtual cable: one end here, the other in another namespace, both of one name.
    pub(super) fn add_cable(&self, name: &str, other: RawFd) -> io::Result<()> {
        const PEER: u16 = 1; // VETH_INFO_PEER
        let mut peer = link_header(0, 0);
        append_attribute(&mut peer, libc::IFLA_IFNAME, name.as_bytes());
        append_attribute(&mut peer, libc::IFLA_NET_NS_FD, &other.to_ne_bytes());
        let mut info = attribute(libc::IFLA_INFO_KIND, b"veth");
        info.extend(attribute(libc::IFLA_INFO_DATA, &attribute(PEER, &peer)));
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.ask(
            Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0))
                .attribute(libc::IFLA_IFNAME, name.as_bytes())
                .attribute(libc::IFLA_LINKINFO, &info),
        )
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body
}

fn family_and_octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}
