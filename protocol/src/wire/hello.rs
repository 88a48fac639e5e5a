//! How a flow opens, on every carrier.
//!
//! ```text
//! client                                   listener
//! Hello (no cookie)            -- UDP -->            holds no state
//!                              <--------  Challenge  (cookie bound to the source address)
//! Hello (cookie)               -------->             verifies the cookie, makes the flow
//!                              <--------  Accept     (id and secret of the flow)  | Refuse
//! ```
//!
//! On TCP, TLS and QUIC the transport's own handshake has validated the address, so the first Hello is answered with
//! Accept. All four records have the same length, so that no answer is longer than its question; they travel in the
//! flow's own dress, under the permanent id of the invite ([`HelloKeys`]).
//!
//! A Hello's header and its first two body bytes keep their meaning in all versions, so that any listener can tell any
//! client which end to update.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::dress::Dress;
use super::id::FlowId;
use super::seal::{FlowKeys, FlowSecret, derive};
use super::{HANDSHAKE_BODY_LEN, ID_LEN, Reader, WireError, Writer};
use crate::time::{Timestamp, WallTime};

/// What a flow runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// Datagrams of our own.
    Udp,
    /// A plain TCP stream of our own.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// QUIC version 1.
    Quic,
    /// QUIC with every bit of every datagram flipped.
    QuicInverse,
}

impl Carrier {
    /// All carriers; the codes on the wire are the positions here.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Quic, Self::QuicInverse];

    /// The name in flags, plans and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::QuicInverse => "quic-inverse",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// A client's run: random, known to that client and the listener alone, the same on every transport and through every
/// change of address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The id and the keys that handshake records use: determined by the invite's key, or by nothing for a client that
/// has none.
#[derive(Debug)]
pub struct HelloKeys {
    /// Where the listener recognises an opening.
    pub id: FlowId,
    /// Seals the handshake.
    pub keys: FlowKeys,
}

impl HelloKeys {
    /// For the holder of an invite.
    pub fn of_invite(key: &[u8; 16]) -> Self {
        Self { id: hello_id(key), keys: FlowKeys::new(FlowSecret(derive(key, b"hello keys", b""))) }
    }

    /// For a client without an invite: anybody can make these, so they protect against accidents alone.
    pub fn public() -> Self {
        Self::of_invite(b"no invite at all")
    }
}

/// The permanent id of an invite: the first of its series that looks like no known protocol's first bytes, so that
/// a random TCP opening is taken neither for TLS nor for HTTP nor for SSH, and a random datagram not for a QUIC packet
/// with a long header, even by who looks at that header's first bit alone (RFC 8999 section 5.1).
pub fn hello_id(key: &[u8; 16]) -> FlowId {
    let ids = (0..=u8::MAX).map(|n| derive::<ID_LEN>(key, b"hello id", &[n]));
    let unlike = |id: &[u8; ID_LEN]| {
        let tls = (0x14..=0x18).contains(&id[0]);
        let quic = id[0] & 0x80 != 0;
        let letters = id[..3].iter().all(u8::is_ascii_alphanumeric);
        !tls && !quic && !letters
    };
    FlowId(ids.into_iter().find(unlike).unwrap_or([0; ID_LEN]))
}

/// A program's version, as major, minor, patch.
pub type Software = [u8; 3];

/// What a client asks for. 90 bytes:
/// `min_version 1 · max_version 1 · session 16 · flow_nonce 8 · cookie 16 · carrier 1 · dress 1 · size 2 ·
/// software 3 · flags 1 · wall 8 · binding 32`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version the client speaks.
    pub min_version: u8,
    /// Newest protocol version the client speaks.
    pub max_version: u8,
    /// The run that the flow belongs to.
    pub session: SessionId,
    /// Random per flow: the same Hello sent again opens the same flow, not a second one.
    pub flow_nonce: u64,
    /// From the listener's challenge; zero where there was none yet.
    pub cookie: [u8; 16],
    /// What the flow runs over.
    pub carrier: Carrier,
    /// What its records wear.
    pub dress: Dress,
    /// Length of its datagrams, bytes.
    pub size: u16,
    /// The client's version.
    pub software: Software,
    /// The client's wall clock.
    pub wall: WallTime,
    /// On TLS and QUIC, the exporter of the channel as the client sees it (RFC 9266); zero elsewhere.
    pub binding: [u8; 32],
}

impl Hello {
    /// Lays it out as a record's body.
    pub fn encode(&self) -> [u8; HANDSHAKE_BODY_LEN] {
        let mut out = [0; HANDSHAKE_BODY_LEN];
        Writer::new(&mut out)
            .put(&[self.min_version, self.max_version])
            .put(&self.session.0)
            .put(&self.flow_nonce.to_be_bytes())
            .put(&self.cookie)
            .put(&[self.carrier as u8, self.dress.code()])
            .put(&self.size.to_be_bytes())
            .put(&self.software)
            .put(&self.wall.0.to_be_bytes())
            .put(&self.binding);
        out
    }

