//! PVALIDATE and RMPADJUST, which a guest executes.
//!
//! Owns what each checks, in which order, and the code that it leaves in EAX, or the fault that it raises. Specification:
//! APM volume 3, the two instructions; volume 2, 15.36.

use crate::rmp::access::NestedFault;
use crate::rmp::{Entry, Permissions, Rmp};
use crate::units::{Asid, Gpa, PageSize, Pfn, Vmpl};

/// What PVALIDATE is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Accept the page.
    Validate,
    /// Give it up.
    Rescind,
}

/// What PVALIDATE did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Carry clear: the page's validity changed.
    Changed,
    /// Carry set: it was so already. A guest must take it for an attack.
    Unchanged,
}

/// Why PVALIDATE did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PvalidateFail {
    /// 1: the address is not aligned to the size.
    #[error("FAIL_INPUT: {0} does not begin a page of this size")]
    Input(Gpa),
    /// 6: 2 MiB were asked for, and the entry is of 4 KiB.
    #[error("FAIL_SIZEMISMATCH: {0} is not assigned as 2 MiB")]
    SizeMismatch(Gpa),
    /// The guest exits: the hypervisor has to do something first.
    #[error(transparent)]
    Nested(#[from] NestedFault),
}

/// What RMPADJUST makes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// The level whose permissions are set.
    pub target: Vmpl,
    /// What it may do.
    pub permissions: Permissions,
    /// Whether the page is registers of a vCPU.
    pub vmsa: bool,
}

/// Why RMPADJUST did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RmpadjustFail {
    /// 1: the address is not aligned to the size.
    #[error("FAIL_INPUT: {0} does not begin a page of this size")]
    Input(Gpa),
    /// 2: the target is not less privileged, or would get what the caller has not.
    #[error("FAIL_PERMISSION: VMPL{} may not grant this to VMPL{}", .caller.number(), .target.number())]
    Permission {
        /// Who executes it.
        caller: Vmpl,
        /// Whose permissions were to be set.
        target: Vmpl,
    },
    /// 6: 2 MiB were asked for, and the entry is of 4 KiB.
    #[error("FAIL_SIZEMISMATCH: {0} is not assigned as 2 MiB")]
    SizeMismatch(Gpa),
    /// The page was never validated: #VC.
    #[error("#VC: {0} is not validated")]
    NotValidated(Gpa),
    /// The guest exits: the hypervisor has to do something first.
    #[error(transparent)]
    Nested(#[from] NestedFault),
}

impl Rmp {
    /// PVALIDATE of `gpa`, which the nested page table has at `pfn`, by a guest.
    pub fn pvalidate(
        &mut self,
        asid: Asid,
        gpa: Gpa,
        pfn: Pfn,
        size: PageSize,
        validity: Validity,
    ) -> Result<Validation, PvalidateFail> {
        if !gpa.is_aligned(size) {
            return Err(PvalidateFail::Input(gpa));
        }
        let entry = self.owned_entry(asid, gpa, pfn)?;
        match (size, entry.size) {
            (PageSize::Size2M, PageSize::Size4K) => return Err(PvalidateFail::SizeMismatch(gpa)),
            (PageSize::Size4K, PageSize::Size2M) => return Err(NestedFault::size(gpa).into()),
            _ => {}
        }
        let validated = validity == Validity::Validate;
        if entry.validated == validated {
            return Ok(Validation::Unchanged);
        }
        self.replace(pfn, Entry { validated, ..entry });
        Ok(Validation::Changed)
    }

    /// RMPADJUST of `gpa`, which the nested page table has at `pfn`, by a guest's level `caller`.
    pub fn rmpadjust(
        &mut self,
        (asid, caller): (Asid, Vmpl),
        gpa: Gpa,
        pfn: Pfn,
        size: PageSize,
        adjustment: Adjustment,
    ) -> Result<(), RmpadjustFail> {
        if !gpa.is_aligned(size) {
            return Err(RmpadjustFail::Input(gpa));
        }
        let mut entry = self.owned_entry(asid, gpa, pfn)?;
        match (size, entry.size) {
            (PageSize::Size2M, PageSize::Size4K) => return Err(RmpadjustFail::SizeMismatch(gpa)),
            (PageSize::Size4K, PageSize::Size2M) => return Err(NestedFault::size(gpa).into()),
            _ => {}
        }
        if !entry.validated {
            return Err(RmpadjustFail::NotValidated(gpa));
        }
        let target = adjustment.target;
        let may_grant = target > caller && entry.permissions_of(caller).contains(adjustment.permissions);
        let may_change_vmsa = adjustment.vmsa == entry.vmsa || caller == Vmpl::Vmpl0;
        if !may_grant || !may_change_vmsa {
            return Err(RmpadjustFail::Permission { caller, target });
        }
        entry.permissions[target.index()] = adjustment.permissions;
        entry.vmsa = adjustment.vmsa;
        self.replace(pfn, entry);
        Ok(())
    }

    /// The entry of a page that is this guest's at this address, and not the PSP's for now.
    fn owned_entry(&self, asid: Asid, gpa: Gpa, pfn: Pfn) -> Result<Entry, NestedFault> {
        match self.entry(pfn) {
            Ok(entry) if entry.is_guests() && entry.asid == asid && entry.gpa == gpa && !entry.immutable => Ok(entry),
            _ => Err(NestedFault::owner(gpa)),
        }
    }
}
