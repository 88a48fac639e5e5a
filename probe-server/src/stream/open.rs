//! How a flow opens on a stream: the transport has validated the address, so a Hello is answered at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use probe_net::clock;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, Hello, HelloKeys, Refusal};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::stream::{Deframer, Framer};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind, MAX_LEN};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::flow::Flow;
use crate::core::book::{DatagramLedger, FlowBook, bounds_for};
use crate::core::counters::Counters;
use crate::core::hub::{Holds, OpenRequest, Opened};
use crate::core::invites::Opener;
use crate::core::limit::{Bucket, Rate};
use crate::core::{self, StreamFlow};
use crate::shared::Shared;

/// The stream on which a flow opens.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    pub(crate) carrier: Carrier,
    pub(crate) from: SocketAddr,
    /// The listener's own address, where it is known.
    pub(crate) local: Option<IpAddr>,
    /// The exporter of the channel; zero where there is none.
    pub(crate) binding: [u8; 32],
    /// The ledger of the socket, on QUIC.
    pub(crate) datagrams: Option<Arc<Mutex<DatagramLedger>>>,
}

/// Reads the Hello, of which `bytes` have come already, and answers it. The flow, and what came after the Hello; none
/// where it was refused or is not a Hello.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn open<S>(
    shared: &Arc<Shared>,
    stream: &mut S,
    mut bytes: Vec<u8>,
    dress: Dress,
    id: FlowId,
    under: &Under,
) -> io::Result<Option<(Flow, Vec<u8>)>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let len = dress.dressed_len(Form::Opening, HANDSHAKE_LEN);
    while bytes.len() < len {
        let mut more = [0; 512];
        match stream.read(&mut more).await? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&more[..n]),
        }
    }
    let early = bytes.split_off(len);
    let Some((record, flow)) = judge(shared, &mut bytes, dress, id, under) else {
        Counters::bump(&shared.counters.stream_broken);
        return Ok(None);
    };
    let mut wire = Vec::new();
    dress::put_on(dress, Form::Opening, &record, &mut wire);
    stream.write_all(&wire).await?;
    stream.flush().await?;
    if flow.is_none() {
        // A refusal must be read before the connection goes.
        stream.shutdown().await?;
        let mut rest = [0; 512];
        let mut seen = 0;
        while seen < MAX_LEN {
            match stream.read(&mut rest).await {
                Ok(n @ 1..) => seen += n,
                Ok(0) | Err(_) => break,
            }
        }
    }
    Ok(flow.map(|flow| (flow, early)))
}

/// The answer to a Hello, sealed, and the flow where it is accepted; none for what is not a Hello.
fn judge(
    shared: &Arc<Shared>,
    bytes: &mut [u8],
    dress: Dress,
    id: FlowId,
    under: &Under,
) -> Option<(Vec<u8>, Option<Flow>)> {
    let (now, wall) = (clock::now(), clock::wall());
    let mut hub = shared.hub();
    let invites = Arc::clone(hub.invites());
    let opener = invites.find(id)?;
    let mut keys = match &opener {
        Opener::Invite(known) => HelloKeys::of_invite(&known.invite.key),
        Opener::Public => HelloKeys::public(),
    };
    let record = dress::take_off(dress, Form::Opening, bytes).ok()?;
    let header = keys.keys.open(record).ok().filter(|h| h.kind == Kind::Hello)?;
    let body = &record[BODY_AT..HANDSHAKE_LEN];
    let answer = core::judge_versions(header.version, body).map(|()| Hello::decode(body).ok());
    let closed = Arc::new(Notify::new());
    let mut held = None;
    let opened: Result<(Opened, Hello), Refusal> = match answer {
        Err(refusal) => Err(refusal),
        Ok(None) => return None,
        Ok(Some(hello)) => opener.rights(wall).and_then(|rights| {
            let request = OpenRequest {
                hello: &hello,
                from: under.from,
                rights,
                carrier: under.carrier,
                binding: under.binding,
                now,
                wall,
            };
            hub.note_opening(hello.session, hello.flow_nonce, under.from, true);
            let opened = hub.open(&request, |flows, full| {
                let book = Arc::new(Mutex::new(FlowBook::new(under.from, bounds_for(flows, !full))));
                held = Some(Arc::clone(&book));
                let closed = Arc::clone(&closed);
                let flow = StreamFlow { book, datagrams: under.datagrams.clone() };
                Holds::Stream(flow, Box::new(move || closed.notify_one()))
            });
            opened.map(|opened| (opened, hello))
        }),
    };
    let software = hub.identity().software;
    let (kind, body, flow) = match opened {
        Err(refusal) => {
            hub.refused(under.from, refusal, now);
            (Kind::Refuse, core::refuse(refusal, software).encode(), None)
        }
        Ok((opened, hello)) => {
            hub.note_first(hello.session, hello.flow_nonce, under.from);
            let (book, attached) = match held.take() {
                Some(book) => (book, 0),
                // The same Hello on another connection; none where its flow runs over UDP.
                None => {
                    let closed = Arc::clone(&closed);
                    let close = Box::new(move || closed.notify_one());
                    let (flow, attached) = hub.reattach(hello.session, opened.accept.id, close)?;
                    (flow.book, attached)
                }
            };
            let rates = (hub.limits().public.pps, hub.limits().controls, hub.limits().public.controls);
            let flow = flow(shared, &opened, &hello, (book, attached), closed, (now, under.local), rates);
            (Kind::Accept, Accept::encode(&opened.accept), Some(flow))
        }
    };
    drop(hub);
    record[BODY_AT..HANDSHAKE_LEN].copy_from_slice(&body);
    keys.keys.seal(keys.id, header.seq, kind, record).ok()?;
    Some((record.to_vec(), flow))
}

fn flow(
    shared: &Arc<Shared>,
    opened: &Opened,
    hello: &Hello,
    (book, attached): (Arc<Mutex<FlowBook>>, u32),
    closed: Arc<Notify>,
    (now, local): (Timestamp, Option<IpAddr>),
    (pps, full_controls, public_controls): (u32, Rate, Rate),
) -> Flow {
    let accept = &opened.accept;
    Flow {
        shared: Arc::clone(shared),
        session: hello.session,
        id: accept.id,
        keys: FlowKeys::new(accept.secret),
        framer: Framer::new(accept.secret, hello.dress, true),
        deframer: Deframer::new(accept.secret, hello.dress, false),
        dress: hello.dress,
        full: opened.full,
        until: opened.until,
        boot: accept.boot,
        local,
        book,
        attached,
        closed,
        pps: (Bucket::default(), Rate::new(pps, pps)),
        controls: (Bucket::default(), if opened.full { full_controls } else { public_controls }),
        told: now,
        facts_at: Timestamp::ZERO,
    }
}
