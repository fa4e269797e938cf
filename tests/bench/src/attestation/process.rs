//! Whole processes: `tenure attest verify` against what can be installed of other tools, over the same files.
//!
//! Owns what each is asked, and which of ours's checks it makes. A tool that is not here is said to be not run, with what is
//! known of why. None is asked for anything that needs a network.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use attest::snp::Report;

use crate::{Contender, PROCESS_ROUNDS, Times, contender, goal, race, vector};

/// How many times faster a whole process is to be.
const GOAL: f64 = 3.0;
/// What does nothing.
const FLOOR: &str = "/bin/true";
/// Tools that nobody can run here, and why.
const NOT_FOR_REPORTS: [(&str, &str); 0] = [];
const NOT_FOR_QUOTES: [(&str, &str); 2] = [
    (
        "dcap-qvl-cli",
        "asks a service for what Intel publishes and a clock for the moment, and what is published about a quote that others \
         can have ended long ago; a process over its library stands in for it",
    ),
    ("Intel's QVL", "is in no package registry"),
];
const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;
const ARK: u128 = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae;
/// A row of a table.
const ROW_BYTES: usize = 24;

/// A program to compare with.
struct Tool<'a> {
    name: &'a str,
    /// Nothing if it is not here.
    program: Option<PathBuf>,
    /// What of ours's checks it makes.
    checks: &'a str,
    arguments: Vec<Vec<String>>,
}

/// `tools` are directories in which others may be.
pub(crate) fn compare(tools: &[PathBuf]) -> Result<()> {
    reports(tools)?;
    quotes(tools)
}

fn reports(tools: &[PathBuf]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = |name: &str| directory.path().join(name).display().to_string();
    let report = vector("snp/attest/real/milan-v3-ms.report")?;
    let (vek, ask) = (vector("snp/attest/real/milan-v3-ms.vek.der")?, vector("snp/attest/amd/ask-milan.der")?);
    let ark = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attest/roots/amd/ark-milan.der"))?;
    let with_table = [&report[..], &table(&[(VCEK, &vek), (ASK, &ask), (ARK, &ark)])?].concat();
    let ours = table(&[(VCEK, &vek), (ASK, &ask)])?;
    let policy = b"preset = \"strict\"\nallow = [\"smt\"]\n\n[products.milan]\n";
    for (name, bytes) in [
        ("report.bin", &report[..]),
        ("vcek.der", &vek),
        ("ask.der", &ask),
        ("ark.der", &ark),
        ("extended.bin", &with_table),
        ("certificates", &ours),
        ("policy.toml", policy),
    ] {
        fs::write(place(name), bytes)?;
    }
    let digest = Report::parse(&report)?.measurement().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (now, files) = ("2026-06-01T00:00:00Z", directory.path().display().to_string());
    let tenure = [
        ["attest", "verify", "--now", now, "--launch-digest", &digest].map(str::to_owned).to_vec(),
        ["--report", &place("report.bin"), "--certificates", &place("certificates")].map(str::to_owned).to_vec(),
        ["--policy", &place("policy.toml")].map(str::to_owned).to_vec(),
    ];
    let alone = words(&["verify", "attestation", &files, &place("report.bin")]);
    let go = ["-inform", "bin", "-network", "false", "-check_crl", "false", "-guest_policy", "0x30000", "-in"];
    let others = [
        Tool {
            name: "snpguest 0.11.0, certs and attestation",
            program: found(tools, "snpguest"),
            checks: "signatures and versions; no dates, no anchor of its own, no policy",
            arguments: vec![words(&["verify", "certs", &files]), alone.clone()],
        },
        Tool {
            name: "snpguest 0.11.0, attestation alone",
            program: found(tools, "snpguest"),
            checks: "the report's signature and versions; no chain",
            arguments: vec![alone],
        },
        Tool {
            name: "go-sev-guest 0.13.0, check",
            program: found(tools, "go-sev-guest-check"),
            checks: "signatures, dates, versions, a policy",
            arguments: vec![words(&[&go[..], &[&place("extended.bin")]].concat())],
        },
        Tool {
            name: "a process over the crate sev 8.0.0",
            program: found_beside("others"),
            checks: "signatures",
            arguments: vec![words(&["sev", &place("report.bin"), &place("vcek.der"), &place("ask.der")])],
        },
    ];
    let title = "SNP report of a real Milan, as processes over files: no list of revoked certificates";
    run_all(title, &tenure.concat(), &others, &NOT_FOR_REPORTS)
}

