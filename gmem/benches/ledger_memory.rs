//! What the ownership ledger takes: a table by size of RAM and pattern.
//!
//! *Mixed everywhere* is one page in each 2 MiB, which takes what every second page would: a leaf has one size.
//!
//! `cargo bench -p gmem --bench ledger_memory`. Exact figures; the tests of the module `ledger` assert the limits.

use gmem::layout::RamLayout;
use gmem::ledger::{Ledger, Owner};
use gmem::{ByteLen, Gfn, GfnRange, PageCount};

const GIB: u64 = 1 << 30;
const PAGES_PER_2_MIB: u64 = 512;

fn share(ledger: &Ledger, page: Gfn) {
    let page = GfnRange::new(page, PageCount::new(1)).expect("a range");
    ledger.begin(page, Owner::Shared).expect("nothing in the way").commit();
}

fn main() {
    println!("{:>9}  {:>26}  {:>26}  {:>26}", "RAM", "uniform", "mixed everywhere", "random pages, as many");
    for gib in (0..=12).map(|shift| 1u64 << shift) {
        let ram = RamLayout::new(ByteLen(gib * GIB)).expect("a size of RAM");
        let pages = ram.pages().get();

        let uniform = Ledger::new(ram, Owner::Private).memory_bytes();

        let mixed = Ledger::new(ram, Owner::Private);
        for position in (0..pages).step_by(usize::try_from(PAGES_PER_2_MIB).expect("fits")) {
            share(&mixed, ram.frame_at(position).expect("RAM"));
        }
        let mixed = mixed.memory_bytes();

        let random = Ledger::new(ram, Owner::Private);
        let mut draw = 1u64;
        for _ in 0..pages / PAGES_PER_2_MIB {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            share(&random, ram.frame_at((draw >> 16) % pages).expect("RAM"));
        }
        let random = random.memory_bytes();

        print!("{:>9}", ByteLen(gib * GIB).to_string());
        for bytes in [uniform, mixed, random] {
            let (kib, per_page) = (bytes as f64 / 1024.0, bytes as f64 / pages as f64);
            print!("  {kib:>9.0} KiB {per_page:.3} B/page");
        }
        println!();
    }
}
