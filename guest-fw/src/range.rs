//! Ranges of guest-physical memory whose arithmetic cannot wrap.

use core::fmt;

/// A half-open range of guest-physical bytes; its end fits in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GpaRange {
    start: u64,
    end: u64,
}

impl GpaRange {
    /// `len` bytes from `start`; `None` if the end does not fit in 64 bits.
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// The bytes from `start` up to `end`; empty if `end` is not above `start`.
    pub const fn between(start: u64, end: u64) -> Self {
        Self { start, end: if end > start { end } else { start } }
    }

    /// First byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// First byte after the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Bytes in the range.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether every byte of `other` is in here.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether some byte is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end && !self.is_empty() && !other.is_empty()
    }
}

impl fmt::Display for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start, self.end)
    }
}

impl fmt::Debug for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_beyond_64_bits_is_refused() {
        assert_eq!(GpaRange::new(u64::MAX, 1), None);
        assert_eq!(GpaRange::new(u64::MAX, 0), Some(GpaRange::between(u64::MAX, u64::MAX)));
    }

    #[test]
    fn touching_and_empty_ranges_do_not_overlap() {
        let range = GpaRange::between(0x1000, 0x3000);
        assert!(!range.overlaps(GpaRange::between(0x3000, 0x4000)));
        assert!(!range.overlaps(GpaRange::between(0x2000, 0x2000)));
        assert!(range.overlaps(GpaRange::between(0x2fff, 0x9000)));
        assert!(range.contains(range));
    }
}
