//! One entry of the table, and the state it puts a page in.
//!
//! Specification: APM volume 2, 15.36.3 "Reverse Map Table" (the entry); 56860, "Page states" (the names).

use std::fmt;

use crate::units::{Asid, Gpa, PageSize, Vmpl};

/// What a privilege level may do with a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Permissions(pub u8);

/// An entry. The default is the hypervisor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Not the hypervisor's: no one outside may write.
    pub assigned: bool,
    /// Whose, if a guest's.
    pub asid: Asid,
    /// Where the guest has it.
    pub gpa: Gpa,
    /// How much the entry covers.
    pub size: PageSize,
    /// Only the PSP may change the entry.
    pub immutable: bool,
    /// The guest has accepted the page.
    pub validated: bool,
    /// The page holds registers of a vCPU.
    pub vmsa: bool,
    /// By privilege level.
    pub permissions: [Permissions; 4],
    /// The page is a guest's context: the firmware alone knows this.
    pub(crate) context: bool,
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageState {
    /// The hypervisor's, or shared: anyone can write.
    Hypervisor,
    /// Was the firmware's: waits for the hypervisor to take it back.
    Reclaim,
    /// The firmware's, to write results to.
    Firmware,
    /// The firmware's, for what it knows of a guest.
    Context,
    /// A guest's, which the firmware is to fill.
    PreGuest,
    /// A guest's, which the firmware is to swap out.
    PreSwap,
    /// A guest's that it has not accepted.
    GuestInvalid,
    /// A guest's that it has accepted.
    GuestValid,
}

impl Permissions {
    /// May read.
    pub const READ: Permissions = Permissions(1);
    /// May write.
    pub const WRITE: Permissions = Permissions(1 << 1);
    /// May execute at CPL 3.
    pub const EXECUTE_USER: Permissions = Permissions(1 << 2);
    /// May execute at CPL 0 to 2.
    pub const EXECUTE_SUPERVISOR: Permissions = Permissions(1 << 3);
    /// May use it as a supervisor shadow stack.
    pub const SHADOW_STACK: Permissions = Permissions(1 << 4);
    /// Everything.
    pub const ALL: Permissions = Permissions(0x1f);

    /// Whether all of these are granted.
    pub fn contains(self, other: Permissions) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Entry {
    /// Whether a guest is its owner.
    pub fn is_guests(&self) -> bool {
        self.assigned && self.asid != Asid::HOST
    }

    /// What the page is.
    pub fn state(&self) -> PageState {
        match (self.assigned, self.is_guests(), self.immutable, self.validated) {
            (false, ..) => PageState::Hypervisor,
            (true, true, true, false) => PageState::PreGuest,
            (true, true, true, true) => PageState::PreSwap,
            (true, true, false, false) => PageState::GuestInvalid,
            (true, true, false, true) => PageState::GuestValid,
            (true, false, true, _) if self.context => PageState::Context,
            (true, false, true, _) => PageState::Firmware,
            (true, false, false, _) => PageState::Reclaim,
        }
    }

    /// What a level may do.
    pub fn permissions_of(&self, vmpl: Vmpl) -> Permissions {
        self.permissions[vmpl.index()]
    }

    /// What levels may do with a page that was just assigned: the first everything, the others nothing.
    pub(crate) fn first_permissions() -> [Permissions; 4] {
        [Permissions::ALL, Permissions(0), Permissions(0), Permissions(0)]
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageState::Hypervisor => "hypervisor",
            PageState::Reclaim => "reclaim",
            PageState::Firmware => "firmware",
            PageState::Context => "context",
            PageState::PreGuest => "pre-guest",
            PageState::PreSwap => "pre-swap",
            PageState::GuestInvalid => "guest-invalid",
            PageState::GuestValid => "guest-valid",
        })
    }
}
