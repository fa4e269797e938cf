//! The memory map Linux is given.
//!
//! Specification: ACPI 6.5 §15 "System Address Map Interfaces" (table 15.2, types), Linux
//! `Documentation/arch/x86/zero-page.rst` (offset 0x2d0).

use crate::abi::{ACPI_BASE, ACPI_END, LOW_RAM_END};
use crate::range::GpaRange;
use crate::staging::Ram;
use core::mem::size_of;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct boot_e820_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct E820Entry {
    /// First byte.
    pub start: U64,
    /// Bytes.
    pub len: U64,
    /// One of the `E820_*` constants.
    pub kind: U32,
}
const _: () = assert!(size_of::<E820Entry>() == 20);

/// Usable RAM.
pub const E820_RAM: u32 = 1;
/// Not to be used.
pub const E820_RESERVED: u32 = 2;
/// ACPI tables, usable once they have been read.
pub const E820_ACPI: u32 = 3;

/// The entries for a guest with this RAM, ascending; an empty last one if there is none above 4 GiB.
pub fn entries(ram: &Ram) -> [E820Entry; 5] {
    let entry = |range: GpaRange, kind: u32| E820Entry {
        start: range.start().into(),
        len: range.len().into(),
        kind: kind.into(),
    };
    [
        entry(GpaRange::between(0, LOW_RAM_END), E820_RAM),
        // Where a PC keeps its extended BIOS data area: Linux looks there and must not be surprised.
        entry(GpaRange::between(LOW_RAM_END, 0xa_0000), E820_RESERVED),
        entry(GpaRange::between(ACPI_BASE, ACPI_END), E820_ACPI),
        entry(GpaRange::between(ACPI_END, ram.low.end()), E820_RAM),
        entry(ram.high, E820_RAM),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Entries ascend without overlap, and all they call RAM is RAM.
        #[test]
        fn entries_ascend_and_stay_inside_ram(low in 1024u64..0xf_ec00, high in 0u64..1 << 30) {
            let ram = Ram {
                low: GpaRange::between(0, low * 4096),
                high: GpaRange::between(1 << 32, (1 << 32) + high * 4096),
            };
            let mut usable = 0;
            let mut last = 0;
            for entry in entries(&ram) {
                let range = GpaRange::new(entry.start.get(), entry.len.get()).unwrap();
                prop_assert!(range.start() >= last);
                last = range.end();
                if entry.kind.get() == E820_RAM {
                    prop_assert!(ram.contains(range));
                    usable += range.len();
                }
            }
            // Everything but [0x9fc00, 1 MiB).
            prop_assert_eq!(usable, (low + high) * 4096 - (0x10_0000 - LOW_RAM_END));
        }
    }
}
