//! What happened, in order, for tests that ask about order.

use std::collections::VecDeque;

use crate::psp::{Command, Status};
use crate::rmp::{Assignment, PsmashFail, PvalidateFail, RmpupdateFail, Validation, Validity};
use crate::units::{Asid, Gpa, Pfn};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The firmware was given a command.
    Command {
        /// Which.
        command: Command,
        /// What it answered.
        outcome: Result<(), Status>,
    },
    /// RMPUPDATE.
    Rmpupdate {
        /// Of this page.
        pfn: Pfn,
        /// To this.
        new: Assignment,
        /// What it answered.
        outcome: Result<(), RmpupdateFail>,
    },
    /// PSMASH.
    Psmash {
        /// Of this page.
        pfn: Pfn,
        /// What it answered.
        outcome: Result<(), PsmashFail>,
    },
    /// PVALIDATE.
    Pvalidate {
        /// By this guest.
        asid: Asid,
        /// Of this address.
        gpa: Gpa,
        /// Where it is.
        pfn: Pfn,
        /// To accept it or give it up.
        validity: Validity,
        /// What it answered.
        outcome: Result<Validation, PvalidateFail>,
    },
    /// A VM got an ASID.
    AsidAllocated(Asid),
    /// A VM gave an ASID back.
    AsidReleased(Asid),
    /// Nobody gets this ASID again.
    AsidLeaked(Asid),
    /// All processors wrote their caches back.
    WbinvdAll,
    /// These ASIDs can be used again.
    AsidsFreed(Vec<Asid>),
    /// The kernel gave a page up.
    PageLeaked(Pfn),
}

/// Events that are kept; older ones are forgotten.
pub const KEPT_EVENTS: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Log(VecDeque<Event>);

impl Log {
    pub(super) fn push(&mut self, event: Event) {
        if self.0.len() == KEPT_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.0.iter().cloned().collect()
    }
}
