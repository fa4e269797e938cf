//! Virtio devices over PCI.
//!
//! Owns the modern virtio-pci transport (virtio 1.2 §4.1), split virtqueues (§2.7, through `virtio-queue`) and the
//! devices on top ([`console`], [`channels`]). Everything of the transport, configuration access included, is reached
//! through one I/O BAR, so that a guest whose private memory rules out MMIO emulation can use it.
//!
//! Guests reach a device only through memory they shared: `VIRTIO_F_ACCESS_PLATFORM` must be negotiated, and all
//! memory is reached through [`SharedMemory`](crate::devices::memory::SharedMemory).
//!
//! Each queue is worked off by a thread of its own ([`VirtioDevice::run_queue`]), which waits for the guest, the host
//! or the end of the VM without holding anything. A vCPU thread that writes a register never waits for one of them
//! longer than a copy of [`COPY_MAX`] bytes takes.

pub mod channels;
pub mod console;
pub mod transport;

mod chain;
mod common_config;
mod ring;
mod stream;

pub use chain::{Chain, Place};

use std::fmt::Debug;

/// Most bytes copied from or to guest memory at a time, which bounds how long a conversion may have to wait.
pub const COPY_MAX: usize = 64 << 10;

/// What makes one kind of virtio device different from another.
pub trait VirtioDevice: Debug + Send + Sync {
    /// Device type (virtio 1.2 chapter 5).
    fn device_type(&self) -> u8;
    /// PCI class, subclass and interface.
    fn pci_class(&self) -> u32;
    /// Features of this type of device; the transport adds its own.
    fn features(&self) -> u64;
    /// Most entries of each queue: powers of two.
    fn queue_sizes(&self) -> &[u16];
    /// Device-specific configuration, from its first byte.
    fn config(&self) -> &[u8];
    /// Works off one queue until [`ChainQueue::take`] or the device's host side says it is over. Runs on its own thread.
    fn run_queue(&self, index: u16, queue: &dyn ChainQueue);
    /// The driver reset the device: what it said before counts no more. Nothing of the transport's is locked then.
    fn reset(&self) {}
    /// Ends waiting for the host side, so that [`Self::run_queue`] returns.
    fn stop(&self);
}

/// Why memory of a chain was not accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The queue was reset since the chain was taken: it is the driver's again.
    #[error("the queue was reset")]
    Stale,
    /// A buffer lies outside what the guest shares.
    #[error("a buffer is not in shared memory")]
    Refused,
}

/// A queue as the thread that works it off sees it.
pub trait ChainQueue {
    /// Waits for a chain; `None` when the device is stopped.
    fn take(&self) -> Option<Chain>;
    /// Copies bytes out of the readable part of a chain, from `offset`, and says how many: fewer than asked for only at
    /// its end or above [`COPY_MAX`].
    fn read(&self, chain: &Chain, offset: u64, buffer: &mut [u8]) -> Result<usize, ChainError>;
    /// Copies bytes into the writable part of a chain, from `offset`, and says how many: fewer than given only at its
    /// end or above [`COPY_MAX`].
    fn write(&self, chain: &Chain, offset: u64, data: &[u8]) -> Result<usize, ChainError>;
    /// Whether the queue was not reset since the chain was taken.
    fn is_current(&self, chain: &Chain) -> bool;
    /// The place after the last chain the driver has made available in any queue of the device so far.
    fn end_of(&self, queue: u16) -> Place;
    /// Gives a chain back to the driver with `written` bytes in its writable part.
    fn complete(&self, chain: Chain, written: u32);
}

#[cfg(test)]
mod tests;
