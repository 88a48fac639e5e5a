//! UDP sockets over real loopback.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports, reason = "some tests are of Linux alone"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe_net::clock;
use probe_net::udp::{
    Fault, Fragmentation, MAX_BATCH, Outgoing, RecvBatch, Report, SendBatch, SendOutcome, UdpOptions,
    UdpSocket,
};
use probe_net::wait::{Interest, Poller, Ready};

const PATIENCE: Duration = Duration::from_secs(20);

/// A socket on loopback for each family the host has. A host without IPv6 must say so with the errors we know.
fn loopbacks() -> Vec<IpAddr> {
    let mut found = vec!["127.0.0.1".parse().unwrap()];
    match UdpSocket::bind(&UdpOptions::new("[::1]:0".parse().unwrap())) {
        Ok(_) => found.push("::1".parse().unwrap()),
        Err(error) => assert!(
            matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
                || error.raw_os_error().is_some_and(is_family_missing),
            "{error:?} is not how a host without IPv6 answers"
        ),
    }
    found
}

#[cfg(unix)]
fn is_family_missing(errno: i32) -> bool {
    errno == libc::EAFNOSUPPORT
}

#[cfg(not(unix))]
fn is_family_missing(errno: i32) -> bool {
    errno == 10047
}

fn open(ip: IpAddr) -> UdpSocket {
    UdpSocket::bind(&UdpOptions::new(SocketAddr::new(ip, 0))).unwrap()
}

fn open_with(ip: IpAddr, set: impl FnOnce(&mut UdpOptions)) -> UdpSocket {
    let mut options = UdpOptions::new(SocketAddr::new(ip, 0));
    set(&mut options);
    UdpSocket::bind(&options).unwrap()
}

fn wait_readable(socket: &UdpSocket) {
    let poller = Poller::new().unwrap();
    poller.add(socket, 1, Interest::READ).unwrap();
    let mut ready = Ready::new();
    poller.wait(&mut ready, clock::now() + PATIENCE).unwrap();
    assert!(!ready.events().is_empty(), "nothing arrived");
}

fn receive(socket: &UdpSocket, batch: &mut RecvBatch) {
    wait_readable(socket);
    socket.recv(batch).unwrap();
}

