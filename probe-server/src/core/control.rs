//! Answers to control requests, in whatever room there is for them.

use std::net::IpAddr;

use probe_protocol::bulk::Transfer;
use probe_protocol::control::{
    ControlRefusal, DatagramsRequest, EndReply, ErrorReply, FlowReply, MAX_MESSAGE, OpeningsReply, Reply,
    Request, decode_request, encode_reply,
};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::SessionId;
use probe_protocol::wire::id::FlowId;

use super::book::FlowBook;
use super::bulk;
use super::hub::{FlowRef, Hub};
use super::session::StreamFlow;

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its session.
    pub session: SessionId,
    /// The listener's boot id.
    pub boot: u64,
    /// The listener's clock.
    pub now: Timestamp,
    /// The listener's own address at which the request arrived, where the system tells.
    pub local: Option<IpAddr>,
}

/// A request that must be answered where a UDP flow's ledger is.
#[derive(Clone, Debug)]
pub struct AboutFlow {
    /// The packet thread's slot.
    pub slot: u32,
    /// The flow.
    pub flow: FlowId,
    /// The request, about this flow.
    pub request: Request,
}

/// Either the answer, or where it is to be had.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Now(Reply),
    /// At the packet thread.
    AtPackets(AboutFlow),
}

/// Reads the request in `body`; the answer where it cannot be read.
pub fn read(body: &[u8], asker: Asker) -> Result<Request, Reply> {
    decode_request(body).map_err(|_| error(asker, ControlRefusal::NotUnderstood))
}

/// The answer "no".
pub fn error(asker: Asker, why: ControlRefusal) -> Reply {
    Reply::Error(ErrorReply { why, boot: asker.boot })
}

/// Answers a request, as far as that needs nothing of the packet thread's.
pub fn answer(hub: &mut Hub, asker: Asker, request: Request, room: usize) -> Answer {
    let flow = match &request {
        Request::Ledger(r) => r.flow,
        Request::Arrivals(r) => r.flow,
        Request::Flow(r) => r.flow,
        Request::Datagrams(r) => r.flow,
        Request::Bulk(r) => r.flow,
        Request::Bins(r) => r.flow,
        Request::HandIn(r) => {
            let reply = hub.hand_in(asker.session, r);
            return Answer::Now(reply.map_or_else(|why| error(asker, why), Reply::HandIn));
        }
        Request::End(_) => {
            hub.end(asker.session, asker.now);
            return Answer::Now(Reply::End(EndReply {}));
        }
        Request::Openings(_) => {
            let reply = OpeningsReply { local: asker.local, ..hub.openings(asker.session) };
            let fits = fit(room, reply.openings.len(), |n| {
                let mut reply = reply.clone();
                reply.openings.truncate(n);
                Reply::Openings(reply)
            });
            return Answer::Now(fits.unwrap_or_else(|| error(asker, ControlRefusal::TooMuch)));
        }
    };
    match hub.find(asker.session, flow) {
        Err(why) => Answer::Now(error(asker, why)),
        Ok(FlowRef::Udp(slot)) => Answer::AtPackets(AboutFlow { slot, flow, request }),
        Ok(FlowRef::Stream(stream)) => Answer::Now(of_stream(&stream, &request, asker, room)),
    }
}

fn of_stream(stream: &StreamFlow, request: &Request, asker: Asker, room: usize) -> Reply {
    if let Request::Datagrams(DatagramsRequest { received, from, .. }) = request {
        let Some(ledger) = &stream.datagrams else { return error(asker, ControlRefusal::UnknownFlow) };
        let ledger = ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reply = fit(room, room / 3, |n| Reply::Datagrams(ledger.page(*received, *from, n)));
        return reply.unwrap_or_else(|| error(asker, ControlRefusal::TooMuch));
    }
    let mut book = stream.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    of_book(&mut book, request, asker, room)
}

