//! A set of frames, sparse and quick to fill by the gigabyte.

use std::collections::BTreeMap;

use gmem::GfnRange;

const BITS: u64 = u64::BITS as u64;

/// Guest frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frames(BTreeMap<u64, u64>);

impl Frames {
    /// Whether it is among them.
    pub fn contains(&self, gfn: u64) -> bool {
        self.0.get(&(gfn / BITS)).is_some_and(|word| word >> (gfn % BITS) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.values().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds frames, and says how many were not there.
    pub fn insert(&mut self, range: GfnRange) -> u64 {
        let before = self.len();
        for (index, mask) in words(range) {
            *self.0.entry(index).or_default() |= mask;
        }
        self.len() - before
    }

    /// Takes frames out, and says how many were there.
    pub fn remove(&mut self, range: GfnRange) -> u64 {
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
