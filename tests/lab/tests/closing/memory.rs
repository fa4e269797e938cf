//! Memory of the lab host.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tenure_lab::Host;

use crate::bench::{Bench, self_test};
use crate::vmm::Program;
use test_harness::Verdict;

/// Samples, of which the one with the least in use counts: what somebody uses for a moment is no leak.
const SAMPLES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(300);
/// How long memory may take to come back: the kernel frees some of it late. What leaks never comes back, however long
/// one waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// What may be missing in the end. The default guest touches several times as much by unpacking its kernel, so that one
/// VM whose pages were not freed is noticed.
const NOISE_KB: u64 = 4096;
/// Changes of a field of `/proc/meminfo` that a message tells.
const WORTH_TELLING_KB: u64 = 256;
/// What `/proc/meminfo` says the kernel uses for itself and knows the purpose of: slabs, stacks and tables that it
/// keeps for what may come, which depends on what else ran. No page of a guest is ever among them.
const OF_THE_KERNEL: [&str; 5] = ["Slab", "KernelStack", "PageTables", "Percpu", "VmallocUsed"];

/// How memory is used at one moment, in kilobytes, caches dropped.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    /// Nobody's, including the pages that the kernel's processors keep on lists of their own.
    free: u64,
    /// The kernel's own, see [`OF_THE_KERNEL`].
    of_the_kernel: u64,
    /// All other: files (a guest_memfd is one), processes, KVM's tables, and what has no name any more, as a page that is
    /// only pinned.
    other: u64,
    /// All of `/proc/meminfo`, to say what changed.
    fields: BTreeMap<String, u64>,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, of_the_kernel, other, .. } = self;
        write!(f, "{other} kB in use, {of_the_kernel} kB of the kernel, {free} kB free")
    }
}

impl Memory {
    /// The best of several samples.
    pub(crate) fn of(host: &Host) -> Result<Self> {
        let mut best = Self::sample(host)?;
        for _ in 1..SAMPLES {
            best = best.better(Self::sample(host)?);
        }
        Ok(best)
    }

    /// The same, as soon as no more than noise is in use beyond `before`; the best of all samples if that does not happen.
    fn again(host: &Host, before: &Self) -> Result<Self> {
        let started = Instant::now();
        let mut best = Self::of(host)?;
        while best.missing(before) > NOISE_KB && started.elapsed() < PATIENCE {
            best = best.better(Self::sample(host)?);
        }
        Ok(best)
    }

    fn sample(host: &Host) -> Result<Self> {
        thread::sleep(BETWEEN);
        host.write("/proc/sys/vm/drop_caches", "3")?;
        let meminfo = host.read_to_string("/proc/meminfo")?;
        let fields = meminfo.lines().filter_map(|line| line.split_once(':'));
        let fields: BTreeMap<String, u64> =
            fields.filter_map(|(name, value)| Some((name.to_owned(), number(value)?))).collect();
        let field = |name: &str| fields.get(name).copied().with_context(|| format!("no {name} in /proc/meminfo"));
        let zones = host.read_to_string("/proc/zoneinfo")?;
        let on_lists: u64 =
            zones.lines().filter_map(|line| line.trim().strip_prefix("count:")).filter_map(number).sum();
        let free = field("MemFree")? + on_lists * 4;
        let of_the_kernel = OF_THE_KERNEL.iter().map(|name| field(name)).sum::<Result<u64>>()?;
        let other = field("MemTotal")?.saturating_sub(free + of_the_kernel);
        Ok(Self { free, of_the_kernel, other, fields })
    }

    fn better(self, than: Self) -> Self {
        if self.other < than.other { self } else { than }
    }

    /// Kilobytes in use now that were not before.
    fn missing(&self, before: &Self) -> u64 {
        self.other.saturating_sub(before.other)
    }

    /// That no more than noise is missing.
    fn check(&self, before: &Self) -> Result<()> {
        let changed = self.fields.iter().filter_map(|(name, now)| Some((name, now, before.fields.get(name)?)));
        let changed = changed.filter(|(_, now, then)| now.abs_diff(**then) >= WORTH_TELLING_KB);
        let changed: Vec<String> = changed.map(|(name, now, then)| format!("{name} {then} -> {now}")).collect();
        let missing = self.missing(before);
        ensure!(missing <= NOISE_KB, "{missing} kB are missing: {}", changed.join(", "));
        Ok(())
    }
}

fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Guests that are run only to see whether they leave something: what one leaves and noise would hide is ten times as
/// much then.
const GUESTS: u32 = 10;

/// pages-before-key: after everything that was done to guests here the host's memory is back, and more of them change
/// nothing.
pub(crate) fn is_back(bench: &mut Bench) -> Result<Verdict> {
    let before = bench.memory_before.clone();
    let after = Memory::again(&bench.host, &before)?;
    for _ in 0..GUESTS {
        bench.run(Program::Tenure, &self_test())?.check_code(0)?;
    }
    let later = Memory::again(&bench.host, &after)?;
    println!("before all cases {before}");
    println!("after them {after}");
    println!("after {GUESTS} guests more {later}");
    after.check(&before).context("after all cases")?;
    later.check(&after).context("after more guests")?;
    Ok(Verdict::Passed)
}
