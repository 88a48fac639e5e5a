//! Rates: how often something may happen, in eight bytes per bucket.
//!
//! All of them are the generic cell rate algorithm (ITU-T I.371): a bucket remembers the time at which it would be
//! empty again, so it needs no timer and no floating point.

use std::hash::Hasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use probe_protocol::time::Timestamp;
use siphasher::sip::SipHasher13;

/// How often: so many a second on average, so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    slack_ns: u64,
}

impl Rate {
    /// `per_second` on average (at least 1), `burst` at once (at least 1).
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second as u64 };
        let interval_ns = 1_000_000_000 / per_second;
        Self { interval_ns, slack_ns: interval_ns.saturating_mul(burst.saturating_sub(1) as u64) }
    }
}

/// One thing whose rate is bounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    empty_at: u64,
}

impl Bucket {
    /// Takes one, where the rate allows it now.
    pub fn take(&mut self, now: Timestamp, rate: Rate) -> bool {
        let now = now.as_nanos();
        let empty_at = self.empty_at.max(now);
        let allowed = empty_at - now <= rate.slack_ns;
        if allowed {
            self.empty_at = empty_at.saturating_add(rate.interval_ns);
        }
        allowed
    }
}

/// The network that counts as one source: an IPv4 address, or the /64 of an IPv6 one, since a single host has
/// all of that.
pub fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

/// Places in the tables that are indexed by a keyed hash of the source.
const PLACES: usize = 4096;

/// Finds a source's place: keyed, so that strangers cannot aim at somebody else's.
#[derive(Clone, Debug)]
pub struct SourceHash(SipHasher13);

impl SourceHash {
    /// A hash with a random key.
    pub fn new(key: [u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(&key))
    }

    fn place(&self, ip: IpAddr) -> usize {
        let mut hasher = self.0;
        match source_of(ip) {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()[..8]),
        }
        hasher.finish() as usize % PLACES
    }
}

/// Bounds a rate per source, in constant memory: sources whose hashes collide share their budget.
#[derive(Debug)]
pub struct SourceLimiter {
    hash: SourceHash,
    buckets: Box<[Bucket]>,
}

impl SourceLimiter {
    /// Full buckets for all.
    pub fn new(hash: SourceHash) -> Self {
        Self { hash, buckets: vec![Bucket::default(); PLACES].into_boxed_slice() }
    }

    /// Takes one from this source's bucket.
    pub fn take(&mut self, now: Timestamp, ip: IpAddr, rate: Rate) -> bool {
        let place = self.hash.place(ip);
        self.buckets[place].take(now, rate)
    }
}

/// Counts events per source in constant memory, for readers on other threads: sources whose hashes collide are
/// counted together, so a count is an upper bound.
#[derive(Debug)]
pub struct SourceCounts {
    hash: SourceHash,
    counts: Box<[AtomicU64]>,
}

impl SourceCounts {
    /// Zero for all.
    pub fn new(hash: SourceHash) -> Self {
        Self { hash, counts: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts one more.
    pub fn add(&self, ip: IpAddr) {
        self.counts[self.hash.place(ip)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self, ip: IpAddr) -> u64 {
        self.counts[self.hash.place(ip)].load(Ordering::Relaxed)
    }
}

/// Bounds the bits per second of everything that is sent, across threads and without a lock.
#[derive(Debug)]
pub struct BitRate {
    bits_per_second: u64,
    empty_at: AtomicU64,
}

/// How far ahead of its rate the listener may send: a batch of replies is not spread out.
const BIT_RATE_SLACK_NS: u64 = 50_000_000;

impl BitRate {
    /// At most so many bits a second (at least 1).
    pub fn new(bits_per_second: u64) -> Self {
        Self { bits_per_second: bits_per_second.max(1), empty_at: AtomicU64::new(0) }
    }

    /// Takes the room for `bytes` on the wire, where there is any now.
    pub fn take(&self, now: Timestamp, bytes: usize) -> bool {
        let cost = (bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits_per_second)) as u64;
        let now = now.as_nanos();
        self.empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty_at| {
                let empty_at = empty_at.max(now);
                (empty_at - now <= BIT_RATE_SLACK_NS).then(|| empty_at.saturating_add(cost))
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::new(10, 3);
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..10).filter(|_| bucket.take(now, rate)).count();
        assert_eq!(taken(&mut bucket, at(1000)), 3);
        assert_eq!(taken(&mut bucket, at(1099)), 0);
        assert_eq!(taken(&mut bucket, at(1100)), 1);
        assert_eq!(taken(&mut bucket, at(60_000)), 3, "idle time fills it no further than its burst");
    }

    #[test]
    fn sources_are_limited_apart_and_a_64_is_one_source() {
        let mut limiter = SourceLimiter::new(SourceHash::new([7; 16]));
        let rate = Rate::new(1, 1);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(limiter.take(at(1), ip("192.0.2.1"), rate));
        assert!(!limiter.take(at(1), ip("192.0.2.1"), rate));
        assert!(limiter.take(at(1), ip("192.0.2.2"), rate));
        assert!(limiter.take(at(1), ip("2001:db8::1"), rate));
        assert!(!limiter.take(at(1), ip("2001:db8::2"), rate));
        assert!(limiter.take(at(1), ip("2001:db8:0:1::2"), rate));
        assert!(!limiter.take(at(1), ip("::ffff:192.0.2.2"), rate), "a mapped address is the IPv4 one");
    }

    #[test]
    fn the_bit_rate_holds_over_a_minute() {
        let rate = BitRate::new(1_000_000);
        let mut sent = 0u64;
        let mut now = at(5);
        while now < at(60_005) {
            sent += if rate.take(now, 1000) { 8000 } else { 0 };
            now += Duration::from_millis(1);
        }
        assert!((59_900_000..=60_100_000).contains(&sent), "{sent} bits in 60 s at 1 Mbit/s");
    }
}
