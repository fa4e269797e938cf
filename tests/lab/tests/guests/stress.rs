//! Conversions to and fro from several vCPUs at once, while virtio-console copies.

use std::io::Read;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tenure_lab::{Command, Host};

use crate::common::bed::{Bed, PEER};
use crate::common::vmm::Vmm;
use crate::linux;
use crate::memory::Cgroup;
use crate::selftest;
use crate::told::Trace;
use test_harness::{Verdict, long};

/// One sends over virtio-console while two convert; then all three convert.
const VCPUS: u32 = 3;
const CGROUP: &str = "conversions";
const SOCKET: &str = "/run/virtio-buffers";
/// Samples of memory use: their interval, and how many there must be for a judgement.
const INTERVAL: Duration = Duration::from_millis(100);
const SAMPLES_MIN: usize = 8;
/// Memory use may waver by the pages that are being converted and a little of the kernel's own. A page left behind by
/// each request would show: even of the short count half of them is more.
const NOISE: u64 = 3 << 20;
/// Said before the first conversion of the many.
const BEGIN: &str = "self-test: memory patterns done";

/// The same as [`converts`], 10,000 times on each vCPU.
pub(crate) fn converts_10000_times(bed: &mut Bed) -> Result<Verdict> {
    if !long() {
        return Ok(Verdict::Skipped { reason: "it takes minutes; TENURE_LONG_TESTS=1 asks for it".to_owned() });
    }
    converts(bed, 10_000, 50_000)
}

/// Converts to and fro `rounds` times on each vCPU, and compares what comes of it with the kernel's own trace.
pub(crate) fn converts(bed: &mut Bed, rounds: u32, buffers: u32) -> Result<Verdict> {
    let host = bed.host()?;
    let trace = Trace::start(host)?;
    let arguments = [
        "--tee=sw".to_owned(),
        "--memory=256M".to_owned(),
        format!("--vcpus={VCPUS}"),
        format!("--cmdline=rounds={rounds} virtio={buffers}"),
        format!("--virtio-console=unix:{SOCKET}"),
    ];
    let vmm = Vmm::start(host, &arguments, Some(CGROUP))?;
    let mut peer = host.spawn(Command::new(PEER).arg(SOCKET).arg(buffers.to_string()))?;
    vmm.wait_for(BEGIN, 1)?;
    let samples = sample(host, &vmm)?;
    let ended = vmm.wait()?;
    let mut said = String::new();
    peer.stdout.read_to_string(&mut said)?;
    let mut problem = String::new();
    peer.stderr.read_to_string(&mut problem)?;
    let checks = selftest::check(&ended, VCPUS)?;
    ensure!(peer.wait()?.success(), "the peer of virtio-console failed: {said}{problem}");
    ensure!(said.trim() == format!("{buffers} buffers"), "{said}");
    let told = trace.finish()?;

    let private = ended.pages("private")?;
    ensure!(
        private == told.private.len() as u64,
        "the ledger has {private} private pages, {} were told",
        told.private.len()
    );
    ensure!(told.idle_requests == 0, "{} of {} requests changed nothing", told.idle_requests, told.requests);
    let (to_shared, to_private) = linux::conversions(&ended)?;
    // The launch itself made all of RAM private.
    let at_launch = private + ended.pages("shared")?;
    for (counts, told) in [(to_shared, told.to_shared), (to_private, told.to_private - at_launch)] {
        let conversions = u64::from(VCPUS * rounds);
        ensure!(counts.requests >= conversions, "{} requests for {conversions} conversions", counts.requests);
        ensure!(counts.pages == told, "{} pages were converted, {told} were told", counts.pages);
    }
    for counter in ["refused", "broken rings"] {
        let count = ended.device("virtio-console", counter)?;
        ensure!(count == 0, "virtio-console counts {count} {counter}");
    }
    let (early, late) = halves(&samples)?;
    ensure!(late <= early + NOISE, "memory use rose from {early} to {late} bytes in {samples:?}");
    println!(
        "  attempt 1 of 1: ok: {checks} checks, {rounds} rounds on each of {VCPUS} vCPUs, {buffers} buffers of 4 KiB; \
         the kernel was told of {} pages to shared and {} to private in {} requests; memory use in the middle of the \
         first half {} KiB and of the second {} KiB, at most {} KiB, {} samples; everything after {:.1} s",
        told.to_shared,
        told.to_private,
        told.requests,
        early >> 10,
        late >> 10,
        samples.iter().max().copied().unwrap_or(0) >> 10,
        samples.len(),
        ended.total_ms() / 1000.0
    );
    Ok(Verdict::Passed)
}

/// Memory use until the end.
fn sample(host: &Host, vmm: &Vmm) -> Result<Vec<u64>> {
    let cgroup = Cgroup { host, name: CGROUP };
    let mut samples = Vec::new();
    while !vmm.has_ended() {
        samples.push(cgroup.number("memory.current")?);
        thread::sleep(INTERVAL);
    }
    // The last may be of the teardown.
    samples.pop();
    Ok(samples)
}

/// The median of each half: what is added for good stays, what comes and goes does not count.
fn halves(samples: &[u64]) -> Result<(u64, u64)> {
    ensure!(samples.len() >= SAMPLES_MIN, "only {} samples of memory use", samples.len());
    let (early, late) = samples.split_at(samples.len() / 2);
    let median = |half: &[u64]| {
        let mut half = half.to_vec();
        half.sort_unstable();
        half[half.len() / 2]
    };
    Ok((median(early), median(late)))
}
