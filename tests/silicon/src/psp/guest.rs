//! What the firmware knows of a guest: its context.
//!
//! Specification: 56860, "Guest context" and "Guest state machine".

use crate::memory::Key;
use crate::model::Tcb;
use crate::psp::digest::Digest;
use crate::psp::id_block::Identity;
use crate::psp::policy::Policy;
use crate::psp::secrets::Vmpck;
use crate::units::Asid;

/// How far a guest is (GSTATE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestState {
    /// Has a context and nothing else.
    Init,
    /// Gets its first pages.
    Launch,
    /// Can run; gets no more pages.
    Running,
}

/// A guest's context.
#[derive(Clone, Debug)]
pub struct Guest {
    pub(crate) state: GuestState,
    pub(crate) asid: Option<Asid>,
    pub(crate) policy: Policy,
    pub(crate) digest: Digest,
    pub(crate) gosvw: [u8; 16],
    pub(crate) key: Key,
    pub(crate) vmpcks: [Vmpck; 4],
    /// Messages that each key has protected.
    pub(crate) messages: [u64; 4],
    pub(crate) report_id: [u8; 32],
    pub(crate) host_data: [u8; 32],
    pub(crate) identity: Option<Identity>,
    pub(crate) vcek_disabled: bool,
    pub(crate) launch_tcb: Tcb,
    /// Root of derived keys that do not depend on the chip (VMRK).
    pub(crate) root_key: [u8; 32],
}

impl GuestState {
    /// Its number in SNP_GUEST_STATUS.
    pub fn number(self) -> u8 {
        match self {
            GuestState::Init => 0,
            GuestState::Launch => 1,
            GuestState::Running => 2,
        }
    }
}

impl Guest {
    /// How far it is.
    pub fn state(&self) -> GuestState {
        self.state
    }

    /// Under which ASID its key is installed.
    pub fn asid(&self) -> Option<Asid> {
        self.asid
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The launch digest so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Host data.
    pub fn host_data(&self) -> [u8; 32] {
        self.host_data
    }

    /// What the ID block said.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }
}
