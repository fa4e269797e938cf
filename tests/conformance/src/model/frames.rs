//! A set of guest frames, kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Frame numbers; ranges neither overlap nor adjoin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames(BTreeMap<u64, u64>);

impl Frames {
    /// Whether a frame is in it.
    #[must_use]
    pub fn contains(&self, frame: u64) -> bool {
        self.0.range(..=frame).next_back().is_some_and(|(_, end)| frame < *end)
    }

    /// Takes frames out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<_> =
            self.0.range(..range.end).filter(|(_, end)| **end > range.start).map(|(a, b)| (*a, *b)).collect();
        for (start, end) in touched {
            self.0.remove(&start);
            if start < range.start {
                self.0.insert(start, range.start);
            }
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
    }

    /// Puts frames in.
    pub fn insert(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Those that overlap or adjoin become part of it.
        let touched: Vec<_> =
            self.0.range(..=range.end).filter(|(_, end)| **end >= range.start).map(|(a, b)| (*a, *b)).collect();
        for (start, end) in touched {
            self.0.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        self.0.insert(range.start, range.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_set_of_numbers_would() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut frames, mut naive) = (Frames::default(), [false; 40]);
        for _ in 0..5000 {
            let start = random.usize(0..40);
            let end = random.usize(start..=40);
            let put = random.bool();
            let range = start as u64..end as u64;
            if put {
                frames.insert(range)
            } else {
                frames.remove(range)
            }
            naive[start..end].fill(put);
            for (frame, there) in naive.iter().enumerate() {
                assert_eq!(frames.contains(frame as u64), *there);
            }
            let ranges: Vec<_> = frames.0.iter().collect();
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
        }
    }
}
