//! Whole processes: `tenure attest verify` against what can be installed of other tools.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use attest::snp::Report;

use crate::{Contender, PROCESS_ROUNDS, contender, goal, race, vector};

/// Tools of attestation that people use, and that this does not install: go-sev-guest's and go-tdx-guest's `check`, Intel's
/// verification library. They are written in other languages, and not packaged.
const NOT_HERE: &str = "go-sev-guest, go-tdx-guest and Intel's QVL are not here to compare with";
const OTHER: &str = "snpguest";
const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;
/// Rows of a table, the one that ends it included.
const ROWS: u32 = 3 * 24;

/// `tools` is where others are installed.
pub(crate) fn compare(tools: Option<&Path>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = |name: &str| directory.path().join(name);
    let report = vector("snp/attest/real/genoa-v3-ms.report")?;
    let (vek, ask) = (vector("snp/attest/real/genoa-v3-ms.vek.der")?, vector("snp/attest/amd/ask-genoa.der")?);
    fs::write(place("report.bin"), &report)?;
    fs::write(place("vcek.der"), &vek)?;
    fs::write(place("ask.der"), &ask)?;
    fs::write(
        place("ark.der"),
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attest/roots/amd/ark-genoa.der"))?,
    )?;
    fs::write(place("table"), table(&vek, &ask)?)?;
    let digest: String = Report::parse(&report)?.measurement().iter().map(|byte| format!("{byte:02x}")).collect();

    let tenure = env::current_exe()?.with_file_name("tenure");
    let other = tools.map_or_else(|| OTHER.into(), |tools| tools.join(OTHER));
    let is_there = match Command::new(&other).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        status => status?.success(),
    };
    let certificates = || run(Command::new(&other).args(["verify", "certs"]).arg(directory.path()));
    let attestation =
        || run(Command::new(&other).args(["verify", "attestation"]).arg(directory.path()).arg(place("report.bin")));
    let mut contenders = vec![
        contender("tenure --version: a process that begins and ends", || run(Command::new(&tenure).arg("--version"))),
        contender("tenure attest verify, all checks and a policy", || {
            let mut ours = Command::new(&tenure);
            ours.args(["attest", "verify", "--now", "2026-06-01T00:00:00Z", "--launch-digest", &digest, "--report"]);
            run(ours.arg(place("report.bin")).arg("--certificates").arg(place("table")))
        }),
    ];
    if is_there {
        contenders.push(contender("snpguest verify certs, then verify attestation", || {
            certificates()?;
            attestation()
        }));
        contenders.push(contender("snpguest verify attestation alone: no chain", attestation));
    }
    measured(&contenders)
}

fn measured(contenders: &[Contender<'_>]) -> Result<()> {
    let times = race("SNP report of a real Genoa, as processes over files", PROCESS_ROUNDS, contenders)?;
    match times[..] {
        [_, ours, both, alone] => {
            goal("the whole job", ours.against(both), 3.0);
            goal("the whole job against the report's signature and versions alone", ours.against(alone), 3.0);
        }
        _ => println!("    {OTHER} is not here to compare with"),
    }
    println!("    {NOT_HERE}");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// The certificates as a host gives them.
fn table(vek: &[u8], ask: &[u8]) -> Result<Vec<u8>> {
    let mut rows = Vec::new();
    let mut offset = ROWS;
    for (guid, certificate) in [(VCEK, vek), (ASK, ask)] {
        let length = u32::try_from(certificate.len())?;
        rows.extend([&guid.to_be_bytes()[..], &offset.to_le_bytes(), &length.to_le_bytes()].concat());
        offset = offset.checked_add(length).ok_or_else(|| anyhow!("certificates are too long"))?;
    }
    rows.extend([0; 24]);
    Ok([&rows, vek, ask].concat())
}
