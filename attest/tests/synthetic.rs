//! Evidence that somebody else made to be accepted or refused: the verdicts are theirs, the reasons are checked here.
//! `cases.json` says of each what it is. Its roots have AMD's names and other keys, so they are given as tests' roots.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::collections::BTreeMap;

use attest::Rejected;
use attest::check::Fault;
use attest::snp::Anchor;
use attest::snp::report::SigningKey;
use attest::snp::{
    Allowance, Anchors, Endorsements, Policy, Product, ReferenceValues, Report, Requirement, TcbFloor, appraise, verify,
};
use common::{NOW, failed, vector};
use serde::Deserialize;

#[derive(Clone, Deserialize)]
struct Case {
    name: String,
    report: String,
    vek: String,
    ica: String,
    chain_ark: String,
    trusted_ark: String,
    crl: Option<String>,
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
        self.judged(anchors, &Policy::default(), &ReferenceValues::default()).map(|(anchor, _)| anchor)
    }

    /// What it rests on, and what of this policy and these values is not met.
    fn judged(
        &self,
        anchors: &Anchors,
        policy: &Policy,
        references: &ReferenceValues,
    ) -> Result<(Anchor, Vec<&'static str>), Rejected> {
        assert_eq!(self.now, NOW.to_string());
        let file = |name: &str| vector(&format!("synthetic/{name}"));
        let [report, vek, intermediate, ark] =
            [&self.report, &self.vek, &self.ica, &self.chain_ark].map(|name| file(name));
        let crl = self.crl.as_deref().map(file);
        // What signs is what the report says; a certificate of the wrong kind stands in its place.
        let vlek = Report::parse(&report).is_ok_and(|report| report.signing_key() == SigningKey::Vlek);
        let (vcek, vlek) = if vlek { (None, Some(&vek[..])) } else { (Some(&vek[..]), None) };
        let endorsements = Endorsements {
            vcek,
            vlek,
            intermediate: Some(&intermediate),
            ark: Some(&ark),
            crl: crl.as_deref(),
            malformed: None,
        };
        verify(&report, &endorsements, anchors, NOW).map(|verified| {
            let appraisal = appraise(&verified, policy, references);
            (verified.anchor(), appraisal.checks().failed().map(|check| check.id.name()).collect())
        })
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
        ("crl-expired", &["chain.revocation.validity"]),
        ("crl-future", &["chain.revocation.validity"]),
        ("crl-badsig", &["chain.revocation.list"]),
    ])
}

#[test]
fn verdicts_are_those_of_who_made_the_evidence_and_for_their_reasons() {
    let mut reasons = reasons();
    for case in Case::all() {
        let root = vector(&format!("synthetic/{}", case.trusted_ark));
        let anchors = Anchors::none().with_test_root(case.product(), &root).unwrap();
        let verdict = case.verdict(&anchors);
        // What a policy refuses is genuine.
        if case.expect.starts_with("accept") || case.expect.starts_with("policy-reject") {
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
            let expected = ["chain.ark", "chain.intermediate.signature", "chain.revocation.list"];
            assert_eq!(found, expected, "{}", case.name);
        }
    }
}

/// A policy by which nothing of these is refused, so that one wish at a time is what decides.
fn lenient() -> Policy {
    Policy {
        products: Product::ALL.map(|product| (product, TcbFloor::default())).into(),
        allow: Allowance::ALL.into(),
        vmpl: 3,
        ..Policy::default()
    }
}

fn nothing() -> ReferenceValues {
    ReferenceValues::default()
}

fn without(allowance: Allowance) -> Policy {
    let mut policy = lenient();
    policy.allow.remove(&allowance);
    policy
}

fn requiring(requirement: Requirement) -> Policy {
    Policy { require: [requirement].into(), ..lenient() }
}

/// What each case of theirs is refused for, and by what wish; without that wish it passes.
#[test]
fn policies_refuse_what_who_made_the_evidence_says_they_should() {
    let floor = TcbFloor { snp: 24, ..TcbFloor::default() };
    let mut wishes: BTreeMap<&str, (Policy, &[&str])> = BTreeMap::from([
        ("no-crl", (requiring(Requirement::RevocationList), &["policy.revocation-list"][..])),
        ("pol-debug", (without(Allowance::Debug), &["policy.debug"])),
        ("pol-migrate", (without(Allowance::Migration), &["policy.migrate"])),
        ("pol-smt", (without(Allowance::Smt), &["policy.smt"])),
        ("pol-abi-min", (Policy { abi: (1, 55), ..lenient() }, &["policy.abi"])),
        // A key that signed, and that nobody knows.
        ("pol-author-key", (lenient(), &["reference.author-key"])),
        ("pol-vmpl1", (Policy { vmpl: 0, ..lenient() }, &["policy.vmpl"])),
        ("pol-vmpl3", (Policy { vmpl: 2, ..lenient() }, &["policy.vmpl"])),
        ("pol-tio", (without(Allowance::Tio), &["policy.tio"])),
        ("pol-ciphertext-hiding", (requiring(Requirement::CiphertextHiding), &["policy.ciphertext-hiding"])),
        ("pol-provisional", (without(Allowance::ProvisionalFirmware), &["policy.provisional-firmware"])),
        (
            "pol-launch-tcb-low",
            (Policy { products: [(Product::Milan, floor)].into(), ..lenient() }, &["policy.launch-tcb.snp"]),
        ),
    ]);
    for case in Case::all() {
        let Some((policy, expected)) = wishes.remove(case.name.as_str()) else { continue };
        let root = vector(&format!("synthetic/{}", case.trusted_ark));
        let anchors = Anchors::none().with_test_root(case.product(), &root).unwrap();
        let failed =
            |policy: &Policy, references: &ReferenceValues| case.judged(&anchors, policy, references).unwrap().1;
        let (known, nothing) = (ReferenceValues { author_keys: vec![[1; 48]], ..nothing() }, nothing());
        let references = if case.name == "pol-author-key" { &known } else { &nothing };
        assert_eq!(failed(&policy, references), expected, "{}", case.name);
        assert_eq!(failed(&lenient(), &nothing), [""; 0], "{}", case.name);
    }
    assert!(wishes.is_empty(), "{:?}", wishes.keys());
}

/// A root's list is about those that it issued: an ASVK that was revoked takes VLEKs with it, and nothing else.
#[test]
fn no_silent_trust_a_revoked_issuer() {
    let cases = Case::all();
    let named = |name: &str| cases.iter().find(|case| case.name == name).unwrap();
    let anchors = Anchors::none().with_test_root(Product::Milan, &vector("synthetic/ark-milan.der")).unwrap();
    let mut vlek = Case { crl: Some("crl-milan-asvk-revoked.der".into()), ..named("good-vlek").clone() };
    let rejected = vlek.verdict(&anchors).unwrap_err();
    assert_eq!((failed(&rejected), rejected.fault()), (vec!["chain.revocation"], Fault::Revoked));
    // Another product's list is not this one's.
    vlek.crl = Some("crl-genoa-good.der".into());
    let rejected = vlek.verdict(&anchors).unwrap_err();
    assert_eq!((failed(&rejected), rejected.fault()), (vec!["chain.revocation.list"], Fault::Evidence));
    for (name, fault) in
        [("crl-expired", Fault::Collateral), ("vcek-expired", Fault::Collateral), ("sig-flip", Fault::Evidence)]
    {
        assert_eq!(named(name).verdict(&anchors).unwrap_err().fault(), fault, "{name}");
    }
}
