//! Results: as lines while they come, as JSON to keep, and several kernels' merged into one document.
//!
//! Owns: what is written and how. Does not own: how results come about.

mod markdown;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::cases::{Result as CaseResult, Verdict};
use crate::kernel::{Features, Identity, Kernel, Quirk};
use crate::random::{Line, Summary};

pub use markdown::markdown;

/// All that was found out about a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Who it is.
    pub identity: Identity,
    /// What it says it can.
    pub features: Features,
    /// How the model of it differs from that of Linux 7.2.
    pub quirks: Vec<Quirk>,
    /// The named cases.
    pub cases: Vec<CaseResult>,
    /// The random run.
    pub random: Option<Summary>,
}

impl Results {
    /// Nothing yet.
    #[must_use]
    pub fn new(kernel: &Kernel) -> Self {
        Self {
            identity: kernel.identity.clone(),
            features: kernel.features.clone(),
            quirks: kernel.quirks.iter().copied().collect(),
            cases: Vec::new(),
            random: None,
        }
    }

    /// Whether nothing is unexplained.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let failed = self.cases.iter().any(|case| matches!(case.verdict, Verdict::Failed { .. }));
        !failed && self.random.as_ref().is_none_or(|random| random.differences.is_empty())
    }

    /// How many cases passed, differ, failed, were skipped.
    #[must_use]
    pub fn counts(&self) -> [usize; 4] {
        let count = |wanted: fn(&Verdict) -> bool| self.cases.iter().filter(|case| wanted(&case.verdict)).count();
        [
            count(|verdict| matches!(verdict, Verdict::Passed)),
            count(|verdict| matches!(verdict, Verdict::Differs { .. })),
            count(|verdict| matches!(verdict, Verdict::Failed { .. })),
            count(|verdict| matches!(verdict, Verdict::Skipped { .. })),
        ]
    }
}

/// A case's line.
#[must_use]
pub fn case_line(case: &CaseResult) -> String {
    let (word, detail) = match &case.verdict {
        Verdict::Passed => ("ok", ""),
        Verdict::Differs { remark } => ("differs", remark.as_str()),
        Verdict::Failed { detail } => ("FAILED", detail.as_str()),
        Verdict::Skipped { reason } => ("skipped", reason.as_str()),
    };
    let separator = if detail.is_empty() { "" } else { ": " };
    format!("{:32} {:13} {word}{separator}{detail}", case.name, case.kind.name())
}

/// A sequence as it can be replayed, with both answers where they disagree.
#[must_use]
pub fn sequence(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        // Writing to a string cannot fail.
        let _ = if line.agrees() {
            writeln!(text, "{} -> {}", line.op, line.got)
        } else {
            writeln!(text, "{} -> {}   # the kernel says {}", line.op, line.expected, line.got)
        };
    }
    text
}

/// How a run ended.
#[must_use]
pub fn summary(results: &Results) -> String {
    let mut text = String::new();
    let [passed, differ, failed, skipped] = results.counts();
    let _ = writeln!(
        text,
        "cases: {passed} passed, {differ} differ for a known reason, {failed} FAILED, {skipped} skipped"
    );
    let Some(random) = &results.random else { return text };
    let _ = writeln!(
        text,
        "random: {} operations in {} sequences from seed {}, {:.0} s; {} unexplained differences",
        random.operations,
        random.sequences,
        random.seed,
        random.seconds,
        random.differences.len()
    );
    for difference in &random.differences {
        let _ = write!(text, "\nseed {}, shrunk to:\n{}", difference.seed, sequence(&difference.lines));
    }
    text
}

/// Answers of a random run, by operation.
#[must_use]
pub fn answers(summary: &Summary) -> String {
    let mut text = String::new();
    for (kind, answers) in &summary.answers {
        let _ = writeln!(text, "{kind:24} {}", list(answers));
    }
    text
}

fn list(answers: &BTreeMap<String, u64>) -> String {
    let words: Vec<_> = answers.iter().map(|(answer, count)| format!("{answer} {count}")).collect();
    words.join(", ")
}
