//! `cargo xtask conformance`: the kernels' guest_memfd against its ABI, on this host and in the lab, one kernel after the
//! other.
//!
//! Owns the choice of kernels and where results go. What is asked and how it is judged is `tests/conformance`'s.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tenure_conformance::report::{self, Results};
use tenure_lab::{Bed, Kernel, Lab, Target};

use crate::place::Place;
use crate::progress::shown;

/// What is asked in the lab unless somebody says otherwise: the newest kernel of the distribution and the newest there
/// is, and the former on the other bed too.
const MACHINES: [(Bed, &str); 3] = [(Bed::Amd, ""), (Bed::Amd, "sid/"), (Bed::Intel, "")];
/// Random operations on the Intel bed, at most: it is slower by an order of magnitude.
const INTEL_OPS_MAX: u64 = 2_000;
const MEMORY_MIB: u32 = 2048;
const PROGRAM: &str = "/bin/tenure-conformance";
const RESULTS: &str = "/tmp/results.json";

/// Options of `cargo xtask conformance`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Random operations for each kernel
    #[arg(long, default_value_t = 20_000)]
    ops: u64,
    /// Decides the random operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A kernel for the lab; may be given more than once. Without it, the newest of this distribution on both beds, and
    /// that of `sid` on `amd`
    #[arg(long, value_name = "[SUITE/]linux-source-VERSION")]
    kernel: Vec<String>,
    /// The lab's machine: amd or intel, which does at most 2,000 random operations. Without it, amd for every `--kernel`
    #[arg(long)]
    bed: Option<Bed>,
    /// Leave this host's own kernel alone
    #[arg(long)]
    lab_only: bool,
    /// Only this host's own kernel
    #[arg(long, conflicts_with = "lab_only")]
    here_only: bool,
    /// Print all results as JSON; what is found out on the way goes to standard error
    #[arg(long)]
    json: bool,
    /// Keep the results in tests/conformance/results and write docs/conformance.md from all that are kept
    #[arg(long)]
    keep: bool,
}

/// Asks every kernel and returns 1 if one of them has an unexplained difference.
pub(crate) fn conformance(options: &Options) -> Result<ExitCode> {
    let mut progress = shown();
    let mut all = Vec::new();
    if !options.lab_only {
        all.extend(here(options)?);
    }
    if !options.here_only {
        for (bed, name) in machines(options) {
            let kernel = if name.is_empty() { Kernel::Newest } else { Kernel::named(name) };
            let lab = Lab::provision(&tenure_lab::Options { kernel, bed, ..Default::default() }, &mut progress)?;
            let program = lab.build_static("tenure-conformance", &target(), &mut progress)?;
            let place = Place::lab(&lab, MEMORY_MIB, vec![(program, PROGRAM.to_owned())])?;
            let ops = if bed == Bed::Intel { options.ops.min(INTEL_OPS_MAX) } else { options.ops };
            let asked =
                Asked { program: PROGRAM, bed: &format!("lab-{bed}"), json: RESULTS, ops, patience: bed.patience() };
            all.push(ask(&place, &asked, options)?);
            place.leave()?;
        }
    }
    if options.keep {
        keep(&all)?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(if all.iter().all(Results::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Beds, and the names of kernels for them.
fn machines(options: &Options) -> Vec<(Bed, &str)> {
    if options.kernel.is_empty() {
        return MACHINES.into_iter().filter(|(bed, _)| options.bed.is_none_or(|wanted| wanted == *bed)).collect();
    }
    let bed = options.bed.unwrap_or_default();
    options.kernel.iter().map(|name| (bed, name.as_str())).collect()
}

fn target() -> Target {
    Target::Bin("tenure-conformance".to_owned())
}

/// This host's kernel, if it has KVM.
fn here(options: &Options) -> Result<Option<Results>> {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("this host has no /dev/kvm: it is left out");
        return Ok(None);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(&cargo)
        .args(["build", "--quiet", "--release", "--package", "tenure-conformance"])
        .status()
        .context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "tenure-conformance does not build");
    let directory = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = directory.join("release/tenure-conformance");
    let scratch = tempfile::tempdir()?;
    let results = scratch.path().join("results.json");
    let program = program.to_str().context("the target directory's name is no text")?;
    let results = results.to_str().context("the temporary directory's name is no text")?;
    // Its clock goes on under load, as that of the AMD bed does.
    let asked = Asked { program, bed: "host", json: results, ops: options.ops, patience: Bed::Amd.patience() };
    ask(&Place::Here, &asked, options).map(Some)
}

/// Who is asked how much, and where.
struct Asked<'a> {
    program: &'a str,
    bed: &'a str,
    /// Where the results go.
    json: &'a str,
    ops: u64,
    patience: Duration,
}

/// Runs the program and fetches its results.
fn ask(place: &Place, asked: &Asked<'_>, options: &Options) -> Result<Results> {
    let Asked { program, bed, json, ops, patience } = *asked;
    let (ops, seed, patience) = (ops.to_string(), options.seed.to_string(), patience.as_secs_f64().to_string());
    let arguments = ["--bed", bed, "--json", json, "--ops", &ops, "--seed", &seed, "--patience", &patience];
    let mut running = place.start(program, &arguments.map(str::to_owned))?;
    let (stdout, stderr) = (
        std::mem::replace(&mut running.stdout, Box::new(io::empty())),
        std::mem::replace(&mut running.stderr, Box::new(io::empty())),
    );
    let aside = options.json;
    thread::scope(|scope| {
        scope.spawn(|| copy(stderr, io::stderr()));
        if aside { copy(stdout, io::stderr()) } else { copy(stdout, io::stdout()) }
    });
    let code = running.wait()?;
    anyhow::ensure!(code <= 1, "{program} ended with code {code}");
    Ok(serde_json::from_slice(&place.read(json)?)?)
}

/// Line by line, or what comes.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
            break;
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One file a kernel; the document is of all that are there.
fn keep(all: &[Results]) -> Result<()> {
    let directory = root().join("tests/conformance/results");
    std::fs::create_dir_all(&directory)?;
    for results in all {
        let name = format!("{}-{}.json", results.identity.bed, results.identity.release);
        std::fs::write(directory.join(name), serde_json::to_string_pretty(results)? + "\n")?;
    }
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read(&path)?;
            kept.push(serde_json::from_slice(&text).with_context(|| path.display().to_string())?);
        }
    }
    let document = root().join("docs/conformance.md");
    std::fs::create_dir_all(root().join("docs"))?;
    std::fs::write(&document, report::markdown(&kept)).with_context(|| document.display().to_string())
}