    /// The oldest and newest version of a Hello of any version.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn versions(body: &[u8]) -> Result<(u8, u8), WireError> {
        let mut r = Reader::new(body, "hello");
        Ok((r.u8()?, r.u8()?))
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing or name no carrier or dress.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body, "hello");
        Ok(Self {
            min_version: r.u8()?,
            max_version: r.u8()?,
            session: SessionId(r.array()?),
            flow_nonce: r.u64()?,
            cookie: r.array()?,
            carrier: Carrier::from_code(r.u8()?).ok_or(WireError::Malformed("carrier in a hello"))?,
            dress: Dress::from_code(r.u8()?).ok_or(WireError::Malformed("dress in a hello"))?,
            size: r.u16()?,
            software: r.array()?,
            wall: WallTime(i64::from_be_bytes(r.array()?)),
            binding: r.array()?,
        })
    }
}

/// The listener's proof of address: echo the cookie. `cookie 16`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// To be sent back from the same address ([`crate::cookie`]).
    pub cookie: [u8; 16],
}

impl Challenge {
    /// Lays it out as a record's body.
    pub fn encode(&self) -> [u8; HANDSHAKE_BODY_LEN] {
        let mut out = [0; HANDSHAKE_BODY_LEN];
        Writer::new(&mut out).put(&self.cookie);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        Ok(Self { cookie: Reader::new(body, "challenge").array()? })
    }
}

/// The flow is open. 118 bytes: `id 8 · secret 16 · boot 8 · epoch 4 · observed 18 · max_rate_pps 4 · max_s 4 ·
/// flags 1 · wall 8 · clock 8 · software 3 · binding 32`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The flow's id from now on.
    pub id: FlowId,
    /// What its keys derive from.
    pub secret: FlowSecret,
    /// Random per start of the listener.
    pub boot: u64,
    /// How often the listener's state directory has been started.
    pub epoch: u32,
    /// The client's address as the listener sees it.
    pub observed: SocketAddr,
    /// Probes per second that the listener will answer on this flow.
    pub max_rate_pps: u32,
    /// Seconds that the listener will keep the session.
    pub max_s: u32,
    /// Whether the invite gave all rights; else only the short, slow check.
    pub authenticated: bool,
    /// The listener's wall clock.
    pub wall: WallTime,
    /// The listener's own clock, the one in echoes.
    pub clock: Timestamp,
    /// The listener's version.
    pub software: Software,
    /// On TLS and QUIC, the exporter of the channel as the listener sees it (RFC 9266); zero elsewhere.
    pub binding: [u8; 32],
}

impl Accept {
    /// Lays it out as a record's body.
    pub fn encode(&self) -> [u8; HANDSHAKE_BODY_LEN] {
        let mut out = [0; HANDSHAKE_BODY_LEN];
        Writer::new(&mut out)
            .put(&self.id.0)
            .put(&self.secret.0)
            .put(&self.boot.to_be_bytes())
            .put(&self.epoch.to_be_bytes())
            .put(&encode_addr(self.observed))
            .put(&self.max_rate_pps.to_be_bytes())
            .put(&self.max_s.to_be_bytes())
            .put(&[u8::from(self.authenticated)])
            .put(&self.wall.0.to_be_bytes())
            .put(&self.clock.as_nanos().to_be_bytes())
            .put(&self.software)
            .put(&self.binding);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body, "accept");
        Ok(Self {
            id: FlowId(r.array()?),
            secret: FlowSecret(r.array()?),
            boot: r.u64()?,
            epoch: r.u32()?,
            observed: decode_addr(r.array()?),
            max_rate_pps: r.u32()?,
            max_s: r.u32()?,
            authenticated: r.u8()? != 0,
            wall: WallTime(i64::from_be_bytes(r.array()?)),
            clock: Timestamp(r.u64()?),
            software: r.array()?,
            binding: r.array()?,
        })
    }
}

/// Why a listener refuses. The codes on the wire are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Refusal {
    /// The client is older than anything the listener speaks.
    #[error("this probe-client is too old for the listener: update probe-client")]
    ClientTooOld = 1,
    /// The client is newer than anything the listener speaks.
    #[error("the listener is too old for this probe-client: update probe-server")]
    ListenerTooOld = 2,
    /// The invite's time is over.
    #[error("the invite has expired: ask the admin for a new one (`probe-server invite`)")]
    InviteExpired = 3,
    /// The admin took the invite back.
    #[error("the invite has been revoked by the admin: ask for a new one (`probe-server invite`)")]
    InviteRevoked = 4,
    /// The source address is outside `--allow`.
    #[error("the listener does not accept clients from this address (its --allow list)")]
    NotAllowed = 5,
    /// The bounds on sessions or flows are reached.
    #[error("the listener is full: try again in a few minutes")]
    Full = 6,
    /// This source opened too many flows or sessions.
    #[error("the listener has too many sessions or flows from this address: try again in a few minutes")]
    TooManyFromSource = 7,
    /// It needs the invite's key.
    #[error("the listener wants an invite for this")]
    NeedsInvite = 8,
}

