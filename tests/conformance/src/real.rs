//! The real kernel: every operation done, by its raw call.
//!
//! Owns: the descriptors in the registers, the windows of the address space, the guest (`guest`). Does not own: what
//! should have come of it.

pub(crate) mod guest;
mod probe;

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};

use crate::op::{
    Call, Cpu, Descriptor, File, Map, Op, PAGE, Place, Plain, Protection, STUB_BYTES, STUB_GPA, STUB_SLOT, Sharing,
    Slot, Vm, WINDOW_BYTES,
};
use crate::outcome::{Errno, Outcome};
use crate::sys::{self, Address, Arena, Cpuid, NO_FD, Probe, Region};
use guest::Guest;

pub use probe::probe;

/// How long a vCPU's call may take from now on before it counts as one that never ends.
pub fn be_patient_for(time: std::time::Duration) {
    sys::be_patient_for(time);
}

/// Why the kernel cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No KVM, or not for us.
    #[error("/dev/kvm: {0}")]
    Open(rustix::io::Errno),
    /// Something that this program needs for itself.
    #[error("{what}: {errno}")]
    Own {
        /// What.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
}

/// Attaches what was wanted to an errno.
fn own(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Own { what, errno }
}

/// A VM's descriptor.
#[derive(Debug)]
struct OpenVm {
    fd: OwnedFd,
    /// Whether the guest's code is in it.
    has_stub: bool,
}

/// The kernel of this machine.
#[derive(Debug)]
pub struct Real {
    kvm: OwnedFd,
    null: OwnedFd,
    arena: Arena,
    bytes: Probe,
    cpuid: Cpuid,
    vms: [Option<OpenVm>; Vm::COUNT as usize],
    /// debugfs' name of what a register held last.
    last_vms: [Option<String>; Vm::COUNT as usize],
    files: [Option<OwnedFd>; File::COUNT as usize],
    cpus: [Option<Guest>; Cpu::COUNT as usize],
    mapped: [Option<u64>; Map::COUNT as usize],
    /// Whether every operation is told before it is done, for kernels that do not come back from one.
    trace: bool,
    /// Numbers of closed VMs, kept busy: debugfs names a VM by process and number, and it may live on.
    busy: Vec<OwnedFd>,
}

/// Where guests are told what to do.
#[derive(Debug)]
pub(crate) struct Mailbox(Arena);

impl Mailbox {
    pub(crate) fn put(&self, guest: &Guest, access: guest::Access, gpa: u64) {
        self.0.fill(STUB_WINDOW, guest.mailbox_offset(), &guest::mailbox(access, gpa));
    }
}

const PLAIN_WINDOWS: u64 = Plain::COUNT as u64;
const STUB_WINDOW: u64 = PLAIN_WINDOWS + Map::COUNT as u64;

fn plain_window(plain: Plain) -> u64 {
    plain.index() as u64
}

fn map_window(map: Map) -> u64 {
    PLAIN_WINDOWS + map.index() as u64
}

/// Where debugfs shows VMs.
pub(crate) const DEBUGFS: &str = "/sys/kernel/debug/kvm";

fn of_rustix<T>(result: rustix::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|errno| Errno(errno.raw_os_error()))
}

/// A mapping keeps its file, and that its VM, until the process ends.
impl Drop for Real {
    fn drop(&mut self) {
        for map in Map::all() {
            if let Some(len) = self.mapped[map.index()].take() {
                // The window stays ours, mapped or not.
                let _ = self.arena.unmap(map_window(map), len);
            }
        }
    }
}

