//! Loads through the listener's own threads and sockets, over loopback: every block is accounted for at both ends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::TcpStream;
use std::time::Duration;

use common::{PATIENCE, UdpClient, control_record, hello, open_reply, open_stream, open_udp};
use probe_net::clock;
use probe_protocol::bulk::{Heard, Order, Side, Transfer};
use probe_protocol::control::{BinsRequest, BulkRequest, LedgerRequest, Reply, Request};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, HelloKeys};
use probe_protocol::wire::{HANDSHAKE_LEN, MIN_LEN};
use probe_server::{Config, Listener, Running};
use tokio::runtime::Runtime;

struct Local {
    _runtime: Runtime,
    running: Running,
}

fn local() -> Local {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let running = {
        let _inside = runtime.enter();
        Listener::start(Config::local()).unwrap()
    };
    Local { _runtime: runtime, running }
}

impl Local {
    fn keys(&self) -> HelloKeys {
        HelloKeys::of_invite(&self.running.invite().key)
    }

    fn open(&self, nonce: u64, dress: Dress) -> UdpClient {
        open_udp(self.running.udp()[0], self.keys(), hello(1, nonce, Carrier::Udp, dress)).unwrap()
    }
}

fn order(up: bool) -> Order {
    Order {
        number: 1,
        up,
        rate_bps: 20_000_000,
        size: 1200,
        burst: 0,
        length_us: 300_000,
        bin_us: 10_000,
        tos: 0,
    }
}

fn bins(flow: &mut UdpClient, load: &UdpClient, seq: u64) -> u64 {
    let (mut from, mut packets) = (0, 0);
    loop {
        let request = Request::Bins(BinsRequest { flow: load.accept.id, order: 1, from });
        let Reply::Bins(page) = flow.ask(seq + u64::from(from), &request) else { panic!("no bins") };
        packets += page.bins.iter().map(|b| u64::from(b.packets)).sum::<u64>();
        match page.next {
            Some(next) => from = next,
            None => return packets,
        }
    }
}

