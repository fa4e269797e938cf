//! Evidence that somebody else made to be accepted or refused: the verdicts are theirs, the reasons are checked here.
//! `cases.json` says of each what it is. Its roots have AMD's names and other keys, so they are given as tests' roots.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::collections::BTreeMap;

use attest::snp::report::SigningKey;
use attest::snp::{Anchors, Endorsements, Product, Report, verify};
use attest::{Anchor, Rejected};
use common::{NOW, failed, vector};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    report: String,
    vek: String,
    ica: String,
    chain_ark: String,
    trusted_ark: String,
    now: String,
    expect: String,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&vector("synthetic/cases.json")).unwrap()
    }

    fn product(&self) -> Product {
        let of = |product: &Product| self.trusted_ark == format!("ark-{}.der", product.name().to_lowercase());
        Product::ALL.into_iter().find(of).unwrap()
    }

    fn verdict(&self, anchors: &Anchors) -> Result<Anchor, Rejected> {
        assert_eq!(self.now, NOW.to_string());
        let file = |name: &str| vector(&format!("synthetic/{name}"));
        let [report, vek, intermediate, ark] =
            [&self.report, &self.vek, &self.ica, &self.chain_ark].map(|name| file(name));
        // What signs is what the report says; a certificate of the wrong kind stands in its place.
        let vlek = Report::parse(&report).is_ok_and(|report| report.signing_key() == SigningKey::Vlek);
        let (vcek, vlek) = if vlek { (None, Some(&vek[..])) } else { (Some(&vek[..]), None) };
        let endorsements = Endorsements { vcek, vlek, intermediate: Some(&intermediate), ark: Some(&ark), crl: None };
        verify(&report, &endorsements, anchors, NOW).map(|verified| verified.anchor())
    }
}

/// Why each of them is refused: no more and no less.
fn reasons() -> BTreeMap<&'static str, &'static [&'static str]> {
    const FORM: &[&str] = &["report.form"];
    const SIGNATURE: &[&str] = &["report.signature"];
    BTreeMap::from([
        ("sig-flip", SIGNATURE),
        ("body-flip-measurement", SIGNATURE),
        ("body-flip-reportdata", SIGNATURE),
        ("sig-r-high-byte", SIGNATURE),
        ("sig-zero", SIGNATURE),
        ("truncated", FORM),
        ("version-1", FORM),
        ("sigalgo-2", FORM),
        ("reserved-4c", FORM),
        ("reserved-18c", FORM),
        ("reserved-1eb", FORM),
        ("reserved-29f", FORM),
        ("keyinfo-reserved", FORM),
        ("keyinfo-none", &["report.key"]),
        ("policy-bit17-clear", FORM),
        ("policy-reserved-high", FORM),
        ("tcb-cert-mismatch-bl", &["key.tcb.boot-loader"]),
        ("tcb-cert-mismatch-tee", &["key.tcb.tee"]),
        ("tcb-cert-mismatch-snp", &["key.tcb.snp"]),
        ("hwid-mismatch", &["key.chip"]),
        ("chipid-masked", &["key.chip"]),
        ("vlek-cert-vcek-keyinfo", &["chain.intermediate", "key.certificate", "key.chip"]),
        ("vcek-signed-by-asvk", &["chain.intermediate"]),
        ("vcek-expired", &["key.validity"]),
        ("family-unknown", &["report.processor"]),
        ("turin-layout-confusion", &["report.processor"]),
        ("impostor-chain", &["chain.ark", "chain.intermediate.signature"]),
        ("pol-reported-gt-current", &["report.tcb"]),
    ])
}

#[test]
fn verdicts_are_those_of_who_made_the_evidence_and_for_their_reasons() {
    let mut reasons = reasons();
    for case in Case::all() {
        let root = vector(&format!("synthetic/{}", case.trusted_ark));
        let anchors = Anchors::none().with_test_root(case.product(), &root).unwrap();
        let verdict = case.verdict(&anchors);
        if case.expect == "accept" {
            assert_eq!(verdict.as_ref().ok(), Some(&Anchor::Test(case.product())), "{}: {verdict:?}", case.name);
        } else {
            let reason = reasons.remove(case.name.as_str()).unwrap();
            assert_eq!(failed(&verdict.unwrap_err()), reason, "{}: {}", case.name, case.expect);
        }
    }
    assert!(reasons.is_empty(), "{reasons:?}");
}

/// Law no-silent-trust: roots with AMD's names are not AMD's. Nothing of this passes below AMD's own.
#[test]
fn no_silent_trust_names_are_no_roots() {
    for case in Case::all() {
        let rejected = case.verdict(&Anchors::amd()).unwrap_err();
        let found = failed(&rejected);
        assert!(found.contains(&"chain.intermediate.signature") || found.len() == 1, "{}: {found:?}", case.name);
        if case.expect == "accept" {
            assert_eq!(found, ["chain.ark", "chain.intermediate.signature"], "{}", case.name);
        }
    }
}
