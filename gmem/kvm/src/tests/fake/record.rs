//! What was called, in order.

use gmem::GfnRange;
use gmem::ledger::Owner;

use crate::port::VmType;

/// One call, or something the kernel did on its own, or a test's remark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    CreateVm(VmType),
    CreateGmem {
        pages: u64,
    },
    CreateSlot {
        id: u16,
        range: GfnRange,
    },
    DeleteSlot(u16),
    SetOwner {
        range: GfnRange,
        owner: Owner,
    },
    EnableConversionRequests,
    TscKhz,
    TrapMsrs,
    CreateInterruptController,
    SetIrqLine {
        gsi: u32,
    },
    CreateVcpu(u32),
    Run(u32),
    Discard {
        first: u64,
        pages: u64,
    },
    /// A guest_memfd's last reference is gone: it is unbound and unmapped from the guest.
    CloseGmem,
    CloseVcpu(u32),
    CloseVm,
    /// A guest_memfd's pages are free.
    PagesFreed {
        pages: u64,
    },
    /// The last reference to a VM is gone, and its key is free.
    KeyFreed,
    Note(&'static str),
}

/// A call without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    CreateVm,
    CreateGmem,
    CreateSlot,
    DeleteSlot,
    SetOwner,
    EnableConversionRequests,
    TscKhz,
    TrapMsrs,
    CreateInterruptController,
    SetIrqLine,
    CreateVcpu,
    Run,
    Discard,
    Event,
}

impl Call {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::CreateVm(_) => Kind::CreateVm,
            Self::CreateGmem { .. } => Kind::CreateGmem,
            Self::CreateSlot { .. } => Kind::CreateSlot,
            Self::DeleteSlot(_) => Kind::DeleteSlot,
            Self::SetOwner { .. } => Kind::SetOwner,
            Self::EnableConversionRequests => Kind::EnableConversionRequests,
            Self::TscKhz => Kind::TscKhz,
            Self::TrapMsrs => Kind::TrapMsrs,
            Self::CreateInterruptController => Kind::CreateInterruptController,
            Self::SetIrqLine { .. } => Kind::SetIrqLine,
            Self::CreateVcpu(_) => Kind::CreateVcpu,
            Self::Run(_) => Kind::Run,
            Self::Discard { .. } => Kind::Discard,
            Self::CloseGmem
            | Self::CloseVcpu(_)
            | Self::CloseVm
            | Self::PagesFreed { .. }
            | Self::KeyFreed
            | Self::Note(_) => Kind::Event,
        }
    }

    /// The kernel's name of it.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind() {
            Kind::CreateVm => "KVM_CREATE_VM",
            Kind::CreateGmem => "KVM_CREATE_GUEST_MEMFD",
            Kind::CreateSlot | Kind::DeleteSlot => "KVM_SET_USER_MEMORY_REGION2",
            Kind::SetOwner => "KVM_SET_MEMORY_ATTRIBUTES",
            Kind::EnableConversionRequests | Kind::TrapMsrs => "KVM_ENABLE_CAP",
            Kind::TscKhz => "KVM_GET_TSC_KHZ",
            Kind::CreateInterruptController => "KVM_CREATE_IRQCHIP",
            Kind::SetIrqLine => "KVM_IRQ_LINE",
            Kind::CreateVcpu => "KVM_CREATE_VCPU",
            Kind::Run => "KVM_RUN",
            Kind::Discard => "fallocate",
            Kind::Event => "event",
        }
    }
}

/// A call and what it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Place in the order of all calls of this kernel.
    pub(crate) sequence: u64,
    pub(crate) call: Call,
    pub(crate) errno: Option<i32>,
}
