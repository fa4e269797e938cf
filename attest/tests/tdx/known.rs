//! Certificates that are known to be signed, and one that comes along twice.

use attest::check::{Check, Outcome};
use attest::tdx::{Anchors, verify};

use crate::evidence::{Evidence, failed};
use crate::real::{all, phala};

const KNOWN: &str = "by it, as is known: the certificate is one that is part of this program";
const SIGNATURES: [&str; 3] =
    ["chain.intermediate.signature", "tcb-info.signer.signature", "qe-identity.signer.signature"];

/// Every check of this evidence below these roots, whatever came of it.
fn checks(evidence: &Evidence, anchors: &Anchors) -> Vec<Check> {
    match verify(&evidence.quote, &evidence.collateral(), anchors, evidence.now) {
        Ok(verified) => verified.checks().iter().cloned().collect(),
        Err(rejected) => rejected.checks().iter().cloned().collect(),
    }
}

/// Who knows what Intel signed comes to the same verdicts, and says what was not checked again.
#[test]
fn known_certificates_are_said_to_be_known_and_change_no_verdict() {
    let mut known = Vec::new();
    for (evidence, name) in all() {
        let whole = checks(&evidence, &Anchors::intel());
        let spared = checks(&evidence, &Anchors::intel().with_known_intermediates());
        assert_eq!(whole.len(), spared.len(), "{name}");
        for (whole, spared) in whole.into_iter().zip(spared) {
            if spared.actual == KNOWN {
                assert_eq!((whole.actual.as_str(), whole.outcome), ("by it", Outcome::Passed), "{name}");
                known.push(spared.id.name());
            } else {
                assert_eq!(whole, spared, "{name}");
            }
        }
    }
    known.sort_unstable();
    known.dedup();
    let mut expected = SIGNATURES;
    expected.sort_unstable();
    assert_eq!(known, expected);
}

/// The same certificate with another signature under it, in this text.
fn with_another_signature(chain: &[u8]) -> Vec<u8> {
    let end = chain.windows(9).position(|window| window == b"\n-----END").unwrap();
    let mut chain = chain.to_vec();
    // Not the last digits, which may be there to fill up.
    chain[end - 8] = if chain[end - 8] == b'A' { b'B' } else { b'A' };
    chain
}

/// no-silent-trust: that a certificate was found good says nothing of one that differs in a bit, be it in its signature.
#[test]
fn no_silent_trust_a_certificate_that_is_nearly_the_same() {
    for anchors in [Anchors::intel(), Anchors::intel().with_known_intermediates()] {
        let mut identity = phala();
        assert_eq!(identity.tcb_info.chain, identity.qe_identity.chain, "one certificate for both");
        identity.qe_identity.chain = with_another_signature(&identity.qe_identity.chain);
        let mut info = phala();
        info.tcb_info.chain = with_another_signature(&info.tcb_info.chain);
        for (evidence, expected) in [(identity, "qe-identity.signer.signature"), (info, "tcb-info.signer.signature")] {
            let verdict = verify(&evidence.quote, &evidence.collateral(), &anchors, evidence.now);
            assert_eq!(failed(&verdict.unwrap_err()), [expected]);
        }
    }
}
