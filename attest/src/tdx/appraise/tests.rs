//! Fields of quotes that nobody has a signed example of. That they were verified is assumed here.

extern crate std;

use std::path::Path;

use super::*;
use crate::UnixTime;
use crate::check::Outcome;

/// Where fields are in the quote of TDX 1.5, whose body begins here.
const BODY: usize = 48 + 6;
const ATTRIBUTES_AT: usize = BODY + 120;
const XFAM_AT: usize = BODY + 128;
const MODULE_SIGNER_AT: usize = BODY + 64;
const MODULE_ATTRIBUTES_AT: usize = BODY + 112;
const SVN_AT: usize = BODY;
const SVN2_AT: usize = BODY + 584;
const SERVICE_TD_AT: usize = BODY + 600;
/// And in a body that is extended: what was bound when the guest was made, and what is bound now.
const FIRST_SERVICE_TDS_AT: usize = BODY + 648 + 81;
const CURRENT_SERVICE_TDS_AT: usize = BODY + 648 + 181;

fn open() -> Policy {
    let mut policy = Policy::default();
    policy.allow.insert(Allowance::AnyGuest);
    policy
}

/// A quote of TDX 1.5.
fn td15() -> Vec<u8> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/attest/synthetic");
    std::fs::read(vectors.join("v5-relaunch-advised.quote")).unwrap()
}

/// What fails of it with this at that place.
fn changed(at: usize, byte: u8, policy: &Policy, references: &ReferenceValues) -> Vec<&'static str> {
    let mut quote = td15();
    quote[at] = byte;
    failed(&quote, policy, references)
}

fn failed(quote: &[u8], policy: &Policy, references: &ReferenceValues) -> Vec<&'static str> {
    let quote = Quote::parse(quote).unwrap();
    let appraisal = appraise(&Endorsed::assumed_verified(quote), policy, references);
    assert_eq!(appraisal.valid_until(), UnixTime::from_secs(9));
    appraisal.checks().failed().map(|check| check.id.name()).collect()
}

fn fails(at: usize, byte: u8, policy: &Policy) -> Vec<&'static str> {
    changed(at, byte, policy, &ReferenceValues::default())
}

/// Pitfall: attributes are not in MRTD. Each that opens the guest has its name, and each name its bit.
#[test]
fn no_silent_trust_attributes_by_their_names() {
    assert_eq!(fails(0, 5, &open()), [""; 0]);
    let sept_ve_disable = 0x10;
    for (byte, bits, name, allowance) in [
        (0, 1, "policy.debug", Allowance::Debug),
        (0, 1 << 4, "policy.profiling", Allowance::Profiling),
        (0, 1 << 6, "policy.profiling", Allowance::Profiling),
        (3, 0, "policy.sept-ve", Allowance::SeptVe),
        (3, sept_ve_disable | 1 << 5, "policy.migrate", Allowance::Migration),
        (3, sept_ve_disable | 1 << 6, "policy.pks", Allowance::Pks),
        (3, sept_ve_disable | 1 << 7, "policy.key-locker", Allowance::KeyLocker),
        (7, 1 << 7, "policy.perfmon", Allowance::Perfmon),
    ] {
        let mut policy = open();
        policy.allow.remove(&allowance);
        assert_eq!(fails(ATTRIBUTES_AT + byte, bits, &policy), [name]);
        policy.allow.insert(allowance);
        assert_eq!(fails(ATTRIBUTES_AT + byte, bits, &policy), [""; 0], "{name} is allowed");
    }
}

/// Pitfall: whoever may migrate or configure a guest from outside is a service TD; to name it is to allow it.
#[test]
fn no_silent_trust_service_tds() {
    assert_eq!(fails(SERVICE_TD_AT, 1, &open()), ["policy.service-td"]);
    let extensible = 1 << 1;
    assert_eq!(fails(ATTRIBUTES_AT + 2, extensible, &open()), ["policy.service-td"], "bound whenever its host likes");
    let mut policy = open();
    policy.allow.insert(Allowance::ServiceTd);
    assert_eq!(fails(SERVICE_TD_AT, 1, &policy), [""; 0]);
    assert_eq!(fails(ATTRIBUTES_AT + 2, extensible, &policy), [""; 0]);
    let references = |bytes: &[u8]| bound_to(bytes.iter().copied());
    assert_eq!(changed(SERVICE_TD_AT, 1, &open(), &references(&[2, 1])), [""; 0]);
    assert_eq!(changed(SERVICE_TD_AT, 2, &open(), &references(&[1])), ["policy.service-td", "reference.service-td"]);
    assert_eq!(changed(SERVICE_TD_AT, 2, &policy, &references(&[1])), ["reference.service-td"]);
}

/// Values for MR_SERVICETD that begin with these bytes.
fn bound_to(bytes: impl Iterator<Item = u8>) -> ReferenceValues {
    let digest = |first| core::array::from_fn(|index| if index == 0 { first } else { 0 });
    ReferenceValues { mr_service_tds: bytes.map(digest).collect(), ..ReferenceValues::default() }
}

