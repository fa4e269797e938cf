//! The table's rules, one by one.

use super::*;
use crate::units::{PAGES_PER_2M, Vmpl};

const GUEST: Asid = Asid(1);
const OTHER: Asid = Asid(2);
const PAGE: Pfn = Pfn(3);
const GPA: Gpa = Gpa(0x7000);
const BIG: Pfn = Pfn(PAGES_PER_2M);
const BIG_GPA: Gpa = Gpa(2 << 20);

fn table() -> Rmp {
    Rmp::new(4 * PAGES_PER_2M)
}

fn guests(asid: Asid, gpa: Gpa) -> Assignment {
    Assignment { assigned: true, asid, gpa, ..Assignment::default() }
}

fn guests_2m(asid: Asid, gpa: Gpa) -> Assignment {
    Assignment { size: PageSize::Size2M, ..guests(asid, gpa) }
}

fn immutable(assignment: Assignment) -> Assignment {
    Assignment { immutable: true, ..assignment }
}

fn private(asid: Asid) -> Access {
    Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs: Permissions::READ }
}

fn at(gpa: Gpa, pfn: Pfn) -> Mapping {
    Mapping { gpa, pfn, size: PageSize::Size4K }
}

fn validate(rmp: &mut Rmp, asid: Asid, gpa: Gpa, pfn: Pfn) -> Result<Validation, PvalidateFail> {
    rmp.pvalidate(asid, gpa, pfn, PageSize::Size4K, Validity::Validate)
}

/// A page that a guest has accepted.
fn accepted() -> Rmp {
    let mut rmp = table();
    rmp.rmpupdate(PAGE, guests(GUEST, GPA)).unwrap();
    assert_eq!(validate(&mut rmp, GUEST, GPA, PAGE), Ok(Validation::Changed));
    rmp
}

#[test]
fn a_page_is_the_hypervisors_until_it_is_assigned() {
    let mut rmp = table();
    assert_eq!(rmp.entry(PAGE).unwrap().state(), PageState::Hypervisor);
    rmp.rmpupdate(PAGE, guests(GUEST, GPA)).unwrap();
    assert_eq!(rmp.entry(PAGE).unwrap().state(), PageState::GuestInvalid);
    rmp.rmpupdate(PAGE, Assignment::default()).unwrap();
    assert_eq!(rmp.entry(PAGE).unwrap(), Entry::default());
    assert_eq!(rmp.entries().count(), 0, "pages that came back take no memory");
}

#[test]
fn pages_outside_of_the_table_are_refused() {
    let mut rmp = table();
    let outside = Pfn(rmp.pages());
    assert_eq!(rmp.entry(outside), Err(NotCovered { pfn: outside, pages: rmp.pages() }));
    assert_eq!(rmp.rmpupdate(outside, guests(GUEST, GPA)).unwrap_err().code(), 1);
    assert_eq!(rmp.rmpupdate(Pfn(u64::MAX), guests(GUEST, GPA)).unwrap_err().code(), 1);
}

#[test]
fn operands_that_make_no_sense_are_fail_input() {
    let mut rmp = table();
    let senseless = [
        (PAGE, guests_2m(GUEST, BIG_GPA)),
        (BIG, guests_2m(GUEST, GPA)),
        (PAGE, guests(GUEST, Gpa(0x7001))),
        (PAGE, Assignment { asid: GUEST, ..Assignment::default() }),
        (PAGE, Assignment { immutable: true, ..Assignment::default() }),
    ];
    for (pfn, assignment) in senseless {
        assert_eq!(rmp.rmpupdate(pfn, assignment), Err(RmpupdateFail::Input(pfn)), "{assignment:?}");
    }
}

#[test]
fn an_immutable_entry_is_the_psps_alone() {
    let mut rmp = table();
    rmp.rmpupdate(PAGE, immutable(guests(GUEST, GPA))).unwrap();
    assert_eq!(rmp.entry(PAGE).unwrap().state(), PageState::PreGuest);
    assert_eq!(rmp.rmpupdate(PAGE, Assignment::default()), Err(RmpupdateFail::Permission(PAGE)));
    assert_eq!(validate(&mut rmp, GUEST, GPA, PAGE), Err(NestedFault::owner(GPA).into()));
    assert_eq!(rmp.reclaim(PAGE, PageSize::Size4K), Ok(PageState::GuestInvalid));
    rmp.rmpupdate(PAGE, Assignment::default()).unwrap();
}

