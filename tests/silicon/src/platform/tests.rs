//! Violations are seen, faults strike, and a well-behaved kernel causes none.

use super::*;
use crate::fixture::config;
use crate::model::Model;
use crate::psp::{LaunchFinish, LaunchUpdate, PageKind, Policy};
use crate::rmp::Permissions;

const CONTEXT: Pfn = Pfn(1);
const PAGE: Pfn = Pfn(9);
const GPA: Gpa = Gpa(0x5000);

fn initialised() -> Platform {
    let platform = Platform::new(config(Model::Milan));
    platform.snp_init().unwrap();
    platform
}

fn pages_of(asid: Asid, gpa: Gpa) -> Assignment {
    Assignment { assigned: true, asid, gpa, ..Assignment::default() }
}

fn firmware() -> Assignment {
    Assignment { assigned: true, immutable: true, ..Assignment::default() }
}

/// What a kernel does from the first ioctl to the last page.
fn launched(platform: &Platform) -> Asid {
    let asid = platform.allocate_asid(GuestKind::Snp).unwrap();
    platform.rmpupdate(CONTEXT, firmware()).unwrap();
    platform.snp_gctx_create(CONTEXT).unwrap();
    platform.snp_launch_start(CONTEXT, Policy::usual(), [0; 16]).unwrap();
    platform.snp_activate(CONTEXT, asid).unwrap();
    platform.rmpupdate(PAGE, Assignment { immutable: true, ..pages_of(asid, GPA) }).unwrap();
    platform.snp_launch_update(CONTEXT, LaunchUpdate::new(PAGE, PageKind::Normal)).unwrap();
    platform.snp_launch_finish(CONTEXT, LaunchFinish::default()).unwrap();
    asid
}

/// What it does with the key at the end.
fn end_key(platform: &Platform, asid: Asid) {
    platform.snp_decommission(CONTEXT).unwrap();
    platform.snp_page_reclaim(CONTEXT, PageSize::Size4K).unwrap();
    platform.rmpupdate(CONTEXT, Assignment::default()).unwrap();
    platform.release_asid(asid).unwrap();
}

fn recycle(platform: &Platform) -> Vec<Asid> {
    platform.wbinvd_all();
    platform.snp_df_flush().unwrap();
    platform.recycle_asids().unwrap()
}

#[test]
fn pages_before_key_leaves_nothing_behind() {
    let platform = initialised();
    let asid = launched(&platform);
    assert_eq!(platform.statistics().pages_by_asid, [(asid, 1)]);
    platform.rmpupdate(PAGE, Assignment::default()).unwrap();
    end_key(&platform, asid);
    assert_eq!(recycle(&platform), [asid]);
    assert_eq!(platform.violations(), []);
    let after = platform.statistics();
    assert!(after.pages_by_asid.is_empty() && after.pages_by_state.is_empty());
    platform.snp_shutdown().unwrap();
    assert_eq!(platform.violations(), []);
}

/// The check can fail: the same steps in the other order.
#[test]
fn key_before_pages_is_seen() {
    let platform = initialised();
    let asid = launched(&platform);
    end_key(&platform, asid);
    assert_eq!(platform.violations(), [], "not yet: nobody else has the ASID");
    recycle(&platform);
    let outlived = Violation::PagesBeforeKey { asid, pages: 1, first: PAGE, gpa: GPA };
    assert_eq!(platform.violations(), [outlived]);
}

#[test]
fn a_page_that_changes_guests_at_once_is_seen() {
    let platform = initialised();
    let [first, second] = [(); 2].map(|()| platform.allocate_asid(GuestKind::Snp).unwrap());
    platform.rmpupdate(PAGE, pages_of(first, GPA)).unwrap();
    platform.rmpupdate(PAGE, pages_of(second, GPA)).unwrap();
    assert_eq!(platform.violations(), [Violation::GuestToGuest { pfn: PAGE, from: first, to: second }]);
}

#[test]
fn a_page_for_nobody_is_seen() {
    let platform = initialised();
    platform.rmpupdate(PAGE, pages_of(Asid(3), GPA)).unwrap();
    assert_eq!(platform.violations(), [Violation::AssignedToNobody { pfn: PAGE, asid: Asid(3) }]);
}

