//! The PCI bus: one bus, reached by configuration mechanism #1.
//!
//! Owns the configuration ports (PCI Local Bus 3.0 §3.2.2.3.2), the host bridge, and which function answers at which
//! port of the I/O window. Firmware on a PC would place the BARs; here the bus does when it is built, and a guest may
//! move them. Only function 0 of each device exists. Interrupts are INTx.
//!
//! Functions are asked for "a BAR at an offset" and never see in which address space an access arrived, so memory BARs
//! need a second window here and nothing in the functions.

pub mod config_space;

use crate::devices::bus::{BusError, Claim, Event, PioBusBuilder, PioDevice, Width};
use crate::devices::lock;
use config_space::{ConfigSpace, Identity};
use gmem::layout;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// One function on the bus.
pub trait Function: Debug + Send + Sync {
    /// Reads configuration space; all of `data` lies in one doubleword.
    fn config_read(&self, offset: u8, data: &mut [u8]);
    /// Writes configuration space; all of `data` lies in one doubleword.
    fn config_write(&self, offset: u8, data: &[u8]) -> Option<Event>;
    /// Size in ports of each I/O BAR, by its number.
    fn io_bar_sizes(&self) -> Vec<(u8, u16)>;
    /// Where an I/O BAR is now, if the function decodes it.
    fn io_bar(&self, bar: u8) -> Option<Range<u32>>;
    /// Reads from a BAR; the access lies inside as a whole.
    fn bar_read(&self, bar: u8, offset: u16, data: &mut [u8]);
    /// Writes to a BAR; the access lies inside as a whole.
    fn bar_write(&self, bar: u8, offset: u16, data: &[u8]) -> Option<Event>;
}

/// Why a bus cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// A bus has 32 devices, one of which is the bridge.
    #[error("{0} PCI devices are more than the 31 a bus has room for")]
    TooManyDevices(usize),
    /// The BARs do not fit.
    #[error("I/O BAR of {ports} ports does not fit into what is left of the PCI I/O window")]
    WindowFull {
        /// Size of the BAR that did not fit.
        ports: u16,
    },
}

/// Devices on a bus, the bridge included.
const DEVICES_MAX: usize = 32;
/// Configuration address: the access goes to configuration space.
const ADDRESS_ENABLE: u32 = 1 << 31;

/// The host bridge: it has configuration space and does nothing. Its identity is q35's, which Linux knows as a bridge
/// it need not do anything about.
#[derive(Debug)]
struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    fn new() -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x29c0,
            subsystem_vendor: 0,
            subsystem: 0,
            revision: 0,
            class: 0x06_00_00,
        };
        Self { config: ConfigSpace::new(identity) }
    }
}

impl Function for HostBridge {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&self, _offset: u8, _data: &[u8]) -> Option<Event> {
        None
    }

    fn io_bar_sizes(&self) -> Vec<(u8, u16)> {
        Vec::new()
    }

    fn io_bar(&self, _bar: u8) -> Option<Range<u32>> {
        None
    }

    fn bar_read(&self, _bar: u8, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: u8, _offset: u16, _data: &[u8]) -> Option<Event> {
        None
    }
}

/// The bus.
#[derive(Debug)]
pub struct PciBus {
    /// By device number.
    functions: Vec<Arc<dyn Function>>,
    /// Functions and BARs in the I/O window.
    io_bars: Vec<(Arc<dyn Function>, u8)>,
    address: Mutex<u32>,
}