#[test]
fn entries_of_both_sizes_never_overlap() {
    let mut rmp = table();
    rmp.rmpupdate(BIG, guests_2m(GUEST, BIG_GPA)).unwrap();
    for small in [BIG, Pfn(BIG.0 + 1), Pfn(BIG.0 + 511)] {
        assert_eq!(rmp.rmpupdate(small, guests(OTHER, GPA)).unwrap_err().code(), 4);
        assert_eq!(rmp.rmpupdate(small, Assignment::default()).unwrap_err().code(), 4);
    }
    let mut rmp = table();
    rmp.rmpupdate(Pfn(BIG.0 + 7), guests(GUEST, GPA)).unwrap();
    assert_eq!(rmp.rmpupdate(BIG, guests_2m(OTHER, BIG_GPA)), Err(RmpupdateFail::Overlap(BIG)));
}

#[test]
fn pages_within_2m_have_addresses_of_their_own() {
    let mut rmp = table();
    rmp.rmpupdate(BIG, guests_2m(GUEST, BIG_GPA)).unwrap();
    assert_eq!(rmp.entry(Pfn(BIG.0 + 5)).unwrap().gpa, BIG_GPA.plus_pages(5));
    assert_eq!(rmp.pages_of(GUEST), PAGES_PER_2M);
}

#[test]
fn psmash_says_the_same_in_small_entries() {
    let mut rmp = table();
    rmp.rmpupdate(BIG, guests_2m(GUEST, BIG_GPA)).unwrap();
    rmp.pvalidate(GUEST, BIG_GPA, BIG, PageSize::Size2M, Validity::Validate).unwrap();
    rmp.psmash(BIG).unwrap();
    assert_eq!(rmp.entries().count(), 512);
    for (offset, pfn) in (0..).zip(BIG.range(PageSize::Size2M)) {
        let entry = rmp.entry(pfn).unwrap();
        assert_eq!((entry.gpa, entry.size), (BIG_GPA.plus_pages(offset), PageSize::Size4K));
        assert_eq!(entry.state(), PageState::GuestValid);
    }
    assert_eq!(rmp.pages_of(GUEST), PAGES_PER_2M);
    rmp.rmpupdate(Pfn(BIG.0 + 5), Assignment::default()).unwrap();
    assert_eq!(rmp.pages_of(GUEST), PAGES_PER_2M - 1);
}

#[test]
fn psmash_needs_an_assigned_2m_page_that_is_not_the_psps() {
    let mut rmp = table();
    assert_eq!(rmp.psmash(Pfn(BIG.0 + 1)).unwrap_err().code(), 4);
    assert_eq!(rmp.psmash(Pfn(rmp.pages())).unwrap_err().code(), 4);
    assert_eq!(rmp.psmash(BIG).unwrap_err().code(), 1);
    rmp.rmpupdate(BIG, immutable(guests_2m(GUEST, BIG_GPA))).unwrap();
    assert_eq!(rmp.psmash(BIG).unwrap_err().code(), 2);
}

#[test]
fn validating_twice_reports_that_nothing_changed() {
    let mut rmp = accepted();
    assert_eq!(validate(&mut rmp, GUEST, GPA, PAGE), Ok(Validation::Unchanged));
    let rescind = |rmp: &mut Rmp| rmp.pvalidate(GUEST, GPA, PAGE, PageSize::Size4K, Validity::Rescind);
    assert_eq!(rescind(&mut rmp), Ok(Validation::Changed));
    assert_eq!(rescind(&mut rmp), Ok(Validation::Unchanged));
}

#[test]
fn validation_is_of_the_size_that_was_assigned() {
    let mut rmp = table();
    rmp.rmpupdate(BIG, guests_2m(GUEST, BIG_GPA)).unwrap();
    assert_eq!(validate(&mut rmp, GUEST, BIG_GPA, BIG), Err(NestedFault::size(BIG_GPA).into()));
    rmp.psmash(BIG).unwrap();
    let big = rmp.pvalidate(GUEST, BIG_GPA, BIG, PageSize::Size2M, Validity::Validate);
    assert_eq!(big, Err(PvalidateFail::SizeMismatch(BIG_GPA)));
    let odd = rmp.pvalidate(GUEST, GPA, PAGE, PageSize::Size2M, Validity::Validate);
    assert_eq!(odd, Err(PvalidateFail::Input(GPA)));
}

