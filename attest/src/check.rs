//! What was checked, and what came of it.
//!
//! Owns the list of checks that every verdict comes with: all of them, not only the first that failed, each with what
//! was wanted and what was there. Does not own what is checked: see [`mod@crate::snp::verify`].

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::UnixTime;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckId {
    name: &'static str,
    subject: &'static str,
    need: Need,
    fault: Fault,
}

/// What it means that a check failed. Of several the first of these decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The evidence is not what it says: malformed, changed, or signed by somebody else.
    Evidence,
    /// A certificate was revoked.
    Revoked,
    /// What would show whether it is good is missing or out of date.
    Collateral,
    /// It is good, and of something else than is wanted.
    Unmet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Need {
    Must,
    May,
}

impl CheckId {
    /// A check without which nothing is verified: skipped is as bad as failed.
    pub(crate) const fn required(name: &'static str, subject: &'static str) -> Self {
        Self { name, subject, need: Need::Must, fault: Fault::Evidence }
    }

    /// A check that cannot always be made.
    pub(crate) const fn where_possible(name: &'static str, subject: &'static str) -> Self {
        Self { name, subject, need: Need::May, fault: Fault::Evidence }
    }

    /// A check of what somebody wants, which may be nothing.
    pub(crate) const fn of_wish(name: &'static str, subject: &'static str) -> Self {
        Self::where_possible(name, subject).failing_as(Fault::Unmet)
    }

    /// The same check, whose failure means this.
    pub(crate) const fn failing_as(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    /// Its name, for programs: the same in every version.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What it looks at, for people.
    #[must_use]
    pub const fn subject(self) -> &'static str {
        self.subject
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What is there is what was wanted.
    Passed,
    /// It isn't.
    Failed,
    /// It could not be looked at; why.
    Skipped(String),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub id: CheckId,
    /// What came of it.
    pub outcome: Outcome,
    /// What was wanted; nothing if it was skipped.
    pub expected: String,
    /// What was there; nothing if it was skipped.
    pub actual: String,
    /// What it means if it failed.
    pub fault: Fault,
    /// What else is known about it that people should know, whatever came of the check.
    pub advisory: Option<&'static str>,
    /// By how much it was missed, in a few words, if it is a matter of more and less.
    pub shortfall: Option<String>,
}

impl Check {
    /// Whether evidence is worth nothing because of it: it failed, or must not be skipped and was.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self.outcome {
            Outcome::Passed => false,
            Outcome::Failed => true,
            Outcome::Skipped(_) => self.id.need == Need::Must,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: CheckId { name, subject, .. }, outcome, expected, actual, .. } = self;
        match outcome {
            Outcome::Passed => write!(f, "{name}: {subject} is {actual}"),
            Outcome::Failed => write!(f, "{name}: {subject} is {actual}; it must be {expected}"),
            Outcome::Skipped(why) => write!(f, "{name}: {subject} was not checked: {why}"),
        }
    }
}

/// Checks in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks(Vec<Check>);

/// As many as a verdict on a quote has, and more: they need not be moved as they become more.
const USUAL: usize = 48;

impl Default for Checks {
    fn default() -> Self {
        Self(Vec::with_capacity(USUAL))
    }
}

impl Checks {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Check> {
        self.0.iter()
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.0.iter().filter(|check| check.outcome == Outcome::Failed)
    }

    /// Those that could not be made.
    pub fn skipped(&self) -> impl Iterator<Item = &Check> {
        self.0.iter().filter(|check| matches!(check.outcome, Outcome::Skipped(_)))
    }

    /// The check with this name, if it was made or skipped.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Check> {
        self.0.iter().find(|check| check.id.name == name)
    }

    /// What the failures among them mean together; nothing if there is none.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        // What had to be skipped was so because of a failure before it, which says more.
        let fatal = || self.iter().any(Check::is_fatal).then_some(Fault::Evidence);
        self.failed().map(|check| check.fault).min().or_else(fatal)
    }

    /// These after those that were made before.
    pub(crate) fn append(&mut self, Self(mut further): Self) {
        self.0.append(&mut further);
    }

    pub(crate) fn add(&mut self, id: CheckId, expected: impl ToString, actual: Result<impl ToString, impl ToString>) {
        let (outcome, actual) = match actual {
            Ok(actual) => (Outcome::Passed, actual.to_string()),
            Err(actual) => (Outcome::Failed, actual.to_string()),
        };
        self.push(id, outcome, expected.to_string(), actual);
    }

    pub(crate) fn skip(&mut self, id: CheckId, why: impl ToString) {
        self.push(id, Outcome::Skipped(why.to_string()), String::new(), String::new());
    }

    /// What would be looked at isn't there: a failure, of whoever had to bring it.
    pub(crate) fn missing(&mut self, id: CheckId, expected: impl ToString) {
        self.push(id.failing_as(Fault::Collateral), Outcome::Failed, expected.to_string(), "missing".to_string());
    }

    /// Says this with the check that was noted last.
    pub(crate) fn advise(&mut self, advisory: &'static str) {
        if let Some(check) = self.0.last_mut() {
            check.advisory = Some(advisory);
        }
    }

    /// Says with the check that was noted last by how much it was missed.
    pub(crate) fn fall_short(&mut self, by: String) {
        if let Some(check) = self.0.last_mut() {
            check.shortfall = Some(by);
        }
    }

    fn push(&mut self, id: CheckId, outcome: Outcome, expected: String, actual: String) {
        self.0.push(Check { id, outcome, expected, actual, fault: id.fault, advisory: None, shortfall: None });
    }
}

/// The moment of a verdict, how far beyond it the verdict holds, and which lists of revoked certificates it rests on.
#[derive(Clone, Debug)]
pub(crate) struct Horizon {
    pub(crate) now: UnixTime,
    pub(crate) until: UnixTime,
    lists: Vec<(&'static str, Option<u64>)>,
}

impl Horizon {
    pub(crate) const fn at(now: UnixTime) -> Self {
        Self { now, until: UnixTime::from_secs(u64::MAX), lists: Vec::new() }
    }

    /// A list that was read under this check, with its number.
    pub(crate) fn list(&mut self, id: CheckId, number: Option<u64>) {
        self.lists.push((id.name, number));
    }

    /// The number of the list that was read under the check with this name, if there was one and it has a number.
    pub(crate) fn list_number(&self, check: &str) -> Option<u64> {
        self.lists.iter().find(|(name, _)| *name == check).and_then(|(_, number)| *number)
    }

    /// That a span of time includes this moment; the verdict ends with it.
    pub(crate) fn span(&mut self, checks: &mut Checks, id: CheckId, (from, to): (UnixTime, UnixTime)) {
        let Self { now, until, .. } = self;
        let span = format!("{from} to {to}");
        let found = if from <= *now && *now <= to { Ok(span) } else { Err(span) };
        checks.add(id, format!("one that includes {now}"), found);
        *until = (*until).min(to);
    }
}
