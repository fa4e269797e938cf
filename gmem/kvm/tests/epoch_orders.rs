//! Law *shared-only* under a model checker: epochs.
//!
//! Takes the epochs' own source file, gives it the checker's atomics, and runs devices against conversions through all
//! schedules with a bounded number of preemptions and, in each, through all values the memory model lets a load return.
//! The page is a cell that the checker watches: an access that overlaps another one ends the run.

use std::sync::atomic::Ordering::SeqCst as Count;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use epochs::Epochs;

#[expect(dead_code, reason = "some of it is for the library's own tests")]
#[path = "../src/shared/epochs.rs"]
mod epochs;

/// In place of `gmem/kvm/src/shared/words.rs`.
mod words {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};

    pub(super) fn pause(_spins: u32) {
        loom::thread::yield_now();
    }
}

/// One page of a guest.
struct Page {
    epochs: Epochs,
    /// The ledger's word for it.
    shared: AtomicBool,
    contents: UnsafeCell<u64>,
}

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Self { epochs: Epochs::default(), shared: AtomicBool::new(true), contents: UnsafeCell::new(0) })
    }

    /// Enters, checks, writes: what a device does. Whether it was allowed to.
    #[expect(unsafe_code, reason = "the checker's cell gives out pointers")]
    fn device(&self) -> bool {
        let guard = self.epochs.enter();
        let allowed = self.shared.load(Ordering::Acquire);
        if allowed {
            // SAFETY: the checker itself ends the run if another access overlaps this one.
            self.contents.with_mut(|contents| unsafe { *contents += 1 });
        }
        self.epochs.leave(guard);
        allowed
    }

    /// Marks, waits, and has the page to itself: what a conversion does. Then gives it back.
    #[expect(unsafe_code, reason = "the checker's cell gives out pointers")]
    fn convert_to_and_fro(&self) {
        self.shared.store(false, Ordering::Relaxed);
        assert!(self.epochs.wait_for_older(|| false));
        // SAFETY: the checker itself ends the run if another access overlaps this one.
        self.contents.with_mut(|contents| unsafe { *contents = 0 });
        self.shared.store(true, Ordering::Release);
    }
}

fn explore(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(scenario);
}

/// No access lands in a page after its conversion has waited, through two conversions in a row: the second one must not
/// miss a device that entered while the first one began.
#[test]
fn shared_only_no_access_after_the_wait() {
    static ALLOWED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    static REFUSED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    explore(3, || {
        let page = Page::new();
        let other = Arc::clone(&page);
        let device = thread::spawn(move || {
            let counter = if other.device() { &ALLOWED } else { &REFUSED };
            counter.fetch_add(1, Count);
        });
        page.convert_to_and_fro();
        page.convert_to_and_fro();
        device.join().unwrap();
    });
    assert!(ALLOWED.load(Count) != 0 && REFUSED.load(Count) != 0, "the checker saw only one side of the race");
}

/// A wait gives up when it is told to, however long a guard stays.
#[test]
fn shared_only_a_wait_can_be_given_up() {
    explore(2, || {
        let page = Page::new();
        let guard = page.epochs.enter();
        let (closing, other) = (Arc::new(AtomicBool::new(false)), Arc::clone(&page));
        let asked = Arc::clone(&closing);
        let converter = thread::spawn(move || other.epochs.wait_for_older(|| asked.load(Ordering::SeqCst)));
        closing.store(true, Ordering::SeqCst);
        assert!(!converter.join().unwrap());
        page.epochs.leave(guard);
    });
}
