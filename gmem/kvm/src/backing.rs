//! Host memory behind what is shared.
//!
//! Owns the memfd that shared pages live in, its mapping, and how pages are given back. Everything the process maps of
//! a guest is made here; private memory is a guest_memfd, which no process can map. The mapping itself is
//! `vm-memory`'s; nobody but the kernel port and [`crate::shared`] gets at it.

use std::fs::File;
use std::sync::Arc;

use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE, PageCount};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use vm_memory::mmap::{GuestRegionMmap, MmapRegion};
use vm_memory::{FileOffset, GuestAddress};

/// One run of guest frames with the host memory behind it.
///
/// The mapping reserves nothing: pages exist once they are touched and are gone after [`Region::discard`].
#[derive(Debug)]
pub struct Region {
    range: GfnRange,
    file: Arc<File>,
    mapping: Arc<MmapRegion>,
}

/// Why host memory could not be had or given back.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The kernel refused a file.
    #[error("cannot create {len} of shared memory: {source}")]
    Create {
        /// How much.
        len: ByteLen,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused a mapping.
    #[error("cannot map {len} of shared memory for {gpa}: {reason}")]
    Map {
        /// How much.
        len: ByteLen,
        /// For which guest address.
        gpa: Gpa,
        /// Why.
        reason: String,
    },
    /// The range is longer than this process can map.
    #[error("{range} is longer than this process can map")]
    TooLong {
        /// Which range.
        range: GfnRange,
    },
    /// Pages could not be given back.
    #[error("cannot give back {range} of shared memory: {source}")]
    Discard {
        /// Which pages.
        range: GfnRange,
        /// Why.
        source: std::io::Error,
    },
}

impl Region {
    /// Maps fresh, empty memory for `range` under a name people see in `/proc/PID/maps`.
    pub fn new(name: &str, range: GfnRange) -> Result<Self, BackingError> {
        let len = range.bytes().ok_or(BackingError::TooLong { range })?;
        let size = usize::try_from(len.0).map_err(|_| BackingError::TooLong { range })?;
        let create = |source: rustix::io::Errno| BackingError::Create { len, source: source.into() };
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(create)?;
        rustix::fs::ftruncate(&file, len.0).map_err(create)?;
        // The size is part of what was promised to KVM: nothing may change it again.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(create)?;
        let file = Arc::new(File::from(file));
        let mapping = MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), 0), size)
            .map_err(|error| BackingError::Map { len, gpa: range.gpa(), reason: error.to_string() })?;
        Ok(Self { range, file, mapping: Arc::new(mapping) })
    }

    /// The guest frames this is for.
    pub fn range(&self) -> GfnRange {
        self.range
    }

    /// The mapping, for the kernel port.
    pub(crate) fn mapping(&self) -> &MmapRegion {
        &self.mapping
    }

    /// The mapping as `vm-memory` wants it; `None` if an address overflows.
    pub(crate) fn guest_region(&self) -> Option<GuestRegionMmap> {
        GuestRegionMmap::with_arc(Arc::clone(&self.mapping), GuestAddress(self.range.gpa().0))
    }

    /// Gives pages back: they hold nothing and take nothing afterwards, and read as zeros if touched again.
    pub fn discard(&self, range: GfnRange) -> Result<(), BackingError> {
        let Some(inside) = self.range.intersection(range) else { return Ok(()) };
        let first = inside.start().number() - self.range.start().number();
        let (offset, len) = (first * PAGE_SIZE, inside.pages().get() * PAGE_SIZE);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&*self.file, mode, offset, len)
            .map_err(|error| BackingError::Discard { range: inside, source: error.into() })
    }

    /// The file, for tests that look at what is in it or take it away.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What one of its pages holds, for a kernel in a test; `None` outside of it.
    #[cfg(any(test, feature = "testing"))]
    pub fn read_page(&self, gfn: gmem::Gfn) -> Option<[u8; 4096]> {
        let mut page = [0; 4096];
        let read = rustix::io::pread(&*self.file, &mut page, self.offset_of(gfn)?).ok()?;
        (read == page.len()).then_some(page)
    }

    /// Writes one of its pages, for a kernel in a test; `None` outside of it.
    #[cfg(any(test, feature = "testing"))]
    pub fn write_page(&self, gfn: gmem::Gfn, page: &[u8; 4096]) -> Option<()> {
        let written = rustix::io::pwrite(&*self.file, page, self.offset_of(gfn)?).ok()?;
        (written == page.len()).then_some(())
    }

    #[cfg(any(test, feature = "testing"))]
    fn offset_of(&self, gfn: gmem::Gfn) -> Option<u64> {
        self.range.contains(gfn).then(|| (gfn.number() - self.range.start().number()) * PAGE_SIZE)
    }

    /// Pages that take host memory now.
    pub fn resident(&self) -> Result<PageCount, std::io::Error> {
        let blocks = rustix::fs::fstat(&*self.file)?.st_blocks;
        Ok(ByteLen(u64::try_from(blocks).unwrap_or(0) * 512).pages_up())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gmem::Gfn;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestRegionCollection};

    fn region(pages: u64) -> Region {
        let range = GfnRange::new(Gfn::new(16).unwrap(), PageCount::new(pages)).unwrap();
        Region::new("test", range).unwrap()
    }

    /// no-stale-copy: what is given back is gone, and takes nothing.
    #[test]
    fn no_stale_copy_after_discard() {
        let region = region(8);
        let memory = GuestRegionCollection::from_regions(vec![region.guest_region().unwrap()]).unwrap();
        assert_eq!(memory.num_regions(), 1);
        assert_eq!(region.resident().unwrap(), PageCount::new(0));
        let at = GuestAddress(18 * PAGE_SIZE);
        memory.write_obj(7u64, at).unwrap();
        assert_eq!(region.resident().unwrap(), PageCount::new(1));
        region.discard(region.range()).unwrap();
        assert_eq!(region.resident().unwrap(), PageCount::new(0));
        assert_eq!(memory.read_obj::<u64>(at).unwrap(), 0);
    }

    #[test]
    fn discard_outside_is_nothing() {
        let region = region(1);
        region.discard(GfnRange::new(Gfn::new(0).unwrap(), PageCount::new(4)).unwrap()).unwrap();
    }
}
