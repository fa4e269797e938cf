//! The launch of a guest whose firmware starts in staging: technologies `sw` and `none`.
//!
//! Owns the [`Launch`] for them: the staging slot begins with the header, then come the firmware, the pieces it
//! copies from there into RAM, and the page tables it starts with. The host cannot write private memory, so the
//! guest's own first code does; see `guest_fw::abi` for the format and `ARCHITECTURE.md`, law *one-launch*.

use gmem::launch::{Contents, Launch, PageKind, Plan, Unsigned, Vcpus};
use gmem::vcpu::VcpuState;
use gmem::{ByteLen, Gpa, PAGE_SIZE};
use x86::controlregs::{Cr0, Cr4};

use super::linux::LinuxImage;
use super::staged::{Facts, Pieces, PlanningError, Slot, pages_len, region};
use crate::firmware::FirmwareImage;

/// `EFER.LME` and `EFER.LMA` (AMD APM volume 2, section 3.1.7): in 64-bit mode.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Present, writable.
const TABLE: u64 = 0b11;
/// Present, writable, accessed, dirty, 2 MiB.
const PAGE_2M: u64 = 0b1110_0011;
const SIZE_2M: u64 = 2 << 20;
const SIZE_1G: u64 = 1 << 30;

/// Offset of the firmware in staging, after header and piece table.
const IMAGE_OFFSET: u64 = PAGE_SIZE;

/// What is launched, whatever the number of vCPUs.
#[derive(Debug)]
pub(crate) struct Image<'f> {
    firmware: FirmwareImage<'f>,
    pieces: Pieces,
}

impl<'f> Image<'f> {
    /// The firmware, and what it copies. Without Linux it runs its self-test.
    pub(crate) fn new(
        firmware: FirmwareImage<'f>,
        linux: Option<LinuxImage>,
        cmdline: &str,
    ) -> Result<Self, PlanningError> {
        let start = IMAGE_OFFSET + pages_len(firmware.bytes().len());
        Ok(Self { firmware, pieces: Pieces::new(linux, cmdline, start)? })
    }
}

/// The launch of `image` on a machine that `facts` describe, with guest-physical addresses of so many bits.
pub(crate) fn launch(image: &Image<'_>, facts: &Facts, address_bits: u32) -> Result<Launch<Unsigned>, PlanningError> {
    let Image { firmware, pieces } = image;
    // Offsets in staging: header and piece table, firmware, the pieces, and last the page tables, whose number depends
    // on the length of all the rest.
    let tables_offset = pieces.end;
    let len = tables_offset + tables_len(tables_offset);
    let staging = facts.ram.staging(ByteLen(len).pages_up(), address_bits)?.gpa().0;
    let slot = Slot { gpa: staging, len, image_offset: IMAGE_OFFSET };

    let entry = u64::from(firmware.header().entry_staged64);
    let boot = VcpuState {
        rip: staging + IMAGE_OFFSET + entry,
        rdi: staging,
        cr3: Gpa(staging + tables_offset),
        cr0: cr0(),
        cr4: Cr4::CR4_ENABLE_PAE.bits() as u64,
        efer: EFER_LONG_MODE,
        ..VcpuState::LONG_MODE
    };
    // The others wait for INIT and SIPI, which put them into real mode.
    let vcpus = Vcpus { count: facts.vcpus, boot, application: None };
    let mut plan = Plan::new(facts.ram, vcpus);
    let mut stage = |label, offset, bytes: Vec<u8>| {
        plan.push(region(label, PageKind::Staged, staging + offset, Contents::new(bytes))?)?;
        Ok::<(), PlanningError>(())
    };
    stage("staging header and piece table", 0, pieces.header(facts, slot))?;
    stage("firmware", IMAGE_OFFSET, firmware.bytes().to_vec())?;
    stage("page tables for the firmware's start", tables_offset, page_tables(staging, tables_offset, len))?;
    pieces.push_to(&mut plan, slot)?;
    Ok(Launch { plan, identity: Unsigned })
}

