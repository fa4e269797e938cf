//! Random sequences, run against a kernel and the model side by side, and made small when they disagree.
//!
//! Owns: what is asked and in which order (`generate`), the comparison, the shrinking (`shrink`), the counts. A run is
//! decided by its seed alone; sequence `n` of seed `s` is the first of seed `s + n`. Does not own: what is right.

mod generate;
mod shrink;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::model::Model;
use crate::op::Op;
use crate::outcome::Outcome;
use crate::real::Real;

pub use generate::sequence;
pub use shrink::shrink;

/// Operations in a sequence, at most.
pub const SEQUENCE: usize = 100;

/// What is compared with the model.
pub trait Subject {
    /// Does an operation; `None` if it must not be done.
    fn apply(&mut self, op: &Op) -> Option<Outcome>;
    /// Ends a sequence; the error is what then should not be there.
    fn reset(&mut self) -> Result<(), String>;
}

impl Subject for Real {
    fn apply(&mut self, op: &Op) -> Option<Outcome> {
        self.apply(op)
    }

    fn reset(&mut self) -> Result<(), String> {
        self.reset()
    }
}

/// Another model, to see what the comparison notices.
impl Subject for Model {
    fn apply(&mut self, op: &Op) -> Option<Outcome> {
        Some(self.apply(op))
    }

    fn reset(&mut self) -> Result<(), String> {
        *self = Self::new(self.kernel().clone());
        Ok(())
    }
}

/// A line of a sequence, with what should have come of it and what did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The operation.
    pub op: String,
    /// The model's answer.
    pub expected: String,
    /// The kernel's.
    pub got: String,
}

impl Line {
    /// Whether they agree.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.expected == self.got
    }
}

/// A sequence that ended in a disagreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The seed whose first sequence it is.
    pub seed: u64,
    /// How long the sequence was.
    pub found_in: usize,
    /// The small one; the last line disagrees.
    pub lines: Vec<Line>,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The seed of its first sequence.
    pub seed: u64,
    /// How many sequences.
    pub sequences: u64,
    /// How many operations were compared.
    pub operations: u64,
    /// How long it took.
    pub seconds: f64,
    /// How often each kind of operation got each answer; values are left out.
    pub answers: BTreeMap<String, BTreeMap<String, u64>>,
    /// How long each kind of operation took, in microseconds; ending a sequence counts, too.
    pub microseconds: BTreeMap<String, u64>,
    /// Where the kernel and the model disagree.
    pub differences: Vec<Difference>,
}

/// How a comparison ended.
#[derive(Debug)]
struct Compared {
    lines: Vec<(Op, Outcome)>,
    times: Vec<(&'static str, Duration)>,
    /// What the model says of the last of the lines, if they disagree.
    expected: Option<String>,
    /// What is the same of two disagreements that have one reason.
    signature: Option<String>,
}

/// Runs a sequence on both; stops where they disagree.
fn compare(subject: &mut impl Subject, kernel: &Kernel, ops: &[Op]) -> Compared {
    let mut model = Model::new(kernel.clone());
    let mut lines = Vec::with_capacity(ops.len());
    let (mut expected, mut signature) = (None, None);
    let mut times = Vec::with_capacity(ops.len() + 1);
    for op in ops {
        if !model.applicable(op) {
            continue;
        }
        let should = model.apply(op);
        if let Err(broken) = model.check_invariants() {
            expected = Some(format!("(the model itself is wrong: {broken})"));
            break;
        }
        let started = Instant::now();
        let Some(outcome) = subject.apply(op) else { continue };
        times.push((op.kind(), started.elapsed()));
        lines.push((*op, outcome));
        if outcome != should {
            signature = Some(format!("{}: {} instead of {}", op.kind(), class(outcome), class(should)));
            expected = Some(should.to_string());
            break;
        }
    }
    let started = Instant::now();
    if let (Err(left), None) = (subject.reset(), &expected) {
        expected = Some(format!("nothing left; {left}"));
    }
    times.push(("end of sequence", started.elapsed()));
    Compared { lines, times, expected, signature }
}

/// The lines of a comparison, as text.
fn written(compared: &Compared, kernel: &Kernel) -> Vec<Line> {
    let mut model = Model::new(kernel.clone());
    let last = compared.lines.len().saturating_sub(1);
    let line = |(index, (op, got)): (usize, &(Op, Outcome))| {
        let mut expected = model.apply(op).to_string();
        if index == last
            && let Some(other) = &compared.expected
        {
            expected.clone_from(other);
        }
        Line { op: op.to_string(), expected, got: got.to_string() }
    };
    compared.lines.iter().enumerate().map(line).collect()
}

/// Replays a sequence; the lines up to the first that disagrees.
pub fn replay(subject: &mut impl Subject, kernel: &Kernel, ops: &[Op]) -> Vec<Line> {
    written(&compare(subject, kernel, ops), kernel)
}

/// How long and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations to compare, at least.
    pub operations: u64,
    /// Differences to find before giving up.
    pub differences: usize,
}

/// Runs sequences until enough operations were compared.
pub fn run(
    subject: &mut impl Subject,
    kernel: &Kernel,
    seed: u64,
    limits: Limits,
    mut progress: impl FnMut(&Summary, &str),
) -> Summary {
    let started = Instant::now();
    let mut told = started;
    let mut summary = Summary { seed, ..Summary::default() };
    while summary.operations < limits.operations && summary.differences.len() < limits.differences {
        let seed = seed.wrapping_add(summary.sequences);
        let ops = sequence(seed, kernel);
        let compared = compare(subject, kernel, &ops);
        summary.sequences += 1;
        summary.operations += compared.lines.len() as u64;
        for (op, outcome) in &compared.lines {
            let answers = summary.answers.entry(op.kind().to_owned()).or_default();
            *answers.entry(class(*outcome)).or_default() += 1;
        }
        for (kind, time) in &compared.times {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            *summary.microseconds.entry((*kind).to_owned()).or_default() += micros;
        }
        if compared.expected.is_some() {
            progress(
                &summary,
                &format!("seed {seed}: {}", compared.signature.as_deref().unwrap_or("something is left")),
            );
            // Another disagreement must not take its place.
            let small = shrink(&ops, |ops| {
                let again = compare(subject, kernel, ops);
                again.expected.is_some() && again.signature == compared.signature
            });
            let lines = replay(subject, kernel, &small);
            summary.differences.push(Difference { seed, found_in: ops.len(), lines });
        }
        summary.seconds = started.elapsed().as_secs_f64();
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            progress(&summary, "");
        }
    }
    summary
}

/// An answer without its numbers.
fn class(outcome: Outcome) -> String {
    match outcome {
        Outcome::Value(_) => "ok".to_owned(),
        Outcome::MemoryFault { flags: 0, .. } => "memory_fault shared".to_owned(),
        Outcome::MemoryFault { .. } => "memory_fault private".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
