//! `cargo xtask test`: every check there is, in the order in which they fail fastest; and the doors to the lab and
//! the models.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Adds the tests that take long: many boots, many kills, many conversions
    #[arg(long)]
    long: bool,
}

/// One thing to run.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const STEPS: [Step; 5] = [
    Step { name: "format", arguments: &["fmt", "--all", "--check"], environment: &[] },
    Step {
        name: "lints",
        arguments: &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
        environment: &[],
    },
    Step {
        name: "documentation",
        arguments: &["doc", "--locked", "--workspace", "--no-deps", "--document-private-items", "--quiet"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    Step {
        name: "tests, the lab's included",
        arguments: &["test", "--locked", "--workspace", "--no-fail-fast"],
        environment: &[],
    },
    Step { name: "fuzzing, a minute in all", arguments: &["xtask", "fuzz", "--seconds", "60"], environment: &[] },
];

/// Runs every step, all of them even if one fails.
pub(crate) fn test(options: &Options) -> Result<ExitCode> {
    eprintln!(
        "With a warm lab this takes about 45 minutes on two cores; the first time, up to 80: the lab is built, and targets \
         for fuzzing."
    );
    let mut failed = Vec::new();
    let started = Instant::now();
    for step in &STEPS {
        let began = Instant::now();
        eprintln!("== {}", step.name);
        let mut command = cargo();
        command.args(step.arguments).envs(step.environment.iter().copied());
        if options.long {
            command.env("TENURE_LONG_TESTS", "1");
        }
        let status = command.status().context("cannot run cargo")?;
        let seconds = began.elapsed().as_secs();
        if status.success() {
            eprintln!("== {}: passed in {seconds} s", step.name);
        } else {
            eprintln!("== {}: FAILED after {seconds} s", step.name);
            failed.push(step.name);
        }
    }
    let seconds = started.elapsed().as_secs();
    if failed.is_empty() {
        eprintln!("all {} steps passed in {seconds} s", STEPS.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("FAILED after {seconds} s: {}", failed.join("; "));
    Ok(ExitCode::FAILURE)
}

/// Hands everything to the lab's own program.
pub(crate) fn lab(arguments: &[String]) -> Result<ExitCode> {
    hand_to("tenure-lab", arguments)
}

/// Hands everything to the models' own program.
pub(crate) fn model(arguments: &[String]) -> Result<ExitCode> {
    hand_to("tenure-model", arguments)
}

/// Runs the program that has the name of its package.
fn hand_to(program: &str, arguments: &[String]) -> Result<ExitCode> {
    let status = cargo()
        .args(["run", "--quiet", "--package", program, "--bin", program, "--"])
        .args(arguments)
        .status()
        .context("cannot run cargo")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// The cargo this was started by.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
