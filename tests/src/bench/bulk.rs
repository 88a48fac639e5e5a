//! Bulk throughput beside iperf3: the same two namespaces, the same veth pair between them, the same cores, in turns.
//!
//! Ours is the product's own path: the client's engine and driver with a plan of one bulk flow, and `probe-server`. The
//! rate aimed at is out of reach, so that each sends as fast as it can; every block that left is accounted for as
//! arrived or lost, and only what arrived counts.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use probe_analysis::observation::{Load, Observation};
use probe_client::check::{Order, prepare_with};
use probe_client::driver::Stop;
use probe_client::plan::rehearse::{RehearseOptions, Ways};
use probe_client::plan::{Depth, Plan};
use probe_protocol::target::Target;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::process::{Program, pin, unpin};
use super::{BenchError, Bound, CLIENT_CORE, Effort, Row, SERVER_CORE, tools};
use crate::kernel::{Binaries, Host, Stage};
use crate::scenario::Scenario;

/// UDP payload of the comparison.
const BLOCK: u16 = 1400;
/// Blocks on TCP: as long as a record may be.
const STREAM_BLOCK: u16 = 8900;
/// Nobody reaches it.
const RATE: u64 = 200_000_000_000;
/// The tool's port.
const PORT: &str = "5201";

/// One turn of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// What arrived, bits per second.
    arrived_bps: f64,
    /// CPU time of the sending and of the receiving program, cores.
    sender: f64,
    receiver: f64,
    /// Packets sent, and of those lost; packets for which neither is known.
    sent: u64,
    lost: u64,
}

impl Turn {
    fn gigabits(&self) -> f64 {
        self.arrived_bps / 1e9
    }
}

