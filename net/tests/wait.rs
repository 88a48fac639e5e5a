//! Waiting: for sockets, a waker and a deadline.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use probe_net::clock;
use probe_net::udp::{Outgoing, RecvBatch, UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller, RESERVED_TOKEN, Ready};
use probe_protocol::time::Timestamp;

const PATIENCE: Duration = Duration::from_secs(20);

fn open() -> UdpSocket {
    UdpSocket::bind(&UdpOptions::new("127.0.0.1:0".parse().unwrap())).unwrap()
}

#[test]
fn a_deadline_ends_the_wait_and_never_early() {
    let poller = Poller::new().unwrap();
    let mut ready = Ready::new();
    for micros in [0, 30, 700, 5_000] {
        let deadline = clock::now() + Duration::from_micros(micros);
        poller.wait(&mut ready, deadline).unwrap();
        assert!(clock::now() >= deadline && ready.deadline_reached());
        assert!(!ready.woken() && ready.events().is_empty());
    }
}

#[test]
fn the_waker_ends_the_current_wait_and_the_next() {
    let poller = Poller::new().unwrap();
    let waker = poller.waker();
    let mut ready = Ready::new();
    // Before the wait, several times: one wait ends.
    waker.wake();
    waker.wake();
    poller.wait(&mut ready, Timestamp::NEVER).unwrap();
    assert!(ready.woken() && !ready.deadline_reached());
    poller.wait(&mut ready, clock::now()).unwrap();
    assert!(!ready.woken(), "the wake-up was used up");
    // From another thread, while this one waits or before it does.
    std::thread::scope(|scope| {
        scope.spawn(|| waker.wake());
        poller.wait(&mut ready, Timestamp::NEVER).unwrap();
    });
    assert!(ready.woken());
}

#[test]
fn every_ready_socket_of_three_hundred_is_reported() {
    let sockets: Vec<_> = (0..300).map(|_| open()).collect();
    let poller = Poller::new().unwrap();
    for (i, socket) in sockets.iter().enumerate() {
        poller.add(socket, i as u64, Interest::READ).unwrap();
    }
    let sender = open();
    let expected: BTreeSet<u64> = (0..300).filter(|i| i % 3 != 0).collect();
    for &i in &expected {
        sender.send(&Outgoing::new(b"x", sockets[i as usize].local_addr().unwrap())).unwrap();
    }
    let mut batch = RecvBatch::new(4, 16);
    let mut ready = Ready::new();
    let mut seen = BTreeSet::new();
    while seen != expected {
        poller.wait(&mut ready, clock::now() + PATIENCE).unwrap();
        assert!(!ready.events().is_empty(), "stuck at {} of {}", seen.len(), expected.len());
        for event in ready.events() {
            assert!(event.readable && !event.writable && !event.failed);
            assert_eq!(sockets[event.token as usize].recv(&mut batch).unwrap(), 1);
            assert!(seen.insert(event.token));
        }
    }
    poller.wait(&mut ready, clock::now()).unwrap();
    assert!(ready.events().is_empty());
}

#[test]
fn interest_can_change_and_a_removed_socket_is_silent() {
    let socket = open();
    let poller = Poller::new().unwrap();
    let mut ready = Ready::new();
    poller.add(&socket, 5, Interest::READ).unwrap();
    poller.wait(&mut ready, clock::now()).unwrap();
    assert!(ready.events().is_empty());
    poller.modify(&socket, 6, Interest::BOTH).unwrap();
    poller.wait(&mut ready, clock::now() + PATIENCE).unwrap();
    assert_eq!(ready.events().len(), 1);
    let event = ready.events()[0];
    assert_eq!((event.token, event.readable, event.writable), (6, false, true));
    poller.remove(&socket).unwrap();
    poller.wait(&mut ready, clock::now()).unwrap();
    assert!(ready.events().is_empty());
    assert!(poller.remove(&socket).is_err() && poller.modify(&socket, 6, Interest::READ).is_err());
}

#[test]
fn the_wakers_token_is_refused() {
    let socket = open();
    let poller = Poller::new().unwrap();
    let refused = poller.add(&socket, RESERVED_TOKEN, Interest::READ).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}
