//! Stateless cookies: proof that a client receives at the address it sends from, before the listener holds anything.

use std::hash::Hasher;
use std::net::SocketAddr;
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use crate::time::Timestamp;
use crate::wire::hello::{Hello, encode_addr};
use crate::wire::seal::derive;

/// How long a cookie is good for: between one and two of these.
pub const COOKIE_LIFE: Duration = Duration::from_secs(20);

/// Makes and checks cookies for one boot of a listener.
#[derive(Clone, Debug)]
pub struct CookieJar {
    key: [u8; 16],
}

impl CookieJar {
    /// A jar; the secret should differ per boot, since cookies count in the listener's own clock.
    pub fn new(listener_secret: &[u8; 32], boot: u64) -> Self {
        Self { key: derive(listener_secret, b"cookies", &boot.to_be_bytes()) }
    }

    /// The cookie for this source and this flow, now.
    pub fn bake(&self, source: SocketAddr, hello: &Hello, now: Timestamp) -> [u8; 16] {
        self.of_period(source, hello, period(now))
    }

    /// Whether the Hello carries a cookie that was baked for this source and flow in this period or the last.
    pub fn accepts(&self, source: SocketAddr, hello: &Hello, now: Timestamp) -> bool {
        let period = period(now);
        let good = |p: u64| bool::from(self.of_period(source, hello, p).ct_eq(&hello.cookie));
        good(period) || period.checked_sub(1).is_some_and(good)
    }

    fn of_period(&self, source: SocketAddr, hello: &Hello, period: u64) -> [u8; 16] {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&encode_addr(source));
        hasher.write(&hello.session.0);
        hasher.write(&hello.flow_nonce.to_be_bytes());
        hasher.write(&period.to_be_bytes());
        hasher.finish128().as_bytes()
    }
}

fn period(now: Timestamp) -> u64 {
    now.as_nanos() / COOKIE_LIFE.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::WallTime;
    use crate::wire::dress::Dress;
    use crate::wire::hello::{Carrier, SessionId};

    fn hello() -> Hello {
        Hello {
            min_version: 1,
            max_version: 1,
            session: SessionId([3; 16]),
            flow_nonce: 9,
            cookie: [0; 16],
            carrier: Carrier::Udp,
            dress: Dress::Random,
            size: 64,
            software: [0; 3],
            wall: WallTime(0),
            binding: [0; 32],
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_source_its_flow_its_time_and_its_boot() {
        let jar = CookieJar::new(&[1; 32], 7);
        let source: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let now = Timestamp::from_nanos(100_000_000_000);
        let with = Hello { cookie: jar.bake(source, &hello(), now), ..hello() };
        assert!(jar.accepts(source, &with, now));
        assert!(jar.accepts(source, &with, now + COOKIE_LIFE));
        assert!(!jar.accepts(source, &with, now + COOKIE_LIFE * 2));
        assert!(!jar.accepts("192.0.2.1:1001".parse().unwrap(), &with, now));
        assert!(!jar.accepts(source, &Hello { flow_nonce: 10, ..with }, now));
        assert!(!jar.accepts(source, &hello(), now));
        assert!(!CookieJar::new(&[1; 32], 8).accepts(source, &with, now));
    }
}
