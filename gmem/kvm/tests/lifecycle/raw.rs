//! What the port deliberately cannot express: descriptors by number, slots over any address, mapped guest_memfd.

#![expect(unsafe_code, reason = "system calls on descriptors and addresses that the port keeps to itself")]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use gmem::GfnRange;
use kvm_bindings::{KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_userspace_memory_region2};
use rustix::mm::{MapFlags, ProtFlags};

const KVM_SET_USER_MEMORY_REGION2: libc::c_ulong = 0x40a0_ae49;
const KVM_CREATE_GUEST_MEMFD: libc::c_ulong = 0xc040_aed4;
const KVM_SMI: libc::c_ulong = 0xaeb7;

/// Names the kernel gives to a guest_memfd, by version.
pub(crate) const GMEM_NAMES: [&str; 2] = ["kvm-gmem", "guest_memfd"];

/// Numbers of this process's descriptors whose name contains `part`, ascending.
pub(crate) fn descriptors(part: &str) -> Vec<RawFd> {
    let mut found: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let name = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            name.to_string_lossy().contains(part).then_some(number)
        })
        .collect();
    found.sort_unstable();
    found
}

/// Descriptors of guest_memfds.
pub(crate) fn gmem_descriptors() -> Vec<RawFd> {
    let mut found: Vec<_> = GMEM_NAMES.iter().flat_map(|name| descriptors(name)).collect();
    found.sort_unstable();
    found
}

/// The descriptor of the VM that was created last.
pub(crate) fn newest_vm() -> RawFd {
    *descriptors("kvm-vm").last().expect("a VM")
}

/// Somebody else's descriptor, for a call.
pub(crate) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: cases use the number while its owner lives; a mistake fails with EBADF in a process of its own.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `KVM_SET_USER_MEMORY_REGION2`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSlot {
    pub(crate) id: u32,
    pub(crate) range: GfnRange,
    pub(crate) address: u64,
    /// Descriptor and offset in bytes.
    pub(crate) gmem: Option<(RawFd, u64)>,
    pub(crate) extra_flags: u32,
}

impl RawSlot {
    pub(crate) fn plain(id: u32, range: GfnRange, memory: &Memory) -> Self {
        Self { id, range, address: memory.address(), gmem: None, extra_flags: 0 }
    }

    pub(crate) fn with_gmem(self, fd: RawFd, offset: u64) -> Self {
        Self { gmem: Some((fd, offset)), ..self }
    }

    pub(crate) fn set(self, vm: RawFd) -> io::Result<()> {
        let mut raw = kvm_userspace_memory_region2 {
            slot: self.id,
            flags: self.extra_flags,
            guest_phys_addr: self.range.gpa().0,
            memory_size: self.range.bytes().unwrap().0,
            userspace_addr: self.address,
            ..Default::default()
        };
        if let Some((fd, offset)) = self.gmem {
            raw.flags |= KVM_MEM_GUEST_MEMFD;
            raw.guest_memfd = u32::try_from(fd).unwrap();
            raw.guest_memfd_offset = offset;
        }
        set_slot(vm, &raw)
    }
}

pub(crate) fn delete_slot(vm: RawFd, id: u32) -> io::Result<()> {
    set_slot(vm, &kvm_userspace_memory_region2 { slot: id, ..Default::default() })
}

fn set_slot(vm: RawFd, raw: &kvm_userspace_memory_region2) -> io::Result<()> {
    // SAFETY: the kernel reads one structure of its own layout. Memory that a slot names outlives the VM: `Memory` is
    // never unmapped while a guest runs.
    check(unsafe { libc::ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &raw const *raw) }).map(drop)
}

/// `KVM_CREATE_GUEST_MEMFD`, with the descriptor as the kernel installs it.
pub(crate) fn create_gmem(vm: RawFd, size: u64, flags: u64) -> io::Result<OwnedFd> {
    let raw = kvm_create_guest_memfd { size, flags, ..Default::default() };
    // SAFETY: the kernel reads one structure of its own layout.
    let fd = check(unsafe { libc::ioctl(vm, KVM_CREATE_GUEST_MEMFD, &raw const raw) })?;
    // SAFETY: the kernel has just installed it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `KVM_SMI`: the vCPU enters system management mode when it runs next.
pub(crate) fn system_management_interrupt(vcpu: RawFd) -> io::Result<()> {
    // SAFETY: the call has no argument.
    check(unsafe { libc::ioctl(vcpu, KVM_SMI) }).map(drop)
}

/// Mapped memory.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    len: usize,
}

impl Memory {
    /// Fresh memory, shared like a slot's should be.
    pub(crate) fn anonymous(pages: usize) -> Self {
        let len = pages * 4096;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::SHARED) };
        Self { start: start.unwrap().cast(), len }
    }

    /// A file's first pages.
    pub(crate) fn of_file(fd: BorrowedFd<'_>, pages: usize, flags: MapFlags) -> rustix::io::Result<Self> {
        let len = pages * 4096;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, fd, 0) }?;
        Ok(Self { start: start.cast(), len })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            assert!(at < self.len);
            // SAFETY: inside of the mapping, which lives; volatile because a guest may look at the same time.
            unsafe { self.start.wrapping_add(at).write_volatile(*byte) };
        }
    }

    pub(crate) fn read(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: inside of the mapping, which lives; volatile because a guest may write at the same time.
        unsafe { self.start.wrapping_add(offset).read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it exists, and cases close a VM before the memory of its slots.
        let unmapped = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
        assert!(unmapped.is_ok());
    }
}

/// The errno of a refused call.
pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("the kernel should refuse this").raw_os_error().unwrap()
}
