//! Every threshold, with the error rate it comes from. None was fitted to a scenario.

/// What is claimed with less is `unexplained`.
pub const CERTAIN: f64 = 0.95;

/// Chance that a clean path is accused of loss, reordering or duplication, per test. A run makes about ten such tests, so
/// a thousand clean runs see one false accusation at most.
pub const FALSE_ALARM: f64 = 1e-4;

/// Chance that symmetric loss is called one-sided, or classes that are alike are called different.
pub const WRONG_SIDE: f64 = 0.01;

/// Loss that nobody need care about: packets lost over sent. Access networks are commonly sold with up to this.
pub const BENIGN_LOSS: f64 = 0.005;

/// Reordering of benign paths: packets reordered over arrived.
pub const BENIGN_REORDERING: f64 = 0.01;

/// Duplication of benign paths: packets duplicated over arrived.
pub const BENIGN_DUPLICATION: f64 = 0.001;

/// Loss is a property of the path only where it recurs: in at least so many blocks of half a second. One burst, however
/// long, is an event: one of up to 2 s (a Wi-Fi roam) touches five blocks at most, and a longer one is a silence.
pub const LOSSY_BLOCKS: usize = 6;

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