fn quotes(tools: &[PathBuf]) -> Result<()> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/tdx/attest/real");
    let place = |name: &str| vectors.join(name).display().to_string();
    let (quote, collateral) = (place("v4-uptodate-phala.quote"), place("v4-uptodate-phala.collateral.json"));
    let guest = attest::tdx::Quote::parse(&fs::read(&quote)?)?
        .mr_td()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let now = "2025-06-25T00:00:00Z";
    let tenure =
        words(&["attest", "verify", "--now", now, "--quote", &quote, "--collateral", &collateral, "--mrtd", &guest]);
    let go = ["-inform", "bin", "-get_collateral", "false", "-check_crl", "false", "-in", &quote];
    let others = [
        Tool {
            name: "a process over the crate dcap-qvl 0.7.1",
            program: found_beside("others"),
            checks: "nearly all, over ring",
            arguments: vec![words(&["dcap-qvl", &quote, &collateral])],
        },
        Tool {
            name: "go-tdx-guest 0.3.1, check",
            program: found(tools, "go-tdx-guest-check"),
            checks: "quote and chain; nothing that Intel publishes",
            arguments: vec![words(&go)],
        },
    ];
    let title = "TDX quote of a real platform, as processes over files";
    run_all(title, &tenure, &others, &NOT_FOR_QUOTES)
}

/// Runs ours and those of the others that are here in turn.
fn run_all(title: &str, arguments: &[String], others: &[Tool<'_>], never: &[(&str, &str)]) -> Result<()> {
    let tenure = found_beside("tenure").context("tenure is not beside this program")?;
    let version = [words(&["--version"])];
    let here: Vec<_> = others.iter().filter_map(|tool| Some((tool, tool.program.as_ref()?))).collect();
    let ours = [arguments.to_vec()];
    let floor = PathBuf::from(FLOOR);
    let mut contenders: Vec<Contender<'_>> = vec![
        contender("/bin/true: the least that a process takes", || run(&floor, &[Vec::new()])),
        contender("tenure --version: a process that begins and ends", || run(&tenure, &version)),
        contender("tenure attest verify: everything, and a policy", || run(&tenure, &ours)),
    ];
    for (tool, program) in &here {
        contenders.push(contender(tool.name, || run(program, &tool.arguments)));
    }
    let times = race(title, PROCESS_ROUNDS, &contenders)?;
    let [_, _, ours, theirs @ ..] = &times[..] else { return Err(anyhow!("a contender is missing")) };
    for ((tool, _), theirs) in here.iter().zip(theirs) {
        goal(tool.name, Times::against(*ours, *theirs), GOAL);
        println!("        which checks {}", tool.checks);
    }
    for tool in others.iter().filter(|tool| tool.program.is_none()) {
        println!("    {}: not run: it is not installed here", tool.name);
    }
    for (name, why) in never {
        println!("    {name}: not run: it {why}");
    }
    Ok(())
}

fn run(program: &Path, calls: &[Vec<String>]) -> Result<()> {
    for arguments in calls {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        // Reading what it says is no work of its.
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !status.with_context(|| format!("{command:?}"))?.success() {
            let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
            let said = [output.stdout, output.stderr].concat();
            bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&said));
        }
    }
    Ok(())
}

fn found(directories: &[PathBuf], name: &str) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn found_beside(name: &str) -> Option<PathBuf> {
    env::current_exe().ok().map(|path| path.with_file_name(name)).filter(|path| path.is_file())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Certificates as a host gives them.
fn table(certificates: &[(u128, &[u8])]) -> Result<Vec<u8>> {
    let (mut rows, mut contents) = (Vec::new(), Vec::new());
    let start = ROW_BYTES * (certificates.len() + 1);
    for (guid, certificate) in certificates {
        let offset = u32::try_from(start + contents.len())?.to_le_bytes();
        let length = u32::try_from(certificate.len())?.to_le_bytes();
        rows.extend([&guid.to_be_bytes()[..], &offset, &length].concat());
        contents.extend_from_slice(certificate);
    }
    rows.extend([0; ROW_BYTES]);
    Ok([rows, contents].concat())
}
