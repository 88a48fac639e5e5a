//! A scenario played with the real programs in the real-kernel lab, and judged.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe_protocol::cause::Cause;
use probe_protocol::time::Timestamp;
use serde_json::Value;

use super::driver::moment;
use super::{Binaries, Host, Stage, StageError};
use crate::rules::units::{BitRate, Span};
use crate::scenario::judge::{Judgement, Report};
use crate::scenario::{Event, PlanKind, Scenario, log};

/// How long a plan may take beyond its own length before it counts as hanging.
const SPARE: Duration = Duration::from_secs(240);

/// How long `check --full` may take: the contract's.
const FULL: Duration = Duration::from_secs(15 * 60);

/// How often the running program and the events are looked at.
const TICK: Duration = Duration::from_millis(10);

/// Where cross traffic goes: a port that nothing forwards, beyond the path.
const DISCARD: u16 = 9;

/// How a scenario went.
#[derive(Debug)]
pub struct Played {
    /// Whether what was said is what had to be said.
    pub judgement: Judgement,
    /// What the program printed, where it was JSON.
    pub report: Option<Value>,
    /// Its exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// What it said on standard error.
    pub said: String,
    /// How long it took.
    pub took: Duration,
    /// Packets that the lab itself lost, not a rule; a run with any says nothing.
    pub own_losses: u64,
}

/// Something to do at a time.
#[derive(Clone, Copy)]
enum Step {
    Stop,
    Start,
    Pause(Who),
    Continue(Who),
    Forget,
    Load(BitRate, u16),
    Unload,
}

#[derive(Clone, Copy)]
enum Who {
    Listener,
    Client,
}

fn steps(events: &[Event]) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    for event in events {
        let (from, to) = match event {
            Event::RestartListener { at, gap } => ((at.0, Step::Stop), Some((at.0 + gap.0, Step::Start))),
            Event::StallListener { at, length } => {
                ((at.0, Step::Pause(Who::Listener)), Some((at.0 + length.0, Step::Continue(Who::Listener))))
            }
            Event::StallClient { at, length } => {
                ((at.0, Step::Pause(Who::Client)), Some((at.0 + length.0, Step::Continue(Who::Client))))
            }
            Event::ForgetMappings { at } => ((at.0, Step::Forget), None),
            // Scenarios with these are refused for this network when they are read.
            Event::SuspendClient { .. }
            | Event::StepClock { .. }
            | Event::FilterClient { .. }
            | Event::LoseWay { .. } => continue,
            Event::CrossTraffic { at, length, rate, size } => {
                ((at.0, Step::Load(*rate, *size)), Some((at.0 + length.0, Step::Unload)))
            }
        };
        steps.push(from);
        steps.extend(to);
    }
    // Stable: what happens at one time happens in the file's order.
    steps.sort_by_key(|(at, _)| *at);
    steps
}

