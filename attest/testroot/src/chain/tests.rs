//! Chains verify, say what they are, and differ where they must.

use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePublicKey as _;
use x509_cert::Certificate;

use super::*;
use crate::bytes::take_u32;
use crate::fixture::{EPOCH, authority, keys, subject};
use crate::model::Tcb;

const KINDS: [EndorsementKey; 2] = [EndorsementKey::Vcek, EndorsementKey::Vlek];

fn chain(model: Model, kind: EndorsementKey) -> CertificateTable {
    CertificateTable::issue(&authority(model), &subject(model, kind)).unwrap()
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
        for kind in KINDS {
            let chain = chain(model, kind);
            assert!(verifies(&chain.ark, &chain.ark), "{model:?}");
            assert!(verifies(&chain.intermediate, &chain.ark), "{model:?} {kind:?}");
            assert!(verifies(&chain.vek, &chain.intermediate), "{model:?} {kind:?}");
            assert!(!verifies(&chain.vek, &chain.ark));
        }
    }
}

#[test]
fn a_vcek_is_not_issued_by_what_issues_vleks() {
    let [vcek, vlek] = KINDS.map(|kind| chain(Model::Milan, kind));
    assert_eq!(vcek.ark, vlek.ark);
    assert!(!verifies(&vcek.vek, &vlek.intermediate) && !verifies(&vlek.vek, &vcek.intermediate));
}

#[test]
fn products_have_roots_of_their_own() {
    let arks = Model::ALL.map(|model| authority(model).ark().unwrap());
    assert!(!verifies(&arks[0], &arks[1]) && !verifies(&arks[1], &arks[2]) && arks[0] != arks[2]);
}

#[test]
fn authorities_may_issue_and_intermediates_no_authorities() {
    let authority = authority(Model::Milan);
    let constraints =
        |certificate: Vec<u8>| BasicConstraints::from_der(&extension_of(&certificate, "2.5.29.19").unwrap()).unwrap();
    let of_ark = constraints(authority.ark().unwrap());
    assert_eq!((of_ark.ca, of_ark.path_len_constraint), (true, None));
    for kind in KINDS {
        let of_intermediate = constraints(authority.intermediate(kind).unwrap());
        assert_eq!((of_intermediate.ca, of_intermediate.path_len_constraint), (true, Some(0)));
    }
}

/// Law no-silent-trust: a software root of trust can never pass for hardware.
#[test]
fn every_name_says_test_and_none_says_amd() {
    for kind in KINDS {
        let chain = chain(Model::Genoa, kind);
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
        let VekSubject { chip_id: chip, tcb, .. } = subject(model, EndorsementKey::Vcek);
        let vcek = chain(model, EndorsementKey::Vcek).vek;
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
    let vlek = chain(Model::Milan, EndorsementKey::Vlek).vek;
    assert_eq!(amd_extension(&vlek, "4"), None);
    assert!(amd_extension(&vlek, "5").unwrap().ends_with(b"TEST-CSP"));
}

#[test]
fn versions_from_128_are_two_bytes_and_the_chip_can_be_an_octet_string() {
    let authority = authority(Model::Milan);
    let subject = subject(Model::Milan, EndorsementKey::Vcek);
    let tcb = Tcb { microcode: 0xd5, ..subject.tcb };
    let vcek = authority.vek(&VekSubject { tcb, hwid_form: HwidForm::OctetString, ..subject }).unwrap();
    assert_eq!(amd_extension(&vcek, "3.8").unwrap(), [0x02, 0x02, 0x00, 0xd5]);
    assert_eq!(amd_extension(&vcek, "4").unwrap()[..2], [0x04, 64]);
}

#[test]
fn the_same_authority_issues_the_same_certificate_and_others_use_another_salt() {
    let [first, second] = [(); 2].map(|()| chain(Model::Turin, EndorsementKey::Vcek));
    assert_eq!(first, second);
    let salt = |key: &RsaPrivateKey| {
        let mut bytes = [0; 48];
        rsa::rand_core::RngCore::fill_bytes(&mut salt::Salt::new(key, b"text"), &mut bytes);
        bytes
    };
    let [ark, ask, _] = authority(Model::Turin).keys;
    assert_ne!(salt(&ark), salt(&ask));
}

#[test]
fn certificates_begin_when_they_are_told_to_beyond_2049_too() {
    let late = Duration::from_secs(2_524_600_000);
    let authority = Authority::from_pkcs8(Model::Genoa, keys(Model::Genoa), late).unwrap();
    let ark = Certificate::from_der(&authority.ark().unwrap()).unwrap();
    let Validity { not_before, not_after } = ark.tbs_certificate.validity;
    assert!(matches!(not_before, Time::UtcTime(_)) && matches!(not_after, Time::GeneralTime(_)));
    assert_eq!((not_before.to_unix_duration(), not_after.to_unix_duration()), (late, authority.not_after()));
    assert!(Authority::from_pkcs8(Model::Genoa, keys(Model::Genoa), Duration::MAX).unwrap().ark().is_err());
}

/// no-silent-trust: authorities' keys are read as strictly as anything else.
#[test]
fn no_silent_trust_bytes_that_are_no_key() {
    let [ark, ask, asvk] = keys(Model::Milan);
    let error = |keys| Authority::from_pkcs8(Model::Milan, keys, EPOCH).unwrap_err().to_string();
    assert!(error([&ark[1..], ask, asvk]).starts_with("the ARK's key is no RSA key of 4096 bits"));
    assert!(error([ark, &ask[..ask.len() - 1], asvk]).starts_with("the ASK's key is no RSA key of 4096 bits"));
    let mut modulus = asvk.to_vec();
    modulus[100] ^= 1;
    assert!(error([ark, ask, &modulus]).starts_with("the ASVK's key is no RSA key"));
    let small = RsaPrivateKey::new(&mut salt::Salt::new(&authority(Model::Milan).keys[0], b"small"), 512).unwrap();
    let small = small.to_pkcs8_der().unwrap();
    assert_eq!(error([ark, ask, small.as_bytes()]), "the ASVK's key has 512 bits, not 4096");
    let written = authority(Model::Milan).to_pkcs8().unwrap();
    assert!(written.iter().zip(keys(Model::Milan)).all(|(written, given)| written[..] == *given));
    assert!(!format!("{:?}", authority(Model::Milan)).contains("keys"), "a debug line tells no secret");
}

#[test]
fn a_table_leads_to_its_certificates() {
    let chain = chain(Model::Milan, EndorsementKey::Vcek);
    let table = chain.to_bytes();
    for (entry, certificate) in table.chunks_exact(24).zip([&chain.ark, &chain.intermediate, &chain.vek]) {
        let [at, length] = [16, 20].map(|at| usize::try_from(take_u32(entry, at)).unwrap());
        assert_eq!(&table[at..at + length], certificate);
    }
    assert_eq!(table[72..96], [0; 24]);
    assert_eq!(table[48..52], [0x63, 0xda, 0x75, 0x8d]);
}
