//! Finds one device on PCI bus 0, through configuration mechanism #1.
//!
//! Specification: PCI Local Bus 3.0 §3.2.2.3.2 (mechanism), §6.1 (header), §6.2.5.1 (I/O BARs), §6.7 (capabilities).

use crate::abi::PCI_ADDRESS_PORT;
use crate::cpu;

const DATA_PORT: u16 = PCI_ADDRESS_PORT + 4;
const ENABLE: u32 = 1 << 31;
/// Registers.
const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const BAR0: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
/// Command register: decode I/O, be bus master.
const IO_AND_MASTER: u32 = 1 << 0 | 1 << 2;
const BAR_IO: u32 = 1;
const BARS: u8 = 6;
/// More capabilities than fit into a header mean a loop.
const CAPABILITIES_MAX: usize = 48;

/// A device on bus 0, function 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(u8);

impl Device {
    /// The first device with this vendor and device id.
    pub fn find(vendor: u16, device: u16) -> Option<Self> {
        let id = u32::from(device) << 16 | u32::from(vendor);
        (0..32).map(Self).find(|candidate| candidate.read(ID) == id)
    }

    /// Reads the aligned register at `offset`.
    pub fn read(self, offset: u8) -> u32 {
        self.select(offset);
        cpu::in32(DATA_PORT)
    }

    fn write(self, offset: u8, value: u32) {
        self.select(offset);
        cpu::out32(DATA_PORT, value);
    }

    fn select(self, offset: u8) {
        cpu::out32(PCI_ADDRESS_PORT, ENABLE | u32::from(self.0) << 11 | u32::from(offset & 0xfc));
    }

    /// Lets the device decode its I/O BARs and reach memory.
    pub fn enable(self) {
        let command = self.read(COMMAND) & 0xffff;
        self.write(COMMAND, command | IO_AND_MASTER);
    }

    /// First port of an I/O BAR; if it has none yet, it gets `free`.
    pub fn io_bar(self, bar: u8, free: u16) -> Option<u16> {
        if bar >= BARS {
            return None;
        }
        let offset = BAR0 + 4 * bar;
        let value = self.read(offset);
        if value & BAR_IO == 0 {
            return None;
        }
        let port = u16::try_from(value & !3).ok()?;
        if port != 0 {
            return Some(port);
        }
        self.write(offset, free.into());
        (self.read(offset) & !3 == free.into()).then_some(free)
    }

    /// Offsets of all vendor-specific capabilities.
    pub fn vendor_capabilities(self) -> impl Iterator<Item = u8> {
        const VENDOR_SPECIFIC: u32 = 9;
        let listed = self.read(COMMAND) & STATUS_CAPABILITIES != 0;
        let pointer = |offset: u8| u8::try_from(self.read(offset) & 0xfc).ok();
        let first = if listed { pointer(CAPABILITIES) } else { None };
        let next = move |at: &u8| u8::try_from(self.read(*at) >> 8 & 0xfc).ok();
        core::iter::successors(first, next)
            .take_while(|at| *at != 0)
            .take(CAPABILITIES_MAX)
            .filter(move |at| self.read(*at) & 0xff == VENDOR_SPECIFIC)
    }
}
