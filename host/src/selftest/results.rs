//! What a self-test found.
//!
//! Owns the verdicts, as JSON whose keys are only ever added to, and as text for people. A check that could not be made is
//! told apart from one that passed: what was not run proves nothing.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::config::Tee;
use crate::exit::ExitCode;
use crate::paint::{GREEN, Paint, RED, YELLOW, is_printable};

/// Width of names in text: of the longest, and of what is in front of a check's.
const NAME: usize = 22;
const VERDICT: usize = "  not run ".len();

/// Everything a self-test found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Results {
    /// Version of `tenure`.
    pub version: &'static str,
    /// The host's kernel, as in `uname -sr`.
    pub host_kernel: String,
    /// The host's processor.
    pub cpu: String,
    /// What kept guests' memory private.
    pub tee: Tee,
    /// How many checks passed, failed, and were not run.
    pub totals: Totals,
    /// Each case, in the order in which they were run.
    pub cases: Vec<CaseResult>,
}

impl Verdict {
    /// The same, said of one guest of several.
    pub(super) fn of_guest(self, number: u32) -> Self {
        let of = |text| format!("guest {number}: {text}");
        match self {
            Self::Passed { seen } => Self::Passed { seen: of(seen) },
            Self::Failed { seen } => Self::Failed { seen: of(seen) },
            Self::NotRun { why } => Self::NotRun { why: of(why) },
        }
    }
}

/// Checks by verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// As it should be.
    pub passed: usize,
    /// Not as it should be.
    pub failed: usize,
    /// Nobody knows.
    pub not_run: usize,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseResult {
    /// A name that does not change.
    pub id: &'static str,
    /// What it is.
    pub about: String,
    /// How long it took.
    pub duration_ms: u64,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A name that does not change.
    pub id: &'static str,
    /// How it is.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Passed {
        /// What was seen.
        seen: String,
    },
    /// Not as it should be.
    Failed {
        /// What was seen instead of what.
        seen: String,
    },
    /// It could not be looked at.
    NotRun {
        /// Why not.
        why: String,
    },
}

impl Check {
    /// One that passes if `holds`, and shows what was seen either way.
    pub(super) fn that(id: &'static str, holds: bool, seen: impl Into<String>) -> Self {
        if holds { Self::passed(id, seen) } else { Self::failed(id, seen) }
    }

    pub(super) fn passed(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Passed { seen: seen.into() } }
    }

    pub(super) fn failed(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Failed { seen: seen.into() } }
    }

    pub(super) fn not_run(id: &'static str, why: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::NotRun { why: why.into() } }
    }
}

impl Totals {
    fn of<'a>(checks: impl Iterator<Item = &'a Check>) -> Self {
        checks.fold(Self::default(), |mut totals, check| {
            *match check.verdict {
                Verdict::Passed { .. } => &mut totals.passed,
                Verdict::Failed { .. } => &mut totals.failed,
                Verdict::NotRun { .. } => &mut totals.not_run,
            } += 1;
            totals
        })
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks passed, {} failed, {} not run", self.passed, self.failed, self.not_run)
    }
}

impl Results {
    pub(super) fn new(tee: Tee, host_kernel: String, cpu: String, cases: Vec<CaseResult>) -> Self {
        let totals = Totals::of(cases.iter().flat_map(|case| &case.checks));
        Self { version: env!("CARGO_PKG_VERSION"), host_kernel, cpu, tee, totals, cases }
    }

    /// What the command's exit code is: what was left behind outweighs what failed.
    pub fn exit_code(&self) -> ExitCode {
        const LEFT: [&str; 3] = [super::TEARDOWN, super::ASID, super::FIRMWARE_GUESTS];
        let failed = |check: &&Check| matches!(check.verdict, Verdict::Failed { .. });
        let left = |check: &Check| LEFT.contains(&check.id);
        let mut failed = self.cases.iter().flat_map(|case| &case.checks).filter(failed).peekable();
        match (failed.peek().is_some(), failed.any(left)) {
            (false, _) => ExitCode::Success,
            (true, true) => ExitCode::TeardownNotClean,
            (true, false) => ExitCode::Findings,
        }
    }

    /// For people.
    pub fn text(&self, paint: Paint) -> String {
        let Self { version, tee, host_kernel, cpu, .. } = self;
        let mut text = format!("tenure {version} self-test, tee {tee}, on {host_kernel}, {cpu}\n");
        for case in &self.cases {
            let seconds = case.duration_ms as f64 / 1e3;
            let _ = writeln!(text, "\n{:width$} {} ({seconds:.1} s)", case.id, case.about, width = VERDICT + NAME);
            for Check { id, verdict } in &case.checks {
                let (word, colour, what) = match verdict {
                    Verdict::Passed { seen } => ("passed ", GREEN, seen),
                    Verdict::Failed { seen } => ("FAILED ", RED, seen),
                    Verdict::NotRun { why } => ("not run", YELLOW, why),
                };
                let what: String = what.chars().filter(|char| is_printable(*char)).collect();
                let _ = writeln!(text, "  {} {id:NAME$} {what}", paint.on(word, colour));
            }
        }
        let _ = write!(text, "\n{}.", self.totals);
        text
    }
}
