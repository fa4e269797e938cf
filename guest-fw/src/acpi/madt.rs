//! Multiple APIC Description Table: ACPI 6.5 §5.2.12.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use acpi_tables::sdt::Sdt;
use alloc::vec::Vec;
use core::mem::size_of;
use zerocopy::little_endian::U32;
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// Table revision of ACPI 6.5.
const REVISION: u8 = 6;
/// Header, local APIC address and flags.
const FIXED_LEN: u32 = 44;
/// Offset of the local APIC's address.
const LOCAL_APIC_OFFSET: usize = 36;
/// Where a PC's local APIC is; nothing is mapped there, all processors use x2APIC.
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Offset of the flags.
const FLAGS_OFFSET: usize = 40;
/// Flags: there are two 8259 PICs.
const PCAT_COMPAT: u32 = 1;

/// Processor Local x2APIC structure (§5.2.12.12).
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct X2Apic {
    kind: u8,
    length: u8,
    reserved: [u8; 2],
    x2apic_id: U32,
    flags: U32,
    processor_uid: U32,
}
const _: () = assert!(size_of::<X2Apic>() == 16);

impl X2Apic {
    const KIND: u8 = 9;
    const LENGTH: u8 = 16;
    const ENABLED: u32 = 1;

    fn new(id: u32) -> Self {
        Self {
            kind: Self::KIND,
            length: Self::LENGTH,
            reserved: [0; 2],
            x2apic_id: id.into(),
            flags: Self::ENABLED.into(),
            processor_uid: id.into(),
        }
    }
}

/// Local x2APIC NMI structure (§5.2.12.13): LINT1 of every processor is NMI, as on any PC.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct X2ApicNmi {
    kind: u8,
    length: u8,
    flags: [u8; 2],
    processor_uid: U32,
    lint: u8,
    reserved: [u8; 3],
}
const _: () = assert!(size_of::<X2ApicNmi>() == 12);

impl X2ApicNmi {
    const ALL: Self =
        Self { kind: 10, length: 12, flags: [0; 2], processor_uid: U32::new(u32::MAX), lint: 1, reserved: [0; 3] };
}

/// The table for processors 0 to `vcpus` - 1.
pub(super) fn build(vcpus: u32) -> Sdt {
    let mut entries = Vec::new();
    for id in 0..vcpus {
        entries.extend_from_slice(X2Apic::new(id).as_bytes());
    }
    entries.extend_from_slice(X2ApicNmi::ALL.as_bytes());

    let mut madt = Sdt::new(*b"APIC", FIXED_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(LOCAL_APIC_OFFSET, LOCAL_APIC);
    madt.write_u32(FLAGS_OFFSET, PCAT_COMPAT);
    madt.append_slice(&entries);
    madt
}
