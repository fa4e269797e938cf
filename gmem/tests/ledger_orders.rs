//! The ledger's lock-free lookups under a model checker.
//!
//! Takes the ledger's own store (the very source file), gives it the checker's atomics and entries of two words instead
//! of thirty-two, and runs it through all schedules with up to two or three preemptions and, in each, through all values
//! the memory model lets a load return. Checked is what the store's documentation claims: a lookup finds the state of
//! some moment during the call, lookups never go back in time, and with the caller's two fences no access is missed by
//! a conversion. Each `Acquire` and `Release` is needed: with any of them relaxed a test here fails. Buckets are
//! allocated by the standard library's `OnceLock`, which is not checked.

use gmem::{address, layout};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::thread;

use state::{Event, Stored};
use store::{Span, Store};

#[path = "../src/ledger/lanes.rs"]
mod lanes;
#[expect(dead_code, unreachable_pub, reason = "public in the library")]
#[path = "../src/ledger/state.rs"]
mod state;
#[expect(dead_code, reason = "counting and runs need no lock-free claim")]
#[path = "../src/ledger/store.rs"]
mod store;

/// In place of `gmem/src/ledger/words.rs`.
mod words {
    pub(super) use std::sync::OnceLock;

    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};

    pub(super) const PAGES_PER_ENTRY: usize = 32;
    pub(super) const LEAVES_PER_BUCKET: usize = 2;
}

/// Something that happens to some pages of the one entry.
type Change = (Span, Event);

const WHOLE: Span = Span { start: 0, end: words::PAGES_PER_ENTRY };
/// The page that is looked up.
const WATCHED: usize = 3;
/// It and its neighbours in the same word.
const NEAR: Span = Span { start: 2, end: 9 };
/// The rest of its word and the other word.
const REST: [Span; 2] = [Span { start: 0, end: 2 }, Span { start: 9, end: words::PAGES_PER_ENTRY }];

const TO_SHARED: Event = Event::BeginShared;
const TO_PRIVATE: Event = Event::BeginPrivate;

/// All schedules with at most so many switches away from a thread that could go on.
fn explore(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(scenario);
}

/// A store with a past.
fn store_after(initial: Stored, past: &[Change]) -> Store {
    let store = Store::new(words::PAGES_PER_ENTRY, initial);
    for (span, event) in past {
        store.write().apply(*span, *event);
    }
    store
}

/// The watched page's state after a change.
fn watched_after(state: Stored, (span, event): &Change) -> Stored {
    let concerned = (span.start..span.end).contains(&WATCHED);
    if concerned { state::next(state, *event).expect("an allowed change") } else { state }
}

/// One thread makes the changes, another looks twice. A look must find the state after one of the changes from the
/// last that was over before the look to the last that had begun when it ended, and none older than the look before.
fn look_twice(initial: Stored, past: &'static [Change], changes: &'static [Change]) {
    let mut states = vec![past.iter().fold(initial, watched_after)];
    for change in changes {
        states.push(watched_after(states[states.len() - 1], change));
    }
    explore(2, move || {
        let world = Arc::new((store_after(initial, past), AtomicUsize::new(0), AtomicUsize::new(0)));
        let writer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (store, begun, over) = &*world;
                for (number, (span, event)) in (1..).zip(changes) {
                    begun.store(number, Ordering::Relaxed);
                    store.write().apply(*span, *event);
                    over.store(number, Ordering::Release);
                }
            }
        });
        let (store, begun, over) = &*world;
        let mut oldest = 0;
        for _ in 0..2 {
            oldest = oldest.max(over.load(Ordering::Acquire));
            let seen = store.get(WATCHED);
            let newest = begun.load(Ordering::Relaxed);
            let found = (oldest..=newest).find(|moment| states[*moment] == seen);
            assert!(found.is_some(), "{seen:?} is none of {:?}", &states[oldest..=newest]);
            oldest = found.unwrap_or(oldest);
        }
        writer.join().expect("the writer ends");
    });
}

/// The entry splits for the first time, and joins.
#[test]
fn known_owner_in_every_order_of_a_first_split() {
    const CHANGES: &[Change] = &[(NEAR, TO_SHARED), (REST[0], TO_SHARED), (REST[1], TO_SHARED), (WHOLE, Event::Commit)];
    look_twice(Stored::Populated, &[], CHANGES);
}

/// A reader that is late looks at the leaf of a split that is over, and that is being filled for the next one.
#[test]
fn known_owner_in_every_order_of_a_second_split() {
    const PAST: &[Change] = &[(NEAR, TO_SHARED)];
    const CHANGES: &[Change] = &[(NEAR, Event::Commit), (REST[0], TO_SHARED), (REST[1], TO_SHARED), (NEAR, TO_PRIVATE)];
    look_twice(Stored::Populated, PAST, CHANGES);
    const JOINED: &[Change] =
        &[(NEAR, Event::Abort), (WHOLE, TO_SHARED), (WHOLE, Event::Commit), (NEAR, TO_PRIVATE), (NEAR, Event::Commit)];
    look_twice(Stored::Populated, PAST, JOINED);
}

/// Changes of other pages of the same word and entry never show in the watched page.
#[test]
fn known_owner_in_every_order_of_changes_next_to_it() {
    const CHANGES: &[Change] =
        &[(REST[0], TO_SHARED), (REST[0], Event::Abort), (REST[1], TO_SHARED), (REST[1], Event::Commit)];
    look_twice(Stored::Untouched, &[], CHANGES);
}

/// Law 5, *shared-only*: an access that found its page shared is seen by the conversion of that page, which can wait.
fn access_against_conversion(past: &'static [Change], converted: Span, with_fences: bool) {
    explore(3, move || {
        let world = Arc::new((store_after(Stored::Shared, past), AtomicBool::new(false)));
        let meet = move || {
            if with_fences {
                fence(Ordering::SeqCst);
            }
        };
        let device = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (store, announced) = &*world;
                announced.store(true, Ordering::Relaxed);
                meet();
                store.all(Span { start: WATCHED, end: WATCHED + 2 }, Stored::Shared)
            }
        });
        let (store, announced) = &*world;
        store.write().apply(converted, TO_PRIVATE);
        meet();
        let waits = announced.load(Ordering::Relaxed);
        let accesses = device.join().expect("the device ends");
        assert!(waits || !accesses, "an access the conversion did not wait for");
    });
}

/// The page's entry is uniform, splits, is split already or joins while the conversion begins.
#[test]
fn shared_only_no_access_is_missed() {
    access_against_conversion(&[], WHOLE, true);
    access_against_conversion(&[], NEAR, true);
    access_against_conversion(&[(REST[0], TO_PRIVATE)], NEAR, true);
    access_against_conversion(&[(REST[0], TO_PRIVATE), (REST[1], TO_PRIVATE)], NEAR, true);
    access_against_conversion(&[(NEAR, TO_PRIVATE), (NEAR, Event::Abort)], NEAR, true);
}

/// What the fences are for; and that the checker would notice.
#[test]
#[should_panic = "an access the conversion did not wait for"]
fn shared_only_needs_the_callers_fences() {
    access_against_conversion(&[], NEAR, false);
}
