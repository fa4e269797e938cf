//! Fixed ACPI Description Table: ACPI 6.5 §5.2.9.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::abi::{PM1A_CONTROL_PORT, PM1A_EVENT_PORT, RESET_PORT, RESET_VALUE, SCI_GSI};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

/// IA-PC boot architecture flags (§5.2.9.3): devices on an ISA-like bus exist.
const LEGACY_DEVICES: u16 = 1 << 0;
/// There is no VGA, and nobody may look for it.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// There is no CMOS real-time clock.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
/// Latencies above these limits say that the power states C2 and C3 do not exist (table 5.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
const EVENT_LEN: u8 = 4;
const CONTROL_LEN: u8 = 2;

/// The table, with FACS and DSDT at these addresses. SMI_CMD is zero: the machine is always in ACPI mode.
pub(super) fn build(facs: u32, dsdt: u32) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_64(dsdt.into())
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // "Set" means: no such button among the fixed features.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    // Both forms, for readers that look at only one; they must agree.
    fadt.dsdt = dsdt.into();
    fadt.sci_int = SCI_GSI.into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT_PORT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL_PORT).into();
    fadt.x_pm1a_evt_blk = port(PM1A_EVENT_PORT, EVENT_LEN);
    fadt.x_pm1a_cnt_blk = port(PM1A_CONTROL_PORT, CONTROL_LEN);
    fadt.pm1_evt_len = EVENT_LEN;
    fadt.pm1_cnt_len = CONTROL_LEN;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = port(RESET_PORT, 1);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

/// A register of `len` bytes at an I/O port (§5.2.3.2).
fn port(port: u16, len: u8) -> GAS {
    let access = match len {
        1 => AccessSize::ByteAccess,
        // The PM1 blocks are accessed by words: status and enable are two registers.
        _ => AccessSize::WordAccess,
    };
    GAS::new(AddressSpace::SystemIo, len * 8, 0, access, port.into())
}
