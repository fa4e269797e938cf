//! Configuration space of one function.
//!
//! Owns the 256 registers, which bits of them a guest may change, BARs with their sizing, and the capability list
//! (PCI Local Bus 3.0 chapter 6). What a register change means is the function's business.

use std::ops::Range;

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const BAR0: u8 = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// End of the standard header, where capabilities begin.
const HEADER_LEN: usize = 0x40;
const SPACE_LEN: usize = 256;

/// Command: respond to I/O accesses.
const COMMAND_IO: u16 = 1 << 0;
/// Command: respond to memory accesses.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may access memory by itself.
const COMMAND_MASTER: u16 = 1 << 2;
/// Command: keep the INTx pin quiet.
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status: the function wants its INTx pin asserted.
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Status: there is a capability list.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// BAR: lies in I/O space.
const BAR_IO: u8 = 1 << 0;
/// BARs of an endpoint.
const BARS: u8 = 6;

/// What a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
}

/// A function was described wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// I/O BARs are powers of two from 4 to 256 ports.
    #[error("I/O BAR {bar} has {ports} ports, which is not a power of two from 4 to 256, or there is no such BAR")]
    Bar {
        /// BAR number.
        bar: u8,
        /// Ports.
        ports: u16,
    },
    /// The capabilities do not fit.
    #[error("capability {id:#x} of {len} bytes does not fit at {at:#x} of configuration space")]
    Capability {
        /// Capability ID.
        id: u8,
        /// Bytes, with its header.
        len: usize,
        /// Where it would begin.
        at: usize,
    },
}

/// Offset of a BAR's register.
pub(crate) const fn bar_register(bar: u8) -> u8 {
    BAR0 + 4 * (bar % BARS)
}

/// The registers of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    registers: [u8; SPACE_LEN],
    /// Bits a guest can change.
    writable: [u8; SPACE_LEN],
    io_bars: [u16; BARS as usize],
    last_capability: Option<usize>,
    end_of_capabilities: usize,
}

impl ConfigSpace {
    /// Registers of a function without BARs, interrupt or capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            registers: [0; SPACE_LEN],
            writable: [0; SPACE_LEN],
            io_bars: [0; BARS as usize],
            last_capability: None,
            end_of_capabilities: HEADER_LEN,
        };
        space.set(VENDOR, &identity.vendor.to_le_bytes());
        space.set(DEVICE, &identity.device.to_le_bytes());
        let [interface, subclass, class, _] = identity.class.to_le_bytes();
        space.set(REVISION, &[identity.revision, interface, subclass, class]);
        space.set(SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM, &identity.subsystem.to_le_bytes());
        let command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        space
    }

    /// Adds I/O BAR number `bar`.
    pub fn add_io_bar(&mut self, bar: u8, ports: u16) -> Result<(), ConfigError> {
        if bar >= BARS || !ports.is_power_of_two() || !(4..=256).contains(&ports) {
            return Err(ConfigError::Bar { bar, ports });
        }
        let register = usize::from(bar_register(bar));
        self.set(register, &[BAR_IO]);
        // Sizing works by these bits alone: all ones written, the address bits come back. There are 2^16 ports, so the
        // upper half of the register is hard-wired to zero.
        self.allow(register, &(!(ports - 1)).to_le_bytes());
        self.io_bars[usize::from(bar)] = ports;
        Ok(())
    }

    /// Connects INTA, which the guest is told arrives at interrupt `line`.
    pub fn add_interrupt(&mut self, line: u8) {
        self.set(INTERRUPT_LINE, &[line, 1]);
        self.allow(INTERRUPT_LINE, &[0xff]);
        debug_assert_eq!(INTERRUPT_PIN, INTERRUPT_LINE + 1);
    }

    /// Appends a capability with what follows its ID and link, and says where it begins. Bits set in `writable`
    /// (aligned with `body`) can be changed by the guest.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, ConfigError> {
        let at = self.end_of_capabilities;
        let len = body.len() + 2;
        let end = (at + len).next_multiple_of(4);
        let offset = u8::try_from(at).ok().filter(|_| end <= SPACE_LEN && writable.len() <= body.len());
        let Some(offset) = offset else {
            return Err(ConfigError::Capability { id, len, at });
        };
        let link = self.last_capability.map_or(CAPABILITIES, |last| last + 1);
        self.set(link, &[offset]);
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        self.registers[STATUS] |= STATUS_CAPABILITIES;
        self.last_capability = Some(at);
        self.end_of_capabilities = end;
        Ok(offset)
    }

    /// Reads registers; beyond the last there are ones.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.registers.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes those bits of registers that can be.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for (byte, at) in data.iter().zip(usize::from(offset)..) {
            if let (Some(register), Some(mask)) = (self.registers.get_mut(at), self.writable.get(at)) {
                *register = *register & !mask | byte & mask;
            }
        }
    }

    /// Ports an I/O BAR decodes now.
    pub fn io_bar(&self, bar: u8) -> Option<Range<u32>> {
        let ports = self.io_bars.get(usize::from(bar)).copied().filter(|ports| *ports > 0)?;
        if self.command() & COMMAND_IO == 0 {
            return None;
        }
        let register = usize::from(bar_register(bar));
        let [low, high] = [self.registers[register], self.registers[register + 1]];
        let base = u32::from(u16::from_le_bytes([low & !0b11, high]));
        Some(base..base + u32::from(ports))
    }

    /// Number and size of every I/O BAR.
    pub fn io_bar_sizes(&self) -> Vec<(u8, u16)> {
        (0..).zip(self.io_bars).filter(|(_, ports)| *ports > 0).collect()
    }

    /// Shows in the status register whether the function wants to interrupt, and says whether its pin is to be
    /// asserted.
    pub fn interrupt(&mut self, wanted: bool) -> bool {
        self.registers[STATUS] &= !STATUS_INTERRUPT;
        if wanted {
            self.registers[STATUS] |= STATUS_INTERRUPT;
        }
        wanted && self.command() & COMMAND_INTX_DISABLE == 0
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes([self.registers[COMMAND], self.registers[COMMAND + 1]])
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.registers[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }
}
