//! One virtqueue's rings.
//!
//! Owns the checks around `virtio-queue`: rings are used only while all of their memory is shared, and a driver that
//! breaks the rules of rings is found out.

use super::chain::{Chain, MalformedChain, Place};
use super::common_config::QueueRegisters;
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

/// Why a ring cannot be used any more. The device then needs a reset.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    /// Part of the rings is not in shared memory.
    #[error("rings at {descriptors:#x}, {driver:#x} and {device:#x} of a queue of {size} are not all in shared memory")]
    Refused {
        /// Descriptor table.
        descriptors: u64,
        /// Available ring.
        driver: u64,
        /// Used ring.
        device: u64,
        /// Entries.
        size: u16,
    },
    /// The driver broke a rule.
    #[error("ring broken by the driver: {0}")]
    Broken(#[from] virtio_queue::Error),
    /// The driver broke a rule of chains.
    #[error(transparent)]
    Chain(#[from] MalformedChain),
}

/// Whether the driver wants to hear of a used buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    Wanted,
    Suppressed,
}

#[derive(Debug)]
pub(super) struct Ring {
    queue: Queue,
}

impl Ring {
    /// The ring a driver described.
    pub(super) fn new(registers: &QueueRegisters) -> Result<Self, RingError> {
        let mut queue = Queue::new(registers.max_size)?;
        queue.try_set_size(registers.size)?;
        queue.try_set_desc_table_address(GuestAddress(registers.descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(registers.driver))?;
        queue.try_set_used_ring_address(GuestAddress(registers.device))?;
        queue.set_ready(true);
        Ok(Self { queue })
    }

    /// Whether all of the rings is in shared memory now.
    pub(super) fn check(&self, memory: &impl GuestMemory) -> Result<(), RingError> {
        if self.queue.is_valid(memory) {
            return Ok(());
        }
        Err(RingError::Refused {
            descriptors: self.queue.desc_table(),
            driver: self.queue.avail_ring(),
            device: self.queue.used_ring(),
            size: self.queue.size(),
        })
    }

    /// Takes the next chain the driver made available.
    pub(super) fn pop(&mut self, memory: &impl GuestMemory, generation: u64) -> Result<Option<Chain>, RingError> {
        self.check(memory)?;
        let size = self.queue.size();
        let place = Place { generation, position: self.queue.next_avail() };
        let Some(descriptors) = self.queue.iter(memory)?.next() else { return Ok(None) };
        Ok(Some(Chain::collect(descriptors, size, place)?))
    }

    /// The position after the last chain the driver made available.
    pub(super) fn end(&self, memory: &impl GuestMemory) -> Result<u16, RingError> {
        self.check(memory)?;
        let end = self.queue.avail_idx(memory, Ordering::Acquire)?.0;
        if end.wrapping_sub(self.queue.next_avail()) > self.queue.size() {
            return Err(virtio_queue::Error::InvalidAvailRingIndex.into());
        }
        Ok(end)
    }

    /// Gives a chain back.
    pub(super) fn push(
        &mut self,
        memory: &impl GuestMemory,
        chain: &Chain,
        written: u32,
    ) -> Result<Interrupt, RingError> {
        self.check(memory)?;
        self.queue.add_used(memory, chain.head(), written)?;
        if !self.queue.needs_notification(memory)? {
            return Ok(Interrupt::Suppressed);
        }
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        let suppressed = u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0;
        Ok(if suppressed { Interrupt::Suppressed } else { Interrupt::Wanted })
    }
}
