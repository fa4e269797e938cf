//! Times of the ownership ledger: lookups, which every device access pays, and conversions.
//!
//! `cargo bench -p gmem --bench ledger`. Figures of one machine; nothing asserts them.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;

use divan::Bencher;
use divan::counter::ItemsCount;
use gmem::layout::RamLayout;
use gmem::ledger::{Ledger, Owner};
use gmem::{ByteLen, Gfn, GfnRange, PageCount};

const GIB: u64 = 1 << 30;
const PAGES_PER_2_MIB: u64 = 512;
/// Pages looked up in one sample. As many lines of the cache at most: they come from a near cache, not from memory or
/// another core, except where that core changed them.
const SCATTERED: u32 = 4096;

fn main() {
    divan::main();
}

fn ledger(bytes: u64, initial: Owner) -> Ledger {
    Ledger::new(RamLayout::new(ByteLen(bytes)).expect("a size of RAM"), initial)
}

fn range(start: u64, pages: u64) -> GfnRange {
    Gfn::new(start).and_then(|start| GfnRange::new(start, PageCount::new(pages)).ok()).expect("a range")
}

fn convert(ledger: &Ledger, range: GfnRange, to: Owner) {
    ledger.begin(range, to).expect("nothing in the way").commit();
}

/// Every second page of `range` gets the other owner.
fn alternate(ledger: &Ledger, within: GfnRange, to: Owner) {
    for frame in within.frames().step_by(2) {
        convert(ledger, range(frame.number(), 1), to);
    }
}

/// Single pages all over 1 GiB, in no order a prefetcher knows.
fn scattered() -> Vec<GfnRange> {
    (0..SCATTERED.into()).map(|i: u64| range(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (GIB / 4096), 1)).collect()
}

/// Looks up scattered pages on each of the bench's threads.
fn look_up(bencher: Bencher<'_, '_>, is_shared: impl Fn(GfnRange) -> bool + Sync) {
    let (pages, turn) = (scattered(), AtomicUsize::new(0));
    bencher.with_inputs(|| pages[turn.fetch_add(1, Ordering::Relaxed) % pages.len()]).bench_values(is_shared);
}

/// Does `work` while another thread repeats `meanwhile` without a pause.
fn beside(work: impl FnOnce(), meanwhile: impl Fn() + Sync) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                meanwhile();
            }
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
}

/// `is_shared` of one page where nothing is mixed.
#[divan::bench(threads = [1, 2], sample_size = SCATTERED)]
fn lookup_uniform(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Shared);
    look_up(bencher, |page| ledger.is_shared(page));
}

/// `is_shared` of one page where everything is mixed.
#[divan::bench(threads = [1, 2], sample_size = SCATTERED)]
fn lookup_mixed(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Shared);
    alternate(&ledger, ledger.ram().low(), Owner::Private);
    look_up(bencher, |page| ledger.is_shared(page));
}

/// The same while another thread converts scattered pages to and fro without a pause.
#[divan::bench(threads = [1, 2], sample_size = SCATTERED)]
fn lookup_mixed_while_converting(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Shared);
    alternate(&ledger, ledger.ram().low(), Owner::Private);
    let pages = scattered();
    beside(
        || look_up(bencher, |page| ledger.is_shared(page)),
        || {
            for to in [Owner::Private, Owner::Shared] {
                pages.iter().for_each(|page| convert(&ledger, *page, to));
            }
        },
    );
}

/// The least a lookup can be: a byte for each page, with no more to find out than its value.
struct Bytes(Vec<AtomicU8>);

impl Bytes {
    fn new() -> Self {
        Self((0..GIB / 4096).map(|page| AtomicU8::new(u8::from(page % 2 == 0))).collect())
    }

    fn of(&self, page: GfnRange) -> &AtomicU8 {
        &self.0[usize::try_from(page.start().number()).expect("a page of 1 GiB")]
    }
}

/// The floor of `lookup_mixed` on this machine.
#[divan::bench(threads = [1, 2], sample_size = SCATTERED)]
fn lookup_mixed_floor(bencher: Bencher<'_, '_>) {
    let bytes = Bytes::new();
    look_up(bencher, |page| bytes.of(page).load(Ordering::Acquire) == 0);
}

/// The floor of `lookup_mixed_while_converting` on this machine.
#[divan::bench(threads = [1, 2], sample_size = SCATTERED)]
fn lookup_mixed_while_converting_floor(bencher: Bencher<'_, '_>) {
    let (bytes, pages) = (Bytes::new(), scattered());
    beside(
        || look_up(bencher, |page| bytes.of(page).load(Ordering::Acquire) == 0),
        || {
            for to in [0, 1] {
                pages.iter().for_each(|page| bytes.of(*page).store(to, Ordering::Release));
            }
        },
    );
}

/// `is_shared` of a buffer of so many pages in mixed entries.
#[divan::bench(args = [1, 16, 256])]
fn lookup_buffer(bencher: Bencher<'_, '_>, pages: u64) {
    let ledger = ledger(GIB, Owner::Private);
    let buffer = range(100, pages);
    convert(&ledger, buffer, Owner::Shared);
    bencher.bench(|| ledger.is_shared(black_box(buffer)));
}

/// Two conversions, there and back, of 4 KiB, 2 MiB and 1 GiB that are uniform around it.
#[divan::bench(args = [1, PAGES_PER_2_MIB, GIB / 4096])]
fn convert_and_back(bencher: Bencher<'_, '_>, pages: u64) {
    let ledger = ledger(2 * GIB, Owner::Private);
    let range = range(0, pages);
    bencher.counter(ItemsCount::new(2u32)).bench(|| {
        convert(&ledger, range, Owner::Shared);
        convert(&ledger, range, Owner::Private);
    });
}

/// The worst a guest can ask for in 2 MiB: every second page already has the wanted owner, so 256 parts.
#[divan::bench]
fn begin_with_256_parts(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Private);
    let piece = range(0, PAGES_PER_2_MIB);
    alternate(&ledger, piece, Owner::Shared);
    bencher.bench(|| ledger.begin(piece, Owner::Shared).expect("nothing in the way").abort());
}

/// Counting 1 TiB where nothing is mixed.
#[divan::bench]
fn census_uniform_tebibyte(bencher: Bencher<'_, '_>) {
    let ledger = ledger(1 << 40, Owner::Private);
    bencher.bench(|| ledger.census());
}

/// Counting 1 GiB where everything is.
#[divan::bench]
fn census_mixed_gibibyte(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Private);
    alternate(&ledger, ledger.ram().low(), Owner::Shared);
    bencher.bench(|| ledger.census());
}
