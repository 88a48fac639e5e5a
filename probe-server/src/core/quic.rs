//! What of the datagrams is QUIC, told without any state.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use subtle::ConstantTimeEq;

/// Bytes of the connection ids the listener issues.
pub const CID_LEN: usize = 8;
/// RFC 9000 section 14.1: a datagram with an Initial packet has at least so many bytes.
pub const MIN_INITIAL: usize = 1200;

/// Makes connection ids and recognises them: `nonce 4 · keyed hash of the nonce 4`.
#[derive(Clone, Debug)]
pub struct ConnectionIds(SipHasher13);

impl ConnectionIds {
    /// With this key; the straight and the inverted endpoint have one each.
    pub fn new(key: [u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(&key))
    }

    /// The connection id of a nonce.
    pub fn make(&self, nonce: u32) -> [u8; CID_LEN] {
        let mut id = [0; CID_LEN];
        id[..4].copy_from_slice(&nonce.to_be_bytes());
        id[4..].copy_from_slice(&self.check(nonce));
        id
    }

    /// Whether it is one of these.
    pub fn is_one(&self, id: &[u8]) -> bool {
        let Some((nonce, check)) = id.split_first_chunk::<4>() else { return false };
        bool::from(self.check(u32::from_be_bytes(*nonce)).ct_eq(check))
    }

    fn check(&self, nonce: u32) -> [u8; 4] {
        let mut hasher = self.0;
        hasher.write_u32(nonce);
        (hasher.finish() as u32).to_be_bytes()
    }
}

/// What a datagram is to QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicKind {
    /// Carries a connection id of ours.
    Known,
    /// A client's first packet.
    Initial,
    /// A client's first packet in fewer bytes than RFC 9000 section 14.1 demands.
    ShortInitial,
    /// Nothing that may be answered.
    No,
}

/// What the listener's two QUIC endpoints recognise.
#[derive(Clone, Debug)]
pub struct QuicDemux {
    /// Of the straight endpoint.
    pub straight: ConnectionIds,
    /// Of the inverted one.
    pub inverse: ConnectionIds,
}

impl QuicDemux {
    /// What a datagram is, and whether to the inverted endpoint.
    pub fn judge(&self, datagram: &[u8]) -> (QuicKind, bool) {
        // The longest header that is looked at: first byte, version, length, connection id.
        let mut head = [0; 1 + 4 + 1 + 20];
        let len = datagram.len().min(head.len());
        head[..len].copy_from_slice(&datagram[..len]);
        match judge(&self.straight, &head[..len], datagram.len()) {
            QuicKind::No => {
                head[..len].iter_mut().for_each(|b| *b = !*b);
                (judge(&self.inverse, &head[..len], datagram.len()), true)
            }
            kind @ (QuicKind::Known | QuicKind::Initial | QuicKind::ShortInitial) => (kind, false),
        }
    }
}

/// RFC 9000 section 17: long headers of version 1, and short headers with a connection id of ours.
fn judge(ids: &ConnectionIds, head: &[u8], len: usize) -> QuicKind {
    let Some(first) = head.first() else { return QuicKind::No };
    match first & 0xc0 {
        0x40 => match head.get(1..1 + CID_LEN) {
            Some(id) if ids.is_one(id) => QuicKind::Known,
            Some(_) | None => QuicKind::No,
        },
        0xc0 if head.get(1..5) == Some(&[0, 0, 0, 1]) => {
            let id_len = head.get(5).map_or(0, |l| usize::from(*l));
            match head.get(6..6 + id_len) {
                Some(id) if id_len == CID_LEN && ids.is_one(id) => QuicKind::Known,
                // RFC 9000 section 7.2: a client's first id has 8 to 20 bytes.
                Some(_) if first & 0x30 == 0 && (8..=20).contains(&id_len) && len >= MIN_INITIAL => {
                    QuicKind::Initial
                }
                Some(_) if first & 0x30 == 0 && (8..=20).contains(&id_len) => QuicKind::ShortInitial,
                Some(_) | None => QuicKind::No,
            }
        }
        _ => QuicKind::No,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demux() -> QuicDemux {
        QuicDemux { straight: ConnectionIds::new([1; 16]), inverse: ConnectionIds::new([2; 16]) }
    }

    fn initial(len: usize, id: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0xc3, 0, 0, 0, 1, id.len() as u8];
        datagram.extend_from_slice(id);
        datagram.resize(len, 0x5a);
        datagram
    }

    fn inverted(datagram: &[u8]) -> Vec<u8> {
        datagram.iter().map(|b| !b).collect()
    }

    #[test]
    fn initials_are_told_by_version_and_size() {
        let demux = demux();
        for id_len in [8, 20] {
            let id = vec![7; id_len];
            assert_eq!(demux.judge(&initial(1200, &id)), (QuicKind::Initial, false));
            assert_eq!(demux.judge(&initial(1199, &id)), (QuicKind::ShortInitial, false));
            assert_eq!(demux.judge(&inverted(&initial(1200, &id))), (QuicKind::Initial, true));
        }
        for id_len in [7, 21] {
            assert_eq!(demux.judge(&initial(1200, &vec![7; id_len])).0, QuicKind::No);
        }
        let mut version_2 = initial(1200, &[7; 8]);
        version_2[1] = 0x6b;
        assert_eq!(demux.judge(&version_2).0, QuicKind::No);
        let mut handshake = initial(1200, &[7; 8]);
        handshake[0] |= 0x20;
        assert_eq!(demux.judge(&handshake).0, QuicKind::No);
    }

    #[test]
    fn ids_of_ours_are_known_in_both_headers_and_at_their_own_endpoint_alone() {
        let demux = demux();
        let id = demux.straight.make(99);
        assert_eq!(demux.judge(&initial(100, &id)), (QuicKind::Known, false));
        let mut short = vec![0x41];
        short.extend_from_slice(&id);
        assert_eq!(demux.judge(&short), (QuicKind::Known, false));
        assert_eq!(demux.judge(&short[..8]).0, QuicKind::No);
        assert_eq!(demux.judge(&inverted(&short)).0, QuicKind::No);
        let mut short = vec![0x41];
        short.extend_from_slice(&demux.inverse.make(99));
        assert_eq!(demux.judge(&inverted(&short)), (QuicKind::Known, true));
        assert_eq!(demux.judge(&short).0, QuicKind::No);
    }

    proptest! {
        #[test]
        fn random_bytes_are_not_quic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assume!(bytes.get(1..5) != Some(&[0, 0, 0, 1]) && bytes.get(1..5) != Some(&[255, 255, 255, 254]));
            prop_assert_eq!(demux().judge(&bytes).0, QuicKind::No);
        }
    }
}
