//! Sends buffers over a virtio-console: proof that a device reaches converted memory, also while conversions go on.
//!
//! A driver of the least kind: one queue, no interrupts, everything through ports. Buffer number `n` is 4 KiB; the
//! 8 bytes at its word `w` are `n << 32 | w`, little endian, so that a reader at the other end knows what was lost
//! or changed.
//!
//! Specification: Virtual I/O Device (VIRTIO) 1.2, §2.7 (split virtqueues), §3.1.1 (initialization), §4.1.4 (PCI
//! layout), §5.3 (console).

use super::convert::{ConvertFailure, Side, convert};
use super::layout::VIRTIO_PAGES;
use super::owned::Owned;
use super::pci::Device;
use super::smp;
use crate::abi::{PAGE_SIZE, StagingHeader};
use crate::cpu::{self, Hypercall};
use core::sync::atomic::{Ordering, fence};

const VENDOR: u16 = 0x1af4;
/// Modern console: 0x1040 plus device type 3.
const CONSOLE: u16 = 0x1043;
/// Queue of port 0 from driver to device.
const TRANSMIT_QUEUE: u16 = 1;
/// Entries in our queue, a power of two: as many as there are buffers.
const QUEUE_LEN: u16 = 16;
const _: () = assert!(VIRTIO_PAGES == 3 + QUEUE_LEN as u64);

/// §4.1.4: where capabilities say what they are about.
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
/// §4.1.4.3: offsets in the common configuration.
const DEVICE_FEATURE_SELECT: u16 = 0x00;
const DEVICE_FEATURE: u16 = 0x04;
const DRIVER_FEATURE_SELECT: u16 = 0x08;
const DRIVER_FEATURE: u16 = 0x0c;
const DEVICE_STATUS: u16 = 0x14;
const QUEUE_SELECT: u16 = 0x16;
const QUEUE_SIZE: u16 = 0x18;
const QUEUE_ENABLE: u16 = 0x1c;
const QUEUE_NOTIFY_OFF: u16 = 0x1e;
const QUEUE_DESC: u16 = 0x20;
const QUEUE_DRIVER: u16 = 0x28;
const QUEUE_DEVICE: u16 = 0x30;
/// §2.1: status bits.
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// §6: feature bits 32 and 33, in the second word.
const VERSION_1: u32 = 1 << 0;
const ACCESS_PLATFORM: u32 = 1 << 1;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VirtioFailure {
    /// There is no such device.
    #[error("no virtio-console on PCI bus 0")]
    NoDevice,
    /// A part of its configuration is not in an I/O BAR.
    #[error("configuration structure {0} is not in an I/O BAR")]
    NoStructure(u8),
    /// The device does not do what modern devices do.
    #[error("the device refused features {0:#x} (of its bits 63:32)")]
    Features(u32),
    /// The queue is too small.
    #[error("queue {TRANSMIT_QUEUE} has {0} entries")]
    Queue(u16),
    /// The device does not return buffers.
    #[error("buffer {0} was not returned in time")]
    Timeout(u32),
    /// The device returned what it was not given.
    #[error("the used ring names descriptor {0:#x}")]
    Used(u64),
    /// Rings and buffers could not be converted.
    #[error("{0}")]
    Convert(ConvertFailure),
}

/// Sends `count` buffers from `memory`, which is [`VIRTIO_PAGES`] long and private before and after. Without
/// `convert_by` it is not converted: then nothing is private.
pub fn send(
    header: &StagingHeader,
    memory: &mut Owned,
    count: u32,
    convert_by: Option<Hypercall>,
) -> Result<(), VirtioFailure> {
    let console = Console::find(header)?;
    let to = |memory: &mut Owned, side| {
        convert_by.map_or(Ok(()), |call| convert(call, memory, side)).map_err(VirtioFailure::Convert)
    };
    to(memory, Side::Shared)?;
    console.start(memory)?;
    let mut sent = 0;
    while sent < count {
        let batch = u16::try_from(count - sent).unwrap_or(QUEUE_LEN).min(QUEUE_LEN);
        send_batch(header, &console, memory, sent, batch)?;
        sent += u32::from(batch);
    }
    console.set_status(0);
    to(memory, Side::Private)
}

/// Buffer `n`'s word `w`.
pub const fn word(n: u32, w: u32) -> u64 {
    (n as u64) << 32 | w as u64
}

fn send_batch(
    header: &StagingHeader,
    console: &Console,
    memory: &mut Owned,
    first: u32,
    batch: u16,
) -> Result<(), VirtioFailure> {
    let rings = Rings::in_memory(memory);
    let words = u32::try_from(PAGE_SIZE / 8).unwrap_or(0);
    let available = memory.read16(rings.available + 2);
    let used = memory.read16(rings.used + 2);
    for slot in 0..batch {
        let buffer = rings.buffer(slot);
        for w in 0..words {
            memory.write(buffer + u64::from(w) * 8, word(first + u32::from(slot), w));
        }
        // struct virtq_desc: address; length, flags (read only, alone), next.
        memory.write(rings.descriptors + u64::from(slot) * 16, buffer);
        memory.write(rings.descriptors + u64::from(slot) * 16 + 8, PAGE_SIZE);
        let entry = u64::from(available.wrapping_add(slot) % QUEUE_LEN);
        memory.write16(rings.available + 4 + entry * 2, slot);
    }
    // The device must see descriptors and entries before it sees the index (§2.7.13.3.1).
    fence(Ordering::SeqCst);
    memory.write16(rings.available + 2, available.wrapping_add(batch));
    fence(Ordering::SeqCst);
    console.notify();

    let returned = || memory.read16(rings.used + 2).wrapping_sub(used) >= batch;
    if !smp::wait_for(header.tsc_khz, returned) {
        return Err(VirtioFailure::Timeout(first));
    }
    let mut missing = (1u32 << batch) - 1;
    for slot in 0..batch {
        let entry = u64::from(used.wrapping_add(slot) % QUEUE_LEN);
        // struct virtq_used_elem: id, bytes written; a transmitted buffer is not written to.
        let element = memory.read(rings.used_elements() + entry * 8);
        let bit = u32::try_from(element).ok().and_then(|id| 1u32.checked_shl(id)).unwrap_or(0);
        if missing & bit == 0 {
            return Err(VirtioFailure::Used(element));
        }
        missing &= !bit;
    }
    Ok(())
}

