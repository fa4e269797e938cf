//! virtio-console: one port (virtio 1.2 §5.3).
//!
//! Owns the two queues and the pipes to the host's side. No feature is offered: one console, no size, no emergency
//! write, no control queues.

use super::{COPY_MAX, ChainError, ChainQueue, VirtioDevice};
use crate::devices::pipe::BytePipe;
use std::num::NonZeroUsize;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

/// Queue with buffers for the guest to receive in.
const RECEIVE: u16 = 0;
/// Queue with what the guest sends.
const TRANSMIT: u16 = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];
/// Simple communication controller, other.
const CLASS: u32 = 0x07_80_00;
/// `virtio_console_config`: all fields belong to features that are not offered.
const CONFIG: [u8; 12] = [0; 12];
/// Bytes on their way in each direction.
const PIPE_BYTES: NonZeroUsize = NonZeroUsize::new(COPY_MAX).expect("a copy has some length");

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
        let mut buffer = vec![0; COPY_MAX];
        let mut pending = 0..0;
        loop {
            if pending.is_empty() {
                pending = 0..self.to_guest.receive(&mut buffer);
            }
            if pending.is_empty() {
                // Closed: the host has nothing more to say.
                return;
            }
            let Some(chain) = queue.take() else { return };
            match queue.write(&chain, 0, &buffer[pending.clone()]) {
                Ok(written) => {
                    pending.start += written;
                    queue.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
                }
                // The bytes wait for a buffer that can hold them.
                Err(ChainError::Refused) => queue.complete(chain, 0),
                Err(ChainError::Stale) => {}
            }
        }
    }

    fn transmit(&self, queue: &dyn ChainQueue) {
        let mut buffer = vec![0; COPY_MAX];
        while let Some(chain) = queue.take() {
            let mut offset = 0;
            // A refused buffer loses what it held: there is no way to tell the driver, and it must get its chain back.
            while let Ok(len @ 1..) = queue.read(&chain, offset, &mut buffer) {
                if self.from_guest.send_all(&buffer[..len]).is_err() {
                    return;
                }
                offset += len as u64;
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
