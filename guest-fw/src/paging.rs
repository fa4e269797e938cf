//! Page tables that map guest-physical memory one to one.
//!
//! Owns the tables' contents, not the loading of CR3. Leaves are as large as the range allows: 1 GiB where the CPU
//! offers it, else 2 MiB, else 4 KiB.
//!
//! Specification: AMD64 APM vol. 2 §5.3 "Long-Mode Page Translation"; Intel SDM vol. 3A §4.5.

use crate::range::GpaRange;
use core::mem::size_of;

/// One page of entries, of any level.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(4096))]
pub struct Table([u64; 512]);
const _: () = assert!(size_of::<Table>() == 4096);

impl Table {
    /// A table that maps nothing.
    pub const EMPTY: Self = Self([0; 512]);
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Shifts of the levels, from 4 KiB pages to the top table's 512 GiB.
const SHIFTS: [u32; 4] = [12, 21, 30, 39];

/// What a mapping allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
    /// Everything: RAM that will hold code of others.
    All,
}

impl Access {
    const fn bits(self) -> u64 {
        PRESENT
            | match self {
                Self::Read => NO_EXECUTE,
                Self::ReadWrite => WRITABLE | NO_EXECUTE,
                Self::ReadExecute => 0,
                Self::All => WRITABLE,
            }
    }
}

/// The largest leaf the CPU offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LargestPage {
    /// 2 MiB, which every CPU has.
    TwoMib,
    /// 1 GiB.
    OneGib,
}

/// What cannot be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No room for another table.
    #[error("all {0} page tables are used up")]
    OutOfTables(usize),
    /// Ends are not page aligned, or beyond what four levels reach.
    #[error("{0} cannot be mapped one to one")]
    Range(GpaRange),
    /// Something in the range is mapped already, or (when unmapping) was never mapped as such.
    #[error("mapping of {0:#x} is not as expected")]
    Conflict(u64),
}

/// Page tables under construction in an arena of pages at a known address.
#[derive(Debug)]
pub struct PageTables<'a> {
    arena: &'a mut [Table],
    arena_gpa: u64,
    used: usize,
    largest_leaf_level: usize,
}

impl<'a> PageTables<'a> {
    /// Starts with an empty top table in the first page of `arena`, whose guest-physical address is `arena_gpa`.
    pub fn new(arena: &'a mut [Table], arena_gpa: u64, largest: LargestPage) -> Result<Self, MapError> {
        let largest_leaf_level = match largest {
            LargestPage::TwoMib => 1,
            LargestPage::OneGib => 2,
        };
        let mut tables = Self { arena, arena_gpa, used: 0, largest_leaf_level };
        tables.allocate()?;
        Ok(tables)
    }

    /// Value for CR3.
    pub const fn root(&self) -> u64 {
        self.arena_gpa
    }

    /// Tables used so far.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Maps `range` one to one. Nothing in it may be mapped yet.
    pub fn map(&mut self, range: GpaRange, access: Access) -> Result<(), MapError> {
        self.each_leaf(range, |entry, leaf| {
            if *entry != 0 {
                return Err(MapError::Conflict(leaf.gpa));
            }
            *entry = leaf.gpa | access.bits() | if leaf.level > 0 { LARGE } else { 0 };
            Ok(())
        })
    }

    /// Undoes [`Self::map`] of exactly this range. The caller reloads CR3.
    pub fn unmap(&mut self, range: GpaRange) -> Result<(), MapError> {
        self.each_leaf(range, |entry, leaf| {
            let expected = leaf.gpa | PRESENT | if leaf.level > 0 { LARGE } else { 0 };
            if *entry & (ADDRESS | PRESENT | LARGE) != expected {
                return Err(MapError::Conflict(leaf.gpa));
            }
            *entry = 0;
            Ok(())
        })
    }

    fn each_leaf(
        &mut self,
        range: GpaRange,
        mut visit: impl FnMut(&mut u64, Leaf) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        if !range.start().is_multiple_of(4096) || !range.end().is_multiple_of(4096) || range.end() > 1 << 47 {
            return Err(MapError::Range(range));
        }
        let mut gpa = range.start();
        while gpa < range.end() {
            let fits = |level: &usize| {
                let size = 1 << SHIFTS[*level];
                gpa.is_multiple_of(size) && range.end() - gpa >= size
            };
            let level = (1..=self.largest_leaf_level).rev().find(fits).unwrap_or(0);
            let entry = self.entry(gpa, level)?;
            visit(entry, Leaf { gpa, level })?;
            gpa += 1 << SHIFTS[level];
        }
        Ok(())
    }

    /// The entry for `gpa` in the table of `level`, tables above it made where missing.
    fn entry(&mut self, gpa: u64, level: usize) -> Result<&mut u64, MapError> {
        let mut table = 0;
        for above in (level + 1..SHIFTS.len()).rev() {
            let slot = index(gpa, above);
            let entry = self.arena[table].0[slot];
            table = if entry == 0 {
                let new = self.allocate()?;
                // Rights are the leaf's; upper levels allow everything.
                self.arena[table].0[slot] = self.gpa_of(new) | PRESENT | WRITABLE;
                new
            } else if entry & LARGE != 0 {
                return Err(MapError::Conflict(gpa));
            } else {
                self.table_at(entry & ADDRESS).ok_or(MapError::Conflict(gpa))?
            };
        }
        Ok(&mut self.arena[table].0[index(gpa, level)])
    }

    fn allocate(&mut self) -> Result<usize, MapError> {
        let new = self.used;
        // The arena's memory need not be zero.
        *self.arena.get_mut(new).ok_or(MapError::OutOfTables(new))? = Table::EMPTY;
        self.used += 1;
        Ok(new)
    }

    const fn gpa_of(&self, table: usize) -> u64 {
        self.arena_gpa + (table * size_of::<Table>()) as u64
    }

    fn table_at(&self, gpa: u64) -> Option<usize> {
        let table = usize::try_from(gpa.checked_sub(self.arena_gpa)? / size_of::<Table>() as u64).ok()?;
        (table < self.used).then_some(table)
    }
}

/// A leaf entry's place.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    gpa: u64,
    level: usize,
}

fn index(gpa: u64, level: usize) -> usize {
    usize::try_from(gpa >> SHIFTS[level] & 511).unwrap_or(0)
}

#[cfg(test)]
mod tests;
