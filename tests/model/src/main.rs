//! Checks the models and shows what was found; writes `docs/bind-at-creation.md`; prints schedules.
//!
//! Exit codes: 0 if all came as expected, 1 if not, if the document is not current, or for bad usage.
#![forbid(unsafe_code)]

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

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let path = document_path();
    if cli.write {
        let folder = path.parent().context("the document has a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        std::fs::write(&path, document::generate()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", document::PATH);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(form) = &cli.trace {
        let Some(text) = report::trace(form) else { bail!("there is no form {form:?}; --list names them all") };
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let cases = suite::cases();
    if cli.list {
        let mut paths: Vec<_> = cases.iter().map(suite::Case::path).collect();
        paths.dedup();
        paths.iter().for_each(|path| println!("{path}"));
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let outcomes = suite::check(&cases, |_, _| ());
    if cli.json {
        println!("{:#}", report::json(&cases, &outcomes));
    } else {
        print!("{}", report::table(&cases, &outcomes, if cli.all { Rows::Every } else { Rows::Summed }));
        print!("\n{}", report::summary(&cases, &outcomes, began.elapsed()));
    }
    let is_current = std::fs::read_to_string(&path).is_ok_and(|text| text == document::generate());
    if !is_current {
        eprintln!("{} is not what the models find: {}", document::PATH, document::HOW_TO_WRITE);
    }
    Ok(if report::is_as_expected(&outcomes) && is_current { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// In the source tree this was built from.
fn document_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document::PATH)
}
