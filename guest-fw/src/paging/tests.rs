//! Walks the tables as the CPU would.

use super::*;
use proptest::prelude::*;

const ARENA_GPA: u64 = 0x20_0000;
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What a walk ends at: the address it maps to, and the leaf's bits.
fn translate(tables: &PageTables<'_>, gpa: u64) -> Option<(u64, u64)> {
    let mut table = 0usize;
    for level in (0..4).rev() {
        let entry = tables.arena[table].0[index(gpa, level)];
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || entry & LARGE != 0 {
            let size = 1 << SHIFTS[level];
            let base = entry & ADDRESS;
            assert!(level < 3, "no pages of 512 GiB");
            assert_eq!(base % size, 0, "reserved bits");
            return Some((base + gpa % size, entry & !ADDRESS));
        }
        assert_eq!(entry & NO_EXECUTE, 0, "upper levels allow everything");
        assert_ne!(entry & WRITABLE, 0, "upper levels allow everything");
        table = usize::try_from((entry & ADDRESS) - ARENA_GPA).unwrap() / 4096;
    }
    None
}

fn arena(tables: usize) -> Vec<Table> {
    // Not zero: memory the tables are built in holds anything.
    vec![Table([0xdead_beef_dead_beef; 512]); tables]
}

fn largest() -> impl Strategy<Value = LargestPage> {
    prop_oneof![Just(LargestPage::TwoMib), Just(LargestPage::OneGib)]
}

proptest! {
    /// One to one inside the mapped ranges, with their rights, nothing outside; and after unmapping, nothing there.
    #[test]
    fn mapped_is_one_to_one_and_nothing_else(
        low in 1u64..0x8_0000,
        high in 0u64..0x10_0000,
        staging in 1u64..0x1_0000,
        largest in largest(),
        probes in proptest::collection::vec(any::<u64>(), 32),
    ) {
        let low = GpaRange::between(4096, 4096 * (low + 1));
        let high = GpaRange::between(4 * GIB, 4 * GIB + 4096 * high);
        let staging = GpaRange::new((high.end() + 4096).next_multiple_of(GIB), 4096 * staging).unwrap();
        let mut memory = arena(64);
        let mut tables = PageTables::new(&mut memory, ARENA_GPA, largest).unwrap();
        tables.map(low, Access::All).unwrap();
        tables.map(high, Access::ReadWrite).unwrap();
        tables.map(staging, Access::Read).unwrap();
        let all = [(low, WRITABLE), (high, WRITABLE | NO_EXECUTE), (staging, NO_EXECUTE)];
        let mut places = vec![0, 4095];
        for (range, _) in all {
            places.extend([range.start(), range.end() - 1, range.end()]);
            places.extend(probes.iter().map(|probe| range.start() + probe % (range.len() + 1)));
        }
        let check = |tables: &PageTables<'_>, mapped: &[(GpaRange, u64)]| -> Result<(), TestCaseError> {
            for &place in &places {
                let expected = mapped.iter().find(|(range, _)| range.start() <= place && place < range.end());
                match (translate(tables, place), expected) {
                    (None, None) => {}
                    (Some((gpa, bits)), Some((_, rights))) => {
                        prop_assert_eq!(gpa, place);
                        prop_assert_eq!(bits & !LARGE, PRESENT | rights);
                    }
                    other => prop_assert!(false, "{:#x}: {:?}", place, other),
                }
            }
            Ok(())
        };
        check(&tables, &all)?;
        tables.unmap(staging).unwrap();
        check(&tables, &all[..2])?;
    }
}

/// Hundreds of GiB fit in what the firmware has: with 1 GiB pages in a few tables, with 2 MiB pages in one a GiB.
#[test]
fn large_memory_fits() {
    let high = GpaRange::between(4 * GIB, 4096 * GIB);
    let mut memory = arena(640);
    let mut tables = PageTables::new(&mut memory, ARENA_GPA, LargestPage::OneGib).unwrap();
    tables.map(high, Access::All).unwrap();
    assert_eq!(tables.used(), 1 + 8);
    let mut tables = PageTables::new(&mut memory, ARENA_GPA, LargestPage::TwoMib).unwrap();
    tables.map(GpaRange::between(4 * GIB, 512 * GIB), Access::All).unwrap();
    assert_eq!(tables.used(), 2 + 508);
    assert_eq!(tables.map(GpaRange::between(512 * GIB, 4096 * GIB), Access::All), Err(MapError::OutOfTables(640)));
}

#[test]
fn overlaps_and_strangers_are_refused() {
    let mut memory = arena(16);
    let mut tables = PageTables::new(&mut memory, ARENA_GPA, LargestPage::TwoMib).unwrap();
    tables.map(GpaRange::between(2 * MIB, 4 * MIB), Access::All).unwrap();
    // A page inside a large one, and the reverse.
    let inside = GpaRange::between(3 * MIB, 3 * MIB + 4096);
    assert_eq!(tables.map(inside, Access::Read), Err(MapError::Conflict(3 * MIB)));
    assert_eq!(tables.unmap(inside), Err(MapError::Conflict(3 * MIB)));
    tables.map(GpaRange::between(8 * MIB, 8 * MIB + 4096), Access::Read).unwrap();
    let around = GpaRange::between(8 * MIB, 10 * MIB);
    assert_eq!(tables.map(around, Access::Read), Err(MapError::Conflict(8 * MIB)));
    assert_eq!(tables.unmap(GpaRange::between(0, 4096)), Err(MapError::Conflict(0)));
    for (start, end) in [(1, 4096), (0, 4095), (0, (1 << 47) + 4096)] {
        let range = GpaRange::between(start, end);
        assert_eq!(tables.map(range, Access::All), Err(MapError::Range(range)));
    }
}
