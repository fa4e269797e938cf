//! System calls that need `unsafe`, and the memory they are about. The only module of this crate that has any.
//!
//! Owns: ioctls of KVM as they are, the arena (the part of the address space that guests and mappings may use), the
//! `kvm_run` mapping, and reading a byte that may not be there. Does not own: what is asked.
//!
//! Why it is sound: the kernel and the guests write to structures that are passed by reference, and to the arena. No
//! reference of Rust's ever points into the arena, it is reserved until the process ends, and a slot's `userspace_addr` is
//! an [`Address`], which is in the arena or where no process can have memory.

mod alarm;

pub(crate) use alarm::{Threads, alarms_are_for, be_patient_for, let_alarms_interrupt, took_too_long};

use std::ffi::{c_int, c_ulong, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use kvm_bindings::{
    kvm_create_guest_memfd, kvm_memory_attributes, kvm_pre_fault_memory, kvm_regs, kvm_run, kvm_sregs,
    kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::op::WINDOW_STRIDE;
use crate::outcome::Errno;

const CREATE_VM: c_ulong = 0xae01;
const CHECK_EXTENSION: c_ulong = 0xae03;
const GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
const GET_SUPPORTED_CPUID: c_ulong = 0xc008_ae05;
const SET_CPUID2: c_ulong = 0x4008_ae90;
const CREATE_VCPU: c_ulong = 0xae41;
const SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
const SET_USER_MEMORY_REGION2: c_ulong = 0x40a0_ae49;
const SET_MEMORY_ATTRIBUTES: c_ulong = 0x4020_aed2;
const CREATE_GUEST_MEMFD: c_ulong = 0xc040_aed4;
const PRE_FAULT_MEMORY: c_ulong = 0xc040_aed5;
const RUN: c_ulong = 0xae80;
const GET_REGS: c_ulong = 0x8090_ae81;
const SET_REGS: c_ulong = 0x4090_ae82;
const GET_SREGS: c_ulong = 0x8138_ae83;
const SET_SREGS: c_ulong = 0x4138_ae84;
const SMI: c_ulong = 0xaeb7;
const SYS_CACHESTAT: libc::c_long = 451;
const MADV_COLLAPSE: c_int = 25;

const _: () = assert!(size_of::<kvm_userspace_memory_region2>() == 0xa0);
const _: () = assert!(size_of::<kvm_regs>() == 0x90 && size_of::<kvm_sregs>() == 0x138);
const _: () = assert!(size_of::<kvm_create_guest_memfd>() == 0x40 && size_of::<kvm_pre_fault_memory>() == 0x40);

/// The number that stands for no descriptor.
pub(crate) const NO_FD: RawFd = -1;

fn checked(result: c_int) -> Result<c_int, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}

fn of_rustix(errno: rustix::io::Errno) -> Errno {
    Errno(errno.raw_os_error())
}

/// An ioctl whose argument is a number.
fn ioctl_number(fd: RawFd, request: c_ulong, argument: c_ulong) -> Result<c_int, Errno> {
    // SAFETY: the requests this is called with take a number and touch no memory of ours.
    checked(unsafe { libc::ioctl(fd, request, argument) })
}

/// An ioctl whose argument is a structure of the kernel's layout.
fn ioctl_structure<T>(fd: RawFd, request: c_ulong, argument: &mut T) -> Result<c_int, Errno> {
    // SAFETY: each request is called with the structure that it reads or writes, by its size checked above; an exclusive
    // reference lives until the call returns.
    checked(unsafe { libc::ioctl(fd, request, std::ptr::from_mut(argument)) })
}

fn adopt(fd: c_int) -> OwnedFd {
    // SAFETY: the kernel has just installed it for us, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn create_vm(kvm: BorrowedFd<'_>, vm_type: u32) -> Result<OwnedFd, Errno> {
    ioctl_number(kvm.as_raw_fd(), CREATE_VM, vm_type.into()).map(adopt)
}

pub(crate) fn check_extension(fd: RawFd, number: u32) -> Result<u64, Errno> {
    ioctl_number(fd, CHECK_EXTENSION, number.into()).map(|value| u64::from(value.unsigned_abs()))
}

pub(crate) fn create_guest_memfd(vm: RawFd, size: u64, flags: u64) -> Result<OwnedFd, Errno> {
    let mut raw = kvm_create_guest_memfd { size, flags, ..Default::default() };
    ioctl_structure(vm, CREATE_GUEST_MEMFD, &mut raw).map(adopt)
}

pub(crate) fn set_attributes(vm: RawFd, address: u64, size: u64, attributes: u64, flags: u64) -> Result<(), Errno> {
    let mut raw = kvm_memory_attributes { address, size, attributes, flags };
    ioctl_structure(vm, SET_MEMORY_ATTRIBUTES, &mut raw).map(drop)
}

/// A slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    pub(crate) hva: Address,
    pub(crate) gmem: RawFd,
    pub(crate) offset: u64,
}

