//! Attestation reports.
//!
//! Owns the layout of versions 2, 3 and 5 and which key signs. Version 3 adds family, model and stepping; 5 the
//! mitigation vectors; 4 is not built. Specification: 56860, MSG_REPORT_REQ, "ATTESTATION_REPORT".

use crate::bytes::put;
use crate::psp::{Guest, Psp, Status};
use crate::secret::Seed;
use crate::signing::KeyPair;
use crate::units::Vmpl;

/// Bytes of a report.
pub const REPORT_BYTES: usize = 1184;
/// Bytes that are signed.
pub const SIGNED_BYTES: usize = 0x2a0;

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

/// A key that endorses the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndorsementKey {
    /// The chip's.
    Vcek,
    /// The provider's.
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

impl EndorsementKey {
    fn number(self) -> u32 {
        match self {
            EndorsementKey::Vcek => 0,
            EndorsementKey::Vlek => 1,
        }
    }
}

/// SIGNING_KEY of a report that nobody signed.
const UNSIGNED: u32 = 7;

impl Psp {
    /// The chip's identifier, as reports have it: 8 bytes and zeros on Turin.
    pub fn chip_id(&self) -> [u8; 64] {
        let mut id = [0; 64];
        let whole = [&self.seed.derive("chip ID", &[b"0"])[..], &self.seed.derive("chip ID", &[b"1"])].concat();
        put(&mut id, 0, &whole[..self.config.model.chip_id_bytes()]);
        id
    }

    /// The key pair that endorses the platform at the reported versions.
    pub(crate) fn endorsement_key(&self, key: EndorsementKey) -> Result<KeyPair, Status> {
        let tcb = self.reported_tcb.to_bytes(self.config.model);
        match (key, self.vlek) {
            (EndorsementKey::Vcek, _) => Ok(KeyPair::derive(&self.seed, "VCEK", &[&tcb])),
            (EndorsementKey::Vlek, Some(vlek)) if self.reported_tcb.is_within(vlek.tcb) => {
                Ok(KeyPair::derive(&Seed(vlek.hashstick), "VLEK", &[&tcb]))
            }
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
        let key = self.select_key(guest, request.key)?;
        let mut report = [0; REPORT_BYTES];
        self.put_guest(&mut report, guest, request);
        self.put_platform(&mut report, guest, key);
        if !self.mask_chip_key {
            let signature = self.endorsement_key(key)?.sign(&report[..SIGNED_BYTES]);
            put(&mut report, SIGNED_BYTES, &signature);
        }
        Ok(report)
    }

    fn put_guest(&self, report: &mut [u8], guest: &Guest, request: ReportRequest) {
        put(report, 0x000, &self.config.report_version.to_le_bytes());
        put(report, 0x008, &guest.policy.0.to_le_bytes());
        put(report, 0x030, &request.vmpl.number().to_le_bytes());
        put(report, 0x034, &1u32.to_le_bytes());
        put(report, 0x050, &request.report_data);
        put(report, 0x090, &guest.digest);
        put(report, 0x0c0, &guest.host_data);
        if let Some(identity) = guest.identity {
            put(report, 0x004, &identity.guest_svn.to_le_bytes());
            put(report, 0x010, &identity.family_id);
            put(report, 0x020, &identity.image_id);
            put(report, 0x0e0, &identity.id_key_digest);
            put(report, 0x110, &identity.author_key_digest.unwrap_or([0; 48]));
        }
        put(report, 0x140, &guest.report_id);
        // No migration agent.
        put(report, 0x160, &[0xff; 32]);
    }

    fn put_platform(&self, report: &mut [u8], guest: &Guest, key: EndorsementKey) {
        let model = self.config.model;
        let author = guest.identity.is_some_and(|identity| identity.author_key_digest.is_some());
        let signing = if self.mask_chip_key { UNSIGNED } else { key.number() };
        let key_info = u32::from(author) | u32::from(self.mask_chip_key) << 1 | signing << 2;
        put(report, 0x038, &self.current_tcb.to_bytes(model));
        put(report, 0x040, &self.config.platform_info().to_le_bytes());
        put(report, 0x048, &key_info.to_le_bytes());
        put(report, 0x180, &self.reported_tcb.to_bytes(model));
        if self.config.report_version >= 3 {
            let (family, model, stepping) = model.family_model_stepping();
            put(report, 0x188, &[family, model, stepping]);
        }
        if !self.mask_chip_id && key == EndorsementKey::Vcek {
            put(report, 0x1a0, &self.chip_id());
        }
        let (major, minor) = self.config.api;
        let (committed_major, committed_minor, committed_build) = self.committed_version;
        put(report, 0x1e0, &self.committed_tcb.to_bytes(model));
        put(report, 0x1e8, &[self.config.build, minor, major]);
        put(report, 0x1ec, &[committed_build, committed_minor, committed_major]);
        put(report, 0x1f0, &guest.launch_tcb.to_bytes(model));
        if self.config.report_version >= 5 {
            put(report, 0x1f8, &self.config.mitigations.to_le_bytes());
            put(report, 0x200, &self.config.mitigations.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
