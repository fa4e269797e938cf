//! ACPI tables for Linux: what processors there are, how to power off and reset, where the serial port and PCI are.
//!
//! Specification: ACPI 6.5, <https://uefi.org/specs/ACPI/6.5/>: §5.2.5 RSDP, §5.2.8 XSDT, §5.2.9 FADT, §5.2.10 FACS,
//! §5.2.12 MADT, §5.2.11.1 DSDT. Tables and byte code come from the `acpi_tables` crate; this module chooses what
//! they say:
//!
//! - Processors have x2APIC entries only: the xAPIC's page would need instruction decoding, which KVM cannot do in
//!   private memory. There is no I/O APIC for the same reason, so the 8259 PICs must be announced (`PCAT_COMPAT`).
//! - There is no PM timer, no VGA, no RTC and no 8042 keyboard controller.

mod dsdt;
mod fixed;
mod madt;

use crate::abi::{ACPI_END, StagingHeader};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, facs::FACS};
use alloc::vec::Vec;

const OEM_ID: [u8; 6] = *b"TENURE";
const OEM_TABLE_ID: [u8; 8] = *b"TENUREFW";
const OEM_REVISION: u32 = 1;

/// The machine as the tables describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processors, numbered from 0 by x2APIC id.
    pub vcpus: u32,
    /// First port of the serial console.
    pub serial_port: u16,
    /// First port of the PCI window.
    pub pci_io_base: u16,
    /// Ports in the PCI window; none means no window.
    pub pci_io_len: u16,
    /// Line of every PCI INTx pin.
    pub pci_gsi: u32,
}

impl From<&StagingHeader> for Machine {
    /// Of a checked header.
    fn from(header: &StagingHeader) -> Self {
        Self {
            vcpus: header.vcpus,
            serial_port: header.serial_port,
            pci_io_base: header.pci_io_base,
            pci_io_len: header.pci_io_len,
            pci_gsi: header.pci_gsi,
        }
    }
}

/// The tables do not fit where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ACPI tables of {0:#x} bytes do not fit below {ACPI_END:#x}")]
pub struct TooLarge(pub usize);

/// All tables as one block that belongs at `base`, with the RSDP at its start.
pub fn build(machine: &Machine, base: u32) -> Result<Vec<u8>, TooLarge> {
    let mut block = Block { bytes: Vec::with_capacity(0x4000), base };
    // The RSDP comes first and names a table that is not there yet.
    block.bytes.resize(Rsdp::len(), 0);
    // FACS: 64-byte aligned (§5.2.10).
    let facs = block.append(&FACS::new(), 64);
    let dsdt = block.append(&dsdt::build(machine), 16);
    let fadt = block.append(&fixed::build(facs, dsdt), 16);
    let madt = block.append(&madt::build(machine.vcpus), 16);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt.into());
    xsdt.add_entry(madt.into());
    let xsdt = block.append(&xsdt, 16);

    let mut rsdp = Vec::with_capacity(Rsdp::len());
    Rsdp::new(OEM_ID, xsdt.into()).to_aml_bytes(&mut rsdp);
    block.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    if u64::from(base) + block.bytes.len() as u64 > ACPI_END {
        return Err(TooLarge(block.bytes.len()));
    }
    Ok(block.bytes)
}

/// Tables laid out one after the other.
struct Block {
    bytes: Vec<u8>,
    base: u32,
}

impl Block {
    /// Adds a table and returns its address. Addresses are only used if the whole block fits below 1 MiB.
    fn append(&mut self, table: &dyn Aml, align: usize) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        table.to_aml_bytes(&mut self.bytes);
        self.base.saturating_add(offset)
    }
}

#[cfg(test)]
mod tests;