/// Measures both; leaves out with a word what cannot be.
pub fn measure(
    binary: &Path,
    effort: &Effort,
    notes: &mut Vec<String>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Row>, BenchError> {
    if !tools::installed("iperf3") {
        notes.push("iperf3 is not installed: bulk throughput was not compared".to_owned());
        return Ok(Vec::new());
    }
    let program = |error: &dyn std::fmt::Display| BenchError::Program(error.to_string());
    let mut scenario = Scenario::load("clean-veth", 0).map_err(|e| program(&e))?;
    scenario.listener.arguments.push("--no-doctor".to_owned());
    let binaries = Binaries { server: binary.to_owned(), client: binary.to_owned() };
    // What the listener starts runs on the core of the thread that starts it.
    pin(SERVER_CORE);
    let stage = Stage::set(&scenario, 0, &binaries);
    unpin();
    let mut stage = match stage {
        Ok(stage) => stage,
        Err(error) => {
            notes.push(format!("no two namespaces to compare bulk throughput in: {error}"));
            return Ok(Vec::new());
        }
    };
    let target: Target = stage.invite().parse().map_err(|e| program(&e))?;
    let listener = stage.server.as_mut().map(|s| s.child().id());
    let mut rows = Vec::new();
    for (name, carrier, target_ratio) in
        [("UDP bulk, 1400 B payload", Carrier::Udp, 2.0), ("TCP bulk", Carrier::Tcp, 0.95)]
    {
        say(&format!("{name}: {} rounds", effort.rounds));
        let mut turns = Vec::new();
        for _ in 0..effort.rounds {
            let ours = ours(stage.lab.client(), &target, carrier, effort.bulk, listener)?;
            let theirs = iperf3(&stage, carrier, effort.bulk)?;
            turns.push((ours, theirs));
        }
        let of = |what: &str, unit, pick: &dyn Fn(&Turn) -> f64, target| {
            let pairs: Vec<(f64, f64)> = turns.iter().map(|(a, b)| (pick(a), pick(b))).collect();
            Row::pairs(format!("{name}: {what}"), unit, "iperf3", &pairs, target)
        };
        rows.extend(of("arrived", "Gbit/s", &Turn::gigabits, Some(Bound::AtLeast(target_ratio))));
        rows.extend(of("CPU of the sender", "cores per Gbit/s", &|t| t.sender / t.gigabits(), None));
        rows.extend(of("CPU of the receiver", "cores per Gbit/s", &|t| t.receiver / t.gigabits(), None));
        let (sent, lost) = turns.iter().fold((0, 0), |(s, l), (t, _)| (s + t.sent, l + t.lost));
        notes.push(format!("{name}: {sent} blocks sent, {lost} of them lost, every one accounted for"));
    }
    Ok(rows)
}

/// A turn of ours: what the plan's one load has told.
fn ours(
    host: &Host,
    target: &Target,
    carrier: Carrier,
    length: Duration,
    listener: Option<u32>,
) -> Result<Turn, BenchError> {
    let order = Order {
        target: Some(target.clone()),
        depth: Depth::Normal,
        load_bps: Some(RATE),
        stop: Stop::default(),
    };
    let lay = |addresses: &[std::net::SocketAddr], _| match addresses.first() {
        Some(to) => plan(*to, carrier, length),
        None => Plan::default(),
    };
    let run = || {
        pin(CLIENT_CORE);
        let mut loads: Vec<Load> = Vec::new();
        let mut marks: Vec<(Duration, Option<Duration>)> = Vec::new();
        let measured = prepare_with(order, &lay)
            .and_then(|prepared| {
                marks.push((own_cpu(), listener.and_then(Program::cpu_of)));
                prepared.run(&mut |observation, _| {
                    if let Observation::Load(load) = observation {
                        loads.push(load);
                    }
                })
            })
            .map_err(|error| BenchError::Program(format!("the client: {error}")))?;
        marks.push((own_cpu(), listener.and_then(Program::cpu_of)));
        measured.finish();
        Ok::<_, BenchError>((loads, marks))
    };
    let (loads, marks) = host.run(run).map_err(BenchError::during("entering a namespace"))??;
    let mut turn = Turn::default();
    let mut bytes = 0u64;
    for bin in loads.iter().flat_map(|l| &l.bins) {
        turn.sent += u64::from(bin.packets);
        turn.lost += u64::from(bin.lost);
        bytes += bin.bytes.saturating_sub(bin.lost_bytes);
    }
    if turn.sent == 0 {
        return Err(BenchError::Program("the client moved no load".to_owned()));
    }
    let seconds = length.as_secs_f64();
    turn.arrived_bps = bytes as f64 * 8.0 / seconds;
    if let [first, last] = marks.as_slice() {
        turn.sender = last.0.saturating_sub(first.0).as_secs_f64() / seconds;
        turn.receiver = last.1.zip(first.1).map_or(0.0, |(b, a)| b.saturating_sub(a).as_secs_f64()) / seconds;
    }
    Ok(turn)
}

/// The rehearsal's plan, at a rate that nobody reaches, with the load on one flow of the carrier.
fn plan(to: std::net::SocketAddr, carrier: Carrier, length: Duration) -> Plan {
    let size = if carrier == Carrier::Udp { BLOCK } else { STREAM_BLOCK };
    let options = RehearseOptions { ways: Ways::Up, size, ..RehearseOptions::new(RATE, length) };
    let mut plan = Plan::rehearse(to, &options);
    if carrier != Carrier::Udp {
        for flow in plan.flows.iter_mut().filter(|f| f.name.starts_with("transfer/")) {
            (flow.carrier, flow.dress) = (carrier, Dress::Random);
        }
    }
    plan
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    let seconds = |t: TimeVal| {
        Duration::from_micros(t.tv_sec().unsigned_abs() * 1_000_000 + t.tv_usec().unsigned_abs())
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |u| seconds(u.user_time()) + seconds(u.system_time()))
}

/// A turn of iperf3.
fn iperf3(stage: &Stage, carrier: Carrier, length: Duration) -> Result<Turn, BenchError> {
    let quiet = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut serve = quiet(stage.lab.server().command("iperf3"));
    serve.args(["-s", "-1", "-p", PORT]);
    let server = Program::start(&mut serve, Some(SERVER_CORE))?;
    let to = stage.target().ip().to_string();
    let mut said = Err(BenchError::Program("iperf3's client was refused".to_owned()));
    for _ in 0..20 {
        // It listens when it listens: it says so nowhere that can be waited for.
        std::thread::sleep(Duration::from_millis(100));
        let mut client = stage.lab.client().command("iperf3");
        client.args(["-c", &to, "-p", PORT, "-J", "-t", &length.as_secs().max(1).to_string()]);
        if carrier == Carrier::Udp {
            client.args(["-u", "-b", "0", "-l", &BLOCK.to_string()]);
        }
        client.stdin(Stdio::null()).stderr(Stdio::null());
        pin(CLIENT_CORE);
        let output = client.output();
        unpin();
        let output = output.map_err(BenchError::during("running iperf3"))?;
        said = serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .map_err(|error| BenchError::Program(format!("iperf3 said no JSON: {error}")));
        if said.as_ref().is_ok_and(|v| v["error"].is_null() && !v["end"].is_null()) {
            break;
        }
    }
    drop(server);
    let said = said?;
    let end = &said["end"];
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(0.0);
    let (sent, got) = (&end["sum"], &end["sum_received"]);
    let arrived = if carrier == Carrier::Udp {
        let lost = number(&sent["lost_percent"]) / 100.0;
        if got["bits_per_second"].is_number() {
            number(&got["bits_per_second"])
        } else {
            number(&sent["bits_per_second"]) * (1.0 - lost)
        }
    } else {
        number(&got["bits_per_second"])
    };
    if arrived <= 0.0 {
        return Err(BenchError::Program(format!("iperf3 moved nothing: {}", said["error"])));
    }
    let cpu = &end["cpu_utilization_percent"];
    Ok(Turn {
        arrived_bps: arrived,
        sender: number(&cpu["host_total"]) / 100.0,
        receiver: number(&cpu["remote_total"]) / 100.0,
        ..Turn::default()
    })
}
