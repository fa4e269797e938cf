//! Reads a bzImage's setup header and decides whether and where this kernel can be entered.
//!
//! Specification: Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header" and "64-bit Boot Protocol".
//! <https://docs.kernel.org/arch/x86/boot.html>
//!
//! Everything in the header is checked before use; it is read from the private copy whose hash was checked.

use crate::abi::FW_END;
use crate::range::GpaRange;
use crate::staging::Ram;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the setup header starts in the file and in the zero page.
pub const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// Bytes in a sector, the unit of the setup part.
pub const SECTOR: u64 = 512;
/// The 64-bit entry, from the start of the protected-mode kernel.
pub const ENTRY_64: u64 = 0x200;
/// "HdrS".
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Boot sector's signature.
const BOOT_FLAG: u16 = 0xaa55;
/// Protocol 2.12 (Linux 3.8): the first with `xloadflags`.
const VERSION_MIN: u16 = 0x020c;
/// `loadflags`: the protected-mode code belongs at or above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry at [`ENTRY_64`].
const XLF_KERNEL_64: u16 = 1;
/// `xloadflags`: kernel, zero page, command line and RAM disk may lie above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 2;
/// `setup_sects` of zero means this many.
const SETUP_SECTS_DEFAULT: u8 = 4;

/// `struct setup_header`, as in the file and in the zero page (boot.rst, "The Real-Mode Kernel Header").
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the specification's, which documents them")]
pub struct SetupHeader {
    pub setup_sects: u8,
    pub root_flags: U16,
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    pub boot_flag: U16,
    pub jump: [u8; 2],
    pub header: U32,
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    pub type_of_loader: u8,
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    pub ramdisk_image: U32,
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    pub kernel_alignment: U32,
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    pub xloadflags: U16,
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    pub setup_data: U64,
    pub pref_address: U64,
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
}
const fn at<const OFFSET: usize>() -> usize {
    OFFSET - SETUP_HEADER_OFFSET
}
const _: () = assert!(offset_of!(SetupHeader, boot_flag) == at::<0x1fe>());
const _: () = assert!(offset_of!(SetupHeader, header) == at::<0x202>());
const _: () = assert!(offset_of!(SetupHeader, type_of_loader) == at::<0x210>());
const _: () = assert!(offset_of!(SetupHeader, cmd_line_ptr) == at::<0x228>());
const _: () = assert!(offset_of!(SetupHeader, xloadflags) == at::<0x236>());
const _: () = assert!(offset_of!(SetupHeader, setup_data) == at::<0x250>());
const _: () = assert!(offset_of!(SetupHeader, init_size) == at::<0x260>());
const _: () = assert!(size_of::<SetupHeader>() == at::<0x26c>());

