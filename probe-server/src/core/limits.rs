//! Bounds on what clients may have and do, in all and per source.

use std::time::Duration;

use super::limit::Rate;

/// All bounds. The defaults suit an unattended listener on the open internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one source (an IPv4 address or an IPv6 /64).
    pub sessions_per_source: usize,
    /// Flows in all, those included that are over and whose ledger is still held.
    pub flows: usize,
    /// Flows of one source.
    pub flows_per_source: usize,
    /// Flows of one session.
    pub flows_per_session: usize,
    /// How long a session without a sign of life is kept. A sleeping laptop's must survive a night.
    pub idle: Duration,
    /// How long a session that ended is kept, for requests that come twice.
    pub linger: Duration,
    /// A flow that was silent for this long makes room for a new one where a bound is reached.
    pub evictable_after: Duration,
    /// Verdicts being handed in at the same time.
    pub hand_ins: usize,
    /// What clients without an invite may have and do.
    pub public: PublicLimits,
    /// Challenges and refusals per source, before anything is known of it.
    pub strangers: Rate,
    /// Challenges and refusals per source, to those that hold an invite's key.
    pub holders: Rate,
    /// Challenges, refusals and stale notices in all.
    pub unvalidated: Rate,
    /// Flows of an earlier start that are looked at, in all: each costs a derivation of keys.
    pub stale: Rate,
    /// Control requests of one flow.
    pub controls: Rate,
    /// Loads.
    pub bulk: BulkLimits,
}

/// Bounds on loads, which only holders of an invite may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkLimits {
    /// UDP flows that carry one at the same time.
    pub flows: usize,
    /// Bits per second of one flow towards its client; `--max-rate` bounds them all together.
    pub rate_bps: u64,
    /// Blocks that may leave at once.
    pub burst: u32,
    /// How long one order may last.
    pub length: Duration,
}

impl Default for BulkLimits {
    fn default() -> Self {
        Self { flows: 16, rate_bps: 1_000_000_000, burst: 4096, length: Duration::from_secs(24 * 3600) }
    }
}

/// Bounds for clients without an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicLimits {
    /// Such sessions in all.
    pub sessions: usize,
    /// Such sessions of one source.
    pub sessions_per_source: usize,
    /// Flows of such a session.
    pub flows_per_session: usize,
    /// Probes per second that are answered on one flow.
    pub pps: u32,
    /// How long such a session lasts.
    pub life: Duration,
    /// After this much silence it makes room for another one of the same source.
    pub replaceable_after: Duration,
    /// Control requests of one flow.
    pub controls: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self::with_sessions(1024)
    }
}

impl Limits {
    /// The defaults, scaled to so many sessions in all (at least 1).
    pub fn with_sessions(sessions: usize) -> Self {
        let sessions = sessions.max(1);
        let flows = sessions.saturating_mul(8).clamp(256, 100_000);
        Self {
            sessions,
            sessions_per_source: sessions.div_ceil(4).max(16),
            flows,
            flows_per_source: flows.div_ceil(2),
            flows_per_session: 512,
            idle: Duration::from_secs(24 * 3600),
            linger: Duration::from_secs(30),
            evictable_after: Duration::from_secs(600),
            hand_ins: 16,
            public: PublicLimits {
                sessions: sessions.div_ceil(4),
                sessions_per_source: 1,
                flows_per_session: 8,
                pps: 20,
                life: Duration::from_secs(60),
                replaceable_after: Duration::from_secs(5),
                controls: Rate::new(10, 20),
            },
            strangers: Rate::new(50, 100),
            holders: Rate::new(2000, 4000),
            unvalidated: Rate::new(20_000, 2_000),
            stale: Rate::new(2_000, 500),
            controls: Rate::new(1_000, 1_000),
            bulk: BulkLimits::default(),
        }
    }
}

/// The rate that a holder of an invite is told, probes per second: more than a listener can answer.
pub const HOLDER_PPS: u32 = 1_000_000;