#[test]
fn an_address_accepted_twice_is_seen() {
    let platform = initialised();
    let asid = platform.allocate_asid(GuestKind::Snp).unwrap();
    for pfn in [PAGE, Pfn(10)] {
        platform.rmpupdate(pfn, pages_of(asid, GPA)).unwrap();
        platform.pvalidate(asid, mapping(GPA, pfn), Validity::Validate).unwrap();
    }
    let twice = Violation::ValidatedTwice { asid, gpa: GPA, first: PAGE, second: Pfn(10) };
    assert_eq!(platform.violations(), [twice]);
}

#[test]
fn a_host_that_writes_to_a_guests_page_is_seen_and_changes_nothing() {
    let platform = initialised();
    let asid = launched(&platform);
    let read = Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs: Permissions::READ };
    let before = platform.guest_read(read, mapping(GPA, PAGE)).unwrap();
    assert_eq!(platform.host_write(PAGE, &[1; 4096]), Err(HostFault::Assigned(PAGE)));
    assert_eq!(platform.guest_read(read, mapping(GPA, PAGE)).unwrap(), before);
    assert_eq!(platform.violations(), [Violation::HostWrite(PAGE)]);
}

#[test]
fn a_fault_strikes_the_nth_command_once() {
    let platform = initialised();
    let status = Status::ResourceLimit;
    platform.plant(Fault::Command { command: Some(Command::SnpCommit), nth: 2, status });
    platform.plant(Fault::Command { command: None, nth: 4, status: Status::HardwarePlatform });
    assert_eq!(platform.snp_commit(), Ok(()));
    assert!(platform.snp_platform_status().is_ok());
    assert_eq!(platform.snp_commit(), Err(status));
    assert_eq!(platform.snp_commit(), Err(Status::HardwarePlatform));
    assert_eq!(platform.snp_commit(), Ok(()));
    let failed = Event::Command { command: Command::SnpCommit, outcome: Err(status) };
    assert!(platform.events().contains(&failed));
}

#[test]
fn of_two_faults_that_are_due_each_strikes_a_command() {
    let platform = initialised();
    let faults = [Status::ResourceLimit, Status::HardwarePlatform];
    for status in faults {
        platform.plant(Fault::Command { command: None, nth: 1, status });
    }
    assert_eq!(faults.map(|_| platform.snp_commit()), faults.map(Err));
    assert_eq!(platform.snp_commit(), Ok(()));
}

#[test]
fn a_failed_rmpupdate_changes_nothing() {
    let platform = initialised();
    let asid = launched(&platform);
    let fail = RmpupdateFail::Permission(Pfn(0));
    platform.plant(Fault::Rmpupdate { nth: 1, fail });
    assert_eq!(platform.rmpupdate(PAGE, Assignment::default()), Err(RmpupdateFail::Permission(PAGE)));
    platform.leak_page(PAGE);
    assert_eq!(platform.statistics().pages_by_asid, [(asid, 1)]);
    assert_eq!(platform.statistics().leaked, [PAGE]);
}

#[test]
fn an_asid_whose_guest_could_not_be_decommissioned_stays_out_of_use() {
    let platform = initialised();
    let asid = launched(&platform);
    let status = Status::HardwarePlatform;
    platform.plant(Fault::Command { command: Some(Command::SnpDecommission), nth: 1, status });
    assert_eq!(platform.snp_decommission(CONTEXT), Err(status));
    platform.leak_asid(asid).unwrap();
    assert_eq!(recycle(&platform), []);
    assert_ne!(platform.allocate_asid(GuestKind::Snp), Ok(asid));
    // Pages that still name it harm no one: it has no next owner.
    assert_eq!(platform.violations(), []);
}

#[test]
fn many_threads_can_use_it() {
    let platform = initialised();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let platform = &platform;
            scope.spawn(move || {
                let asid = platform.allocate_asid(GuestKind::Snp).unwrap();
                for page in 0..50 {
                    let pfn = Pfn(100 * (thread + 1) + page);
                    platform.rmpupdate(pfn, pages_of(asid, Gpa(page << 12))).unwrap();
                    platform.pvalidate(asid, mapping(Gpa(page << 12), pfn), Validity::Validate).unwrap();
                }
            });
        }
    });
    assert_eq!(platform.violations(), []);
    assert!(platform.statistics().pages_by_asid.iter().all(|(_, pages)| *pages == 50));
}
