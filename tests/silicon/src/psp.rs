//! The PSP's SNP firmware: its commands, on a machine's memory.
//!
//! Owns the platform's state, every guest's context and the status codes. Commands of the whole platform are in
//! [`management`], of a guest's beginning in [`launch`], of its life and end in [`lifecycle`]. Does not own command
//! buffers: parameters come as values, pages by number, as the kernel's driver would have put them in.
//!
//! Specification: SEV-SNP Firmware ABI (56860), the SNP commands.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::hardware::Hardware;
use crate::model::Tcb;
use crate::secret::Fresh;
use crate::units::{PageSize, Pfn};
use test_root::chip::Seed;

pub mod cpuid;
pub mod digest;
pub mod guest;
pub mod id_block;
pub mod launch;
pub mod lifecycle;
pub mod management;
pub mod policy;
pub mod secrets;
pub mod status;

pub use digest::{Digest, PageKind};
pub use guest::{Guest, GuestState};
pub use id_block::{IdBlock, IdentityInput};
pub use launch::{LaunchFinish, LaunchUpdate};
pub use lifecycle::GuestStatus;
pub use management::{FeatureInfo, PlatformState, PlatformStatus, SnpConfig};
pub use policy::Policy;
pub use status::Status;

/// A command, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Command {
    SnpInit = 0x081,
    SnpShutdown = 0x082,
    SnpPlatformStatus = 0x083,
    SnpDfFlush = 0x084,
    SnpDecommission = 0x090,
    SnpActivate = 0x091,
    SnpGuestStatus = 0x092,
    SnpGctxCreate = 0x093,
    SnpGuestRequest = 0x094,
    SnpLaunchStart = 0x0a0,
    SnpLaunchUpdate = 0x0a1,
    SnpLaunchFinish = 0x0a2,
    SnpPageReclaim = 0x0c7,
    SnpSetConfig = 0x0c9,
    SnpCommit = 0x0cb,
    SnpVlekLoad = 0x0cd,
    SnpFeatureInfo = 0x0ce,
}

/// The firmware.
#[derive(Debug)]
pub struct Psp {
    pub(crate) config: Config,
    pub(crate) seed: Seed,
    fresh: Fresh,
    state: PlatformState,
    pub(crate) current_tcb: Tcb,
    pub(crate) committed_tcb: Tcb,
    pub(crate) reported_tcb: Tcb,
    pub(crate) committed_version: (u8, u8, u8),
    pub(crate) mask_chip_id: bool,
    pub(crate) mask_chip_key: bool,
    pub(crate) vlek: Option<management::Vlek>,
    /// By the page of their context.
    pub(crate) guests: BTreeMap<Pfn, Guest>,
}

impl Psp {
    /// The firmware after a reset.
    pub fn new(config: &Config) -> Psp {
        let seed = Seed(config.seed);
        Psp {
            config: config.clone(),
            seed,
            fresh: Fresh::new(seed),
            state: PlatformState::Uninitialized,
            current_tcb: config.current_tcb,
            committed_tcb: config.committed_tcb,
            reported_tcb: config.committed_tcb,
            committed_version: (config.api.0, config.api.1, config.build),
            mask_chip_id: false,
            mask_chip_key: false,
            vlek: None,
            guests: BTreeMap::new(),
        }
    }

    /// What the platform is like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A guest, by the page of its context. No host can look into one.
    pub fn guest(&self, context: Pfn) -> Option<&Guest> {
        self.guests.get(&context)
    }

    /// Root of keys that only this chip derives.
    pub(crate) fn chip_root(&self) -> Seed {
        Seed(self.seed.derive("chip root", &[]))
    }

    /// Root of keys that a provider's chips derive.
    pub(crate) fn vlek_root(&self) -> Option<Seed> {
        self.vlek.map(|vlek| Seed(Seed(vlek.hashstick).derive("VLEK root", &[])))
    }

    fn require_init(&self) -> Result<(), Status> {
        match self.state {
            PlatformState::Initialized => Ok(()),
            PlatformState::Uninitialized => Err(Status::InvalidPlatformState),
        }
    }

    /// A guest in one of these states.
    pub(crate) fn guest_in(&mut self, context: Pfn, states: &[GuestState]) -> Result<&mut Guest, Status> {
        self.require_init()?;
        let guest = self.guests.get_mut(&context).ok_or(Status::InvalidGuest)?;
        if !states.contains(&guest.state) {
            return Err(Status::InvalidGuestState);
        }
        Ok(guest)
    }

    /// SNP_PAGE_RECLAIM.
    pub fn page_reclaim(&mut self, hw: &mut Hardware, pfn: Pfn, size: PageSize) -> Result<(), Status> {
        use crate::rmp::ReclaimFail;
        self.require_init()?;
        hw.rmp.reclaim(pfn, size).map(|_| ()).map_err(|fail| match fail {
            ReclaimFail::NotCovered(_) => Status::InvalidAddress,
            ReclaimFail::State { .. } => Status::InvalidPageState,
            ReclaimFail::Size { .. } => Status::InvalidPageSize,
        })
    }
}

#[cfg(test)]
mod tests;
