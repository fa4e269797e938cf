//! A guest's driver for virtio-pci, from port accesses up.

use super::TestMemory;
use crate::devices::bus::{Outcome, PioBus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

/// PCI device numbers of the console and of the channels.
pub(crate) const CONSOLE: u8 = 1;
pub(crate) const CHANNELS: u8 = 2;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// Reads and writes of 1, 2 and 4 bytes.
pub(crate) fn inb(bus: &PioBus, port: u16) -> u8 {
    let mut data = [0];
    bus.read(port, &mut data);
    data[0]
}

pub(crate) fn inw(bus: &PioBus, port: u16) -> u16 {
    let mut data = [0; 2];
    bus.read(port, &mut data);
    u16::from_le_bytes(data)
}

pub(crate) fn inl(bus: &PioBus, port: u16) -> u32 {
    let mut data = [0; 4];
    bus.read(port, &mut data);
    u32::from_le_bytes(data)
}

pub(crate) fn out(bus: &PioBus, port: u16, data: &[u8]) {
    assert_eq!(bus.write(port, data), Outcome::Handled);
}

pub(crate) fn config_address(device: u8, register: u8) -> [u8; 4] {
    (1 << 31 | u32::from(device) << 11 | u32::from(register & 0xfc)).to_le_bytes()
}

pub(crate) fn config_read(bus: &PioBus, device: u8, register: u8) -> u32 {
    out(bus, 0xcf8, &config_address(device, register));
    inl(bus, 0xcfc)
}

pub(crate) fn config_write(bus: &PioBus, device: u8, register: u8, value: u32) {
    out(bus, 0xcf8, &config_address(device, register));
    out(bus, 0xcfc, &value.to_le_bytes());
}

/// A virtio capability: kind, offset and length in the BAR, and where in configuration space it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capability {
    pub(crate) kind: u8,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) at: u8,
}

pub(crate) fn capabilities(bus: &PioBus, device: u8) -> Vec<Capability> {
    let mut found = Vec::new();
    let mut at = config_read(bus, device, 0x34).to_le_bytes()[0];
    while at != 0 {
        let [id, next, _, kind] = config_read(bus, device, at).to_le_bytes();
        assert_eq!(id, 9);
        let offset = config_read(bus, device, at + 8);
        let length = config_read(bus, device, at + 12);
        found.push(Capability { kind, offset, length, at });
        at = next;
    }
    found
}

/// Where a queue's parts are, and how far the driver is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) next_available: u16,
    pub(crate) next_used: u16,
}

impl Queue {
    /// A queue with its parts on three pages from `base`.
    pub(crate) fn at(index: u16, size: u16, base: u64) -> Self {
        let (descriptors, available, used) = (base, base + super::PAGE, base + 2 * super::PAGE);
        Self { index, size, descriptors, available, used, next_available: 0, next_used: 0 }
    }
}

/// A driver bound to one device.
pub(crate) struct Driver {
    pub(crate) bus: Arc<PioBus>,
    pub(crate) memory: Arc<TestMemory>,
    pub(crate) common: u16,
    pub(crate) isr: u16,
    pub(crate) notify: u16,
    /// Device-specific configuration.
    pub(crate) config: u16,
}

impl Driver {
    /// Finds the console's registers and switches its I/O BAR on.
    pub(crate) fn bind(bus: &Arc<PioBus>, memory: &Arc<TestMemory>) -> Self {
        Self::bind_to(CONSOLE, bus, memory)
    }

    /// The same for any device.
    pub(crate) fn bind_to(device: u8, bus: &Arc<PioBus>, memory: &Arc<TestMemory>) -> Self {
        let bar = config_read(bus, device, 0x10);
        assert_eq!(bar & 1, 1, "BAR 0 is in I/O space");
        config_write(bus, device, 0x04, 0b101);
        let base = u16::try_from(bar & !0b11).unwrap();
        let capabilities = capabilities(bus, device);
        let find = |kind| {
            let capability = capabilities.iter().find(|capability| capability.kind == kind).unwrap();
            base + u16::try_from(capability.offset).unwrap()
        };
        let (bus, memory) = (Arc::clone(bus), Arc::clone(memory));
        Self { bus, memory, common: find(1), notify: find(2), isr: find(3), config: find(4) }
    }

