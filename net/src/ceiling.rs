//! What this host moves of a load by itself: blocks from one socket to another on loopback, by the same calls as in a load.
//!
//! Measured once in a process, for [`LENGTH`] per length of block, before its first load. Sending and receiving are timed
//! apart, on one thread, and the median over all batches counts, so that other work on the host does not. A send over
//! loopback carries a part of the receiver's work in the kernel, so both are rather low than high.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use probe_protocol::bulk::{Ceiling, Order, Side, Transfer};
use probe_protocol::wire::MAX_LEN;
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::seal::FlowSecret;

use crate::bulk::{BUFFER, MERGED, READ};
use crate::clock;
use crate::udp::{MAX_BATCH, RecvBatch, SendBatch, UdpOptions, UdpSocket};

/// How long blocks of one length are moved.
const LENGTH: Duration = Duration::from_millis(8);
/// Nobody reaches it.
const RATE: u64 = 1_000_000_000_000;
/// Reads without a datagram, after which those that are missing are taken for lost.
const EMPTY: u32 = 4;

/// The ceiling of this process; none where the system has no loopback to measure on.
pub(crate) fn measured() -> Option<Ceiling> {
    static CEILING: OnceLock<Option<Ceiling>> = OnceLock::new();
    *CEILING.get_or_init(|| {
        let mut found = Ceiling::default();
        for (n, size) in Ceiling::SIZES.into_iter().enumerate() {
            (found.sends[n], found.receives[n]) = measure(size).ok()?;
        }
        Some(found)
    })
}

/// Blocks a second that leave, and that arrive.
fn measure(size: u16) -> io::Result<(u32, u32)> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = UdpOptions {
        recv_buffer: Some(BUFFER),
        send_buffer: Some(BUFFER),
        coalesce: true,
        merge: true,
        ..UdpOptions::new(any)
    };
    let (from, to) = (UdpSocket::bind(&options)?, UdpSocket::bind(&options)?);
    let peer = to.local_addr()?;
    let (id, secret) = (FlowId([1; 8]), || FlowSecret([2; 16]));
    let mut sender = Transfer::new(id, secret(), Side::Client, false);
    let mut receiver = Transfer::new(id, secret(), Side::Listener, false);
    let length_us = 4 * u64::try_from(LENGTH.as_micros()).unwrap_or(u64::MAX);
    let order =
        Order { number: 1, up: true, rate_bps: RATE, size, burst: 0, length_us, bin_us: 10_000, tos: 0 };
    let began = clock::now();
    sender.send(order, began);
    receiver.expect(order, began);
    let merges = to.features().merge;
    let (slots, room) = if merges { (READ, MERGED) } else { (MAX_BATCH, MAX_LEN) };
    let (mut out, mut batch) = (SendBatch::new(MAX_BATCH, MAX_LEN), RecvBatch::new(slots, room));
    // Time per block of each batch, seconds.
    let (mut sending, mut receiving) = (Vec::new(), Vec::new());
    loop {
        let start = clock::now();
        if start.since(began) >= LENGTH {
            break;
        }
        let Some((blocks, size, _)) = sender.due(start, MAX_BATCH) else { continue };
        out.clear();
        for _ in 0..blocks {
            out.push(size, peer, |record| {
                sender.write_block(start, record);
            });
        }
        let left = from.send_batch(&mut out).sent as u64;
        let between = clock::now();
        let each = |time: Duration, n: u64| time.as_secs_f64() / n as f64;
        if left > 0 {
            sending.push(each(between.since(start), left));
        }
        let (mut arrived, mut empty) = (0, 0);
        while arrived < left && empty < EMPTY {
            to.recv(&mut batch)?;
            empty += u32::from(batch.is_empty());
            for i in 0..batch.len() {
                for bytes in batch.segments(i) {
                    arrived += u64::from(receiver.handle(bytes, between).is_ok());
                }
            }
        }
        if arrived > 0 {
            receiving.push(each(clock::now().since(between), arrived));
        }
    }
    match (rate(&mut sending), rate(&mut receiving)) {
        (Some(sends), Some(receives)) => Ok((sends, receives)),
        (None, _) | (_, None) => Err(io::ErrorKind::NetworkUnreachable.into()),
    }
}

/// Blocks a second at the median time per block.
fn rate(times: &mut [f64]) -> Option<u32> {
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2)?;
    Some((1.0 / median.max(1e-9)).min(4e9) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_loopback_has_a_ceiling_and_it_is_measured_once() {
        let Some(found) = measured() else {
            // A namespace whose loopback is down.
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let socket = UdpSocket::bind(&UdpOptions::new(any)).unwrap();
            let mut out = SendBatch::new(1, 64);
            out.push(64, socket.local_addr().unwrap(), |_| ());
            assert_eq!(socket.send_batch(&mut out).sent, 0, "loopback works, and nothing was measured");
            return;
        };
        assert!(found.sends.iter().chain(&found.receives).all(|n| *n > 0), "{found:?}");
        assert_eq!(measured(), Some(found));
    }
}