/// Where things are in the queue's memory.
struct Rings {
    descriptors: u64,
    available: u64,
    used: u64,
    buffers: u64,
}

impl Rings {
    fn in_memory(memory: &Owned) -> Self {
        let descriptors = memory.range().start();
        Self {
            descriptors,
            available: descriptors + PAGE_SIZE,
            // A used ring is aligned to 4 (§2.7). Four bytes into a page, its elements can be read whole.
            used: descriptors + 2 * PAGE_SIZE + 4,
            buffers: descriptors + 3 * PAGE_SIZE,
        }
    }

    /// After flags and index.
    const fn used_elements(&self) -> u64 {
        self.used + 4
    }

    fn buffer(&self, slot: u16) -> u64 {
        self.buffers + u64::from(slot) * PAGE_SIZE
    }
}

/// The device's registers.
struct Console {
    common: u16,
    notify: u16,
    notify_multiplier: u32,
    notify_port: core::cell::Cell<u16>,
}

impl Console {
    fn find(header: &StagingHeader) -> Result<Self, VirtioFailure> {
        let device = Device::find(VENDOR, CONSOLE).ok_or(VirtioFailure::NoDevice)?;
        device.enable();
        let structure = |kind: u8| {
            let at = device
                .vendor_capabilities()
                .find(|at| device.read(*at) >> 24 == u32::from(kind))
                .ok_or(VirtioFailure::NoStructure(kind))?;
            let bar = device.read(at + 4).to_le_bytes()[0];
            let port = device.io_bar(bar, header.pci_io_base).ok_or(VirtioFailure::NoStructure(kind))?;
            let offset = u16::try_from(device.read(at + 8)).ok();
            let port = offset.and_then(|offset| port.checked_add(offset));
            port.map(|port| (port, at)).ok_or(VirtioFailure::NoStructure(kind))
        };
        let (common, _) = structure(CFG_COMMON)?;
        let (notify, at) = structure(CFG_NOTIFY)?;
        let notify_multiplier = device.read(at + 16);
        Ok(Self { common, notify, notify_multiplier, notify_port: notify.into() })
    }

    fn set_status(&self, status: u8) {
        cpu::out8(self.common + DEVICE_STATUS, status);
    }

    /// §3.1.1, all steps.
    fn start(&self, memory: &mut Owned) -> Result<(), VirtioFailure> {
        self.set_status(0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        cpu::out32(self.common + DEVICE_FEATURE_SELECT, 1);
        let wanted = cpu::in32(self.common + DEVICE_FEATURE) & (VERSION_1 | ACCESS_PLATFORM);
        for (select, features) in [(0, 0), (1, wanted)] {
            cpu::out32(self.common + DRIVER_FEATURE_SELECT, select);
            cpu::out32(self.common + DRIVER_FEATURE, features);
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if wanted & VERSION_1 == 0 || cpu::in8(self.common + DEVICE_STATUS) & FEATURES_OK == 0 {
            return Err(VirtioFailure::Features(wanted));
        }
        self.start_queue(memory)?;
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Ok(())
    }

    fn start_queue(&self, memory: &mut Owned) -> Result<(), VirtioFailure> {
        cpu::out16(self.common + QUEUE_SELECT, TRANSMIT_QUEUE);
        let size = cpu::in16(self.common + QUEUE_SIZE);
        if size < QUEUE_LEN {
            return Err(VirtioFailure::Queue(size));
        }
        cpu::out16(self.common + QUEUE_SIZE, QUEUE_LEN);
        let rings = Rings::in_memory(memory);
        // No interrupts: VIRTQ_AVAIL_F_NO_INTERRUPT.
        memory.write16(rings.available, 1);
        for (register, gpa) in
            [(QUEUE_DESC, rings.descriptors), (QUEUE_DRIVER, rings.available), (QUEUE_DEVICE, rings.used)]
        {
            let [low, high] = [gpa & 0xffff_ffff, gpa >> 32].map(|half| u32::try_from(half).unwrap_or(0));
            cpu::out32(self.common + register, low);
            cpu::out32(self.common + register + 4, high);
        }
        let offset = u32::from(cpu::in16(self.common + QUEUE_NOTIFY_OFF)) * self.notify_multiplier;
        let port = u16::try_from(offset).ok().and_then(|offset| self.notify.checked_add(offset));
        self.notify_port.set(port.ok_or(VirtioFailure::NoStructure(CFG_NOTIFY))?);
        cpu::out16(self.common + QUEUE_ENABLE, 1);
        Ok(())
    }

    fn notify(&self) {
        cpu::out16(self.notify_port.get(), TRANSMIT_QUEUE);
    }
}