impl PciBus {
    /// A bus with a host bridge as device 0 and `functions` after it, their BARs placed in the I/O window.
    pub fn new(functions: Vec<Arc<dyn Function>>) -> Result<Arc<Self>, PciError> {
        if functions.len() >= DEVICES_MAX {
            return Err(PciError::TooManyDevices(functions.len()));
        }
        let mut io_bars = Vec::new();
        let window_end = u32::from(layout::PCI_IO_BASE) + u32::from(layout::PCI_IO_LEN);
        let mut next = u32::from(layout::PCI_IO_BASE);
        for function in &functions {
            for (bar, ports) in function.io_bar_sizes() {
                let base = next.next_multiple_of(u32::from(ports).max(1));
                next = base + u32::from(ports);
                if next > window_end {
                    return Err(PciError::WindowFull { ports });
                }
                // What firmware does: the address goes into the register; decoding stays off until a driver wants it.
                let _ = function.config_write(config_space::bar_register(bar), &base.to_le_bytes());
                io_bars.push((Arc::clone(function), bar));
            }
        }
        let bridge: Arc<dyn Function> = Arc::new(HostBridge::new());
        let functions = std::iter::once(bridge).chain(functions).collect();
        Ok(Arc::new(Self { functions, io_bars, address: Mutex::new(0) }))
    }

    /// Claims the configuration ports and the I/O window.
    pub fn claim(self: &Arc<Self>, ports: &mut PioBusBuilder) -> Result<(), BusError> {
        let address = Claim::only(Width::Dword, "PCI configuration address", layout::PCI_ADDRESS_PORT, 4);
        let data = Claim::new("PCI configuration data", layout::PCI_DATA_PORT, 4);
        let window = Claim::new("PCI I/O window", layout::PCI_IO_BASE, layout::PCI_IO_LEN);
        ports.claim(address, Arc::new(AddressPort(Arc::clone(self))))?;
        ports.claim(data, Arc::new(DataPort(Arc::clone(self))))?;
        ports.claim(window, Arc::new(IoWindow(Arc::clone(self))))?;
        Ok(())
    }

    /// The function and the register the configuration address and a port of the data window select.
    fn selected(&self, port_offset: u16) -> Option<(&dyn Function, u8)> {
        let address = *lock(&self.address);
        let [register, function_device, bus, _] = address.to_le_bytes();
        let (device, function) = (usize::from(function_device >> 3), function_device & 0b111);
        if address & ADDRESS_ENABLE == 0 || bus != 0 || function != 0 {
            return None;
        }
        let offset = register & !0b11 | u8::try_from(port_offset).ok()? & 0b11;
        Some((&**self.functions.get(device)?, offset))
    }

    /// The BAR an access of `len` bytes to a port lies in.
    fn owner(&self, port: u32, len: usize) -> Option<(&dyn Function, u8, u16)> {
        let end = port + u32::try_from(len).ok()?;
        self.io_bars.iter().find_map(|(function, bar)| {
            let ports = function.io_bar(*bar)?;
            if !(ports.start <= port && end <= ports.end) {
                return None;
            }
            Some((&**function, *bar, u16::try_from(port - ports.start).ok()?))
        })
    }
}

#[derive(Debug)]
struct AddressPort(Arc<PciBus>);

impl PioDevice for AddressPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.copy_from_slice(&lock(&self.0.address).to_le_bytes()[..data.len()]);
    }

    fn write(&self, _offset: u16, data: &[u8]) -> Option<Event> {
        *lock(&self.0.address) = u32::from_le_bytes(data.try_into().ok()?);
        None
    }
}

#[derive(Debug)]
struct DataPort(Arc<PciBus>);

impl PioDevice for DataPort {
    fn read(&self, offset: u16, data: &mut [u8]) {
        match self.0.selected(offset) {
            Some((function, register)) => function.config_read(register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        let (function, register) = self.0.selected(offset)?;
        function.config_write(register, data)
    }
}

#[derive(Debug)]
struct IoWindow(Arc<PciBus>);

impl PioDevice for IoWindow {
    fn read(&self, offset: u16, data: &mut [u8]) {
        match self.0.owner(u32::from(layout::PCI_IO_BASE) + u32::from(offset), data.len()) {
            Some((function, bar, offset)) => function.bar_read(bar, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        let port = u32::from(layout::PCI_IO_BASE) + u32::from(offset);
        let (function, bar, offset) = self.0.owner(port, data.len())?;
        function.bar_write(bar, offset, data)
    }
}

#[cfg(test)]
mod tests;
