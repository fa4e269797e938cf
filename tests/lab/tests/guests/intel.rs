//! An Intel host: what `tenure check` says of it.

use anyhow::{Context, Result, ensure};
use tenure_lab::Command;

use crate::common::bed::{self, Bed, TENURE};
use test_harness::Verdict;

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