/// Answers what one flow's book answers.
pub fn of_book(book: &mut FlowBook, request: &Request, asker: Asker, room: usize) -> Reply {
    // The receipts of a flow with a load are its blocks'.
    let bulk = book.bulk.clone();
    let reply = match (request, bulk.as_deref().map(bulk::lock)) {
        (Request::Bins(r), Some(mut transfer)) => {
            let fits = |n, t: &mut Transfer| bulk::bins(t, r, n);
            let Some(_) = fits(0, &mut transfer) else { return error(asker, ControlRefusal::UnknownFlow) };
            fit(room, room / 4, |n| {
                fits(n, &mut transfer).unwrap_or(error(asker, ControlRefusal::UnknownFlow))
            })
        }
        (Request::Ledger(r), Some(mut transfer)) => {
            transfer.receipts_mut().settle_below(r.settled_below);
            fit(room, room / 2, |n| Reply::Ledger(transfer.receipts().page(r.from, n)))
        }
        (Request::Arrivals(r), Some(transfer)) => {
            fit(room, room / 5, |n| Reply::Arrivals(transfer.receipts().arrivals(r.from, n)))
        }
        (Request::Ledger(r), None) => {
            book.receipts.settle_below(r.settled_below);
            fit(room, room / 2, |n| Reply::Ledger(book.receipts.page(r.from, n)))
        }
        (Request::Arrivals(r), None) => {
            fit(room, room / 5, |n| Reply::Arrivals(book.receipts.arrivals(r.from, n)))
        }
        (Request::Flow(_), _) => {
            let whole = book.describe();
            let extras = whole.forged_sample.as_ref().map_or(0, |sample| sample.len()).max(whole.moved.len());
            fit(room, extras, |n| Reply::Flow(shortened(&whole, n)))
        }
        (
            Request::Bins(_)
            | Request::Bulk(_)
            | Request::Datagrams(_)
            | Request::HandIn(_)
            | Request::End(_)
            | Request::Openings(_),
            _,
        ) => return error(asker, ControlRefusal::UnknownFlow),
    };
    reply.unwrap_or_else(|| error(asker, ControlRefusal::TooMuch))
}

/// With at most `n` bytes of evidence and the `n` latest of the old addresses.
fn shortened(whole: &FlowReply, n: usize) -> FlowReply {
    let mut reply = whole.clone();
    if let Some(sample) = &mut reply.forged_sample {
        *sample = sample[..sample.len().min(n)].into();
    }
    let older = reply.moved.len().saturating_sub(n);
    reply.moved.drain(..older);
    reply
}

/// The reply with as many entries as the room allows, at most `most`; none where not even the one without any fits.
fn fit(room: usize, most: usize, mut make: impl FnMut(usize) -> Reply) -> Option<Reply> {
    let mut scratch = [0; MAX_MESSAGE + 4];
    let scratch = &mut scratch[..room.min(MAX_MESSAGE + 4)];
    let mut n = most;
    loop {
        let reply = make(n);
        if encode_reply(&reply, scratch).is_ok() {
            return Some(reply);
        }
        if n == 0 {
            return None;
        }
        n = n * 3 / 4;
    }
}

/// Writes the answer into a record's body, which keeps its length; a body too short even for "no" becomes zeros.
pub fn write(reply: &Reply, body: &mut [u8]) {
    if encode_reply(reply, body).is_err() {
        body.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use probe_protocol::control::{Arrival, ArrivalsRequest, FlowRequest, LedgerRequest, decode_reply};
    use probe_protocol::ledger::ReceiptBounds;

    use super::*;

    const FLOW: FlowId = FlowId([1; 8]);

    fn book() -> FlowBook {
        let source: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let mut book = FlowBook::new(source, ReceiptBounds { ranges: 4096, arrivals: 2048 });
        for n in 0..1000 {
            book.receipts.note(Arrival { seq: n * 2, at: Timestamp(u64::MAX), ..Arrival::default() });
        }
        for n in 0..40 {
            book.move_to(SocketAddr::new(source.ip(), n), Timestamp::ZERO);
        }
        book.note_forged(&[9; 2000]);
        book
    }

    fn asker() -> Asker {
        Asker { session: SessionId([0; 16]), boot: 7, now: Timestamp::ZERO, local: None }
    }

    #[test]
    fn every_answer_fits_its_room_and_uses_it() {
        let requests = [
            Request::Ledger(LedgerRequest { flow: FLOW, from: 0, settled_below: 0 }),
            Request::Arrivals(ArrivalsRequest { flow: FLOW, from: 0 }),
            Request::Flow(FlowRequest { flow: FLOW }),
        ];
        for request in requests {
            for room in [16, 32, 64, 200, 500, 1104] {
                let reply = of_book(&mut book(), &request, asker(), room);
                let mut body = vec![0xff; room];
                write(&reply, &mut body);
                assert_eq!(decode_reply(&body), Ok(reply.clone()), "{room} bytes for {request:?}");
                if room >= 200 {
                    assert!(!matches!(reply, Reply::Error(_)), "{room} bytes for {request:?}");
                }
                if let (Reply::Ledger(reply), 1104) = (&reply, room) {
                    assert!(reply.ranges.len() > 150, "{} ranges", reply.ranges.len());
                }
            }
        }
    }

    #[test]
    fn pages_of_a_ledger_join_without_a_gap() {
        let (mut from, mut got) = (0, 0);
        let mut book = book();
        loop {
            let request = Request::Ledger(LedgerRequest { flow: FLOW, from, settled_below: 0 });
            let Reply::Ledger(page) = of_book(&mut book, &request, asker(), 100) else { panic!("no ledger") };
            got += page.ranges.len();
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(got, 1000);
    }
}
