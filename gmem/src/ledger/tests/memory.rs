//! What the ledger itself takes, at its worst.

use super::*;

const TIB: u64 = 1 << 40;

fn terabyte() -> Ledger {
    Ledger::new(RamLayout::new(ByteLen(TIB)).unwrap(), Owner::Private)
}

/// Every second page of `range` becomes shared.
fn alternate(ledger: &Ledger, range: GfnRange) {
    for start in (range.start().number()..range.end_number()).step_by(2) {
        ledger.begin(pages(start, 1), Owner::Shared).unwrap().commit();
    }
}

#[test]
fn known_owner_costs_8_mib_for_a_uniform_terabyte() {
    let ledger = terabyte();
    assert!(ledger.memory_bytes() <= 8 << 20, "{} bytes", ledger.memory_bytes());
    ledger.free();
    assert!(ledger.memory_bytes() <= 8 << 20, "{} bytes after teardown", ledger.memory_bytes());
}

/// The guest chooses which entries are mixed; with all of them it cannot make the ledger exceed a byte a page. One
/// page in each entry is enough to split it.
#[test]
fn known_owner_costs_a_byte_a_page_at_worst() {
    for mib in [16, 17, 127, 128, 130, 3072, 16384] {
        let ledger = ledger(mib, Owner::Private);
        for range in ledger.ram().ranges() {
            for start in (range.start().number()..range.end_number()).step_by(512) {
                ledger.begin(pages(start, 1), Owner::Shared).unwrap().commit();
            }
        }
        let all = ledger.ram().pages().get();
        assert!(ledger.census().shared.get() >= all / 512);
        assert!(ledger.memory_bytes() as u64 <= all, "{} bytes for {all} pages", ledger.memory_bytes());
    }
}

/// Splitting and joining the same memory again and again takes no more than doing it once, and how its pages are mixed
/// makes no difference.
#[test]
fn known_owner_memory_does_not_grow_with_conversions() {
    let ledger = ledger(64, Owner::Private);
    let range = pages(1000, 1024);
    alternate(&ledger, range);
    let once = ledger.memory_bytes();
    assert_eq!(once, {
        let other = super::ledger(64, Owner::Private);
        for start in [1000, 1024, 1536] {
            other.begin(pages(start, 1), Owner::Shared).unwrap().commit();
        }
        other.memory_bytes()
    });
    for _ in 0..100 {
        ledger.begin(range, Owner::Private).unwrap().commit();
        assert_eq!(ledger.runs().count(), 1);
        alternate(&ledger, range);
    }
    assert_eq!(ledger.memory_bytes(), once);
}

/// An entry that a change covers is one word again, the incomplete last one too; smaller changes leave it split.
#[test]
fn known_owner_joins_what_was_split() {
    let ledger = Ledger::new(RamLayout::new(ByteLen(17 * MIB + 4096)).unwrap(), Owner::Private);
    let words = |ledger: &Ledger| ledger.store.runs(ledger.store.span()).count();
    assert_eq!(words(&ledger), 9);
    for range in [pages(100, 1), pages(500, 1500), pages(4100, 253), pages(4352, 1)] {
        ledger.begin(range, Owner::Shared).unwrap().commit();
        ledger.begin(range, Owner::Private).unwrap().abort();
        assert_eq!(ledger.census().shared, range.pages());
        ledger.begin(range, Owner::Private).unwrap().commit();
        assert_eq!(ledger.runs().count(), 1, "{range}");
        assert!(words(&ledger) > 9, "{range}");
        for to in [Owner::Shared, Owner::Private] {
            ledger.begin(low(&ledger), to).unwrap().commit();
            assert_eq!(words(&ledger), 9, "{range} to {to}");
        }
    }
    ledger.free();
    assert_eq!(words(&ledger), 9);
}