pub(crate) fn set_region(vm: RawFd, region: &Region) -> Result<(), Errno> {
    let mut raw = kvm_userspace_memory_region2 {
        slot: region.id,
        flags: region.flags,
        guest_phys_addr: region.gpa,
        memory_size: region.size,
        userspace_addr: region.hva.0,
        guest_memfd_offset: region.offset,
        guest_memfd: region.gmem.cast_unsigned(),
        ..Default::default()
    };
    ioctl_structure(vm, SET_USER_MEMORY_REGION2, &mut raw).map(drop)
}

pub(crate) fn set_region_v1(vm: RawFd, region: &Region) -> Result<(), Errno> {
    let mut raw = kvm_userspace_memory_region {
        slot: region.id,
        flags: region.flags,
        guest_phys_addr: region.gpa,
        memory_size: region.size,
        userspace_addr: region.hva.0,
    };
    ioctl_structure(vm, SET_USER_MEMORY_REGION, &mut raw).map(drop)
}

/// Pages that a file has in the page cache.
pub(crate) fn cachestat(fd: RawFd) -> Result<u64, Errno> {
    // Offset and length; a length of 0 means to the end.
    let range = [0u64; 2];
    let mut stat = [0u64; 5];
    let flags: libc::c_uint = 0;
    // SAFETY: the system call reads two and writes five numbers of 64 bits, which live until it returns.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, fd, range.as_ptr(), stat.as_mut_ptr(), flags) };
    checked(c_int::try_from(result).unwrap_or(-1))?;
    Ok(stat[0])
}

/// Somebody's descriptor, for a call; [`NO_FD`] gives EBADF without one.
pub(crate) fn borrow(fd: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    if fd == NO_FD {
        return Err(Errno::BADF);
    }
    // SAFETY: callers use it at once, while the register that owns it does not change.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A host address for a slot: in the arena, or where no process can have memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(u64);

impl Address {
    /// An address that no memory is at. What is refused here would be in reach of this program's own memory.
    pub(crate) fn outside(address: u64, size: u64) -> Option<Self> {
        let none = address.saturating_add(size) <= 1 << 16 || address >= 1 << 47;
        // So large that the kernel refuses it, whatever the address.
        (none || size >= 1 << 44 || !size.is_multiple_of(4096)).then_some(Self(address))
    }
}

/// Reserved address space, in windows.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    start: u64,
    windows: u64,
}

impl Arena {
    pub(crate) fn reserve(windows: u64) -> Result<Self, Errno> {
        let len = usize::try_from(windows * WINDOW_STRIDE).map_err(|_| Errno::INVAL)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice. It is never unmapped.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
        Ok(Self { start: start.map_err(of_rustix)? as u64, windows })
    }

    /// An address in a window, or between it and the next.
    pub(crate) fn address(&self, window: u64, offset: u64) -> Address {
        debug_assert!(window < self.windows);
        Address(self.start.wrapping_add(window * WINDOW_STRIDE).wrapping_add(offset))
    }

