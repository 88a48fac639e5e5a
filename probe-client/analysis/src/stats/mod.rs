//! The statistics, each in its own file with the definition it follows.
//!
//! | Statistic | Definition | File |
//! | --- | --- | --- |
//! | quantiles of delays | nearest rank, within 1/256 of the value | [`histogram`] |
//! | delay variation of neighbours | RFC 3393, selection by RFC 5481 section 4.1 | [`ipdv`] |
//! | interarrival jitter | RFC 3550 section 6.4.1 and appendix A.8 | [`jitter`] |
//! | reordering, ratio and extent | RFC 4737 sections 3 and 4.2 | [`reordering`] |
//! | loss periods | RFC 3357 section 5 | [`loss`] |
//! | clock offset with its bound, one-way delay | RFC 5905 section 8 (minimum filter), RFC 7679 | [`offset`] |
//! | counts over time in constant memory | | [`timeline`] |
//! | how often each value occurred | | [`tally`] |
//! | tests of hypotheses | exact binomial, Fisher, sign flips over blocks | [`hypothesis`] |
//! | recurrence with a period | Rayleigh, over many periods | [`recurrence`] |

pub mod histogram;
pub mod hypothesis;
pub mod ipdv;
pub mod jitter;
pub mod loss;
pub mod offset;
pub mod recurrence;
pub mod reordering;
pub mod resequence;
pub mod tally;
pub mod timeline;
