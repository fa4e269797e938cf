//! The virtio-pci transport: a PCI function with everything in one I/O BAR (virtio 1.2 §4.1).
//!
//! Owns capabilities, the BAR's layout, the interrupt, notifications, and the state the queue threads and the vCPU
//! threads share. All of that state is behind one lock, held for register accesses and copies, never while anybody
//! waits for anything else.

use super::chain::{Chain, Place};
use super::common_config::{COMMON_CONFIG_LEN, Change, CommonConfig};
use super::ring::{Interrupt, Ring, RingError};
use super::{COPY_MAX, ChainError, ChainQueue, VirtioDevice};
use crate::devices::bus::Event;
use crate::devices::interrupt::{IrqLine, Level};
use crate::devices::lock;
use crate::devices::memory::SharedMemory;
use crate::devices::pci::Function;
use crate::devices::pci::config_space::{ConfigError, ConfigSpace, Identity};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The only BAR.
const BAR: u8 = 0;
const BAR_PORTS: u16 = 256;
// What is where in the BAR.
const COMMON: Range<u16> = 0x00..COMMON_CONFIG_LEN;
const ISR: Range<u16> = 0x40..0x44;
const DEVICE: Range<u16> = 0x50..0x60;
const NOTIFY: Range<u16> = 0x60..0x64;

/// PCI capability ID "vendor specific".
const CAP_VENDOR: u8 = 0x09;
// Kinds of virtio capability (§4.1.4).
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;
// Fields of the PCI configuration access capability.
const PCI_CAP_BAR: u8 = 4;
const PCI_CAP_OFFSET: u8 = 8;
const PCI_CAP_LENGTH: u8 = 12;
const PCI_CAP_DATA: u8 = 16;
/// Its data field.
const PCI_CAP_DATA_LEN: u8 = 4;

/// PCI vendor of virtio devices; device IDs are 0x1040 plus the type (§4.1.2).
const VIRTIO_VENDOR: u16 = 0x1af4;
const VIRTIO_DEVICE_BASE: u16 = 0x1040;
/// Subsystem of a non-transitional device: any ID from 0x40.
const VIRTIO_SUBSYSTEM: u16 = 0x1100;

/// ISR: a queue has used buffers.
const ISR_QUEUE: u8 = 1 << 0;
/// ISR: configuration or status changed.
const ISR_CONFIG: u8 = 1 << 1;

/// What happened on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtioCounts {
    /// Notifications of queues that exist.
    pub notifications: u64,
    /// Notifications of queues that do not.
    pub bad_notifications: u64,
    /// Chains given back to the driver.
    pub chains: u64,
    /// Bytes read from guest memory.
    pub read_bytes: u64,
    /// Bytes written to guest memory.
    pub written_bytes: u64,
    /// Reads of buffers.
    pub accepted_reads: u64,
    /// Writes of buffers.
    pub accepted_writes: u64,
    /// Reads of buffers that were not in shared memory.
    pub refused_reads: u64,
    /// Writes of buffers that were not in shared memory.
    pub refused_writes: u64,
    /// Rings that were not in shared memory.
    pub refused_rings: u64,
    /// Rings and chains against the rules.
    pub broken_rings: u64,
    /// Resets by the driver.
    pub resets: u64,
    /// Times the interrupt line was raised.
    pub interrupts: u64,
}

/// What a write to a register came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// All of it is done.
    Done,
    /// The driver reset the device, which is yet to be told.
    Reset,
}

#[derive(Debug)]
struct State {
    config: ConfigSpace,
    common: CommonConfig,
    rings: Vec<Option<Ring>>,
    isr: u8,
    line: Level,
    /// Counts resets.
    generation: u64,
    stopped: bool,
    counts: VirtioCounts,
}

/// A virtio device on PCI.
pub struct VirtioPci<M> {
    device: Arc<dyn VirtioDevice>,
    memory: Arc<M>,
    irq: Arc<dyn IrqLine>,
    /// Where the PCI configuration access capability begins.
    pci_cap: u8,
    state: Mutex<State>,
    /// Something happened the queue threads may be waiting for.
    wake: Condvar,
}

impl<M> fmt::Debug for VirtioPci<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("device", &self.device).finish_non_exhaustive()
    }
}

