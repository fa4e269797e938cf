//! What a policy and reference values refuse of quotes that are verified, and what a verdict claims.

use attest::check::{Fault, Outcome};
use attest::tdx::{Allowance, Appraisal, Policy, Preset, Quote, ReferenceValues, TcbStatus, Tier, Verdict, appraise};
use proptest::prelude::*;

use crate::evidence::Evidence;
use crate::real::{debug, phala, real};

const JUNE: &str = "2026-06-01T00:00:00Z";

/// Any guest.
fn open() -> Policy {
    let mut policy = Policy::default();
    policy.allow.insert(Allowance::AnyGuest);
    policy
}

fn judge(evidence: &Evidence, policy: &Policy, references: &ReferenceValues) -> Appraisal {
    appraise(&evidence.verdict().unwrap(), policy, references)
}

fn failed(appraisal: &Appraisal) -> Vec<&'static str> {
    appraisal.checks().failed().map(|check| check.id.name()).collect()
}

fn fails(evidence: &Evidence, policy: &Policy) -> Vec<&'static str> {
    failed(&judge(evidence, policy, &ReferenceValues::default()))
}

fn synthetic(name: &str) -> Evidence {
    Evidence::synthetic(name, JUNE)
}

/// Law no-silent-trust: whatever passes, a test's root never makes hardware of it.
#[test]
fn no_silent_trust_a_test_root_affirms_nothing() {
    let appraisal = judge(&synthetic("good-v4"), &open(), &ReferenceValues::default());
    assert_eq!((appraisal.verdict(), appraisal.tier()), (Verdict::TestPassed, Tier::SoftwareTest));
    let affirmed = judge(&phala(), &open(), &ReferenceValues::default());
    assert_eq!((affirmed.verdict(), affirmed.tier(), failed(&affirmed)), (Verdict::Affirmed, Tier::Hardware, vec![]));
    assert_eq!(affirmed.valid_until(), phala().verdict().unwrap().valid_until());
}

/// Pitfall: a quote that Intel's keys signed, of a guest that its host can read.
#[test]
fn no_silent_trust_a_real_guest_that_can_be_debugged() {
    let names = fails(&debug(), &Policy::default());
    assert_eq!(names, ["policy.debug", "reference.guest"]);
    let mut lax = open();
    lax.allow.insert(Allowance::Debug);
    let appraisal = judge(&debug(), &lax, &ReferenceValues::default());
    assert_eq!(appraisal.verdict(), Verdict::Affirmed);
    let check = appraisal.checks().named("policy.debug").unwrap();
    assert_eq!((&check.outcome, check.advisory.is_some()), (&Outcome::Passed, true), "allowed, and still said");
}

/// What others want of the synthetic guests, and for their reasons.
#[test]
fn attributes_are_refused_or_shown() {
    for (name, strict, hardened) in [
        ("good-v4", &[][..], &[][..]),
        ("good-module0", &[], &[]),
        ("fmspc-case", &[], &[]),
        ("attr-debug", &["policy.debug"], &["policy.debug"]),
        ("attr-no-septve", &["policy.sept-ve"], &["policy.sept-ve"]),
        ("attr-perfmon", &[], &["policy.perfmon"]),
        ("attr-pks", &[], &[]),
        ("attr-kl", &[], &["policy.key-locker"]),
    ] {
        let with = |preset| {
            let mut policy = Policy::preset(preset);
            policy.allow.insert(Allowance::AnyGuest);
            fails(&synthetic(name), &policy)
        };
        assert_eq!(with(Preset::Strict), strict, "{name}");
        assert_eq!(with(Preset::Hardened), hardened, "{name}");
    }
    for (name, flag) in
        [("attr-perfmon", "policy.perfmon"), ("attr-pks", "policy.pks"), ("attr-kl", "policy.key-locker")]
    {
        let appraisal = judge(&synthetic(name), &open(), &ReferenceValues::default());
        assert_eq!(appraisal.checks().named(flag).unwrap().actual, "possible", "{name}");
    }
}

