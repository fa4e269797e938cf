//! The `sleep` test.

use anyhow::ensure;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// How far clocks may be apart, in percent of the time slept. Wide, because an emulated host is slow and busy; a
/// clock that stands still, jumps or runs at another speed is far outside.
const TOLERANCE_PERCENT: u64 = 5;
const SLEEPS: usize = 2;
/// Tries to read all clocks at one moment.
const ATTEMPTS: u32 = 8;

/// Sleeps for a second twice and compares how much time passed by two clocks and the TSC.
pub(super) fn test() -> anyhow::Result<String> {
    let mut rates = Vec::new();
    let mut slept = Vec::new();
    for _ in 0..SLEEPS {
        let before = sample();
        std::thread::sleep(Duration::from_secs(1));
        let after = sample();
        let monotonic = after.monotonic.saturating_sub(before.monotonic);
        let raw = after.raw.saturating_sub(before.raw);
        ensure!(monotonic >= Duration::from_secs(1), "slept {monotonic:?} instead of a second");
        let apart = monotonic.abs_diff(raw);
        ensure!(
            apart * 100 <= monotonic * u32::try_from(TOLERANCE_PERCENT)?,
            "monotonic clock went {monotonic:?} while the raw clock went {raw:?}"
        );
        ensure!(after.tsc > before.tsc, "the TSC went from {} to {}", before.tsc, after.tsc);
        let khz = u128::from(after.tsc - before.tsc) * 1_000_000 / monotonic.as_nanos();
        rates.push(u64::try_from(khz)?);
        slept.push(monotonic.as_millis());
    }
    let (least, most) = (rates.iter().min().copied().unwrap_or(0), rates.iter().max().copied().unwrap_or(0));
    ensure!(
        (most - least) * 100 <= most * TOLERANCE_PERCENT,
        "the TSC ran at {least} kHz in one second and at {most} kHz in another"
    );
    Ok(format!("slept_ms {slept:?} tsc_khz {rates:?}"))
}

struct Sample {
    monotonic: Duration,
    raw: Duration,
    tsc: u64,
}

/// All three at one moment: of several tries the one that took least, because on a busy host the guest may stand still
/// between two of them for a tenth of a second.
fn sample() -> Sample {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let attempt = |_| {
        let begun = tsc();
        let (monotonic, raw) = (read(ClockId::Monotonic), read(ClockId::MonotonicRaw));
        let took = tsc().saturating_sub(begun);
        (took, Sample { monotonic, raw, tsc: begun + took / 2 })
    };
    let first = attempt(0);
    (1..ATTEMPTS).map(attempt).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
}

#[allow(unsafe_code, reason = "the TSC can only be read by its own instruction")]
fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux leaves it open to user space.
    unsafe { std::arch::x86_64::_rdtsc() }
}
