//! One door for people: `cargo xtask run` and `cargo xtask test` do all their set-up on a fresh machine.
//!
//! Owns the choice of the place (this host, or the lab) and the set-up. What is shown of a guest comes from `tenure`
//! itself.
#![forbid(unsafe_code)]

mod attest;
mod bench;
mod conformance;
mod files;
mod fuzz;
mod place;
mod progress;
mod proof;
mod run;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs, tests and serves the lab of `tenure`
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The main job: boots a guest with private memory, here if this host can, else in the lab
    Run(run::Options),
    /// Every test, those in the lab included
    Test(test::Options),
    /// What things cost, each with a floor measured in the same run
    Bench(bench::Options),
    /// Checks the models of the protocols: `cargo xtask model -- --help` says what else they can do
    Model {
        /// Arguments of the models' program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What guest_memfd does on this host's kernel and on the lab's, against its ABI
    Conformance(conformance::Options),
    /// What reads what anybody may send, guided by coverage; findings and corpus are kept below the target directory
    Fuzz(fuzz::Options),
    /// The lab by itself: `cargo xtask lab -- --help` says what it can do
    Lab {
        /// Arguments of the lab's program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = if fuzz::is_compiler() { fuzz::compile() } else { do_task() };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn do_task() -> anyhow::Result<ExitCode> {
    match Cli::parse().task {
        Task::Run(options) => run::run(&options),
        Task::Test(options) => test::test(&options),
        Task::Bench(options) => bench::bench(&options),
        Task::Model { arguments } => test::model(&arguments),
        Task::Conformance(options) => conformance::conformance(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Lab { arguments } => test::lab(&arguments),
    }
}
