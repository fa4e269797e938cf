//! Signatures, byte by byte. Chains and whole verdicts are tests of the crate.

extern crate std;

use std::fs;
use std::path::Path;

use super::*;
use crate::pem;

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/attest/real").join(name)).unwrap()
}

/// Whether everything that is signed in a quote is, up to the platform's key.
fn is_genuine(quote: &[u8], key: &P256Key) -> bool {
    Quote::parse(quote).is_ok_and(|quote| {
        is_by_attestation_key(&quote)
            && is_vouched_for(&quote)
            && is_signed(key, quote.qe_report_bytes(), quote.qe_signature())
    })
}

fn platform_key(quote: &[u8]) -> P256Key {
    let [key, ..] = pem::chain::<3>(Quote::parse(quote).unwrap().pck_chain()).unwrap();
    point(&key).into()
}

/// The key of this certificate.
fn point(der: &[u8]) -> VerifyingKey {
    VerifyingKey::from_sec1_bytes(Certificate::parse(der).unwrap().key().subject_public_key.raw_bytes()).unwrap()
}

/// no-silent-trust: of what stands before the certificates in a quote of either version, no bit of any byte can be
/// another.
#[test]
fn no_silent_trust_any_byte_of_a_quote() {
    for name in ["v4-uptodate-phala.quote", "v5-td15-tcb-not-supported.quote"] {
        let quote = vector(name);
        let key = platform_key(&quote);
        assert!(is_genuine(&quote, &key));
        let certificates = quote.windows(5).position(|window| window == b"-----").unwrap();
        assert!(certificates > 1200);
        for at in 0..certificates {
            let mut changed = quote.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(!is_genuine(&changed, &key), "byte {at:#x} of {name}");
        }
    }
}

/// no-silent-trust: a platform's key vouches for its own quoting enclave and no other's.
#[test]
fn no_silent_trust_the_key_of_another_platform() {
    let (one, other) = (vector("v4-uptodate-phala.quote"), vector("v4-debug-td-uptodate.quote"));
    assert!(is_genuine(&one, &platform_key(&one)) && is_genuine(&other, &platform_key(&other)));
    assert!(!is_genuine(&one, &platform_key(&other)) && !is_genuine(&other, &platform_key(&one)));
}

/// no-silent-trust: a certificate whose bytes were changed anywhere is not signed, or is none.
#[test]
fn no_silent_trust_any_byte_of_a_certificate() {
    let quote = vector("v4-uptodate-phala.quote");
    let [key, ca, _root] = pem::chain::<3>(Quote::parse(&quote).unwrap().pck_chain()).unwrap();
    let ca = Certificate::parse(&ca).unwrap();
    assert_eq!(Certificate::parse(&key).unwrap().is_signed_by(&ca), Ok(()));
    for at in 0..key.len() {
        let mut changed = key.clone();
        changed[at] ^= 1 << (at % 8);
        let outcome = Certificate::parse(&changed).and_then(|certificate| certificate.is_signed_by(&ca));
        assert!(outcome.is_err(), "byte {at:#x}");
    }
}

#[test]
fn intels_root_is_the_one_that_real_chains_end_at_and_signed_itself() {
    let anchors = Anchors::intel();
    let roots: Vec<_> = anchors.certificates().collect();
    let [(anchor, root)] = &roots[..] else { unreachable!("{roots:?}") };
    assert!(anchor.is_hardware());
    root.authority().unwrap();
    root.is_signed_by(root).unwrap();
    for name in ["v4-uptodate-phala.quote", "v4-debug-td-uptodate.quote", "v4-gce-cos113.quote"] {
        let quote = vector(name);
        let [.., ca, came] = pem::chain::<3>(Quote::parse(&quote).unwrap().pck_chain()).unwrap();
        assert_eq!(Certificate::parse(&came).unwrap().key(), root.key());
        Certificate::parse(&ca).unwrap().is_signed_by(root).unwrap();
        let refused = Anchors::none().with_test_root(&came).unwrap_err();
        assert_eq!(refused, crate::anchors::AnchorError::Hardware);
    }
}

fn unhex(text: &serde_json::Value) -> Vec<u8> {
    let digits: Vec<_> = text.as_str().unwrap().chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// no-silent-trust: what could not be looked at is said, whatever is missing.
#[test]
fn no_silent_trust_every_check_is_in_every_verdict() {
    let quote = vector("v4-uptodate-phala.quote");
    let files: serde_json::Value = serde_json::from_slice(&vector("v4-uptodate-phala.collateral.json")).unwrap();
    let signatures = ["tcb_info_signature", "qe_identity_signature"].map(|name| unhex(&files[name]));
    let statement = |name: &str, index: usize| crate::tdx::SignedJson {
        text: files[name].as_str().unwrap().as_bytes(),
        signature: &signatures[index],
        chain: files[std::format!("{name}_issuer_chain")].as_str().unwrap().as_bytes(),
    };
    let lists = ["root_ca_crl", "pck_crl"].map(|name| unhex(&files[name]));
    let whole = Collateral {
        tcb_info: Some(statement("tcb_info", 0)),
        qe_identity: Some(statement("qe_identity", 1)),
        root_crl: Some(&lists[0]),
        pck_crl: Some(&lists[1]),
    };
    let now = UnixTime::from_secs(1_750_809_600);
    let names = |checks: &Checks| {
        let mut names: Vec<_> = checks.iter().map(|check| check.id.name()).collect();
        names.sort_unstable();
        names
    };
    let expected = names(verify(&quote, &whole, &Anchors::intel(), now).unwrap().checks());
    assert!(expected.windows(2).all(|pair| pair[0] != pair[1]), "{expected:?}");
    let noise = Some(crate::tdx::SignedJson { text: b"{}", signature: &[], chain: b"noise" });
    let without_chain = {
        let at = quote.windows(5).position(|window| window == b"-----").unwrap();
        [&quote[..at], b"!", &quote[at + 1..]].concat()
    };
    for (quote, collateral, anchors) in [
        (&quote, Collateral::default(), Anchors::intel()),
        (&quote, whole, Anchors::none()),
        (&quote, Collateral { tcb_info: None, ..whole }, Anchors::intel()),
        (&quote, Collateral { qe_identity: None, ..whole }, Anchors::intel()),
        (&quote, Collateral { tcb_info: noise, qe_identity: noise, ..whole }, Anchors::intel()),
        (&quote, Collateral { root_crl: Some(b"noise"), pck_crl: Some(b"noise"), ..whole }, Anchors::intel()),
        (&without_chain, whole, Anchors::intel()),
        (&without_chain, Collateral::default(), Anchors::none()),
    ] {
        let rejected = verify(quote, &collateral, &anchors, now).unwrap_err();
        assert_eq!(names(rejected.checks()), expected, "{rejected}");
    }
}

mod known;