#[test]
fn a_guest_page_has_one_owner_and_one_address() {
    let mut rmp = accepted();
    assert_eq!(rmp.check(private(GUEST), at(GPA, PAGE)), Ok(()));
    for (asid, gpa) in [(OTHER, GPA), (GUEST, Gpa(0x8000)), (OTHER, Gpa(0x8000))] {
        assert_eq!(rmp.check(private(asid), at(gpa, PAGE)), Err(NestedFault::owner(gpa).into()));
        assert_eq!(validate(&mut rmp, asid, gpa, PAGE), Err(NestedFault::owner(gpa).into()));
    }
}

#[test]
fn a_new_owner_or_address_takes_the_acceptance_away() {
    for new in [guests(OTHER, GPA), guests(GUEST, Gpa(0x8000))] {
        let mut rmp = accepted();
        rmp.rmpupdate(PAGE, new).unwrap();
        assert_eq!(rmp.entry(PAGE).unwrap().state(), PageState::GuestInvalid);
        assert_eq!(rmp.check(private(new.asid), at(new.gpa, PAGE)), Err(AccessFault::NotValidated(new.gpa)));
    }
}

#[test]
fn a_page_taken_away_and_given_back_is_not_accepted() {
    let mut rmp = accepted();
    rmp.rmpupdate(PAGE, Assignment::default()).unwrap();
    rmp.rmpupdate(PAGE, guests(GUEST, GPA)).unwrap();
    assert_eq!(rmp.check(private(GUEST), at(GPA, PAGE)), Err(AccessFault::NotValidated(GPA)));
}

#[test]
fn a_second_page_at_an_accepted_address_is_seen() {
    let mut rmp = accepted();
    rmp.rmpupdate(Pfn(9), guests(GUEST, GPA)).unwrap();
    assert_eq!(rmp.validated_places(GUEST, GPA), [PAGE]);
    assert_eq!(validate(&mut rmp, GUEST, GPA, Pfn(9)), Ok(Validation::Changed));
    assert_eq!(rmp.validated_places(GUEST, GPA), [PAGE, Pfn(9)]);
}

#[test]
fn the_host_and_shared_accesses_never_write_to_an_assigned_page() {
    let rmp = accepted();
    assert_eq!(rmp.check_host_write(PAGE), Err(HostFault::Assigned(PAGE)));
    assert_eq!(rmp.check_host_write(Pfn(4)), Ok(()));
    let shared = |needs| rmp.check(Access { private: false, needs, ..private(GUEST) }, at(GPA, PAGE));
    assert_eq!(shared(Permissions::WRITE), Err(NestedFault::shared(GPA).into()));
    assert_eq!(shared(Permissions::READ), Ok(()), "what is read is ciphertext");
}

#[test]
fn whoever_owns_a_page_shared_writes_to_it_exit() {
    let firmware = Assignment { assigned: true, immutable: true, ..Assignment::default() };
    for owned in [guests(GUEST, GPA), immutable(guests(GUEST, GPA)), firmware] {
        let mut rmp = table();
        rmp.rmpupdate(PAGE, owned).unwrap();
        let write = Access { private: false, needs: Permissions::WRITE, ..private(GUEST) };
        assert_eq!(rmp.check(write, at(GPA, PAGE)), Err(NestedFault::shared(GPA).into()), "{owned:?}");
        assert_eq!(rmp.check_host_write(PAGE), Err(HostFault::Assigned(PAGE)), "{owned:?}");
    }
}

#[test]
fn private_access_to_a_hypervisors_page_exits() {
    let rmp = table();
    let Err(AccessFault::Nested(fault)) = rmp.check(private(GUEST), at(GPA, PAGE)) else { panic!() };
    assert_eq!(fault.error_code, NestedFault::RMP | NestedFault::ENC);
}

