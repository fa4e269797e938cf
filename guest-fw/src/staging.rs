//! Checks the staging header and the piece table before a byte of them is used (law 8, no-silent-trust).
//!
//! Works on copies taken into private memory once: the host can change staging at any time, so what was checked must
//! be what is used. Specification: [`crate::abi`].

use crate::abi::{
    ABI_VERSION, CMDLINE, CMDLINE_MAX, FLAG_QUIET, FW_BASE, FW_END, PAGE_SIZE, PAYLOAD_LINUX, PAYLOAD_SELF_TEST,
    PCI_ADDRESS_PORT, PIECES_MAX, PM1A_CONTROL_PORT, PM1A_EVENT_PORT, Piece, PieceKind, RESET_PORT, SETUP_COPY,
    SETUP_MAX, STAGING_MAGIC, StagingHeader, TEE_NONE, TEE_SW, VCPUS_MAX,
};
use crate::range::GpaRange;
use core::mem::{align_of, size_of};

/// Least RAM from address 0: the firmware itself and what it puts below 1 MiB.
pub const RAM_LOW_MIN: u64 = FW_END;
/// RAM from address 0 ends at or below the first fixed address of a PC's chips (the I/O APIC).
pub const RAM_LOW_MAX: u64 = 0xfec0_0000;
/// Where RAM resumes.
pub const FOUR_GIB: u64 = 1 << 32;
/// End of what four-level page tables can map one to one: the lower canonical half.
pub const ADDRESS_MAX: u64 = 1 << 47;

/// What is wrong with the staging header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a staging header at all.
    #[error("staging magic {0:#x}, expected {STAGING_MAGIC:#x}")]
    Magic(u64),
    /// Written by a VMM of another time.
    #[error("staging format version {0}, expected {ABI_VERSION}")]
    Version(u32),
    /// Not where the entry register said it is.
    #[error("staging_gpa {field:#x}, but the entry register holds {register:#x}")]
    Address {
        /// Of the header.
        field: u64,
        /// RDI at entry.
        register: u64,
    },
    /// A field holds a value it must not.
    #[error("{field} is {value:#x}, which is {why}")]
    Field {
        /// Its name in [`StagingHeader`].
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What is wrong with that.
        why: &'static str,
    },
    /// Staging and RAM overlap, or staging reaches beyond what can be mapped.
    #[error("staging {0} must lie between the end of RAM and {ADDRESS_MAX:#x}")]
    Place(GpaRange),
    /// The piece table or the image is not inside staging.
    #[error("{what} at offset {offset:#x}, {len:#x} bytes, is not inside {staging_len:#x} bytes of staging")]
    Outside {
        /// Which of them.
        what: &'static str,
        /// Where it says it starts.
        offset: u64,
        /// How long it says it is.
        len: u64,
        /// Size of staging.
        staging_len: u64,
    },
}

/// Where RAM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ram {
    /// RAM from address 0.
    pub low: GpaRange,
    /// RAM from 4 GiB; empty if none.
    pub high: GpaRange,
}

impl Ram {
    /// Whether all of `range` is RAM.
    pub fn contains(&self, range: GpaRange) -> bool {
        self.low.contains(range) || self.high.contains(range)
    }

    /// Both runs of RAM, the second perhaps empty.
    pub const fn ranges(&self) -> [GpaRange; 2] {
        [self.low, self.high]
    }

    /// First address after all RAM.
    pub fn end(&self) -> u64 {
        if self.high.is_empty() { self.low.end() } else { self.high.end() }
    }
}

/// What a checked staging header says about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The staging slot.
    pub staging: GpaRange,
    /// All RAM.
    pub ram: Ram,
}

/// Checks every field of a header found at `register` (RDI at entry), for an image of `image_len` bytes.
pub fn check_header(header: &StagingHeader, register: u64, image_len: u64) -> Result<Place, HeaderError> {
    check_format(header)?;
    if header.staging_gpa != register {
        return Err(HeaderError::Address { field: header.staging_gpa, register });
    }
    let place = check_memory(header)?;
    check_choices(header)?;
    check_ports(header)?;

    let table_len = u64::from(header.piece_count) * size_of::<Piece>() as u64;
    inside(header, "piece table", header.pieces_offset, table_len)?;
    aligned("pieces_offset", header.pieces_offset, align_of::<Piece>() as u64)?;
    inside(header, "image", header.image_offset, image_len)?;
    Ok(place)
}

/// Checks that there is a header of this format, and nothing else about it.
pub fn check_format(header: &StagingHeader) -> Result<(), HeaderError> {
    if header.magic != STAGING_MAGIC {
        return Err(HeaderError::Magic(header.magic));
    }
    if header.version != ABI_VERSION {
        return Err(HeaderError::Version(header.version));
    }
    Ok(())
}

