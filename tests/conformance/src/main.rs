//! Asks this machine's kernel about guest_memfd; see the library and README.md.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tenure_conformance::kernel::Kernel;
use tenure_conformance::random::{self, Limits};
use tenure_conformance::real::{self, Real, probe};
use tenure_conformance::report::{self, Results};
use tenure_conformance::{cases, op};

/// Is this kernel's guest_memfd what its ABI says?
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Merge results of several kernels into one document
    Merge {
        /// What --json wrote
        files: Vec<PathBuf>,
    },
    /// Replay a sequence, line by line, and say what the kernel and the model answer
    Replay {
        /// The sequence, as random runs print it
        file: PathBuf,
        /// Go on where they disagree, and do not ask the model
        #[arg(long)]
        raw: bool,
    },
    /// List the named cases
    List,
}

#[derive(Debug, Args)]
struct Run {
    /// What to call this machine in reports
    #[arg(long, default_value = "host")]
    bed: String,
    /// Random operations to compare; 0 for none
    #[arg(long, default_value_t = 20_000)]
    ops: u64,
    /// Decides the random operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Differences to find before giving up
    #[arg(long, default_value_t = 3)]
    differences: usize,
    /// Only named cases that have one of these in their name
    #[arg(long, value_name = "PART,PART…", default_value = "")]
    cases: String,
    /// No named cases
    #[arg(long)]
    no_cases: bool,
    /// Seconds after which a vCPU's call counts as one that never ends. Less is enough where the clock goes by instructions
    #[arg(long, default_value_t = 4.0)]
    patience: f64,
    /// Also write all results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Say on standard error what is asked before it is, for kernels that do not come back
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        None => run(&cli.run),
        Some(Verb::Merge { files }) => merge(&files),
        Some(Verb::Replay { file, raw }) => replay(&file, raw),
        Some(Verb::List) => list(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tenure-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn introduce(kernel: &Kernel) {
    let identity = &kernel.identity;
    println!("kernel: {} ({}), machine: {}", identity.release, identity.module, identity.bed);
    for (vm_type, features) in &kernel.features.types {
        println!("VM type {vm_type}: {features:?}");
    }
    for quirk in &kernel.quirks {
        println!("known to differ: {}", quirk.remark());
    }
}

fn run(options: &Run) -> Result<ExitCode> {
    let patience = Duration::try_from_secs_f64(options.patience).context("--patience")?;
    real::be_patient_for(patience);
    let kernel = probe(&options.bed)?;
    introduce(&kernel);
    let mut results = Results::new(&kernel);
    if !options.no_cases {
        results.cases = cases::run(&kernel, &options.cases, |case| println!("{}", report::case_line(case)))?;
    }
    if options.ops > 0 {
        let mut real = Real::open()?;
        if options.trace {
            real.trace();
        }
        let limits = Limits { operations: options.ops, differences: options.differences };
        let summary = random::run(&mut real, &kernel, options.seed, limits, |summary, what| {
            eprintln!("{} operations, {:.0} s {what}", summary.operations, summary.seconds);
        });
        print!("{}", report::answers(&summary));
        results.random = Some(summary);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&results).context("results")?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    print!("{}", report::summary(&results));
    Ok(if results.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn merge(files: &[PathBuf]) -> Result<ExitCode> {
    let all = files.iter().map(|path| read(path)).collect::<Result<Vec<Results>>>()?;
    print!("{}", report::markdown(&all));
    Ok(if all.iter().all(Results::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(file: &Path, raw: bool) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let script = op::parse_script(&text).with_context(|| file.display().to_string())?;
    let ops: Vec<op::Op> = script.into_iter().map(|(op, _)| op).collect();
    let mut real = Real::open()?;
    if raw {
        for op in &ops {
            let answer = real.apply(op).map_or_else(|| "must not be asked".to_owned(), |answer| answer.to_string());
            println!("{op} -> {answer}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let lines = random::replay(&mut real, &probe("host")?, &ops);
    print!("{}", report::sequence(&lines));
    Ok(if lines.iter().all(random::Line::agrees) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list() -> Result<ExitCode> {
    for case in cases::all()? {
        let kinds: Vec<_> = case.kinds.iter().map(|kind| kind.name()).collect();
        println!("{:32} {} [{}] ({})", case.name, case.about, kinds.join(", "), case.from);
    }
    Ok(ExitCode::SUCCESS)
}
