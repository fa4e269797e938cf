//! Checks the models and shows what was found; writes `docs/bind-at-creation.md`; prints schedules.
//!
//! Exit codes: 0 if all came as expected, 1 if not, if the document is not current, or for bad usage.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tenure_model::report::{self, Rows};
use tenure_model::{document, suite};

/// Checks the protocols of guest_memfd, and tenure's own, under every interleaving
#[derive(Debug, Parser)]
#[command(name = "tenure-model", version)]
struct Cli {
    /// Prints the result as JSON, schedules included
    #[arg(long, conflicts_with_all = ["write", "trace", "list", "all"])]
    json: bool,
    /// Writes docs/bind-at-creation.md and does nothing else
    #[arg(long, conflicts_with_all = ["trace", "list", "all"])]
    write: bool,
    /// Prints the schedules found for a form of a model, e.g. `binding` or `binding/release without slots_lock`
    #[arg(long, value_name = "MODEL[/FORM]", conflicts_with_all = ["list", "all"])]
    trace: Option<String>,
    /// Lists all forms of all models
    #[arg(long, conflicts_with = "all")]
    list: bool,
    /// Shows every claim of every form, not only what says something of its own
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let path = document_path();
    if cli.write {
        let folder = path.parent().context("the document has a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        std::fs::write(&path, document::generate()).with_context(|| format!("cannot write {}", path.display()))?;
        return print(&format!("wrote {}\n", document::PATH));
    }
    if let Some(form) = &cli.trace {
        let Some(text) = report::trace(form) else { bail!("there is no form {form:?}; --list names them all") };
        return print(&text);
    }
    let cases = suite::cases();
    if cli.list {
        let mut paths: Vec<_> = cases.iter().map(|case| case.path() + "\n").collect();
        paths.dedup();
        return print(&paths.concat());
    }
    let began = Instant::now();
    let outcomes = suite::check(&cases, |_, _| ());
    let text = if cli.json {
        format!("{:#}\n", report::json(&cases, &outcomes))
    } else {
        let table = report::table(&cases, &outcomes, if cli.all { Rows::Every } else { Rows::Summed });
        format!("{table}\n{}", report::summary(&cases, &outcomes, began.elapsed()))
    };
    print(&text)?;
    let is_current = std::fs::read_to_string(&path).is_ok_and(|text| text == document::generate());
    if !is_current {
        eprintln!("{} is not what the models find: {}", document::PATH, document::HOW_TO_WRITE);
    }
    Ok(if report::is_as_expected(&outcomes) && is_current { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// To standard output. That nobody reads to the end is no fault.
fn print(text: &str) -> Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// In the source tree this was built from.
fn document_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document::PATH)
}
