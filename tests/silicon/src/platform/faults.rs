//! What shall fail, and when.
//!
//! Owns the counting. A fault strikes once, before the operation has any effect.

use crate::psp::{Command, Status};
use crate::rmp::RmpupdateFail;
use crate::units::Pfn;

/// One failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A command fails.
    Command {
        /// Which, or any.
        command: Option<Command>,
        /// The how manieth such command from now on; 1 is the next.
        nth: u64,
        /// With what.
        status: Status,
    },
    /// RMPUPDATE fails.
    Rmpupdate {
        /// The how manieth from now on; 1 is the next.
        nth: u64,
        /// With what; the page is that of the operation.
        fail: RmpupdateFail,
    },
}

#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn plant(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// The status that this command is to fail with.
    pub(super) fn command(&mut self, given: Command) -> Option<Status> {
        self.strike(|fault| match fault {
            Fault::Command { command, nth, status } if command.is_none_or(|command| command == given) => {
                Some((nth, *status))
            }
            _ => None,
        })
    }

    /// What this RMPUPDATE is to fail with.
    pub(super) fn rmpupdate(&mut self) -> Option<RmpupdateFail> {
        self.strike(|fault| match fault {
            Fault::Rmpupdate { nth, fail } => Some((nth, *fail)),
            Fault::Command { .. } => None,
        })
    }

    /// Counts all faults that an operation could be, and takes the first that is due.
    fn strike<T>(&mut self, mut candidate: impl FnMut(&mut Fault) -> Option<(&mut u64, T)>) -> Option<T> {
        let mut due = None;
        self.0.retain_mut(|fault| {
            let Some((nth, what)) = candidate(fault) else { return true };
            *nth = nth.saturating_sub(1);
            let strikes = *nth == 0 && due.is_none();
            if strikes {
                due = Some(what);
            }
            !strikes
        });
        due
    }
}

impl RmpupdateFail {
    /// The same failure, of this page.
    pub(super) fn at(self, pfn: Pfn) -> RmpupdateFail {
        match self {
            RmpupdateFail::Input(_) => RmpupdateFail::Input(pfn),
            RmpupdateFail::Permission(_) => RmpupdateFail::Permission(pfn),
            RmpupdateFail::Overlap(_) => RmpupdateFail::Overlap(pfn),
        }
    }
}
