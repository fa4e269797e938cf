//! Chains verify, say what they are, and differ where they must.

use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePublicKey as _;
use x509_cert::Certificate;

use super::*;
use crate::bytes::take_u32;
use crate::fixture::config;
use crate::model::Tcb;
use crate::platform::Platform;

fn platform(model: Model) -> Platform {
    let platform = Platform::new(config(model));
    platform.snp_init().unwrap();
    platform
}

fn with_vlek(platform: &Platform) {
    let wrapped = platform.inspect(|_, psp| psp.wrap_vlek([9; 32], psp.config().committed_tcb));
    platform.snp_vlek_load(&wrapped).unwrap();
}

/// Whether `issuer` signed `subject`.
fn verifies(subject: &[u8], issuer: &[u8]) -> bool {
    let [subject, issuer] = [subject, issuer].map(|der| Certificate::from_der(der).unwrap());
    let key = issuer.tbs_certificate.subject_public_key_info.to_der().unwrap();
    let key = RsaPublicKey::from_public_key_der(&key).unwrap();
    let digest = Sha384::digest(subject.tbs_certificate.to_der().unwrap());
    let scheme = Pss::new_with_salt::<rsa::sha2::Sha384>(48);
    let signed = key.verify(scheme, &digest, subject.signature.raw_bytes()).is_ok();
    signed && subject.tbs_certificate.issuer == issuer.tbs_certificate.subject
}

fn extension_of(certificate: &[u8], oid: &str) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(certificate).unwrap();
    let extensions = certificate.tbs_certificate.extensions.unwrap();
    let found = extensions.into_iter().find(|extension| extension.extn_id.to_string() == oid)?;
    Some(found.extn_value.as_bytes().to_vec())
}

fn amd_extension(certificate: &[u8], arcs: &str) -> Option<Vec<u8>> {
    extension_of(certificate, &format!("1.3.6.1.4.1.3704.1.{arcs}"))
}

#[test]
fn every_models_chain_verifies_from_key_to_root() {
    for model in Model::ALL {
        let platform = platform(model);
        with_vlek(&platform);
        for kind in [EndorsementKey::Vcek, EndorsementKey::Vlek] {
            let chain = platform.certificates(kind).unwrap();
            assert!(verifies(&chain.ark, &chain.ark), "{model:?}");
            assert!(verifies(&chain.intermediate, &chain.ark), "{model:?} {kind:?}");
            assert!(verifies(&chain.vek, &chain.intermediate), "{model:?} {kind:?}");
            assert!(!verifies(&chain.vek, &chain.ark));
        }
    }
}

#[test]
fn a_vcek_is_not_issued_by_what_issues_vleks() {
    let platform = platform(Model::Milan);
    with_vlek(&platform);
    let [vcek, vlek] = [EndorsementKey::Vcek, EndorsementKey::Vlek].map(|kind| platform.certificates(kind).unwrap());
    assert_eq!(vcek.ark, vlek.ark);
    assert!(!verifies(&vcek.vek, &vlek.intermediate) && !verifies(&vlek.vek, &vcek.intermediate));
}

#[test]
fn products_have_roots_of_their_own() {
    let arks = Model::ALL.map(|model| Authority::new(model).unwrap().ark().unwrap());
    assert!(!verifies(&arks[0], &arks[1]) && !verifies(&arks[1], &arks[2]) && arks[0] != arks[2]);
}

#[test]
fn authorities_may_issue_and_intermediates_no_authorities() {
    let authority = Authority::new(Model::Milan).unwrap();
    let constraints =
        |certificate: Vec<u8>| BasicConstraints::from_der(&extension_of(&certificate, "2.5.29.19").unwrap()).unwrap();
    let of_ark = constraints(authority.ark().unwrap());
    assert_eq!((of_ark.ca, of_ark.path_len_constraint), (true, None));
    for kind in [EndorsementKey::Vcek, EndorsementKey::Vlek] {
        let of_intermediate = constraints(authority.intermediate(kind).unwrap());
        assert_eq!((of_intermediate.ca, of_intermediate.path_len_constraint), (true, Some(0)));
    }
}