/// Pitfall: every status but the best is good enough only by its name, and what a platform misses is named.
#[test]
fn no_silent_trust_statuses_by_name() {
    for (name, status, shortfall) in [
        ("plat-uptodate-module-outofdate", TcbStatus::OutOfDate, Some("OutOfDate: tdx module svn ")),
        ("plat-confneeded", TcbStatus::ConfigurationNeeded, None),
        ("plat-swhardening", TcbStatus::SwHardeningNeeded, None),
        ("plat-swhardening-qe-outofdate", TcbStatus::OutOfDate, None),
        ("plat-conf-and-sw", TcbStatus::ConfigurationAndSwHardeningNeeded, None),
        ("qe-outofdate", TcbStatus::OutOfDate, Some("OutOfDate: qe svn ")),
        ("v5-relaunch-advised", TcbStatus::TdRelaunchAdvised, Some("TDRelaunchAdvised: ")),
    ] {
        let evidence = synthetic(name);
        let verified = evidence.verdict().unwrap();
        let with = |statuses: &[TcbStatus]| {
            let advisories = verified.evidence().platform().advisories.iter().cloned().collect();
            let policy = Policy { statuses: statuses.iter().copied().collect(), advisories, ..open() };
            appraise(&verified, &policy, &ReferenceValues::default())
        };
        assert_eq!(failed(&with(&[status])), [""; 0], "{name}");
        for other in TcbStatus::ACCEPTABLE.into_iter().filter(|other| *other != status) {
            assert_eq!(failed(&with(&[other])), ["policy.tcb-status"], "{name}");
        }
        let refused = with(&[TcbStatus::UpToDate]);
        assert_eq!(refused.checks().fault(), Some(Fault::Unmet));
        let said = refused.checks().named("policy.tcb-status").unwrap().shortfall.clone().unwrap();
        assert!(said.starts_with(shortfall.unwrap_or(status.name())), "{name}: {said}");
        assert!(shortfall.is_none() || said.contains(" < "), "{name}: {said}");
    }
    assert_eq!(fails(&synthetic("good-v4"), &Policy { statuses: [].into(), ..open() }), ["policy.tcb-status"]);
}

/// Pitfall: a real platform a year later. Advisories are refused by name as well: to accept a status is not to accept
/// whatever comes with it.
#[test]
fn no_silent_trust_advisories_by_name() {
    let later = real("v4-uptodate-phala", "v4-outofdate-after-tcbr", "2026-10-15T00:00:00Z");
    let verified = later.verdict().unwrap();
    let with = |advisories: &[&str]| {
        let advisories = advisories.iter().map(|name| (*name).to_owned()).collect();
        let policy = Policy { statuses: [TcbStatus::OutOfDate].into(), advisories, ..open() };
        appraise(&verified, &policy, &ReferenceValues::default())
    };
    let all = ["INTEL-SA-01192", "INTEL-SA-01245", "INTEL-SA-01312", "INTEL-SA-01313"];
    assert_eq!(failed(&with(&all)), [""; 0]);
    let missing = with(&all[..2]);
    assert_eq!(failed(&missing), ["policy.tcb-advisories"]);
    let check = missing.checks().named("policy.tcb-advisories").unwrap();
    assert_eq!(check.shortfall.as_deref(), Some("INTEL-SA-01312, INTEL-SA-01313"));
    let strict = fails(&later, &open());
    assert_eq!(strict, ["policy.tcb-status", "policy.tcb-advisories"]);
}

/// Pitfall: old collateral that is still good, and platforms of another kind.
#[test]
fn no_silent_trust_evaluations_and_platforms() {
    let with = |policy: Policy| fails(&phala(), &policy);
    assert_eq!(with(Policy { evaluation: 17, ..open() }), [""; 0]);
    assert_eq!(with(Policy { evaluation: 18, ..open() }), ["policy.tcb-evaluation"]);
    let its = [0xb0, 0xc0, 0x6f, 0, 0, 0];
    assert_eq!(with(Policy { fmspcs: [[0; 6], its].into(), ..open() }), [""; 0]);
    assert_eq!(with(Policy { fmspcs: [[0; 6]].into(), ..open() }), ["policy.fmspc"]);
}

