//! Free memory of the lab host.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tenure_lab::Host;

use crate::bench::{Bench, self_test};
use crate::vmm::Program;
use test_harness::Verdict;

/// Samples of free memory, of which the best counts: what somebody uses for a moment is no leak.
const SAMPLES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(300);
/// How long memory may take to come back. The kernel frees some of it late, and keeps megabytes of freed pages on its
/// processors' own lists, whose length it adapts within seconds (`decay_pcp_high`). What leaks never comes back,
/// however long one waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// What may be missing in the end. Pages that processors keep ready and slabs that are not full come and go by some
/// 2 MiB on a host of two processors. The default guest touches several times as much by unpacking its kernel, so that
/// one VM whose pages were not freed is noticed.
const NOISE_KB: u64 = 4096;

/// Kilobytes that are free, caches dropped.
pub(crate) fn free_kb(host: &Host) -> Result<u64> {
    let mut best = 0;
    for _ in 0..SAMPLES {
        best = best.max(sample(host)?);
    }
    Ok(best)
}

/// The same, as soon as no more than noise is missing of `before`; the best of all samples if that does not happen.
fn free_again_kb(host: &Host, before: u64) -> Result<u64> {
    let started = Instant::now();
    let mut best = free_kb(host)?;
    while best + NOISE_KB < before && started.elapsed() < PATIENCE {
        best = best.max(sample(host)?);
    }
    Ok(best)
}

fn sample(host: &Host) -> Result<u64> {
    thread::sleep(BETWEEN);
    host.write("/proc/sys/vm/drop_caches", "3")?;
    let text = host.read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no MemAvailable")?;
    number.parse().context("MemAvailable")
}

/// Guests that are run only to see whether they leave something: what one leaves and noise would hide is ten times as
/// much then.
const GUESTS: u32 = 10;

/// pages-before-key: after everything that was done to guests here the host's free memory is back, and more of them
/// change nothing.
pub(crate) fn is_back(bench: &mut Bench) -> Result<Verdict> {
    let before = bench.free_before_kb;
    let after = free_again_kb(&bench.host, before)?;
    for _ in 0..GUESTS {
        bench.run(Program::Tenure, &self_test())?.check_code(0)?;
    }
    let later = free_again_kb(&bench.host, after)?;
    println!("free memory: {before} kB before all cases, {after} kB after, {later} kB after {GUESTS} guests more");
    ensure!(after + NOISE_KB >= before, "{} kB are missing", before.saturating_sub(after));
    ensure!(later + NOISE_KB >= after, "{} kB are missing after {GUESTS} guests", after.saturating_sub(later));
    Ok(Verdict::Passed)
}