fn check_memory(header: &StagingHeader) -> Result<Place, HeaderError> {
    let low = header.ram_low_len;
    let field = |field, value, why| Err(HeaderError::Field { field, value, why });
    for (name, value) in [
        ("staging_gpa", header.staging_gpa),
        ("staging_len", header.staging_len),
        ("ram_low_len", low),
        ("ram_high_len", header.ram_high_len),
    ] {
        aligned(name, value, PAGE_SIZE)?;
    }
    if low < RAM_LOW_MIN {
        return field("ram_low_len", low, "too little for the firmware");
    }
    if low > RAM_LOW_MAX {
        return field("ram_low_len", low, "beyond the start of the 32-bit hole");
    }
    if header.staging_len == 0 {
        return field("staging_len", 0, "empty");
    }
    if header.ram_high_len > ADDRESS_MAX - FOUR_GIB {
        return field("ram_high_len", header.ram_high_len, "more than can be mapped");
    }
    let ram = Ram { low: GpaRange::between(0, low), high: GpaRange::between(FOUR_GIB, FOUR_GIB + header.ram_high_len) };
    // Above 4 GiB, so that it is never in the way of anything a PC has below.
    let lowest = ram.end().max(FOUR_GIB);
    let whole = GpaRange::between(header.staging_gpa, u64::MAX);
    let staging = GpaRange::new(header.staging_gpa, header.staging_len).ok_or(HeaderError::Place(whole))?;
    if staging.start() < lowest || staging.end() > ADDRESS_MAX {
        return Err(HeaderError::Place(staging));
    }
    Ok(Place { staging, ram })
}

fn check_choices(header: &StagingHeader) -> Result<(), HeaderError> {
    let field = |field, value: u32, why| Err(HeaderError::Field { field, value: u64::from(value), why });
    if !matches!(header.tee, TEE_SW | TEE_NONE) {
        return field("tee", header.tee, "unknown");
    }
    if header.vcpus == 0 || header.vcpus > VCPUS_MAX {
        return field("vcpus", header.vcpus, "not between 1 and 255");
    }
    if header.tsc_khz == 0 {
        return field("tsc_khz", 0, "not a frequency");
    }
    if !matches!(header.payload, PAYLOAD_LINUX | PAYLOAD_SELF_TEST) {
        return field("payload", header.payload, "unknown");
    }
    if header.flags & !FLAG_QUIET != 0 {
        return field("flags", header.flags, "more than the known flags");
    }
    if header.piece_count > PIECES_MAX {
        return field("piece_count", header.piece_count, "more than 16");
    }
    // The PIC's lines that are free on a PC: not the timer, the cascade, the serial port or the SCI.
    if !matches!(header.pci_gsi, 3 | 5..=7 | 10..=12 | 14 | 15) {
        return field("pci_gsi", header.pci_gsi, "not a free line of the PIC");
    }
    Ok(())
}

/// No two things share an I/O port.
fn check_ports(header: &StagingHeader) -> Result<(), HeaderError> {
    let window = ("pci_io_base", header.pci_io_base, header.pci_io_len);
    let ports = [
        window,
        ("doorbell_port", header.doorbell_port, 4),
        ("serial_port", header.serial_port, 8),
        ("PM1a event port", PM1A_EVENT_PORT, 4),
        ("PM1a control port", PM1A_CONTROL_PORT, 2),
        ("reset port", RESET_PORT, 1),
        ("PCI configuration ports", PCI_ADDRESS_PORT, 1),
        ("PCI configuration data ports", PCI_ADDRESS_PORT + 4, 4),
    ];
    let range = |base: u16, len: u16| GpaRange::between(u64::from(base), u64::from(base) + u64::from(len));
    for (index, &(field, base, len)) in ports.iter().enumerate() {
        let error = |why| Err(HeaderError::Field { field, value: u64::from(base), why });
        if range(base, len).end() > 1 << 16 {
            return error("beyond the last I/O port");
        }
        if ports[index + 1..].iter().any(|&(_, other, other_len)| range(base, len).overlaps(range(other, other_len))) {
            return error("in the way of another port");
        }
    }
    Ok(())
}

fn aligned(field: &'static str, value: u64, unit: u64) -> Result<(), HeaderError> {
    if value.is_multiple_of(unit) { Ok(()) } else { Err(HeaderError::Field { field, value, why: "not aligned" }) }
}

fn inside(header: &StagingHeader, what: &'static str, offset: u64, len: u64) -> Result<(), HeaderError> {
    match offset.checked_add(len) {
        Some(end) if end <= header.staging_len => Ok(()),
        _ => Err(HeaderError::Outside { what, offset, len, staging_len: header.staging_len }),
    }
}

/// What is wrong with a piece, by its position in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("piece {index}: {problem}")]
pub struct PieceError {
    /// Position in the piece table.
    pub index: usize,
    /// What is wrong.
    pub problem: PieceProblem,
}