/// Pitfall: of lists of revoked certificates an older one may be as good as a new one until it ends.
#[test]
fn no_silent_trust_older_lists() {
    let with = |root_crl, pck_crl| fails(&phala(), &Policy { root_crl, pck_crl, ..open() });
    assert_eq!(with(1, 1), [""; 0]);
    assert_eq!(with(2, 1), ["policy.root-crl"]);
    assert_eq!(with(1, 2), ["policy.pck-crl"]);
}

/// Pitfall: one bit of what is expected that is another is named, and so is that nothing is expected at all.
#[test]
fn no_silent_trust_reference_values() {
    let evidence = phala();
    let quote = Quote::parse(&evidence.quote).unwrap();
    let good = ReferenceValues {
        mr_tds: vec![[7; 48], *quote.mr_td()],
        rtmrs: quote.rtmrs().map(|rtmr| vec![rtmr]),
        mr_config_id: Some(*quote.mr_config_id()),
        mr_owner: Some(*quote.mr_owner()),
        mr_owner_config: Some(*quote.mr_owner_config()),
        report_data: Some(*quote.report_data()),
        mr_service_tds: vec![],
    };
    assert_eq!(judge(&evidence, &Policy::default(), &good).verdict(), Verdict::Affirmed);
    let with = |change: fn(&mut ReferenceValues)| {
        let mut references = good.clone();
        change(&mut references);
        failed(&judge(&evidence, &Policy::default(), &references))
    };
    assert_eq!(with(|it| it.mr_tds[1][47] ^= 1), ["reference.mrtd"]);
    assert_eq!(with(|it| it.rtmrs[0][0][0] ^= 1), ["reference.rtmr0"]);
    assert_eq!(with(|it| it.rtmrs[1][0][9] ^= 2), ["reference.rtmr1"]);
    assert_eq!(with(|it| it.rtmrs[2][0][47] ^= 0x80), ["reference.rtmr2"]);
    assert_eq!(with(|it| it.rtmrs[3][0][0] ^= 1), ["reference.rtmr3"]);
    assert_eq!(with(|it| it.mr_config_id.as_mut().unwrap()[0] ^= 1), ["reference.mrconfigid"]);
    assert_eq!(with(|it| it.mr_owner.as_mut().unwrap()[0] ^= 1), ["reference.mrowner"]);
    assert_eq!(with(|it| it.mr_owner_config.as_mut().unwrap()[0] ^= 1), ["reference.mrownerconfig"]);
    assert_eq!(with(|it| it.report_data.as_mut().unwrap()[63] ^= 1), ["reference.report-data"]);
    // TDX 1.0 names none, and so none that is expected.
    assert_eq!(with(|it| it.mr_service_tds = vec![[0; 48]]), ["reference.service-td"]);
    assert_eq!(with(|it| *it = ReferenceValues::default()), ["reference.guest"]);
    let replay = judge(&evidence, &open(), &ReferenceValues::default());
    assert!(replay.checks().named("reference.report-data").unwrap().advisory.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// no-silent-trust: allowing more never refuses more.
    #[test]
    fn no_silent_trust_policies_are_monotonous(
        which in prop::sample::select(&["good-v4", "attr-debug", "attr-no-septve", "attr-kl", "plat-conf-and-sw"][..]),
        allow in prop::collection::btree_set(prop::sample::select(&Allowance::ALL[..]), 0..9),
        statuses in prop::collection::btree_set(prop::sample::select(&TcbStatus::ACCEPTABLE[..]), 0..8),
        allowance in prop::sample::select(&Allowance::ALL[..]),
        status in prop::sample::select(&TcbStatus::ACCEPTABLE[..]),
    ) {
        let policy = Policy { allow, statuses, ..Policy::default() };
        let mut lenient = policy.clone();
        lenient.allow.insert(allowance);
        lenient.statuses.insert(status);
        let [strict, lenient] = [policy, lenient].map(|policy| fails(&synthetic(which), &policy));
        prop_assert!(lenient.iter().all(|name| strict.contains(name)));
    }
}
