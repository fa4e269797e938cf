//! The kernel port: what a confidential VMM needs of a host kernel, as plain typed data.
//!
//! Owns the traits [`Kernel`], [`KernelVm`], [`KernelGmem`] and [`KernelVcpu`] and the values they exchange. There is
//! no raw pointer in them, so that a second implementation (a software platform, a fake for tests) needs no `unsafe`.
//! Launch, conversion and teardown are written against these traits only; the code that runs on hardware is the code
//! the tests run.
//!
//! Does not own any policy: the order of calls, who may own a page and what to do about a failure is decided above.
//!
//! Specification: Linux `Documentation/virt/kvm/api.rst` (7.2); the section names are given at each call.

use std::fmt;
use std::sync::Arc;

use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem::{GfnRange, Gpa, PageCount};

use crate::backing::Region;

pub use self::exit::{CertificateRequest, Direction, Exit, Hypercall, MsrRead, MsrWrite, PortAccess};
use self::snp::{SnpCommand, SnpUpdate};

mod exit;
pub mod snp;

/// Something a host kernel does for us, with the errno it answered.
///
/// Names the call and its argument, so that a person can look the errno up in the kernel's documentation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}({argument}) failed: {}{}", std::io::Error::from_raw_os_error(*errno), details(*errno, *firmware))]
pub struct CallError {
    /// The kernel's name of the call, such as `KVM_SET_MEMORY_ATTRIBUTES`.
    pub call: &'static str,
    /// What it was asked for, for people.
    pub argument: String,
    /// The errno, as in `errno.h`.
    pub errno: i32,
    /// For a command that the kernel passed on to firmware: what that answered, unless it was success.
    pub firmware: Option<u32>,
}

impl CallError {
    /// `call` on `argument` answered `errno`.
    pub fn new(call: &'static str, argument: impl fmt::Display, errno: i32) -> Self {
        Self { call, argument: argument.to_string(), errno, firmware: None }
    }
}

fn details(errno: i32, firmware: Option<u32>) -> String {
    let status = firmware.map(|status| format!(", firmware status {status:#x}"));
    format!(" (errno {errno}{})", status.unwrap_or_default())
}

/// The kind of VM to create (`KVM_CREATE_VM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmType {
    /// `KVM_X86_DEFAULT_VM`: no private memory.
    Default,
    /// `KVM_X86_SW_PROTECTED_VM`: private by attribute, not encrypted.
    SwProtected,
    /// `KVM_X86_SNP_VM`.
    Snp,
    /// `KVM_X86_TDX_VM`.
    Tdx,
}

impl VmType {
    /// The kernel's number, also its bit in `KVM_CAP_VM_TYPES`.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Default => 0,
            Self::SwProtected => 1,
            Self::Snp => 4,
            Self::Tdx => 5,
        }
    }

    /// Whether pages of such a VM can be private (`KVM_CAP_MEMORY_ATTRIBUTES`).
    pub const fn has_private_memory(self) -> bool {
        !matches!(self, Self::Default)
    }

    /// Whether the hardware keeps its own record of who owns a page (RMP, Secure EPT).
    pub const fn has_hardware_owner(self) -> bool {
        matches!(self, Self::Snp | Self::Tdx)
    }
}

/// What a guest_memfd is created for (`KVM_CREATE_GUEST_MEMFD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GmemUse {
    /// Private memory: no process can ever map it (no flags).
    Private,
    /// Memory of a VM without privacy: `MMAP | INIT_SHARED` (Linux 6.18).
    HostShared,
}

/// A memory slot's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u16);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}

/// A memory slot to create (`KVM_SET_USER_MEMORY_REGION2`).
#[derive(Debug)]
pub struct Slot<'a, G> {
    /// Its number; must be free.
    pub id: SlotId,
    /// The guest frames it covers.
    pub range: GfnRange,
    /// Host memory of the same size for what is shared. The implementation keeps it alive as long as the slot.
    pub shared: Arc<Region>,
    /// Where its private pages come from: a guest_memfd and the first page in it.
    pub private: Option<(&'a G, PageCount)>,
}

/// Level of an interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Not asserted.
    Low,
    /// Asserted.
    High,
}

/// One CPUID leaf as the guest will see it (`struct kvm_cpuid_entry2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuidEntry {
    /// Leaf (EAX).
    pub leaf: u32,
    /// Subleaf (ECX), if the leaf has any.
    pub subleaf: Option<u32>,
    /// Result registers.
    pub eax: u32,
    /// Result registers.
    pub ebx: u32,
    /// Result registers.
    pub ecx: u32,
    /// Result registers.
    pub edx: u32,
}

/// A host kernel.
pub trait Kernel: Send + Sync {
    /// Its VMs.
    type Vm: KernelVm;

    /// Creates a VM (`KVM_CREATE_VM`).
    fn create_vm(&self, vm_type: VmType) -> Result<Self::Vm, CallError>;

