//! A guest_memfd as a file: it belongs to one VM for life, and keeps it alive.
//!
//! Specification: `kvm_gmem_create`, `kvm_gmem_fallocate`, `kvm_gmem_release`, and before them the file system's own
//! checks in `vfs_fallocate`.

use super::{FileId, Memfd, Model};
use crate::op::{Call, File, KEEP_SIZE, PAGE, PUNCH_HOLE, Vm};
use crate::outcome::Errno;

/// `FALLOC_FL_ZERO_RANGE` and `FALLOC_FL_UNSHARE_RANGE`: modes the file system lets pass.
const OTHER_MODES: [u32; 2] = [0x10, 0x40];

impl Model {
    /// `KVM_CREATE_GUEST_MEMFD`.
    pub(super) fn create_file(&mut self, file: File, vm: Vm, size: u64, flags: u64) -> Result<(), Errno> {
        let id = self.open_vm(vm)?;
        if flags & !self.type_features(id).gmem_flags != 0 {
            return Err(Errno::INVAL);
        }
        if size == 0 || i64::try_from(size).is_err() || !size.is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        self.machines[id].references += 1;
        self.files[file.index()] = Some(self.memfds.len());
        self.memfds.push(Memfd { vm: id, pages: size / PAGE, flags, references: 1, allocated: Default::default() });
        Ok(())
    }

    pub(super) fn dup(&mut self, from: File, to: File) -> Result<(), Errno> {
        let id = self.open_file(from)?;
        self.memfds[id].references += 1;
        self.files[to.index()] = Some(id);
        Ok(())
    }

    pub(super) fn close_file(&mut self, file: File) -> Result<(), Errno> {
        let id = self.files[file.index()].take().ok_or(Errno::BADF)?;
        self.put_file(id);
        Ok(())
    }

    /// The last descriptor or mapping is gone: slots lose the file, then it lets go of the VM, then its pages are freed.
    pub(super) fn put_file(&mut self, id: FileId) {
        self.memfds[id].references -= 1;
        if self.memfds[id].references == 0 {
            self.sever(id);
            self.put_vm(self.memfds[id].vm);
            self.memfds[id].allocated.clear();
        }
    }

    /// `fallocate`. It needs only the file: its VM's descriptor may be closed.
    pub(super) fn fallocate(&mut self, file: File, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let id = self.open_file(file)?;
        self.fallocate_file(id, mode, offset, len)
    }

    pub(super) fn fallocate_file(&mut self, id: FileId, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        // The file system's checks, for all files.
        let (Ok(start), Ok(length)) = (i64::try_from(offset), i64::try_from(len)) else { return Err(Errno::INVAL) };
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let passes = match mode & !KEEP_SIZE {
            0 => true,
            PUNCH_HOLE => mode & KEEP_SIZE != 0,
            other => OTHER_MODES.contains(&other),
        };
        if !passes {
            return Err(Errno::OPNOTSUPP);
        }
        let Some(end) = start.checked_add(length) else { return Err(Errno::FBIG) };
        // Its own.
        if mode & KEEP_SIZE == 0 || mode & !(KEEP_SIZE | PUNCH_HOLE) != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        if !offset.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let pages = offset / PAGE..end.unsigned_abs() / PAGE;
        let memfd = &mut self.memfds[id];
        if mode & PUNCH_HOLE != 0 {
            // Beyond the end there is nothing, which is no error.
            memfd.allocated.retain(|page, _| !pages.contains(page));
            return Ok(());
        }
        if pages.end > memfd.pages {
            return Err(Errno::INVAL);
        }
        for page in pages {
            memfd.allocated.entry(page).or_default();
        }
        Ok(())
    }

    pub(super) fn allocated(&self, file: File) -> Result<u64, Errno> {
        Ok(self.memfds[self.open_file(file)?].allocated.len() as u64)
    }

    /// What one does with files. There are no methods to read or write, no position, and no attribute can be set.
    pub(super) fn try_call(&self, file: File, call: Call) -> Result<u64, Errno> {
        let id = self.open_file(file);
        match call {
            // A path that is not there, rather than a descriptor that is not open.
            Call::Reopen => Err(id.map_or(Errno::NOENT, |_| Errno::NXIO)),
            Call::Read | Call::Write | Call::Truncate | Call::Chmod => {
                Err(id.map_or_else(|errno| errno, |_| Errno::INVAL))
            }
            Call::Pread | Call::Pwrite | Call::Lseek => Err(id.map_or_else(|errno| errno, |_| Errno::SPIPE)),
            Call::Size => Ok(self.memfds[id?].pages * PAGE),
            Call::BlockSize => id.map(|_| PAGE),
        }
    }
}
