//! An Intel host: what `tenure check` says of it, and what of Debian's kernel is tried on it how often.

use anyhow::{Context, Result, ensure};
use tenure_lab::Command;

use crate::common::bed::{self, Bed, TENURE};
use crate::linux;
use test_harness::{Verdict, long};

/// It can run guests in private memory, and not in the guise, whose guests call by an instruction of AMD's.
pub(crate) fn check(bed: &mut Bed) -> Result<Verdict> {
    let host = bed.host()?;
    let report = bed::output(host, Command::new(TENURE).args(["check", "--json"]))?;
    let report: serde_json::Value = serde_json::from_str(&report).context("tenure check --json")?;
    ensure!(report["capable"] == true && report["auto"] == "sw", "{report}");
    ensure!(report["tees"]["sw"]["usable"] == true, "{}", report["tees"]["sw"]);
    let guise = &report["guises"]["sev"];
    let reasons = guise["findings"].as_array().context("findings")?;
    ensure!(guise["usable"] == false && reasons.iter().any(|finding| finding["id"] == "guise_cpu"), "{guise}");
    println!("  attempt 1 of 1: ok: {}", report["host"]);
    Ok(Verdict::Passed)
}

/// Debian's kernel with one vCPU, which the boot with two does all of and more: a minute that only long runs have.
pub(crate) fn debian_on_one_vcpu(bed: &mut Bed) -> Result<Verdict> {
    if !long() {
        return Ok(Verdict::Skipped { reason: "part of the long tests; the boot with two vCPUs is not".to_owned() });
    }
    linux::all_private(bed, 1)
}
