//! What the operating system or the network said against a datagram.

use std::io;
use std::net::{IpAddr, SocketAddr};

use probe_protocol::time::WallTime;
use thiserror::Error;

/// Why a datagram was not sent, or what a returned error means.
///
/// The first group is the instrument's own fault and never the path's; see [`Fault::is_local`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The socket's send buffer is full; wait until it is writable.
    #[error("the socket's send buffer is full")]
    WouldBlock,
    /// The interface's queue was full. Linux says so only where [`super::UdpOptions::errors`] is on; otherwise it
    /// drops without a word.
    #[error("the interface's queue is full")]
    NoBuffers,
    /// The host's own rules forbid it (a firewall, endpoint security, a container).
    #[error("this host does not permit the packet to leave")]
    NotPermitted,
    /// The source address is not, or no longer, an address of this host, or cannot reach that destination.
    #[error("the source address is not available")]
    NoAddress,
    /// The interface or the network is down.
    #[error("the network is down")]
    NetworkDown,
    /// Larger than the interface or the path takes, and it must not be fragmented.
    #[error("the datagram is larger than the path takes")]
    TooBig,
    /// Nobody listens there: an ICMP port unreachable came back.
    #[error("the port is closed")]
    Refused,
    /// No route, or an ICMP host or network unreachable.
    #[error("there is no route to the host")]
    Unreachable,
    /// The platform refused it because of its size or its options, whatever the path is.
    #[error("the system does not accept such a datagram")]
    Invalid,
    /// Something else, by the platform's own number.
    #[error("system error {0}")]
    Other(i32),
}

impl Fault {
    /// Whether the fault lies with this host for certain, so that the datagram never counts as lost.
    pub const fn is_local(self) -> bool {
        matches!(
            self,
            Self::WouldBlock
                | Self::NoBuffers
                | Self::NotPermitted
                | Self::NoAddress
                | Self::NetworkDown
                | Self::Invalid
        )
    }

    /// The fault behind an error number of this platform.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the standard library may add kinds at any time")]
    pub fn from_errno(errno: i32) -> Self {
        let kind = io::Error::from_raw_os_error(errno).kind();
        match kind {
            _ if is_no_buffers(errno) => Self::NoBuffers,
            _ if is_too_big(errno) => Self::TooBig,
            io::ErrorKind::WouldBlock => Self::WouldBlock,
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            io::ErrorKind::AddrNotAvailable => Self::NoAddress,
            io::ErrorKind::NetworkDown => Self::NetworkDown,
            // Windows reports a port unreachable as a reset.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::InvalidInput => Self::Invalid,
            _ => Self::Other(errno),
        }
    }
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        match (error.raw_os_error(), error.kind()) {
            (Some(errno), _) => Self::from_errno(errno),
            (None, io::ErrorKind::WouldBlock) => Self::WouldBlock,
            (None, _) => Self::Invalid,
        }
    }
}

#[cfg(unix)]
const fn is_no_buffers(errno: i32) -> bool {
    errno == libc::ENOBUFS || errno == libc::ENOMEM
}

#[cfg(unix)]
const fn is_too_big(errno: i32) -> bool {
    errno == libc::EMSGSIZE
}

#[cfg(windows)]
const fn is_no_buffers(errno: i32) -> bool {
    errno == windows_sys::Win32::Networking::WinSock::WSAENOBUFS
}

#[cfg(windows)]
const fn is_too_big(errno: i32) -> bool {
    errno == windows_sys::Win32::Networking::WinSock::WSAEMSGSIZE
}

/// An error that came back for a datagram sent earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetError {
    /// What it means.
    pub fault: Fault,
    /// Whether this host itself raised it, rather than an ICMP message. `None` where the platform cannot tell.
    pub local: Option<bool>,
    /// ICMP or ICMPv6 type (RFC 792, RFC 4443), where an ICMP message raised it.
    pub icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code.
    pub icmp_code: Option<u8>,
    /// Who sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Where the datagram was going.
    pub to: Option<SocketAddr>,
    /// The next hop's MTU in bytes, from "fragmentation needed" or "packet too big" (RFC 1191, RFC 8201).
    pub mtu: Option<u32>,
}

/// What the system reports about datagrams sent earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// An error came back.
    Error(NetError),
    /// The kernel handed a datagram to the interface.
    Sent {
        /// Which one, see [`super::UdpSocket::next_number`].
        number: u32,
        /// When.
        kernel: WallTime,
    },
}

impl NetError {
    /// An error of which only the meaning is known.
    pub(crate) const fn bare(fault: Fault) -> Self {
        Self { fault, local: None, icmp_type: None, icmp_code: None, offender: None, to: None, mtu: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn error_numbers_become_what_they_mean() {
        for (errno, fault) in [
            (libc::EAGAIN, Fault::WouldBlock),
            (libc::ENOBUFS, Fault::NoBuffers),
            (libc::EMSGSIZE, Fault::TooBig),
            (libc::EPERM, Fault::NotPermitted),
            (libc::EACCES, Fault::NotPermitted),
            (libc::ECONNREFUSED, Fault::Refused),
            (libc::EHOSTUNREACH, Fault::Unreachable),
            (libc::ENETUNREACH, Fault::Unreachable),
            (libc::EADDRNOTAVAIL, Fault::NoAddress),
            (libc::ENETDOWN, Fault::NetworkDown),
            (libc::EINVAL, Fault::Invalid),
            (libc::EPROTO, Fault::Other(libc::EPROTO)),
        ] {
            assert_eq!(Fault::from_errno(errno), fault, "errno {errno}");
        }
    }

    #[test]
    fn only_what_this_host_did_is_local() {
        assert!(
            Fault::WouldBlock.is_local() && Fault::NoBuffers.is_local() && Fault::NotPermitted.is_local()
        );
        assert!(!Fault::Refused.is_local() && !Fault::Unreachable.is_local() && !Fault::TooBig.is_local());
    }
}