/// What can be wrong with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceProblem {
    /// A kind this firmware does not know.
    #[error("kind {0} is unknown")]
    Kind(u32),
    /// A kind this payload has no use for.
    #[error("kind {0:?} does not belong to this payload")]
    Unwanted(PieceKind),
    /// The same kind twice.
    #[error("kind {0:?} appears twice")]
    Repeated(PieceKind),
    /// A field that must be zero is not.
    #[error("reserved field is {0:#x}")]
    Reserved(u32),
    /// The source is not inside staging.
    #[error("source offset {offset:#x}, {len:#x} bytes, is not inside staging or not page aligned")]
    Source {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        len: u64,
    },
    /// The length is not acceptable for this kind.
    #[error("length {0:#x} is zero or too long")]
    Length(u64),
    /// The destination is not the one the kind prescribes, not aligned, not RAM, or taken.
    #[error("destination {gpa:#x}, {len:#x} bytes, is {why}")]
    Destination {
        /// Where it goes.
        gpa: u64,
        /// How long it is.
        len: u64,
        /// What is wrong with that.
        why: &'static str,
    },
}

/// The pieces a checked table lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pieces {
    /// Setup sectors of a bzImage.
    pub setup: Option<Piece>,
    /// Protected-mode kernel.
    pub payload: Option<Piece>,
    /// Initial RAM disk.
    pub initrd: Option<Piece>,
    /// Command line.
    pub cmdline: Option<Piece>,
}

impl Pieces {
    /// All pieces there are.
    pub fn iter(&self) -> impl Iterator<Item = &Piece> {
        [&self.setup, &self.payload, &self.initrd, &self.cmdline].into_iter().flatten()
    }
}

impl Piece {
    /// Where the piece goes. Only meaningful for a checked piece; an unchecked one may give an empty range.
    pub fn destination(&self) -> GpaRange {
        GpaRange::new(self.dst_gpa, self.len).unwrap_or(GpaRange::between(0, 0))
    }
}

/// Checks the piece table of a checked header.
pub fn check_pieces(header: &StagingHeader, ram: &Ram, table: &[Piece]) -> Result<Pieces, PieceError> {
    let mut pieces = Pieces::default();
    for (index, piece) in table.iter().enumerate() {
        let at = |problem| PieceError { index, problem };
        let kind = check_piece(header, ram, piece).map_err(at)?;
        if pieces.iter().any(|other| other.destination().overlaps(piece.destination())) {
            return Err(at(destination(piece, "taken by another piece")));
        }
        let slot = match kind {
            PieceKind::KernelSetup => &mut pieces.setup,
            PieceKind::KernelPayload => &mut pieces.payload,
            PieceKind::Initrd => &mut pieces.initrd,
            PieceKind::Cmdline => &mut pieces.cmdline,
        };
        if slot.replace(*piece).is_some() {
            return Err(at(PieceProblem::Repeated(kind)));
        }
    }
    Ok(pieces)
}

fn check_piece(header: &StagingHeader, ram: &Ram, piece: &Piece) -> Result<PieceKind, PieceProblem> {
    let kind = PieceKind::from_raw(piece.kind).ok_or(PieceProblem::Kind(piece.kind))?;
    if header.payload == PAYLOAD_SELF_TEST && kind != PieceKind::Cmdline {
        return Err(PieceProblem::Unwanted(kind));
    }
    if piece.reserved != 0 {
        return Err(PieceProblem::Reserved(piece.reserved));
    }
    let source = GpaRange::new(piece.src_offset, piece.len);
    if !piece.src_offset.is_multiple_of(PAGE_SIZE) || source.is_none_or(|source| source.end() > header.staging_len) {
        return Err(PieceProblem::Source { offset: piece.src_offset, len: piece.len });
    }
    match kind {
        PieceKind::KernelSetup => fixed(piece, SETUP_COPY, 1..=SETUP_MAX)?,
        // An empty command line is a command line.
        PieceKind::Cmdline => fixed(piece, CMDLINE, 0..=CMDLINE_MAX)?,
        PieceKind::KernelPayload | PieceKind::Initrd => free(ram, piece)?,
    }
    Ok(kind)
}

fn fixed(piece: &Piece, gpa: u64, len: core::ops::RangeInclusive<u64>) -> Result<(), PieceProblem> {
    if !len.contains(&piece.len) {
        return Err(PieceProblem::Length(piece.len));
    }
    if piece.dst_gpa != gpa {
        return Err(destination(piece, "not the place of its kind"));
    }
    Ok(())
}

fn free(ram: &Ram, piece: &Piece) -> Result<(), PieceProblem> {
    if piece.len == 0 {
        return Err(PieceProblem::Length(0));
    }
    let Some(target) = GpaRange::new(piece.dst_gpa, piece.len) else {
        return Err(destination(piece, "beyond 64 bits"));
    };
    if !piece.dst_gpa.is_multiple_of(PAGE_SIZE) {
        return Err(destination(piece, "not page aligned"));
    }
    if !ram.contains(target) {
        return Err(destination(piece, "not RAM"));
    }
    // Everything the firmware claims for itself, Linux or a PC's history lies below FW_END.
    if target.overlaps(GpaRange::between(0, FW_BASE)) {
        return Err(destination(piece, "in the first MiB"));
    }
    if target.overlaps(GpaRange::between(FW_BASE, FW_END)) {
        return Err(destination(piece, "the firmware's own place"));
    }
    Ok(())
}

fn destination(piece: &Piece, why: &'static str) -> PieceProblem {
    PieceProblem::Destination { gpa: piece.dst_gpa, len: piece.len, why }
}

#[cfg(test)]
mod tests;
