//! What a run saw, condensed to what a person can review: a line per flow, the fates of its probes run by run, and every
//! observation that is not one of thousands.

use std::collections::BTreeMap;
use std::fmt::Write;

use probe_analysis::observation::{Fate, FlowNo, Load, Observation, Outcome};
use probe_protocol::time::Timestamp;

/// Runs of fates that are written out; of the rest, how many there are.
const RUNS: usize = 12;

#[derive(Default)]
struct Flow {
    head: String,
    attempts: u64,
    life: String,
    runs: Vec<(Fate, u64)>,
}

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Seen {
    start: Timestamp,
    flows: BTreeMap<FlowNo, Flow>,
    counts: BTreeMap<&'static str, u64>,
    others: String,
}

impl Seen {
    pub(crate) fn take(&mut self, observation: &Observation) {
        match observation {
            Observation::RunStarted(o) => {
                self.start = o.at;
                self.other("run", &format!("of {} begins, load up to {} bit/s", o.target, o.load_bps));
            }
            Observation::FlowPlanned(o) => {
                let at = self.seconds(o.at);
                let head = format!(
                    "{} {:?} {:?} {:?} to {}, {} bytes each {:?}, from {at}",
                    o.name, o.purpose, o.carrier, o.dress, o.to, o.size, o.interval
                );
                self.flow(o.flow).head = head;
            }
            Observation::Attempt(o) => {
                let (from, to) = (self.seconds(o.from), self.seconds(o.to));
                let flow = self.flow(o.flow);
                flow.attempts += 1;
                if o.outcome != Outcome::Opened {
                    let _ = write!(flow.life, " tried {from} to {to}: {:?};", o.outcome);
                }
            }
            Observation::FlowOpened(o) => {
                let at = self.seconds(o.at);
                let _ = write!(self.flow(o.flow).life, " open {at} as {};", o.observed);
            }
            Observation::FlowEnded(o) => {
                let at = self.seconds(o.at);
                let _ = write!(self.flow(o.flow).life, " over {at}: {:?}", o.end);
            }
            Observation::Probe(o) => {
                let runs = &mut self.flow(o.flow).runs;
                match runs.last_mut() {
                    Some((fate, count)) if *fate == o.fate => *count += 1,
                    Some(_) | None => runs.push((o.fate, 1)),
                }
            }
            Observation::Load(o) => self.load(o),
            Observation::Watch(_) => {
                *self.counts.entry("seconds of watching beside the path").or_default() += 1;
            }
            Observation::Missed(o) => *self.counts.entry("probes that were not sent").or_default() += o.count,
            Observation::Tcp(_) => *self.counts.entry("looks at TCP_INFO").or_default() += 1,
            Observation::Arrivals(_) => {
                *self.counts.entry("counts of openings that arrived").or_default() += 1;
            }
            // A certificate is made for each run.
            Observation::Channel(o) => {
                let says = format!(
                    "of {:?}: as invited {:?}, same exporter {:?}, issuer {:?}",
                    o.flow,
                    o.expected.map(|expected| expected == o.fingerprint),
                    o.same_exporter,
                    o.issuer
                );
                self.other("channel", &says);
            }
            Observation::Host(o) => {
                let says = format!("{} to {}: {:?}", self.seconds(o.from), self.seconds(o.to), o.what);
                self.other("host", &says);
            }
            Observation::ListenerRestarted(o) => {
                let says = format!("last seen {}, another {}", self.seconds(o.last_seen), self.seconds(o.at));
                self.other("listener restarted", &says);
            }
            Observation::RunEnded(o) => {
                let says = format!("{}, complete: {}", self.seconds(o.at), o.complete);
                self.other("run over", &says);
            }
            Observation::Moved(o) => {
                let says = format!("{} {:?} from {} to {}", self.seconds(o.at), o.flow, o.old, o.new);
                self.other("moved", &says);
            }
            Observation::Rewritten(o) => {
                let says = format!("{} {:?} up {:?} at {:?}", self.seconds(o.at), o.flow, o.up, o.offset);
                self.other("rewritten", &says);
            }
            Observation::Resolved(_)
            | Observation::Datagrams(_)
            | Observation::PathMtu(_)
            | Observation::Silence(_)
            | Observation::IdleGap(_)
            | Observation::Fragment(_)
            | Observation::StreamEnd(_)
            | Observation::Proxy(_)
            | Observation::NameChanged(_)
            | Observation::AnsweredLate(_)
            | Observation::Ceiling(_) => self.other("also", &format!("{observation:?}")),
        }
    }

    fn seconds(&self, at: Timestamp) -> String {
        format!("{:.3} s", at.since(self.start).as_secs_f64())
    }

    fn flow(&mut self, no: FlowNo) -> &mut Flow {
        self.flows.entry(no).or_default()
    }

    fn other(&mut self, what: &str, says: &str) {
        let _ = writeln!(self.others, "{what}: {says}");
    }

    fn load(&mut self, o: &Load) {
        let sum = |of: fn(&probe_analysis::observation::LoadBin) -> u64| o.bins.iter().map(of).sum::<u64>();
        let says = format!(
            "{:?} step {} {:?} {} {:?}, {} bytes at {} bit/s, {} to {}: {} packets, {} lost, longest delay {:?} ms over the \
             shortest{}",
            o.flow,
            o.step,
            o.experiment,
            if o.up { "up" } else { "down" },
            o.carrier,
            o.size,
            o.offered_bps,
            self.seconds(o.from),
            self.seconds(o.to),
            sum(|bin| u64::from(bin.packets)),
            sum(|bin| u64::from(bin.lost)),
            delay_ms(o),
            if o.stopped_early { ", stopped early" } else { "" }
        );
        self.other("load", &says);
    }

    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        for (no, flow) in &self.flows {
            let _ = writeln!(out, "flow {}: {};{}", no.0, flow.head, flow.life);
            let mut runs: Vec<String> =
                flow.runs.iter().take(RUNS).map(|(fate, count)| format!("{count} {fate:?}")).collect();
            if flow.runs.len() > RUNS {
                let left = &flow.runs[RUNS..];
                let mut by: BTreeMap<String, u64> = BTreeMap::new();
                left.iter().for_each(|(fate, count)| *by.entry(format!("{fate:?}")).or_default() += count);
                let by: Vec<String> = by.iter().map(|(fate, count)| format!("{count} {fate}")).collect();
                runs.push(format!("and in {} more turns {}", left.len(), by.join(", ")));
            }
            if !runs.is_empty() {
                let _ = writeln!(out, "    {}", runs.join(", "));
            }
        }
        for (what, count) in &self.counts {
            let _ = writeln!(out, "{what}: {count}");
        }
        out + &self.others
    }
}

/// How much longer than the shortest the longest delay was, milliseconds.
fn delay_ms(o: &Load) -> Option<u64> {
    let delays = || o.bins.iter().filter_map(|bin| bin.delay);
    let (least, most) = (delays().map(|d| d.min).min()?, delays().map(|d| d.max).max()?);
    u64::try_from((most - least) / 1_000_000).ok()
}