impl<M: SharedMemory> VirtioPci<M> {
    /// Puts `device` on PCI, with INTA at `irq`, which the guest knows as interrupt `line`.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<M>,
        irq: Arc<dyn IrqLine>,
        line: u8,
    ) -> Result<Self, ConfigError> {
        let mut config = ConfigSpace::new(Identity {
            vendor: VIRTIO_VENDOR,
            device: VIRTIO_DEVICE_BASE + u16::from(device.device_type()),
            subsystem_vendor: VIRTIO_VENDOR,
            subsystem: VIRTIO_SUBSYSTEM,
            revision: 1,
            class: device.pci_class(),
        });
        config.add_io_bar(BAR, BAR_PORTS)?;
        config.add_interrupt(line);
        add_capability(&mut config, CAP_COMMON, COMMON, &[])?;
        add_capability(&mut config, CAP_ISR, ISR, &[])?;
        add_capability(&mut config, CAP_DEVICE, DEVICE, &[])?;
        // All queues are notified at one address: the multiplier that follows is zero.
        add_capability(&mut config, CAP_NOTIFY, NOTIFY, &[0; 4])?;
        let pci_cap = add_capability(&mut config, CAP_PCI, 0..0, &[0; PCI_CAP_DATA_LEN as usize])?;
        let queue_sizes = device.queue_sizes();
        let state = State {
            config,
            common: CommonConfig::new(device.features(), queue_sizes),
            rings: queue_sizes.iter().map(|_| None).collect(),
            isr: 0,
            line: Level::Low,
            generation: 0,
            stopped: false,
            counts: VirtioCounts::default(),
        };
        Ok(Self { device, memory, irq, pci_cap, state: Mutex::new(state), wake: Condvar::new() })
    }

    /// Works off queue `index` until [`Self::stop`]; for a thread of its own.
    pub fn run_queue(&self, index: u16) {
        self.device.run_queue(index, &Handle { transport: self, index });
    }

    /// Queues of the device.
    pub fn queues(&self) -> u16 {
        u16::try_from(self.device.queue_sizes().len()).unwrap_or(u16::MAX)
    }

    /// Ends [`Self::run_queue`] on all threads. No guest memory is touched afterwards.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.wake.notify_all();
        self.device.stop();
    }

    /// What happened so far.
    pub fn counts(&self) -> VirtioCounts {
        lock(&self.state).counts
    }

    fn common_write(&self, state: &mut State, offset: u16, data: &[u8]) -> Written {
        let change = state.common.write(offset, data);
        match change {
            Change::None => {}
            Change::Reset => {
                state.rings.fill_with(|| None);
                state.isr = 0;
                state.generation += 1;
                state.counts.resets += 1;
            }
            Change::Enabled(index) => {
                let ring = state.common.queue(index).map(Ring::new);
                match (ring, state.rings.get_mut(usize::from(index))) {
                    (Some(Ok(ring)), Some(slot)) => *slot = Some(ring),
                    (Some(Err(error)), _) => self.fail(state, index, &error),
                    _ => {}
                }
            }
            Change::Live => self.check_rings(state),
        }
        self.update_line(state);
        self.wake.notify_all();
        if change == Change::Reset { Written::Reset } else { Written::Done }
    }

    /// Finds out at once about rings in private memory, not only when the first buffer is there.
    fn check_rings(&self, state: &mut State) {
        let memory = self.memory.enter();
        let checked = (0..).zip(&state.rings).filter_map(|(index, ring)| Some((index, ring.as_ref()?.check(&memory))));
        let failed: Vec<(u16, RingError)> =
            checked.filter_map(|(index, result)| Some((index, result.err()?))).collect();
        drop(memory);
        for (index, error) in &failed {
            self.fail(state, *index, error);
        }
    }

    fn fail(&self, state: &mut State, queue: u16, error: &RingError) {
        match error {
            // What a guest does that does not share its memory: it goes on without this device.
            RingError::Refused { .. } => {
                state.counts.refused_rings += 1;
                tracing::info!(queue, %error, "virtio device needs a reset");
            }
            RingError::Broken(_) | RingError::Chain(_) => {
                state.counts.broken_rings += 1;
                tracing::warn!(queue, %error, "virtio device needs a reset");
            }
        }
        if state.common.fail() {
            state.isr |= ISR_CONFIG;
        }
        self.update_line(state);
    }

    fn update_line(&self, state: &mut State) {
        let level = if state.config.interrupt(state.isr != 0) { Level::High } else { Level::Low };
        if level != state.line {
            state.line = level;
            state.counts.interrupts += u64::from(level == Level::High);
            self.irq.set(level);
        }
    }

    fn read_registers(&self, state: &mut State, offset: u16, data: &mut [u8]) {
        data.fill(0);
        if COMMON.contains(&offset) {
            state.common.read(offset, data);
        } else if offset == ISR.start {
            // Reading acknowledges.
            if let Some(byte) = data.first_mut() {
                *byte = std::mem::take(&mut state.isr);
            }
            self.update_line(state);
        } else if let Some(from) = offset.checked_sub(DEVICE.start).filter(|_| DEVICE.contains(&offset)) {
            let config = self.device.config();
            for (byte, at) in data.iter_mut().zip(usize::from(from)..) {
                *byte = config.get(at).copied().unwrap_or(0);
            }
        }
    }

    fn write_registers(&self, state: &mut State, offset: u16, data: &[u8]) -> Written {
        if COMMON.contains(&offset) {
            return self.common_write(state, offset, data);
        }
        if offset == NOTIFY.start {
            let [low, high] = [data.first(), data.get(1)].map(|byte| byte.copied().unwrap_or(0));
            if u16::from_le_bytes([low, high]) < self.queues() {
                state.counts.notifications += 1;
                self.wake.notify_all();
            } else {
                state.counts.bad_notifications += 1;
            }
        }
        Written::Done
    }

    /// What follows from a write once the state is free again: the device has locks of its own.
    fn after(&self, written: Written) {
        if written == Written::Reset {
            self.device.reset();
        }
    }

    /// The BAR access the PCI configuration access capability describes, offset and length, if `register` is its data
    /// field.
    fn pci_access(&self, state: &State, register: u8) -> Option<(u16, usize)> {
        let data = self.pci_cap + PCI_CAP_DATA;
        if !(data..data + PCI_CAP_DATA_LEN).contains(&register) {
            return None;
        }
        let field = |at: u8| {
            let mut bytes = [0; 4];
            state.config.read(self.pci_cap + at, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let [bar, ..] = field(PCI_CAP_BAR).to_le_bytes();
        let offset = u16::try_from(field(PCI_CAP_OFFSET)).ok()?;
        let len = u16::try_from(field(PCI_CAP_LENGTH)).ok().filter(|len| matches!(len, 1 | 2 | 4))?;
        let inside = offset.is_multiple_of(len) && offset <= BAR_PORTS - len;
        (bar == BAR && inside).then_some((offset, usize::from(len)))
    }
}

impl<M: SharedMemory> Function for VirtioPci<M> {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        let mut state = lock(&self.state);
        if let Some((register, len)) = self.pci_access(&state, offset) {
            let mut value = [0; PCI_CAP_DATA_LEN as usize];
            self.read_registers(&mut state, register, &mut value[..len]);
            state.config.write(self.pci_cap + PCI_CAP_DATA, &value);
        }
        state.config.read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Option<Event> {
        let mut state = lock(&self.state);
        let mut written = Written::Done;
        state.config.write(offset, data);
        if let Some((register, len)) = self.pci_access(&state, offset) {
            let mut value = [0; PCI_CAP_DATA_LEN as usize];
            state.config.read(self.pci_cap + PCI_CAP_DATA, &mut value);
            written = self.write_registers(&mut state, register, &value[..len]);
        }
        // The command register may have switched the interrupt off or on.
        self.update_line(&mut state);
        drop(state);
        self.after(written);
        None
    }

    fn io_bar_sizes(&self) -> Vec<(u8, u16)> {
        lock(&self.state).config.io_bar_sizes()
    }

    fn io_bar(&self, bar: u8) -> Option<Range<u32>> {
        lock(&self.state).config.io_bar(bar)
    }

    fn bar_read(&self, _bar: u8, offset: u16, data: &mut [u8]) {
        self.read_registers(&mut lock(&self.state), offset, data);
    }

    fn bar_write(&self, _bar: u8, offset: u16, data: &[u8]) -> Option<Event> {
        let written = self.write_registers(&mut lock(&self.state), offset, data);
        self.after(written);
        None
    }
}

/// Adds a virtio capability for a part of the BAR; `extra` follows the common fields. Only the capability for access
/// through configuration space can be written.
fn add_capability(config: &mut ConfigSpace, kind: u8, part: Range<u16>, extra: &[u8]) -> Result<u8, ConfigError> {
    // Everything before `extra`: ID, link, length, kind, BAR, identifier, two bytes of padding, offset, length.
    let len = u8::try_from(16 + extra.len()).unwrap_or(u8::MAX);
    let mut body = vec![len, kind, BAR, 0, 0, 0];
    body.extend(u32::from(part.start).to_le_bytes());
    body.extend(u32::from(part.end - part.start).to_le_bytes());
    body.extend(extra);
    let writable: Vec<u8> = match kind {
        CAP_PCI => (0..body.len()).map(|at| if at == 2 || at >= 6 { 0xff } else { 0 }).collect(),
        _ => Vec::new(),
    };
    config.add_capability(CAP_VENDOR, &body, &writable)
}

/// One queue, for the thread that works it off.
struct Handle<'a, M> {
    transport: &'a VirtioPci<M>,
    index: u16,
}

