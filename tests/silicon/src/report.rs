//! Attestation reports.
//!
//! Owns what this platform says of itself and of a guest, and which key signs. Does not own the layout, which is
//! `test-root`'s. Specification: 56860, MSG_REPORT_REQ, "ATTESTATION_REPORT".

use test_root::chip::Seed;
use test_root::report::{self, Firmware, Signer, Statement};

pub use test_root::report::{EndorsementKey, REPORT_BYTES, SIGNED_BYTES};

use crate::psp::{Guest, Psp, Status};
use crate::signing::KeyPair;
use crate::units::Vmpl;

/// Which key a guest asks for (KEY_SEL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeySelection {
    /// The VLEK if one is loaded, else the VCEK.
    #[default]
    Any,
    /// The chip's key.
    Vcek,
    /// The provider's key.
    Vlek,
}

/// What a guest asks to be attested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportRequest {
    /// Its own data.
    pub report_data: [u8; 64],
    /// The level that the report is about.
    pub vmpl: Vmpl,
    /// The key.
    pub key: KeySelection,
}

impl KeySelection {
    /// The selection of this number.
    pub(crate) fn from_number(number: u32) -> Option<KeySelection> {
        match number {
            0 => Some(KeySelection::Any),
            1 => Some(KeySelection::Vcek),
            2 => Some(KeySelection::Vlek),
            _ => None,
        }
    }
}

impl Psp {
    /// The chip's identifier, as reports have it: 8 bytes and zeros on Turin.
    pub fn chip_id(&self) -> [u8; 64] {
        self.seed.chip_id(self.config.model)
    }

    /// The key pair that endorses the platform at the reported versions.
    pub(crate) fn endorsement_key(&self, key: EndorsementKey) -> Result<KeyPair, Status> {
        let (model, tcb) = (self.config.model, self.reported_tcb);
        match (key, self.vlek) {
            (EndorsementKey::Vcek, _) => Ok(self.seed.vcek(model, tcb)),
            (EndorsementKey::Vlek, Some(vlek)) if tcb.is_within(vlek.tcb) => Ok(Seed(vlek.hashstick).vlek(model, tcb)),
            (EndorsementKey::Vlek, _) => Err(Status::InvalidKey),
        }
    }

    /// Which key a guest gets that asks for one.
    pub(crate) fn select_key(&self, guest: &Guest, wanted: KeySelection) -> Result<EndorsementKey, Status> {
        match wanted {
            KeySelection::Vlek | KeySelection::Any if self.vlek.is_some() => Ok(EndorsementKey::Vlek),
            KeySelection::Vcek | KeySelection::Any if !guest.vcek_disabled => Ok(EndorsementKey::Vcek),
            _ => Err(Status::InvalidKey),
        }
    }

    /// A report about a guest.
    pub(crate) fn report(&self, guest: &Guest, request: ReportRequest) -> Result<[u8; REPORT_BYTES], Status> {
        let kind = self.select_key(guest, request.key)?;
        let key = self.endorsement_key(kind)?;
        let signer = if self.mask_chip_key { Signer::Nobody } else { Signer::Key(kind, &key) };
        Ok(report::report(&statement(guest, request), &self.platform_part(guest, kind), signer))
    }

    fn platform_part(&self, guest: &Guest, key: EndorsementKey) -> report::Platform {
        let config = &self.config;
        let (major, minor) = config.api;
        let (committed_major, committed_minor, committed_build) = self.committed_version;
        report::Platform {
            model: config.model,
            report_version: config.report_version,
            current_tcb: self.current_tcb,
            committed_tcb: self.committed_tcb,
            reported_tcb: self.reported_tcb,
            launch_tcb: guest.launch_tcb,
            info: config.platform_info(),
            firmware: Firmware { major, minor, build: config.build },
            committed_firmware: Firmware { major: committed_major, minor: committed_minor, build: committed_build },
            mitigations: config.mitigations,
            chip_id: (!self.mask_chip_id && key == EndorsementKey::Vcek).then(|| self.chip_id()),
        }
    }
}

fn statement(guest: &Guest, request: ReportRequest) -> Statement {
    Statement {
        measurement: guest.digest,
        report_data: request.report_data,
        host_data: guest.host_data,
        policy: guest.policy.0,
        vmpl: request.vmpl,
        identity: guest.identity,
        report_id: Some(guest.report_id),
    }
}

#[cfg(test)]
mod tests;
