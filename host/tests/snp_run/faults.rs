//! Whole runs in which calls of the kernel fail.

use std::sync::Arc;

use gmem::ledger::Owner;
use gmem_kvm::testing::fault::{Effect, Faults, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use rustix::io::Errno;
use silicon_kvm::Complaint;
use silicon_kvm::script::{Step, Way};
use tenure::events::Event;
use tenure::report::GuestOutcome;

use crate::bed::{Bed, FREE, NOT_BUILT, change, counter, pages};

/// A guest that shares pages, takes them back, and has itself terminated.
fn converting() -> Bed {
    let bed = Bed::new(1);
    let range = pages(FREE, 2);
    bed.script(
        0,
        [
            change(range, Owner::Shared, Way::Buffer),
            change(range, Owner::Private, Way::Buffer),
            Step::Validate(range),
            Step::Terminate(NOT_BUILT),
        ],
    );
    bed
}

/// Mapping ahead is a matter of speed: whether it works changes nothing for the guest.
#[test]
fn a_guest_does_not_notice_that_nothing_is_mapped_ahead() {
    let bed = converting();
    let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
    faults.fail_always(PortCall::Prefault, Errno::OPNOTSUPP.raw_os_error());
    let (report, _) = bed.try_run_on(&Faulty::new(bed.kernel.clone(), Arc::clone(&faults)));
    let report = report.unwrap();
    assert!(matches!(report.outcome, GuestOutcome::Terminated { set: 0xf, .. }), "{:?}", report.outcome);
    assert_eq!((counter(&report, "pages mapped ahead"), counter(&report, "not mapped ahead")), (0, 2));
    assert_eq!((faults.struck(), bed.kernel.complaints()), (1, vec![]));
}

/// pages-before-key: whichever call of a run fails, nothing of the guest is left, and no page outlives its key.
#[test]
fn pages_before_key_whichever_call_fails() {
    let counted = converting();
    let none = Arc::new(Faults::new(Vec::new(), Vec::new()));
    assert!(counted.try_run_on(&Faulty::new(counted.kernel.clone(), Arc::clone(&none))).0.is_ok());
    let mut struck = 0;
    for call in PortCall::ALL {
        for (nth, effect) in (1..=none.count(call).min(4)).flat_map(|nth| [(nth, Effect::Nothing), (nth, Effect::Done)])
        {
            let bed = converting();
            let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
            faults.fail(call, nth, Errno::IO.raw_os_error(), effect);
            let (_, events) = bed.try_run_on(&Faulty::new(bed.kernel.clone(), Arc::clone(&faults)));
            let what = format!("{call:?} {nth} {effect:?}");
            assert!(bed.kernel.is_empty(), "{what}");
            assert_eq!(bed.kernel.platform().violations(), [], "{what}");
            let complaints = bed.kernel.complaints();
            let guests = |complaint: &Complaint| matches!(complaint, Complaint::Guest { .. });
            assert!(complaints.iter().all(guests), "{what}: {complaints:?}");
            // Whoever had an ASID has a receipt.
            let receipt = events.iter().any(|event| matches!(event, Event::Teardown { .. }));
            assert!(receipt || bed.asids().is_empty(), "{what}");
            struck += faults.struck();
        }
    }
    assert!(struck > 20, "{struck}");
}
