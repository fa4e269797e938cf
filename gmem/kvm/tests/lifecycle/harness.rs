//! A small test runner that counts what it could not run.
//!
//! Understands the arguments of `cargo test`'s own as far as they make sense: a filter, `--exact`, `--list`; others are
//! ignored.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::bound_at_birth;
use crate::host::{Host, Kind};

/// Why a case cannot be asked on this host.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

/// A case that ran, or the reason why it could not. It fails by panicking.
pub(crate) type Outcome = Result<(), Skip>;

pub(crate) struct Case {
    name: String,
    kind: Kind,
    run: fn(&Host) -> Outcome,
}

/// A case for one kind of VM.
pub(crate) fn case(name: &str, kind: Kind, run: fn(&Host) -> Outcome) -> Case {
    Case { name: format!("{}::{name}", kind.name()), kind, run }
}

/// Long enough for an emulated host under load; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);
const SKIPPED: u8 = 77;
const ONE_CASE: &str = "--in-this-process";
/// What the child of a child does, see [`bound_at_birth::close_on_exec`].
pub(crate) const LIST_DESCRIPTORS: &str = "--list-descriptors";

pub(crate) fn main(cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(ONE_CASE) => return run_here(cases, arguments.get(1).map_or("", String::as_str)),
        Some(LIST_DESCRIPTORS) => {
            bound_at_birth::list_descriptors();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |case: &&Case| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { case.name == **filter } else { case.name.contains(*filter) })
    };
    let chosen: Vec<_> = cases.iter().filter(wanted).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    run_all(&chosen, cases.len() - chosen.len())
}

fn run_all(chosen: &[&Case], filtered: usize) -> ExitCode {
    println!("\nrunning {} tests", chosen.len());
    let started = Instant::now();
    let (mut passed, mut skipped, mut failures) = (0, 0, Vec::new());
    for case in chosen {
        match run_in_child(case) {
            Ok(Ok(())) => {
                passed += 1;
                println!("test {} ... ok", case.name);
            }
            Ok(Err(Skip(reason))) => {
                skipped += 1;
                println!("test {} ... skipped: {reason}", case.name);
            }
            Err(output) => {
                println!("test {} ... FAILED", case.name);
                failures.push((&case.name, output));
            }
        }
    }
    for (name, output) in &failures {
        println!("\n---- {name} ----\n{output}");
    }
    let result = if failures.is_empty() { "ok" } else { "FAILED" };
    let failed = failures.len();
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {skipped} skipped; {filtered} filtered out; \
         finished in {:.2}s\n",
        started.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a case in a process of its own; the error is what it printed.
fn run_in_child(case: &Case) -> Result<Outcome, String> {
    let failed = |error: std::io::Error| format!("cannot start a process for it: {error}");
    let mut child = Command::new("/proc/self/exe")
        .args([ONE_CASE, &case.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let started = Instant::now();
    // What a case prints fits into a pipe, so waiting before reading cannot block it.
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().map_err(failed)?;
            break child.wait().map_err(failed)?;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut out)).transpose().map_err(failed)?;
    child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut err)).transpose().map_err(failed)?;
    match status.code() {
        Some(0) => Ok(Ok(())),
        Some(code) if code == i32::from(SKIPPED) => Ok(Err(Skip(out.trim().to_owned()))),
        _ => Err(format!("{status}\n{out}{err}")),
    }
}

fn run_here(cases: &[Case], name: &str) -> ExitCode {
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        eprintln!("no case is named `{name}`");
        return ExitCode::FAILURE;
    };
    let outcome = Host::probe(case.kind).and_then(|host| {
        let run = AssertUnwindSafe(|| (case.run)(&host));
        // The hook has printed the panic by then.
        catch_unwind(run).unwrap_or_else(|_| std::process::exit(1))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Skip(reason)) => {
            println!("{reason}");
            ExitCode::from(SKIPPED)
        }
    }
}
