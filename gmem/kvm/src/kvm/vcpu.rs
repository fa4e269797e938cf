//! A vCPU of the real KVM, and its exits decoded.

use gmem::ledger::Owner;
use gmem::vcpu::{Segment, VcpuState};
use gmem::{GfnRange, Gpa, PAGE_SIZE, PageCount};
use kvm_bindings::{
    KVM_EXIT_AP_RESET_HOLD, KVM_MEMORY_EXIT_FLAG_PRIVATE, kvm_dtable, kvm_pre_fault_memory, kvm_regs, kvm_run,
    kvm_segment, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::io::Errno;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use std::sync::Arc;

use super::{Kept, byte_len, failed, to_kvm_cpuid};
use crate::port::{
    CallError, CertificateRequest, CpuidEntry, Direction, Exit, Hypercall, KernelVcpu, MsrRead, MsrWrite, PortAccess,
};
use crate::uapi::{self, SnpReqCerts};

/// A vCPU.
#[derive(Debug)]
pub struct KvmVcpu {
    // Dropped first: as long as it is open, the guest can reach what its slots name.
    fd: VcpuFd,
    _kept: Arc<Kept>,
}

impl KvmVcpu {
    pub(super) fn new(fd: VcpuFd, kept: Arc<Kept>) -> Self {
        Self { fd, _kept: kept }
    }
}

/// What `kvm-ioctls` made of an exit, without a borrow: some exits need fields of `kvm_run` it does not hand out.
enum Reason {
    Port { port: u16, direction: Direction, first: *mut u8, len: usize },
    MmioRead(Gpa),
    MmioWrite(Gpa),
    Hypercall,
    MsrRead,
    MsrWrite,
    MemoryFault { wanted: Owner, gpa: Gpa, size: u64 },
    Halted,
    Shutdown,
    SystemEvent { kind: u32, data: Vec<u64> },
    FailEntry { reason: u64, cpu: u32 },
    ResetHold,
    InternalError,
    Interrupted,
    Other,
}

impl From<VcpuExit<'_>> for Reason {
    fn from(exit: VcpuExit<'_>) -> Self {
        match exit {
            VcpuExit::IoIn(port, data) => {
                Self::Port { port, direction: Direction::In, first: data.as_mut_ptr(), len: data.len() }
            }
            VcpuExit::IoOut(port, data) => {
                Self::Port { port, direction: Direction::Out, first: data.as_ptr().cast_mut(), len: data.len() }
            }
            VcpuExit::MmioRead(gpa, _) => Self::MmioRead(Gpa(gpa)),
            VcpuExit::MmioWrite(gpa, _) => Self::MmioWrite(Gpa(gpa)),
            VcpuExit::Hypercall(_) => Self::Hypercall,
            VcpuExit::X86Rdmsr(_) => Self::MsrRead,
            VcpuExit::X86Wrmsr(_) => Self::MsrWrite,
            VcpuExit::MemoryFault { flags, gpa, size } => {
                let private = flags & u64::from(KVM_MEMORY_EXIT_FLAG_PRIVATE) != 0;
                let wanted = if private { Owner::Private } else { Owner::Shared };
                Self::MemoryFault { wanted, gpa: Gpa(gpa), size }
            }
            VcpuExit::Hlt => Self::Halted,
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::SystemEvent(kind, data) => Self::SystemEvent { kind, data: data.to_vec() },
            VcpuExit::FailEntry(reason, cpu) => Self::FailEntry { reason, cpu },
            VcpuExit::Unsupported(KVM_EXIT_AP_RESET_HOLD) => Self::ResetHold,
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::Intr => Self::Interrupted,
            _ => Self::Other,
        }
    }
}

/// The exit with its answer's place in `kvm_run`.
fn decode(reason: Reason, run: &mut kvm_run) -> Exit<'_> {
    let number = run.exit_reason;
    let arms = &mut run.__bindgen_anon_1;
    match reason {
        Reason::Port { port, direction, first, len } => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union; it is plain numbers.
            let width = usize::from(unsafe { arms.io.size });
            // SAFETY: the slice that `kvm-ioctls` made of the vCPU's `kvm_run` mapping just now; the mapping lives as
            // long as the vCPU, which `run` borrows, and nobody else refers to these bytes.
            let data = unsafe { std::slice::from_raw_parts_mut(first, len) };
            Exit::Port(PortAccess { port, direction, width, data })
        }
        Reason::MmioRead(gpa) | Reason::MmioWrite(gpa) => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union; it is plain numbers.
            let mmio = unsafe { &mut arms.mmio };
            let len = usize::try_from(mmio.len).unwrap_or(0).min(mmio.data.len());
            let data = &mut mmio.data[..len];
            if matches!(reason, Reason::MmioRead(_)) { Exit::MmioRead(gpa, data) } else { Exit::MmioWrite(gpa, data) }
        }
        Reason::Hypercall => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union; it is plain numbers.
            let call = unsafe { &mut arms.hypercall };
            Exit::Hypercall(Hypercall { number: call.nr, arguments: call.args, answer: &mut call.ret })
        }
        Reason::MsrRead => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union; it is plain numbers.
            let msr = unsafe { &mut arms.msr };
            Exit::MsrRead(MsrRead { index: msr.index, value: &mut msr.data, fault: &mut msr.error })
        }
        Reason::MsrWrite => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union; it is plain numbers.
            let msr = unsafe { &mut arms.msr };
            Exit::MsrWrite(MsrWrite { index: msr.index, value: msr.data, fault: &mut msr.error })
        }
        Reason::InternalError => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union; it is plain numbers.
            let internal = unsafe { arms.internal };
            let count = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
            Exit::InternalError { suberror: internal.suberror, data: internal.data[..count].to_vec() }
        }
        Reason::MemoryFault { wanted, gpa, size } => Exit::MemoryFault { wanted, gpa, size },
        Reason::Halted => Exit::Halted,
        Reason::Shutdown => Exit::Shutdown,
        Reason::SystemEvent { kind, data } => Exit::SystemEvent { kind, data },
        Reason::FailEntry { reason, cpu } => Exit::FailEntry { reason, cpu },
        Reason::Interrupted => Exit::Interrupted,
        Reason::ResetHold => Exit::ResetHold,
        Reason::Other if number == uapi::KVM_EXIT_SNP_REQ_CERTS => {
            // SAFETY: the exit reason says that the kernel filled in this arm of the union, which `kvm-bindings`
            // doesn't have: three plain numbers at its start, which is aligned for them and larger than they are.
            let request = unsafe { &mut *std::ptr::from_mut(arms).cast::<SnpReqCerts>() };
            let SnpReqCerts { gpa, npages, ret } = request;
            Exit::SnpCertificates(CertificateRequest { gpa: Gpa(*gpa), pages: npages, answer: ret })
        }
        Reason::Other => Exit::Other(number),
    }
}

