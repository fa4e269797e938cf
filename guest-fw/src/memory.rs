//! Guest-physical memory as Rust sees it: everything is mapped one to one.
//!
//! Owns the turning of addresses into references. What may be turned when is each function's contract.
#![expect(unsafe_code, reason = "firmware reaches memory by its physical address")]

use crate::range::GpaRange;
use core::arch::asm;
use core::mem::size_of;

/// The bytes of `range`, to read.
///
/// # Safety
///
/// The range is mapped, and nothing writes to it while the slice lives.
#[expect(clippy::cast_possible_truncation, reason = "the firmware is 64-bit code")]
pub unsafe fn bytes(range: GpaRange) -> &'static [u8] {
    let start = core::ptr::with_exposed_provenance(range.start() as usize);
    // SAFETY: the caller's promise; bytes have no invalid values and no alignment.
    unsafe { core::slice::from_raw_parts(start, range.len() as usize) }
}

/// The bytes of `range`.
///
/// # Safety
///
/// The range is mapped readable and writable, and nothing else uses it while the slice lives.
pub unsafe fn bytes_mut(range: GpaRange) -> &'static mut [u8] {
    // SAFETY: the caller's promise; bytes have no invalid values and no alignment.
    unsafe { slice_mut(range) }
}

/// `range` as so many values as fit.
///
/// # Safety
///
/// The range is mapped readable and writable, suitably aligned, holds valid values, and nothing else uses it while the
/// slice lives.
#[expect(clippy::cast_possible_truncation, reason = "the firmware is 64-bit code")]
pub unsafe fn slice_mut<T>(range: GpaRange) -> &'static mut [T] {
    let start = core::ptr::with_exposed_provenance_mut(range.start() as usize);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(start, range.len() as usize / size_of::<T>()) }
}

/// Copies `len` bytes from staging to private memory, by address, because staging can change at any time and so must
/// never be behind a reference.
///
/// # Safety
///
/// Both ranges are mapped, the target writable and unused by anything else, and they do not overlap.
pub unsafe fn copy_in(source: u64, target: u64, len: u64) {
    // Eight bytes at a time: the same speed on hardware, eight times faster where the instruction is emulated.
    // SAFETY: contract of this function; the direction flag is clear throughout the firmware.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rsi") source => _,
            inout("rdi") target => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies from staging into a value of the firmware's own.
///
/// # Safety
///
/// As many bytes as `target` has are mapped from `source`.
pub unsafe fn copy_into(source: u64, target: &mut [u8]) {
    let address = target.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the target is exclusively borrowed; the caller vouches for the source.
    unsafe { copy_in(source, address, target.len() as u64) }
}

#[cfg(test)]
mod tests;
