//! virtio-console: one port (virtio 1.2 §5.3).
//!
//! Owns the two queues and the pipes to the host's side. No feature is offered: one console, no size, no emergency
//! write, no control queues.

use super::stream::{ToGuest, send_chain};
use super::{COPY_MAX, ChainQueue, VirtioDevice};
use crate::devices::pipe::BytePipe;
use std::num::NonZeroUsize;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

/// Queue with buffers for the guest to receive in.
const RECEIVE: u16 = 0;
/// Queue with what the guest sends.
const TRANSMIT: u16 = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];
/// Simple communication controller, other.
pub(super) const CLASS: u32 = 0x07_80_00;
/// `virtio_console_config`: all fields belong to features that are not offered.
const CONFIG: [u8; 12] = [0; 12];
/// Bytes on their way in each direction.
pub(super) const PIPE_BYTES: NonZeroUsize = NonZeroUsize::new(COPY_MAX).expect("a copy has some length");

/// A virtio console. Its host side is [`Self::to_guest`] and [`Self::from_guest`].
#[derive(Debug)]
pub struct Console {
    to_guest: BytePipe,
    from_guest: BytePipe,
}

impl Default for Console {
    fn default() -> Self {
        Self { to_guest: BytePipe::new(PIPE_BYTES), from_guest: BytePipe::new(PIPE_BYTES) }
    }
}

impl Console {
    /// What is sent into this pipe, the guest receives.
    pub fn to_guest(&self) -> BytePipe {
        self.to_guest.clone()
    }

    /// What the guest sends comes out of this pipe. It ends when the device is stopped.
    pub fn from_guest(&self) -> BytePipe {
        self.from_guest.clone()
    }

    fn receive(&self, queue: &dyn ChainQueue) {
        let mut bytes = ToGuest::new();
        // Once the pipe is closed the host has nothing more to say.
        while bytes.wait_for(&self.to_guest).is_ok() {
            let Some(chain) = queue.take() else { return };
            bytes.put_into(queue, chain);
        }
    }

    fn transmit(&self, queue: &dyn ChainQueue) {
        let mut buffer = vec![0; COPY_MAX];
        while let Some(chain) = queue.take() {
            if send_chain(queue, &chain, &mut buffer, &self.from_guest).is_err() {
                return;
            }
            queue.complete(chain, 0);
        }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u8 {
        VIRTIO_ID_CONSOLE.to_le_bytes()[0]
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &CONFIG
    }

    fn run_queue(&self, index: u16, queue: &dyn ChainQueue) {
        match index {
            RECEIVE => self.receive(queue),
            TRANSMIT => self.transmit(queue),
            _ => {}
        }
    }

    fn stop(&self) {
        self.to_guest.close();
        self.from_guest.close();
    }
}
