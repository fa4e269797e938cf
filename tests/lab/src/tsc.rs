//! The frequency of the host's time stamp counter, measured.
//!
//! Owns: the measurement. QEMU without an instruction counter hands the host's counter through to
//! the emulated machine. Left alone, the Linux in there calibrates it against emulated timers,
//! which run late on a busy machine: it came out 0.05 % wrong in 2 of 12 boots, and exactly in
//! those two guests hung. Told the frequency, and without timers to doubt it by (no HPET, no PM
//! timer: Linux would "refine" the value it is told), all its clocks agree from the start.

use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const SPAN: Duration = Duration::from_millis(120);
const TRIES: usize = 25;

/// The counter's frequency in kHz, to a few parts per million.
///
/// `CLOCK_MONOTONIC_RAW` is the reference: nobody steers it while it is measured against.
#[must_use]
pub(crate) fn measure_khz() -> u64 {
    let (start_ticks, start_ns) = reading();
    thread::sleep(SPAN);
    let (end_ticks, end_ns) = reading();
    let span_ns = u128::from(end_ns.wrapping_sub(start_ns).max(1));
    let ticks = u128::from(end_ticks.wrapping_sub(start_ticks));
    u64::try_from((ticks * 1_000_000 + span_ns / 2) / span_ns).unwrap_or(u64::MAX)
}

/// Counter and clock at one instant: of several pairs the one least disturbed.
fn reading() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..TRIES {
        let before = ticks();
        let now = clock_gettime(ClockId::MonotonicRaw);
        let after = ticks();
        let took = after.wrapping_sub(before);
        if took < best.0 {
            let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
            let ns = u64::try_from(now.tv_nsec).unwrap_or(0);
            best = (took, before.wrapping_add(took / 2), seconds * 1_000_000_000 + ns);
        }
    }
    (best.1, best.2)
}

#[expect(unsafe_code, reason = "the instruction has no safe wrapper")]
fn ticks() -> u64 {
    // SAFETY: reading the counter touches no memory; user space may read it wherever Linux has
    // not been told to forbid that, and then the process ends by a signal.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (measure_khz(), measure_khz());
        assert!(first > 100_000, "{first} kHz");
        assert!(first.abs_diff(second) < first / 1000, "{first} and {second} kHz");
    }
}
