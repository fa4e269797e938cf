//! A guest for device tests: memory with pages that can be taken away, interrupt lines that can be looked at, and a
//! driver that speaks to the devices through ports alone.

pub(super) mod driver;

use super::interrupt::{IrqLine, Level};
use super::memory::SharedMemory;
use super::{Devices, Wiring, lock};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, Permissions};

pub(super) const PAGE: u64 = 4096;

/// Guest memory from address 0 with a set of private pages.
pub(super) struct TestMemory {
    mmap: GuestMemoryMmap,
    private: RwLock<BTreeSet<u64>>,
}

/// Refuses every access that touches a private page. Holding the read lock keeps a page from being converted under an
/// access, as the real view's epochs do.
pub(super) struct Guard<'a> {
    mmap: &'a GuestMemoryMmap,
    private: RwLockReadGuard<'a, BTreeSet<u64>>,
}

impl TestMemory {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let mmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        Arc::new(Self { mmap, private: RwLock::default() })
    }

    /// Memory as the guest itself sees it.
    pub(super) fn guest(&self) -> &GuestMemoryMmap {
        &self.mmap
    }

    pub(super) fn make_private(&self, address: u64) {
        self.private.write().unwrap().insert(address / PAGE);
    }

    pub(super) fn make_shared(&self, address: u64) {
        self.private.write().unwrap().remove(&(address / PAGE));
    }
}

impl SharedMemory for TestMemory {
    type Guard<'a> = Guard<'a>;

    fn enter(&self) -> Guard<'_> {
        Guard { mmap: &self.mmap, private: self.private.read().unwrap() }
    }
}

impl GuestMemory for Guard<'_> {
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, _access: Permissions) -> bool {
        let last = address.0.saturating_add((count as u64).saturating_sub(1));
        let shared = self.private.range(address.0 / PAGE..=last / PAGE).next().is_none();
        shared && GuestMemoryBackend::check_range(self.mmap, address, count)
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, ()>>, GuestMemoryError> {
        if !self.check_range(address, count, access) {
            return Err(GuestMemoryError::InvalidGuestAddress(address));
        }
        Ok(GuestMemoryBackend::get_slices(self.mmap, address, count))
    }
}

/// An interrupt line that remembers its level and counts its rises.
#[derive(Debug, Default)]
pub(super) struct TestLine {
    state: Mutex<(bool, u64)>,
}

impl TestLine {
    pub(super) fn is_high(&self) -> bool {
        lock(&self.state).0
    }

    pub(super) fn rises(&self) -> u64 {
        lock(&self.state).1
    }
}

impl IrqLine for TestLine {
    fn set(&self, level: Level) {
        let mut state = lock(&self.state);
        state.1 += u64::from(level == Level::High && !state.0);
        state.0 = level == Level::High;
    }
}

/// Devices on `memory`, and PCI's interrupt line.
pub(super) fn devices(memory: &Arc<TestMemory>) -> (Devices<TestMemory>, Arc<TestLine>) {
    devices_with_channels(memory, &[])
}

/// The same with these channels.
pub(super) fn devices_with_channels(
    memory: &Arc<TestMemory>,
    channels: &[&'static str],
) -> (Devices<TestMemory>, Arc<TestLine>) {
    let pci_irq = Arc::new(TestLine::default());
    let wiring = Wiring {
        serial_irq: Arc::new(TestLine::default()),
        pci_irq: pci_irq.clone(),
        serial_output: Box::new(io::sink()),
        channels: channels.to_vec(),
    };
    (Devices::new(wiring, Arc::clone(memory)).unwrap(), pci_irq)
}
