//! A change of ownership between its beginning and its outcome.
//!
//! Owns the promise that every conversion ends: with the outcome it was given, or in doubt.

use smallvec::SmallVec;

use super::Ledger;
use super::state::{Event, Owner};
use crate::address::GfnRange;

/// Runs of pages; most conversions have one, and need no memory for it.
pub(super) type Parts = SmallVec<[GfnRange; 2]>;

/// Pages on their way to another owner; what [`Ledger::begin`] returns.
///
/// Exactly one of [`commit`](Self::commit), [`abort`](Self::abort) and [`in_doubt`](Self::in_doubt) says how it ended.
/// One that is dropped without (a panic, an early return) is in doubt: what the kernel did is not known, so nobody may
/// rely on those pages any more.
#[derive(Debug)]
#[must_use = "a conversion dropped without an outcome leaves its pages in doubt"]
pub struct Conversion<'a> {
    ledger: &'a Ledger,
    to: Owner,
    parts: Parts,
    outcome: Event,
}

impl<'a> Conversion<'a> {
    pub(super) fn new(ledger: &'a Ledger, to: Owner, parts: Parts) -> Self {
        Self { ledger, to, parts, outcome: Event::Doubt }
    }

    /// The runs of pages that change owner, each as long as can be, ascending. Empty if all had that owner already.
    pub fn parts(&self) -> &[GfnRange] {
        &self.parts
    }

    /// Who the pages go to.
    pub fn to(&self) -> Owner {
        self.to
    }

    /// The pages have the new owner.
    pub fn commit(mut self) {
        self.outcome = Event::Commit;
    }

    /// Nothing happened: the pages are again what they were.
    pub fn abort(mut self) {
        self.outcome = Event::Abort;
    }

    /// Nobody knows: the pages belong to no one until teardown.
    pub fn in_doubt(self) {}
}

impl Drop for Conversion<'_> {
    fn drop(&mut self) {
        self.ledger.settle(&self.parts, self.outcome);
    }
}
