//! What a platform's certificates say, and whose they are.

use super::*;
use crate::bytes::take;
use crate::fixture::config;

fn platform(model: Model) -> Platform {
    started(crate::config::Config { pages: 512, ..config(model) })
}

fn started(config: crate::config::Config) -> Platform {
    let platform = Platform::new(config);
    platform.snp_init().unwrap();
    platform
}

fn contains(certificate: &[u8], bytes: &[u8]) -> bool {
    certificate.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn a_platforms_certificate_is_its_keys_and_names_its_chip() {
    for model in Model::ALL {
        let platform = platform(model);
        let table = platform.certificates(EndorsementKey::Vcek).unwrap();
        let (chip, subject) = platform.inspect(|_, psp| (psp.chip_id(), psp.vek_subject(EndorsementKey::Vcek)));
        assert!(contains(&table.vek, &chip[..model.chip_id_bytes()]), "{model:?}");
        assert!(contains(&table.vek, &subject.unwrap().public_point), "{model:?}");
        assert_eq!(table.ark, authority(model).unwrap().ark().unwrap());
        assert_eq!(table, platform.certificates(EndorsementKey::Vcek).unwrap());
    }
}

#[test]
fn there_is_no_vleks_certificate_without_a_vlek() {
    let platform = platform(Model::Milan);
    assert!(matches!(platform.certificates(EndorsementKey::Vlek), Err(CertificateError::NoKey(EndorsementKey::Vlek))));
    let wrapped = platform.inspect(|_, psp| psp.wrap_vlek([9; 32], psp.config().committed_tcb));
    platform.snp_vlek_load(&wrapped).unwrap();
    let vlek = platform.certificates(EndorsementKey::Vlek).unwrap();
    let chip: [u8; 16] = take(&platform.inspect(|_, psp| psp.chip_id()), 0);
    assert!(contains(&vlek.vek, b"TEST-CSP") && !contains(&vlek.vek, &chip));
}

#[test]
fn other_authorities_certify_if_they_are_the_products() {
    let from = EPOCH + Duration::from_secs(86_400);
    let keys = authority(Model::Turin).unwrap().to_pkcs8().unwrap();
    let other = |model| Arc::new(Authority::from_pkcs8(model, keys.each_ref().map(|key| &key[..]), from).unwrap());
    let under = |model| {
        let authority = Some(other(model));
        started(crate::config::Config { authority, ..config(Model::Genoa) }).certificates(EndorsementKey::Vcek)
    };
    let table = under(Model::Genoa).unwrap();
    assert_eq!(table.ark, other(Model::Genoa).ark().unwrap());
    assert_ne!(table.ark, authority(Model::Genoa).unwrap().ark().unwrap());
    let error = under(Model::Turin).unwrap_err();
    assert_eq!(error.to_string(), "the authorities are Turin's, the platform is a Genoa");
}
