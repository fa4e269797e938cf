//! Verdicts beside those of the crate `dcap-qvl`, which somebody else wrote: the same, or the test says why not.

use attest::tdx::Anchors;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::quote::Quote as TheirQuote;
use dcap_qvl::verify::QuoteVerifier;
use proptest::prelude::*;

use crate::evidence::{Evidence, files, unhex, vector};
use crate::real;
use crate::synthetic::Case;

/// What they say: a status and advisories, in order, or nothing.
type Verdict = Option<(String, Vec<String>)>;

fn ours(evidence: &Evidence) -> Verdict {
    let verified = evidence.verdict().ok()?;
    let platform = verified.evidence().platform();
    Some((platform.status.name().into(), platform.advisories.clone()))
}

/// They get the evidence's parts; `file` adds what we have no use for, the chain below which lists are signed.
fn theirs(evidence: &Evidence, file: &str) -> Verdict {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: files(file).pck_crl_issuer_chain,
        root_ca_crl: evidence.root_crl.clone(),
        pck_crl: evidence.pck_crl.clone(),
        tcb_info_issuer_chain: text(&evidence.tcb_info.chain)?,
        tcb_info: text(&evidence.tcb_info.text)?,
        tcb_info_signature: evidence.tcb_info.signature.clone(),
        qe_identity_issuer_chain: text(&evidence.qe_identity.chain)?,
        qe_identity: text(&evidence.qe_identity.text)?,
        qe_identity_signature: evidence.qe_identity.signature.clone(),
        pck_certificate_chain: None,
    };
    let verifier: QuoteVerifier = if evidence.anchors == Anchors::intel() {
        QuoteVerifier::new_prod()
    } else {
        QuoteVerifier::new(vector("synthetic/root.der"))
    };
    let report = verifier.allow_debug(true).verify(&evidence.quote, &collateral, evidence.now.as_secs()).ok()?;
    let mut advisories = report.advisory_ids;
    advisories.sort_unstable();
    advisories.dedup();
    Some((report.status, advisories))
}

#[test]
fn synthetic_quotes_are_judged_as_by_others() {
    for case in Case::all() {
        let evidence = case.evidence();
        let theirs = theirs(&evidence, &format!("synthetic/{}", case.name));
        let noted = case.dcap_qvl.strip_prefix("OK ");
        if case.name != "attr-debug" {
            assert_eq!(theirs.as_ref().map(|(status, _)| &status[..]), noted, "{}", case.name);
        }
        // A guest that takes exceptions for pages that its host took away is one for a policy to refuse: whether a
        // quote is genuine does not depend on it. They refuse it in the same breath.
        if case.name == "attr-no-septve" {
            assert_eq!((ours(&evidence).unwrap().0.as_str(), theirs), ("UpToDate", None));
        } else {
            assert_eq!(ours(&evidence), theirs, "{}", case.name);
        }
    }
}

#[test]
fn real_quotes_are_judged_as_by_others() {
    for (evidence, file) in real::all() {
        assert_eq!(ours(&evidence), theirs(&evidence, &file), "{file}");
    }
}

/// What a quote says is what others read in it.
#[test]
fn fields_are_those_that_others_read() {
    for (evidence, file) in real::all() {
        let Ok(quote) = attest::tdx::Quote::parse(&evidence.quote) else { continue };
        let theirs = TheirQuote::parse(&evidence.quote).unwrap();
        let body = theirs.report.as_td10().unwrap();
        assert_eq!(quote.version(), theirs.header.version, "{file}");
        assert_eq!(quote.user_data(), &theirs.header.user_data);
        assert_eq!(quote.tee_tcb_svn(), &body.tee_tcb_svn);
        assert_eq!((quote.mr_seam(), quote.mr_signer_seam()), (&body.mr_seam, &body.mr_signer_seam));
        assert_eq!(quote.seam_attributes(), &body.seam_attributes);
        assert_eq!(quote.td_attributes().bits().to_le_bytes(), body.td_attributes);
        assert_eq!(quote.xfam().to_le_bytes(), body.xfam);
        assert_eq!((quote.mr_td(), quote.mr_config_id()), (&body.mr_td, &body.mr_config_id));
        assert_eq!((quote.mr_owner(), quote.mr_owner_config()), (&body.mr_owner, &body.mr_owner_config));
        assert_eq!(quote.rtmrs(), &[body.rt_mr0, body.rt_mr1, body.rt_mr2, body.rt_mr3]);
        assert_eq!(quote.report_data(), &body.report_data);
        let more = theirs.report.as_td15();
        assert_eq!(quote.tee_tcb_svn2(), more.map(|body| &body.tee_tcb_svn2));
        assert_eq!(quote.mr_service_td(), more.map(|body| &body.mr_service_td));
    }
}

/// The root is not what somebody gave us once: it is the one that others rely on.
#[test]
fn intels_root_is_the_one_that_others_rely_on() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/roots/intel/sgx-root-ca.der");
    let root = std::fs::read(path).unwrap();
    let evidence = real::phala();
    let files = files("real/v4-uptodate-phala");
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: files.pck_crl_issuer_chain,
        root_ca_crl: unhex(&files.root_ca_crl),
        pck_crl: unhex(&files.pck_crl),
        tcb_info_issuer_chain: files.tcb_info_issuer_chain,
        tcb_info: files.tcb_info,
        tcb_info_signature: unhex(&files.tcb_info_signature),
        qe_identity_issuer_chain: files.qe_identity_issuer_chain,
        qe_identity: files.qe_identity,
        qe_identity_signature: unhex(&files.qe_identity_signature),
        pck_certificate_chain: None,
    };
    let verify = |verifier: QuoteVerifier| verifier.verify(&evidence.quote, &collateral, evidence.now.as_secs());
    assert_eq!(verify(QuoteVerifier::new(root)).unwrap(), verify(QuoteVerifier::new_prod()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was changed by a bit is nothing for either, or the same.
    #[test]
    fn changed_quotes_are_judged_as_by_others(place in 0..1000usize, bit in 0..8u8) {
        let mut evidence = real::phala();
        let at = evidence.quote.len() * place / 1000;
        evidence.quote[at] ^= 1 << bit;
        let (ours, theirs) = (ours(&evidence), theirs(&evidence, "real/v4-uptodate-phala"));
        // Nothing may be accepted that they refuse. They pass over what follows a quote, and over the root that came.
        prop_assert!(ours.is_none() || ours == theirs, "byte {at:#x}: {ours:?} and {theirs:?}");
    }
}
