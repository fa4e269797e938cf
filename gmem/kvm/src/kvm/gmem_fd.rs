//! A guest_memfd's descriptor: law *bound-at-birth*.
//!
//! The kernel installs it without close-on-exec, so that a child would pin the VM and its pages. It is moved at once to
//! a close-on-exec descriptor whose number is above the VM's: a process that dies releases its highest descriptor
//! first, so that even then pages go before the key. Nothing outside this crate can get at the number.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use gmem::PageCount;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::inspect;
use crate::port::{CallError, KernelGmem};

/// A guest_memfd.
#[derive(Debug)]
pub struct KvmGmem {
    file: OwnedFd,
}

impl KvmGmem {
    /// Takes over the descriptor `raw` that `KVM_CREATE_GUEST_MEMFD` has just returned for the VM whose descriptor is
    /// `vm`.
    pub(super) fn adopt(raw: RawFd, vm: RawFd) -> Result<Self, CallError> {
        // SAFETY: the kernel has just installed this descriptor for us and nobody else knows of it.
        let first = unsafe { OwnedFd::from_raw_fd(raw) };
        let file = rustix::io::fcntl_dupfd_cloexec(&first, vm + 1).map_err(|error| {
            let argument = format_args!("guest_memfd {raw} above VM {vm}");
            CallError::new("F_DUPFD_CLOEXEC", argument, error.raw_os_error())
        })?;
        Ok(Self { file })
    }

    /// The number, for the one call that needs it.
    pub(super) fn raw_for_slot(&self) -> u32 {
        // A descriptor in hand is never negative.
        u32::try_from(self.file.as_raw_fd()).unwrap_or(u32::MAX)
    }
}

impl KernelGmem for KvmGmem {
    fn discard(&self, first: PageCount, pages: PageCount) -> Result<(), CallError> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let failed = |error: Errno| {
            let argument = format_args!("punch {pages} at page {}", first.get());
            CallError::new("fallocate", argument, error.raw_os_error())
        };
        let (Some(offset), Some(len)) = (first.bytes(), pages.bytes()) else { return Err(failed(Errno::OVERFLOW)) };
        rustix::fs::fallocate(&self.file, mode, offset.0, len.0).map_err(failed)
    }

    fn allocated(&self) -> Result<PageCount, CallError> {
        inspect::allocated(self.file.as_fd())
            .map_err(|error| CallError::new("cachestat", "guest_memfd", error.raw_os_error()))
    }
}
