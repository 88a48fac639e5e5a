//! The machine and what else it was doing.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use probe_net::clock;
use probe_protocol::time::Timestamp;
use serde::Serialize;

/// The machine and its conditions.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's version.
    pub kernel: String,
    /// Processes that wanted a core over the last minute, when the run began (as `uptime` says; 0 on an idle one).
    pub load_before: String,
    /// The same at its end; the run itself is in it.
    pub load_after: String,
    /// Niceness of all that was measured: negative where it had precedence over what else ran.
    pub nice: i32,
    /// Share of all cores' time that other programs took during the run, 0 to 1.
    pub others: Option<f64>,
    #[serde(skip)]
    begun: Spent,
}

/// CPU time so far, seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    at: Timestamp,
    by_all: f64,
    by_us: f64,
}

impl Machine {
    /// As it is now.
    pub fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = load();
        Self {
            model: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load.clone(),
            load_after: load,
            nice: nice(),
            others: None,
            begun: Spent::so_far(),
        }
    }

    /// Notes the conditions at the end, once all programs that were measured have ended.
    pub fn look_again(&mut self) {
        self.load_after = load();
        let (then, now) = (self.begun, Spent::so_far());
        let others = (now.by_all - then.by_all) - (now.by_us - then.by_us);
        let had = now.at.since(then.at).as_secs_f64() * self.cores as f64;
        self.others = (had > 0.0).then(|| (others / had).clamp(0.0, 1.0));
    }
}

impl Spent {
    fn so_far() -> Self {
        let own = |who| {
            let usage = getrusage(who).ok()?;
            let seconds = |t: TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
            Some(seconds(usage.user_time()) + seconds(usage.system_time()))
        };
        let by_us = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].into_iter().filter_map(own).sum();
        Self { at: clock::now(), by_all: busy(), by_us }
    }
}

/// The three load averages.
fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn nice() -> i32 {
    // Field 19; the second one is a name in brackets that may hold blanks.
    let stat = read("/proc/self/stat");
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ').nth(16).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Busy time of all cores so far, seconds.
fn busy() -> f64 {
    let stat = read("/proc/stat");
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait,) irq, softirq, in hundredths of a second.
    [0, 1, 2, 5, 6].iter().filter_map(|&i| fields.get(i)).sum::<f64>() / 100.0
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
