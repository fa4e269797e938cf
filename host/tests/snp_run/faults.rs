//! Whole runs in which calls of the kernel fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gmem::ledger::Owner;
use gmem_kvm::testing::fault::{Effect, Faults, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use silicon_kvm::Complaint;
use silicon_kvm::script::{Step, Way};
use tenure::events::Event;
use tenure::report::GuestOutcome;
use tenure::run::certificates::CertificateFile;

use crate::bed::{Bed, FREE, NOT_BUILT, change, counter, pages, report};
use crate::certificates::write_certificates;

/// Of calls that a run makes often, so many fail.
const MOST: u64 = 6;

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

/// A guest that does all that, and asks for a report with certificates while it shares pages.
fn reporting(certificates: &Path) -> Bed {
    let mut bed = Bed::new(1);
    bed.inputs.certificates = Some(Arc::new(CertificateFile::open(certificates).unwrap()));
    let buffer = pages(FREE, 4);
    bed.script(
        0,
        [
            change(buffer, Owner::Shared, Way::Buffer),
            report(9, Some(buffer)),
            change(buffer, Owner::Private, Way::Buffer),
            Step::Validate(buffer),
            Step::Terminate(NOT_BUILT),
        ],
    );
    bed
}

/// pages-before-key: whichever call of a run fails, nothing of the guest is left, and no page outlives its key. Nor is
/// anything held that is not the guest's: its certificates can be changed at once.
#[test]
fn pages_before_key_whichever_call_fails() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_certificates(&Bed::new(1), file.path());
    let counted = reporting(file.path());
    let none = Arc::new(Faults::new(Vec::new(), Vec::new()));
    assert!(counted.try_run_on(&Faulty::new(counted.kernel.clone(), Arc::clone(&none))).0.is_ok());
    assert_eq!((counted.kernel.complaints(), counted.kernel.reports().len()), (vec![], 1));
    for call in PortCall::SNP {
        assert!(none.count(call) > 0, "{call:?}");
    }
    // The vCPU enters the guest again after the request, and once more.
    assert!((4..=MOST).contains(&none.count(PortCall::Run)), "{}", none.count(PortCall::Run));
    let (mut struck, mut requests) = (0, 0);
    for call in PortCall::ALL {
        let moments = 1..=none.count(call).min(MOST);
        for (nth, effect) in moments.flat_map(|nth| [(nth, Effect::Nothing), (nth, Effect::Done)]) {
            let bed = reporting(file.path());
            let (theirs, locked) = (file.reopen().unwrap(), Arc::new(AtomicBool::new(false)));
            let seen = Arc::clone(&locked);
            bed.kernel.at_request(move || {
                let free = flock(&theirs, FlockOperation::NonBlockingLockExclusive).is_ok();
                seen.store(!free, Ordering::Relaxed);
            });
            let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
            faults.fail(call, nth, Errno::IO.raw_os_error(), effect);
            let (_, events) = bed.try_run_on(&Faulty::new(bed.kernel.clone(), Arc::clone(&faults)));
            let what = format!("{call:?} {nth} {effect:?}");
            assert!(bed.kernel.is_empty(), "{what}");
            assert_eq!(bed.kernel.platform().violations(), [], "{what}");
            let complaints = bed.kernel.complaints();
            let guests = |complaint: &Complaint| matches!(complaint, Complaint::Guest { .. });
            assert!(complaints.iter().all(guests), "{what}: {complaints:?}");
            // Held while the firmware is asked, and not a moment longer than the run.
            let asked = !bed.kernel.reports().is_empty();
            assert!(locked.load(Ordering::Relaxed) || !asked, "{what}");
            requests += u64::from(asked);
            let theirs = file.reopen().unwrap();
            assert_eq!(flock(&theirs, FlockOperation::NonBlockingLockExclusive), Ok(()), "{what}");
            // Whoever had an ASID has a receipt.
            let receipt = events.iter().any(|event| matches!(event, Event::Teardown { .. }));
            assert!(receipt || bed.asids().is_empty(), "{what}");
            struck += faults.struck();
        }
    }
    assert!(struck > 20, "{struck}");
    assert!(requests > 0 && requests < struck, "{requests} of {struck}");
}
