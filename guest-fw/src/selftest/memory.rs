//! Memory patterns: every page has its own value, keeps it, and starts out zero.
//!
//! Each processor writes its slice; after all have, it reads its neighbour's. Aliased or lost pages, and processors
//! that see memory differently, cannot pass.

use super::layout::pages;
use super::options::Coverage;
use super::owned::Owned;
use core::fmt;

/// Salt of these patterns.
const SALT: u64 = 1;

/// A page that is not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// Its address.
    pub gpa: u64,
    /// What it should hold.
    pub expected: &'static str,
    /// What its first 8 bytes hold.
    pub found: u64,
}

impl fmt::Display for BadPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x} should hold {}, holds {:#x}", self.gpa, self.expected, self.found)
    }
}

/// Whether memory nobody touched reads zero.
pub fn check_untouched(memory: &Owned, coverage: Coverage) -> Result<(), BadPage> {
    let mut all = pages(memory.range(), coverage);
    match all.find(|page| !memory.is_zero(*page)) {
        None => Ok(()),
        Some(gpa) => Err(BadPage { gpa, expected: "zero", found: memory.read(gpa) }),
    }
}

/// Gives every page its pattern.
pub fn write(memory: &mut Owned, coverage: Coverage) {
    for page in pages(memory.range(), coverage) {
        memory.put_pattern(page, SALT);
    }
}

/// Whether every page holds its pattern, written by whichever processor.
pub fn verify(memory: &Owned, coverage: Coverage) -> Result<(), BadPage> {
    let mut all = pages(memory.range(), coverage);
    match all.find(|page| !memory.has_pattern(*page, SALT)) {
        None => Ok(()),
        Some(gpa) => Err(BadPage { gpa, expected: "its pattern", found: memory.read(gpa) }),
    }
}
