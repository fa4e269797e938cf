//! Starting the other processors and keeping them in step.
//!
//! Specification: Intel SDM vol. 3A §9.4.4 (INIT and start-up IPIs) and §11.12 (x2APIC); AMD64 APM vol. 2 §16.
#![expect(unsafe_code, reason = "starts processors in memory it prepares for them")]

use super::layout::{CPU_AREA, Layout};
use crate::abi::{AP_TRAMPOLINE, PAGE_SIZE};
use crate::descriptors::WAKE_VECTOR;
use crate::memory::bytes_mut;
use crate::range::GpaRange;
use crate::{boot, cpu};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use zerocopy::{Immutable, IntoBytes};

/// INIT, level asserted.
const INIT: u32 = 0x4500;
/// Start-up: execution begins at the vector's page in real mode.
const STARTUP: u32 = 0x4600;
const _: () = assert!(AP_TRAMPOLINE.is_multiple_of(PAGE_SIZE) && AP_TRAMPOLINE < 0x10_0000);
/// How long processors have to check in: generous, since the machine may be emulated and busy.
const PATIENCE_MS: u64 = 30_000;

/// What the trampoline needs to know; at [`PARAMETERS`] in its page. `image/trampoline.S` has the offsets.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct Parameters {
    /// Page tables, below 4 GiB.
    pub page_tables: u64,
    /// First processor's area.
    pub areas: u64,
    /// Bytes in an area; a processor's stack starts at its end.
    pub area_len: u64,
    /// Processors that may come.
    pub vcpus: u64,
    /// Where they go: a function of one argument, the x2APIC id.
    pub entry: u64,
}
/// Offset in the trampoline's page.
pub const PARAMETERS: usize = 0xf00;

/// Starts all processors but this one, from 1 to `vcpus` - 1. They arrive at `entry` on a stack of their own.
///
/// # Safety
///
/// The layout's areas and the trampoline's page are unused; the trampoline is code for real mode that does as
/// [`Parameters`] says.
pub unsafe fn start_all(machine: &boot::Machine, layout: &Layout, vcpus: u32, trampoline: &[u8], entry: u64) {
    let page = GpaRange::between(AP_TRAMPOLINE, AP_TRAMPOLINE + PAGE_SIZE);
    // SAFETY: contract of this function.
    let page = unsafe { bytes_mut(page) };
    assert!(trampoline.len() <= PARAMETERS, "the trampoline outgrew its page");
    page[..trampoline.len()].copy_from_slice(trampoline);
    let parameters = Parameters {
        page_tables: machine.page_tables,
        areas: layout.cpus.start(),
        area_len: CPU_AREA,
        vcpus: vcpus.into(),
        entry,
    };
    page[PARAMETERS..][..size_of::<Parameters>()].copy_from_slice(parameters.as_bytes());
    let vector = u32::try_from(AP_TRAMPOLINE / PAGE_SIZE).unwrap_or(0);
    for id in 1..vcpus {
        // SAFETY: the processor waits for this; it runs the trampoline, which the caller vouches for.
        unsafe { cpu::send_ipi(id, INIT) };
        // SAFETY: as above. A hypervisor needs neither the pause nor the second start-up IPI of real hardware.
        unsafe { cpu::send_ipi(id, STARTUP | vector) };
    }
}

/// Waits until `arrived` says so or patience ends; returns whether it did.
pub fn wait_for(tsc_khz: u32, arrived: impl Fn() -> bool) -> bool {
    let start = cpu::timestamp();
    let patience = PATIENCE_MS * u64::from(tsc_khz);
    while !arrived() {
        if cpu::timestamp().wrapping_sub(start) > patience {
            return false;
        }
        spin_loop();
    }
    true
}

/// A point that all processors reach before any goes on.
#[derive(Debug)]
pub struct Barrier {
    waiting: AtomicU32,
    generation: AtomicU32,
}

impl Barrier {
    /// Nobody is waiting.
    pub const fn new() -> Self {
        Self { waiting: AtomicU32::new(0), generation: AtomicU32::new(0) }
    }

    /// Waits until `count` processors, this one included, are here. Those that wait `sleep`, and the last to come calls
    /// `wake`; a `sleep` that returns early does no harm.
    pub fn wait(&self, count: u32, sleep: impl Fn(), wake: impl Fn()) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.waiting.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.waiting.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            wake();
            return;
        }
        while self.generation.load(Ordering::Acquire) == generation {
            sleep();
        }
    }
}

/// Ends the sleep of all processors below `count` but `me`.
pub fn wake_others(me: u32, count: u32) {
    /// Fixed delivery, edge triggered.
    const FIXED: u32 = 0x4000;
    for id in (0..count).filter(|id| *id != me) {
        // SAFETY: the vector has a gate on every processor, which acknowledges and returns.
        unsafe { cpu::send_ipi(id, FIXED | u32::from(WAKE_VECTOR)) };
    }
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn nobody_passes_a_barrier_before_all_are_there() {
        const THREADS: u32 = 4;
        let barrier = Barrier::new();
        let steps = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for round in 0..200 {
                        assert!(steps.load(Ordering::SeqCst) >= round * THREADS);
                        steps.fetch_add(1, Ordering::SeqCst);
                        barrier.wait(THREADS, std::thread::yield_now, || ());
                    }
                });
            }
        });
        assert_eq!(steps.load(Ordering::SeqCst), 200 * THREADS);
    }
}