    /// The CPUID leaves this host can give a guest (`KVM_GET_SUPPORTED_CPUID`).
    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, CallError>;
}

/// A VM. Dropping it closes its descriptor.
pub trait KernelVm: Send + Sync + fmt::Debug + 'static {
    /// Its private memory.
    type Gmem: KernelGmem;
    /// Its vCPUs.
    type Vcpu: KernelVcpu;

    /// Creates a guest_memfd of this VM: law *bound-at-birth*. The descriptor is close-on-exec and its number is above
    /// the VM's.
    fn create_gmem(&self, pages: PageCount, purpose: GmemUse) -> Result<Self::Gmem, CallError>;

    /// Creates a slot.
    fn create_slot(&self, slot: Slot<'_, Self::Gmem>) -> Result<(), CallError>;

    /// Deletes a slot.
    fn delete_slot(&self, id: SlotId) -> Result<(), CallError>;

    /// Says who owns pages (`KVM_SET_MEMORY_ATTRIBUTES`). Neither frees nor fills anything. Costs time and kernel
    /// memory by the page and ignores signals: callers bound the range.
    fn set_owner(&self, range: GfnRange, owner: Owner) -> Result<(), CallError>;

    /// Lets guests ask for conversions (`KVM_CAP_EXIT_HYPERCALL` with `KVM_HC_MAP_GPA_RANGE`).
    fn enable_conversion_requests(&self) -> Result<(), CallError>;

    /// Frequency in kHz of the TSC new vCPUs get (`KVM_GET_TSC_KHZ` on a VM, Linux 5.16).
    fn tsc_khz(&self) -> Result<u32, CallError>;

    /// Sends accesses to these MSRs, and to MSRs the kernel doesn't know, to us
    /// (`KVM_CAP_X86_USER_SPACE_MSR`, `KVM_X86_SET_MSR_FILTER`).
    fn trap_msrs(&self, indices: &[u32]) -> Result<(), CallError>;

    /// Creates PIC, IOAPIC and local APICs in the kernel, and a PIT (`KVM_CREATE_IRQCHIP`, `KVM_CREATE_PIT2`). After
    /// slots (a slot change after it waits), before vCPUs.
    fn create_interrupt_controller(&self) -> Result<(), CallError>;

    /// Drives an interrupt line (`KVM_IRQ_LINE`).
    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), CallError>;

    /// Creates a vCPU (`KVM_CREATE_VCPU`); its id is its x2APIC id.
    fn create_vcpu(&self, id: u32) -> Result<Self::Vcpu, CallError>;

    /// Gives an SNP VM a command (`KVM_MEMORY_ENCRYPT_OP`). The kernel's device for the PSP stays open, under one number,
    /// until the VM and all its vCPUs are closed: it is named by number once and used ever after.
    fn snp(&self, command: SnpCommand<'_>) -> Result<(), CallError>;

    /// Has pages of an SNP VM filled, encrypted and measured (`KVM_SEV_SNP_LAUNCH_UPDATE`), with signals held back: one
    /// makes the kernel stop. It may stop after any page, and says then that all went well; if it did none, EIO hides why.
    fn snp_launch_update(&self, update: &mut SnpUpdate<'_>) -> Result<(), CallError>;
}

/// A guest_memfd. Dropping it closes its only descriptor, which frees its pages.
pub trait KernelGmem: Send + Sync + fmt::Debug + 'static {
    /// Frees pages; what they held is gone (`fallocate` with `FALLOC_FL_PUNCH_HOLE`).
    fn discard(&self, first: PageCount, pages: PageCount) -> Result<(), CallError>;

    /// Pages that are allocated now (`cachestat`, Linux 6.5).
    fn allocated(&self) -> Result<PageCount, CallError>;
}

/// A vCPU. Dropping it unmaps its `kvm_run` page and closes its descriptor.
pub trait KernelVcpu: Send + fmt::Debug + 'static {
    /// Sets what CPUID answers (`KVM_SET_CPUID2`). Before the first run.
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), CallError>;

    /// Sets the registers the vCPU starts with (`KVM_SET_SREGS`, `KVM_SET_REGS`).
    fn set_initial_state(&mut self, state: &VcpuState) -> Result<(), CallError>;

    /// Runs until something happens (`KVM_RUN`). Answers to the previous exit, written through it, take effect.
    /// A signal makes it return [`Exit::Interrupted`].
    fn run(&mut self) -> Result<Exit<'_>, CallError>;

    /// Maps private pages of the guest without it having touched them (`KVM_PRE_FAULT_MEMORY`, Linux 6.12); says how many
    /// could be.
    fn prefault(&mut self, range: GfnRange) -> Result<PageCount, CallError>;

    /// Completes the previous exit (so that its answer takes effect) without running the guest any further
    /// (`immediate_exit`).
    fn complete_exit(&mut self) -> Result<(), CallError>;

    /// Where the vCPU is, for a person who asks why it died: instruction pointer and page-table base.
    fn position(&self) -> Option<(Gpa, Gpa)>;
}
