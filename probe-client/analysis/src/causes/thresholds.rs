//! Every threshold, with the error rate it comes from. None was fitted to a scenario.

use std::time::Duration;

/// What is claimed with less is `unexplained`.
pub const CERTAIN: f64 = 0.95;

/// Chance that a clean path is accused of loss, reordering or duplication, per test. A run makes about ten such tests, so
/// a thousand clean runs see one false accusation at most.
pub const FALSE_ALARM: f64 = 1e-4;

/// Chance that classes that are alike are called different.
pub const WRONG_CLASS: f64 = 0.01;

/// Chance that symmetric loss is called one-sided. Ten times stricter than one finding in a hundred: a burst that goes on
/// into the next half-second makes it a little more likely than the test says.
pub const WRONG_SIDE: f64 = 0.001;

/// So many times the other direction's loss is clearly more: what is surely more need not matter to anybody.
pub const CLEARLY_MORE: f64 = 1.5;

/// Loss that nobody need care about: packets lost over sent. Access networks are commonly sold with up to this.
pub const BENIGN_LOSS: f64 = 0.005;

/// Reordering of benign paths: packets reordered over arrived.
pub const BENIGN_REORDERING: f64 = 0.01;

/// Duplication of benign paths: packets duplicated over arrived.
pub const BENIGN_DUPLICATION: f64 = 0.001;

/// Loss is a property of the path only where it recurs: in at least so many blocks of half a second. One burst, however
/// long, is an event: one of up to 2 s (a Wi-Fi roam) touches five blocks at most, and a longer one is a silence.
pub const LOSSY_BLOCKS: usize = 6;

/// Loss is the path's only where the others lose too when the flow that loses most is left out: chance that a benign path
/// shows them so. It need not be as small as [`FALSE_ALARM`], since all flows together have passed that already.
pub const SHARED_LOSS: f64 = 0.02;

/// Probes lost in a row up to a flow's last one that are taken for its end rather than for the path's loss: at the most
/// loss that is judged ([`OPENING_LOSS`]), one flow in a thousand ends so by chance, and loses five probes of its count.
pub const TRAILING: u64 = 4;

/// The most loss that a path may have on which openings are still judged: so many silent attempts in a row, each
/// lost with this probability, are taken for a block where their joint probability is below [`OPENING_CHANCE`].
pub const OPENING_LOSS: f64 = 0.2;

/// Chance that a merely lossy path is called blocked.
pub const OPENING_CHANCE: f64 = 0.01;

/// Attempts that must all be refused. A refusal is an answer, not a loss; five of five rule out a listener that was just
/// being started.
pub const REFUSALS: u64 = 5;

/// Blocks of half a second in a row without any reply that are a silence, not loss.
pub const SILENT_BLOCKS: usize = 4;

/// Packets with one mark that must all arrive changed alike. By accident, bits change less than once in a million packets.
pub const MARKED_PACKETS: u64 = 5;

/// Records altered at the same offset. By accident, each would be altered elsewhere.
pub const ALTERED_RECORDS: u64 = 3;

/// Share of probes that a host may spoil before it is called stalled.
pub const SPOILED_SHARE: f64 = 0.01;

/// And so many of them at least.
pub const SPOILED_PROBES: u64 = 5;

/// Share of the run's time that a host may be stalled before it is called so.
pub const STALLED_SHARE: f64 = 0.1;

/// Retransmissions that TCP would have been expected to make if it lost as UDP does; with none made, the chance of that
/// is e^-7, below one in a thousand.
pub const EXPECTED_RETRANSMITS: f64 = 7.0;

/// Probability that so many attempts in a row are lost on a path with [`OPENING_LOSS`].
pub fn all_lost(attempts: u64) -> f64 {
    OPENING_LOSS.powi(i32::try_from(attempts).unwrap_or(i32::MAX))
}

/// Chance that a run of losses at a flow's own base rate is taken for its death: CAUSES.md's.
pub const DEATH_CHANCE: f64 = 1e-6;

/// A flow that is silent for so long is dead whatever its base rate: CAUSES.md's.
pub const SILENT_FOR_SURE: Duration = Duration::from_secs(60);

/// Packets that must be lost in a row: a base rate is known no better than by a few hundred packets.
pub const DEATH_PACKETS: u64 = 10;

/// The shortest silence that is a death: a roam of Wi-Fi takes up to 2 s.
pub const SHORTEST_DEATH: Duration = Duration::from_millis(2500);

/// Datagrams of others that must be answered while a flow is silent, or it is the path that is.
pub const WITNESSES: u64 = 3;

/// Flows that must have died alike before a count or an age is named: CAUSES.md's.
pub const DEATHS: usize = 5;

/// And their coefficient of variation at most: CAUSES.md's.
pub const DEATH_VARIATION: f64 = 0.05;

/// Chance that differing loss of source ports is none of a path member's: 32 ports are one test per run.
pub const PORTS_DIFFER: f64 = 1e-6;

/// Fresh ports that must be clean beside an old flow that decays: CAUSES.md's.
pub const FRESH_PORTS: usize = 8;

/// Share of packets that a fresh port gets through where nothing is wrong: CAUSES.md's.
pub const FRESH_SHARE: f64 = 0.95;

/// Flows whose first packets must be lost alike: five of five.
pub const ALIKE_FLOWS: usize = 5;

/// A stretch without any answer to anybody that is a silence and not loss, seconds: with ten packets in it, half of them
/// lost each way, chance makes one once in a million.
pub const SILENCE: f64 = 1.0;

/// Shortest blackout that is named, so that a roam of Wi-Fi (2 s at most) is none.
pub const BLACKOUT: f64 = 2.5;

/// Recurrences at least before a period is named, and the chance that random times show one.
pub const RECURRENCES: usize = 5;

/// Chance that random times of loss are taken for a period, all periods tried together.
pub const PERIOD_CHANCE: f64 = 1e-4;

/// Chance that a gateway that loses as much as the path does in its short losses answers all questions that fell into
/// them.
pub const GATEWAY_CHANCE: f64 = 0.02;

/// A stall of a host that is named however long the run is, seconds: as long as the shortest blackout.
pub const STALLED_FOR: f64 = 2.0;
