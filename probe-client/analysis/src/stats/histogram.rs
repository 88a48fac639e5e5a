//! Quantiles of many values in little memory.
//!
//! Buckets grow with the value: each is at most 1/256 of its value wide, so a quantile is off by at most 0.2 %. Only buckets
//! that hold something take memory (8 bytes each while they are few or lie far apart, then 256 bytes for each quarter of a
//! doubling that occurs), since a night has thousands of short flows.

/// Values up to this are kept exactly.
const EXACT: u64 = 512;
/// Buckets per doubling, as a power of two.
const SUB_BITS: u32 = 8;

/// Buckets of one page: a quarter of a doubling.
const PAGE: usize = 64;
/// Buckets that are kept as a list in any case, and at the most. More of them are kept as pages, where a bucket is found
/// without searching, once the pages take no more than twice the list's room.
const LISTED: (usize, usize) = (48, 1024);
/// Buckets of a page that take half of its room in a list.
const WORTH_A_PAGE: usize = PAGE * size_of::<u32>() / size_of::<(u16, u32)>() / 2;

/// Counts of unsigned values, usually nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Buckets,
    count: u64,
    min: u64,
    max: u64,
}

/// Few buckets take little room as a list; many are found faster in pages.
#[derive(Clone, Debug)]
enum Buckets {
    /// Bucket and count, by bucket.
    List(Vec<(u16, u32)>),
    /// Counts by bucket; pages without any are absent.
    Pages(Vec<Option<Box<[u32; PAGE]>>>),
}

impl Default for Buckets {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Buckets {
    /// A bucket's count stops at 4 thousand million: more than a year of a soak's probes.
    fn add(&mut self, bucket: u16, n: u32) {
        match self {
            Self::List(list) => match list.binary_search_by_key(&bucket, |(b, _)| *b) {
                Ok(at) => list[at].1 = list[at].1.saturating_add(n),
                Err(at) if !is_dense(list) => list.insert(at, (bucket, n)),
                Err(_) => {
                    let list = std::mem::take(list);
                    *self = Self::Pages(Vec::new());
                    list.into_iter().chain([(bucket, n)]).for_each(|(bucket, n)| self.add(bucket, n));
                }
            },
            Self::Pages(pages) => {
                let (page, at) = (usize::from(bucket) / PAGE, usize::from(bucket) % PAGE);
                if pages.len() <= page {
                    pages.resize(page + 1, None);
                }
                let count = &mut pages[page].get_or_insert_with(|| Box::new([0; PAGE]))[at];
                *count = count.saturating_add(n);
            }
        }
    }

    /// Buckets that hold something, with their counts, by bucket.
    fn iter(&self) -> Box<dyn Iterator<Item = (u16, u32)> + '_> {
        match self {
            Self::List(list) => Box::new(list.iter().copied()),
            Self::Pages(pages) => {
                let filled = (0u16..).zip(pages).filter_map(|(page, counts)| Some((page, counts.as_ref()?)));
                Box::new(filled.flat_map(|(page, counts)| {
                    let first = page * PAGE as u16;
                    (first..).zip(counts.iter().copied()).filter(|(_, n)| *n > 0)
                }))
            }
        }
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        let all = |h: &Self| (h.count, h.min, h.max);
        all(self) == all(other) && self.buckets.iter().eq(other.buckets.iter())
    }
}

/// Whether a list is better kept as pages.
fn is_dense(list: &[(u16, u32)]) -> bool {
    let few = list.len() < LISTED.0 || !list.len().is_multiple_of(WORTH_A_PAGE);
    if few {
        return false;
    }
    let pages = list.chunk_by(|a, b| usize::from(a.0) / PAGE == usize::from(b.0) / PAGE).count();
    list.len() >= LISTED.1 || list.len() >= WORTH_A_PAGE * pages
}

