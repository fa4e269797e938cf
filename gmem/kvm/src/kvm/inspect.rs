//! Two questions about open files that `rustix` cannot ask.
//!
//! Owns `cachestat` and `kcmp`. Neither changes anything. `kcmp(2)` needs the right to trace both processes, as looking
//! at their descriptors does.

use std::cmp::Ordering;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use gmem::PageCount;
use rustix::io::Errno;

use crate::uapi::{self, CacheStat, CacheStatRange};

/// Pages a file has in the page cache; of a guest_memfd that is all it has allocated.
pub fn allocated(file: BorrowedFd<'_>) -> Result<PageCount, Errno> {
    // A length of 0 means to the end of the file.
    let range = CacheStatRange { offset: 0, len: 0 };
    let mut stat = CacheStat::default();
    // SAFETY: the system call reads one structure and writes the other; both are as the kernel declares them and live
    // until it returns. The descriptor is open for as long as it is borrowed.
    let result = unsafe {
        let no_flags: libc::c_uint = 0;
        libc::syscall(uapi::SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, no_flags)
    };
    if result == 0 { Ok(PageCount::new(stat.cached_pages)) } else { Err(last_errno()) }
}

/// A process's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The process.
    pub pid: u32,
    /// The number.
    pub fd: RawFd,
}

/// How two descriptors' open files stand in an order of the kernel's own: equal means that they are the same one.
/// `None` if the kernel says that they differ, but not how.
pub fn compare_files(one: Descriptor, other: Descriptor) -> Result<Option<Ordering>, Errno> {
    let pid = |descriptor: Descriptor| libc::pid_t::try_from(descriptor.pid).map_err(|_| Errno::SRCH);
    let number = |descriptor: Descriptor| libc::c_ulong::try_from(descriptor.fd).map_err(|_| Errno::BADF);
    let (pids, numbers) = ((pid(one)?, pid(other)?), (number(one)?, number(other)?));
    // SAFETY: the system call takes numbers only and writes no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, pids.0, pids.1, uapi::KCMP_FILE, numbers.0, numbers.1) };
    match result {
        0 => Ok(Some(Ordering::Equal)),
        1 => Ok(Some(Ordering::Less)),
        2 => Ok(Some(Ordering::Greater)),
        3 => Ok(None),
        _ => Err(last_errno()),
    }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::os::fd::AsFd;

    #[test]
    fn a_copy_is_the_same_file_and_another_is_not() {
        let (read, write) = io::pipe().unwrap();
        let copy = read.try_clone().unwrap();
        let here = |fd: BorrowedFd<'_>| Descriptor { pid: std::process::id(), fd: fd.as_raw_fd() };
        let ask = |one: BorrowedFd<'_>, other: BorrowedFd<'_>| compare_files(here(one), here(other));
        if ask(read.as_fd(), read.as_fd()) == Err(Errno::NOSYS) {
            println!("skipped: this kernel has no kcmp");
            return;
        }
        assert_eq!(ask(read.as_fd(), copy.as_fd()), Ok(Some(Ordering::Equal)));
        let (forth, back) = (ask(read.as_fd(), write.as_fd()), ask(write.as_fd(), read.as_fd()));
        assert_eq!(forth.unwrap().map(Ordering::reverse), back.unwrap());
        assert_ne!(forth, Ok(Some(Ordering::Equal)));
        let nobody = Descriptor { pid: u32::MAX, fd: 0 };
        assert_eq!(compare_files(here(read.as_fd()), nobody), Err(Errno::SRCH));
        let closed = Descriptor { fd: 1 << 20, ..here(read.as_fd()) };
        assert_eq!(compare_files(here(read.as_fd()), closed), Err(Errno::BADF));
    }
}
