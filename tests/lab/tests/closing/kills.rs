//! SIGKILL at random moments: nothing of ours runs then, and what decides the order is the kernel, by the descriptors'
//! numbers.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use tenure_lab::Status;

use crate::bench::{Bench, self_test};
use crate::ends::start_linux;
use crate::vmm::{Program, Vmm};
use test_harness::{Verdict, long};

const SIGKILL: u32 = 9;
const KILLS: u32 = 12;
const KILLS_LONG: u32 = 100;
/// Repeats a series: the number it printed.
const SEED: &str = "TENURE_SEED";
/// Conversions to and fro of each processor in the firmware's self-test: they fill some seconds.
const ROUNDS: &str = "rounds=120";

/// A guest of some seconds.
struct Guest {
    what: &'static str,
    start: fn(&Bench) -> Result<Vmm>,
}

const GUESTS: [Guest; 2] = [
    Guest { what: "Linux boots", start: |bench| start_linux(bench, "tenure.test=memory:16") },
    Guest {
        what: "2 vCPUs convert",
        start: |bench| {
            let arguments = [&self_test()[..], &["--cmdline", ROUNDS, "--log", "off"]].concat();
            bench.start(Program::Tenure, &arguments)
        },
    },
];

/// xorshift64*, by Vigna.
struct Random(u64);

impl Random {
    /// Between 0 and 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let upper = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        f64::from(u32::try_from(upper).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

fn seed() -> Result<u64> {
    match std::env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("{SEED}={text} is not a number")),
        Err(_) => Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_secs()),
    }
}

/// What was there when a kill came.
#[derive(Debug, Default)]
struct Hits {
    before_a_vm: u32,
    without_pages: u32,
    with_pages: u32,
    too_late: u32,
}

/// One moment in each of as many parts of a run. Parts are shorter at the beginning, where a VM is put together.
fn moments(random: &mut Random, count: u32, whole: Duration) -> Vec<Duration> {
    let mut moment = |part| {
        let part = (f64::from(part) + random.fraction()) / f64::from(count);
        whole.mul_f64(part * part)
    };
    (0..count).map(&mut moment).collect()
}

fn kill(bench: &Bench, guest: &Guest, moments: &[Duration]) -> Result<Hits> {
    let mut hits = Hits::default();
    for moment in moments {
        let check = || -> Result<_> {
            let vmm = (guest.start)(bench)?;
            thread::sleep(*moment);
            vmm.kill(SIGKILL)?;
            bench.finish(vmm)
        };
        let (ended, lives) = check().with_context(|| format!("killed after {} us", moment.as_micros()))?;
        *match ended.status {
            Status::Signaled(SIGKILL) if lives.0.is_empty() => &mut hits.before_a_vm,
            Status::Signaled(SIGKILL) if lives.guest_memfds() == 0 => &mut hits.without_pages,
            Status::Signaled(SIGKILL) => &mut hits.with_pages,
            _ => &mut hits.too_late,
        } += 1;
    }
    Ok(hits)
}

/// pages-before-key: killed at any moment, from before there is a VM to after the guest's end, pages go before the VM.
pub(crate) fn at_random_moments(bench: &mut Bench) -> Result<Verdict> {
    let seed = seed()?;
    println!("moments: {SEED}={seed} repeats them");
    // Zero is the one state the generator cannot leave.
    let mut random = Random(seed.max(1));
    let kills = if long() { KILLS_LONG } else { KILLS };
    let mut with_pages = 0;
    for guest in GUESTS {
        let began = Instant::now();
        bench.finish((guest.start)(bench)?)?.0.check_code(0)?;
        let whole = began.elapsed();
        let moments = moments(&mut random, kills / 2, whole);
        let hits = kill(bench, &guest, &moments).context(guest.what)?;
        println!("{}: {} kills within {} ms: {hits:?}", guest.what, moments.len(), whole.as_millis());
        with_pages += hits.with_pages;
    }
    // With few of them nothing would have been shown. How many there are depends on how evenly a busy machine runs.
    ensure!(with_pages * 4 >= kills, "only {with_pages} of {kills} kills hit a VM with pages");
    Ok(Verdict::Passed)
}
