//! Counters of everything that was answered and everything that was turned away.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Counts of one thread, plain numbers on its hot path; [`Counts::publish`] shows them to the others.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[doc = $doc])* pub $name: u64,)* }

        /// Counts of the whole listener.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: AtomicU64,)* }

        impl Counts {
            /// Adds what was counted here since the last time to the listener's counters.
            pub fn publish(&mut self, to: &Counters) {
                $(if self.$name != 0 { to.$name.fetch_add(std::mem::take(&mut self.$name), Ordering::Relaxed); })*
            }
        }

        impl Counters {
            /// Every counter: its name, what it counts, its value.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),*), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams that arrived.
    datagrams,
    /// Bytes in them.
    datagram_bytes,
    /// Probes answered over UDP.
    udp_echoes,
    /// Probes answered over TCP, TLS and QUIC.
    stream_echoes,
    /// Blocks of loads that arrived.
    blocks,
    /// Blocks of loads that were sent.
    blocks_sent,
    /// Control requests answered.
    controls,
    /// Challenges sent.
    challenges,
    /// Flows opened.
    flows_opened,
    /// Sessions opened.
    sessions_opened,
    /// Openings refused.
    refused,
    /// Datagrams handed to QUIC.
    quic,
    /// Datagrams handed to inverted QUIC.
    quic_inverse,
    /// Stale notices sent for flows of an earlier start.
    stale,
    /// Source addresses of flows that changed.
    moves,
    /// Dropped: nothing known opens it.
    dropped_unknown,
    /// Dropped: under a known id, but it fails the integrity check or is malformed.
    dropped_forged,
    /// Dropped: too short, too long, or cut off.
    dropped_length,
    /// Dropped: a kind that only listeners send.
    dropped_kind,
    /// Dropped: a rate is exceeded.
    dropped_rate,
    /// Dropped: a QUIC first packet below 1200 bytes, which RFC 9000 section 14.1 forbids.
    dropped_short_initial,
    /// Dropped: the source is outside --allow.
    dropped_not_allowed,
    /// Dropped: the QUIC stack's queue is full.
    dropped_quic_queue,
    /// Replies the system did not take.
    send_failures,
    /// Replies withheld because of --max-rate.
    dropped_max_rate,
    /// TCP connections accepted.
    tcp_accepted,
    /// TCP connections closed because a bound on connections was reached.
    tcp_refused,
    /// TCP connections closed because they said nothing, or nothing known, in time.
    tcp_silent,
    /// TCP connections closed because they opened with nothing known.
    tcp_unknown,
    /// TLS handshakes that failed.
    tls_failed,
    /// HTTP requests answered.
    http,
    /// Streams that broke the framing or the integrity check.
    stream_broken,
    /// Dropped: the packet thread's queue for what a load's socket received is full.
    dropped_strays,
    /// Events nobody read in time.
    events_lost,
    /// Results handed in.
    results,
}

impl Counters {
    /// Adds one to a counter.
    pub fn bump(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
