//! Ranges, states, and what must be flushed before an ASID is used again.

use super::*;
use crate::rmp::Assignment;
use crate::units::{Gpa, Pfn};

fn config() -> AsidConfig {
    AsidConfig { max: 20, min_sev: 11, ciphertext_hiding: None, cpus: 2 }
}

fn used_and_released(pool: &mut AsidPool) -> Asid {
    let asid = pool.allocate(GuestKind::Snp).unwrap();
    pool.bind(asid).unwrap();
    pool.unbind(asid).unwrap();
    pool.release(asid).unwrap();
    asid
}

#[test]
fn kinds_of_guests_have_ranges_of_their_own() {
    let pool = AsidPool::new(config());
    assert_eq!(pool.range(GuestKind::Sev), 11..=20);
    assert_eq!(pool.range(GuestKind::Snp), 1..=10);
    assert_eq!(pool.range(GuestKind::SevEs), 1..=10);
    let hiding = AsidPool::new(AsidConfig { ciphertext_hiding: Some(4), ..config() });
    assert_eq!(hiding.range(GuestKind::Snp), 1..=4);
    assert_eq!(hiding.range(GuestKind::SevEs), 5..=10);
}

#[test]
fn an_asid_has_one_vm() {
    let mut pool = AsidPool::new(config());
    let all: BTreeSet<_> = (0..10).map(|_| pool.allocate(GuestKind::Snp).unwrap()).collect();
    assert_eq!(all.len(), 10);
    assert_eq!(pool.allocate(GuestKind::Snp), Err(AsidError::Exhausted { first: 1, last: 10 }));
    assert_eq!(pool.allocate(GuestKind::Sev), Ok(Asid(11)));
}

#[test]
fn an_asid_is_used_again_only_after_both_flushes_in_order() {
    let (mut pool, rmp) = (AsidPool::new(config()), Rmp::new(16));
    let asid = used_and_released(&mut pool);
    assert_eq!(pool.recycle(&rmp), Err(AsidError::DfFlushRequired));
    assert_eq!(pool.df_flush(), Err(AsidError::WbinvdRequired(2)));
    pool.wbinvd(0);
    assert_eq!(pool.df_flush(), Err(AsidError::WbinvdRequired(1)));
    pool.wbinvd(1);
    assert_eq!(pool.recycle(&rmp), Err(AsidError::DfFlushRequired));
    pool.df_flush().unwrap();
    assert_eq!(pool.recycle(&rmp), Ok((vec![asid], vec![])));
    assert_eq!(pool.state(asid), Ok(AsidState::Free));
}

#[test]
fn flushes_before_a_guest_ended_do_not_count() {
    let mut pool = AsidPool::new(config());
    pool.wbinvd_all();
    pool.df_flush().unwrap();
    used_and_released(&mut pool);
    assert_eq!(pool.recycle(&Rmp::new(16)), Err(AsidError::DfFlushRequired));
}

#[test]
fn all_reclaimables_are_freed_at_once() {
    let mut pool = AsidPool::new(config());
    let asids = [used_and_released(&mut pool), used_and_released(&mut pool), used_and_released(&mut pool)];
    pool.wbinvd_all();
    pool.df_flush().unwrap();
    assert_eq!(pool.recycle(&Rmp::new(16)).unwrap().0, asids);
}

#[test]
fn recycling_for_one_kind_frees_the_others_asids_too() {
    let mut pool = AsidPool::new(config());
    let sev = pool.allocate(GuestKind::Sev).unwrap();
    pool.release(sev).unwrap();
    assert!(pool.can_recycle(GuestKind::Sev) && !pool.can_recycle(GuestKind::Snp));
    assert_eq!(pool.recycle(&Rmp::new(16)), Ok((vec![sev], vec![])));
    assert!(!pool.can_recycle(GuestKind::Sev));
}

#[test]
fn a_leaked_asid_never_comes_back() {
    let mut pool = AsidPool::new(config());
    let asid = pool.allocate(GuestKind::Snp).unwrap();
    pool.leak(asid).unwrap();
    pool.wbinvd_all();
    pool.df_flush().unwrap();
    assert_eq!(pool.recycle(&Rmp::new(16)), Ok((vec![], vec![])));
    assert_eq!(pool.release(asid), Err(AsidError::State { asid, state: AsidState::Leaked }));
    assert_eq!(pool.allocate(GuestKind::Snp), Ok(Asid(2)));
}

#[test]
fn an_asid_that_was_only_bound_and_given_back_needs_a_flush_too() {
    let mut pool = AsidPool::new(config());
    let asid = pool.allocate(GuestKind::Snp).unwrap();
    pool.bind(asid).unwrap();
    pool.unbind(asid).unwrap();
    assert_eq!(pool.bind(asid), Err(AsidError::DfFlushRequired));
}

#[test]
fn pages_before_key_is_broken_when_an_entry_outlives_its_asid() {
    let (mut pool, mut rmp) = (AsidPool::new(config()), Rmp::new(16));
    let asid = used_and_released(&mut pool);
    let page = Assignment { assigned: true, asid, gpa: Gpa(0x3000), ..Assignment::default() };
    rmp.rmpupdate(Pfn(5), page).unwrap();
    pool.wbinvd_all();
    pool.df_flush().unwrap();
    let (_, violations) = pool.recycle(&rmp).unwrap();
    let outlived = Violation::PagesBeforeKey { asid, pages: 1, first: Pfn(5), gpa: Gpa(0x3000) };
    assert_eq!(violations, [outlived]);
}