#[test]
fn mapping_and_entry_are_of_one_size() {
    let mut rmp = table();
    rmp.rmpupdate(BIG, guests_2m(GUEST, BIG_GPA)).unwrap();
    rmp.pvalidate(GUEST, BIG_GPA, BIG, PageSize::Size2M, Validity::Validate).unwrap();
    let small = at(BIG_GPA.plus_pages(1), Pfn(BIG.0 + 1));
    let large = Mapping { size: PageSize::Size2M, ..small };
    assert_eq!(rmp.check(private(GUEST), large), Ok(()));
    assert_eq!(rmp.check(private(GUEST), small), Err(NestedFault::size(small.gpa).into()));
    rmp.psmash(BIG).unwrap();
    assert_eq!(rmp.check(private(GUEST), small), Ok(()));
    assert_eq!(rmp.check(private(GUEST), large), Err(NestedFault::size(small.gpa).into()));
}

#[test]
fn levels_get_what_a_more_privileged_one_grants() {
    let mut rmp = accepted();
    let read = |rmp: &Rmp, vmpl| rmp.check(Access { vmpl, ..private(GUEST) }, at(GPA, PAGE));
    assert_eq!(read(&rmp, Vmpl::Vmpl1), Err(NestedFault::level(GPA).into()));
    let grant = Adjustment { target: Vmpl::Vmpl1, permissions: Permissions::READ, vmsa: false };
    rmp.rmpadjust((GUEST, Vmpl::Vmpl0), GPA, PAGE, PageSize::Size4K, grant).unwrap();
    assert_eq!(read(&rmp, Vmpl::Vmpl1), Ok(()));
    let mut refused = |caller, adjustment| {
        let answer = rmp.rmpadjust((GUEST, caller), GPA, PAGE, PageSize::Size4K, adjustment);
        assert_eq!(answer, Err(RmpadjustFail::Permission { caller, target: adjustment.target }));
    };
    refused(Vmpl::Vmpl1, grant);
    refused(Vmpl::Vmpl1, Adjustment { target: Vmpl::Vmpl2, permissions: Permissions::WRITE, vmsa: false });
    refused(Vmpl::Vmpl1, Adjustment { target: Vmpl::Vmpl2, vmsa: true, ..grant });
}

#[test]
fn permissions_of_a_page_that_was_not_accepted_cannot_be_set() {
    let mut rmp = table();
    rmp.rmpupdate(PAGE, guests(GUEST, GPA)).unwrap();
    let grant = Adjustment { target: Vmpl::Vmpl1, permissions: Permissions::READ, vmsa: false };
    let answer = rmp.rmpadjust((GUEST, Vmpl::Vmpl0), GPA, PAGE, PageSize::Size4K, grant);
    assert_eq!(answer, Err(RmpadjustFail::NotValidated(GPA)));
}

#[test]
fn the_psps_pages_come_back_by_reclaiming_only() {
    let mut rmp = table();
    let firmware = Assignment { assigned: true, immutable: true, ..Assignment::default() };
    rmp.rmpupdate(PAGE, firmware).unwrap();
    assert_eq!(rmp.entry(PAGE).unwrap().state(), PageState::Firmware);
    assert!(rmp.firmware_to_context(PAGE));
    let context = ReclaimFail::State { pfn: PAGE, state: PageState::Context };
    assert_eq!(rmp.reclaim(PAGE, PageSize::Size4K), Err(context));
    assert!(rmp.context_to_firmware(PAGE));
    assert_eq!(rmp.reclaim(PAGE, PageSize::Size2M), Err(ReclaimFail::Size { pfn: PAGE }));
    assert_eq!(rmp.reclaim(PAGE, PageSize::Size4K), Ok(PageState::Reclaim));
    rmp.rmpupdate(PAGE, Assignment::default()).unwrap();
    let again = ReclaimFail::State { pfn: PAGE, state: PageState::Hypervisor };
    assert_eq!(rmp.reclaim(PAGE, PageSize::Size4K), Err(again));
}

#[test]
fn a_page_made_ready_for_swapping_stays_accepted() {
    let mut rmp = accepted();
    rmp.rmpupdate(PAGE, immutable(guests(GUEST, GPA))).unwrap();
    assert_eq!(rmp.entry(PAGE).unwrap().state(), PageState::PreSwap);
    assert_eq!(rmp.reclaim(PAGE, PageSize::Size4K), Ok(PageState::GuestValid));
}