    fn pointer(&self, window: u64) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(usize::try_from(self.address(window, 0).0).unwrap_or(0))
    }

    fn length(len: u64) -> Result<usize, Errno> {
        if len > WINDOW_STRIDE { Err(Errno::INVAL) } else { usize::try_from(len).map_err(|_| Errno::INVAL) }
    }

    /// Fresh anonymous memory in a window, in place of what was there.
    pub(crate) fn map_anonymous(&self, window: u64, len: u64) -> Result<(), Errno> {
        let len = Self::length(len)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
        // SAFETY: replaces a part of the arena, which nothing of Rust's refers to.
        unsafe { rustix::mm::mmap_anonymous(self.pointer(window), len, access, flags) }.map_err(of_rustix)?;
        // Whether pages are large is no part of what is asked. A kernel without large pages refuses this.
        // SAFETY: as above; contents stay.
        let _ = unsafe { rustix::mm::madvise(self.pointer(window), len, Advice::LinuxNoHugepage) };
        Ok(())
    }

    /// A file in a window, in place of what was there.
    pub(crate) fn map_file(
        &self,
        window: u64,
        fd: RawFd,
        offset: u64,
        len: u64,
        access: ProtFlags,
        flags: MapFlags,
    ) -> Result<(), Errno> {
        let len = Self::length(len)?;
        // Not by way of rustix, which would take a descriptor that is one, and a length that is not 0.
        let flags = c_int::try_from((flags | MapFlags::FIXED).bits()).map_err(|_| Errno::INVAL)?;
        let access = c_int::try_from(access.bits()).map_err(|_| Errno::INVAL)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
        // SAFETY: as above; should the kernel refuse the file, it leaves or removes what was there.
        let result = unsafe { libc::mmap(self.pointer(window), len, access, flags, fd, offset) };
        checked(if result == libc::MAP_FAILED { -1 } else { 0 }).map(drop)
    }

    /// Nothing in a window, still reserved.
    pub(crate) fn unmap(&self, window: u64, len: u64) -> Result<(), Errno> {
        let len = Self::length(len)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: replaces a part of the arena, which nothing of Rust's refers to.
        unsafe { rustix::mm::mmap_anonymous(self.pointer(window), len, ProtFlags::empty(), flags) }
            .map(drop)
            .map_err(of_rustix)
    }

    pub(crate) fn advise(&self, window: u64, len: u64, advice: crate::op::Advice) -> Result<(), Errno> {
        use crate::op::Advice as Asked;
        let (len, start) = (Self::length(len)?, self.pointer(window));
        let advice = match advice {
            Asked::DontNeed => Advice::LinuxDontNeed,
            Asked::Remove => Advice::LinuxRemove,
            Asked::Collapse => {
                // SAFETY: contents of the arena, which nothing of Rust's refers to.
                return checked(unsafe { libc::madvise(start, len, MADV_COLLAPSE) }).map(drop);
            }
        };
        // SAFETY: contents of the arena, which nothing of Rust's refers to.
        unsafe { rustix::mm::madvise(start, len, advice) }.map_err(of_rustix)
    }

    /// Reads a byte of a window. If there is nothing, this process gets a signal, which is what callers want to see.
    pub(crate) fn touch(&self, window: u64, offset: u64) -> u8 {
        let Address(address) = self.address(window, offset);
        let pointer: *const u8 = std::ptr::with_exposed_provenance(usize::try_from(address).unwrap_or(0));
        // SAFETY: in the arena, which nothing of Rust's refers to; what is not there ends the process.
        unsafe { pointer.read_volatile() }
    }

    /// Writes bytes to memory that is known to be there.
    pub(crate) fn fill(&self, window: u64, offset: u64, bytes: &[u8]) {
        let Address(start) = self.address(window, offset);
        for (address, byte) in (start..).zip(bytes) {
            let pointer: *mut u8 = std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
            // SAFETY: in the arena; callers have mapped anonymous memory there. Volatile because a guest looks at it.
            unsafe { pointer.write_volatile(*byte) };
        }
    }
}

