//! What is asked of the kernel about descriptors, beside what can be read.
//!
//! Owns the seam between an audit and the kernel, so that hosts nobody has at hand can be looked at as directories full
//! of files. Everything else of an audit is reading.
//!
//! Specification: `kcmp(2)`, `cachestat(2)`, `pidfd_getfd(2)`.

use super::seen::{FileId, Moment};
use gmem::ByteLen;
use gmem_kvm::kvm::inspect;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::cmp::Ordering;
use std::fs;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// What `stat` tells of a file behind a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Which file.
    pub id: FileId,
    /// Its size.
    pub bytes: u64,
    /// Since when it is there: an anonymous file's oldest time.
    pub created: Option<Moment>,
}

/// A process's descriptor: the process and the number.
pub type Place = (u32, u32);

/// A kernel that can be asked.
pub trait Inspect {
    /// The file behind a link in `/proc`, of a descriptor or a mapping.
    fn stat(&self, link: &Path) -> io::Result<FileFacts>;

    /// How two descriptors' open files stand in an order of the kernel's own; `None` if it only says that they differ.
    fn compare(&self, one: Place, other: Place) -> io::Result<Option<Ordering>>;

    /// How much of the file behind a descriptor is allocated, if it still is this file.
    fn allocated(&self, place: Place, file: FileId) -> io::Result<ByteLen>;

    /// Lets time pass.
    fn wait(&self, time: Duration);
}

/// The kernel this runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisKernel;

impl Inspect for ThisKernel {
    fn stat(&self, link: &Path) -> io::Result<FileFacts> {
        let stat = fs::metadata(link)?;
        let oldest = stat.atime().min(stat.mtime()).min(stat.ctime());
        Ok(FileFacts {
            id: FileId { device: stat.dev(), inode: stat.ino() },
            bytes: stat.size(),
            created: u64::try_from(oldest).ok().map(Moment),
        })
    }

    fn compare(&self, one: Place, other: Place) -> io::Result<Option<Ordering>> {
        Ok(inspect::compare_files(descriptor(one)?, descriptor(other)?)?)
    }

    /// Takes a copy of the descriptor and closes it at once. For that long the copy pins the VM, and if it happens to be
    /// the last one, memory and VM end here, in this process.
    fn allocated(&self, (pid, fd): Place, file: FileId) -> io::Result<ByteLen> {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        let copy = pidfd_getfd(&process, descriptor((pid, fd))?.fd, PidfdGetfdFlags::empty())?;
        let stat = rustix::fs::fstat(&copy)?;
        if (FileId { device: stat.st_dev, inode: stat.st_ino }) != file {
            return Err(Errno::BADF.into());
        }
        let pages = inspect::allocated(copy.as_fd())?;
        Ok(pages.bytes().ok_or(Errno::OVERFLOW)?)
    }

    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

fn descriptor((pid, fd): Place) -> io::Result<inspect::Descriptor> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    Ok(inspect::Descriptor { pid, fd })
}