/// Plays a scenario. `log` gets one line of JSON per packet touched.
pub fn play(
    scenario: &Scenario,
    seed: u64,
    binaries: &Binaries,
    log: Option<File>,
) -> Result<Played, StageError> {
    let mut stage = Stage::set_with_log(scenario, seed, binaries, log)?;
    let folder = tempfile::tempdir().map_err(StageError::Program)?;
    let mut command = command(scenario, &stage, binaries, &folder.path().join("run.probe"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(StageError::Program)?;
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let is_full = scenario.plan.arguments.iter().any(|a| a == "--full");
    let limit =
        scenario.plan.length.unwrap_or_default().0 + if is_full { FULL } else { Duration::ZERO } + SPARE;
    let ended = watch(&mut stage, &mut child, steps(&scenario.event), limit);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (status, took) = ended?;
    let (out, said) = (text(out), text(err));
    let report: Option<Value> = serde_json::from_str(&out).ok();
    let read = report.clone().map(serde_json::from_value::<Report>);
    // Unlike a simulated host, this machine has other work, and where that holds a program up, to say so is right.
    let mut expect = scenario.expect.clone();
    expect.may.push(Cause::HostStalled);
    let mut judgement = match &read {
        Some(Ok(read)) => expect.judge(read, status),
        Some(Err(_)) | None => expect.judge(&Report::default(), status),
    };
    match &read {
        Some(Ok(_)) => {}
        Some(Err(error)) => judgement.wrong.push(format!("the report is not as the contract says: {error}")),
        None => judgement.wrong.push("it printed no JSON document".into()),
    }
    if let Some(Ok(read)) = &read {
        let (lines, forgotten) = (stage.lab.truth().0, stage.lab.with_truth(|truth| truth.forgotten));
        if forgotten.unwrap_or(0) == 0 {
            judgement.wrong.extend(log::contradictions(scenario, read, &lines));
        }
    }
    let own_losses = stage.lab.own_losses().map_err(StageError::Program)?;
    Ok(Played { judgement, report, status, said, took, own_losses })
}

fn command(scenario: &Scenario, stage: &Stage, binaries: &Binaries, file: &std::path::Path) -> Command {
    let plan = &scenario.plan;
    let target = if plan.invited { stage.invite() } else { stage.target().to_string() };
    let length = |default| format!("{}s", plan.length.unwrap_or(Span::secs(default)).0.as_secs_f64().ceil());
    let mut command = match plan.kind {
        PlanKind::Doctor => stage.lab.server().command(&binaries.server),
        PlanKind::Check | PlanKind::Soak | PlanKind::Rehearse => stage.command(&binaries.client),
    };
    match plan.kind {
        PlanKind::Check => command.args(["check", &target, "--json"]),
        PlanKind::Soak => {
            command.args(["soak", &target, "--json", "--no-tui", "--for", &length(60), "--out"]).arg(file)
        }
        PlanKind::Rehearse => command.args(["rehearse", &target, "--json", "--for", &length(20)]),
        PlanKind::Doctor => command.args(["doctor", "--json"]),
    };
    command.args(&plan.arguments).envs(&plan.environment);
    command
}

/// Lets events happen until the program ends.
fn watch(
    stage: &mut Stage,
    child: &mut Child,
    steps: Vec<(Duration, Step)>,
    limit: Duration,
) -> Result<(Option<i32>, Duration), StageError> {
    let start = moment().map_err(StageError::Program)?.now;
    let mut load = None;
    let mut steps = steps.into_iter().peekable();
    loop {
        let elapsed = moment().map_err(StageError::Program)?.now.since(start);
        if let Some(status) = child.try_wait().map_err(StageError::Program)? {
            return Ok((status.code(), elapsed));
        }
        if elapsed > limit {
            return Err(StageError::Hangs(limit));
        }
        while let Some((_, step)) = steps.next_if(|(at, _)| *at <= elapsed) {
            take(step, stage, child, &mut load)?;
        }
        std::thread::sleep(TICK);
    }
}

fn take(step: Step, stage: &mut Stage, child: &Child, load: &mut Option<Load>) -> Result<(), StageError> {
    let signal = |stage: &Stage, who, signal| match (who, &stage.server) {
        (Who::Client, _) => kill(Pid::from_raw(child.id().cast_signed()), signal).map_err(io::Error::from),
        (Who::Listener, Some(server)) => server.signal(signal),
        (Who::Listener, None) => Ok(()),
    };
    match step {
        Step::Stop => stage.stop_server(),
        Step::Start => stage.start_server()?,
        Step::Pause(who) => signal(stage, who, Signal::SIGSTOP).map_err(StageError::Program)?,
        Step::Continue(who) => signal(stage, who, Signal::SIGCONT).map_err(StageError::Program)?,
        Step::Forget => stage.lab.forget_mappings(),
        Step::Load(rate, size) => {
            let to = IpAddr::V4(stage.lab.topology().target());
            *load = stage.lab.side().map(|side| Load::start(side, to, rate, size));
        }
        Step::Unload => *load = None,
    }
    Ok(())
}

/// Cross traffic from the side host; it ends when this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(side: &Host, to: IpAddr, rate: BitRate, size: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (inner, side) = (stop.clone(), side.clone());
        let thread = std::thread::spawn(move || {
            // Without its traffic the scenario fails by what it expects.
            let _ = side.enter().and_then(|()| send(to, rate, size, &inner));
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(to: IpAddr, rate: BitRate, size: u16, stop: &AtomicBool) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let payload = vec![0x5a; usize::from(size)];
    let gap = rate.time(payload.len() + 28);
    let mut due: Timestamp = moment()?.now;
    while !stop.load(Ordering::Relaxed) {
        let now = moment()?.now;
        while due <= now {
            let _ = socket.send_to(&payload, (to, DISCARD));
            due += gap;
        }
        std::thread::sleep(due.since(moment()?.now).min(TICK));
    }
    Ok(())
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<String>> {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    })
}

fn text(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}