/// A segment as KVM takes it. Specification: AMD APM volume 2, section 4.7.1, for what the bits are.
fn segment(segment: Segment) -> kvm_segment {
    let attributes = segment.attributes.to_le_bytes();
    let bit = |byte: usize, bit: u32| attributes[byte] >> bit & 1;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: attributes[0] & 0xf,
        s: bit(0, 4),
        dpl: attributes[0] >> 5 & 3,
        present: bit(0, 7),
        avl: bit(1, 0),
        l: bit(1, 1),
        db: bit(1, 2),
        g: bit(1, 3),
        ..Default::default()
    }
}

fn table(table: Segment) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: u16::try_from(table.limit).unwrap_or(u16::MAX), ..Default::default() }
}

/// Replaces all that `state` has an opinion on.
fn replace(sregs: &mut kvm_sregs, state: &VcpuState) {
    let data = segment(state.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.cs, sregs.ldt, sregs.tr) = (segment(state.cs), segment(state.ldtr), segment(state.tr));
    (sregs.gdt, sregs.idt) = (table(state.gdtr), table(state.idtr));
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (state.cr0, state.cr3.0, state.cr4, state.efer);
}

impl KernelVcpu for KvmVcpu {
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), CallError> {
        let argument = format_args!("{} entries", entries.len());
        self.fd.set_cpuid2(&to_kvm_cpuid(entries)?).map_err(failed("KVM_SET_CPUID2", argument))
    }

    fn set_initial_state(&mut self, state: &VcpuState) -> Result<(), CallError> {
        let mut sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS", ""))?;
        replace(&mut sregs, state);
        self.fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS", format_args!("{state:x?}")))?;
        // Bit 1 of RFLAGS is always set; interrupts are off.
        let regs = kvm_regs { rip: state.rip, rdx: state.rdx, rdi: state.rdi, rflags: 2, ..Default::default() };
        self.fd.set_regs(&regs).map_err(failed("KVM_SET_REGS", format_args!("{state:x?}")))
    }

    fn run(&mut self) -> Result<Exit<'_>, CallError> {
        let reason = match self.fd.run() {
            Ok(exit) => Reason::from(exit),
            Err(error) => match Errno::from_raw_os_error(error.errno()) {
                Errno::INTR | Errno::AGAIN => Reason::Interrupted,
                _ => return Err(failed("KVM_RUN", "")(error)),
            },
        };
        Ok(decode(reason, self.fd.get_kvm_run()))
    }

    fn prefault(&mut self, range: GfnRange) -> Result<PageCount, CallError> {
        const CALL: &str = "KVM_PRE_FAULT_MEMORY";
        let size = byte_len(range, CALL)?.0;
        let mut request = kvm_pre_fault_memory { gpa: range.gpa().0, size, ..Default::default() };
        while request.size > 0 {
            // SAFETY: the structure is the one this call takes, and lives until it returns.
            let result = unsafe { ioctl_with_mut_ref(&self.fd, uapi::KVM_PRE_FAULT_MEMORY(), &mut request) };
            if result < 0 {
                let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                if error == Errno::INTR.raw_os_error() {
                    break;
                }
                return Err(CallError::new(CALL, range, error));
            }
        }
        Ok(PageCount::new(range.pages().get() - request.size.div_ceil(PAGE_SIZE)))
    }

    fn complete_exit(&mut self) -> Result<(), CallError> {
        self.fd.set_kvm_immediate_exit(1);
        let result = self.fd.run().map(drop);
        self.fd.set_kvm_immediate_exit(0);
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.errno() == Errno::INTR.raw_os_error() => Ok(()),
            Err(error) => Err(failed("KVM_RUN", "immediate exit")(error)),
        }
    }

    fn position(&self) -> Option<(Gpa, Gpa)> {
        let regs = self.fd.get_regs().ok()?;
        let sregs = self.fd.get_sregs().ok()?;
        Some((Gpa(regs.rip), Gpa(sregs.cr3)))
    }
}
