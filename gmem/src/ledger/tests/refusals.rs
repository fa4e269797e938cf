//! *no-silent-trust*: what is asked of the ledger is checked, and a refusal changes nothing and names the page.

use super::*;

fn refused(ledger: &Ledger, range: GfnRange, to: Owner) -> String {
    let before: Vec<_> = ledger.runs().collect();
    let error = ledger.begin(range, to).expect_err("must be refused");
    assert_eq!(ledger.runs().collect::<Vec<_>>(), before, "a refusal changes nothing");
    error.to_string()
}

#[test]
fn no_silent_trust_ranges_outside_ram() {
    let ledger = ledger(3072, Owner::Private); // 2 GiB, the hole, 1 GiB from 4 GiB
    let end = 0x14_0000;
    for (range, first_outside) in [
        (pages(0x7_ffff, 2), 0x8_0000),           // runs into the hole
        (pages(0x8_0000, 1), 0x8_0000),           // in the hole
        (pages(0xf_ffff, 2), 0xf_ffff),           // the page under 4 GiB is no RAM, the next one is
        (pages(0x7_fff0, 0x9_0000), 0x8_0000),    // over the hole and back into RAM
        (pages(end - 1, 2), end),                 // over the end
        (pages(end, 1), end),                     // after the end
        (pages(0, 1 << 52), 0x8_0000),            // the whole address space
        (pages((1 << 52) - 1, 1), (1 << 52) - 1), // its last page
        (pages(1, (1 << 52) - 1), 0x8_0000),      // all but its first page
        (pages(0xfee00, 1), 0xfee00),             // the local APIC
    ] {
        for to in [Owner::Shared, Owner::Private] {
            let error = ledger.begin(range, to).expect_err("not RAM");
            assert_eq!(error, LedgerError::OutsideRam { page: gfn(first_outside), range });
        }
        assert_eq!(ledger.populate(range), Err(LedgerError::OutsideRam { page: gfn(first_outside), range }));
        assert!(!ledger.is_shared(range));
    }
    assert_eq!(ledger.state(gfn(0x8_0000)), None);
    assert_eq!(ledger.state(gfn((1 << 52) - 1)), None);
    assert_eq!(ledger.runs().count(), 2);
    assert_eq!(
        refused(&ledger, pages(0x7_ffff, 2), Owner::Shared),
        "page 0x80000000 of range 0x7ffff000+2 pages is not guest RAM"
    );
}

#[test]
fn no_silent_trust_hole_is_not_shared_with_all_ram_shared() {
    let ledger = ledger(3072, Owner::Shared);
    assert!(ledger.is_shared(pages(0, 0x8_0000)));
    assert!(ledger.is_shared(pages(0x10_0000, 0x4_0000)));
    assert!(!ledger.is_shared(pages(0x7_ffff, 2)));
    assert!(!ledger.is_shared(pages(0, 0x14_0000)));
}

/// One page in the way, anywhere in the range, and no page moves; the error says which page and why.
#[test]
fn known_owner_refusal_is_all_or_nothing() {
    for blocked in [0, 1, 511, 512, 1023, 1024, 1535] {
        let ledger = ledger(16, Owner::Private);
        let range = pages(0, 1536);
        let obstacle = ledger.begin(pages(blocked, 1), Owner::Shared).unwrap();
        let page = gfn(blocked).gpa();
        assert_eq!(
            refused(&ledger, range, Owner::Shared),
            format!("page {page} is converting to shared and cannot become shared")
        );
        assert_eq!(
            refused(&ledger, range, Owner::Private),
            format!("page {page} is converting to shared and cannot become private")
        );
        obstacle.in_doubt();
        assert_eq!(refused(&ledger, range, Owner::Shared), format!("page {page} is in doubt and cannot become shared"));
        assert!(ledger.populate(range).is_err());
        assert_eq!(ledger.census().private_untouched.get(), 4095);
    }
}

#[test]
fn known_owner_populate_only_untouched_private_pages() {
    let ledger = ledger(16, Owner::Private);
    ledger.populate(pages(510, 4)).unwrap();
    let again = ledger.populate(pages(0, 512)).unwrap_err();
    assert_eq!(again.to_string(), "page 0x1fe000 is private, populated and cannot be populated");
    assert_eq!(ledger.census().private_populated.get(), 4);

    ledger.begin(pages(100, 1), Owner::Shared).unwrap().commit();
    let shared = ledger.populate(pages(90, 20)).unwrap_err();
    assert_eq!(shared, LedgerError::NotPopulatable { page: gfn(100), state: PageState::Shared });
}

/// A conversion nobody settled is in doubt, also when a panic took its owner away.
#[test]
fn known_owner_dropped_conversion_is_in_doubt() {
    let ledger = ledger(16, Owner::Private);
    let result = std::panic::catch_unwind(|| {
        let _conversion = ledger.begin(pages(7, 1000), Owner::Shared).unwrap();
        panic!("the kernel call went wrong");
    });
    assert!(result.is_err());
    assert_eq!(ledger.census().in_doubt.get(), 1000);
    assert_eq!(ledger.state(gfn(7)), Some(PageState::InDoubt));
    assert_eq!(ledger.state(gfn(1007)), Some(PageState::PrivateUntouched));
}

/// Teardown frees pages in every state, and a conversion that is still open afterwards changes nothing.
#[test]
fn known_owner_only_teardown_ends_doubt() {
    let ledger = ledger(16, Owner::Private);
    ledger.begin(pages(0, 10), Owner::Shared).unwrap().in_doubt();
    let open = ledger.begin(pages(1000, 600), Owner::Shared).unwrap();
    let census = ledger.free();
    assert_eq!((census.in_doubt.get(), census.converting_to_shared.get()), (10, 600));
    open.commit();
    let all = low(&ledger);
    assert_eq!(ledger.runs().collect::<Vec<_>>(), [(all, PageState::Freed)]);
    assert_eq!(refused(&ledger, all, Owner::Private), "page 0x0 is freed and cannot become private");
}

/// Nothing to do is no conversion at all, and pages that are already there are not in its parts.
#[test]
fn known_owner_parts_are_what_changes() {
    let ledger = ledger(16, Owner::Private);
    let nothing = ledger.begin(low(&ledger), Owner::Private).unwrap();
    assert!(nothing.parts().is_empty());
    nothing.in_doubt();
    ledger.begin(pages(600, 2), Owner::Shared).unwrap().commit();
    ledger.populate(pages(0, 3)).unwrap();
    let conversion = ledger.begin(pages(0, 1024), Owner::Shared).unwrap();
    assert_eq!(conversion.parts(), [pages(0, 600), pages(602, 422)]);
    conversion.abort();
    assert_eq!(ledger.state(gfn(2)), Some(PageState::PrivatePopulated));
    assert_eq!(ledger.census().shared.get(), 2);
}
