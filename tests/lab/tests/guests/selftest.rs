//! The firmware's self-test: memory patterns, conversions to and fro and refusals on all vCPUs, without Linux.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use ruzstd::decoding::StreamingDecoder;
use serde_json::Value;
use tenure::report::GuestOutcome;
use tenure_lab::Command;

use crate::common::bed::{Bed, FPU_RESTORES, TENURE, output};
use crate::common::vmm::{Ended, Vmm};
use test_harness::Verdict;

const BESIDE_FLOATING_POINT: u32 = 5;

/// Runs the self-test with these arguments of `tenure run`.
pub(crate) fn passes(bed: &mut Bed, vcpus: u32, arguments: &[&str]) -> Result<Verdict> {
    let mut all = vec!["--tee=sw".to_owned(), format!("--vcpus={vcpus}")];
    all.extend(arguments.iter().map(|&argument| argument.to_owned()));
    let ended = Vmm::start(bed.host()?, &all, None)?.wait()?;
    let checks = check(&ended, vcpus)?;
    println!("  attempt 1 of 1: ok: {checks} checks, everything after {:.1} s", ended.total_ms() / 1000.0);
    Ok(Verdict::Passed)
}

/// Self-tests on processor 0 while processor 1 restores FPU state all the time: a
/// fault of the emulator that ended one guest in twenty (correction 0007 in `qemu/`) would end nearly every one of these.
pub(crate) fn survives_floating_point_elsewhere(bed: &mut Bed) -> Result<Verdict> {
    let host = bed.host()?;
    for attempt in 1..=BESIDE_FLOATING_POINT {
        let self_test = [TENURE, "run", "--tee", "sw", "--cmdline", "rounds=100"];
        let output = host.run(Command::new(FPU_RESTORES).args(self_test))?;
        ensure!(output.status.success(), "attempt {attempt}: {}: {}", output.status, output.stderr_text());
    }
    println!("  {BESIDE_FLOATING_POINT} of {BESIDE_FLOATING_POINT} ok");
    Ok(Verdict::Passed)
}

/// `tenure selftest`: guests of the real KVM pass all that can be checked of them, and the bundle says so.
pub(crate) fn of_the_host(bed: &mut Bed) -> Result<Verdict> {
    const BUNDLE: &str = "/tmp/bundle.tar.zst";
    let host = bed.host()?;
    let arguments = ["selftest", "--tee=sw", "--vcpus=2", "--launches=2", "--memory=64M", "--json", "--bundle", BUNDLE];
    let found: Value = serde_json::from_str(&output(host, Command::new(TENURE).args(arguments))?)?;
    let results = &found["results"];
    let cases = results["cases"].as_array().context("no cases")?;
    let ids: Vec<_> = cases.iter().filter_map(|case| case["id"].as_str()).collect();
    ensure!(ids == ["guest", "vcpus", "conversions", "again", "host"], "{ids:?}");
    let totals = &results["totals"];
    ensure!(totals["failed"] == 0 && totals["not_run"] == 0, "{results:#}");

    let packed = host.get_file(BUNDLE)?;
    let mut archive = tar::Archive::new(StreamingDecoder::new(packed.as_slice())?);
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        files.insert(name, text);
    }
    let file = |name: &str| files.get(&format!("tenure-selftest/{name}")).with_context(|| format!("no {name}"));
    let packed: Value = serde_json::from_str(file("results.json")?)?;
    ensure!(packed == *results, "the bundle says otherwise: {packed:#}");
    ensure!(file("cases/vcpus/console.txt")?.contains("self-test: 2 vcpus, "), "no console in the bundle");
    ensure!(file("cases/guest/summary.txt")?.contains("self-test"), "no summary in the bundle");
    ensure!(file("kernel-log.txt")?.contains("kvm"), "no kernel's log in the bundle");
    println!("  {totals}");
    Ok(Verdict::Passed)
}

/// What every self-test must come to; returns how many checks it made.
pub(crate) fn check(ended: &Ended, vcpus: u32) -> Result<u64> {
    ended.check_clean(&GuestOutcome::SelfTest { failed_checks: 0 })?;
    let prefix = format!("self-test: {vcpus} vcpus, ");
    let verdict = ended.console.iter().find_map(|line| Some(line.split_once(&prefix)?.1));
    let verdict = verdict.with_context(|| format!("no verdict of {vcpus} vCPUs\n{}", ended.tail()))?;
    let checks = verdict.strip_suffix(" checks, 0 failed").and_then(|checks| checks.parse().ok());
    let checks = checks.with_context(|| format!("verdict {verdict:?}\n{}", ended.tail()))?;
    ensure!(checks > 0, "nothing was checked");
    // It gives back everything it shares. A device that reached a page after its conversion began would have brought
    // back that page of the shared alias.
    ensure!(ended.pages("shared")? == 0, "{:?}", ended.receipt()?.pages);
    let (_, alias) = ended.resident_pages()?;
    ensure!(alias == 0, "{alias} pages of the shared alias take memory, and none is shared");
    Ok(checks)
}
