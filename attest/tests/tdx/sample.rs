//! The sample of Intel's own verification library, below its root: what surrounds the quote is signed as it should be, and
//! the quote is of a platform that nobody knows, with a body of random bytes. That library refuses it, and so do we.

use attest::tdx::{Anchor, Anchors};

use crate::evidence::{Evidence, vector};
use crate::mutations::with_chain;

fn sample() -> Evidence {
    let anchors = Anchors::none().with_test_root(&vector("real/intel-qvl-sample.root.der")).unwrap();
    Evidence::new("real/intel-qvl-sample", "real/intel-qvl-sample", "2025-01-01T00:00:00Z", anchors)
}

/// Its certificates are in DER, where every quoting enclave writes PEM.
#[test]
fn intels_sample_has_certificates_of_another_form() {
    assert!(sample().rejected().starts_with(&["chain.form"]), "{:?}", sample().rejected());
}

#[test]
fn intels_sample_is_of_no_known_module() {
    let mut sample = sample();
    let chain = String::from_utf8(vector("real/intel-qvl-sample.chain.pem")).unwrap();
    sample.quote = with_chain(&sample.quote, &chain);
    let rejected = sample.verdict().unwrap_err();
    let checks = rejected.checks();
    for passed in
        ["chain.root", "chain.intermediate.signature", "key.signature", "crl.root.signature", "quote.signature"]
    {
        let check = checks.named(passed).unwrap();
        assert_eq!(check.outcome, attest::check::Outcome::Passed, "{check}");
    }
    assert_eq!(checks.named("chain.root").unwrap().actual, Anchor::Test.to_string());
    // Versions there are of 16 bits, which no platform has.
    assert!(crate::evidence::failed(&rejected).contains(&"tcb-info.form"), "{rejected}");
}
