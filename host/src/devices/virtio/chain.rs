//! Descriptor chains.
//!
//! Owns a chain's shape once it has been read from the ring: nothing of it is read from guest memory twice, so a guest
//! that changes it meanwhile changes nothing.

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryError};

/// A run of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: GuestAddress,
    len: u32,
}

/// A place in the order in which a driver makes chains of one queue available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Counts resets of the queue, so that a chain from before one is told from those after.
    pub(super) generation: u64,
    /// Counts chains since then, as rings do.
    pub(super) position: u16,
}

impl Place {
    /// The place after this one.
    pub(super) const fn next(self) -> Self {
        Self { generation: self.generation, position: self.position.wrapping_add(1) }
    }

    /// Whether nothing is left before `end`, of a chain that was, or could be, taken from here next. Where another reset
    /// lies between them, nothing after it was taken yet.
    pub(super) const fn has_reached(self, end: Self) -> bool {
        if self.generation != end.generation {
            return self.generation > end.generation || end.position == 0;
        }
        // A ring has at most half as many entries as there are positions.
        self.position.wrapping_sub(end.position) < 1 << 15
    }
}

/// A chain of buffers a driver made available, taken from its ring.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    place: Place,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

/// The driver built a chain no driver may build: a loop, a link out of the table, more entries than the queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("descriptor chain at {head} is malformed after {descriptors} descriptors")]
pub(super) struct MalformedChain {
    head: u16,
    descriptors: usize,
}

impl Chain {
    pub(super) fn collect<M: GuestMemory>(
        descriptors: DescriptorChain<&M>,
        queue_size: u16,
        place: Place,
    ) -> Result<Self, MalformedChain> {
        let head = descriptors.head_index();
        let mut chain = Self { head, place, readable: Vec::new(), writable: Vec::new() };
        let mut count = 0;
        let mut complete = false;
        // An indirect table could have more entries than the queue, but indirect descriptors are not offered.
        for descriptor in descriptors.take(usize::from(queue_size)) {
            count += 1;
            complete = !Descriptor::has_next(&descriptor);
            let segment = Segment { address: descriptor.addr(), len: descriptor.len() };
            let part = if descriptor.is_write_only() { &mut chain.writable } else { &mut chain.readable };
            part.push(segment);
        }
        if complete { Ok(chain) } else { Err(MalformedChain { head, descriptors: count }) }
    }

    pub(super) const fn head(&self) -> u16 {
        self.head
    }

    /// Its place among the chains of its queue.
    pub(super) const fn place(&self) -> Place {
        self.place
    }

    /// Bytes the driver wants to send.
    pub fn readable_bytes(&self) -> u64 {
        self.readable.iter().map(|segment| u64::from(segment.len)).sum()
    }

    pub(super) fn read(
        &self,
        memory: &impl GuestMemory,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for (address, len) in pieces(&self.readable, offset, buffer.len()) {
            memory.read_slice(&mut buffer[done..done + len], address?)?;
            done += len;
        }
        Ok(done)
    }

    pub(super) fn write(&self, memory: &impl GuestMemory, offset: u64, data: &[u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for (address, len) in pieces(&self.writable, offset, data.len()) {
            memory.write_slice(&data[done..done + len], address?)?;
            done += len;
        }
        Ok(done)
    }
}

/// Runs of memory that hold up to `len` bytes of `segments` from `offset`. None is empty.
fn pieces(
    segments: &[Segment],
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (Result<GuestAddress, GuestMemoryError>, usize)> {
    let mut skip = offset;
    let mut left = len;
    segments.iter().filter_map(move |segment| {
        let skipped = skip.min(u64::from(segment.len));
        skip -= skipped;
        let rest = usize::try_from(u64::from(segment.len) - skipped).unwrap_or(usize::MAX);
        let len = rest.min(left);
        left -= len;
        let address = segment.address.checked_add(skipped).ok_or(GuestMemoryError::GuestAddressOverflow);
        (len > 0).then_some((address, len))
    })
}