fn bucket_of(value: u64) -> u16 {
    if value < EXACT {
        return value as u16;
    }
    let exponent = 63 - value.leading_zeros();
    let sub = (value >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (EXACT + u64::from(exponent - SUB_BITS - 1) * (1 << SUB_BITS) + sub) as u16
}

/// The middle of a bucket.
fn value_of(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < EXACT {
        return bucket;
    }
    let exponent = (bucket - EXACT) / (1 << SUB_BITS) + u64::from(SUB_BITS) + 1;
    let sub = (bucket - EXACT) % (1 << SUB_BITS);
    let width = 1 << (exponent - u64::from(SUB_BITS));
    (1 << exponent) + sub * width + width / 2
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.buckets.add(bucket_of(value), 1);
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
    }

    /// Adds all that another one holds.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        other.buckets.iter().for_each(|(bucket, n)| self.buckets.add(bucket, n));
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
    }

    /// Gives back room that is not used.
    pub fn shrink(&mut self) {
        match &mut self.buckets {
            Buckets::List(list) => list.shrink_to_fit(),
            Buckets::Pages(pages) => pages.shrink_to_fit(),
        }
    }

    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value, exactly.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// The largest value, exactly.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// How many values do not exceed this one, to a bucket's width.
    pub fn at_most(&self, value: u64) -> u64 {
        let last = bucket_of(value);
        self.buckets.iter().take_while(|(bucket, _)| *bucket <= last).map(|(_, n)| u64::from(n)).sum()
    }

    /// The mean of the lowest share `q` (0 to 1) of the values, to a bucket's width; none where that is none of them.
    pub fn trimmed_mean(&self, q: f64) -> Option<f64> {
        let keep = (q.clamp(0.0, 1.0) * self.count as f64).round() as u64;
        let (mut left, mut sum) = (keep, 0.0);
        for (bucket, n) in self.buckets.iter() {
            let taken = u64::from(n).min(left);
            sum += taken as f64 * value_of(bucket).clamp(self.min, self.max) as f64;
            left -= taken;
        }
        (keep > left).then(|| sum / (keep - left) as f64)
    }

    /// The value of nearest rank: the smallest one that at least the share `q` (0 to 1) of all do not exceed.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        self.buckets.iter().find_map(|(bucket, n)| {
            below += u64::from(n);
            (below >= rank).then(|| value_of(bucket).clamp(self.min, self.max))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_agree_with_sorting(
            mut values in proptest::collection::vec((0u32..60, any::<u64>()).prop_map(|(s, v)| v >> s), 1..600),
            q in 0.0f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.add(*v));
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let got = histogram.quantile(q).unwrap();
            prop_assert!(got.abs_diff(exact) <= exact / 256, "{} for {}", got, exact);
            prop_assert_eq!(histogram.min(), values.first().copied());
            prop_assert_eq!(histogram.max(), values.last().copied());
        }

        #[test]
        fn the_trimmed_mean_leaves_out_the_slowest(values in proptest::collection::vec(1u64..1_000_000, 20..200)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.add(*v));
            let mut sorted = values;
            sorted.sort_unstable();
            let keep = (0.95 * sorted.len() as f64).round() as usize;
            let exact = sorted[..keep].iter().sum::<u64>() as f64 / keep as f64;
            let got = histogram.trimmed_mean(0.95).unwrap();
            prop_assert!((got - exact).abs() <= exact / 256.0 + 1.0, "{} for {}", got, exact);
        }

        #[test]
        fn merging_is_adding_all(a in proptest::collection::vec(0u64..1_000_000, 0..400), b in proptest::collection::vec(0u64..1_000_000, 0..400)) {
            let fill = |values: &[u64]| {
                let mut h = Histogram::default();
                values.iter().for_each(|v| h.add(*v));
                h
            };
            let mut merged = fill(&a);
            merged.merge(&fill(&b));
            prop_assert_eq!(merged, fill(&[a, b].concat()));
        }

        #[test]
        fn every_value_is_in_its_own_bucket(value: u64) {
            prop_assert_eq!(bucket_of(value_of(bucket_of(value))), bucket_of(value));
        }
    }

    #[test]
    fn an_empty_one_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().max(), None);
    }
}
