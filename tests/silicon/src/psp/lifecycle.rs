//! A guest's key in the memory controller, and its end.
//!
//! Specification: 56860, SNP_ACTIVATE, SNP_DECOMMISSION, SNP_GUEST_STATUS.

use crate::asid::{AsidError, AsidState, GuestKind};
use crate::hardware::Hardware;
use crate::psp::Psp;
use crate::psp::guest::GuestState;
use crate::psp::policy::Policy;
use crate::psp::status::Status;
use crate::units::{Asid, Pfn};

/// What SNP_GUEST_STATUS tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestStatus {
    /// The policy.
    pub policy: Policy,
    /// The ASID, 0 if it has none.
    pub asid: Asid,
    /// How far it is.
    pub state: GuestState,
    /// Reports must not be signed with the VCEK.
    pub vcek_disabled: bool,
}

impl Psp {
    /// SNP_ACTIVATE: the guest's key is installed under an ASID.
    ///
    /// The firmware does not search the RMP for pages that name the ASID already.
    pub fn activate(&mut self, hw: &mut Hardware, context: Pfn, asid: Asid) -> Result<(), Status> {
        let guest = self.guest_in(context, &[GuestState::Launch, GuestState::Running])?;
        if guest.asid.is_some() {
            return Err(Status::Active);
        }
        if !hw.asids.range(GuestKind::Snp).contains(&asid.0) {
            return Err(Status::InvalidAsid);
        }
        hw.asids.bind(asid).map_err(|error| match error {
            AsidError::DfFlushRequired => Status::DfFlushRequired,
            AsidError::State { state: AsidState::Bound, .. } => Status::AsidOwned,
            _ => Status::InvalidAsid,
        })?;
        hw.install_key(asid, guest.key.clone());
        guest.asid = Some(asid);
        Ok(())
    }

    /// SNP_DECOMMISSION: the context is destroyed and its page the firmware's again. The key leaves the memory
    /// controller; whether pages still name the ASID is not looked at.
    pub fn decommission(&mut self, hw: &mut Hardware, context: Pfn) -> Result<(), Status> {
        self.require_init()?;
        let guest = self.guests.remove(&context).ok_or(Status::InvalidGuest)?;
        if let Some(asid) = guest.asid {
            hw.remove_key(asid);
            hw.asids.unbind(asid).map_err(|_| Status::InvalidAsid)?;
        }
        hw.rmp.context_to_firmware(context);
        Ok(())
    }

    /// SNP_GUEST_STATUS.
    pub fn guest_status(&self, context: Pfn) -> Result<GuestStatus, Status> {
        self.require_init()?;
        let guest = self.guests.get(&context).ok_or(Status::InvalidGuest)?;
        let asid = guest.asid.unwrap_or(Asid::HOST);
        Ok(GuestStatus { policy: guest.policy, asid, state: guest.state, vcek_disabled: guest.vcek_disabled })
    }
}
