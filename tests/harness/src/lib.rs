//! Runs cases one after the other: they share something, a lab host or a count, so libtest's threads are of no use.
//!
//! Owns the command line (a subset of libtest's), the lines it prints and the exit code. A case that fails does not keep
//! the others from running, and nothing is tried twice.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// A case.
#[derive(Debug)]
pub struct Case<C> {
    /// What it proves, as a name of a function would say it.
    pub name: &'static str,
    /// Proves it; the context is shared by all cases.
    pub run: fn(&mut C) -> Result<Verdict>,
}

/// How a case that did not fail ended.
#[derive(Debug)]
pub enum Verdict {
    /// It proved what its name says.
    Passed,
    /// It cannot run here.
    Skipped {
        /// Why not.
        reason: String,
    },
}

/// What of libtest's command line is understood.
#[derive(Debug, Default)]
struct Arguments {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => arguments.exact = true,
                "--list" => arguments.list = true,
                "--skip" => arguments.skip.push(words.next().ok_or("--skip needs a name")?),
                // Always so.
                "--nocapture" | "--no-capture" | "--show-output" | "--quiet" | "-q" => {}
                "--test-threads" | "--format" | "--color" => drop(words.next()),
                option if option.starts_with("--test-threads=") || option.starts_with("--color=") => {}
                option if option.starts_with('-') => return Err(format!("unknown option {option}")),
                filter => arguments.filters.push(filter.to_owned()),
            }
        }
        Ok(arguments)
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

/// Runs the cases the command line asks for. `prepare` is called if there are any; `recover` after one that failed.
pub fn main<C>(cases: &[Case<C>], prepare: impl FnOnce() -> Result<C>, recover: fn(&mut C)) -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(2);
        }
    };
    let wanted: Vec<&Case<C>> = cases.iter().filter(|case| arguments.wants(case.name)).collect();
    if arguments.list {
        wanted.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    if !wanted.is_empty() {
        match prepare() {
            Ok(mut context) => {
                for case in wanted {
                    let began = Instant::now();
                    let result = (case.run)(&mut context);
                    let seconds = began.elapsed().as_secs_f64();
                    match result {
                        Ok(Verdict::Passed) => {
                            passed += 1;
                            println!("test {} ... ok ({seconds:.1} s)", case.name);
                        }
                        Ok(Verdict::Skipped { reason }) => {
                            skipped += 1;
                            println!("test {} ... skipped: {reason}", case.name);
                        }
                        Err(error) => {
                            failed.push(case.name);
                            println!("test {} ... FAILED ({seconds:.1} s)\n{error:#}\n", case.name);
                            recover(&mut context);
                        }
                    }
                }
            }
            Err(error) => {
                println!("cannot make the lab ready: {error:#}");
                failed.extend(wanted.iter().map(|case| case.name));
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|name| println!("    {name}"));
    }
    println!("\n{passed} passed, {} failed, {skipped} skipped\n", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The exit code of several [`main`]s, all of which have run.
pub fn all_of(codes: &[ExitCode]) -> ExitCode {
    codes.iter().copied().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
}

/// Whether the long counts are asked for, as `cargo xtask test --long` does.
pub fn long() -> bool {
    std::env::var_os("TENURE_LONG_TESTS").is_some_and(|value| !value.is_empty() && value != "0")
}
