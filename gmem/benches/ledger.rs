//! Times of the ownership ledger: lookups, which every device access pays, and conversions.
//!
//! `cargo bench -p gmem --bench ledger`. Figures of one machine; nothing asserts them.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use divan::Bencher;
use divan::counter::ItemsCount;
use gmem::layout::RamLayout;
use gmem::ledger::{Ledger, Owner};
use gmem::{ByteLen, Gfn, GfnRange, PageCount};

const GIB: u64 = 1 << 30;
const PAGES_PER_2_MIB: u64 = 512;

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
    (0..4096).map(|i: u64| range(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (GIB / 4096), 1)).collect()
}

/// Looks up scattered pages on each of the bench's threads.
fn look_up(bencher: Bencher<'_, '_>, ledger: &Ledger) {
    let (pages, turn) = (scattered(), AtomicUsize::new(0));
    bencher
        .with_inputs(|| pages[turn.fetch_add(1, Ordering::Relaxed) % pages.len()])
        .bench_values(|page| ledger.is_shared(page));
}

/// `is_shared` of one page where nothing is mixed.
#[divan::bench(threads = [1, 2])]
fn lookup_uniform(bencher: Bencher<'_, '_>) {
    look_up(bencher, &ledger(GIB, Owner::Shared));
}

/// `is_shared` of one page where everything is mixed.
#[divan::bench(threads = [1, 2])]
fn lookup_mixed(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Shared);
    alternate(&ledger, ledger.ram().low(), Owner::Private);
    look_up(bencher, &ledger);
}

/// The same while another thread converts scattered pages to and fro without a pause.
#[divan::bench(threads = [1, 2])]
fn lookup_mixed_while_converting(bencher: Bencher<'_, '_>) {
    let ledger = ledger(GIB, Owner::Shared);
    alternate(&ledger, ledger.ram().low(), Owner::Private);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let pages = scattered();
            while !stop.load(Ordering::Relaxed) {
                for to in [Owner::Private, Owner::Shared] {
                    pages.iter().for_each(|page| convert(&ledger, *page, to));
                }
            }
        });
        look_up(bencher, &ledger);
        stop.store(true, Ordering::Relaxed);
    });
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
