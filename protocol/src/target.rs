//! What a client is pointed at: `HOST`, `HOST:PORT`, `[V6]:PORT`, or an invite `probe://HOST:PORT/#...`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::DEFAULT_PORT;
use crate::invite::{Invite, InviteError};

/// A listener's place, and the invite to it where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, for TCP and UDP.
    pub port: u16,
    /// What gives rights.
    pub invite: Option<Invite>,
}

/// Why a text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// No host in it.
    #[error("the target names no host: give HOST, HOST:PORT, [IPV6]:PORT or the whole invite")]
    NoHost,
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    /// A bracket is missing, or what is in brackets is no IPv6 address.
    #[error("{0:?} is not an IPv6 address in brackets, as in [2001:db8::1]:8886")]
    Brackets(String),
    /// The host has characters that no name or address has.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
    /// An address of another scheme.
    #[error("{0:?} is not of the probe:// kind: give HOST:PORT or the invite as the admin sent it")]
    Scheme(String),
    /// The invite's secret part is wrong.
    #[error(transparent)]
    Invite(#[from] InviteError),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim().trim_matches(['<', '>', '"', '\'']);
        let (place, invite) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("probe") => match rest.split_once('#') {
                Some((place, secret)) => (place.trim_end_matches('/'), Some(Invite::decode(secret)?)),
                None => (rest.trim_end_matches('/'), None),
            },
            Some((scheme, _)) => return Err(TargetError::Scheme(format!("{scheme}://"))),
            None => (text, None),
        };
        let (host, port) = split_place(place)?;
        Ok(Self { host, port, invite })
    }
}

fn split_place(place: &str) -> Result<(String, u16), TargetError> {
    if place.parse::<Ipv6Addr>().is_ok() {
        return Ok((place.to_owned(), DEFAULT_PORT));
    }
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let brackets = || TargetError::Brackets(place.to_owned());
        let (inside, after) = rest.split_once(']').ok_or_else(brackets)?;
        // A zone (`%eth0`) stands behind the address.
        inside.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().map_err(|_| brackets())?;
        (inside, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(brackets)?) })
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    if host.is_empty() {
        return Err(TargetError::NoHost);
    }
    let ok = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.len() > 253 || !host.chars().all(ok) {
        return Err(TargetError::Host(host.to_owned()));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(TargetError::Port(port.to_owned())),
            Ok(port) => port,
        },
    };
    Ok((host.to_owned(), port))
}

impl std::fmt::Display for Target {
    /// `HOST:PORT`, without the invite's secret part.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_place(f, &self.host, self.port)
    }
}

impl Target {
    /// The whole invite, secret part included: for the admin's eyes.
    pub fn to_url(&self) -> String {
        let secret = self.invite.map(|i| format!("#{}", i.encode())).unwrap_or_default();
        format!("probe://{self}/{secret}")
    }

    /// The host as an address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn write_place(f: &mut std::fmt::Formatter<'_>, host: &str, port: u16) -> std::fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(text: &str) -> Result<(String, u16), TargetError> {
        text.parse::<Target>().map(|t| (t.host, t.port))
    }

    #[test]
    fn every_form_is_read() {
        for (text, host, port) in [
            ("example.org", "example.org", 8886),
            ("example.org:9000", "example.org", 9000),
            ("192.0.2.1", "192.0.2.1", 8886),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("2001:db8::1", "2001:db8::1", 8886),
            ("[2001:db8::1]", "2001:db8::1", 8886),
            ("[2001:db8::1]:9000", "2001:db8::1", 9000),
            ("[fe80::1%eth0]:9000", "fe80::1%eth0", 9000),
            ("probe://example.org:9000/", "example.org", 9000),
            ("PROBE://example.org", "example.org", 8886),
        ] {
            assert_eq!(place(text), Ok((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn wrong_forms_say_what_is_wrong() {
        assert_eq!(place(""), Err(TargetError::NoHost));
        assert_eq!(place(":8886"), Err(TargetError::NoHost));
        assert_eq!(place("a:0"), Err(TargetError::Port("0".into())));
        assert_eq!(place("a:65536"), Err(TargetError::Port("65536".into())));
        assert_eq!(place("a:"), Err(TargetError::Port(String::new())));
        assert!(matches!(place("[2001:db8::1"), Err(TargetError::Brackets(_))));
        assert!(matches!(place("[example.org]:1"), Err(TargetError::Brackets(_))));
        assert!(matches!(place("https://example.org"), Err(TargetError::Scheme(_))));
        assert!(matches!(place("a b"), Err(TargetError::Host(_))));
        assert!(matches!(place("probe://a:1/#abc"), Err(TargetError::Invite(InviteError::Length { .. }))));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(host in "[a-z0-9.-]{1,30}", port in 1u16.., key: [u8; 16], with: bool) {
            let invite = with.then_some(Invite { key, fingerprint: [1; 32], expires_minute: Some(9) });
            let target = Target { host, port, invite };
            prop_assert_eq!(target.to_url().parse::<Target>(), Ok(target.clone()));
            prop_assert!(!target.to_string().contains('#'));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = text.parse::<Target>();
        }
    }
}
