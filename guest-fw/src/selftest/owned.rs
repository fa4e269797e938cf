//! Memory one processor has for itself while it tests it.
//!
//! Owns the step from addresses to accesses, so that the tests themselves are safe code. All accesses are volatile:
//! conversions and devices change memory behind the compiler's back.
#![expect(unsafe_code, reason = "tests touch physical memory")]

use crate::abi::PAGE_SIZE;
use crate::range::GpaRange;
use core::ptr::with_exposed_provenance_mut;

/// A range of RAM that nothing else refers to.
#[derive(Debug)]
pub struct Owned(GpaRange);

/// Where a page holds its pattern: both ends, so that half a page cannot go unnoticed.
const PATTERN_OFFSETS: [u64; 2] = [0, PAGE_SIZE - 8];

impl Owned {
    /// Takes a range.
    ///
    /// # Safety
    ///
    /// It is RAM, mapped readable and writable, and no Rust reference or other `Owned` reaches it for as long as this
    /// one lives, except that different processors may have the same range one after the other.
    pub unsafe fn new(range: GpaRange) -> Self {
        Self(range)
    }

    /// What is owned.
    pub const fn range(&self) -> GpaRange {
        self.0
    }

    /// Reads 8 bytes. Must lie inside and be aligned.
    pub fn read(&self, gpa: u64) -> u64 {
        let pointer = self.pointer::<u64>(gpa);
        // SAFETY: inside the owned range, aligned, and any bytes are a value.
        unsafe { pointer.read_volatile() }
    }

    /// Writes 8 bytes. Must lie inside and be aligned.
    pub fn write(&mut self, gpa: u64, value: u64) {
        let pointer = self.pointer::<u64>(gpa);
        // SAFETY: inside the owned range, aligned, and nothing else refers to it.
        unsafe { pointer.write_volatile(value) }
    }

    /// Reads 2 bytes. Must lie inside and be aligned.
    pub fn read16(&self, gpa: u64) -> u16 {
        let pointer = self.pointer::<u16>(gpa);
        // SAFETY: as for read.
        unsafe { pointer.read_volatile() }
    }

    /// Writes 2 bytes. Must lie inside and be aligned.
    pub fn write16(&mut self, gpa: u64, value: u16) {
        let pointer = self.pointer::<u16>(gpa);
        // SAFETY: as for write.
        unsafe { pointer.write_volatile(value) }
    }

    fn pointer<T>(&self, gpa: u64) -> *mut T {
        let len = size_of::<T>() as u64;
        let inside = GpaRange::new(gpa, len).is_some_and(|range| self.0.contains(range));
        assert!(inside && gpa.is_multiple_of(len), "{gpa:#x} is not an aligned part of {}", self.0);
        // The firmware is 64-bit code: an address fits.
        with_exposed_provenance_mut(usize::try_from(gpa).unwrap_or(0))
    }

    /// Fills a page's ends with its pattern.
    pub fn put_pattern(&mut self, page: u64, salt: u64) {
        for offset in PATTERN_OFFSETS {
            self.write(page + offset, pattern(page + offset, salt));
        }
    }

    /// Makes a page's ends zero again.
    pub fn clear(&mut self, page: u64) {
        for offset in PATTERN_OFFSETS {
            self.write(page + offset, 0);
        }
    }

    /// Whether a page's ends hold its pattern.
    pub fn has_pattern(&self, page: u64, salt: u64) -> bool {
        PATTERN_OFFSETS.iter().all(|offset| self.read(page + offset) == pattern(page + offset, salt))
    }

    /// Whether a page's ends are zero.
    pub fn is_zero(&self, page: u64) -> bool {
        PATTERN_OFFSETS.iter().all(|offset| self.read(page + offset) == 0)
    }
}

/// A value that no other address has with any salt of these tests, and that is never zero: the finalizer of
/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) is a bijection that maps only zero to zero.
pub fn pattern(gpa: u64, salt: u64) -> u64 {
    let mut value = gpa | salt << 52 | 1;
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Patterns tell addresses, and old contents from new.
        #[test]
        fn patterns_are_unique_and_not_zero(a in 0u64..1 << 44, b in 0u64..1 << 44, salt in 0u64..16, other in 0u64..16) {
            prop_assert_ne!(pattern(a * 8, salt), 0);
            if (a, salt) != (b, other) {
                prop_assert_ne!(pattern(a * 8, salt), pattern(b * 8, other));
            }
        }
    }

    #[test]
    fn pages_are_written_and_read_at_both_ends() {
        let page = Box::leak(Box::new([0u64; 1024]));
        let start = (page.as_mut_ptr().expose_provenance() as u64).next_multiple_of(PAGE_SIZE);
        // SAFETY: leaked memory that nothing else refers to any more.
        let mut owned = unsafe { Owned::new(GpaRange::new(start, PAGE_SIZE).unwrap()) };
        assert!(owned.is_zero(start));
        owned.put_pattern(start, 3);
        assert!(owned.has_pattern(start, 3) && !owned.has_pattern(start, 4) && !owned.is_zero(start));
        owned.write(start + PAGE_SIZE - 8, 0);
        assert!(!owned.has_pattern(start, 3));
    }

    #[test]
    #[should_panic(expected = "not an aligned part")]
    fn outside_is_refused() {
        // SAFETY: nothing is accessed.
        let owned = unsafe { Owned::new(GpaRange::between(0x1000, 0x2000)) };
        owned.read(0x1ffc);
    }
}
