//! Quotes that somebody else made to be accepted or refused: the verdicts are theirs, the reasons are checked here.
//! `cases.json` says of each what it is. Their root has Intel's name and another key, so it is given as a test's.

use std::collections::BTreeMap;

use attest::check::Fault;
use attest::tdx::Anchor;
use attest::tdx::Anchors;
use serde::Deserialize;

use crate::evidence::{Evidence, failed, vector};

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub now: String,
    pub expect: String,
    pub dcap_qvl: String,
}

impl Case {
    pub fn all() -> Vec<Case> {
        serde_json::from_slice(&vector("synthetic/cases.json")).unwrap()
    }

    pub fn evidence(&self) -> Evidence {
        Evidence::synthetic(&self.name, &self.now)
    }

    /// The status that it must have, if it is not to be rejected. Policies are not made here: what they reject is
    /// verified.
    fn status(&self) -> Option<&str> {
        match self.expect.strip_prefix("tcb-status ") {
            Some("Revoked") => None,
            Some(status) => Some(status),
            None if self.expect.starts_with("accept") || self.expect.starts_with("policy-reject") => Some("UpToDate"),
            None => None,
        }
    }
}

/// The quote is of a module of which this TCB info says nothing; another may.
const UNKNOWN_MODULE: &[&str] = &["module.mrsigner", "tcb.launch"];

/// Why each of them is refused: no more and no less.
fn reasons() -> BTreeMap<&'static str, &'static [&'static str]> {
    const FORM: &[&str] = &["quote.form"];
    const LEVEL: &[&str] = &["tcb.launch"];
    BTreeMap::from([
        ("plat-revoked", &["tcb.status"][..]),
        ("module-revoked", &["tcb.status"]),
        ("qe-below-all", LEVEL),
        ("plat-below-all", LEVEL),
        ("pcesvn-below", LEVEL),
        ("module-version-unknown", UNKNOWN_MODULE),
        ("fmspc-mismatch", &["tcb-info.platform"]),
        ("tcbinfo-sgx", &["tcb-info.form"]),
        ("tcbinfo-v2", &["tcb-info.form"]),
        ("qeid-version1", &["qe-identity.form"]),
        ("qe-mrsigner", &["qe.mrsigner"]),
        ("qe-prodid", &["qe.product"]),
        ("qe-debug-attr", &["qe.attributes"]),
        ("seam-signer", &["module.mrsigner"]),
        ("pck-revoked", &["key.revocation"]),
        ("tcbinfo-expired", &["crl.root.validity", "tcb-info.validity", "qe-identity.validity"]),
        ("crl-expired", &["crl.pck.validity"]),
        ("future-issue", &["crl.root.validity", "crl.pck.validity", "tcb-info.validity", "qe-identity.validity"]),
        ("rogue-root", &["chain.root"]),
        ("mut-quote-sig", &["quote.signature"]),
        ("mut-qe-sig", &["qe.signature"]),
        ("mut-body", &["quote.signature"]),
        ("mut-truncated", FORM),
        ("mut-tcb-sig", &["tcb-info.signature"]),
        ("mut-vendor", FORM),
        ("attr-reserved", &["quote.attributes"]),
    ])
}

/// What it means: of several kinds of failure the first decides.
fn fault(reasons: &[&str]) -> Fault {
    let all = |kinds: &[&str]| reasons.iter().all(|name| kinds.iter().any(|kind| name.ends_with(kind)));
    if all(&[".revocation", "tcb.status"]) {
        Fault::Revoked
    } else if all(&[".validity", "tcb-info.platform"]) || reasons == UNKNOWN_MODULE {
        Fault::Collateral
    } else {
        Fault::Evidence
    }
}

#[test]
fn verdicts_are_those_of_who_made_the_evidence_and_for_their_reasons() {
    let mut reasons = reasons();
    for case in Case::all() {
        let evidence = case.evidence();
        let verdict = evidence.verdict();
        if let Some(status) = case.status() {
            let verified = verdict.unwrap();
            assert_eq!(verified.anchor(), Anchor::Test, "{}", case.name);
            assert!(!verified.anchor().is_hardware());
            assert_eq!(verified.evidence().platform().status.name(), status, "{}", case.name);
        } else {
            let rejected = verdict.unwrap_err();
            let reason = reasons.remove(case.name.as_str()).unwrap_or_default();
            assert_eq!(failed(&rejected), reason, "{}: {}: {rejected}", case.name, case.expect);
            assert_eq!(rejected.fault(), fault(reason), "{}", case.name);
        }
    }
    assert!(reasons.is_empty(), "{reasons:?}");
}

/// What a policy wants to know of a guest is there.
#[test]
fn attributes_of_guests_are_shown() {
    for (name, bits) in [
        ("attr-debug", 1 | 1 << 28),
        ("attr-no-septve", 0),
        ("attr-perfmon", 1 << 63 | 1 << 28),
        ("attr-pks", 1 << 30 | 1 << 28),
        ("attr-kl", 1 << 31 | 1 << 28),
    ] {
        let evidence = Evidence::synthetic(name, "2026-06-01T00:00:00Z");
        let verified = evidence.verdict().unwrap();
        let attributes = verified.evidence().quote().td_attributes();
        assert_eq!(attributes.bits(), bits, "{name}");
        assert_eq!(attributes.debug(), name == "attr-debug");
        assert_eq!(attributes.sept_ve_disable(), name != "attr-no-septve");
        assert_eq!(attributes.perfmon(), name == "attr-perfmon");
        assert_eq!(attributes.pks(), name == "attr-pks");
        assert_eq!(attributes.key_locker(), name == "attr-kl");
        assert!(!attributes.migratable() && !attributes.profiling());
    }
}

/// Law no-silent-trust: a root with Intel's name is not Intel's. Nothing of this passes below Intel's own.
#[test]
fn no_silent_trust_names_are_no_roots() {
    for case in Case::all() {
        for anchors in [Anchors::intel(), Anchors::none()] {
            let rejected = Evidence { anchors, ..case.evidence() }.rejected();
            assert!(rejected == ["quote.form"] || rejected.contains(&"chain.root"), "{}: {rejected:?}", case.name);
        }
    }
}
