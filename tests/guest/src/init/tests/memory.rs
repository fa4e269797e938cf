//! The `memory` test.

use crate::init::facts;
use anyhow::{Context, bail, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::thread;

const PAGE_SIZE: usize = 4096;
const WORDS_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();
const DEFAULT_MAX_MIB: u64 = 64;
/// Verifications, each on the next CPU.
const ROUNDS: usize = 2;

/// Fills `mib` MiB with a pattern unique to each page, an equal share on each CPU, and verifies every share on
/// other CPUs than the one that wrote it, if there are others.
pub(super) fn test(mib: Option<u64>) -> anyhow::Result<String> {
    let mib = mib.unwrap_or((facts::memory_available_kib() / 1024 / 2).clamp(1, DEFAULT_MAX_MIB));
    let pages = usize::try_from(mib).ok().and_then(|mib| mib.checked_mul((1 << 20) / PAGE_SIZE));
    let pages = pages.filter(|pages| *pages > 0).with_context(|| format!("{mib} MiB is not a size of memory"))?;
    let cpus = facts::cpus();
    let words = pages * WORDS_PER_PAGE;
    let mut memory: Vec<u64> = Vec::new();
    memory.try_reserve_exact(words).with_context(|| format!("allocating {mib} MiB"))?;
    memory.resize(words, 0);
    let share = pages.div_ceil(cpus.len()) * WORDS_PER_PAGE;

    thread::scope(|scope| {
        let writers: Vec<_> = (memory.chunks_mut(share).zip(&cpus).enumerate())
            .map(|(number, (chunk, cpu))| {
                scope.spawn(move || {
                    pin(*cpu)?;
                    for (at, word) in chunk.iter_mut().enumerate() {
                        *word = pattern(number * share + at);
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        join(writers)
    })?;
    for round in 1..=ROUNDS {
        let verifiers = cpus.iter().cycle().skip(round);
        thread::scope(|scope| {
            let readers: Vec<_> = (memory.chunks(share).zip(verifiers).enumerate())
                .map(|(number, (chunk, cpu))| {
                    scope.spawn(move || {
                        pin(*cpu)?;
                        verify(chunk, number * share).with_context(|| format!("round {round}, CPU {cpu}"))
                    })
                })
                .collect();
            join(readers)
        })?;
    }
    Ok(format!("mib {mib} pages {pages} cpus {}", cpus.len()))
}

fn join(threads: Vec<thread::ScopedJoinHandle<'_, anyhow::Result<()>>>) -> anyhow::Result<()> {
    threads.into_iter().try_for_each(|thread| match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread panicked"),
    })
}

fn verify(words: &[u64], first: usize) -> anyhow::Result<()> {
    for (at, word) in words.iter().enumerate() {
        let expected = pattern(first + at);
        ensure!(
            *word == expected,
            "page {} of the test has {word:#x} instead of {expected:#x} at offset {:#x}",
            (first + at) / WORDS_PER_PAGE,
            (first + at) % WORDS_PER_PAGE * size_of::<u64>()
        );
    }
    Ok(())
}

/// A value for each word that no other word has: multiplication by an odd number is a bijection.
fn pattern(word: usize) -> u64 {
    (word as u64 ^ 0x7465_6e75_7265_0000).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    ensure!(cpu < CpuSet::MAX_CPU, "CPU {cpu} is beyond what a CPU set holds");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("moving to CPU {cpu}"))
}
