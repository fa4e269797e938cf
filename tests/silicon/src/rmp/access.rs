//! Whether an access to memory may pass.
//!
//! Owns the checks after the nested page walk and the fault that a failed one raises. Specification: APM volume 2,
//! 15.36.10 "RMP and VMPL access checks" and "Nested versus guest page faults" (the error code).

use crate::rmp::{NotCovered, Permissions, Rmp};
use crate::units::{Asid, Gpa, PageSize, Pfn, Vmpl};

/// An access by a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who.
    pub asid: Asid,
    /// At which level.
    pub vmpl: Vmpl,
    /// Whether the guest's page table says encrypted (C-bit), or shared.
    pub private: bool,
    /// What it wants to do.
    pub needs: Permissions,
}

/// What the nested page table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The address.
    pub gpa: Gpa,
    /// Where it is.
    pub pfn: Pfn,
    /// Size of the leaf.
    pub size: PageSize,
}

/// #VMEXIT(NPF) because of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("#NPF at {gpa}, error code {error_code:#x}")]
pub struct NestedFault {
    /// EXITINFO2.
    pub gpa: Gpa,
    /// EXITINFO1, without the bits of the nested walk.
    pub error_code: u64,
}

/// Why a guest's access did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessFault {
    /// The guest exits.
    #[error(transparent)]
    Nested(#[from] NestedFault),
    /// The guest gets #VC with error code 0x404: it never accepted the page.
    #[error("#VC: {0} is not validated")]
    NotValidated(Gpa),
}

/// Why the host's write did not pass: #PF with bit 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// The page is not the host's.
    #[error("#PF: {0} is assigned and not the host's to write")]
    Assigned(Pfn),
    /// There is no such page.
    #[error(transparent)]
    NotCovered(#[from] NotCovered),
}

impl NestedFault {
    /// A check of the table failed.
    pub const RMP: u64 = 1 << 31;
    /// The access was to encrypted memory.
    pub const ENC: u64 = 1 << 34;
    /// Sizes of mapping and entry differ.
    pub const SIZEM: u64 = 1 << 35;
    /// The level may not.
    pub const VMPL: u64 = 1 << 36;

    /// The page is not the guest's at this address.
    pub(crate) fn owner(gpa: Gpa) -> NestedFault {
        NestedFault { gpa, error_code: Self::RMP | Self::ENC }
    }

    /// The page is, at another size.
    pub(crate) fn size(gpa: Gpa) -> NestedFault {
        NestedFault { gpa, error_code: Self::RMP | Self::ENC | Self::SIZEM }
    }

    pub(crate) fn level(gpa: Gpa) -> NestedFault {
        NestedFault { gpa, error_code: Self::RMP | Self::ENC | Self::VMPL }
    }

    pub(crate) fn shared(gpa: Gpa) -> NestedFault {
        NestedFault { gpa, error_code: Self::RMP }
    }
}

impl Rmp {
    /// Checks a guest's access. Mapping and entry must be of one size: the hypervisor smashes the entry or maps less (Linux
    /// 7.2 source, `sev_handle_rmp_fault`, names both cases). Reads of shared memory are not checked: encryption protects what they reach.
    pub fn check(&self, access: Access, at: Mapping) -> Result<(), AccessFault> {
        let entry = self.entry(at.pfn).unwrap_or_default();
        if !access.private {
            let writes = access.needs.contains(Permissions::WRITE);
            return if writes && entry.assigned { Err(NestedFault::shared(at.gpa).into()) } else { Ok(()) };
        }
        let owned = entry.is_guests() && entry.asid == access.asid && entry.gpa == at.gpa && !entry.immutable;
        if !owned {
            return Err(NestedFault::owner(at.gpa).into());
        }
        if at.size != entry.size {
            return Err(NestedFault::size(at.gpa).into());
        }
        if !entry.validated {
            return Err(AccessFault::NotValidated(at.gpa));
        }
        if !entry.permissions_of(access.vmpl).contains(access.needs) {
            return Err(NestedFault::level(at.gpa).into());
        }
        Ok(())
    }

    /// Checks a write by the host.
    pub fn check_host_write(&self, pfn: Pfn) -> Result<(), HostFault> {
        if self.entry(pfn)?.assigned { Err(HostFault::Assigned(pfn)) } else { Ok(()) }
    }
}
