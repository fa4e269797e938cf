//! The kernels at hand answer as the model says: this host's own, and the lab's on both beds, of which one is the newest
//! that the archive has. Short random runs; `TENURE_LONG_TESTS=1` makes them long.

use std::path::Path;
use std::process::{Command as LocalCommand, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_conformance::report::Results;
use tenure_lab::progress::Plain;
use tenure_lab::{Bed, BootOptions, Command, Kernel, Lab, Options, Target};
use test_harness::{Case, Verdict, long};

const CASES: [Case<()>; 4] = [
    Case { name: "this_hosts_kernel", run: |()| this_host() },
    Case { name: "distributions_kernel_on_amd", run: |()| lab(Bed::Amd, Kernel::Newest, 5_000, 200_000) },
    Case { name: "distributions_kernel_on_intel", run: |()| lab(Bed::Intel, Kernel::Newest, 1_200, 2_000) },
    Case { name: "newest_kernel_of_all_on_amd", run: |()| lab(Bed::Amd, Kernel::named("sid/"), 5_000, 200_000) },
];

fn main() -> ExitCode {
    test_harness::main(&CASES, || Ok(()), |()| {})
}

/// Any KVM has VMs of the kind "plain", and most machines that run tests have no other.
fn this_host() -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped { reason: "this host has no /dev/kvm".to_owned() });
    }
    let scratch = tempfile::tempdir()?;
    let json = scratch.path().join("results.json");
    let output = LocalCommand::new(env!("CARGO_BIN_EXE_tenure-conformance"))
        .args(["--ops", &operations(20_000, 200_000), "--json"])
        .arg(&json)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    judge(&std::fs::read(&json).context(said.clone())?, &said, 5)
}

fn lab(bed: Bed, kernel: Kernel, short: u32, many: u32) -> Result<Verdict> {
    let mut progress = Plain::new(std::io::stderr());
    let lab = Lab::provision(&Options { bed, kernel, ..Options::default() }, &mut progress)?;
    let program = Target::Bin("tenure-conformance".to_owned());
    let program = lab.build_static("tenure-conformance", &program, &mut progress)?;
    let extra_files = vec![(program, "/bin/conformance".to_owned())];
    let host = lab.boot(&BootOptions { extra_files, ..BootOptions::for_bed(bed) })?;
    let command = Command::new("/bin/conformance")
        .args(["--bed", &format!("lab-{bed}"), "--json", "/tmp/results.json", "--ops", &operations(short, many)])
        .args(["--patience", &bed.patience().as_secs_f64().to_string()])
        .deadline(Duration::from_secs(3600));
    let output = host.run(command)?;
    let said = output.stdout_text() + &output.stderr_text();
    judge(&host.get_file("/tmp/results.json").context(said.clone())?, &said, 40)
}

fn operations(short: u32, many: u32) -> String {
    if long() { many } else { short }.to_string()
}

/// Nothing is unexplained, and enough was asked.
fn judge(json: &[u8], said: &str, cases_at_least: usize) -> Result<Verdict> {
    let results: Results = serde_json::from_slice(json).context("results")?;
    ensure!(results.is_good(), "{said}");
    let [passed, differ, failed, skipped] = results.counts();
    ensure!(passed + differ >= cases_at_least, "only {passed} cases passed and {differ} differ: {said}");
    let operations = results.random.map_or(0, |random| random.operations);
    ensure!(operations > 1000, "only {operations} random operations: {said}");
    println!(
        "  Linux {}: {passed} cases passed, {differ} differ for a known reason, {failed} failed, {skipped} skipped; \
         {operations} random operations, none unexplained",
        results.identity.release
    );
    Ok(Verdict::Passed)
}
