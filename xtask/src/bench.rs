//! `cargo xtask bench`: what things cost, each with a floor measured in the same run.
//!
//! Owns the table of ratios. The ledger's times, a prediction's and a verdict's are taken here, on this machine; a conversion's in the
//! lab, in instructions of the emulated host, which repeat on any machine. Nothing here passes or fails: a figure past
//! its goal is marked.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tenure_lab::{BootOptions, Clock, Command as LabCommand, Host, Lab, Target};

use crate::place::target;
use crate::progress::shown;
use crate::test::cargo;

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the ledger's, which need no lab
    #[arg(long, conflicts_with_all = ["conversions", "predictions", "attestation"])]
    ledger: bool,
    /// Only predictions of launch digests, which need no lab
    #[arg(long, conflicts_with_all = ["conversions", "attestation"])]
    predictions: bool,
    /// Only verdicts on evidence, beside other tools, which are installed below the target directory and in the lab's cache
    /// for that
    #[arg(long, conflicts_with = "conversions")]
    attestation: bool,
    /// Only whole conversions, in the lab
    #[arg(long)]
    conversions: bool,
    /// Round trips to measure
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
}

/// What can be installed of other tools for reports.
const OTHER: &str = "snpguest";
const OTHER_VERSION: &str = "0.11.0";
/// Where the program is on the lab host.
const ROUND_TRIP: &str = "/bin/roundtrip";
/// What of a whole round trip may be `tenure`'s own.
const GOAL_PERCENT: f64 = 5.0;
const SIZES: [(&str, u32); 2] = [("4 KiB", 1), ("2 MiB", 512)];

/// Measures and shows.
pub(crate) fn bench(options: &Options) -> Result<ExitCode> {
    let all = !(options.ledger || options.predictions || options.attestation || options.conversions);
    if all || options.ledger {
        for (name, what) in [
            ("ledger", "times of the ledger; the goal of a lookup is 20 ns"),
            ("ledger_memory", "memory of the ledger"),
        ] {
            println!("== {what}");
            run(cargo().args(["bench", "--quiet", "--package", "gmem", "--bench", name]))?;
        }
    }
    if all || options.predictions {
        println!("== launch digests are predicted: as a process, and against SHA-384 alone");
        run(cargo().args(["build", "--quiet", "--release", "--package", "tenure"]))?;
        run(cargo().args(["run", "--quiet", "--release", "--package", "tenure-bench", "--bin", "measure"]))?;
    }
    if all || options.attestation {
        println!("== evidence is verified: ours and others' in turn, on the same bytes");
        attestation()?;
    }
    if all || options.conversions {
        println!("== a guest converts to and fro, and touches a page each time: instructions of the emulated host");
        conversions(options.rounds)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn attestation() -> Result<()> {
    let mut directories = Vec::new();
    let tools = target().join("bench-tools");
    if !tools.join("bin").join(OTHER).exists() {
        eprintln!("{OTHER} {OTHER_VERSION} is installed in {} once: about 5 minutes", tools.display());
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", OTHER, "--version", OTHER_VERSION, "--root"]).arg(&tools);
        // Without it the rest is still worth knowing, and says that it is not there.
        if let Err(error) = run(&mut install) {
            eprintln!("{OTHER} cannot be installed: {error:#}");
        }
    }
    directories.push(tools.join("bin"));
    match tenure_lab::go_checkers(None, &mut shown()) {
        Ok(directory) => directories.push(directory),
        Err(error) => eprintln!("verifiers in Go cannot be built: {error:#}"),
    }
    let build = ["build", "--quiet", "--release", "--package", "tenure", "--package", "tenure-bench"];
    run(cargo().args(build).args(["--bin", "tenure", "--bin", "attestation", "--bin", "others"]))?;
    let arguments = ["run", "--quiet", "--release", "--package", "tenure-bench", "--bin", "attestation", "--"];
    run(cargo().args(arguments).args(directories))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn conversions(rounds: u32) -> Result<()> {
    let mut progress = shown();
    let lab = Lab::provision(&tenure_lab::Options::default(), &mut progress)?;
    let program = lab.build_static("tenure-bench", &Target::Bin("roundtrip".to_owned()), &mut progress)?;
    let options = BootOptions {
        cpus: 1,
        clock: Clock::Instructions,
        extra_files: vec![(program, ROUND_TRIP.to_owned())],
        ..BootOptions::default()
    };
    let host = lab.boot(&options)?;
    println!("{:>8}  {:>14}  {:>14}  {:>8}", "at once", "floor", "tenure", "ratio");
    for (size, pages) in SIZES {
        let floor = round_trip(&host, "floor", pages, rounds)?;
        let tenure = round_trip(&host, "tenure", pages, rounds)?;
        let ratio = tenure / floor;
        let verdict = if (ratio - 1.0) * 100.0 > GOAL_PERCENT { "  past the goal of 1.05" } else { "" };
        println!("{size:>8}  {floor:>14}  {tenure:>14}  {ratio:>8.3}{verdict}");
    }
    host.poweroff()?;
    Ok(())
}

fn round_trip(host: &Host, vmm: &str, pages: u32, rounds: u32) -> Result<f64> {
    let [pages, rounds] = [pages, rounds].map(|number| number.to_string());
    let command = LabCommand::new(ROUND_TRIP).args([vmm, "--pages", &pages, "--rounds", &rounds]);
    let output = host.run(command)?;
    ensure!(output.status.success(), "{vmm}: {}: {}", output.status, output.stderr_text());
    output.stdout_text().trim().parse().with_context(|| format!("{vmm} printed {:?}", output.stdout_text()))
}