/// Law no-silent-trust: a software root of trust can never pass for hardware.
#[test]
fn every_name_says_test_and_none_says_amd() {
    let platform = platform(Model::Genoa);
    with_vlek(&platform);
    for kind in [EndorsementKey::Vcek, EndorsementKey::Vlek] {
        let chain = platform.certificates(kind).unwrap();
        for certificate in [&chain.ark, &chain.intermediate, &chain.vek] {
            let fields = Certificate::from_der(certificate).unwrap().tbs_certificate;
            for name in [fields.subject, fields.issuer].map(|name| name.to_string()) {
                assert!(name.contains("CN=TEST ") && name.contains("not hardware"), "{name}");
                assert!(!name.contains("AMD") && !name.contains("Advanced Micro"), "{name}");
            }
        }
    }
}

#[test]
fn a_vceks_certificate_names_chip_and_versions() {
    for model in Model::ALL {
        let platform = platform(model);
        let vcek = platform.certificates(EndorsementKey::Vcek).unwrap().vek;
        let (chip, tcb) = platform.inspect(|_, psp| (psp.chip_id(), psp.config().committed_tcb));
        assert_eq!(amd_extension(&vcek, "4").unwrap(), chip[..model.chip_id_bytes()]);
        let version = |arcs| amd_extension(&vcek, arcs).map(|der| u8::from_der(&der).unwrap());
        let versions = ["3.1", "3.2", "3.3", "3.8"].map(|arcs| version(arcs).unwrap());
        assert_eq!(versions, [tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode]);
        let turin = model == Model::Turin;
        assert_eq!(version("1"), Some(u8::from(turin)));
        assert_eq!(version("3.9"), turin.then_some(tcb.fmc));
        assert_eq!(version("3.4"), (!turin).then_some(0));
        assert_eq!(amd_extension(&vcek, "5"), None);
        let product = String::from_utf8(amd_extension(&vcek, "2").unwrap()).unwrap();
        assert!(product.contains(model.name()), "{product}");
    }
}

#[test]
fn a_vleks_certificate_names_a_provider_and_no_chip() {
    let platform = platform(Model::Milan);
    assert!(matches!(platform.certificates(EndorsementKey::Vlek), Err(ChainError::NoKey(EndorsementKey::Vlek))));
    with_vlek(&platform);
    let vlek = platform.certificates(EndorsementKey::Vlek).unwrap().vek;
    assert_eq!(amd_extension(&vlek, "4"), None);
    assert!(amd_extension(&vlek, "5").unwrap().ends_with(b"TEST-CSP"));
}

#[test]
fn versions_from_128_are_two_bytes_and_the_chip_can_be_an_octet_string() {
    let authority = Authority::new(Model::Milan).unwrap();
    let subject = platform(Model::Milan).inspect(|_, psp| psp.vek_subject(EndorsementKey::Vcek)).unwrap();
    let tcb = Tcb { microcode: 0xd5, ..subject.tcb };
    let vcek = authority.vek(&VekSubject { tcb, hwid_form: HwidForm::OctetString, ..subject }).unwrap();
    assert_eq!(amd_extension(&vcek, "3.8").unwrap(), [0x02, 0x02, 0x00, 0xd5]);
    assert_eq!(amd_extension(&vcek, "4").unwrap()[..2], [0x04, 64]);
}

#[test]
fn the_same_platform_has_the_same_certificates() {
    let [first, second] = [(); 2].map(|()| platform(Model::Turin).certificates(EndorsementKey::Vcek).unwrap());
    assert_eq!(first, second);
}

#[test]
fn a_table_leads_to_its_certificates() {
    let chain = platform(Model::Milan).certificates(EndorsementKey::Vcek).unwrap();
    let table = chain.to_bytes();
    for (entry, certificate) in table.chunks_exact(24).zip([&chain.ark, &chain.intermediate, &chain.vek]) {
        let [at, length] = [16, 20].map(|at| usize::try_from(take_u32(entry, at)).unwrap());
        assert_eq!(&table[at..at + length], certificate);
    }
    assert_eq!(table[72..96], [0; 24]);
    assert_eq!(table[48..52], [0x63, 0xda, 0x75, 0x8d]);
}
