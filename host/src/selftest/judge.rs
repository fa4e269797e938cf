//! What a run's report says of a guest, as checks.
//!
//! Owns which outcome is as it should be. Does not own reports of the hardware ([`super::evidence`]).

use guest_fw::abi::{TERMINATION_NOT_BUILT, TERMINATION_SET};

use super::TEARDOWN;
use super::results::Check;
use crate::report::{GuestOutcome, RunReport, Verdict as Evidence};
use crate::run::RunError;

pub(super) fn no_digest() -> Check {
    Check::not_run("launch", "no digest was predicted")
}

/// There was no VM.
pub(super) fn not_launched(error: &RunError) -> Check {
    Check::failed("launch", error.to_string())
}

pub(super) fn launched(report: &RunReport) -> Check {
    match &report.outcome {
        GuestOutcome::NotStarted { reason } => Check::failed("launch", reason.clone()),
        _ => Check::passed("launch", format!("in {:.1?}", report.timing.launch)),
    }
}

/// What the guest says of itself.
pub(super) fn guest_checks(report: &RunReport) -> [Check; 2] {
    const STARTS: &str = "guest-starts";
    const SELF_TEST: &str = "guest-self-test";
    match &report.outcome {
        GuestOutcome::SelfTest { failed_checks: 0 } => {
            let converted = report.memory.to_shared.pages + report.memory.to_private.pages;
            [
                Check::passed(STARTS, "its first code ran"),
                Check::passed(SELF_TEST, format!("all its checks passed; it had {converted} pages converted")),
            ]
        }
        GuestOutcome::SelfTest { failed_checks } => [
            Check::passed(STARTS, "its first code ran"),
            Check::failed(SELF_TEST, format!("{failed_checks} of its checks failed; its console says which")),
        ],
        GuestOutcome::Terminated { set: TERMINATION_SET, code: TERMINATION_NOT_BUILT, reason } => [
            Check::passed(STARTS, "its first code ran, and asked to be terminated"),
            Check::not_run(SELF_TEST, reason.clone()),
        ],
        other => [
            Check::failed(STARTS, format!("{other:?}")),
            Check::not_run(SELF_TEST, "the guest ended before it said anything"),
        ],
    }
}

/// pages-before-key, by the receipt.
pub(super) fn teardown(report: &RunReport) -> Check {
    let receipt = &report.teardown;
    if receipt.is_clean() {
        let unknown = receipt.evidence.iter().filter(|evidence| matches!(evidence.verdict, Evidence::Unknown { .. }));
        let unknown = match unknown.count() {
            0 => String::new(),
            count => format!(", {count} of {} pieces of evidence could not be had", receipt.evidence.len()),
        };
        return Check::passed(TEARDOWN, format!("clean, in {:.1?}{unknown}", report.timing.teardown));
    }
    let steps = receipt.steps.iter().filter_map(|step| Some(format!("{}: {}", step.what, step.error.as_ref()?)));
    let evidence = receipt.evidence.iter().filter_map(|evidence| match &evidence.verdict {
        Evidence::Fails { seen } => Some(format!("{}: {seen}", evidence.what)),
        _ => None,
    });
    let debts = receipt.debts.iter().cloned().chain(receipt.doubts.iter().cloned());
    let all: Vec<_> = steps.chain(evidence).chain(debts).collect();
    Check::failed(TEARDOWN, all.join("; "))
}
