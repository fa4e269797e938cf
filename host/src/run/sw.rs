//! The launch of a guest whose firmware starts in staging: technologies `sw` and `none`.
//!
//! Owns the [`Launch`] for them: what lies in the staging slot and what the firmware copies from there into RAM. The
//! host cannot write private memory, so the guest's own first code does; see `guest_fw::abi` for the format and
//! `ARCHITECTURE.md`, law *one-launch*.

use gmem::address::AddressError;
use gmem::launch::{Contents, Launch, PageKind, Plan, PlanError, PlannedRegion, Unsigned, Vcpus};
use gmem::layout::{self, LayoutError, RamLayout};
use gmem::vcpu::VcpuState;
use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE};
use guest_fw::abi::{self, Piece, PieceKind, StagingHeader};
use sha2::{Digest, Sha256};
use x86::controlregs::{Cr0, Cr4};
use zerocopy::IntoBytes;

use super::linux::LinuxImage;
use crate::firmware::FirmwareImage;

/// `EFER.LME` and `EFER.LMA` (AMD APM volume 2, section 3.1.7): in 64-bit mode.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Present, writable.
const TABLE: u64 = 0b11;
/// Present, writable, accessed, dirty, 2 MiB.
const PAGE_2M: u64 = 0b1110_0011;
const SIZE_2M: u64 = 2 << 20;
const SIZE_1G: u64 = 1 << 30;
/// Offset of the piece table in the staging slot's first page.
const PIECES_OFFSET: u64 = 0x100;

/// Everything that decides what is launched.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub tee: u32,
    pub ram: RamLayout,
    pub vcpus: u32,
    /// Width of a guest-physical address in bits.
    pub address_bits: u32,
    pub tsc_khz: u32,
    pub firmware: &'a FirmwareImage<'a>,
    /// Without it, the firmware runs its self-test.
    pub linux: Option<LinuxImage>,
    pub cmdline: String,
}

/// Why there is no such launch.
#[derive(Debug, thiserror::Error)]
pub enum PlanningError {
    /// The layout has no room.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Something doesn't fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Address arithmetic failed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// More things to stage than the format can list.
    #[error("{0} pieces to stage, at most {max}", max = abi::PIECES_MAX)]
    TooManyPieces(usize),
}

/// Something for the firmware to copy.
struct Load {
    kind: PieceKind,
    label: &'static str,
    gpa: u64,
    bytes: Vec<u8>,
}

