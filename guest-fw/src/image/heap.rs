//! The heap: memory is handed out from one end and never taken back, except the last piece.
//!
//! Enough for ACPI tables and descriptor tables; everything large lives at addresses of its own.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 128 << 10;

#[repr(C, align(4096))]
struct Heap {
    memory: UnsafeCell<[MaybeUninit<u8>; SIZE]>,
}

// SAFETY: the memory is only ever reached through ranges that `used` hands out once.
unsafe impl Sync for Heap {}

#[unsafe(link_section = ".noinit")]
static HEAP: Heap = Heap { memory: UnsafeCell::new([MaybeUninit::uninit(); SIZE]) };

struct Bump {
    used: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Bump = Bump { used: AtomicUsize::new(0) };

// SAFETY: ranges are aligned, inside the heap and, since `used` only moves by compare-and-swap, disjoint.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            // The heap is page aligned, so aligning the offset aligns the address of every layout up to a page.
            let start = used.next_multiple_of(layout.align());
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= SIZE && layout.align() <= 4096)
            else {
                return null_mut();
            };
            match self.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return HEAP.memory.get().cast::<u8>().wrapping_add(start),
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let offset = offset_of(start);
        // Only what was handed out last can be taken back.
        let _ = self.used.compare_exchange(offset + layout.size(), offset, Ordering::Relaxed, Ordering::Relaxed);
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let offset = offset_of(start);
        let grown = offset.saturating_add(new_size);
        let last = offset + layout.size();
        if grown <= SIZE && self.used.compare_exchange(last, grown, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return start;
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
        // SAFETY: a layout with the caller's non-zero size.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are at least this long, and disjoint.
            unsafe { core::ptr::copy_nonoverlapping(start, new, layout.size().min(new_size)) };
        }
        new
    }
}

/// Position in the heap of something it handed out.
fn offset_of(start: *mut u8) -> usize {
    start.addr() - HEAP.memory.get().addr()
}
