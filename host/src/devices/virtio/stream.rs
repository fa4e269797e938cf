//! Bytes between pipes and chains: what a console's port and a channel's have in common.
//!
//! Owns how a pipe's bytes get into the buffers of a guest, and what a guest sends into a pipe. Does not own whose bytes
//! these are, or when.

use super::{COPY_MAX, Chain, ChainError, ChainQueue};
use crate::devices::pipe::{BytePipe, Closed};
use std::ops::Range;

/// Bytes out of a pipe, until there is a buffer of the guest's for them.
#[derive(Debug)]
pub(super) struct ToGuest {
    buffer: Vec<u8>,
    left: Range<usize>,
}

impl ToGuest {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; COPY_MAX], left: 0..0 }
    }

    /// Waits until there are bytes. There never will be if the pipe is closed and all was taken.
    pub(super) fn wait_for(&mut self, pipe: &BytePipe) -> Result<(), Closed> {
        if self.left.is_empty() {
            self.left = 0..pipe.receive(&mut self.buffer);
        }
        if self.left.is_empty() { Err(Closed) } else { Ok(()) }
    }

    /// Puts as many bytes into a chain as it holds, and gives it back.
    pub(super) fn put_into(&mut self, queue: &dyn ChainQueue, chain: Chain) {
        match queue.write(&chain, 0, &self.buffer[self.left.clone()]) {
            Ok(written) => {
                self.left.start += written;
                queue.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
            }
            // The bytes wait for a buffer that can hold them.
            Err(ChainError::Refused) => queue.complete(chain, 0),
            Err(ChainError::Stale) => {}
        }
    }

    /// Nobody is there for these bytes any more.
    pub(super) fn forget(&mut self) {
        self.left = 0..0;
    }
}

/// Sends what a chain holds into a pipe, through `buffer`, waiting for room. The chain stays the caller's to give back.
pub(super) fn send_chain(
    queue: &dyn ChainQueue,
    chain: &Chain,
    buffer: &mut [u8],
    pipe: &BytePipe,
) -> Result<(), Closed> {
    let mut offset = 0;
    // A refused buffer loses what it held: there is no way to tell the driver, and it must get its chain back.
    while let Ok(len @ 1..) = queue.read(chain, offset, buffer) {
        pipe.send_all(&buffer[..len])?;
        offset += len as u64;
    }
    Ok(())
}
