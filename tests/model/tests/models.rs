//! Every model: its claims hold, what it is about occurs in it, and each mutant is caught by the claim it was made for.
//!
//! Prints what was found, whether it passes or not: counts and times are part of the result.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tenure_model::report::{self, Rows};
use tenure_model::{document, suite};
use test_harness::{Case, Verdict};

const CASES: [Case<()>; 8] = [
    Case { name: "binding", run: |()| check("binding") },
    Case { name: "mapping", run: |()| check("mapping") },
    Case { name: "lifetime", run: |()| check("lifetime") },
    Case { name: "closing", run: |()| check("closing") },
    Case { name: "conversion", run: |()| check("conversion") },
    Case { name: "every_model_is_checked", run: |()| every_model_is_checked() },
    Case { name: "bind_at_creation_is_current", run: |()| bind_at_creation_is_current() },
    Case { name: "the_readme_shows_a_real_schedule", run: |()| the_readme_shows_a_real_schedule() },
];

fn main() -> ExitCode {
    test_harness::main(&CASES, || Ok(()), |()| ())
}

fn check(model: &str) -> Result<Verdict> {
    let cases: Vec<_> = suite::cases().into_iter().filter(|case| case.model == model).collect();
    let began = Instant::now();
    let outcomes = suite::check(&cases, |_, _| ());
    println!(
        "\n{}\n{}",
        report::table(&cases, &outcomes, Rows::Summed),
        report::summary(&cases, &outcomes, began.elapsed())
    );
    ensure!(report::is_as_expected(&outcomes), "not all came as expected");
    Ok(Verdict::Passed)
}

/// No model is forgotten above.
fn every_model_is_checked() -> Result<Verdict> {
    for case in suite::cases() {
        ensure!(CASES.iter().any(|tested| tested.name == case.model), "nothing here checks the model {}", case.model);
    }
    Ok(Verdict::Passed)
}

/// The committed document is what the models find.
fn bind_at_creation_is_current() -> Result<Verdict> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document::PATH);
    let committed = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", document::PATH))?;
    let found = document::generate();
    if committed == found {
        return Ok(Verdict::Passed);
    }
    let differs = committed.lines().zip(found.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| committed.lines().count().min(found.lines().count())) + 1;
    bail!("{} is not what the models find, from line {line} on: {}", document::PATH, document::HOW_TO_WRITE)
}

/// The schedule in the README is the one the model finds.
fn the_readme_shows_a_real_schedule() -> Result<Verdict> {
    const FORM: &str = "binding/unbind gives up when refused";
    let readme = include_str!("../README.md");
    let broken = suite::cases().into_iter().find(|case| case.path() == FORM).context("no such form")?;
    let outcomes = broken.check();
    let schedule = outcomes.first().and_then(|outcome| outcome.exploration.schedule.as_ref());
    let schedule = schedule.context("the form is not broken")?.to_string();
    ensure!(readme.contains(FORM) && readme.contains(&schedule), "tests/model/README.md should show:\n{schedule}");
    Ok(Verdict::Passed)
}
