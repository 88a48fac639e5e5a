//! Invites: `probe://HOST:8886/#...`, what an admin hands to a remote user.
//!
//! The part after `#` is `format 1 · key 16 · fingerprint 32 · expires 4 · checksum 4` as lower-case base32 (RFC 4648
//! section 6, without padding), since it goes through chat and mail.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::time::WallTime;

const FORMAT: u8 = 1;
const PAYLOAD_LEN: usize = 1 + 16 + 32 + 4;
const CHECKSUM_LEN: usize = 4;

/// What gives a client its rights, and tells it whom to trust.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Invite {
    /// The key that opens flows ([`HelloKeys`](crate::wire::hello::HelloKeys)).
    pub key: [u8; 16],
    /// SHA-256 of the listener's certificate (DER).
    pub fingerprint: [u8; 32],
    /// Until when it is good, in minutes since 1970; none for ever.
    pub expires_minute: Option<u32>,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invite({})", self.label())
    }
}

/// Why a text is not an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InviteError {
    /// The checksum is wrong.
    #[error("the invite is damaged (its checksum is wrong): copy it again, whole")]
    Damaged,
    /// Characters are missing, or too many.
    #[error("the invite is incomplete ({got} characters after #, {want} expected): copy it again, whole")]
    Length {
        /// How many there are.
        got: usize,
        /// How many there should be.
        want: usize,
    },
    /// A character that base32 does not have.
    #[error("the invite has a character that cannot be in one ({0:?}): copy it again")]
    Character(char),
    /// Another format than this version's.
    #[error("the invite is of a newer kind: update probe-client")]
    Newer,
}

/// Characters of an invite's secret part.
pub const INVITE_CHARS: usize = ((PAYLOAD_LEN + CHECKSUM_LEN) * 8).div_ceil(5);

impl Invite {
    /// A short name for lists and logs that gives nothing away.
    pub fn label(&self) -> String {
        let hash = Sha256::digest(self.key);
        hash.iter().take(4).map(|b| format!("{b:02x}")).collect()
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.expires_minute.is_some_and(|minute| now.as_secs() >= i64::from(minute) * 60)
    }

    /// The part after `#`.
    pub fn encode(&self) -> String {
        let mut payload = Vec::with_capacity(PAYLOAD_LEN + CHECKSUM_LEN);
        payload.push(FORMAT);
        payload.extend_from_slice(&self.key);
        payload.extend_from_slice(&self.fingerprint);
        payload.extend_from_slice(&self.expires_minute.unwrap_or(0).to_be_bytes());
        let checksum = checksum(&payload);
        payload.extend_from_slice(&checksum);
        BASE32_NOPAD.encode(&payload).to_ascii_lowercase()
    }

    /// Reads the part after `#`. Upper case and surrounding space or punctuation of a mail program are forgiven.
    ///
    /// # Errors
    /// An [`InviteError`] that says what to do.
    pub fn decode(text: &str) -> Result<Self, InviteError> {
        let text = text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_ascii_uppercase();
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'A'..='Z' | '2'..='7')) {
            return Err(InviteError::Character(bad));
        }
        let length = InviteError::Length { got: text.len(), want: INVITE_CHARS };
        if text.len() != INVITE_CHARS {
            return Err(length);
        }
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| InviteError::Damaged)?;
        let (payload, sum) = bytes.split_at_checked(PAYLOAD_LEN).ok_or(length)?;
        if sum != checksum(payload) {
            return Err(InviteError::Damaged);
        }
        let mut r = crate::wire::Reader::new(payload, "invite");
        let damaged = |_| InviteError::Damaged;
        if r.u8().map_err(damaged)? != FORMAT {
            return Err(InviteError::Newer);
        }
        Ok(Self {
            key: r.array().map_err(damaged)?,
            fingerprint: r.array().map_err(damaged)?,
            expires_minute: Some(r.u32().map_err(damaged)?).filter(|m| *m != 0),
        })
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = Sha256::digest(payload);
    let mut out = [0; CHECKSUM_LEN];
    out.copy_from_slice(&hash[..CHECKSUM_LEN]);
    out
}

/// A certificate's fingerprint: SHA-256 of its DER.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn invites_survive_chat(key: [u8; 16], fingerprint: [u8; 32], minute in proptest::option::of(1u32..)) {
            let invite = Invite { key, fingerprint, expires_minute: minute };
            let text = invite.encode();
            prop_assert!(text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)));
            prop_assert_eq!(Invite::decode(&text), Ok(invite));
            prop_assert_eq!(Invite::decode(&format!(" <{}>.", text.to_uppercase())), Ok(invite));
        }

        #[test]
        fn one_wrong_character_never_passes(key: [u8; 16], at in 0..INVITE_CHARS, by in 1u8..32) {
            let text = Invite { key, fingerprint: [0; 32], expires_minute: None }.encode();
            let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
            let mut bytes = text.clone().into_bytes();
            let place = alphabet.iter().position(|c| *c == bytes[at]).unwrap() as u8;
            bytes[at] = alphabet[usize::from((place + by) % 32)];
            prop_assert!(Invite::decode(std::str::from_utf8(&bytes).unwrap()).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,120}") {
            let _ = Invite::decode(&text);
        }
    }

    #[test]
    fn expiry_is_exact_to_the_second() {
        let invite = Invite { key: [0; 16], fingerprint: [0; 32], expires_minute: Some(2) };
        assert!(!invite.is_expired(WallTime(119_999_999_999)));
        assert!(invite.is_expired(WallTime(120_000_000_000)));
    }
}
