//! Layouts, keys and masks.

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
        let mut machine = running(&config(model));
        machine.psp.guests.get_mut(&CONTEXT).unwrap().host_data = [0x4d; 32];
        let report = report(&machine, REQUEST).unwrap();
        assert_eq!((take::<32>(&report, 0xc0), take::<32>(&report, 0x160)), ([0x4d; 32], [0xff; 32]));
        assert_eq!(take::<8>(&report, 0x1f0), machine.psp.config().current_tcb.to_bytes(model));
        assert_eq!(verifies(&machine, &report, EndorsementKey::Vcek), Ok(()));
        let guest = machine.psp.guest(CONTEXT).unwrap();
        assert_eq!(take_u32(&report, 0), model.first_report_version());
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
