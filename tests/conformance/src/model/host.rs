//! The host's own address space: windows with ordinary memory, and mappings of guest_memfds.
//!
//! Specification: `mmap(2)`, `do_mmap`, `kvm_gmem_mmap`, `kvm_gmem_fault_user_mapping`. A mapping keeps its file, and so
//! the VM. What the host can reach is what `userspace_addr` of a slot can reach.

use super::{FileId, Model};
use crate::kernel::Quirk;
use crate::op::{
    Advice, File, INIT_SHARED, KEEP_SIZE, MMAP, Map, PAGE, PUNCH_HOLE, Place, Plain, Protection, Sharing, WINDOW_BYTES,
};
use crate::outcome::Errno;

/// A VMA of a guest_memfd.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    file: FileId,
    first: u64,
    len: u64,
    writable: bool,
}

/// What a page is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A page that can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Plain(Plain, u64),
    File(FileId, u64),
}

impl Model {
    /// `mmap`.
    pub(super) fn map(
        &mut self,
        map: Map,
        file: File,
        offset: u64,
        len: u64,
        sharing: Sharing,
        protection: Protection,
    ) -> Result<(), Errno> {
        if !offset.is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let id = self.open_file(file)?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        // Its file system is mounted without execution.
        if protection == Protection::Exec && !self.kernel.has(Quirk::MountAllowsExecution) {
            return Err(Errno::PERM);
        }
        if self.memfds[id].flags & MMAP == 0 {
            return Err(Errno::NODEV);
        }
        if sharing == Sharing::Private {
            return Err(Errno::INVAL);
        }
        self.memfds[id].references += 1;
        let writable = protection == Protection::ReadWrite;
        let mapping = Mapping { file: id, first: offset / PAGE, len: len.next_multiple_of(PAGE), writable };
        self.maps[map.index()] = Some(mapping);
        Ok(())
    }

    pub(super) fn unmap(&mut self, map: Map) -> Result<(), Errno> {
        if let Some(mapping) = self.maps[map.index()].take() {
            self.put_file(mapping.file);
        }
        Ok(())
    }

    pub(super) fn advise(&mut self, map: Map, advice: Advice) -> Result<(), Errno> {
        let mapping = self.maps[map.index()].ok_or(Errno::INVAL)?;
        match advice {
            // The pages are the file's; the mapping only forgets where they are.
            Advice::DontNeed => Ok(()),
            Advice::Remove => {
                self.fallocate_file(mapping.file, KEEP_SIZE | PUNCH_HOLE, mapping.first * PAGE, mapping.len)
            }
            // Its pages are never larger than others.
            Advice::Collapse => Err(Errno::INVAL),
        }
    }

    /// The page behind an address, allocated if need be; `None` is SIGBUS or SIGSEGV, or EFAULT for a kernel that looks.
    pub(super) fn reach(&mut self, place: Place, access: Access) -> Option<Page> {
        match place {
            Place::Plain(plain, offset) => (offset < WINDOW_BYTES).then_some(Page::Plain(plain, offset / PAGE)),
            Place::Raw(_) => None,
            Place::Map(map, offset) => {
                let mapping = self.maps[map.index()]?;
                if offset >= mapping.len || access == Access::Write && !mapping.writable {
                    return None;
                }
                let memfd = &mut self.memfds[mapping.file];
                let page = mapping.first + offset / PAGE;
                if page >= memfd.pages || memfd.flags & INIT_SHARED == 0 {
                    return None;
                }
                memfd.allocated.entry(page).or_default();
                Some(Page::File(mapping.file, page))
            }
        }
    }

    pub(super) fn load(&self, page: Page, offset: u64) -> u8 {
        match page {
            Page::Plain(plain, page) => self.plain[plain.index()].get(&page).map_or(0, |page| page.read(offset)),
            Page::File(file, page) => self.memfds[file].allocated.get(&page).map_or(0, |page| page.read(offset)),
        }
    }

    pub(super) fn store(&mut self, page: Page, offset: u64, value: u8) {
        let contents = match page {
            Page::Plain(plain, page) => self.plain[plain.index()].entry(page).or_default(),
            Page::File(file, page) => self.memfds[file].allocated.entry(page).or_default(),
        };
        contents.write(offset, value);
    }

    pub(super) fn host_read(&mut self, place: Place) -> Result<u64, Errno> {
        let page = self.reach(place, Access::Read).ok_or(Errno::FAULT)?;
        Ok(u64::from(self.load(page, place.in_page())))
    }

    pub(super) fn host_write(&mut self, place: Place, value: u8) -> Result<(), Errno> {
        let page = self.reach(place, Access::Write).ok_or(Errno::FAULT)?;
        self.store(page, place.in_page(), value);
        Ok(())
    }
}

impl Place {
    fn in_page(self) -> u64 {
        let (Self::Plain(_, offset) | Self::Map(_, offset) | Self::Raw(offset)) = self;
        offset % PAGE
    }

    /// The address this many bytes on.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        match self {
            Self::Plain(plain, offset) => Self::Plain(plain, offset.wrapping_add(bytes)),
            Self::Map(map, offset) => Self::Map(map, offset.wrapping_add(bytes)),
            Self::Raw(address) => Self::Raw(address.wrapping_add(bytes)),
        }
    }
}
