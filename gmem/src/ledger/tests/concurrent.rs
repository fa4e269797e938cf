//! Readers race with a writer and see each page in a state it had, never anything else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;

/// Converts `range` to and fro until `rounds` are done, now and then aborting.
fn convert_to_and_fro(ledger: &Ledger, range: GfnRange, rounds: u32) {
    for round in 0..rounds {
        let to = if round.is_multiple_of(2) { Owner::Shared } else { Owner::Private };
        if round % 7 == 3 {
            ledger.begin(range, to).unwrap().abort();
        }
        ledger.begin(range, to).unwrap().commit();
    }
}

/// Sets a flag when the writer is done, also when it panics, so that readers end.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The entry of a page is split, joined and split again by conversions around it; a page that is never converted is
/// never seen in any state but its own, and a converted one only in those of its conversion.
#[test]
fn known_owner_readers_see_only_states_a_page_had() {
    for initial in [Owner::Shared, Owner::Private] {
        let ledger = ledger(16, initial);
        let still = pages(512, 100);
        let moving = pages(612, 412 + 30); // to the end of the second entry and into the third
        let at_rest = ledger.state(still.start()).unwrap();
        let done = AtomicBool::new(false);
        let looks = AtomicU64::new(0);
        thread::scope(|scope| {
            let readers = [0, 1].map(|reader| {
                let (ledger, done, looks) = (&ledger, &done, &looks);
                scope.spawn(move || {
                    let mut step = reader;
                    while !done.load(Ordering::Acquire) {
                        let quiet = gfn(still.start().number() + step % still.pages().get());
                        assert_eq!(ledger.state(quiet), Some(at_rest));
                        assert_eq!(ledger.is_shared(still), initial == Owner::Shared);
                        let busy = gfn(moving.start().number() + step % moving.pages().get());
                        let seen = ledger.state(busy).unwrap();
                        assert!(
                            !matches!(seen, PageState::InDoubt | PageState::Freed | PageState::PrivatePopulated),
                            "{seen}"
                        );
                        step = step.wrapping_add(61);
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
            let _done = Done(&done);
            while looks.load(Ordering::Relaxed) < 1000 && !readers.iter().any(|reader| reader.is_finished()) {
                thread::yield_now();
            }
            convert_to_and_fro(&ledger, moving, 20_000);
        });
        assert_eq!(ledger.memory_bytes(), {
            let once = super::ledger(16, initial);
            once.begin(pages(0, 1), Owner::Shared).unwrap().abort();
            once.begin(pages(0, 1), Owner::Private).unwrap().abort();
            once.memory_bytes()
        });
    }
}

/// Lookups are exact, not just plausible: a reader that knows no conversion ran during its lookup finds the one state
/// the page then had, and during a conversion finds what it comes from, *converting*, or what it becomes. The ranges
/// make the page's entry split, stay split, join, and change as a whole.
#[test]
fn known_owner_readers_find_the_state_of_the_moment() {
    let ledger = ledger(16, Owner::Private);
    let page = pages(700, 1);
    let ranges = [page, pages(512, 512), pages(600, 400), pages(0, 2048), pages(690, 11)];
    let settled =
        |conversions: u64| if conversions.is_multiple_of(2) { PageState::PrivateUntouched } else { PageState::Shared };
    // Twice the conversions that are over, plus one while one runs.
    let clock = AtomicU64::new(0);
    let (done, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let readers = [0, 1].map(|_| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let before = clock.load(Ordering::Acquire);
                    let seen = ledger.state(page.start()).unwrap();
                    let shared = ledger.is_shared(page);
                    if clock.load(Ordering::Acquire) != before {
                        continue;
                    }
                    let (from, to) = (settled(before / 2), settled(before.div_ceil(2)));
                    let converting = match to {
                        PageState::Shared => PageState::ConvertingToShared,
                        _ => PageState::ConvertingToPrivate,
                    };
                    assert!(seen == from || seen == to || (from != to && seen == converting), "{before}: {seen}");
                    if from == to {
                        assert_eq!(shared, from == PageState::Shared, "{before}");
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        let _done = Done(&done);
        let mut conversions = 0u64;
        let enough = |conversions: u64| conversions >= 20_000 && looks.load(Ordering::Relaxed) >= 1000;
        while !enough(conversions) && !readers.iter().any(|reader| reader.is_finished()) {
            let range = ranges[usize::try_from(conversions / 2).unwrap() % ranges.len()];
            clock.fetch_add(1, Ordering::AcqRel);
            let to = if conversions.is_multiple_of(2) { Owner::Shared } else { Owner::Private };
            ledger.begin(range, to).unwrap().commit();
            clock.fetch_add(1, Ordering::AcqRel);
            conversions += 1;
        }
    });
}