fn cr0() -> u64 {
    let flags = Cr0::CR0_PROTECTED_MODE
        | Cr0::CR0_MONITOR_COPROCESSOR
        | Cr0::CR0_EXTENSION_TYPE
        | Cr0::CR0_NUMERIC_ERROR
        | Cr0::CR0_WRITE_PROTECT
        | Cr0::CR0_ENABLE_PAGING;
    flags.bits() as u64
}

/// Tables of the first level below the PML4: for the first 512 GiB, and for where staging starts and ends.
const PDPTS: u64 = 3;

/// Bytes of the page tables when `before` bytes of staging precede them. Only those are mapped: nobody reads the
/// tables themselves through them.
fn tables_len(before: u64) -> u64 {
    // PML4, PDPTs, page directories for 4 GiB, and one for each gigabyte of staging.
    (1 + PDPTS + 4 + before.div_ceil(SIZE_1G)) * PAGE_SIZE
}

/// Identity-maps the first 4 GiB and the first `offset` bytes of the staging slot, with 2 MiB pages.
fn page_tables(staging: u64, offset: u64, staging_len: u64) -> Vec<u8> {
    const ENTRIES: usize = 512;
    const SIZE_512G: u64 = 512 * SIZE_1G;
    let base = staging + offset;
    let mut tables = vec![0u64; usize::try_from(staging_len - offset).unwrap_or(0) / 8];
    let address_of = |table: usize| base + table as u64 * PAGE_SIZE;
    let entry_for = |address: u64, size: u64| usize::try_from(address / size % ENTRIES as u64).unwrap_or(0);
    let roots = [0, staging, staging + offset - 1].map(|address| entry_for(address, SIZE_512G));
    let first_directory = 1 + roots.len();
    let gigabytes = (0..4).chain((0..offset.div_ceil(SIZE_1G)).map(|n| staging / SIZE_1G + n));
    for (directory, start) in (first_directory..).zip(gigabytes.map(|n| n * SIZE_1G)) {
        let root = entry_for(start, SIZE_512G);
        let pdpt = 1 + roots.iter().position(|other| *other == root).unwrap_or(0);
        tables[root] = address_of(pdpt) | TABLE;
        tables[pdpt * ENTRIES + entry_for(start, SIZE_1G)] = address_of(directory) | TABLE;
        for entry in 0..ENTRIES {
            tables[directory * ENTRIES + entry] = (start + entry as u64 * SIZE_2M) | PAGE_2M;
        }
    }
    tables.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks 2 MiB mappings as the CPU does.
    fn translate(tables: &[u8], base: u64, address: u64) -> Option<u64> {
        let entry = |table: u64, index: u64| {
            let at = usize::try_from(table - base + index % 512 * 8).unwrap();
            u64::from_le_bytes(tables[at..at + 8].try_into().unwrap())
        };
        let mut table = base;
        for shift in [39, 30] {
            let next = entry(table, address >> shift);
            if next & 1 == 0 {
                return None;
            }
            table = next & !0xfff;
        }
        let page = entry(table, address >> 21);
        (page & 0x81 == 0x81).then_some((page & !(SIZE_2M - 1)) + address % SIZE_2M)
    }

    /// one-launch: the firmware finds itself and its pieces where the plan says, however large the guest is.
    #[test]
    fn one_launch_start_tables_map_low_memory_and_staging() {
        for (staging, before) in [(4 * SIZE_1G, 3 << 20), (511 * SIZE_1G, 2 * SIZE_1G), (4096 * SIZE_1G, 70 << 20)] {
            let tables = page_tables(staging, before, before + tables_len(before));
            let base = staging + before;
            for address in [0, 0x10_0000, 4 * SIZE_1G - 1, staging, staging + before - 1] {
                assert_eq!(translate(&tables, base, address), Some(address), "{address:#x} with staging {staging:#x}");
            }
            // What lies between is not mapped.
            if let Some(between) = staging.checked_sub(SIZE_1G).filter(|between| *between > 4 * SIZE_1G) {
                assert_eq!(translate(&tables, base, between), None);
            }
        }
    }
}
