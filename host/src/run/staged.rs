//! What is staged for the firmware to copy, and what it is told: for technologies whose firmware is ours.
//!
//! Owns the pieces, their places in the staging slot, and the header that names them; `guest_fw::abi` is the format.
//! Where the header itself goes, and what else is launched, is each technology's own ([`super::sw`], [`super::snp`]).

use gmem::address::AddressError;
use gmem::launch::{Contents, PageKind, Plan, PlanError, PlannedRegion};
use gmem::layout::{self, LayoutError, RamLayout};
use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE};
use guest_fw::abi::{self, Piece, PieceKind, StagingHeader};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::linux::LinuxImage;

/// Offset of the piece table from the header.
const PIECES_OFFSET: u64 = 0x100;

/// What the firmware is told of its machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// One of `abi`'s `TEE_*`.
    pub tee: u32,
    pub ram: RamLayout,
    pub vcpus: u32,
    pub tsc_khz: u32,
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
    /// The launch of an SNP guest.
    #[error(transparent)]
    Snp(#[from] snp::plan::PlanningError),
    /// Address arithmetic failed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// More things to stage than the format can list.
    #[error("{0} pieces to stage, at most {max}", max = abi::PIECES_MAX)]
    TooManyPieces(usize),
}

/// Something for the firmware to copy.
#[derive(Debug)]
struct Load {
    kind: PieceKind,
    label: &'static str,
    gpa: u64,
    contents: Contents,
}

/// What is staged, laid out and hashed.
#[derive(Debug)]
pub(crate) struct Pieces {
    payload: u32,
    loads: Vec<Load>,
    table: Vec<Piece>,
    /// First offset in staging after them, in whole pages.
    pub end: u64,
}

/// Where things are in a staging slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub gpa: u64,
    pub len: u64,
    /// Offset of the firmware's image.
    pub image_offset: u64,
}

impl Pieces {
    /// What `linux` and `cmdline` make for the firmware to copy, from this offset in staging on.
    pub(crate) fn new(linux: Option<LinuxImage>, cmdline: &str, start: u64) -> Result<Self, PlanningError> {
        let payload = if linux.is_some() { abi::PAYLOAD_LINUX } else { abi::PAYLOAD_SELF_TEST };
        let loads = loads(linux, cmdline);
        if u32::try_from(loads.len()).is_ok_and(|count| count > abi::PIECES_MAX) {
            return Err(PlanningError::TooManyPieces(loads.len()));
        }
        let (mut table, mut end) = (Vec::new(), start);
        for load in &loads {
            table.push(Piece {
                kind: load.kind as u32,
                reserved: 0,
                src_offset: end,
                dst_gpa: load.gpa,
                len: load.contents.bytes().len() as u64,
                sha256: Sha256::digest(load.contents.bytes()).into(),
            });
            end += pages_len(load.contents.bytes().len());
        }
        Ok(Self { payload, loads, table, end })
    }

    /// Header and piece table, as the firmware reads them.
    pub(crate) fn header(&self, guest: &Facts, slot: Slot) -> Vec<u8> {
        let header = StagingHeader {
            magic: abi::STAGING_MAGIC,
            version: abi::ABI_VERSION,
            tee: guest.tee,
            staging_gpa: slot.gpa,
            staging_len: slot.len,
            image_offset: slot.image_offset,
            ram_low_len: bytes_of(guest.ram.low()),
            ram_high_len: guest.ram.high().map_or(0, bytes_of),
            pieces_offset: PIECES_OFFSET,
            // No more than `PIECES_MAX`.
            piece_count: u32::try_from(self.table.len()).unwrap_or(0),
            vcpus: guest.vcpus,
            tsc_khz: guest.tsc_khz,
            payload: self.payload,
            doorbell_port: layout::DOORBELL_PORT,
            serial_port: layout::SERIAL_PORT,
            pci_io_base: layout::PCI_IO_BASE,
            pci_io_len: layout::PCI_IO_LEN,
            pci_gsi: layout::PCI_GSI,
            flags: 0,
        };
        let mut page = header.as_bytes().to_vec();
        page.resize(usize::try_from(PIECES_OFFSET).unwrap_or(0), 0);
        page.extend_from_slice(self.table.as_bytes());
        page
    }

    /// Adds every piece to the plan: where it is staged, and where the firmware copies it.
    pub(crate) fn push_to(&self, plan: &mut Plan, slot: Slot) -> Result<(), PlanningError> {
        for (Load { label, contents, .. }, piece) in self.loads.iter().zip(&self.table) {
            plan.push(region(label, PageKind::Staged, slot.gpa + piece.src_offset, contents.clone())?)?;
            plan.push(region(label, PageKind::CopiedByGuest, piece.dst_gpa, contents.clone())?)?;
        }
        Ok(())
    }
}

fn loads(linux: Option<LinuxImage>, cmdline: &str) -> Vec<Load> {
    let mut loads = Vec::new();
    let mut add = |kind, gpa, bytes: Vec<u8>| {
        if !bytes.is_empty() {
            loads.push(Load { kind, label: label(kind), gpa, contents: Contents::new(bytes) });
        }
    };
    if let Some(linux) = linux {
        add(PieceKind::KernelSetup, abi::SETUP_COPY, linux.setup);
        add(PieceKind::KernelPayload, linux.payload_gpa, linux.payload);
        if let Some((bytes, gpa)) = linux.initrd {
            add(PieceKind::Initrd, gpa, bytes);
        }
    }
    add(PieceKind::Cmdline, abi::CMDLINE, cmdline.as_bytes().to_vec());
    loads
}

/// What a piece is called.
pub(crate) fn label(kind: PieceKind) -> &'static str {
    match kind {
        PieceKind::KernelSetup => "kernel setup",
        PieceKind::KernelPayload => "kernel",
        PieceKind::Initrd => "initrd",
        PieceKind::Cmdline => "command line",
    }
}

fn bytes_of(range: GfnRange) -> u64 {
    range.pages().get() * PAGE_SIZE
}

/// Bytes that so many take in whole pages.
pub(crate) fn pages_len(len: usize) -> u64 {
    (len as u64).next_multiple_of(PAGE_SIZE)
}

/// A region of as many pages as `contents` take.
pub(crate) fn region(label: &str, kind: PageKind, gpa: u64, contents: Contents) -> Result<PlannedRegion, AddressError> {
    let range = GfnRange::covering(Gpa(gpa), ByteLen(contents.bytes().len() as u64))?;
    Ok(PlannedRegion { range, kind, label: label.to_owned(), contents })
}
