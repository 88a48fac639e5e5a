//! The client's watch beside the path, as the driver's thread has it: about twice a second the gateway is asked by an ICMP
//! echo, through the rules of the lan as everything else of the host. Its loopback always answers.

use std::net::IpAddr;
use std::time::Duration;

use probe_analysis::observation::{Asked, Watch, WatchAnswer};
use probe_protocol::time::Timestamp;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::middlebox::HostAddresses;
use crate::packet::{Packet, build};

/// From one question to the next, about; and how long an answer is waited for. The driver's own figures.
const EVERY: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_millis(700);
/// The loopback's round trip.
const LOOPBACK: Duration = Duration::from_micros(30);

/// A question to the gateway.
#[derive(Clone, Copy, Debug)]
struct Asking {
    at: Timestamp,
    answered: Option<Timestamp>,
    interface_up: bool,
}

pub(super) struct Watcher {
    host: IpAddr,
    gateway: IpAddr,
    /// When the next question is due; the current one is told by then or after [`LIMIT`].
    next: Timestamp,
    asking: Option<Asking>,
    number: u16,
    rng: ChaCha8Rng,
}

impl Watcher {
    pub(super) fn new(addresses: &HostAddresses, seed: u64, now: Timestamp) -> Self {
        let [gateway, _] = addresses.gateways();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let next = now + EVERY.mul_f64(rng.random_range(0.8..1.2));
        Self { host: addresses.v4.into(), gateway, next, asking: None, number: 0, rng }
    }

    /// When [`wake`](Self::wake) is due.
    pub(super) fn due(&self) -> Timestamp {
        match self.asking {
            Some(asking) if asking.answered.is_none() => asking.at + LIMIT,
            Some(asking) => (asking.at + LIMIT).min(self.next),
            None => self.next,
        }
    }

    /// Asks, and tells what was answered.
    pub(super) fn wake(
        &mut self,
        now: Timestamp,
        interface_up: bool,
        out: &mut Vec<Packet>,
    ) -> Option<Watch> {
        let told = self.asking.filter(|asking| asking.answered.is_some() || now >= asking.at + LIMIT);
        if told.is_some() {
            self.asking = None;
        }
        if now >= self.next && self.asking.is_none() {
            self.number = self.number.wrapping_add(1);
            out.extend(build::echo_request(self.host, self.gateway, 1, self.number));
            self.asking = Some(Asking { at: now, answered: None, interface_up });
            // A question that was slept through is not made up for.
            self.next = (self.next + EVERY.mul_f64(self.rng.random_range(0.8..1.2))).max(now);
        }
        let asked = told?;
        let answer = |who, asked_by, rtt: Option<Duration>| WatchAnswer {
            who,
            asked: asked_by,
            reachable: rtt.is_some(),
            rtt,
        };
        let rtt = asked.answered.map(|at| at.since(asked.at));
        Some(Watch {
            at: asked.at,
            gateway: asked.interface_up.then(|| answer(Some(self.gateway), Asked::Echo, rtt)),
            loopback: Some(answer(None, Asked::Datagram, Some(LOOPBACK))),
            interface_up: Some(asked.interface_up),
        })
    }

    /// Takes in an ICMP message that came.
    pub(super) fn arrived(&mut self, now: Timestamp, packet: &Packet) {
        if packet.is_echo()
            && !packet.is_echo_request()
            && packet.source() == self.gateway
            && let Some(asking) = self.asking.as_mut()
        {
            asking.answered.get_or_insert(now);
        }
    }
}