/// Why a kernel cannot be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Shorter than a setup header.
    #[error("kernel setup has {0} bytes, too few for a setup header")]
    Short(usize),
    /// Not a bzImage.
    #[error("not a bzImage: {field} is {value:#x}")]
    NotBzImage {
        /// The field that gives it away.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// Boot protocol too old.
    #[error("boot protocol {0:#06x}, at least {VERSION_MIN:#06x} is needed")]
    Version(u16),
    /// The header disagrees with what was staged, or asks for what cannot be.
    #[error("kernel {field} is {value:#x}: {why}")]
    Field {
        /// Its name in the setup header.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The kernel needs memory that is not there or taken.
    #[error("kernel needs {range} to decompress into, which is {why}")]
    Room {
        /// What it needs.
        range: GpaRange,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The RAM disk is where this kernel cannot reach it.
    #[error("initrd {range} lies above {limit:#x}, the last byte this kernel reaches")]
    Initrd {
        /// Where it is.
        range: GpaRange,
        /// `initrd_addr_max`.
        limit: u64,
    },
}

/// What was staged beside the setup sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The protected-mode kernel.
    pub payload: GpaRange,
    /// The initial RAM disk.
    pub initrd: Option<GpaRange>,
    /// Bytes in the command line.
    pub cmdline_len: u64,
}

impl SetupHeader {
    /// Reads the header from a bzImage's setup sectors, which must be exactly as long as it says.
    pub fn parse(setup: &[u8]) -> Result<Self, KernelError> {
        let bytes = setup.get(SETUP_HEADER_OFFSET..).ok_or(KernelError::Short(setup.len()))?;
        let (mut header, _) = Self::read_from_prefix(bytes).map_err(|_| KernelError::Short(setup.len()))?;
        if header.boot_flag.get() != BOOT_FLAG {
            return Err(KernelError::NotBzImage { field: "boot_flag", value: header.boot_flag.get().into() });
        }
        if header.header.get() != HEADER_MAGIC {
            return Err(KernelError::NotBzImage { field: "header", value: header.header.get() });
        }
        if header.version.get() < VERSION_MIN {
            return Err(KernelError::Version(header.version.get()));
        }
        if header.setup_sects == 0 {
            header.setup_sects = SETUP_SECTS_DEFAULT;
        }
        if (u64::from(header.setup_sects) + 1) * SECTOR != setup.len() as u64 {
            return Err(KernelError::Field {
                field: "setup_sects",
                value: header.setup_sects.into(),
                why: "not what was staged",
            });
        }
        header.keep_what_it_covers();
        Ok(header)
    }

    /// The header says how long it is: the byte after the jump's opcode, counted from the magic. What lies beyond is
    /// code, so those fields are taken as zero.
    fn keep_what_it_covers(&mut self) {
        let end = (at::<0x202>() + usize::from(self.jump[1])).min(size_of::<Self>());
        self.as_mut_bytes()[end..].fill(0);
    }

    /// Checks that the kernel can run where it was put, and returns the address of its 64-bit entry.
    pub fn check_placement(&self, place: &Placement, ram: &Ram) -> Result<u64, KernelError> {
        let field = |field, value: u64, why| Err(KernelError::Field { field, value, why });
        if self.loadflags & LOADED_HIGH == 0 {
            return field("loadflags", self.loadflags.into(), "LOADED_HIGH is missing");
        }
        let xloadflags = self.xloadflags.get();
        if xloadflags & XLF_KERNEL_64 == 0 {
            return field("xloadflags", xloadflags.into(), "no 64-bit entry");
        }
        if place.cmdline_len > self.cmdline_size.get().into() {
            return field("cmdline_size", self.cmdline_size.get().into(), "shorter than the command line");
        }
        // syssize counts paragraphs of 16 bytes, rounded up; a signature may follow.
        if u64::from(self.syssize.get()) * 16 > place.payload.len().next_multiple_of(16) {
            return field("syssize", self.syssize.get().into(), "more than was staged: the kernel is truncated");
        }
        if place.payload.len() < ENTRY_64 + 1 {
            return field("syssize", place.payload.len(), "no room for an entry point");
        }
        let above_4g = xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0;
        let room = self.room(place.payload.start())?;
        if !ram.contains(room) {
            return Err(KernelError::Room { range: room, why: "not RAM" });
        }
        if room.overlaps(GpaRange::between(0, FW_END)) {
            return Err(KernelError::Room { range: room, why: "the firmware's" });
        }
        if room.end() > 1 << 32 && !above_4g {
            return Err(KernelError::Room { range: room, why: "above 4 GiB, which this kernel cannot use" });
        }
        if let Some(initrd) = place.initrd {
            if room.overlaps(initrd) {
                return Err(KernelError::Room { range: room, why: "taken by the initrd" });
            }
            let limit = u64::from(self.initrd_addr_max.get());
            if initrd.end() - 1 > limit && !above_4g {
                return Err(KernelError::Initrd { range: initrd, limit });
            }
        }
        Ok(place.payload.start() + ENTRY_64)
    }

    /// The memory the kernel decompresses into when loaded at `load` (boot.rst, `init_size`).
    fn room(&self, load: u64) -> Result<GpaRange, KernelError> {
        let preferred = self.pref_address.get();
        let alignment = u64::from(self.kernel_alignment.get());
        let start = if self.relocatable_kernel == 0 {
            if load != preferred {
                return Err(KernelError::Field {
                    field: "pref_address",
                    value: preferred,
                    why: "not where it was put, and it cannot be moved",
                });
            }
            preferred
        } else {
            if !alignment.is_power_of_two() || !load.is_multiple_of(alignment) {
                return Err(KernelError::Field {
                    field: "kernel_alignment",
                    value: alignment,
                    why: "not how it was put, or not a power of two",
                });
            }
            // A relocatable kernel below its preferred address moves itself there.
            load.max(preferred)
        };
        let size = u64::from(self.init_size.get());
        match GpaRange::new(start, size) {
            Some(range) if size != 0 => Ok(range),
            _ => Err(KernelError::Field { field: "init_size", value: size, why: "zero, or beyond 64 bits" }),
        }
    }
}

#[cfg(test)]
mod tests;
