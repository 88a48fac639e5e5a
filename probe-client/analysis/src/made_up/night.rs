//! A made-up soak, observation by observation: as long as one likes, in constant memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use crate::observation::{
    Asked, End, Fate, FlowEnded, FlowNo, FlowOpened, FlowPlanned, Observation, Probe, ProbeReply, Purpose,
    Resolved, RunEnded, RunStarted, Watch, WatchAnswer,
};

/// What the path of a made-up night is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing is lost, and delay varies by tens of microseconds.
    Clean,
    /// One in a hundred is lost, in bursts, either way, and delay varies by milliseconds.
    Lossy,
}

const START: Timestamp = Timestamp(86_400_000_000_000);
/// How far the listener's clock is ahead.
const AHEAD: Duration = Duration::from_secs(3600);
/// A probe's fate is told so long after its sending.
const SETTLED: Duration = Duration::from_secs(3);

/// A soak of long-lived flows with about 100 probes a second in all.
#[derive(Debug)]
pub struct Night {
    weather: Weather,
    end: Timestamp,
    interval: Duration,
    random: u64,
    flows: Vec<Flow>,
    /// The next probe of each flow.
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
    ready: VecDeque<Observation>,
    next_watch: Timestamp,
    over: bool,
}

#[derive(Debug, Default)]
struct Flow {
    seq: u64,
    settling: VecDeque<Probe>,
    losing: Option<Fate>,
}

impl Night {
    /// Begins a night of `flows` flows that lasts for `length`. The same arguments make the same night.
    pub fn new(weather: Weather, flows: u32, length: Duration, seed: u64) -> Self {
        let flows = flows.max(1);
        let interval = Duration::from_millis(10) * flows;
        let mut night = Self {
            weather,
            end: START + length,
            interval,
            random: seed | 1,
            flows: Vec::new(),
            due: BinaryHeap::new(),
            ready: VecDeque::new(),
            next_watch: START + Duration::from_secs(1),
            over: false,
        };
        night.begin(flows);
        night
    }

    /// Moment of the night's start.
    pub fn start() -> Timestamp {
        START
    }

    fn begin(&mut self, flows: u32) {
        let to = SocketAddr::from(([203, 0, 113, 7], 8886));
        self.ready.push_back(Observation::RunStarted(RunStarted {
            at: START,
            wall: WallTime(1_769_896_800_000_000_000),
            target: to.to_string(),
            invited: true,
            local: false,
            load_bps: 0,
        }));
        self.ready.push_back(Observation::Resolved(Resolved {
            host: to.ip().to_string(),
            addresses: vec![to.ip()],
            error: None,
        }));
        for number in 0..flows {
            let carrier = match number % 5 {
                0 | 1 => Carrier::Udp,
                2 => Carrier::Quic,
                3 => Carrier::Tcp,
                _ => Carrier::Tls,
            };
            let flow = FlowNo(number);
            let slot = START + Duration::from_millis(500) + self.interval * number / flows;
            self.ready.push_back(Observation::FlowPlanned(FlowPlanned {
                flow,
                name: format!("{}/old-{number}", carrier.name()),
                at: START,
                carrier,
                dress: Dress::Random,
                purpose: Purpose::Old,
                to,
                size: 128,
                interval: self.interval,
                replaces: None,
                server_name: None,
                life: None,
                marks: Vec::new(),
            }));
            let source = SocketAddr::from(([10, 0, 0, 2], 40_000 + number as u16));
            self.ready.push_back(Observation::FlowOpened(FlowOpened {
                flow,
                at: START + Duration::from_millis(400),
                source,
                observed: SocketAddr::from(([198, 51, 100, 4], source.port())),
                connect: None,
                boot: 7,
                epoch: 1,
                authenticated: true,
                software: [0, 1, 0],
                listener_wall: WallTime(1_769_896_800_400_000_000),
                handshake: None,
            }));
            self.flows.push(Flow::default());
            self.due.push(Reverse((slot, number as usize)));
        }
    }

    /// Uniform below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        // Marsaglia's xorshift64*.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }

    /// The time that queues add on one way: mostly little, at times much.
    fn queueing(&mut self) -> Duration {
        let typical: u64 = match self.weather {
            Weather::Clean => 30_000,
            Weather::Lossy => 1_500_000,
        };
        // A sum of four is bell-shaped; one in sixteen waits longer.
        let sum: u64 = (0..4).map(|_| self.below(typical)).sum();
        let tail = if self.below(16) == 0 { self.below(typical * 8) } else { 0 };
        Duration::from_nanos(sum + tail)
    }

