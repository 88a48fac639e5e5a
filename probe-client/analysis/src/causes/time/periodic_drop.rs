//! `periodic-drop`: everything is lost for a moment, again and again, with a period. This client's own timers are
//! jittered or far quicker, so that they are not found; Wi-Fi scans let the gateway suffer too.

use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::lives::rounded;
use crate::causes::{Case, Claim, thresholds};
use crate::stats::recurrence::recurrence;

/// Within an episode, losses are no further apart than this, seconds.
const JOINED_S: f64 = 0.6;
/// An episode takes so many packets at least, and this share of those sent between its first and its last loss.
const PACKETS: u64 = 5;
const SHARE: f64 = 0.3;
/// Shortest period looked for, seconds.
const SHORTEST_S: f64 = 1.0;
/// Share of the turns of a period that must show a loss.
const TURNS: f64 = 0.75;

/// A moment in which much was lost.
#[derive(Clone, Copy, Debug)]
struct Episode {
    from_s: f64,
    to_s: f64,
    lost: u64,
    sent: u64,
}

fn episodes(case: &Case<'_>) -> Vec<Episode> {
    let pulse = &case.evidence.datagrams;
    let bin_s = pulse.length().as_secs_f64();
    let mut found: Vec<Episode> = Vec::new();
    for (n, bin) in pulse.bins().iter().enumerate() {
        let at = pulse.start_s(n);
        let (lost, sent) = (u64::from(bin.lost()), u64::from(bin.sent));
        if lost == 0 || (lost as f64) < SHARE * sent as f64 {
            continue;
        }
        match found.last_mut() {
            Some(last) if at - last.to_s <= JOINED_S => {
                last.to_s = at + bin_s;
                last.lost += lost;
                last.sent += sent;
            }
            _ => found.push(Episode { from_s: at, to_s: at + bin_s, lost, sent }),
        }
    }
    found.retain(|e| {
        e.lost >= PACKETS
            && e.lost as f64 >= SHARE * e.sent as f64
            && e.to_s - e.from_s < thresholds::BLACKOUT
            && !case.host_acted(e.from_s, e.to_s)
    });
    found
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let episodes = episodes(case);
    if episodes.len() < thresholds::RECURRENCES {
        return Vec::new();
    }
    let starts: Vec<f64> = episodes.iter().map(|e| e.from_s).collect();
    let Some(found) = recurrence(&starts, SHORTEST_S) else { return Vec::new() };
    let span = starts.last().copied().unwrap_or_default() - starts[0];
    let turns = (span / found.period).round() + 1.0;
    let met = starts.len() as f64 / turns;
    if found.p > thresholds::PERIOD_CHANCE || found.resultant < 0.9 || !(TURNS..=1.0 / TURNS).contains(&met) {
        return Vec::new();
    }
    let period = fitted(&starts, found.period);
    let length = {
        let mut lengths: Vec<f64> = episodes.iter().map(|e| e.to_s - e.from_s).collect();
        lengths.sort_by(f64::total_cmp);
        lengths[lengths.len() / 2]
    };
    let lost: u64 = episodes.iter().map(|e| e.lost).sum();
    let says = format!(
        "{} times, every {period:.2} s, packets were lost for about {length:.1} s ({lost} packets in all)",
        episodes.len()
    );
    let test = Some(format!("Rayleigh, corrected for {:.0} periods tried", found.tried));
    let because = Evidence {
        from_s: Some(rounded(starts[0], 2)),
        to_s: episodes.last().map(|e| rounded(e.to_s, 2)),
        says,
        test,
        p: Some(found.p.max(1e-12)),
        ..Evidence::default()
    };
    let parameters = Parameters {
        period_s: Some(rounded(period, 3)),
        length_s: Some(rounded(length, 2)),
        number: Some(episodes.len() as u64),
        ..Parameters::default()
    };
    let watches = &case.evidence.watches.gateway;
    let at = |s: f64| case.evidence.start() + Duration::from_secs_f64(s.max(0.0));
    let (asked, failed) = episodes.iter().fold((0, 0), |(asked, failed), e| {
        let (a, f) = watches.between(at(e.from_s), at(e.to_s));
        (asked + a, failed + f)
    });
    if watches.tells() && failed >= 2 && failed * 4 >= asked {
        return vec![
            Claim::new(Cause::LocalNetwork, Side::ClientNetwork)
                .probability(0.97)
                .parameters(parameters)
                .because(because)
                .because(Evidence {
                    says: format!(
                        "asked in these moments, this site's own gateway failed {failed} of {asked} times"
                    ),
                    ..Evidence::default()
                })
                .rather_than(Cause::PeriodicDrop, "the gateway suffers too"),
        ];
    }
    // Were the fault there, each question would be lost as packets are: answered by all only by this chance.
    let sent: u64 = episodes.iter().map(|e| e.sent).sum();
    let share = 0.95 * lost as f64 / sent.max(1) as f64;
    let chance = (1.0 - share).powi(i32::try_from(asked).unwrap_or(i32::MAX));
    let ruled_out = watches.tells() && failed == 0 && chance < thresholds::GATEWAY_CHANCE;
    let claim = Claim::new(Cause::PeriodicDrop, Side::Path)
        .probability(if ruled_out { 0.98 } else { 0.9 })
        .parameters(parameters)
        .because(because)
        .or([Cause::LocalNetwork], "this site's gateway, asked just in these moments");
    vec![if ruled_out {
        claim.rather_than(
            Cause::LocalNetwork,
            format!("asked {asked} times in just these moments, this site's own gateway answered each time"),
        )
    } else {
        claim
    }]
}

/// The period by least squares over the numbers of the turns.
fn fitted(starts: &[f64], period: f64) -> f64 {
    let turns: Vec<f64> = starts.iter().map(|at| ((at - starts[0]) / period).round()).collect();
    let n = starts.len() as f64;
    let (mean_turn, mean_at) = (turns.iter().sum::<f64>() / n, starts.iter().sum::<f64>() / n);
    let (mut above, mut below) = (0.0, 0.0);
    for (turn, at) in turns.iter().zip(starts) {
        above += (turn - mean_turn) * (at - mean_at);
        below += (turn - mean_turn).powi(2);
    }
    if below > 0.0 { above / below } else { period }
}
