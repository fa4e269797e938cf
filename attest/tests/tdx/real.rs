//! Quotes of real platforms, with what Intel published about these: what others say of them is what we say.
//! Moments are pinned.

use attest::UnixTime;
use attest::check::Fault;
use attest::tdx::Anchor;
use attest::tdx::{Anchors, Collateral, Quote, TcbStatus, verify};

use crate::evidence::{Evidence, failed, moment, vector};

pub fn real(quote: &str, collateral: &str, now: &str) -> Evidence {
    Evidence::new(&format!("real/{quote}"), &format!("real/{collateral}"), now, Anchors::intel())
}

pub fn phala() -> Evidence {
    real("v4-uptodate-phala", "v4-uptodate-phala", "2025-06-25T00:00:00Z")
}

/// Every one of them with the name of its collateral.
pub fn all() -> Vec<(Evidence, String)> {
    let same = |name: &'static str, now| (name, name, now);
    let all = [
        same("v4-uptodate-phala", "2025-06-25T00:00:00Z"),
        same("v4-uptodate-phala", "2025-07-25T00:00:00Z"),
        same("v4-uptodate-phala", "2025-06-01T00:00:00Z"),
        ("v4-uptodate-phala", "v4-outofdate-after-tcbr", "2026-10-15T00:00:00Z"),
        ("v4-uptodate-phala", "v4-fmspc-mismatch", "2026-03-20T00:00:00Z"),
        same("v5-td15-tcb-not-supported", "2026-02-20T00:00:00Z"),
        ("v5-td15ex", "v4-outofdate-after-tcbr", "2026-10-15T00:00:00Z"),
        same("v4-debug-td-uptodate", "2023-07-01T00:00:00Z"),
    ];
    all.map(|(quote, collateral, now)| (real(quote, collateral, now), format!("real/{collateral}"))).into()
}

pub fn debug() -> Evidence {
    real("v4-debug-td-uptodate", "v4-debug-td-uptodate", "2023-07-01T00:00:00Z")
}

fn status(evidence: &Evidence) -> TcbStatus {
    let verified = evidence.verdict().unwrap();
    assert_eq!(verified.anchor(), Anchor::Intel);
    assert!(verified.anchor().is_hardware());
    verified.evidence().platform().status
}

#[test]
fn a_real_quote_is_verified_and_rests_on_intels_root() {
    let evidence = phala();
    let verified = evidence.verdict().unwrap();
    assert_eq!(verified.anchor(), Anchor::Intel);
    let platform = verified.evidence().platform();
    assert_eq!(platform.status, TcbStatus::UpToDate);
    assert!(platform.advisories.is_empty());
    assert_eq!(platform.evaluation, 17);
    assert_eq!(platform.fmspc, [0xb0, 0xc0, 0x6f, 0, 0, 0]);
    assert_eq!(platform.pce_id, [0, 0]);
    assert_eq!(platform.tcb_date, moment("2024-03-13T00:00:00Z"));
    let skipped: Vec<_> = verified.checks().skipped().map(|check| check.id.name()).collect();
    assert_eq!(skipped, ["tcb.current"], "TDX 1.0 says nothing of now");
}

/// A verdict ends when something that it rests on ends: until then it holds, and afterwards it doesn't.
#[test]
fn verdicts_end_when_they_say() {
    let evidence = phala();
    let until = evidence.verdict().unwrap().valid_until();
    let at = |now: u64| Evidence { now: UnixTime::from_secs(now), ..evidence.clone() };
    assert_eq!(status(&at(until.as_secs())), TcbStatus::UpToDate);
    let rejected = at(until.as_secs() + 1).rejected();
    assert!(rejected.iter().all(|name| name.ends_with(".validity")) && !rejected.is_empty(), "{rejected:?}");
}

#[test]
fn a_quote_is_worth_less_when_more_is_known() {
    let evidence = real("v4-uptodate-phala", "v4-outofdate-after-tcbr", "2026-10-15T00:00:00Z");
    assert_eq!(status(&evidence), TcbStatus::OutOfDate);
    let verified = evidence.verdict().unwrap();
    let platform = verified.evidence().platform();
    let advisories = ["INTEL-SA-01192", "INTEL-SA-01245", "INTEL-SA-01312", "INTEL-SA-01313"];
    assert_eq!(platform.advisories, advisories);
    assert_eq!(platform.evaluation, 20);
}

#[test]
fn collateral_of_another_time_is_none() {
    let late = Evidence { now: moment("2025-07-25T00:00:00Z"), ..phala() };
    assert!(late.rejected().contains(&"tcb-info.validity"));
    let early = Evidence { now: moment("2025-06-01T00:00:00Z"), ..phala() };
    assert!(early.rejected().contains(&"tcb-info.validity"));
}

#[test]
fn a_quote_of_tdx_15_below_every_level_is_rejected_for_that() {
    let evidence = real("v5-td15-tcb-not-supported", "v5-td15-tcb-not-supported", "2026-02-20T00:00:00Z");
    let quote = Quote::parse(&evidence.quote).unwrap();
    assert_eq!(quote.version(), 5);
    assert_eq!(quote.tee_tcb_svn2().unwrap()[..3], [0x0d, 1, 3]);
    assert_eq!(quote.mr_service_td(), Some(&[0; 48]));
    assert_eq!(evidence.rejected(), ["tcb.launch", "tcb.current"]);
}

