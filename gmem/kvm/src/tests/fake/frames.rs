//! A set of frames, sparse and quick to fill by the gigabyte.

use std::collections::BTreeMap;

use gmem::GfnRange;

const BITS: u64 = u64::BITS as u64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frames(BTreeMap<u64, u64>);

impl Frames {
    pub(crate) fn contains(&self, gfn: u64) -> bool {
        self.0.get(&(gfn / BITS)).is_some_and(|word| word >> (gfn % BITS) & 1 == 1)
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.values().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds frames, and says how many were not there.
    pub(crate) fn insert(&mut self, range: GfnRange) -> u64 {
        let before = self.len();
        for (index, mask) in words(range) {
            *self.0.entry(index).or_default() |= mask;
        }
        self.len() - before
    }

    /// Takes frames out, and says how many were there.
    pub(crate) fn remove(&mut self, range: GfnRange) -> u64 {
        let before = self.len();
        for (index, mask) in words(range) {
            if let Some(word) = self.0.get_mut(&index) {
                *word &= !mask;
                if *word == 0 {
                    self.0.remove(&index);
                }
            }
        }
        before - self.len()
    }
}

/// The words a range touches, and the bits of each.
fn words(range: GfnRange) -> impl Iterator<Item = (u64, u64)> {
    let (start, end) = (range.start().number(), range.end_number());
    (start / BITS..end.div_ceil(BITS)).map(move |index| {
        let low = start.saturating_sub(index * BITS).min(BITS);
        let high = (end - index * BITS).min(BITS);
        let below = |bits: u64| if bits == BITS { u64::MAX } else { (1 << bits) - 1 };
        (index, below(high) & !below(low))
    })
}
