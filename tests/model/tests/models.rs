//! Every model: its claims hold, what it is about occurs in it, and each mutant is caught by the claim it was made for.
//!
//! Prints what was found, whether it passes or not: counts and times are part of the result.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use harness::{Case, Verdict};
use tenure_model::report::{self, Rows};
use tenure_model::{document, suite};

#[expect(dead_code, reason = "other test programs use the rest")]
#[path = "../../lab/tests/common/harness.rs"]
mod harness;

const CASES: [Case<()>; 7] = [
    Case { name: "binding", run: |()| check("binding") },
    Case { name: "mapping", run: |()| check("mapping") },
    Case { name: "lifetime", run: |()| check("lifetime") },
    Case { name: "closing", run: |()| check("closing") },
    Case { name: "conversion", run: |()| check("conversion") },
    Case { name: "every_model_is_checked", run: |()| every_model_is_checked() },
    Case { name: "bind_at_creation_is_current", run: |()| bind_at_creation_is_current() },
];

fn main() -> ExitCode {
    harness::main(&CASES, || Ok(()), |()| ())
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
