//! Signatures, byte by byte. Chains and whole verdicts are tests of the crate.

extern crate std;

use std::fs;
use std::path::Path;

use super::*;
use crate::snp::report::{REPORT_BYTES, SIGNED_BYTES};

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/attest/real").join(name)).unwrap()
}

/// no-silent-trust: of a report that a chip signed, no bit of any byte can be another, signature and reserved bytes included.
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
