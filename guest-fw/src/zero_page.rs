//! The zero page (`struct boot_params`): what Linux learns at its 64-bit entry.
//!
//! Specification: Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`.
//! <https://docs.kernel.org/arch/x86/zero-page.html>

use crate::abi::{ACPI_BASE, CMDLINE};
use crate::bzimage::{Placement, SETUP_HEADER_OFFSET, SetupHeader};
use crate::e820::{self, E820Entry};
use crate::staging::Ram;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `type_of_loader`: none of the registered loaders.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode`: "normal"; there is no screen.
const VIDEO_NORMAL: u16 = 0xffff;
/// Entries the table has room for (`E820_MAX_ENTRIES_ZEROPAGE`).
const E820_ROOM: usize = 128;

/// The fields of `struct boot_params` this firmware fills; all others stay zero.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BootParams {
    screen_info_and_bios: [u8; 0x70],
    /// Physical address of the RSDP.
    pub acpi_rsdp_addr: U64,
    tables: [u8; 0x48],
    /// Upper half of the RAM disk's address.
    pub ext_ramdisk_image: U32,
    /// Upper half of the RAM disk's size.
    pub ext_ramdisk_size: U32,
    /// Upper half of the command line's address.
    pub ext_cmd_line_ptr: U32,
    edid_and_efi: [u8; 0x11c],
    /// Entries used in `e820_table`.
    pub e820_entries: u8,
    disks: [u8; 8],
    /// The kernel's setup header, with the loader's fields filled in.
    pub hdr: SetupHeader,
    edd_signatures: [u8; 0x64],
    e820_table: [E820Entry; E820_ROOM],
    edd: [u8; 0x330],
}
const _: () = assert!(offset_of!(BootParams, acpi_rsdp_addr) == 0x70);
const _: () = assert!(offset_of!(BootParams, ext_ramdisk_image) == 0xc0);
const _: () = assert!(offset_of!(BootParams, e820_entries) == 0x1e8);
const _: () = assert!(offset_of!(BootParams, hdr) == SETUP_HEADER_OFFSET);
const _: () = assert!(offset_of!(BootParams, e820_table) == 0x2d0);
const _: () = assert!(size_of::<BootParams>() == 4096);

impl BootParams {
    /// The zero page for a checked kernel.
    pub fn new(setup: &SetupHeader, place: &Placement, ram: &Ram) -> Self {
        let mut params = Self::new_zeroed();
        params.acpi_rsdp_addr = ACPI_BASE.into();

        let hdr = &mut params.hdr;
        *hdr = *setup;
        hdr.type_of_loader = LOADER_UNDEFINED;
        hdr.vid_mode = VIDEO_NORMAL.into();
        // Chains and choices a loader may add, never inherit from a file.
        hdr.setup_data = 0.into();
        hdr.hardware_subarch = 0.into();
        hdr.hardware_subarch_data = 0.into();
        let (cmd_line_low, cmd_line_high) = halves(CMDLINE);
        hdr.cmd_line_ptr = cmd_line_low;
        params.ext_cmd_line_ptr = cmd_line_high;
        let (image, len) = place.initrd.map_or((0, 0), |initrd| (initrd.start(), initrd.len()));
        (hdr.ramdisk_image, params.ext_ramdisk_image) = halves(image);
        (hdr.ramdisk_size, params.ext_ramdisk_size) = halves(len);

        for entry in e820::entries(ram).into_iter().filter(|entry| entry.len.get() != 0) {
            params.e820_table[usize::from(params.e820_entries)] = entry;
            params.e820_entries += 1;
        }
        params
    }

    /// The memory map's used entries.
    pub fn e820(&self) -> &[E820Entry] {
        &self.e820_table[..usize::from(self.e820_entries).min(E820_ROOM)]
    }
}

/// Low and high 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "taking the low half is the point")]
fn halves(value: u64) -> (U32, U32) {
    ((value as u32).into(), ((value >> 32) as u32).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::GpaRange;

    fn ram(high: u64) -> Ram {
        Ram { low: GpaRange::between(0, 512 << 20), high: GpaRange::between(1 << 32, (1 << 32) + high) }
    }

    fn place(initrd: Option<GpaRange>) -> Placement {
        Placement { payload: GpaRange::between(16 << 20, 32 << 20), initrd, cmdline_len: 5 }
    }

    #[test]
    fn an_initrd_above_4_gib_uses_the_extended_fields() {
        let initrd = GpaRange::new(0x1_4000_0000, 0x2345).unwrap();
        let params = BootParams::new(&SetupHeader::new_zeroed(), &place(Some(initrd)), &ram(1 << 30));
        assert_eq!(params.hdr.ramdisk_image.get(), 0x4000_0000);
        assert_eq!(params.ext_ramdisk_image.get(), 1);
        assert_eq!(params.hdr.ramdisk_size.get(), 0x2345);
        assert_eq!(params.ext_ramdisk_size.get(), 0);
        assert_eq!(params.e820().len(), 5);
    }

    #[test]
    fn no_initrd_and_no_high_ram_leave_no_trace() {
        let params = BootParams::new(&SetupHeader::new_zeroed(), &place(None), &ram(0));
        assert_eq!((params.hdr.ramdisk_image.get(), params.hdr.ramdisk_size.get()), (0, 0));
        assert_eq!(params.e820().len(), 4);
        // zero-page.rst: the sentinel at 0x1ef must be zero or Linux discards fields.
        assert_eq!(params.as_bytes()[0x1ef], 0);
    }

    #[test]
    fn pointers_in_the_file_are_not_inherited() {
        let mut setup = SetupHeader::new_zeroed();
        setup.setup_data = 0xdead_0000.into();
        setup.ramdisk_image = 0x1234.into();
        setup.hardware_subarch = 3.into();
        let params = BootParams::new(&setup, &place(None), &ram(0));
        assert_eq!(params.hdr.setup_data.get(), 0);
        assert_eq!(params.hdr.ramdisk_image.get(), 0);
        assert_eq!(params.hdr.hardware_subarch.get(), 0);
        assert_eq!(params.hdr.type_of_loader, 0xff);
        assert_eq!(u64::from(params.hdr.cmd_line_ptr.get()), CMDLINE);
    }
}
