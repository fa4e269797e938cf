//! Why a vCPU stopped running, and where the answer goes.
//!
//! Owns the exits a VMM for confidential guests acts on; every other reason arrives as [`Exit::Other`] with its
//! number. Specification: `struct kvm_run` in Linux `Documentation/virt/kvm/api.rst`, section 5.

use gmem::Gpa;
use gmem::ledger::Owner;

/// Which way a port access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The guest reads; the answer is written into `data`.
    In,
    /// The guest writes.
    Out,
}

/// A port access: one item, or several of a string instruction.
#[derive(Debug)]
pub struct PortAccess<'a> {
    /// Port number.
    pub port: u16,
    /// Which way.
    pub direction: Direction,
    /// Bytes of each item: 1, 2 or 4.
    pub width: usize,
    /// All items; to be filled when the guest reads.
    pub data: &'a mut [u8],
}

/// A hypercall that KVM leaves to us.
#[derive(Debug)]
pub struct Hypercall<'a> {
    /// Number; 12 is `KVM_HC_MAP_GPA_RANGE`.
    pub number: u64,
    /// Arguments.
    pub arguments: [u64; 6],
    /// What the guest finds in RAX: 0 or a negative KVM errno. For a change of page state of an SNP guest 0, `EINVAL` or
    /// `EAGAIN`, positive; `KVM_RUN` refuses anything else.
    pub answer: &'a mut u64,
}

/// An MSR read that KVM leaves to us.
#[derive(Debug)]
pub struct MsrRead<'a> {
    /// MSR number.
    pub index: u32,
    /// The value to give.
    pub value: &'a mut u64,
    /// Set to 1 to inject #GP instead.
    pub fault: &'a mut u8,
}

/// An MSR write that KVM leaves to us.
#[derive(Debug)]
pub struct MsrWrite<'a> {
    /// MSR number.
    pub index: u32,
    /// The value written.
    pub value: u64,
    /// Set to 1 to inject #GP.
    pub fault: &'a mut u8,
}

/// A guest's request for the certificates that go with an attestation report.
#[derive(Debug)]
pub struct CertificateRequest<'a> {
    /// Where they are to be put, in shared memory.
    pub gpa: Gpa,
    /// Room there in pages; what is needed, if that is more.
    pub pages: &'a mut u64,
    /// 0, or an errno: `ENOSPC` if there is not room enough, `EAGAIN` if the guest should ask again, `EIO` for good.
    pub answer: &'a mut u64,
}

/// Why a vCPU stopped.
#[derive(Debug)]
pub enum Exit<'a> {
    /// `KVM_EXIT_IO`.
    Port(PortAccess<'a>),
    /// `KVM_EXIT_MMIO`, a read to be filled.
    MmioRead(Gpa, &'a mut [u8]),
    /// `KVM_EXIT_MMIO`, a write.
    MmioWrite(Gpa, &'a [u8]),
    /// `KVM_EXIT_HYPERCALL`.
    Hypercall(Hypercall<'a>),
    /// `KVM_EXIT_X86_RDMSR`.
    MsrRead(MsrRead<'a>),
    /// `KVM_EXIT_X86_WRMSR`.
    MsrWrite(MsrWrite<'a>),
    /// `KVM_EXIT_MEMORY_FAULT`: an access the memory attributes or the backing refuse.
    MemoryFault {
        /// The kind of access.
        wanted: Owner,
        /// First address, page aligned.
        gpa: Gpa,
        /// Bytes, page aligned.
        size: u64,
    },
    /// `KVM_EXIT_HLT`: only without an interrupt controller in the kernel.
    Halted,
    /// `KVM_EXIT_SHUTDOWN`: a triple fault.
    Shutdown,
    /// `KVM_EXIT_AP_RESET_HOLD`: an SEV-ES or SNP vCPU waits for its first SIPI. Only without an interrupt controller
    /// in the kernel.
    ResetHold,
    /// `KVM_EXIT_SNP_REQ_CERTS` (Linux 7.0).
    SnpCertificates(CertificateRequest<'a>),
    /// `KVM_EXIT_SYSTEM_EVENT`.
    SystemEvent {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
        /// Details by kind.
        data: Vec<u64>,
    },
    /// `KVM_EXIT_FAIL_ENTRY`: the CPU refused the guest's state.
    FailEntry {
        /// The CPU's reason.
        reason: u64,
        /// The physical CPU.
        cpu: u32,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// Details by suberror.
        data: Vec<u64>,
    },
    /// A signal arrived.
    Interrupted,
    /// Any other exit reason.
    Other(u32),
}

impl Exit<'_> {
    /// The kernel's short name, for statistics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Port(_) => "io",
            Self::MmioRead(..) | Self::MmioWrite(..) => "mmio",
            Self::Hypercall(_) => "hypercall",
            Self::MsrRead(_) => "rdmsr",
            Self::MsrWrite(_) => "wrmsr",
            Self::MemoryFault { .. } => "memory_fault",
            Self::Halted => "hlt",
            Self::Shutdown => "shutdown",
            Self::ResetHold => "ap_reset_hold",
            Self::SnpCertificates(_) => "snp_req_certs",
            Self::SystemEvent { .. } => "system_event",
            Self::FailEntry { .. } => "fail_entry",
            Self::InternalError { .. } => "internal_error",
            Self::Interrupted => "intr",
            Self::Other(_) => "other",
        }
    }
}