/// Copies a byte between a pipe and memory that may not be there: the kernel finds out, and no signal comes of it.
#[derive(Debug)]
pub(crate) struct Probe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Probe {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(of_rustix)?;
        Ok(Self { reader, writer })
    }

    pub(crate) fn read(&self, Address(address): Address) -> Result<u8, Errno> {
        let pointer: *const c_void = std::ptr::with_exposed_provenance(usize::try_from(address).unwrap_or(0));
        // SAFETY: the kernel copies one byte from there if it is there, and says EFAULT if not.
        let result = unsafe { libc::write(self.writer.as_raw_fd(), pointer, 1) };
        checked(c_int::try_from(result).unwrap_or(-1))?;
        let mut byte = [0];
        rustix::io::read(&self.reader, &mut byte).map_err(of_rustix)?;
        Ok(byte[0])
    }

    pub(crate) fn write(&self, Address(address): Address, value: u8) -> Result<(), Errno> {
        rustix::io::write(&self.writer, &[value]).map_err(of_rustix)?;
        let pointer: *mut c_void = std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
        // SAFETY: the kernel copies one byte to there if it can. An `Address` is no memory of Rust's.
        let result = unsafe { libc::read(self.reader.as_raw_fd(), pointer, 1) };
        let copied = checked(c_int::try_from(result).unwrap_or(-1));
        if copied.is_err() {
            // It is still in the pipe.
            rustix::io::read(&self.reader, &mut [0]).map_err(of_rustix)?;
        }
        copied.map(drop)
    }
}

/// What a guest may be told of its processor: `struct kvm_cpuid2` with as many entries as there may be.
#[derive(Debug)]
pub(crate) struct Cpuid(Box<CpuidEntries>);

#[repr(C)]
#[derive(Debug, Clone)]
struct CpuidEntries {
    count: u32,
    padding: u32,
    entries: [[u32; 10]; 256],
}

impl Cpuid {
    pub(crate) fn supported(kvm: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut all = Box::new(CpuidEntries { count: 256, padding: 0, entries: [[0; 10]; 256] });
        ioctl_structure(kvm.as_raw_fd(), GET_SUPPORTED_CPUID, &mut *all)?;
        Ok(Self(all))
    }
}

/// A vCPU with its `kvm_run`.
#[derive(Debug)]
pub(crate) struct Vcpu {
    fd: OwnedFd,
    run: *mut kvm_run,
    len: usize,
}

