//! The port I/O bus.
//!
//! Owns who answers at which of the 65,536 I/O ports. Built once, before the first vCPU runs, and then shared by all
//! vCPU threads without a lock; a device guards its own state.
//!
//! An access belongs to a claim if the claim holds every port it touches and takes its width. An access no claim takes
//! as a whole is split into bytes, each of which finds its own device, as a PC's bus bridges do. What nobody claims
//! reads as all ones, and writes to it are lost.

use crate::devices::power::ResetBy;
use guest_fw::abi;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A device that answers at I/O ports. `offset` counts from the first port of its claim; `data` has 1, 2 or 4 bytes,
/// little endian, and lies inside the claim as a whole.
pub trait PioDevice: Debug + Send + Sync {
    /// Fills all of `data`.
    fn read(&self, offset: u16, data: &mut [u8]);
    /// Takes `data`. Whatever the VMM itself must act on is returned.
    fn write(&self, offset: u16, data: &[u8]) -> Option<Event>;
}

/// What a guest asked of the VMM with a port write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest reset the machine.
    Reset(ResetBy),
    /// The guest rang the doorbell.
    Doorbell {
        /// What for.
        command: abi::Doorbell,
        /// 24 bits of the guest's choice; their meaning depends on the command.
        argument: u32,
    },
    /// The guest rang the doorbell with a command that does not exist.
    UnknownDoorbell {
        /// The value written.
        value: u32,
    },
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// A device took it.
    Handled,
    /// No device claims any port of it; the data is lost.
    Unclaimed,
    /// A device took it, and the VMM must act.
    Event(Event),
}

/// Width of a port access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl Width {
    /// The width of an access of `len` bytes; the processor knows no others.
    pub const fn from_len(len: usize) -> Option<Self> {
        match len {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            _ => None,
        }
    }
}

/// A run of ports, and which widths of access to them, a device wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    name: &'static str,
    first: u16,
    len: u16,
    only: Option<Width>,
}

/// Why a bus cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Two devices want the same port.
    #[error("device {new} claims ports {first:#x}..={last:#x}, which overlaps {old}")]
    Overlap {
        /// The device that came second.
        new: &'static str,
        /// First port it claims.
        first: u16,
        /// Last port it claims.
        last: u16,
        /// The device that came first.
        old: &'static str,
    },
    /// The claim is empty or runs past the last port.
    #[error("device {name} claims {len} ports from {first:#x}, which is nothing or more than there are")]
    Range {
        /// The device.
        name: &'static str,
        /// First port it claims.
        first: u16,
        /// How many.
        len: u16,
    },
}

impl Claim {
    /// All accesses within `len` ports from `first`.
    pub const fn new(name: &'static str, first: u16, len: u16) -> Self {
        Self { name, first, len, only: None }
    }

    /// Only accesses of `width` within `len` ports from `first`. Two claims may hold the same ports at different
    /// widths: 0xcf8 as a dword is PCI's configuration address, 0xcf9 as a byte is the reset control register.
    pub const fn only(width: Width, name: &'static str, first: u16, len: u16) -> Self {
        Self { name, first, len, only: Some(width) }
    }

    fn last(&self) -> u16 {
        self.first + (self.len - 1)
    }

    /// Where in the claim an access begins, if the claim takes it.
    fn offset_of(&self, port: u16, width: Width, len: u16) -> Option<u16> {
        let offset = port.checked_sub(self.first)?;
        let fits = offset.checked_add(len)? <= self.len;
        let wanted = self.only.is_none_or(|only| only == width);
        (fits && wanted).then_some(offset)
    }

    fn conflicts(&self, other: &Self) -> bool {
        let widths_meet = match (self.only, other.only) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        widths_meet && self.first <= other.last() && other.first <= self.last()
    }
}

/// How often guests used the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BusCounts {
    /// Read accesses.
    pub reads: u64,
    /// Write accesses.
    pub writes: u64,
    /// Reads no device answered.
    pub unclaimed_reads: u64,
    /// Writes no device took.
    pub unclaimed_writes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    unclaimed_reads: AtomicU64,
    unclaimed_writes: AtomicU64,
}

