//! What must never happen, as values: the platform collects them, a test asserts that there are none.
//!
//! Owns the list of invariants. A violation is no error of an operation: a real host goes on, and so does this one.

use crate::rmp::Rmp;
use crate::units::{Asid, Gpa, Pfn};

/// A broken invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Law *pages-before-key*: an ASID became free while the RMP named it.
    #[error("pages-before-key: {asid} became free while {pages} pages name it, first {first} as {gpa}")]
    PagesBeforeKey {
        /// The ASID.
        asid: Asid,
        /// How many pages.
        pages: u64,
        /// The first.
        first: Pfn,
        /// The address it is at.
        gpa: Gpa,
    },
    /// A guest accepted one address at two places: the host can swap them.
    #[error("{asid} has {gpa} validated at {first} and at {second}")]
    ValidatedTwice {
        /// The guest.
        asid: Asid,
        /// The address.
        gpa: Gpa,
        /// Where it was.
        first: Pfn,
        /// Where it is too.
        second: Pfn,
    },
    /// A page went from one guest to another without having been the host's in between.
    #[error("{pfn} went from {from} to {to} at once")]
    GuestToGuest {
        /// The page.
        pfn: Pfn,
        /// Its owner.
        from: Asid,
        /// Its next owner.
        to: Asid,
    },
    /// A page was assigned to an ASID that no VM has.
    #[error("{pfn} was assigned to {asid}, which no VM has")]
    AssignedToNobody {
        /// The page.
        pfn: Pfn,
        /// The ASID.
        asid: Asid,
    },
    /// The host wrote to a page that is not its own: fatal to a real one.
    #[error("the host wrote to {0}, which is assigned")]
    HostWrite(Pfn),
    /// The PSP was shut down while it had pages that then nobody reclaims.
    #[error("the firmware was shut down with {0} pages of its own")]
    FirmwarePagesLeft(usize),
}

impl Violation {
    /// Whether the RMP names an ASID that is free.
    pub(crate) fn pages_before_key(rmp: &Rmp, asid: Asid) -> Option<Violation> {
        let (first, entry) = rmp.first_page_of(asid)?;
        Some(Violation::PagesBeforeKey { asid, pages: rmp.pages_of(asid), first, gpa: entry.gpa })
    }
}