#[test]
fn a_datagram_arrives_with_everything_the_platform_tells() {
    for ip in loopbacks() {
        let (a, b) = (open(ip), open(ip));
        let before = clock::wall();
        a.send_to(b"hello", b.local_addr().unwrap(), None, Some(0xb9), None).unwrap();
        let mut batch = RecvBatch::new(8, 64);
        receive(&b, &mut batch);
        assert_eq!((batch.len(), batch.bytes(0)), (1, &b"hello"[..]));
        let meta = *batch.meta(0).unwrap();
        assert_eq!((meta.from, meta.len, meta.truncated), (a.local_addr().unwrap(), 5, false));
        let features = b.features();
        assert_eq!(meta.ttl, features.ttl.then_some(64), "{ip}");
        assert_eq!(meta.tos, features.tos.then_some(0xb9), "DSCP EF and ECT(1), {ip}");
        assert_eq!(meta.local, features.local.then_some(ip));
        assert_eq!(meta.drops, features.drops.then_some(0));
        assert_eq!(meta.kernel.is_some(), features.timestamps);
        if let Some(kernel) = meta.kernel {
            // Both are readings of one wall clock, which may be slewed but not by seconds.
            assert!((kernel.0 - before.0).abs() < PATIENCE.as_nanos() as i64, "{kernel:?} {before:?}");
        }
        if cfg!(target_os = "linux") {
            let all = features.timestamps && features.ttl && features.tos && features.local && features.drops;
            assert!(all && features.fragmentation, "Linux grants all of it: {features:?}");
            assert_eq!(b.drops(), Some(0));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn ttl_and_tos_are_set_per_datagram() {
    for ip in loopbacks() {
        let (a, b) = (open(ip), open(ip));
        let to = b.local_addr().unwrap();
        for (tos, ttl) in [(None, None), (Some(1), Some(1)), (Some(0xff), Some(255)), (None, Some(7))] {
            a.send_to(b"x", to, None, tos, ttl).unwrap();
            let mut batch = RecvBatch::new(1, 16);
            receive(&b, &mut batch);
            let meta = batch.meta(0).unwrap();
            assert_eq!((meta.tos, meta.ttl), (Some(tos.unwrap_or(0)), Some(ttl.unwrap_or(64))), "{ip}");
        }
    }
}

#[test]
fn a_full_batch_is_answered_in_place_and_every_answer_comes_back() {
    answers_a_full_batch(UdpSocket::send_replies);
}

#[test]
fn a_full_batch_answered_together_comes_back_one_by_one() {
    answers_a_full_batch(UdpSocket::send_replies_together);
}

fn answers_a_full_batch(send_replies: fn(&UdpSocket, &mut RecvBatch) -> SendOutcome) {
    for ip in loopbacks() {
        let (client, server) = (open(ip), open_with(ip, |options| options.coalesce = true));
        let to = server.local_addr().unwrap();
        let mut out = SendBatch::new(MAX_BATCH, 256);
        for i in 0..MAX_BATCH as u8 {
            assert!(out.push(100, to, |bytes| bytes.fill(i)));
        }
        assert!(!out.push(1, to, |_| panic!("a full batch takes no more")));
        assert_eq!(client.send_batch(&mut out), SendOutcome { sent: MAX_BATCH, failed: 0, pending: 0 });

        let mut batch = RecvBatch::new(MAX_BATCH, 256);
        let mut answered = 0;
        while answered < MAX_BATCH {
            receive(&server, &mut batch);
            let mut marked = 0;
            for datagram in batch.datagrams() {
                assert_eq!(datagram.bytes.len(), 100);
                datagram.bytes[0] = !datagram.bytes[1];
                let tos = if datagram.bytes[1] % 8 < 4 { 0 } else { 2 };
                // One longer than it came, the others as long.
                let len = if datagram.bytes[1] == 3 { 256 } else { 100 };
                datagram.reply(len, tos);
                marked += 1;
            }
            assert_eq!(
                send_replies(&server, &mut batch),
                SendOutcome { sent: marked, failed: 0, pending: 0 }
            );
            answered += marked;
        }

        let mut seen = [false; MAX_BATCH];
        while seen.contains(&false) {
            receive(&client, &mut batch);
            for datagram in batch.datagrams() {
                let i = datagram.bytes[1];
                assert_eq!(datagram.meta.from, to);
                assert_eq!((datagram.bytes[0], datagram.bytes[99]), (!i, i));
                assert_eq!(datagram.bytes.len(), if i == 3 { 256 } else { 100 });
                if server.features().tos && cfg!(target_os = "linux") {
                    assert_eq!(datagram.meta.tos, Some(if i % 8 < 4 { 0 } else { 2 }));
                }
                assert!(!std::mem::replace(&mut seen[usize::from(i)], true), "{i} came twice");
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn coalesced_datagrams_arrive_one_by_one_each_as_it_was_sent() {
    for ip in loopbacks() {
        let sender = open_with(ip, |options| options.coalesce = true);
        assert!(sender.features().coalesce);
        let (a, b) = (open(ip), open(ip));
        let (to_a, to_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
        // Runs of several lengths with a shorter end, other peers, other marks, an empty one, and more bytes in a
        // row than one IP packet holds.
        let mut sent: Vec<(SocketAddr, usize, Option<u8>)> = Vec::new();
        sent.extend([(to_a, 1_200, None); 10]);
        sent.extend([(to_a, 700, None), (to_a, 700, None), (to_a, 900, None), (to_b, 900, None)]);
        sent.extend([(to_b, 900, Some(2)), (to_b, 900, Some(2)), (to_b, 0, Some(2)), (to_b, 0, Some(2))]);
        sent.extend([(to_b, 1, None); 5]);
        sent.extend([(to_a, 9_000, None); 9]);
        let mut batch = SendBatch::new(MAX_BATCH, 9_000);
        for (i, &(to, len, tos)) in sent.iter().enumerate() {
            assert!(batch.push_with(len, to, Some(ip), tos, None, |bytes| bytes.fill(i as u8)));
        }
        assert_eq!(sender.send_batch(&mut batch), SendOutcome { sent: sent.len(), failed: 0, pending: 0 });
        for (socket, addr) in [(&a, to_a), (&b, to_b)] {
            let expected: Vec<_> = (0..sent.len())
                .filter(|&i| sent[i].0 == addr)
                .map(|i| (vec![i as u8; sent[i].1], Some(sent[i].2.unwrap_or(0)), false))
                .collect();
            let mut got = Vec::new();
            let mut batch = RecvBatch::new(MAX_BATCH, 10_000);
            while got.len() < expected.len() {
                receive(socket, &mut batch);
                got.extend(batch.datagrams().map(|d| (d.bytes.to_vec(), d.meta.tos, d.meta.truncated)));
            }
            assert_eq!(got, expected, "{ip}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_cannot_be_coalesced_is_sent_one_by_one() {
    let ip = "127.0.0.1".parse().unwrap();
    let sender = open_with(ip, |options| {
        options.coalesce = true;
        options.fragmentation = Fragmentation::Allowed;
    });
    // The kernel refuses to cut a broadcast that the socket may not send, one by one just as well: named for each.
    let to: SocketAddr = "255.255.255.255:9".parse().unwrap();
    let mut batch = SendBatch::new(4, 100);
    for _ in 0..3 {
        assert!(batch.push(100, to, |_| ()));
    }
    assert_eq!(sender.send_batch(&mut batch), SendOutcome { sent: 0, failed: 3, pending: 0 });
    assert!(
        batch
            .failures()
            .iter()
            .all(|&(_, fault)| fault == Fault::NotPermitted || fault == Fault::Unreachable)
    );
}

#[test]
fn only_marked_datagrams_are_answered() {
    let ip = "127.0.0.1".parse().unwrap();
    let (client, server) = (open(ip), open(ip));
    for i in 0..5_u8 {
        client.send(&Outgoing::new(&[i], server.local_addr().unwrap())).unwrap();
    }
    let mut batch = RecvBatch::new(8, 8);
    let mut sent = 0;
    let mut seen = 0;
    while seen < 5 {
        receive(&server, &mut batch);
        seen += batch.len();
        for i in 0..batch.len() {
            if batch.bytes(i)[0] % 2 == 1 {
                batch.buffer_mut(i)[1] = 9;
                batch.reply(i, 2, 0);
            }
        }
        batch.reply(7, 2, 0);
        sent += server.send_replies(&mut batch).sent;
        assert_eq!(server.send_replies(&mut batch), SendOutcome::default(), "nothing is sent twice");
    }
    assert_eq!(sent, 2);
    let mut got = Vec::new();
    while got.len() < 2 {
        receive(&client, &mut batch);
        got.extend((0..batch.len()).map(|i| batch.bytes(i).to_vec()));
    }
    assert_eq!(got, [[1, 9], [3, 9]]);
}

#[test]
fn a_failed_reply_is_named_and_the_others_still_go_out() {
    let ip = "127.0.0.1".parse().unwrap();
    let (client, server) = (open(ip), open(ip));
    for i in 0..4_u8 {
        client.send(&Outgoing::new(&[i], server.local_addr().unwrap())).unwrap();
    }
    // Loopback takes 65,507 bytes of UDP payload and no more.
    let mut batch = RecvBatch::new(4, 66_000);
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    let mut seen = 0;
    while seen < 4 {
        receive(&server, &mut batch);
        for i in 0..batch.len() {
            let len = if batch.bytes(i)[0] == 1 { 66_000 } else { 1 };
            batch.reply(i, len, 0);
        }
        outcomes.push(server.send_replies(&mut batch));
        failures.extend(batch.failures().iter().map(|&(i, fault)| (batch.bytes(i)[0], fault)));
        seen += batch.len();
    }
    assert_eq!(failures, [(1, Fault::TooBig)]);
    assert_eq!(outcomes.iter().map(|outcome| outcome.sent).sum::<usize>(), 3);
    assert_eq!(outcomes.iter().map(|outcome| outcome.failed).sum::<usize>(), 1);
    assert!(outcomes.iter().all(|outcome| outcome.pending == 0));
    let mut got = Vec::new();
    while got.len() < 3 {
        receive(&client, &mut batch);
        got.extend((0..batch.len()).map(|i| batch.bytes(i)[0]));
    }
    assert_eq!(got, [0, 2, 3]);
}

#[cfg(unix)]
#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    for ip in loopbacks() {
        let (a, b) = (open(ip), open(ip));
        a.send(&Outgoing::new(&[7; 100], b.local_addr().unwrap())).unwrap();
        a.send(&Outgoing::new(&[8; 63], b.local_addr().unwrap())).unwrap();
        let mut batch = RecvBatch::new(8, 64);
        let mut got = Vec::new();
        while got.len() < 2 {
            receive(&b, &mut batch);
            got.extend((0..batch.len()).map(|i| (*batch.meta(i).unwrap(), batch.bytes(i).to_vec())));
        }
        assert!(got[0].0.truncated);
        assert_eq!(got[0].1, [7; 64]);
        if cfg!(target_os = "linux") {
            assert_eq!(got[0].0.len, 100, "the true length is known");
        }
        assert!(!got[1].0.truncated);
        assert_eq!(got[1].1, [8; 63]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn answers_leave_from_the_address_the_request_came_to() {
    let server = open("0.0.0.0".parse().unwrap());
    let port = server.local_addr().unwrap().port();
    let client = open("127.0.0.1".parse().unwrap());
    let to: SocketAddr = format!("127.8.8.6:{port}").parse().unwrap();
    client.send(&Outgoing::new(b"?", to)).unwrap();
    let mut batch = RecvBatch::new(4, 16);
    receive(&server, &mut batch);
    assert_eq!(batch.meta(0).unwrap().local, Some(to.ip()));
    batch.reply(0, 1, 0);
    assert_eq!(server.send_replies(&mut batch).sent, 1);
    receive(&client, &mut batch);
    assert_eq!(batch.meta(0).unwrap().from, to);
    // And with one that is sent by itself.
    server.send_to(b"!", client.local_addr().unwrap(), Some(to.ip()), None, None).unwrap();
    receive(&client, &mut batch);
    assert_eq!(batch.meta(0).unwrap().from, to);
}

#[cfg(target_os = "linux")]
#[test]
fn a_dual_stack_socket_reports_and_answers_ipv4_as_ipv4() {
    if loopbacks().len() < 2 {
        return;
    }
    let server = open_with("::".parse().unwrap(), |options| options.v6_only = false);
    let port = server.local_addr().unwrap().port();
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let client = open(ip);
        client.send_to(b"?", SocketAddr::new(ip, port), None, Some(3), None).unwrap();
        let mut batch = RecvBatch::new(4, 16);
        receive(&server, &mut batch);
        let meta = *batch.meta(0).unwrap();
        assert_eq!((meta.from, meta.local), (client.local_addr().unwrap(), Some(ip)));
        assert_eq!((meta.ttl, meta.tos, meta.kernel.is_some()), (Some(64), Some(3), true));
        batch.reply(0, 1, 1);
        assert_eq!(server.send_replies(&mut batch).sent, 1);
        receive(&client, &mut batch);
        let meta = batch.meta(0).unwrap();
        assert_eq!((meta.from, meta.tos), (SocketAddr::new(ip, port), Some(1)));
    }
}

#[test]
fn an_ipv6_socket_leaves_the_ipv4_port_alone() {
    if loopbacks().len() < 2 {
        return;
    }
    let v6 = open("::".parse().unwrap());
    let port = v6.local_addr().unwrap().port();
    UdpSocket::bind(&UdpOptions::new(SocketAddr::new("0.0.0.0".parse().unwrap(), port))).unwrap();
}

#[test]
fn a_taken_port_is_an_error() {
    let first = open("127.0.0.1".parse().unwrap());
    let again = UdpSocket::bind(&UdpOptions::new(first.local_addr().unwrap())).unwrap_err();
    assert!(matches!(again.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied), "{again:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_port_is_told_with_its_icmp_message() {
    for ip in loopbacks() {
        let socket = open_with(ip, |options| options.errors = true);
        assert!(socket.features().errors);
        let closed = open(ip).local_addr().unwrap();
        for _ in 0..2 {
            // The second send meets the first one's error, and goes out all the same.
            socket.send(&Outgoing::new(b"anybody?", closed)).unwrap();
            let poller = Poller::new().unwrap();
            poller.add(&socket, 1, Interest::NONE).unwrap();
            let mut ready = Ready::new();
            poller.wait(&mut ready, clock::now() + PATIENCE).unwrap();
            assert!(ready.events()[0].failed);
        }
        for _ in 0..2 {
            let error = socket.take_error().unwrap();
            assert_eq!((error.fault, error.local), (Fault::Refused, Some(false)));
            // Port unreachable: RFC 792 and RFC 4443.
            let expected = if ip.is_ipv4() { (3, 3) } else { (1, 4) };
            assert_eq!((error.icmp_type, error.icmp_code), (Some(expected.0), Some(expected.1)));
            assert_eq!((error.offender, error.to, error.mtu), (Some(ip), Some(closed), None));
        }
        assert_eq!(socket.take_error(), None);
        let nothing = socket.recv(&mut RecvBatch::new(1, 1)).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "the error is not one of receiving");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_sent_is_stamped_by_number_and_a_failure_starts_the_numbers_over() {
    for ip in loopbacks() {
        let a = open_with(ip, |options| {
            options.sent_timestamps = true;
            options.coalesce = true;
            options.errors = true;
        });
        assert!(a.features().sent_timestamps && !a.features().coalesce);
        let b = open(ip);
        let to = b.local_addr().unwrap();
        let before = clock::wall().0;
        let mut batch = SendBatch::new(3, 100);
        while batch.push(100, to, |_| ()) {}
        assert_eq!(a.next_number(), Some(0));
        assert_eq!(a.send_batch(&mut batch).sent, 3);
        a.send(&Outgoing::new(b"x", to)).unwrap();
        assert_eq!(a.next_number(), Some(4));
        let mut received = RecvBatch::new(8, 100);
        let mut arrived = Vec::new();
        while arrived.len() < 4 {
            receive(&b, &mut received);
            arrived.extend((0..received.len()).map(|i| received.meta(i).unwrap().kernel.unwrap().0));
        }
        for (expected, arrived) in arrived.iter().enumerate() {
            let Some(Report::Sent { number, kernel }) = a.take_report() else { panic!("a stamp for each") };
            assert_eq!(number as usize, expected);
            let patience = PATIENCE.as_nanos() as i64;
            assert!(kernel.0 <= *arrived && (kernel.0 - before).abs() < patience, "{kernel:?}");
        }
        assert_eq!(a.take_report(), None);
        assert_eq!(a.send(&Outgoing::new(&vec![0; 65_530], to)), Err(Fault::TooBig));
        assert_eq!(a.next_number(), Some(0), "a failure starts over");
        while a.take_report().is_some() {}
        a.send(&Outgoing::new(b"y", to)).unwrap();
        receive(&b, &mut received);
        assert!(matches!(a.take_report(), Some(Report::Sent { number: 0, .. })));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_connected_socket_learns_of_a_closed_port_without_the_queue() {
    let mut socket = open("127.0.0.1".parse().unwrap());
    let closed = open("127.0.0.1".parse().unwrap()).local_addr().unwrap();
    socket.connect(closed).unwrap();
    socket.send(&Outgoing::new(b"1", closed)).unwrap();
    wait_readable(&socket);
    let nothing = socket.recv(&mut RecvBatch::new(1, 1)).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(socket.take_error().map(|error| error.fault), Some(Fault::Refused));
    assert_eq!(socket.take_error(), None);
}

#[cfg(target_os = "linux")]
#[test]
fn too_big_for_the_interface_is_a_local_error_unless_fragments_are_allowed() {
    let ip = "127.0.0.1".parse().unwrap();
    let (a, b) = (open(ip), open(ip));
    let to = b.local_addr().unwrap();
    assert_eq!(a.send(&Outgoing::new(&vec![0; 65_508], to)), Err(Fault::TooBig));
    assert_eq!(a.take_error(), None, "it is this datagram's own error, not one that came back");
    a.set_fragmentation(Fragmentation::Allowed).unwrap();
    a.send(&Outgoing::new(&vec![0; 65_507], to)).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn overflow_of_the_receive_buffer_is_counted() {
    let ip = "127.0.0.1".parse().unwrap();
    let b = open_with(ip, |options| options.recv_buffer = Some(4_096));
    let a = open(ip);
    let to = b.local_addr().unwrap();
    for _ in 0..200 {
        a.send(&Outgoing::new(&[0; 1_000], to)).unwrap();
    }
    let dropped = b.drops().unwrap();
    assert!(dropped > 0 && dropped < 200, "{dropped}");
    let mut batch = RecvBatch::new(64, 1_000);
    let mut got = 0;
    while b.recv(&mut batch).is_ok() {
        got += batch.len();
    }
    assert_eq!(got + dropped as usize, 200);
    a.send(&Outgoing::new(b"after", to)).unwrap();
    receive(&b, &mut batch);
    assert_eq!(batch.meta(0).unwrap().drops, Some(dropped));
}

#[test]
fn granted_buffers_are_reported_in_the_unit_they_are_asked_for() {
    let socket = open_with("127.0.0.1".parse().unwrap(), |options| {
        options.recv_buffer = Some(65_536);
        options.send_buffer = Some(65_536);
    });
    let features = socket.features();
    assert_eq!((features.recv_buffer, features.send_buffer), (Some(65_536), Some(65_536)));
}

#[test]
fn an_empty_socket_would_block_and_an_empty_batch_sends_nothing() {
    let socket = open("127.0.0.1".parse().unwrap());
    let mut batch = RecvBatch::new(0, 0);
    assert_eq!(batch.slots(), 1);
    assert_eq!(socket.recv(&mut batch).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(socket.send_replies(&mut batch), SendOutcome::default());
    assert_eq!(socket.send_batch(&mut SendBatch::new(4, 4)), SendOutcome::default());
    assert!(batch.bytes(0).is_empty() && batch.bytes(99).is_empty());
    assert!(batch.buffer_mut(99).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_beside_another_gets_its_peer_alone_and_the_port_stays_exclusive() {
    let main = open("127.0.0.1".parse().unwrap());
    let here = main.local_addr().unwrap();
    let (peer, other) = (open(here.ip()), open(here.ip()));
    let beside = main.beside(peer.local_addr().unwrap(), &UdpOptions::new(here)).unwrap();
    peer.send_to(b"for the peer's", here, None, None, None).unwrap();
    other.send_to(b"for the main", here, None, None, None).unwrap();
    let mut batch = RecvBatch::new(4, 100);
    receive(&beside, &mut batch);
    assert_eq!((batch.len(), batch.bytes(0)), (1, &b"for the peer's"[..]));
    receive(&main, &mut batch);
    assert_eq!((batch.len(), batch.bytes(0)), (1, &b"for the main"[..]));
    let second = UdpSocket::bind(&UdpOptions { reuse_port: true, ..UdpOptions::new(here) });
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    // What it sends comes from the shared address.
    beside.send_to(b"back", peer.local_addr().unwrap(), None, None, None).unwrap();
    receive(&peer, &mut batch);
    assert_eq!(batch.meta(0).unwrap().from, here);
    drop(beside);
    peer.send_to(b"again", here, None, None, None).unwrap();
    receive(&main, &mut batch);
    assert_eq!(batch.bytes(0), b"again");
}

#[cfg(target_os = "linux")]
#[test]
fn merged_datagrams_are_cut_where_they_were() {
    let to = open_with("127.0.0.1".parse().unwrap(), |o| o.merge = true);
    let from = open_with("127.0.0.1".parse().unwrap(), |o| o.coalesce = true);
    let here = to.local_addr().unwrap();
    let mut out = SendBatch::new(MAX_BATCH, 1000);
    for n in 0..20u8 {
        assert!(out.push(if n == 19 { 400 } else { 1000 }, here, |bytes| bytes.fill(n)));
    }
    assert_eq!(from.send_batch(&mut out).sent, 20);
    let mut batch = RecvBatch::new(8, 65_535);
    let mut got = Vec::new();
    while got.len() < 20 {
        receive(&to, &mut batch);
        for i in 0..batch.len() {
            got.extend(batch.segments(i).map(|s| (s[0], s.len())));
        }
    }
    let sent: Vec<_> = (0..20u8).map(|n| (n, if n == 19 { 400 } else { 1000 })).collect();
    assert_eq!(got, sent);
}
