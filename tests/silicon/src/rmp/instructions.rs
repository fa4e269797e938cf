//! RMPUPDATE and PSMASH, which the hypervisor executes.
//!
//! Owns what each checks, in which order, and the code that it leaves in EAX. Specification: APM volume 3, the two
//! instructions; volume 2, 15.36. FAIL_INUSE, which an instruction on another processor causes, does not
//! occur: operations here are atomic.

use crate::rmp::{Entry, Rmp};
use crate::units::{Asid, Gpa, PageSize, Pfn};

/// What RMPUPDATE makes of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// No longer the hypervisor's.
    pub assigned: bool,
    /// Whose; 0 for the firmware.
    pub asid: Asid,
    /// Where the guest has it.
    pub gpa: Gpa,
    /// How much.
    pub size: PageSize,
    /// Only the PSP may change it from now on.
    pub immutable: bool,
}

/// RMPUPDATE's failures, with their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RmpupdateFail {
    /// 1: the operands make no sense.
    #[error("FAIL_INPUT: {0} cannot be given this entry")]
    Input(Pfn),
    /// 2: the entry is immutable.
    #[error("FAIL_PERMISSION: the entry of {0} is immutable")]
    Permission(Pfn),
    /// 4: 4 KiB and 2 MiB entries would overlap.
    #[error("FAIL_OVERLAP: {0} would overlap an entry of the other size")]
    Overlap(Pfn),
}

/// PSMASH's failures, with their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PsmashFail {
    /// 1: the page is no assigned page of 2 MiB.
    #[error("FAIL_INPUT: {0} is not assigned as 2 MiB")]
    Input(Pfn),
    /// 2: the entry is immutable.
    #[error("FAIL_PERMISSION: the entry of {0} is immutable")]
    Permission(Pfn),
    /// 4: not the first page of 2 MiB, or outside of the table.
    #[error("FAIL_BADADDR: {0} does not begin 2 MiB that the table covers")]
    BadAddress(Pfn),
}

impl RmpupdateFail {
    /// What is in EAX.
    pub fn code(&self) -> u32 {
        match self {
            RmpupdateFail::Input(_) => 1,
            RmpupdateFail::Permission(_) => 2,
            RmpupdateFail::Overlap(_) => 4,
        }
    }
}

impl PsmashFail {
    /// What is in EAX.
    pub fn code(&self) -> u32 {
        match self {
            PsmashFail::Input(_) => 1,
            PsmashFail::Permission(_) => 2,
            PsmashFail::BadAddress(_) => 4,
        }
    }
}

impl Rmp {
    /// RMPUPDATE: the hypervisor gives a page away, or takes it back.
    pub fn rmpupdate(&mut self, pfn: Pfn, new: Assignment) -> Result<(), RmpupdateFail> {
        let sensible = if new.assigned {
            new.asid == Asid::HOST || new.gpa.is_aligned(new.size)
        } else {
            !new.immutable && new.asid == Asid::HOST
        };
        if !sensible || !pfn.is_aligned(new.size) || self.covered(pfn, new.size).is_err() {
            return Err(RmpupdateFail::Input(pfn));
        }
        if self.entry(pfn).is_ok_and(|entry| entry.immutable) {
            return Err(RmpupdateFail::Permission(pfn));
        }
        if self.overlaps(pfn, new.size) {
            return Err(RmpupdateFail::Overlap(pfn));
        }
        let old = self.entries.get(&pfn).copied().unwrap_or_default();
        self.replace(pfn, old.updated(new));
        Ok(())
    }

    /// Whether an entry of the other size is in the way.
    fn overlaps(&self, pfn: Pfn, size: PageSize) -> bool {
        match size {
            PageSize::Size4K => self.whole_2m(pfn).is_some(),
            PageSize::Size2M => {
                let within = pfn..Pfn(pfn.0 + size.pages());
                self.entries.range(within).any(|(_, entry)| entry.size == PageSize::Size4K)
            }
        }
    }

    /// PSMASH: 2 MiB become 512 entries of 4 KiB, which say the same.
    pub fn psmash(&mut self, pfn: Pfn) -> Result<(), PsmashFail> {
        if !pfn.is_aligned(PageSize::Size2M) || self.covered(pfn, PageSize::Size2M).is_err() {
            return Err(PsmashFail::BadAddress(pfn));
        }
        let Some((_, whole)) = self.whole_2m(pfn).filter(|(_, entry)| entry.assigned) else {
            return Err(PsmashFail::Input(pfn));
        };
        if whole.immutable {
            return Err(PsmashFail::Permission(pfn));
        }
        self.replace(pfn, Entry::default());
        for (offset, page) in (0..).zip(pfn.range(PageSize::Size2M)) {
            self.replace(page, Entry { gpa: whole.gpa.plus_pages(offset), size: PageSize::Size4K, ..whole });
        }
        Ok(())
    }
}

impl Entry {
    /// What RMPUPDATE leaves. The guest's acceptance outlives an update that changes neither owner nor place: else a page
    /// could never be made ready for swapping.
    fn updated(self, new: Assignment) -> Entry {
        if !new.assigned {
            return Entry::default();
        }
        let same = self.is_guests() && (self.asid, self.gpa, self.size) == (new.asid, new.gpa, new.size);
        let kept = if same { self } else { Entry { permissions: Entry::first_permissions(), ..Entry::default() } };
        let permissions = if new.asid == Asid::HOST { Default::default() } else { kept.permissions };
        Entry {
            assigned: true,
            asid: new.asid,
            gpa: new.gpa,
            size: new.size,
            immutable: new.immutable,
            permissions,
            ..kept
        }
    }
}
