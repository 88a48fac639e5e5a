//! A token bucket, kept as the time at which it would be full again (the virtual scheduling form of GCRA, ITU-T
//! I.371): exact, and without a timer.

use std::time::Duration;

use probe_protocol::time::Timestamp;

/// A token bucket whose tokens are time on a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// When the bucket is full again.
    full_at: Timestamp,
}

impl Bucket {
    /// A full one.
    pub(super) const FULL: Self = Self { full_at: Timestamp::ZERO };

    /// When something may go that costs `cost`, out of a bucket that holds `depth`. What costs more than the depth
    /// may go when the bucket is full.
    pub(super) fn ready_at(&self, now: Timestamp, cost: Duration, depth: Duration) -> Timestamp {
        now.max(self.full_at + cost.min(depth) - depth)
    }

    /// Takes out what goes at `now`.
    pub(super) fn take(&mut self, now: Timestamp, cost: Duration) {
        self.full_at = self.full_at.max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_passes_its_depth_at_once_and_then_its_rate() {
        let (cost, depth) = (Duration::from_millis(1), Duration::from_millis(10));
        let (mut bucket, start) = (Bucket::FULL, Timestamp(1_000_000_000));
        let mut passed = 0;
        while bucket.ready_at(start, cost, depth) == start {
            bucket.take(start, cost);
            passed += 1;
        }
        assert_eq!(passed, 10);
        let next = bucket.ready_at(start, cost, depth);
        assert_eq!(next, start + cost, "one more after one more's time");
        assert_ne!(
            bucket.ready_at(next - Duration::from_nanos(1), cost, depth),
            next - Duration::from_nanos(1)
        );
        assert_eq!(bucket.ready_at(next, cost, depth), next);
    }
}
