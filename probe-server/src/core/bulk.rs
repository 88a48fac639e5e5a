//! Loads at the listener: who may have one, of what rate and length, and where it goes.
//!
//! The core counts what arrives and says what may be sent; a [`BulkRunner`] sends it. Towards the client nothing is
//! sent but by order of a key's holder, to the address alone that the flow's cookie proved, while that address is the
//! one that the flow's packets come from, and while it acknowledges what arrives.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probe_protocol::bulk::{Order, Side, Transfer};
use probe_protocol::control::{BinsReply, BinsRequest, BulkReply, BulkRequest, ControlRefusal, Reply};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::seal::FlowSecret;

use super::limits::BulkLimits;

/// A load, shared between what counts it and what sends it.
pub type SharedTransfer = Arc<Mutex<Transfer>>;

/// Takes hold of a load for a moment.
pub fn lock(transfer: &Mutex<Transfer>) -> MutexGuard<'_, Transfer> {
    transfer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A UDP flow whose load somebody must send and receive.
#[derive(Clone, Debug)]
pub struct BulkJob {
    /// The flow.
    pub flow: FlowId,
    /// The address that a cookie proved: the only one that anything may be sent to.
    pub peer: SocketAddr,
    /// The listener's address that the flow opened to, where the system tells.
    pub local: Option<IpAddr>,
    /// The load. Once nobody else holds it, the flow is closed and the job is over.
    pub transfer: SharedTransfer,
}

/// Sends the loads of UDP flows, and acknowledges what arrives. Both methods are called on the packet thread, so they
/// must neither block nor wait.
pub trait BulkRunner: Send {
    /// Takes a flow on; false where it cannot.
    fn run(&mut self, job: BulkJob) -> bool;
    /// A new order has come for this flow.
    fn wake(&mut self, flow: FlowId);
}

/// Whether a flow in this dress can carry a load: blocks are written where they are sent from.
pub fn carries_load(dress: Dress) -> bool {
    match dress {
        Dress::Random | Dress::Zero | Dress::Jetstream => true,
        Dress::Ascii | Dress::QuicShaped => false,
    }
}

/// An empty load for a flow.
pub fn transfer(secret: &[u8; 32], id: FlowId, dress: Dress) -> SharedTransfer {
    let secret = FlowSecret::of_flow(secret, id);
    let zeros = !dress.row().random_filler;
    Arc::new(Mutex::new(Transfer::new(id, secret, Side::Listener, zeros)))
}

/// Begins or ends what is asked for, within the bounds. `until`: the flow's end.
///
/// # Errors
/// [`ControlRefusal::NotUnderstood`] for an order that is older than the latest.
pub fn begin(
    transfer: &mut Transfer,
    request: &BulkRequest,
    bounds: &BulkLimits,
    until: Timestamp,
    now: Timestamp,
) -> Result<BulkReply, ControlRefusal> {
    let number = request.order.number;
    if request.stop {
        transfer.stop(number);
        return Ok(BulkReply { order: request.order, now });
    }
    match transfer.latest().copied() {
        // The same request again: its answer may have been lost.
        Some(latest) if latest.number == number => return Ok(BulkReply { order: latest, now }),
        Some(latest) if latest.number > number => return Err(ControlRefusal::NotUnderstood),
        Some(_) | None => {}
    }
    let length = request.order.length().min(bounds.length).min(until.since(now));
    let order = Order {
        rate_bps: request.order.rate_bps.min(bounds.rate_bps),
        length_us: u64::try_from(length.as_micros()).unwrap_or(u64::MAX),
        burst: request.order.burst.min(bounds.burst),
        ..request.order
    }
    .bounded();
    if order.up {
        // What the client may send is its own affair; the bounds are on what it is told that arrived.
        transfer.expect(request.order.bounded(), now);
        return Ok(BulkReply { order: request.order.bounded(), now });
    }
    transfer.send(order, now);
    Ok(BulkReply { order, now })
}

/// A page of what was counted.
pub fn bins(transfer: &mut Transfer, request: &BinsRequest, most: usize) -> Option<Reply> {
    let tally = transfer.tally_mut(request.order)?;
    tally.bins.settle_below(request.from);
    let page = tally.page(request.from, most);
    Some(Reply::Bins(BinsReply { ceiling: transfer.ceiling(), ..page }))
}
