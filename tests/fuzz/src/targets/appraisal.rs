//! What a policy and reference values make of quotes that are verified.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use attest::Verified;
use attest::anchors::Root;
use attest::eventlog::{self, EventLog};
use attest::tdx::{Allowance, Appraisal, Endorsed, Policy, ReferenceValues, TcbStatus, Tier, Verdict, appraise};

use super::tdx::verified;
use crate::script::Input;
use crate::vectors::vector;

static VERIFIED: LazyLock<Vec<Verified<Endorsed<'static>>>> = LazyLock::new(verified);
static LOG: LazyLock<Vec<u8>> = LazyLock::new(|| vector("tdx/eventlog/gce-cos113.ccel"));

fn pick<T: Copy + Ord>(all: &[T], bits: u16) -> BTreeSet<T> {
    all.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1).map(|(_, it)| *it).collect()
}

/// Values of the quote itself, or others.
fn values<const N: usize>(input: &mut Input<'_>, own: [u8; N]) -> Vec<[u8; N]> {
    let choice = input.byte();
    let other = || [choice; N];
    match choice % 8 {
        0..3 => vec![],
        3 | 4 => vec![own],
        5 => vec![other(), own],
        6 => vec![other()],
        _ => {
            // One bit beside it.
            let mut near = own;
            let bit = usize::from(input.byte());
            near[bit / 8 % N] ^= 1 << (bit % 8);
            vec![near]
        }
    }
}

/// Every verdict follows from its checks, and none claims hardware of a test's root.
pub(crate) fn tdx(input: &[u8]) {
    let mut input = Input(input);
    let verified = input.one_of(&VERIFIED);
    let (allow, statuses) = (input.take().map_or(0, u16::from_le_bytes), input.take().map_or(0, u16::from_le_bytes));
    let quote = verified.evidence().quote();
    let strange = ReferenceValues::default();
    let policy = Policy {
        allow: pick(&Allowance::ALL, allow),
        statuses: pick(&TcbStatus::ACCEPTABLE, statuses),
        advisories: match input.byte() % 3 {
            0 => BTreeSet::new(),
            1 => verified.evidence().platform().advisories.iter().cloned().collect(),
            _ => [String::from_utf8_lossy(input.bytes(12)).into_owned()].into(),
        },
        evaluation: u32::from(input.byte()),
        root_crl: u32::from(input.byte()),
        pck_crl: u32::from(input.byte()),
        fmspcs: values(&mut input, verified.evidence().platform().fmspc).into_iter().collect(),
        tee_tcb_svn: input.take().unwrap_or_default(),
        ..Policy::default()
    };
    let references = ReferenceValues {
        mr_tds: values(&mut input, *quote.mr_td()),
        rtmrs: quote.rtmrs().map(|rtmr| values(&mut input, rtmr)),
        mr_config_id: values(&mut input, *quote.mr_config_id()).pop(),
        mr_owner: values(&mut input, *quote.mr_owner()).pop(),
        mr_owner_config: values(&mut input, *quote.mr_owner_config()).pop(),
        report_data: values(&mut input, *quote.report_data()).pop(),
        mr_service_tds: values(&mut input, quote.mr_service_td().copied().unwrap_or([0; 48])),
    };
    let appraisal = appraise(verified, &policy, &references);
    judge(&appraisal, verified.anchor());
    // What is expected and there, or not, decides by itself.
    let is_met = |own: &[u8; 48], wanted: &[[u8; 48]]| wanted.is_empty() || wanted.contains(own);
    let failed: Vec<_> = appraisal.checks().failed().map(|check| check.id.name()).collect();
    assert_eq!(is_met(quote.mr_td(), &references.mr_tds), !failed.contains(&"reference.mrtd"));
    let is_data = references.report_data.is_none_or(|data| data == *quote.report_data());
    assert_eq!(is_data, !failed.contains(&"reference.report-data"));
    assert_eq!(statuses_allow(&policy, verified), !failed.contains(&"policy.tcb-status"));
    // More may only be allowed by more.
    let mut lenient = policy.clone();
    lenient.allow.extend(Allowance::ALL);
    let lenient = appraise(verified, &lenient, &references);
    assert!(lenient.checks().failed().all(|check| failed.contains(&check.id.name())));
    let nothing = appraise(verified, &policy, &strange);
    assert_eq!(nothing.checks().iter().count(), appraisal.checks().iter().count());
    with_log(appraisal, verified, &mut input);
}

fn statuses_allow(policy: &Policy, verified: &Verified<Endorsed<'_>>) -> bool {
    policy.statuses.contains(&verified.evidence().platform().status)
}

/// A log that is another's, or none, never makes a verdict better.
fn with_log(appraisal: Appraisal, verified: &Verified<Endorsed<'_>>, input: &mut Input<'_>) {
    let was = appraisal.verdict();
    let log = EventLog::parse(&LOG).ok().filter(|_| input.byte() % 2 == 1);
    let with = appraisal.with(eventlog::check(log.as_ref().map(Ok), verified));
    judge(&with, verified.anchor());
    assert!(with.verdict() == was || with.verdict() == Verdict::NotMet);
}

/// Promises of every appraisal, of what hardware vouches for or a test's root.
pub(super) fn judge<A: Root>(appraisal: &attest::appraisal::Appraisal<A>, anchor: A) {
    let has_failed = appraisal.checks().failed().next().is_some();
    match (appraisal.verdict(), appraisal.tier()) {
        (Verdict::Affirmed, tier) => assert!(!has_failed && tier == Tier::Hardware),
        (Verdict::TestPassed, tier) => assert!(!has_failed && tier != Tier::Hardware),
        _ => assert!(has_failed || appraisal.checks().iter().any(|check| check.is_fatal())),
    }
    assert_eq!(appraisal.tier() == Tier::Hardware, anchor.is_hardware());
    assert!(appraisal.checks().iter().all(|check| !check.to_string().is_empty()));
}

pub(crate) fn tdx_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    for number in 0..5 {
        seeds.push([vec![number, 0xff, 1, 0xff, 0xff, 1], vec![0; 20], vec![3; 12]].concat());
        seeds.push([vec![number, 0, 0, 1, 0, 0], [7, 9, 5].repeat(12)].concat());
    }
    seeds
}
