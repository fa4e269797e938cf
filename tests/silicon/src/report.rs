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
mod tests {
    use super::*;
    use crate::bytes::{all_zero, take, take_u32, take_u64};
    use crate::config::Config;
    use crate::fixture::{CONTEXT, Machine, config};
    use crate::model::Model;
    use crate::psp::SnpConfig;
    use crate::signing::{SigningError, verify};

    const REQUEST: ReportRequest = ReportRequest { report_data: [0xda; 64], vmpl: Vmpl::Vmpl2, key: KeySelection::Any };

    fn report(machine: &Machine, request: ReportRequest) -> Result<[u8; REPORT_BYTES], Status> {
        machine.psp.report(machine.psp.guest(CONTEXT).unwrap(), request)
    }

    fn running(config: &Config) -> Machine {
        let mut machine = Machine::new(config);
        machine.running();
        machine
    }

    fn verifies(machine: &Machine, report: &[u8; REPORT_BYTES], key: EndorsementKey) -> Result<(), SigningError> {
        let public = machine.psp.endorsement_key(key).unwrap().public_key();
        verify(&public, &report[..SIGNED_BYTES], &report[SIGNED_BYTES..])
    }

    #[test]
    fn each_models_report_is_signed_and_has_its_versions_fields() {
        for model in Model::ALL {
            let machine = running(&config(model));
            let report = report(&machine, REQUEST).unwrap();
            assert_eq!(verifies(&machine, &report, EndorsementKey::Vcek), Ok(()));
            let guest = machine.psp.guest(CONTEXT).unwrap();
            assert_eq!(take_u32(&report, 0), model.report_version());
            assert_eq!(take::<48>(&report, 0x90), guest.digest());
            assert_eq!(take::<64>(&report, 0x50), [0xda; 64]);
            assert_eq!((take_u32(&report, 0x30), take_u64(&report, 8)), (2, guest.policy().0));
            let (family, of_family, stepping) = model.family_model_stepping();
            let named = if model == Model::Milan { [0; 3] } else { [family, of_family, stepping] };
            assert_eq!(report[0x188..0x18b], named);
            assert_eq!(report[0x1a0..0x1e0], machine.psp.chip_id());
            assert_eq!(all_zero(&report[0x1a8..0x1e0]), model == Model::Turin);
            assert_eq!(all_zero(&report[0x1f8..0x208]), model != Model::Turin);
            for reserved in [0x4c..0x50, 0x18b..0x1a0, 0x1eb..0x1ec, 0x1ef..0x1f0, 0x208..0x2a0, 0x330..0x4a0] {
                assert!(all_zero(&report[reserved.clone()]), "{reserved:x?}");
            }
        }
    }

    #[test]
    fn a_changed_report_does_not_verify() {
        let machine = running(&config(Model::Genoa));
        let report = report(&machine, REQUEST).unwrap();
        for at in [0, 0x50, 0x90, 0x29f] {
            let mut changed = report;
            changed[at] ^= 1;
            assert_eq!(verifies(&machine, &changed, EndorsementKey::Vcek), Err(SigningError::Wrong), "{at:#x}");
        }
    }

    #[test]
    fn the_same_seed_is_the_same_chip_and_other_versions_are_another_key() {
        let keys = |config: &Config| Psp::new(config).endorsement_key(EndorsementKey::Vcek).unwrap().public_key();
        let milan = config(Model::Milan);
        assert_eq!(keys(&milan), keys(&milan));
        assert_ne!(keys(&milan), keys(&Config { seed: [1; 32], ..milan.clone() }));
        let mut newer = milan.clone();
        newer.committed_tcb.snp += 1;
        assert_ne!(keys(&milan), keys(&newer));
    }

    #[test]
    fn a_vlek_names_no_chip_and_can_be_asked_for() {
        let mut machine = running(&config(Model::Milan));
        let vlek = ReportRequest { key: KeySelection::Vlek, ..REQUEST };
        assert_eq!(report(&machine, vlek), Err(Status::InvalidKey));
        let wrapped = machine.psp.wrap_vlek([9; 32], machine.psp.config().committed_tcb);
        machine.psp.vlek_load(&wrapped).unwrap();
        for request in [vlek, REQUEST] {
            let report = report(&machine, request).unwrap();
            assert_eq!(verifies(&machine, &report, EndorsementKey::Vlek), Ok(()));
            assert_eq!(take_u32(&report, 0x48) >> 2 & 7, 1);
            assert!(all_zero(&report[0x1a0..0x1e0]));
        }
        let vcek = report(&machine, ReportRequest { key: KeySelection::Vcek, ..REQUEST }).unwrap();
        assert_eq!(verifies(&machine, &vcek, EndorsementKey::Vcek), Ok(()));
    }

    #[test]
    fn a_masked_chip_signs_nothing() {
        let mut machine = running(&config(Model::Milan));
        let masks = SnpConfig { mask_chip_id: true, mask_chip_key: true, ..SnpConfig::default() };
        machine.psp.set_config(masks).unwrap();
        let report = report(&machine, REQUEST).unwrap();
        assert_eq!(take_u32(&report, 0x48), 7 << 2 | 2);
        assert!(all_zero(&report[0x1a0..0x1e0]) && all_zero(&report[SIGNED_BYTES..]));
    }

    #[test]
    fn provisional_firmware_shows() {
        let base = config(Model::Milan);
        let mut newer = base.clone();
        newer.current_tcb.snp += 1;
        let report = report(&running(&newer), REQUEST).unwrap();
        let (current, committed) = (take::<8>(&report, 0x38), take::<8>(&report, 0x1e0));
        assert_eq!(current, newer.current_tcb.to_bytes(Model::Milan));
        assert_eq!(committed, base.committed_tcb.to_bytes(Model::Milan));
        assert_eq!(take::<8>(&report, 0x180), committed);
    }
}