    pub(crate) fn status(&self) -> u8 {
        inb(&self.bus, self.common + 0x14)
    }

    pub(crate) fn set_status(&self, status: u8) {
        out(&self.bus, self.common + 0x14, &[status]);
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select: u32| {
            out(&self.bus, self.common, &select.to_le_bytes());
            u64::from(inl(&self.bus, self.common + 4))
        };
        half(0) | half(1) << 32
    }

    /// Resets, accepts `features`, and says whether the device agreed.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        self.set_status(1);
        self.set_status(1 | 2);
        for (select, half) in [(0u32, features & 0xffff_ffff), (1, features >> 32)] {
            out(&self.bus, self.common + 8, &select.to_le_bytes());
            out(&self.bus, self.common + 12, &u32::try_from(half).unwrap().to_le_bytes());
        }
        self.set_status(1 | 2 | 8);
        self.status() & 8 != 0
    }

    /// Describes a queue to the device and enables it.
    pub(crate) fn enable(&self, queue: &Queue) {
        out(&self.bus, self.common + 0x16, &queue.index.to_le_bytes());
        out(&self.bus, self.common + 0x18, &queue.size.to_le_bytes());
        let parts = [(0x20, queue.descriptors), (0x28, queue.available), (0x30, queue.used)];
        for (register, address) in parts {
            let [low, high] = [address & 0xffff_ffff, address >> 32].map(|half| u32::try_from(half).unwrap());
            out(&self.bus, self.common + register, &low.to_le_bytes());
            out(&self.bus, self.common + register + 4, &high.to_le_bytes());
        }
        out(&self.bus, self.common + 0x1c, &1u16.to_le_bytes());
    }

    /// Everything up to DRIVER_OK, with `queues`.
    pub(crate) fn start(&self, queues: &[Queue]) {
        self.start_with(0, queues);
    }

    /// The same, with features of this type of device.
    pub(crate) fn start_with(&self, features: u64, queues: &[Queue]) {
        assert!(self.negotiate(VERSION_1 | ACCESS_PLATFORM | features));
        for queue in queues {
            for part in [queue.available, queue.used] {
                self.memory.guest().write_slice(&[0; 4], GuestAddress(part)).unwrap();
            }
            self.enable(queue);
        }
        self.set_status(1 | 2 | 8 | 4);
    }

    pub(crate) fn descriptor(&self, queue: &Queue, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        let at = queue.descriptors + 16 * u64::from(index);
        self.memory.guest().write_slice(&raw, GuestAddress(at)).unwrap();
    }

    /// Makes the chain at `head` available and notifies.
    pub(crate) fn offer(&self, queue: &mut Queue, head: u16) {
        let slot = u64::from(queue.next_available % queue.size);
        self.memory.guest().write_obj(head, GuestAddress(queue.available + 4 + 2 * slot)).unwrap();
        queue.next_available = queue.next_available.wrapping_add(1);
        let index = GuestAddress(queue.available + 2);
        self.memory.guest().store(queue.next_available, index, Ordering::Release).unwrap();
        self.notify(queue.index);
    }

    pub(crate) fn notify(&self, queue: u16) {
        out(&self.bus, self.notify, &queue.to_le_bytes());
    }

    /// The next chain the device gave back, with its length.
    pub(crate) fn used(&self, queue: &mut Queue) -> Option<(u32, u32)> {
        let guest = self.memory.guest();
        let index: u16 = guest.load(GuestAddress(queue.used + 2), Ordering::Acquire).unwrap();
        if index == queue.next_used {
            return None;
        }
        let at = queue.used + 4 + 8 * u64::from(queue.next_used % queue.size);
        queue.next_used = queue.next_used.wrapping_add(1);
        let element: [u32; 2] =
            [guest.read_obj(GuestAddress(at)).unwrap(), guest.read_obj(GuestAddress(at + 4)).unwrap()];
        Some((element[0], element[1]))
    }

    /// Waits for [`Self::used`].
    pub(crate) fn wait_used(&self, queue: &mut Queue) -> (u32, u32) {
        loop {
            if let Some(element) = self.used(queue) {
                return element;
            }
            assert_eq!(self.status() & 0x40, 0, "the device needs a reset");
            std::thread::yield_now();
        }
    }
}
