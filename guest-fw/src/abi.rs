//! What the VMM and the firmware tell each other under `sw` and `none`.
//!
//! Owns the layout of the staging slot, the image header, the addresses the firmware claims in private memory, and the
//! doorbell's commands. This is our own format: no specification but this file. Little endian, all sizes in bytes.
//!
//! The staging slot is ordinary shared memory above the end of RAM. Its first page is a [`StagingHeader`], followed by
//! `piece_count` [`Piece`]s at `pieces_offset`. vCPU 0 starts in 64-bit mode at the entry named by the image's
//! [`ImageHeader`], with `RDI` = guest-physical address of the staging slot, interrupts off, and page tables (in
//! staging) that map the first 4 GiB and the staging slot one to one. All other vCPUs wait for INIT/SIPI.

use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in a page, the unit of ownership.
pub const PAGE_SIZE: u64 = 4096;

/// Where the firmware lives in private memory: the image is linked at this guest-physical address.
pub const FW_BASE: u64 = 0x10_0000;
/// End (exclusive) of what image, `.bss` and stacks may use.
pub const FW_END: u64 = 0x40_0000;
/// The zero page (`boot_params`) handed to Linux.
pub const ZERO_PAGE: u64 = 0x7000;
/// Trampoline page of application processors for the self-test (a SIPI vector, so below 1 MiB).
pub const AP_TRAMPOLINE: u64 = 0x8000;
/// Where SNP's firmware puts the guest's keys.
pub const SNP_SECRETS: u64 = 0xa000;
/// Where SNP's firmware puts the CPUID values it has checked.
pub const SNP_CPUID: u64 = 0xb000;
/// Where the staging header and the piece table are under SNP: private and measured, so that what they say of
/// staging, by SHA-256, holds.
pub const SNP_PARAMETERS: u64 = 0xc000;
/// Reason code set of this firmware's requests to be terminated (GHCB specification 56421, 2.3.1), which are vendors'
/// own from 1 on.
pub const TERMINATION_SET: u8 = 0xf;
/// Reason code: this firmware cannot be started under SNP yet.
pub const TERMINATION_NOT_BUILT: u8 = 1;
/// The command line handed to Linux, NUL terminated; room for [`CMDLINE_MAX`] bytes.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line, without the NUL. Linux's x86 limit (`COMMAND_LINE_SIZE` 2048) less the NUL; the kernel's own
/// limit in its setup header applies as well.
pub const CMDLINE_MAX: u64 = 2047;
/// Scratch copy of the kernel's setup sectors (at most 64 sectors), checked before its header is believed.
pub const SETUP_COPY: u64 = 0x3_0000;
/// Longest [`PieceKind::KernelSetup`].
pub const SETUP_MAX: u64 = 0x8000;
/// End (exclusive) of usable low RAM: where a PC's extended BIOS data area would start.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables; the page range up to 1 MiB is reported as ACPI data.
pub const ACPI_BASE: u64 = 0xe_0000;
/// End (exclusive) of the ACPI range.
pub const ACPI_END: u64 = 0x10_0000;

/// Serial port the firmware complains on when it cannot believe the staging header: COM1.
pub const FALLBACK_SERIAL_PORT: u16 = 0x3f8;
/// ACPI PM1a event block (status, enable), 4 bytes: the FADT names it, the VMM implements it.
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// ACPI PM1a control block, 2 bytes.
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// Written to [`PM1A_CONTROL_PORT`] to power off: SLP_EN, with SLP_TYP [`SLEEP_TYPE_S5`].
pub const POWER_OFF: u16 = SLEEP_TYPE_S5 << 10 | 1 << 13;
/// SLP_TYP of the S5 (soft off) state, in `\_S5` as well.
pub const SLEEP_TYPE_S5: u16 = 0;
/// Reset register named by the FADT.
pub const RESET_PORT: u16 = 0xcf9;
/// Written to [`RESET_PORT`] to reset.
pub const RESET_VALUE: u8 = 6;
/// ACPI system control interrupt.
pub const SCI_GSI: u16 = 9;
/// Interrupt line of the serial console.
pub const SERIAL_GSI: u8 = 4;
/// PCI configuration address port; the data window is the next four ports.
pub const PCI_ADDRESS_PORT: u16 = 0xcf8;

