//! The law *known-owner*, and *no-silent-trust* for what callers ask of the ledger.

mod concurrent;
mod memory;
mod model;
mod refusals;
mod table;

use super::*;
use crate::address::ByteLen;

const MIB: u64 = 1 << 20;

fn ledger(mib: u64, initial: Owner) -> Ledger {
    Ledger::new(RamLayout::new(ByteLen(mib * MIB)).unwrap(), initial)
}

fn gfn(number: u64) -> Gfn {
    Gfn::new(number).unwrap()
}

fn pages(start: u64, pages: u64) -> GfnRange {
    GfnRange::new(gfn(start), PageCount::new(pages)).unwrap()
}

/// All of RAM that lies in one piece at 0.
fn low(ledger: &Ledger) -> GfnRange {
    ledger.ram().low()
}