impl Real {
    /// Opens /dev/kvm and makes ready what guests need.
    pub fn open() -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let kvm = rustix::fs::open("/dev/kvm", flags, Mode::empty()).map_err(Error::Open)?;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty());
        let null = of_rustix(null).map_err(own("/dev/null"))?;
        sys::let_alarms_interrupt().map_err(own("SIGALRM"))?;
        let arena = Arena::reserve(STUB_WINDOW + 1).map_err(own("address space"))?;
        arena.map_anonymous(STUB_WINDOW, STUB_BYTES).map_err(own("the guest's code"))?;
        arena.fill(STUB_WINDOW, 0, &guest::image());
        let real = Self {
            null,
            arena,
            cpuid: Cpuid::supported(kvm.as_fd()).map_err(own("KVM_GET_SUPPORTED_CPUID"))?,
            bytes: Probe::new().map_err(own("a pipe"))?,
            vms: Default::default(),
            last_vms: Default::default(),
            files: Default::default(),
            cpus: Default::default(),
            mapped: Default::default(),
            busy: Vec::new(),
            trace: false,
            kvm,
        };
        real.fresh_memory()?;
        Ok(real)
    }

    /// Has every operation told on standard error before it is done.
    pub fn trace(&mut self) {
        self.trace = true;
    }

    fn fresh_memory(&self) -> Result<(), Error> {
        for plain in Plain::all() {
            self.arena.map_anonymous(plain_window(plain), WINDOW_BYTES).map_err(own("memory"))?;
        }
        Ok(())
    }

    pub(crate) fn kvm(&self) -> BorrowedFd<'_> {
        self.kvm.as_fd()
    }

    pub(crate) fn vm_number(&self, vm: Vm) -> RawFd {
        self.vms[vm.index()].as_ref().map_or(NO_FD, |vm| vm.fd.as_raw_fd())
    }

    pub(crate) fn file_number(&self, file: File) -> RawFd {
        self.files[file.index()].as_ref().map_or(NO_FD, AsRawFd::as_raw_fd)
    }

    pub(crate) fn cpu(&mut self, cpu: Cpu) -> Option<&mut Guest> {
        self.cpus[cpu.index()].as_mut()
    }

    /// Takes a vCPU away, with what is needed to talk to its guest from another thread.
    pub(crate) fn take_cpu(&mut self, cpu: Cpu) -> Option<(Guest, Mailbox)> {
        let guest = self.cpus[cpu.index()].take()?;
        Some((guest, Mailbox(self.arena.clone())))
    }

    /// The beginning of a window with ordinary memory.
    pub(crate) fn plain_address(&self, plain: Plain) -> Address {
        self.arena.address(plain_window(plain), 0)
    }

    /// Reads a byte of a mapping; an exit code.
    pub(crate) fn touch(&self, map: Map, offset: u64) -> i32 {
        self.arena.touch(map_window(map), offset).into()
    }

    /// Other code of the guest's, behind its own.
    pub(crate) fn put_code(&self, offset: u64, code: &[u8]) {
        self.arena.fill(STUB_WINDOW, offset, code);
    }

    /// A host address; `None` if it could be this program's own memory.
    fn address(&self, place: Place, size: u64) -> Option<Address> {
        match place {
            Place::Plain(plain, offset) => Some(self.arena.address(plain_window(plain), offset)),
            Place::Map(map, offset) => Some(self.arena.address(map_window(map), offset)),
            Place::Raw(address) => Address::outside(address, size),
        }
    }

    fn region(&self, slot: &Slot) -> Option<Region> {
        let gmem = match slot.gmem {
            Descriptor::File(file) => self.file_number(file),
            Descriptor::Vm(vm) => self.vm_number(vm),
            Descriptor::Kvm => self.kvm.as_raw_fd(),
            Descriptor::Null => self.null.as_raw_fd(),
            Descriptor::Bad => NO_FD,
        };
        let hva = self.address(slot.hva, slot.size)?;
        let Slot { id, flags, gpa, size, offset, .. } = *slot;
        Some(Region { id, flags, gpa, size, hva, gmem, offset })
    }

    /// Does it. `None`: it must not be done, see [`crate::model::Model::applicable`].
    pub fn apply(&mut self, op: &Op) -> Option<Outcome> {
        if self.trace {
            eprintln!("{op}");
        }
        Some(match *op {
            Op::CreateVm { vm, vm_type } => self.create_vm(vm, vm_type).into(),
            Op::CloseVm(vm) => self.close_vm(vm).into(),
            Op::CreateFile { file, vm, size, flags } => {
                let created = sys::create_guest_memfd(self.vm_number(vm), size, flags);
                created.map(|fd| self.files[file.index()] = Some(fd)).into()
            }
            Op::Dup { from, to } => {
                let duplicate = sys::borrow(self.file_number(from)).and_then(|fd| of_rustix(rustix::io::dup(fd)));
                duplicate.map(|fd| self.files[to.index()] = Some(fd)).into()
            }
            Op::CloseFile(file) => self.files[file.index()].take().map(drop).ok_or(Errno::BADF).into(),
            Op::CreateCpu { cpu, vm } => self.create_cpu(cpu, vm).into(),
            Op::CloseCpu(cpu) => self.cpus[cpu.index()].take().map(drop).ok_or(Errno::BADF).into(),
            Op::SetSlot { vm, slot } => sys::set_region(self.vm_number(vm), &self.region(&slot)?).into(),
            Op::SetSlotV1 { vm, slot } => sys::set_region_v1(self.vm_number(vm), &self.region(&slot)?).into(),
            Op::SetAttributes { vm, gpa, size, attributes, flags } => {
                sys::set_attributes(self.vm_number(vm), gpa, size, attributes, flags).into()
            }
            Op::Fallocate { file, mode, offset, len } => {
                let mode = FallocateFlags::from_bits_retain(mode);
                let file = sys::borrow(self.file_number(file));
                file.and_then(|fd| of_rustix(rustix::fs::fallocate(fd, mode, offset, len))).into()
            }
            Op::Map { map, file, offset, len, sharing, protection } => {
                self.map(map, file, offset, len, sharing, protection).into()
            }
            Op::Unmap(map) => {
                let len = self.mapped[map.index()].take().unwrap_or(PAGE);
                self.arena.unmap(map_window(map), len).into()
            }
            Op::Advise { map, advice } => {
                let len = self.mapped[map.index()].unwrap_or(PAGE);
                self.arena.advise(map_window(map), len, advice).into()
            }
            Op::HostRead(place) => self.bytes.read(self.address(place, 1)?).map(u64::from).into(),
            Op::HostWrite(place, value) => self.bytes.write(self.address(place, 1)?, value).into(),
            Op::GuestRead(cpu, gpa) => self.guest_access(cpu, guest::Access::Read, gpa),
            Op::GuestWrite(cpu, gpa, value) => self.guest_access(cpu, guest::Access::Write(value), gpa),
            Op::Prefault { cpu, gpa, size, flags } => {
                let cpu = self.cpus[cpu.index()].as_ref();
                cpu.map_or(Outcome::Failed(Errno::BADF), |cpu| cpu.prefault(gpa, size, flags))
            }
            Op::Pages(file) => sys::cachestat(self.file_number(file)).into(),
            Op::Alive(vm) => self.alive(vm),
            Op::Capability { vm, number } => {
                let fd = vm.map_or(self.kvm.as_raw_fd(), |vm| self.vm_number(vm));
                sys::check_extension(fd, number).into()
            }
            Op::Try(file, call) => self.try_call(file, call).into(),
        })
    }

    fn create_vm(&mut self, vm: Vm, vm_type: u32) -> Result<(), Errno> {
        let fd = sys::create_vm(self.kvm(), vm_type)?;
        self.last_vms[vm.index()] = Some(format!("{}-{}", std::process::id(), fd.as_raw_fd()));
        self.vms[vm.index()] = Some(OpenVm { fd, has_stub: false });
        Ok(())
    }

    /// Closes it by putting another file in its place, which keeps the number busy.
    fn close_vm(&mut self, vm: Vm) -> Result<(), Errno> {
        let mut open = self.vms[vm.index()].take().ok_or(Errno::BADF)?;
        of_rustix(rustix::io::dup2(&self.null, &mut open.fd))?;
        self.busy.push(open.fd);
        Ok(())
    }

    /// The slot with the guest's code comes with a VM's first vCPU.
    fn create_cpu(&mut self, cpu: Cpu, vm: Vm) -> Result<(), Errno> {
        let hva = self.arena.address(STUB_WINDOW, 0);
        let open = self.vms[vm.index()].as_mut().ok_or(Errno::BADF)?;
        if !open.has_stub {
            let none = Region { id: STUB_SLOT, flags: 0, gpa: STUB_GPA, size: STUB_BYTES, hva, gmem: NO_FD, offset: 0 };
            sys::set_region(open.fd.as_raw_fd(), &none)?;
            open.has_stub = true;
        }
        let guest = Guest::create(self.kvm.as_fd(), open.fd.as_raw_fd(), cpu, &self.cpuid)?;
        self.cpus[cpu.index()] = Some(guest);
        Ok(())
    }

    fn guest_access(&mut self, cpu: Cpu, access: guest::Access, gpa: u64) -> Outcome {
        let Self { cpus, arena, .. } = self;
        let Some(guest) = cpus[cpu.index()].as_mut() else { return Outcome::Failed(Errno::BADF) };
        arena.fill(STUB_WINDOW, guest.mailbox_offset(), &guest::mailbox(access, gpa));
        guest.access(access)
    }

    fn map(
        &mut self,
        map: Map,
        file: File,
        offset: u64,
        len: u64,
        sharing: Sharing,
        protection: Protection,
    ) -> Result<(), Errno> {
        let access = match protection {
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
            Protection::Read => ProtFlags::READ,
            Protection::Exec => ProtFlags::READ | ProtFlags::EXEC,
        };
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        };
        let result = self.arena.map_file(map_window(map), self.file_number(file), offset, len, access, flags);
        match result {
            Ok(()) => self.mapped[map.index()] = Some(len.next_multiple_of(PAGE)),
            // A refused mapping may leave a hole where it was to be.
            Err(_) => self.arena.unmap(map_window(map), len.next_multiple_of(PAGE).max(PAGE))?,
        }
        result
    }

    fn alive(&self, vm: Vm) -> Outcome {
        match &self.last_vms[vm.index()] {
            Some(name) => Outcome::Value(u64::from(PathBuf::from(DEBUGFS).join(name).is_dir())),
            None => Outcome::Failed(Errno::NOENT),
        }
    }

    fn try_call(&self, file: File, call: Call) -> Result<u64, Errno> {
        let number = self.file_number(file);
        if call == Call::Reopen {
            let path = format!("/proc/self/fd/{number}");
            return of_rustix(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())).map(|_| 0);
        }
        let fd = sys::borrow(number)?;
        let mut byte = [0];
        let bytes = |count: rustix::io::Result<usize>| count.map(|count| count as u64);
        of_rustix(match call {
            Call::Read => bytes(rustix::io::read(fd, &mut byte)),
            Call::Write => bytes(rustix::io::write(fd, &byte)),
            Call::Pread => bytes(rustix::io::pread(fd, &mut byte, 0)),
            Call::Pwrite => bytes(rustix::io::pwrite(fd, &byte, 0)),
            Call::Lseek => rustix::fs::seek(fd, SeekFrom::Start(0)),
            Call::Truncate => rustix::fs::ftruncate(fd, PAGE).map(|()| 0),
            Call::Chmod => rustix::fs::fchmod(fd, Mode::RUSR | Mode::WUSR).map(|()| 0),
            Call::Size => rustix::fs::fstat(fd).map(|stat| u64::try_from(stat.st_size).unwrap_or(0)),
            Call::BlockSize => rustix::fs::fstat(fd).map(|stat| u64::try_from(stat.st_blksize).unwrap_or(0)),
            Call::Reopen => Err(rustix::io::Errno::INVAL),
        })
    }

    /// Closes everything. What the kernel then still shows of it is the error.
    pub fn reset(&mut self) -> Result<(), String> {
        if self.trace {
            eprintln!("# end of sequence");
        }
        self.cpus = Default::default();
        for map in Map::all() {
            if let Some(len) = self.mapped[map.index()].take() {
                self.arena.unmap(map_window(map), len).map_err(|errno| format!("cannot unmap {map}: {errno}"))?;
            }
        }
        self.files = Default::default();
        self.vms = Default::default();
        self.busy.clear();
        self.fresh_memory().map_err(|error| error.to_string())?;
        let mut left = String::new();
        for name in std::mem::take(&mut self.last_vms).into_iter().flatten() {
            if PathBuf::from(DEBUGFS).join(&name).is_dir() {
                let _ = write!(left, " {name}");
            }
        }
        if left.is_empty() { Ok(()) } else { Err(format!("everything is closed, but there still are VMs:{left}")) }
    }
}