/// The launch of `guest`.
pub(crate) fn launch(guest: Guest<'_>) -> Result<Launch<Unsigned>, PlanningError> {
    let payload = if guest.linux.is_some() { abi::PAYLOAD_LINUX } else { abi::PAYLOAD_SELF_TEST };
    let loads = loads(guest.linux, &guest.cmdline);
    let count = u32::try_from(loads.len()).ok().filter(|count| *count <= abi::PIECES_MAX);
    let piece_count = count.ok_or(PlanningError::TooManyPieces(loads.len()))?;

    // Offsets in staging: header and piece table, firmware, the pieces, and last the page tables, whose number depends
    // on the length of all the rest.
    let image_offset = PAGE_SIZE;
    let mut offset = image_offset + pages_len(guest.firmware.bytes().len());
    let mut pieces = Vec::new();
    for load in &loads {
        pieces.push(Piece {
            kind: load.kind as u32,
            reserved: 0,
            src_offset: offset,
            dst_gpa: load.gpa,
            len: load.bytes.len() as u64,
            sha256: Sha256::digest(&load.bytes).into(),
        });
        offset += pages_len(load.bytes.len());
    }
    let tables_offset = offset;
    let staging_len = tables_offset + tables_len(tables_offset);
    let staging = guest.ram.staging(ByteLen(staging_len).pages_up(), guest.address_bits)?.gpa().0;

    let header = StagingHeader {
        magic: abi::STAGING_MAGIC,
        version: abi::ABI_VERSION,
        tee: guest.tee,
        staging_gpa: staging,
        staging_len,
        image_offset,
        ram_low_len: bytes_of(guest.ram.low()),
        ram_high_len: guest.ram.high().map_or(0, bytes_of),
        pieces_offset: PIECES_OFFSET,
        piece_count,
        vcpus: guest.vcpus,
        tsc_khz: guest.tsc_khz,
        payload,
        doorbell_port: layout::DOORBELL_PORT,
        serial_port: layout::SERIAL_PORT,
        pci_io_base: layout::PCI_IO_BASE,
        pci_io_len: layout::PCI_IO_LEN,
        pci_gsi: layout::PCI_GSI,
        flags: 0,
    };
    let entry = u64::from(guest.firmware.header().entry_staged64);
    let boot = VcpuState {
        rip: staging + image_offset + entry,
        rdi: staging,
        cr3: Gpa(staging + tables_offset),
        cr0: cr0(),
        cr4: Cr4::CR4_ENABLE_PAE.bits() as u64,
        efer: EFER_LONG_MODE,
        ..VcpuState::LONG_MODE
    };
    // The others wait for INIT and SIPI, which put them into real mode.
    let vcpus = Vcpus { count: guest.vcpus, boot, application: None };
    let mut plan = Plan::new(guest.ram, vcpus);
    let first_page = first_page(&header, &pieces);
    plan.push(region("staging header and piece table", PageKind::Staged, staging, first_page)?)?;
    let firmware = Contents::new(guest.firmware.bytes());
    plan.push(shared_region("firmware", PageKind::Staged, staging + image_offset, firmware)?)?;
    for (load, piece) in loads.into_iter().zip(&pieces) {
        let contents = Contents::new(load.bytes);
        plan.push(shared_region(load.label, PageKind::Staged, staging + piece.src_offset, contents.clone())?)?;
        plan.push(shared_region(load.label, PageKind::CopiedByGuest, piece.dst_gpa, contents)?)?;
    }
    let tables = page_tables(staging, tables_offset, staging_len);
    plan.push(region("page tables for the firmware's start", PageKind::Staged, staging + tables_offset, tables)?)?;
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

fn loads(linux: Option<LinuxImage>, cmdline: &str) -> Vec<Load> {
    let mut loads = Vec::new();
    let mut add = |kind, label, gpa, bytes: Vec<u8>| {
        if !bytes.is_empty() {
            loads.push(Load { kind, label, gpa, bytes });
        }
    };
    if let Some(linux) = linux {
        add(PieceKind::KernelSetup, "kernel setup", abi::SETUP_COPY, linux.setup);
        add(PieceKind::KernelPayload, "kernel", linux.payload_gpa, linux.payload);
        if let Some((bytes, gpa)) = linux.initrd {
            add(PieceKind::Initrd, "initrd", gpa, bytes);
        }
    }
    add(PieceKind::Cmdline, "command line", abi::CMDLINE, cmdline.as_bytes().to_vec());
    loads
}

fn bytes_of(range: GfnRange) -> u64 {
    range.pages().get() * PAGE_SIZE
}

fn pages_len(len: usize) -> u64 {
    (len as u64).next_multiple_of(PAGE_SIZE)
}

fn first_page(header: &StagingHeader, pieces: &[Piece]) -> Vec<u8> {
    let mut page = header.as_bytes().to_vec();
    page.resize(usize::try_from(PIECES_OFFSET).unwrap_or(0), 0);
    page.extend_from_slice(pieces.as_bytes());
    page
}

fn region(label: &str, kind: PageKind, gpa: u64, bytes: Vec<u8>) -> Result<PlannedRegion, AddressError> {
    shared_region(label, kind, gpa, Contents::new(bytes))
}

fn shared_region(label: &str, kind: PageKind, gpa: u64, contents: Contents) -> Result<PlannedRegion, AddressError> {
    let range = GfnRange::covering(Gpa(gpa), ByteLen(contents.bytes().len() as u64))?;
    Ok(PlannedRegion { range, kind, label: label.to_owned(), contents })
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