/// Collects claims.
#[derive(Debug, Default)]
pub struct PioBusBuilder {
    claims: Vec<(Claim, Arc<dyn PioDevice>)>,
}

impl PioBusBuilder {
    /// Gives `claim` to `device`.
    pub fn claim(&mut self, claim: Claim, device: Arc<dyn PioDevice>) -> Result<&mut Self, BusError> {
        if claim.len == 0 || claim.first.checked_add(claim.len - 1).is_none() {
            return Err(BusError::Range { name: claim.name, first: claim.first, len: claim.len });
        }
        if let Some((old, _)) = self.claims.iter().find(|(old, _)| old.conflicts(&claim)) {
            return Err(BusError::Overlap { new: claim.name, first: claim.first, last: claim.last(), old: old.name });
        }
        self.claims.push((claim, device));
        Ok(self)
    }

    /// The bus.
    pub fn build(self) -> PioBus {
        PioBus { claims: self.claims.into(), counters: Counters::default() }
    }
}

/// The bus: see the module.
#[derive(Debug)]
pub struct PioBus {
    claims: Box<[(Claim, Arc<dyn PioDevice>)]>,
    counters: Counters,
}

impl PioBus {
    /// A bus without devices.
    pub fn builder() -> PioBusBuilder {
        PioBusBuilder::default()
    }

    /// One access of `data.len()` bytes, which is 1, 2 or 4; `data` reads as all ones for any other length.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        data.fill(0xff);
        let Some(width) = Width::from_len(data.len()) else { return };
        if let Some((device, offset)) = self.find(port, width, data.len()) {
            device.read(offset, data);
            return;
        }
        let mut answered = false;
        if width != Width::Byte {
            for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
                if let Some((device, offset)) = self.find(port, Width::Byte, 1) {
                    device.read(offset, std::slice::from_mut(byte));
                    answered = true;
                }
            }
        }
        if !answered {
            self.counters.unclaimed_reads.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(port, len = data.len(), "read of an unclaimed port");
        }
    }

    /// One access of `data.len()` bytes, which is 1, 2 or 4; data of any other length is lost. If parts of a split
    /// access raise several events, the first is reported.
    pub fn write(&self, port: u16, data: &[u8]) -> Outcome {
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        let mut outcome = Outcome::Unclaimed;
        if let Some(width) = Width::from_len(data.len()) {
            if let Some((device, offset)) = self.find(port, width, data.len()) {
                return device.write(offset, data).map_or(Outcome::Handled, Outcome::Event);
            }
            if width != Width::Byte {
                outcome = self.write_bytes(port, data);
            }
        }
        if outcome == Outcome::Unclaimed {
            self.counters.unclaimed_writes.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(port, ?data, "write to an unclaimed port");
        }
        outcome
    }

    fn write_bytes(&self, port: u16, data: &[u8]) -> Outcome {
        let mut outcome = Outcome::Unclaimed;
        for (byte, port) in data.iter().zip(port..=u16::MAX) {
            let Some((device, offset)) = self.find(port, Width::Byte, 1) else { continue };
            let event = device.write(offset, std::slice::from_ref(byte));
            outcome = match (outcome, event) {
                (Outcome::Event(first), _) => Outcome::Event(first),
                (_, Some(event)) => Outcome::Event(event),
                (_, None) => Outcome::Handled,
            };
        }
        outcome
    }

    /// How often guests used the bus so far.
    pub fn counts(&self) -> BusCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusCounts {
            reads: get(&self.counters.reads),
            writes: get(&self.counters.writes),
            unclaimed_reads: get(&self.counters.unclaimed_reads),
            unclaimed_writes: get(&self.counters.unclaimed_writes),
        }
    }

    fn find(&self, port: u16, width: Width, len: usize) -> Option<(&dyn PioDevice, u16)> {
        let len = u16::try_from(len).ok()?;
        self.claims
            .iter()
            .find_map(|(claim, device)| claim.offset_of(port, width, len).map(|offset| (&**device, offset)))
    }
}

#[cfg(test)]
mod tests;
