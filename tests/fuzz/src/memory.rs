//! Memory that is held for an input: counted by every allocation of this process, and bounded.
//!
//! Owns the allocator and the bound. What libFuzzer and other threads hold is not counted: each thread counts its own.
#![expect(unsafe_code, reason = "an allocator is asked for memory by unsafe calls")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::Cost;

/// Held whatever the input is: a certificate's names, messages, numbers of 4096 bits; of a policy the tables that one line
/// can open, of which there are 80 at most, two bytes and more than a KiB each.
const BASE: usize = 128 << 10;
/// As above, where everything that belongs to evidence is read and checked.
const BASE_OF_EVIDENCE: usize = 512 << 10;
/// Held for each byte of the input: two of them may become a name of several words, or a level of a list.
const EACH: usize = 160;

/// What an input of this length may need.
#[must_use]
pub fn bound(cost: Cost, length: usize) -> usize {
    let base = match cost {
        Cost::Reading => BASE,
        Cost::Signatures => BASE_OF_EVIDENCE,
    };
    base + EACH * length
}

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The most that was held at once while this ran, beyond what was before.
pub fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    work();
    usize::try_from(PEAK.get() - before).unwrap_or_default()
}

fn count(bytes: isize) {
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

#[derive(Debug)]
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is the system's allocator's answer to the same question.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}