/// First byte of the image: what the VMM must know to start it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageHeader {
    /// [`IMAGE_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Offset in the image of the position-independent 64-bit entry for staging.
    pub entry_staged64: u32,
    /// Offset in the image of the entry for SNP and TDX: 32-bit mode, flat segments, no paging, the image where it is
    /// linked.
    pub entry_flat32: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes of the image in the file.
    pub image_len: u64,
    /// Bytes the image occupies in memory from [`FW_BASE`], `.bss` and stacks included; at most `FW_END - FW_BASE`.
    pub memory_len: u64,
}
/// "TENUREFW".
pub const IMAGE_MAGIC: u64 = u64::from_le_bytes(*b"TENUREFW");
/// Raised with every change of this file that either side must know of.
pub const ABI_VERSION: u32 = 2;
const _: () = assert!(size_of::<ImageHeader>() == 40);

/// First bytes of the staging slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StagingHeader {
    /// [`STAGING_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// One of the `TEE_*` constants.
    pub tee: u32,
    /// Guest-physical address of the staging slot; equals RDI at entry.
    pub staging_gpa: u64,
    /// Bytes in the staging slot, a multiple of [`PAGE_SIZE`].
    pub staging_len: u64,
    /// Offset in staging of the firmware image.
    pub image_offset: u64,
    /// RAM from address 0.
    pub ram_low_len: u64,
    /// RAM from 4 GiB; zero if none.
    pub ram_high_len: u64,
    /// Offset in staging of the piece table.
    pub pieces_offset: u64,
    /// Number of [`Piece`]s, at most [`PIECES_MAX`].
    pub piece_count: u32,
    /// vCPUs in the VM, numbered from 0 by x2APIC id, at most [`VCPUS_MAX`].
    pub vcpus: u32,
    /// Frequency of the guest's TSC in kHz. Zero under SNP: what is measured may not depend on the host.
    pub tsc_khz: u32,
    /// One of the `PAYLOAD_*` constants.
    pub payload: u32,
    /// I/O port of the doorbell.
    pub doorbell_port: u16,
    /// First I/O port of the serial console (16550).
    pub serial_port: u16,
    /// First I/O port of the PCI window.
    pub pci_io_base: u16,
    /// I/O ports in the PCI window.
    pub pci_io_len: u16,
    /// GSI of every PCI INTx pin, level triggered.
    pub pci_gsi: u32,
    /// [`FLAG_QUIET`] and friends.
    pub flags: u32,
}
/// "TENURESW".
pub const STAGING_MAGIC: u64 = u64::from_le_bytes(*b"TENURESW");
/// Most pieces a staging slot may list.
pub const PIECES_MAX: u32 = 16;
/// Most vCPUs the firmware describes.
pub const VCPUS_MAX: u32 = 255;
/// `tee`: memory is private by attribute, not encrypted (`KVM_X86_SW_PROTECTED_VM`).
pub const TEE_SW: u32 = 1;
/// `tee`: no privacy at all.
pub const TEE_NONE: u32 = 0;
/// `tee`: memory is encrypted (AMD SEV-SNP). Never in staging: a measured page of parameters says it.
pub const TEE_SNP: u32 = 2;
/// `payload`: the pieces hold a Linux bzImage.
pub const PAYLOAD_LINUX: u32 = 1;
/// `payload`: run the built-in self-test; a [`PieceKind::Cmdline`] piece, if any, holds its options
/// ([`crate::selftest::options`]).
pub const PAYLOAD_SELF_TEST: u32 = 2;
/// `flags`: say nothing on the serial port unless something is wrong.
pub const FLAG_QUIET: u32 = 1;
const _: () = assert!(size_of::<StagingHeader>() == 96);
const _: () = assert!(offset_of!(StagingHeader, piece_count) == 64);
const _: () = assert!(offset_of!(StagingHeader, doorbell_port) == 80);

/// One thing to copy from staging into private memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Piece {
    /// A [`PieceKind`] as number.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Where it starts in staging; a multiple of [`PAGE_SIZE`].
    pub src_offset: u64,
    /// Where it goes in guest-physical memory.
    pub dst_gpa: u64,
    /// Bytes to copy.
    pub len: u64,
    /// SHA-256 of those bytes, checked on the private copy.
    pub sha256: [u8; 32],
}
const _: () = assert!(size_of::<Piece>() == 64);

