//! Signatures, byte by byte. Chains and whole verdicts are tests of the crate.

extern crate std;

use std::fs;
use std::path::Path;

use super::*;
use crate::snp::report::{REPORT_BYTES, SIGNED_BYTES};

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/attest/real").join(name)).unwrap()
}

/// no-silent-trust: of a report that a chip signed, no bit of any byte can be another, signature and reserved bytes
/// included.
#[test]
fn no_silent_trust_any_byte_of_a_report() {
    let (report, certificate) = (vector("turin-v5-ms.report"), vector("turin-v5-ms.vek.der"));
    let key = Certificate::parse(&certificate).unwrap().p384_key().unwrap();
    assert!(is_signed(&Report::parse(&report).unwrap(), &key));
    let mut unsigned = 0;
    for at in 0..REPORT_BYTES {
        let mut changed = report.clone();
        changed[at] ^= 1 << (at % 8);
        if let Ok(changed) = Report::parse(&changed) {
            assert!(!is_signed(&changed, &key), "byte {at:#x}");
            unsigned += 1;
        }
    }
    assert!(unsigned > SIGNED_BYTES / 2, "most bytes are refused for the signature's sake");
}

/// no-silent-trust: what signed one report has not signed another.
#[test]
fn no_silent_trust_the_key_of_another_chip() {
    let certificate = vector("milan-v2-debug-gsg.vek.der");
    let key = Certificate::parse(&certificate).unwrap().p384_key().unwrap();
    let report = vector("milan-v2-virtee.report");
    assert!(!is_signed(&Report::parse(&report).unwrap(), &key));
}

/// no-silent-trust: a certificate whose bytes were changed anywhere is not signed, or is none.
#[test]
fn no_silent_trust_any_byte_of_a_certificate() {
    let (certificate, issuer) = (vector("milan-v3-ms.vek.der"), vector("../amd/ask-milan.der"));
    let issuer = Certificate::parse(&issuer).unwrap();
    assert_eq!(Certificate::parse(&certificate).unwrap().is_signed_by(&issuer), Ok(()));
    for at in 0..certificate.len() {
        let mut changed = certificate.clone();
        changed[at] ^= 1 << (at % 8);
        let outcome = Certificate::parse(&changed).and_then(|certificate| certificate.is_signed_by(&issuer));
        assert!(outcome.is_err(), "byte {at:#x}");
    }
}

/// no-silent-trust: an issuer's key is anybody's until the root has vouched for it. Whatever it is, it is only refused.
#[test]
fn no_silent_trust_issuers_keys_that_are_none() {
    let (certificate, issuer) = (vector("milan-v3-ms.vek.der"), vector("../amd/ask-milan.der"));
    let certificate = Certificate::parse(&certificate).unwrap();
    // The exponent 65537, after the modulus. The certificate's number is the same, but before it.
    let exponent = issuer.windows(5).rposition(|bytes| bytes == [2, 3, 1, 0, 1]).unwrap() + 2;
    let with = |at: usize, bytes: &[u8]| {
        let mut issuer = issuer.clone();
        issuer[at..at + bytes.len()].copy_from_slice(bytes);
        certificate.is_signed_by(&Certificate::parse(&issuer).unwrap())
    };
    assert_eq!(with(exponent, &[1, 0, 1]), Ok(()));
    for changed in [[0x00, 0x80, 0x00], [0x00, 0x00, 0x01], [0xff; 3], [0x7f, 0xff, 0xff], [0x01, 0x00, 0x00]] {
        assert!(with(exponent, &changed).is_err(), "exponent {changed:x?}");
    }
    // An even modulus, one of zeros, and one with a zero to spare.
    let last = exponent - 3;
    assert!(with(last, &[issuer[last] ^ 1]).is_err());
    assert!(with(last - 511, &[0; 512]).is_err());
    assert!(with(last - 511, &[0x7f]).is_err());
}

/// no-silent-trust: a verdict on a report that can be read names every check there is, each once, whatever was missing.
#[test]
fn no_silent_trust_every_check_is_in_every_verdict() {
    let report = vector("turin-v5-ms.report");
    let vek = vector("turin-v5-ms.vek.der");
    let ask = vector("../amd/ask-turin.der");
    let now = UnixTime::from_secs(1_780_272_000);
    let names = |checks: &Checks| {
        let mut names: Vec<_> = checks.iter().map(|check| check.id.name()).collect();
        names.sort_unstable();
        names
    };
    let (vcek, intermediate) = (Some(&vek[..]), Some(&ask[..]));
    let complete = Endorsements { vcek, intermediate, ..Endorsements::default() };
    let expected = names(verify(&report, &complete, &Anchors::amd(), now).unwrap().checks());
    assert!(expected.windows(2).all(|pair| pair[0] != pair[1]), "{expected:?}");
    for (vcek, intermediate, anchors) in [
        (None, intermediate, Anchors::amd()),
        (vcek, None, Anchors::amd()),
        (vcek, intermediate, Anchors::none()),
        (None, None, Anchors::amd()),
        (None, intermediate, Anchors::none()),
    ] {
        let endorsements = Endorsements { vcek, intermediate, ..Endorsements::default() };
        let rejected = verify(&report, &endorsements, &anchors, now).unwrap_err();
        assert!(rejected.checks().failed().count() > 0);
        assert_eq!(names(rejected.checks()), expected);
    }
}

mod known;