#[test]
fn upwards_every_block_that_left_is_in_the_listeners_ledger() {
    let local = local();
    let mut load = local.open(1, Dress::Jetstream);
    let mut control = local.open(2, Dress::Random);
    let mut transfer = Transfer::new(load.accept.id, load.accept.secret, Side::Client, false);
    let request = Request::Bulk(BulkRequest { flow: load.accept.id, order: order(true), stop: false });
    assert!(matches!(load.ask(1, &request), Reply::Bulk(_)));
    transfer.send(order(true), clock::now());
    let mut record = [0; 1200];
    while transfer.is_sending() {
        let now = clock::now();
        for _ in 0..transfer.due(now, 64).map_or(0, |d| d.0) {
            assert!(transfer.write_block(now, &mut record));
            load.send(&record);
        }
        // The probes beside the load are answered on the listener's own socket.
        control.probe(u64::from(now.as_nanos() as u32), 100);
    }
    let sent = transfer.tally(1).unwrap().packets;
    assert!(sent > 0);
    // A control record on the load's own flow reaches the listener behind the last block.
    let ledger = Request::Ledger(LedgerRequest { flow: load.accept.id, from: 0, settled_below: 0 });
    let reply = control_record(&mut load.keys, &load.accept, 2, &ledger);
    load.send(&reply);
    let ledger = loop {
        let mut record = load.recv();
        if let Ok(Heard::Other(_)) = transfer.handle(&mut record.clone(), clock::now()) {
            match open_reply(&mut load.keys, &mut record) {
                Reply::Ledger(ledger) => break ledger,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!((ledger.received, ledger.ranges), (sent, vec![(0, sent)]));
    assert_eq!(bins(&mut control, &load, 1 << 33), sent);
}

#[test]
fn downwards_every_block_that_the_listener_sent_arrives_once() {
    let local = local();
    let mut load = local.open(1, Dress::Jetstream);
    let mut control = local.open(2, Dress::Random);
    let mut transfer = Transfer::new(load.accept.id, load.accept.secret, Side::Client, false);
    transfer.expect(order(false), clock::now());
    let request = Request::Bulk(BulkRequest { flow: load.accept.id, order: order(false), stop: false });
    let asked = control_record(&mut load.keys, &load.accept, 1, &request);
    load.send(&asked);
    load.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 2000];
    let mut seq = 0;
    let mut ended = None;
    // The listener says that it has ended, and how many it sent; nothing on loopback comes later than that.
    while ended.is_none()
        || load.socket.recv(&mut buffer).is_ok_and(|n| take(&mut transfer, &mut buffer[..n]))
    {
        while let Ok(n) = load.socket.recv(&mut buffer) {
            take(&mut transfer, &mut buffer[..n]);
            let mut sack = [0; HANDSHAKE_LEN];
            if transfer.write_sack(clock::now(), &mut sack) {
                load.send(&sack);
            }
        }
        seq += 1;
        let request = Request::Bins(BinsRequest { flow: load.accept.id, order: 1, from: u32::MAX });
        if let Reply::Bins(page) = control.ask(seq, &request) {
            ended = page.ended.then_some(page.packets);
        }
    }
    let got = transfer.tally(1).unwrap();
    assert_eq!(Some(got.packets), ended);
    assert!(got.packets > 0);
    assert_eq!(transfer.receipts().duplicates(), 0);
}

fn take(transfer: &mut Transfer, bytes: &mut [u8]) -> bool {
    bytes.len() >= MIN_LEN && matches!(transfer.handle(bytes, clock::now()), Ok(Heard::Block(_)))
}

#[test]
fn a_load_over_tcp_goes_both_ways_on_its_own_stream() {
    let local = local();
    let stream = TcpStream::connect(local.running.tcp()[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = hello(1, 7, Carrier::Tcp, Dress::Random);
    let mut flow = open_stream(stream, local.keys(), &hello).unwrap();
    let mut transfer = Transfer::new(flow.accept.id, flow.accept.secret, Side::Client, false);
    let up = order(true);
    let request = Request::Bulk(BulkRequest { flow: flow.accept.id, order: up, stop: false });
    assert!(matches!(flow.ask(1, &request), Reply::Bulk(_)));
    transfer.send(up, clock::now());
    let mut record = [0; 1200];
    while transfer.is_sending() {
        let now = clock::now();
        for _ in 0..transfer.due(now, 64).map_or(0, |d| d.0) {
            assert!(transfer.write_block(now, &mut record));
            flow.send(&record);
        }
    }
    let sent = transfer.tally(1).unwrap().packets;
    let down = Order { number: 2, ..order(false) };
    transfer.expect(down, clock::now());
    for (seq, request) in [
        (2, Request::Bins(BinsRequest { flow: flow.accept.id, order: 1, from: u32::MAX })),
        (3, Request::Bulk(BulkRequest { flow: flow.accept.id, order: down, stop: false })),
    ] {
        let record = control_record(&mut flow.keys, &flow.accept, seq, &request);
        flow.send(&record);
    }
    let mut expected = 0;
    let mut asked = 3;
    loop {
        let mut record = flow.recv();
        if let Ok(Heard::Other(header)) = transfer.handle(&mut record.clone(), clock::now()) {
            match open_reply(&mut flow.keys, &mut record) {
                Reply::Bins(page) if page.order == 1 => assert_eq!(page.packets, sent, "{header:?}"),
                Reply::Bins(page) if page.ended => expected = page.packets,
                Reply::Bins(_) | Reply::Bulk(_) => {
                    asked += 1;
                    let request =
                        Request::Bins(BinsRequest { flow: flow.accept.id, order: 2, from: u32::MAX });
                    let record = control_record(&mut flow.keys, &flow.accept, asked, &request);
                    flow.send(&record);
                }
                other => panic!("{other:?}"),
            }
        }
        let got = transfer.tally(2).map_or(0, |t| t.packets);
        if expected > 0 && got == expected {
            break;
        }
    }
}
