//! The whole way from the first Rust instruction to the kernel's entry.
//!
//! Owns the order of steps; each step lives in a module of its own. The order is what makes it safe: copy the plan,
//! check the plan, map memory, copy what the plan lists, check that, and only then tell the VMM that staging can go.
//! After that nothing touches staging again, and it is no longer mapped.
#![expect(unsafe_code, reason = "turns checked addresses into memory")]

use crate::abi::{
    ACPI_BASE, ACPI_END, CMDLINE, CMDLINE_MAX, Doorbell, FLAG_QUIET, FW_BASE, FW_END, FirmwareFault, PAGE_SIZE,
    PAYLOAD_SELF_TEST, PIECES_MAX, Piece, StagingHeader, ZERO_PAGE,
};
use crate::bzimage::{Placement, SetupHeader};
use crate::descriptors::{CpuTables, GATES, Idt};
use crate::fault::{self, die};
use crate::memory::{bytes_mut, copy_in, copy_into, slice_mut};
use crate::paging::{Access, LargestPage, MapError, PageTables, Table};
use crate::range::GpaRange;
use crate::serial::{self, Verbosity, say};
use crate::staging::{self, Pieces, Place, Ram};
use crate::zero_page::BootParams;
use crate::{acpi, cpu, selftest};
use alloc::boxed::Box;
use sha2::{Digest, Sha256};
use zerocopy::{FromZeros, IntoBytes};

/// What the program half knows about itself: where the linker put things.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// Bytes copied from staging.
    pub len: u64,
    /// Code: executable, not writable.
    pub text: GpaRange,
    /// Constants: neither.
    pub rodata: GpaRange,
    /// Variables and heap, up to the guard page below the stack.
    pub data: GpaRange,
    /// The stacks, above the guard page; their end is the end of what the image occupies.
    pub stacks: GpaRange,
    /// End of the stack for faults.
    pub fault_stack_top: u64,
    /// Addresses of the handlers of exceptions and of the wake-up interrupt.
    pub handlers: [u64; GATES],
    /// What other processors run first, see [`selftest::smp`].
    pub trampoline: &'static [u8],
    /// Address of the function the trampoline calls.
    pub ap_entry: u64,
}

/// What one processor after the other needs from the first.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The staging header, checked.
    pub header: StagingHeader,
    /// All RAM.
    pub ram: Ram,
    /// Gates for exceptions.
    pub idt: &'static Idt,
    /// Value for CR3: all RAM, one to one.
    pub page_tables: u64,
}

/// From the entry code to the kernel or the self-test.
///
/// # Safety
///
/// Called once, by the entry code, in private memory: the image is where `image` says, and `staging_gpa` is the entry
/// register.
pub unsafe fn run(image: &Image, staging_gpa: u64) -> ! {
    // SAFETY: the handlers are the image's, the fault stack is reserved by its linker script.
    let idt = unsafe { load_descriptors(image) };
    // SAFETY: the entry code ran at that address, so its page tables map it.
    let (header, place, pieces) = unsafe { read_plan(image, staging_gpa) };

    let features = cpu::features();
    if !(features.x2apic && features.no_execute) {
        die(FirmwareFault::BadCpu, format_args!("CPU lacks x2APIC or no-execute: {features:?}"));
    }
    cpu::enable_x2apic();
    cpu::enable_page_protection();
    let largest = if features.gib_pages { LargestPage::OneGib } else { LargestPage::TwoMib };
    // SAFETY: the image is where it says; its own tables replace the ones in staging.
    let mut tables = unsafe { map_all(image, &place, largest) }
        .unwrap_or_else(|error| die(FirmwareFault::BadStaging, format_args!("{error}")));
    // SAFETY: everything the firmware uses is mapped where it is.
    unsafe { cpu::load_page_tables(tables.root()) };

    for piece in pieces.iter() {
        // SAFETY: checked to lie inside staging and, without overlap, in RAM that nothing else uses.
        unsafe { copy_in(place.staging.start() + piece.src_offset, piece.dst_gpa, piece.len) };
    }
    tables.unmap(place.staging).unwrap_or_else(|error| die(FirmwareFault::Crash, format_args!("{error}")));
    // SAFETY: as before; only staging is gone, and nothing refers to it.
    unsafe { cpu::load_page_tables(tables.root()) };
    check_hashes(&pieces);

    let machine = Machine { header, ram: place.ram, idt, page_tables: tables.root() };
    if header.payload == PAYLOAD_SELF_TEST {
        let cmdline = pieces.cmdline.map_or(GpaRange::between(CMDLINE, CMDLINE), |cmdline| cmdline.destination());
        fault::ring(Doorbell::StagingDone, 0);
        // SAFETY: a checked piece, or nothing.
        selftest::run(image, machine, unsafe { bytes_mut(cmdline) });
    }
    boot_linux(&machine, &pieces)
}

