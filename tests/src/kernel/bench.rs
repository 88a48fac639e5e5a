//! How fast the middlebox is, and how much delay it adds.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use super::driver::moment;
use super::{Lab, LabError};
use crate::middlebox::{Forwarding, Kind, NatKind, Topology};
use crate::rules::{Direction, Rule, truth::Tally};
use probe_protocol::time::Timestamp;

const PORT: u16 = probe_protocol::DEFAULT_PORT;

/// Payloads of the flood, bytes.
const SIZES: [usize; 2] = [64, 1200];

/// Round trips that are not counted, until caches are warm.
const WARM_UP: usize = 200;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The lab could not be set up.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A socket failed.
    #[error("cannot measure: {0}")]
    System(#[from] io::Error),
    /// A rule of the bench's own is no rule.
    #[error("cannot measure: {0}")]
    Rules(#[from] toml::de::Error),
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// By payload, bytes.
    pub floods: Vec<Flood>,
    /// Median and 99th percentile of a UDP round trip over a bare veth pair.
    pub veth: [Duration; 2],
    /// The same through the middlebox with two NATs and no rules.
    pub lab: [Duration; 2],
    /// What the middlebox itself needs per packet.
    pub per_packet: Duration,
    optimised: bool,
}

/// As many packets as one sender could send.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Payload, bytes.
    pub size: usize,
    /// Packets that came through, per second.
    pub packets_per_second: f64,
    /// Packets that would come through if the middlebox had one core to itself.
    pub per_core_second: f64,
    /// Share of the packets sent that were lost, 0 to 1.
    pub lost: f64,
}

/// Measures for so many seconds each.
pub fn bench(seconds: u64) -> Result<Figures, BenchError> {
    let length = Duration::from_secs(seconds);
    let mut floods = Vec::new();
    for size in SIZES {
        floods.push(flood(size, length)?);
    }
    let cable = Lab::start(&Topology { kind: Kind::Veth, ..Topology::default() }, &[], 0)?;
    let veth = round_trips(&cable, length)?;
    let lab = Lab::start(&natted(), &[], 0)?;
    let through = round_trips(&lab, length)?;
    let per_packet = Duration::from_secs_f64(1.0 / floods[0].per_core_second);
    Ok(Figures { floods, veth, lab: through, per_packet, optimised: !cfg!(debug_assertions) })
}

fn natted() -> Topology {
    Topology {
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    }
}

/// A few rules that look at every packet and touch none, as a scenario would have them.
const RULES: &str = r#"
[[rule]]
name = "old flows"
match = { protocol = ["udp"], age_over = "1h" }
do = { act = "drop" }
[[rule]]
name = "QUIC"
match = { quic = {} }
do = { act = "drop" }
[[rule]]
name = "policer"
match = { direction = "up" }
do = { act = "police", rate = "100G", burst = "100M" }
"#;

#[derive(serde::Deserialize)]
struct Rules {
    rule: Vec<Rule>,
}

fn flood(size: usize, length: Duration) -> Result<Flood, BenchError> {
    let rules: Rules = toml::from_str(RULES)?;
    let lab = Lab::start(&natted(), &rules.rule, 0)?;
    let (client, server) = sockets(&lab)?;
    // Nobody reads: what the server's socket drops has come through.
    let payload = vec![0x55; size];
    let tally = |lab: &Lab| lab.with_truth(|truth| truth.total(Direction::Up)).unwrap_or_default();
    let (start, busy) = (moment()?.now, lab.middlebox_time().unwrap_or_default());
    let before: Tally = tally(&lab);
    let mut sent = 0u64;
    while moment()?.now < start + length {
        for _ in 0..64 {
            // A full device queue is the flood's own doing.
            sent += u64::from(client.send(&payload).is_ok());
        }
    }
    let now = moment()?.now;
    let came = tally(&lab).packets - before.packets;
    let busy = lab.middlebox_time().unwrap_or_default() - busy;
    drop(server);
    Ok(Flood {
        size,
        packets_per_second: came as f64 / now.since(start).as_secs_f64(),
        per_core_second: came as f64 / busy.as_secs_f64(),
        lost: 1.0 - came as f64 / sent.max(1) as f64,
    })
}

fn sockets(lab: &Lab) -> Result<(UdpSocket, UdpSocket), BenchError> {
    let server = lab.server().run(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
    let client = lab.client().run(|| UdpSocket::bind("0.0.0.0:0"))??;
    client.connect(lab.target(PORT))?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok((client, server))
}

/// Median and 99th percentile of a round trip, one at a time, a millisecond apart.
fn round_trips(lab: &Lab, length: Duration) -> Result<[Duration; 2], BenchError> {
    let (client, server) = sockets(lab)?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut trips = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], from);
                }
            }
        });
        let trips = ask(&client, length);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        trips
    })?;
    let mut counted = trips.split_off(WARM_UP.min(trips.len() / 2));
    counted.sort_unstable();
    let at = |share: f64| {
        let index = (counted.len() as f64 * share) as usize;
        counted.get(index.min(counted.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    Ok([at(0.5), at(0.99)])
}

fn ask(client: &UdpSocket, length: Duration) -> io::Result<Vec<Duration>> {
    let mut trips = Vec::new();
    let start: Timestamp = moment()?.now;
    let mut buffer = [0; 2048];
    loop {
        let sent = moment()?.now;
        if sent >= start + length {
            return Ok(trips);
        }
        client.send(&[0; 64])?;
        if client.recv(&mut buffer).is_ok() {
            trips.push(moment()?.now.since(sent));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.optimised {
            writeln!(f, "built without optimisation: these figures say little")?;
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(f, "conditions: {}, {cores} cores, load {}", processor(), load())?;
        for flood in &self.floods {
            writeln!(
                f,
                "{:>5} B: {:>7.0} packets/s came through, {:>7.0} per core-second of the middlebox, {:.1} % of those sent were lost",
                flood.size,
                flood.packets_per_second,
                flood.per_core_second,
                flood.lost * 100.0
            )?;
        }
        let us = |span: Duration| span.as_secs_f64() * 1e6;
        writeln!(
            f,
            "round trip over a veth pair: p50 {:.0} us, p99 {:.0} us",
            us(self.veth[0]),
            us(self.veth[1])
        )?;
        writeln!(
            f,
            "round trip through the lab:  p50 {:.0} us, p99 {:.0} us",
            us(self.lab[0]),
            us(self.lab[1])
        )?;
        let added = us(self.lab[0].saturating_sub(self.veth[0])) / 2.0;
        write!(
            f,
            "added at the median, each way: {added:.0} us, of which the middlebox's own work {:.1} us",
            us(self.per_packet)
        )
    }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|name| name.split(':').nth(1)).unwrap_or(" unknown processor").trim().to_owned()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