/// no-silent-trust: a value that is expected excuses what it names and nothing else, so that no verdict is laxer with it than
/// without. Whoever expects that nothing is bound has not allowed that something may be.
#[test]
fn no_silent_trust_to_name_a_service_td_allows_no_other() {
    let extensible = 1 << 1;
    let mut policy = open();
    policy.allow.insert(Allowance::ServiceTd);
    for (expected, there) in [(0, 0), (1, 1)] {
        let references = bound_to([expected].into_iter());
        assert_eq!(changed(SERVICE_TD_AT, there, &open(), &references), [""; 0]);
        // Others may be bound at any time.
        let mut quote = td15();
        (quote[SERVICE_TD_AT], quote[ATTRIBUTES_AT + 2]) = (there, extensible);
        assert_eq!(failed(&quote, &open(), &references), ["policy.service-td"], "{expected}");
        assert_eq!(failed(&quote, &policy, &references), [""; 0], "{expected}");
    }
    // What is bound now, and was first, stands beside it in an extended body.
    for at in [CURRENT_SERVICE_TDS_AT, FIRST_SERVICE_TDS_AT] {
        for (expected, first, there, fails) in [
            (&[][..], 0, 1, &["policy.service-td"][..]),
            (&[1], 1, 1, &[]),
            (&[1, 2], 1, 2, &[]),
            (&[1], 1, 2, &["policy.service-td"]),
            (&[1], 1, 0, &[]),
            (&[0], 0, 1, &["policy.service-td"]),
            (&[0, 1], 0, 1, &[]),
        ] {
            let mut quote = extended();
            (quote[SERVICE_TD_AT], quote[at]) = (first, there);
            let references = bound_to(expected.iter().copied());
            assert_eq!(failed(&quote, &open(), &references), fails, "{at:#x}: {expected:?}, {first}, {there}");
            assert_eq!(failed(&quote, &policy, &references), [""; 0], "{at:#x}: {expected:?}, {first}, {there}");
        }
    }
}

/// A real quote with an extended body, on whose guest nothing is bound.
fn extended() -> Vec<u8> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/attest/real");
    let mut quote = std::fs::read(vectors.join("v5-td15ex.quote")).unwrap();
    for at in [SERVICE_TD_AT, FIRST_SERVICE_TDS_AT, CURRENT_SERVICE_TDS_AT] {
        quote[at..at + 48].fill(0);
    }
    assert_eq!(failed(&quote, &open(), &ReferenceValues::default()), [""; 0]);
    quote
}

/// Pitfall: the TDX module has a signer and attributes, too, and masks say which bits of anything count.
#[test]
fn no_silent_trust_modules_and_masks() {
    assert_eq!(fails(MODULE_SIGNER_AT, 1, &open()), ["policy.mrsignerseam"]);
    assert_eq!(fails(MODULE_ATTRIBUTES_AT, 1, &open()), ["policy.seam-attributes"]);
    let policy = Policy { mr_seams: [[0; 48]].into(), ..open() };
    assert_eq!(fails(0, 5, &policy), ["policy.mrseam"]);
    let lass = Policy { td_attributes: Bits { mask: 1 << 27, value: 0 }, ..open() };
    assert_eq!(fails(ATTRIBUTES_AT + 3, 0x18, &lass), ["policy.attributes"]);
    assert_eq!(fails(ATTRIBUTES_AT + 3, 0x10, &lass), [""; 0]);
    let wanted = Policy { td_attributes: Bits { mask: 1 << 27, value: u64::MAX }, ..open() };
    assert_eq!(fails(ATTRIBUTES_AT + 3, 0x18, &wanted), [""; 0]);
    // Neither AMX: tiles and their configuration.
    let xfam = Policy { xfam: Bits { mask: 0b11 << 17, value: 0 }, ..open() };
    assert_eq!(fails(XFAM_AT + 2, 0b110, &xfam), ["policy.xfam"]);
    assert_eq!(fails(XFAM_AT + 2, 0, &xfam), [""; 0]);
}

/// Pitfall: versions are compared component by component, those at launch and those of now.
#[test]
fn no_silent_trust_floors_by_component() {
    let floor = Policy { tee_tcb_svn: [0; 16].map(|_: u8| 1), ..open() };
    let names = ["policy.tee-tcb-svn", "policy.tee-tcb-svn-now"];
    let all_zero = fails(0, 5, &floor);
    assert_eq!(all_zero, names, "later components are 0");
    for index in 0..3 {
        let mut svn = [0; 16];
        svn[index] = 3;
        let floor = Policy { tee_tcb_svn: svn, ..open() };
        assert_eq!(fails(SVN_AT + index, 2, &floor).first(), Some(&names[0]), "{index}");
        assert_eq!(fails(SVN2_AT + index, 2, &floor).last(), Some(&names[1]), "{index}");
        assert!(!fails(SVN_AT + index, 3, &floor).contains(&names[0]), "{index}");
        assert!(!fails(SVN2_AT + index, 3, &floor).contains(&names[1]), "{index}");
    }
}

/// Whatever is asked for or not, the same checks are listed, each once, in both versions of the body.
#[test]
fn every_check_is_in_every_appraisal() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/attest/synthetic");
    let names = |name: &str, policy: &Policy| {
        let quote = std::fs::read(vectors.join(name)).unwrap();
        let verified = Endorsed::assumed_verified(Quote::parse(&quote).unwrap());
        let appraisal = appraise(&verified, policy, &ReferenceValues::default());
        let skips_say_why = appraisal.checks().iter().all(|check| match &check.outcome {
            Outcome::Skipped(why) => !why.is_empty(),
            _ => !check.expected.is_empty() && !check.actual.is_empty(),
        });
        assert!(skips_say_why);
        appraisal.checks().iter().map(|check| check.id.name()).collect::<Vec<_>>()
    };
    let all = names("good-v4.quote", &Policy::default());
    let mut unique = all.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), all.len());
    let nothing = Policy {
        statuses: [].into(),
        mr_signer_seams: [].into(),
        seam_attributes: Bits::default(),
        allow: [].into(),
        ..Policy::default()
    };
    for policy in [Policy::preset(super::super::Preset::Hardened), nothing] {
        for name in ["good-v4.quote", "v5-relaunch-advised.quote"] {
            assert_eq!(names(name, &policy), all);
        }
    }
}