impl<M: SharedMemory> Handle<'_, M> {
    fn pop(&self, state: &mut MutexGuard<'_, State>) -> Option<Chain> {
        if !state.common.is_live() {
            return None;
        }
        let generation = state.generation;
        let ring = state.rings.get_mut(usize::from(self.index))?.as_mut()?;
        let popped = ring.pop(&self.transport.memory.enter(), generation);
        popped.unwrap_or_else(|error| {
            self.transport.fail(state, self.index, &error);
            None
        })
    }

    /// The state, if `chain` still belongs to the device.
    fn current(&self, chain: &Chain) -> Result<MutexGuard<'_, State>, ChainError> {
        let state = lock(&self.transport.state);
        let current = chain.place().generation == state.generation && state.common.is_live() && !state.stopped;
        if current { Ok(state) } else { Err(ChainError::Stale) }
    }
}

impl<M: SharedMemory> ChainQueue for Handle<'_, M> {
    fn take(&self) -> Option<Chain> {
        let mut state = lock(&self.transport.state);
        while !state.stopped {
            if let Some(chain) = self.pop(&mut state) {
                return Some(chain);
            }
            state = self.transport.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn is_current(&self, chain: &Chain) -> bool {
        self.current(chain).is_ok()
    }

    fn end_of(&self, queue: u16) -> Place {
        let mut state = lock(&self.transport.state);
        let ring = state.rings.get(usize::from(queue)).and_then(Option::as_ref);
        let end = ring.map_or(Ok(0), |ring| ring.end(&self.transport.memory.enter()));
        let position = end.unwrap_or_else(|error| {
            self.transport.fail(&mut state, queue, &error);
            0
        });
        Place { generation: state.generation, position }
    }

    fn read(&self, chain: &Chain, offset: u64, buffer: &mut [u8]) -> Result<usize, ChainError> {
        let len = buffer.len().min(COPY_MAX);
        let mut state = self.current(chain)?;
        let copied = chain.read(&self.transport.memory.enter(), offset, &mut buffer[..len]);
        let Ok(copied) = copied else {
            state.counts.refused_reads += 1;
            return Err(ChainError::Refused);
        };
        state.counts.accepted_reads += 1;
        state.counts.read_bytes += copied as u64;
        Ok(copied)
    }

    fn write(&self, chain: &Chain, offset: u64, data: &[u8]) -> Result<usize, ChainError> {
        let len = data.len().min(COPY_MAX);
        let mut state = self.current(chain)?;
        let copied = chain.write(&self.transport.memory.enter(), offset, &data[..len]);
        let Ok(copied) = copied else {
            state.counts.refused_writes += 1;
            return Err(ChainError::Refused);
        };
        state.counts.accepted_writes += 1;
        state.counts.written_bytes += copied as u64;
        Ok(copied)
    }

    fn complete(&self, chain: Chain, written: u32) {
        let Ok(mut state) = self.current(&chain) else { return };
        let Some(ring) = state.rings.get_mut(usize::from(self.index)).and_then(Option::as_mut) else { return };
        let pushed = ring.push(&self.transport.memory.enter(), &chain, written);
        match pushed {
            Ok(interrupt) => {
                state.counts.chains += 1;
                if interrupt == Interrupt::Wanted {
                    state.isr |= ISR_QUEUE;
                    self.transport.update_line(&mut state);
                }
            }
            Err(error) => self.transport.fail(&mut state, self.index, &error),
        }
    }
}
