//! Differentiated System Description Table: ACPI 6.5 §5.2.11.1, byte code §20, resources §6.4, `_PRT` §6.2.13.

use super::{Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::abi::{PCI_ADDRESS_PORT, SERIAL_GSI, SLEEP_TYPE_S5};
use acpi_tables::aml::{
    AddressSpace, Device, EISAName, IO, Interrupt, Name, Package, PackageBuilder, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use alloc::vec;
use alloc::vec::Vec;

/// Revision 2: integers have 64 bits.
const REVISION: u8 = 2;
const HEADER_LEN: u32 = 36;
/// Ports of a 16550.
const SERIAL_PORTS: u8 = 8;
/// PCI configuration address and data.
const PCI_CONFIG_PORTS: u8 = 8;
/// Devices on a PCI bus.
const PCI_DEVICES: u32 = 32;
/// INTA to INTD.
const PCI_PINS: u8 = 4;

/// The table for this machine.
pub(super) fn build(machine: &Machine) -> Sdt {
    let mut code = Vec::with_capacity(0x1000);
    sleep_states(&mut code);
    Scope::new("\\_SB_".into(), vec![&Serial { port: machine.serial_port }, &PciHost { machine }])
        .to_aml_bytes(&mut code);

    let mut dsdt = Sdt::new(*b"DSDT", HEADER_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&code);
    dsdt
}

/// `\_S5`: what to write to PM1a control to power off (§7.4.2.6).
fn sleep_states(sink: &mut dyn AmlSink) {
    let sleep_type = SLEEP_TYPE_S5;
    let values = Package::new(vec![&sleep_type, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &values).to_aml_bytes(sink);
}

/// The serial console, a 16550.
struct Serial {
    port: u16,
}

impl Aml for Serial {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &IO::new(self.port, self.port, 1, SERIAL_PORTS),
                        // Edge triggered, active high, not shared: as on ISA.
                        &Interrupt::new(true, true, false, false, SERIAL_GSI.into()),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The PCI host bridge: bus 0, configured through ports, its devices in one window of ports.
struct PciHost<'a> {
    machine: &'a Machine,
}

impl Aml for PciHost<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let Machine { pci_io_base, pci_io_len, pci_gsi, .. } = *self.machine;
        let bus = AddressSpace::new_bus_number(0u16, 0);
        let config = IO::new(PCI_ADDRESS_PORT, PCI_ADDRESS_PORT, 1, PCI_CONFIG_PORTS);
        let window = pci_io_len
            .checked_sub(1)
            .and_then(|rest| pci_io_base.checked_add(rest))
            .map(|last| AddressSpace::new_io(pci_io_base, last, None));
        let mut resources: Vec<&dyn Aml> = vec![&bus, &config];
        resources.extend(window.as_ref().map(|window| window as &dyn Aml));
        Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_BBN".into(), &ZERO),
                &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
                &Name::new("_PRT".into(), &routes(pci_gsi)),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// Every pin of every device leads to the same line.
fn routes(gsi: u32) -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..PCI_PINS {
            // All functions of the device; a fixed line, so no source.
            let address = device << 16 | 0xffff;
            routes.add_element(&Package::new(vec![&address, &pin, &ZERO, &gsi]));
        }
    }
    routes
}