/// Loads segments and exception gates.
///
/// # Safety
///
/// As [`CpuTables::load`].
unsafe fn load_descriptors(image: &Image) -> &'static Idt {
    let idt = Box::leak(Box::new(Idt::new(&image.handlers)));
    let tables = Box::leak(Box::new(CpuTables::new(image.fault_stack_top)));
    // SAFETY: contract of this function.
    unsafe { tables.load(idt) };
    idt
}

/// Takes a private copy of header and piece table and checks it.
///
/// # Safety
///
/// Staging is mapped from `staging_gpa`, at least its first page.
unsafe fn read_plan(image: &Image, staging_gpa: u64) -> (StagingHeader, Place, Pieces) {
    let mut header = StagingHeader::new_zeroed();
    // SAFETY: the header is the first bytes of staging.
    unsafe { copy_into(staging_gpa, header.as_mut_bytes()) };
    // If it is a header at all, its doorbell is the best place to complain about the rest of it.
    if staging::check_format(&header).is_ok() {
        fault::configure(header.doorbell_port);
    }
    let place = staging::check_header(&header, staging_gpa, image.len)
        .unwrap_or_else(|error| die(FirmwareFault::BadStaging, format_args!("{error}")));
    let verbosity = if header.flags & FLAG_QUIET != 0 { Verbosity::Quiet } else { Verbosity::Normal };
    serial::configure(header.serial_port, verbosity);
    say(format_args!(
        "{} MiB of RAM, {} vCPUs, staging at {}",
        (place.ram.low.len() + place.ram.high.len()) >> 20,
        header.vcpus,
        place.staging
    ));

    let mut table: [Piece; PIECES_MAX as usize] = FromZeros::new_zeroed();
    let table = &mut table[..header.piece_count.min(PIECES_MAX) as usize];
    // SAFETY: the table was checked to lie inside staging.
    unsafe { copy_into(staging_gpa + header.pieces_offset, table.as_mut_bytes()) };
    let pieces = staging::check_pieces(&header, &place.ram, table)
        .unwrap_or_else(|error| die(FirmwareFault::BadPiece, format_args!("{error}")));
    (header, place, pieces)
}

/// Page tables for all RAM and, for now, staging, in the memory between image and [`FW_END`]. Page 0 and the guard
/// page below the stacks stay unmapped.
///
/// # Safety
///
/// That memory is unused, and the tables in use map it.
unsafe fn map_all(image: &Image, place: &Place, largest: LargestPage) -> Result<PageTables<'static>, MapError> {
    let free = GpaRange::between(image.stacks.end(), FW_END);
    // SAFETY: contract of this function; a table has no invalid values and the range is page aligned.
    let arena = unsafe { slice_mut::<Table>(free) };
    let mut tables = PageTables::new(arena, free.start(), largest)?;
    for (range, access) in [
        (GpaRange::between(PAGE_SIZE, FW_BASE), Access::All),
        (image.text, Access::ReadExecute),
        (image.rodata, Access::Read),
        (image.data, Access::ReadWrite),
        (image.stacks, Access::ReadWrite),
        (free, Access::ReadWrite),
        (GpaRange::between(FW_END, place.ram.low.end()), Access::All),
        (place.ram.high, Access::All),
        (place.staging, Access::Read),
    ] {
        tables.map(range, access)?;
    }
    Ok(tables)
}

