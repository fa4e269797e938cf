//! Certificates that are served with a guest's report.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gmem::ledger::Owner;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use silicon_kvm::Complaint;
use silicon_kvm::script::{Step, Way};
use tenure::events::Event;
use tenure::run::certificates::CertificateFile;
use tenure_silicon::report::EndorsementKey;
use tenure_silicon::units::Page;

use crate::bed::{Bed, FREE, NOT_BUILT, Ran, change, counter, pages, report};

/// Puts the platform's certificates into a file. They are the same for every bed, and take a while to make.
pub(crate) fn write_certificates(bed: &Bed, path: &Path) {
    let table = bed.kernel.platform().certificates(EndorsementKey::Vcek).unwrap().to_bytes();
    std::fs::write(path, table).unwrap();
}

/// The platform's certificates in a file, and where a guest has room for so many pages of them.
fn with_certificates(path: &Path, room: u64) -> Bed {
    let mut bed = Bed::new(1);
    write_certificates(&bed, path);
    bed.inputs.certificates = Some(Arc::new(CertificateFile::open(path).unwrap()));
    let buffer = pages(FREE, room);
    bed.script(0, [change(buffer, Owner::Shared, Way::Buffer), report(9, Some(buffer)), Step::Terminate(NOT_BUILT)]);
    bed
}

#[test]
fn certificates_are_served_with_a_report() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = with_certificates(file.path(), 4);
    // Until the firmware has signed, nobody can make it another key than the certificates are for.
    let (theirs, seen) = (file.reopen().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let look = Arc::clone(&seen);
    bed.kernel.at_request(move || look.lock().unwrap().push(flock(&theirs, FlockOperation::NonBlockingLockExclusive)));
    let Ran { report, .. } = bed.run();
    assert_eq!(*seen.lock().unwrap(), [Err(Errno::WOULDBLOCK)]);
    assert_eq!(bed.kernel.complaints(), []);
    assert_eq!((counter(&report, "certificates served"), counter(&report, "not served")), (1, 0));
    let reports = bed.kernel.reports();
    let got: Vec<u8> = reports[0].certificates.iter().flat_map(|page: &Page| page.iter().copied()).collect();
    let table = std::fs::read(file.path()).unwrap();
    assert_eq!(got[..table.len()], table);
    // Nobody is kept from changing them afterwards.
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
}

/// What a guest hears of certificates it does not get.
fn complaint(bed: &Bed) -> String {
    match bed.kernel.complaints().as_slice() {
        [Complaint::Guest { vcpu: 0, what }] => what.clone(),
        others => panic!("{others:?}"),
    }
}

#[test]
fn certificates_that_do_not_fit_or_are_being_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = with_certificates(file.path(), 1);
    let needed = std::fs::metadata(file.path()).unwrap().len().div_ceil(4096);
    assert!(needed > 1);
    let Ran { report, .. } = bed.run();
    assert_eq!(complaint(&bed), format!("certificates: errno 28, {needed} pages are needed"));
    assert_eq!((counter(&report, "certificates served"), counter(&report, "not served")), (0, 1));

    let bed = with_certificates(file.path(), 4);
    let theirs = File::open(file.path()).unwrap();
    flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
    bed.run();
    assert_eq!(complaint(&bed), "certificates: errno 11, 4 pages are needed");
    flock(&theirs, FlockOperation::Unlock).unwrap();

    // no-silent-trust: what was a table when we started need not be one later.
    let bed = with_certificates(file.path(), 4);
    std::fs::write(file.path(), [0xff; 100]).unwrap();
    let Ran { events, .. } = bed.run();
    assert_eq!(complaint(&bed), "certificates: errno 5, 4 pages are needed");
    let refused = |event: &Event| matches!(event, Event::Refused { request, .. } if request == "certificates");
    assert!(events.iter().any(refused));
}

/// shared-only: certificates go nowhere but where the guest shares memory.
#[test]
fn shared_only_certificates_need_shared_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = with_certificates(file.path(), 4);
    bed.script(0, [report(9, Some(pages(FREE, 4))), Step::Terminate(NOT_BUILT)]);
    bed.run();
    assert_eq!(complaint(&bed), "certificates: errno 5, 4 pages are needed");
}