/// What an extended body of TDX 1.5 says more is signed as well.
#[test]
fn an_extended_quote_of_tdx_15_is_verified() {
    let evidence = real("v5-td15ex", "v4-outofdate-after-tcbr", "2026-10-15T00:00:00Z");
    assert_eq!(status(&evidence), TcbStatus::UpToDate);
    let quote = Quote::parse(&evidence.quote).unwrap();
    let body = &evidence.quote[54..54 + 885];
    let extension = quote.extension().unwrap();
    assert_eq!((extension.vm_id, &extension.td_id[..]), (body[648], &body[649..681]));
    assert_ne!(extension.td_id, [0; 32]);
    assert_eq!((extension.current_service_tds, extension.current_service_td_attributes), ([0; 48], [0; 8]));
    assert_eq!(quote.mr_service_td().unwrap()[..], body[600..648]);
    assert!(phala().verdict().unwrap().evidence().quote().extension().is_none());
    for at in [648, 649, 681, 729, 777, 785, 801, 817, 829, 877, 884] {
        let mut changed = evidence.clone();
        changed.quote[54 + at] ^= 1;
        assert_eq!(changed.rejected(), ["quote.signature"], "{at}");
    }
}

/// Who verifies must look at attributes: the platform is as it should be, and its host can read all of the guest.
#[test]
fn a_guest_that_can_be_debugged_is_shown_as_one() {
    let evidence = debug();
    assert_eq!(status(&evidence), TcbStatus::UpToDate);
    let quote = Quote::parse(&evidence.quote).unwrap();
    assert!(quote.td_attributes().debug());
    assert_eq!(quote.tee_tcb_svn()[1], 0, "a module of TDX 1.0, which has no levels of its own");
}

#[test]
fn no_silent_trust_what_an_enclave_says() {
    let rejected = real("sgx-v3-quote", "sgx-v3-quote", "2025-06-25T00:00:00Z").verdict().unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "evidence is rejected: quote.form: the quote is malformed: its version is 3; 4 and 5 are known; it must be a \
         quote of version 4 or 5"
    );
}

#[test]
fn no_silent_trust_collateral_of_another_kind_of_platform() {
    let evidence = real("v4-uptodate-phala", "v4-fmspc-mismatch", "2026-03-20T00:00:00Z");
    assert!(evidence.rejected().contains(&"tcb-info.platform"));
}

/// Buffers of a fixed size are passed on whole, and what is in a quote is where others read it.
#[test]
fn quotes_with_zeros_after_them_are_quotes() {
    let padded = vector("real/v4-gce-cos113.quote");
    assert_eq!(padded.len(), 8000);
    let quote = Quote::parse(&padded).unwrap();
    assert_eq!(quote.bytes().len(), 48 + 584 + 4 + 4299);
    assert_eq!(quote.signed_bytes(), &padded[..48 + 584]);
    assert_eq!(quote.xfam(), 0x600e7);
    assert_eq!(quote.tee_tcb_svn()[..3], [4, 1, 7]);
    assert_eq!(quote.mr_td(), &padded[48 + 136..][..48]);
    assert_eq!(quote.report_data(), &padded[48 + 520..][..64]);
    assert_eq!(quote.rtmrs().as_flattened(), &padded[48 + 328..][..192]);
}

/// no-silent-trust: without what Intel publishes, anybody's enclave could have written a quote. What was looked at holds
/// all the same, and is said.
#[test]
fn no_silent_trust_quotes_without_collateral() {
    let quote = vector("real/v4-gce-cos113.quote");
    let now = moment("2025-06-01T00:00:00Z");
    let rejected = verify(&quote, &Collateral::default(), &Anchors::intel(), now).unwrap_err();
    let missing = ["crl.root.signature", "crl.pck.signature", "tcb-info.form", "qe-identity.form"];
    assert_eq!((failed(&rejected), rejected.fault()), (missing.into(), Fault::Collateral));
    let check = rejected.checks().named("tcb-info.form").unwrap();
    assert_eq!(check.to_string(), "tcb-info.form: TCB info is missing; it must be as Intel writes it");
    assert!(rejected.checks().named("tcb.status").is_some_and(attest::check::Check::is_fatal));
}

/// Each part that is missing is fatal by itself.
#[test]
fn no_silent_trust_collateral_with_something_missing() {
    let evidence = phala();
    let whole = evidence.collateral();
    for (part, missing) in [
        (Collateral { tcb_info: None, ..whole }, "tcb-info.form"),
        (Collateral { qe_identity: None, ..whole }, "qe-identity.form"),
        (Collateral { root_crl: None, ..whole }, "crl.root.signature"),
        (Collateral { pck_crl: None, ..whole }, "crl.pck.signature"),
    ] {
        let rejected = verify(&evidence.quote, &part, &evidence.anchors, evidence.now).unwrap_err();
        assert_eq!((failed(&rejected), rejected.fault()), (vec![missing], Fault::Collateral));
    }
}