/// Compares every private copy with the hash in the plan. This catches accidents only: the hashes, and this very
/// code, came from the host.
fn check_hashes(pieces: &Pieces) {
    let mut bytes = 0;
    for piece in pieces.iter() {
        // SAFETY: checked to be RAM that nothing else uses, mapped, and filled by the copy.
        let copy = unsafe { bytes_mut(piece.destination()) };
        if Sha256::digest(&*copy)[..] != piece.sha256 {
            die(
                FirmwareFault::BadHash,
                format_args!("SHA-256 of the piece at {} is not the one in the plan", piece.destination()),
            );
        }
        bytes += piece.len;
    }
    say(format_args!("{bytes} bytes copied, SHA-256 as planned (an integrity test, not a measurement)"));
}

/// Checks the kernel, writes what it needs to know, and enters it.
fn boot_linux(machine: &Machine, pieces: &Pieces) -> ! {
    let bad = |error: &dyn core::fmt::Display| -> ! { die(FirmwareFault::BadKernel, format_args!("{error}")) };
    let (Some(setup), Some(payload)) = (pieces.setup, pieces.payload) else {
        bad(&"the plan lacks the kernel's setup or payload")
    };
    let place = Placement {
        payload: payload.destination(),
        initrd: pieces.initrd.map(|initrd| initrd.destination()),
        cmdline_len: pieces.cmdline.map_or(0, |cmdline| cmdline.len),
    };
    // SAFETY: a checked piece, see check_hashes.
    let setup = SetupHeader::parse(unsafe { bytes_mut(setup.destination()) }).unwrap_or_else(|error| bad(&error));
    let entry = setup.check_placement(&place, &machine.ram).unwrap_or_else(|error| bad(&error));
    terminate_cmdline(place.cmdline_len);

    let tables = acpi::build(&(&machine.header).into(), ACPI_BASE_32).unwrap_or_else(|error| bad(&error));
    // SAFETY: low RAM the ABI reserves for this, claimed by no piece.
    let acpi_memory = unsafe { bytes_mut(GpaRange::between(ACPI_BASE, ACPI_END)) };
    acpi_memory[..tables.len()].copy_from_slice(&tables);
    let params = BootParams::new(&setup, &place, &machine.ram);
    // SAFETY: low RAM the ABI reserves for this, claimed by no piece.
    let zero_page = unsafe { bytes_mut(GpaRange::between(ZERO_PAGE, ZERO_PAGE + PAGE_SIZE)) };
    zero_page.copy_from_slice(params.as_bytes());

    say(format_args!("entering Linux at {entry:#x}"));
    fault::ring(Doorbell::StagingDone, 0);
    // SAFETY: kernel and zero page are complete and checked, all RAM is mapped one to one.
    unsafe { cpu::enter_linux(entry, ZERO_PAGE) }
}

/// [`ACPI_BASE`] as tables name addresses.
#[expect(clippy::cast_possible_truncation, reason = "below 1 MiB")]
const ACPI_BASE_32: u32 = ACPI_BASE as u32;

/// Ends the command line with NUL. Private memory starts out zero, but nothing here relies on it.
fn terminate_cmdline(len: u64) {
    let cmdline = GpaRange::between(CMDLINE, CMDLINE + CMDLINE_MAX + 1);
    // SAFETY: low RAM the ABI reserves for this.
    let cmdline = unsafe { bytes_mut(cmdline) };
    if let Some(rest) = usize::try_from(len).ok().and_then(|len| cmdline.get_mut(len..)) {
        rest.fill(0);
    }
}