/// What a [`Piece`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PieceKind {
    /// bzImage from its first byte to the end of its setup sectors; goes to [`SETUP_COPY`].
    KernelSetup = 1,
    /// bzImage after its setup sectors: the protected-mode kernel, page aligned destination.
    KernelPayload = 2,
    /// Initial RAM disk, page aligned destination.
    Initrd = 3,
    /// Command line without NUL; goes to [`CMDLINE`].
    Cmdline = 4,
}

impl PieceKind {
    /// The kind a number in a piece table names.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::KernelSetup),
            2 => Some(Self::KernelPayload),
            3 => Some(Self::Initrd),
            4 => Some(Self::Cmdline),
            _ => None,
        }
    }
}

/// Commands a guest writes to the doorbell port: a 32-bit write, command in bits 7:0, argument in bits 31:8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Doorbell {
    /// Everything needed is in private memory: the VMM may delete the staging slot. No argument.
    StagingDone = 1,
    /// The firmware gives up; the argument is a [`FirmwareFault`]. Text was written to the serial port.
    Fault = 2,
    /// The self-test is over; the argument is the number of failed checks.
    SelfTestDone = 3,
    /// A mark for the event log, for instance "user space reached"; the argument is the guest's choice.
    Mark = 4,
    /// Attestation evidence for whoever runs the guest: the argument is the number (address / [`PAGE_SIZE`]) of the shared
    /// page with its [`EvidenceHeader`]. The VMM has a copy when the guest goes on.
    Evidence = 5,
}

impl Doorbell {
    /// The command in a value written to the doorbell, if it is one.
    pub const fn from_raw(value: u32) -> Option<(Self, u32)> {
        let argument = value >> 8;
        match value & 0xff {
            1 => Some((Self::StagingDone, argument)),
            2 => Some((Self::Fault, argument)),
            3 => Some((Self::SelfTestDone, argument)),
            4 => Some((Self::Mark, argument)),
            5 => Some((Self::Evidence, argument)),
            _ => None,
        }
    }

    /// The value to write for this command; bits of `argument` above 24 are lost.
    pub const fn to_raw(self, argument: u32) -> u32 {
        self as u32 | argument << 8
    }
}

/// What a guest hands over by [`Doorbell::Evidence`]: this at the beginning of a shared page, and `len` bytes of evidence
/// after it, in as many shared pages as that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvidenceHeader {
    /// [`EVIDENCE_MAGIC`].
    pub magic: u64,
    /// One of the `EVIDENCE_*` kinds.
    pub kind: u32,
    /// Bytes of evidence, 1 to [`EVIDENCE_MAX`].
    pub len: u32,
}
/// "TENUREEV".
pub const EVIDENCE_MAGIC: u64 = u64::from_le_bytes(*b"TENUREEV");
/// `kind`: an SNP attestation report, as the PSP signed it.
pub const EVIDENCE_SNP_REPORT: u32 = 1;
/// Most bytes of evidence.
pub const EVIDENCE_MAX: u32 = 0x4000;
const _: () = assert!(size_of::<EvidenceHeader>() == 16);

/// Why the firmware gave up ([`Doorbell::Fault`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FirmwareFault {
    /// The staging header or piece table is malformed.
    BadStaging = 1,
    /// A piece's destination is outside RAM or overlaps something.
    BadPiece = 2,
    /// A piece's SHA-256 does not match its private copy.
    BadHash = 3,
    /// The kernel is not a bzImage this firmware can enter.
    BadKernel = 4,
    /// The CPU lacks something (x2APIC, long mode features).
    BadCpu = 5,
    /// The firmware panicked or took an exception.
    Crash = 6,
}

impl FirmwareFault {
    /// The fault a doorbell argument names.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::BadStaging),
            2 => Some(Self::BadPiece),
            3 => Some(Self::BadHash),
            4 => Some(Self::BadKernel),
            5 => Some(Self::BadCpu),
            6 => Some(Self::Crash),
            _ => None,
        }
    }
}
