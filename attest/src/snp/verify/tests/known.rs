//! What is known of an intermediate certificate is who signed it, and nothing else. AMD has revoked none of those that are
//! part of this crate, so these are somebody's tests' own.

extern crate std;

use super::*;
use crate::snp::Product;

fn synthetic(name: &str) -> &'static [u8] {
    vector(&std::format!("../synthetic/{name}")).leak()
}

/// A report that a VLEK signed, whose issuer's certificate is known, with this list at this moment.
fn verdict(list: &'static [u8], now: &str) -> Result<Verified<Report<'static>>, Rejected> {
    let (anchor, intermediate) = (Anchor::Test(Product::Milan), synthetic("asvk-milan.der"));
    let anchors = Anchors::none().with_test_root(Product::Milan, synthetic("ark-milan.der")).unwrap();
    let endorsements = Endorsements {
        vlek: Some(synthetic("good-vlek.vek.der")),
        intermediate: Some(intermediate),
        crl: Some(list),
        ..Endorsements::default()
    };
    let anchors = anchors.with_known([(anchor, intermediate)]);
    verify(synthetic("good-vlek.report"), &endorsements, &anchors, now.parse().unwrap())
}

fn failed(verdict: Result<Verified<Report<'_>>, Rejected>) -> (Vec<&'static str>, Fault) {
    let rejected = verdict.unwrap_err();
    let signature = rejected.checks().named("chain.intermediate.signature").unwrap();
    assert_eq!(signature.actual, KNOWN, "it is known all the same");
    (rejected.checks().failed().map(|check| check.id.name()).collect(), rejected.fault())
}

#[test]
fn no_silent_trust_a_known_intermediate_can_be_revoked_and_ends() {
    let (good, now) = (synthetic("crl-milan-good.der"), "2026-06-01T00:00:00Z");
    assert!(verdict(good, now).is_ok());
    let revoked = failed(verdict(synthetic("crl-milan-asvk-revoked.der"), now));
    assert_eq!(revoked, (std::vec!["chain.revocation"], Fault::Revoked));
    let (late, fault) = failed(verdict(good, "2100-01-01T00:00:00Z"));
    assert!(late.contains(&"chain.intermediate.validity"), "{late:?}");
    assert_eq!(fault, Fault::Collateral);
}