impl Refusal {
    /// All refusals.
    pub const ALL: [Self; 8] = [
        Self::ClientTooOld,
        Self::ListenerTooOld,
        Self::InviteExpired,
        Self::InviteRevoked,
        Self::NotAllowed,
        Self::Full,
        Self::TooManyFromSource,
        Self::NeedsInvite,
    ];

    /// Whether trying again later may help, without anybody changing anything.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Full | Self::TooManyFromSource)
    }
}

/// A refusal as it travels: `code 1 · min_version 1 · max_version 1 · software 3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why; none where this version does not know the code.
    pub reason: Option<Refusal>,
    /// Oldest protocol version the listener speaks.
    pub min_version: u8,
    /// Newest protocol version the listener speaks.
    pub max_version: u8,
    /// The listener's version.
    pub software: Software,
}

impl Refuse {
    /// Lays it out as a record's body.
    pub fn encode(&self) -> [u8; HANDSHAKE_BODY_LEN] {
        let mut out = [0; HANDSHAKE_BODY_LEN];
        let code = self.reason.map_or(0, |r| r as u8);
        Writer::new(&mut out).put(&[code, self.min_version, self.max_version]).put(&self.software);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body, "refusal");
        let code = r.u8()?;
        Ok(Self {
            reason: Refusal::ALL.into_iter().find(|r| *r as u8 == code),
            min_version: r.u8()?,
            max_version: r.u8()?,
            software: r.array()?,
        })
    }
}

/// An address as 16 bytes of IPv6 (an IPv4 one mapped) and the port.
pub fn encode_addr(addr: SocketAddr) -> [u8; 18] {
    let ip = match addr.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut out = [0; 18];
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&addr.port().to_be_bytes());
    out
}

/// The opposite of [`encode_addr`].
pub fn decode_addr(bytes: [u8; 18]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_be_bytes([bytes[16], bytes[17]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_positions() {
        for (at, carrier) in Carrier::ALL.into_iter().enumerate() {
            assert_eq!(carrier as usize, at);
        }
    }

    proptest! {
        #[test]
        fn hellos_survive_the_wire(
            session: [u8; 16], flow_nonce: u64, cookie: [u8; 16], size: u16, software: [u8; 3], wall: i64,
            binding: [u8; 32], carrier in proptest::sample::select(&Carrier::ALL[..]),
            dress in proptest::sample::select(&Dress::ALL[..]), min_version: u8, max_version: u8,
        ) {
            let hello = Hello {
                min_version, max_version, session: SessionId(session), flow_nonce, cookie, carrier, dress, size,
                software, wall: WallTime(wall), binding,
            };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            prop_assert_eq!(Hello::versions(&hello.encode()), Ok((min_version, max_version)));
        }

        #[test]
        fn accepts_survive_the_wire(
            id: [u8; 8], secret: [u8; 16], boot: u64, epoch: u32, v6: bool, ip: u128, port: u16, rate: u32, max_s: u32,
            authenticated: bool, wall: i64, clock: u64, software: [u8; 3], binding: [u8; 32],
        ) {
            let ip = if v6 { IpAddr::from(ip.to_be_bytes()).to_canonical() } else { IpAddr::from((ip as u32).to_be_bytes()) };
            let accept = Accept {
                id: FlowId(id), secret: FlowSecret(secret), boot, epoch, observed: SocketAddr::new(ip, port),
                max_rate_pps: rate, max_s, authenticated, wall: WallTime(wall), clock: Timestamp(clock), software, binding,
            };
            prop_assert_eq!(Accept::decode(&accept.encode()), Ok(accept));
        }

        #[test]
        fn any_body_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
            let _ = (Hello::decode(&bytes), Accept::decode(&bytes), Refuse::decode(&bytes), Challenge::decode(&bytes));
        }

        #[test]
        fn no_invite_opens_like_a_known_protocol(key: [u8; 16]) {
            let id = hello_id(&key).0;
            prop_assert!(!(id[0] == 0x16 && id[1] == 3));
            prop_assert!(!id.starts_with(b"GET") && !id.starts_with(b"SSH"));
            prop_assert_ne!(id, [0; 8]);
        }
    }

    #[test]
    fn refusals_survive_the_wire() {
        for reason in Refusal::ALL {
            let refuse = Refuse { reason: Some(reason), min_version: 1, max_version: 3, software: [1, 2, 3] };
            assert_eq!(Refuse::decode(&refuse.encode()), Ok(refuse));
        }
    }
}