impl Vcpu {
    pub(crate) fn create(kvm: BorrowedFd<'_>, vm: RawFd, id: u32) -> Result<Self, Errno> {
        let fd = adopt(ioctl_number(vm, CREATE_VCPU, id.into())?);
        let len = ioctl_number(kvm.as_raw_fd(), GET_VCPU_MMAP_SIZE, 0)?;
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it is unmapped by `drop` only.
        let run = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, &fd, 0) };
        Ok(Self { fd, run: run.map_err(of_rustix)?.cast(), len })
    }

    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn set_cpuid(&self, cpuid: &Cpuid) -> Result<(), Errno> {
        ioctl_structure(self.fd.as_raw_fd(), SET_CPUID2, &mut *cpuid.0.clone()).map(drop)
    }

    pub(crate) fn sregs(&self) -> Result<kvm_sregs, Errno> {
        let mut sregs = kvm_sregs::default();
        ioctl_structure(self.fd.as_raw_fd(), GET_SREGS, &mut sregs)?;
        Ok(sregs)
    }

    pub(crate) fn set_sregs(&self, mut sregs: kvm_sregs) -> Result<(), Errno> {
        ioctl_structure(self.fd.as_raw_fd(), SET_SREGS, &mut sregs).map(drop)
    }

    pub(crate) fn regs(&self) -> Result<kvm_regs, Errno> {
        let mut regs = kvm_regs::default();
        ioctl_structure(self.fd.as_raw_fd(), GET_REGS, &mut regs)?;
        Ok(regs)
    }

    pub(crate) fn set_regs(&self, mut regs: kvm_regs) -> Result<(), Errno> {
        ioctl_structure(self.fd.as_raw_fd(), SET_REGS, &mut regs).map(drop)
    }

    pub(crate) fn system_management_interrupt(&self) -> Result<(), Errno> {
        ioctl_number(self.fd.as_raw_fd(), SMI, 0).map(drop)
    }

    /// `KVM_PRE_FAULT_MEMORY`; the bytes that are left. Interrupted when patience ends.
    pub(crate) fn prefault(&self, gpa: u64, size: u64, flags: u64) -> Result<u64, Errno> {
        let mut raw = kvm_pre_fault_memory { gpa, size, flags, ..Default::default() };
        alarm::until_patience_ends(|| ioctl_structure(self.fd.as_raw_fd(), PRE_FAULT_MEMORY, &mut raw))?;
        Ok(raw.size)
    }

    /// Enters the guest; interrupted when patience ends.
    pub(crate) fn run(&mut self) -> Result<(), Errno> {
        alarm::until_patience_ends(|| ioctl_number(self.fd.as_raw_fd(), RUN, 0)).map(drop)
    }

    /// What the kernel says of the last exit.
    pub(crate) fn exit(&self) -> kvm_run {
        // SAFETY: the mapping lives as long as `self` and is at least this large; plain numbers. The kernel writes to it
        // in `run` only.
        unsafe { self.run.read_volatile() }
    }

    /// What an MMIO read of the guest's gets.
    pub(crate) fn answer_mmio(&mut self, value: u8) {
        // SAFETY: as above; the place of a field.
        let data = unsafe { &raw mut (*self.run).__bindgen_anon_1.mmio.data };
        // SAFETY: inside of the mapping, which lives; eight bytes.
        unsafe { data.write_volatile([value; 8]) };
    }

    /// The byte of a one-byte port access that the last exit is about, `offset` bytes into `kvm_run`.
    pub(crate) fn port_byte(&self, offset: u64) -> Option<u8> {
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < self.len)?;
        // SAFETY: inside of the mapping, which lives.
        Some(unsafe { self.run.cast::<u8>().wrapping_add(offset).read_volatile() })
    }
}

// SAFETY: the mapping is this value's alone, and is used through `&self` and `&mut self` only.
unsafe impl Send for Vcpu {}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more. It fails for no valid mapping.
        let _ = unsafe { rustix::mm::munmap(self.run.cast(), self.len) };
    }
}

/// Direction, size, port, count and offset of the data, of a port access.
pub(crate) fn port_access(run: &kvm_run) -> (u8, u8, u16, u32, u64) {
    // SAFETY: callers look at this arm of the union after the exit that fills it in; any bytes are numbers.
    let io = unsafe { run.__bindgen_anon_1.io };
    (io.direction, io.size, io.port, io.count, io.data_offset)
}

/// Flags, address and size of a memory fault.
pub(crate) fn memory_fault(run: &kvm_run) -> (u64, u64, u64) {
    // SAFETY: as above.
    let fault = unsafe { run.__bindgen_anon_1.memory_fault };
    (fault.flags, fault.gpa, fault.size)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Runs something in a child of this process, which has copies of all its descriptors and mappings.
pub(crate) fn in_child(run: impl FnOnce() -> i32) -> Result<Ending, Errno> {
    // SAFETY: callers are single-threaded, so that the child finds no lock held; it ends without unwinding or destructors.
    let child = checked(unsafe { libc::fork() })?;
    if child == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(100);
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: writes one number, which lives until the call returns.
    checked(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
    if libc::WIFSIGNALED(status) {
        return Ok(Ending::Killed(libc::WTERMSIG(status)));
    }
    Ok(Ending::Exited(libc::WEXITSTATUS(status)))
}

/// Ends the process by SIGKILL.
pub(crate) fn die() -> ! {
    // It cannot fail: a process may always end itself.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

/// The suberror of an internal error.
pub(crate) fn suberror(run: &kvm_run) -> u32 {
    // SAFETY: callers look at this arm of the union after the exit that fills it in; any bytes are numbers.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}