    fn fate(&mut self, at: usize) -> Fate {
        if self.weather == Weather::Clean {
            return Fate::Received;
        }
        let before = self.flows[at].losing;
        let losing = match before {
            Some(fate) => (self.below(3) > 0).then_some(fate),
            None if self.below(300) == 0 => {
                Some(if self.below(2) == 0 { Fate::LostUp } else { Fate::LostDown })
            }
            None => None,
        };
        self.flows[at].losing = losing;
        losing.unwrap_or(Fate::Received)
    }

    fn probe(&mut self, scheduled: Timestamp, at: usize) -> Probe {
        let fate = self.fate(at);
        // A host that has little else to do.
        let sent = scheduled + Duration::from_nanos(2_000 + self.below(20_000));
        let drift = Duration::from_nanos((sent.0 - START.0) / 1_000_000 * 12);
        let arrived = sent + Duration::from_millis(8) + self.queueing();
        let dwell = Duration::from_nanos(9_000 + self.below(6_000));
        let kernel = arrived + dwell + Duration::from_millis(8) + self.queueing();
        let is_udp = at % 5 < 2;
        let reply = ProbeReply {
            at: kernel + Duration::from_nanos(15_000 + self.below(20_000)),
            kernel: is_udp.then_some(kernel),
            listener_arrived: arrived + AHEAD + drift,
            listener_kernel: is_udp,
            dwell,
            reordered: false,
            duplicated_up: false,
            ttl_up: is_udp.then_some(57),
            ttl_down: is_udp.then_some(55),
            tos_sent: 0,
            tos_up: is_udp.then_some(0),
            tos_asked: 0,
            tos_down: is_udp.then_some(0),
        };
        let flow = &mut self.flows[at];
        let seq = flow.seq;
        flow.seq += 1;
        Probe {
            flow: FlowNo(at as u32),
            seq,
            scheduled,
            sent,
            size: 128,
            fate,
            reply: (fate == Fate::Received).then_some(reply),
            extra_replies: 0,
        }
    }

    /// The next probe is sent, and older ones of its flow are settled.
    fn step(&mut self) {
        let Some(Reverse((scheduled, at))) = self.due.pop() else {
            self.finish();
            return;
        };
        while scheduled >= self.next_watch {
            let rtt = Duration::from_micros(300 + self.below(200));
            let answer = |who, asked, rtt| WatchAnswer { who, asked, reachable: true, rtt: Some(rtt) };
            self.ready.push_back(Observation::Watch(Watch {
                at: self.next_watch,
                gateway: Some(answer(Some([10, 0, 0, 1].into()), Asked::Echo, rtt)),
                loopback: Some(answer(None, Asked::Datagram, rtt / 10)),
                interface_up: Some(true),
            }));
            self.next_watch += Duration::from_secs(1);
        }
        let probe = self.probe(scheduled, at);
        // As the engine lays a soak's schedule: each interval from within a quarter of it, in 16 steps.
        let step = Duration::from_micros(self.interval.as_micros() as u64 / 32);
        let next = scheduled + self.interval - step * 8 + step * self.below(17) as u32;
        let flow = &mut self.flows[at];
        flow.settling.push_back(probe);
        while flow.settling.front().is_some_and(|p| p.sent + SETTLED <= probe.sent) {
            self.ready.extend(flow.settling.pop_front().map(Observation::Probe));
        }
        if next < self.end {
            self.due.push(Reverse((next, at)));
        }
    }

    fn finish(&mut self) {
        self.over = true;
        for (at, flow) in self.flows.iter_mut().enumerate() {
            self.ready.extend(flow.settling.drain(..).map(Observation::Probe));
            let ended = FlowEnded { flow: FlowNo(at as u32), at: self.end, end: End::Finished };
            self.ready.push_back(Observation::FlowEnded(ended));
        }
        let ended = RunEnded { at: self.end, complete: true, receive_buffer: Some(425_984) };
        self.ready.push_back(Observation::RunEnded(ended));
    }
}

impl Iterator for Night {
    type Item = Observation;

    fn next(&mut self) -> Option<Observation> {
        while self.ready.is_empty() && !self.over {
            self.step();
        }
        self.ready.pop_front()
    }
}
