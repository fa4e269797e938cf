//! What was called, in order.

use gmem::GfnRange;
use gmem::ledger::Owner;

use crate::port::VmType;
use crate::testing::fault::PortCall;

/// One call, or something the kernel did on its own, or a test's remark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `create_vm`.
    CreateVm(VmType),
    /// `create_gmem`.
    CreateGmem {
        /// Its size.
        pages: u64,
    },
    /// `create_slot`.
    CreateSlot {
        /// Its number.
        id: u16,
        /// The frames it covers.
        range: GfnRange,
    },
    /// `delete_slot`, by number.
    DeleteSlot(u16),
    /// `set_owner`.
    SetOwner {
        /// Which frames.
        range: GfnRange,
        /// Whose they become.
        owner: Owner,
    },
    /// `enable_conversion_requests`.
    EnableConversionRequests,
    /// `tsc_khz`.
    TscKhz,
    /// `trap_msrs`.
    TrapMsrs,
    /// `create_interrupt_controller`.
    CreateInterruptController,
    /// `set_irq_line`.
    SetIrqLine {
        /// Which line.
        gsi: u32,
    },
    /// `create_vcpu`, by number.
    CreateVcpu(u32),
    /// `snp`, by its command.
    Snp(PortCall),
    /// `run`, by number.
    Run(u32),
    /// `prefault`.
    Prefault {
        /// Which vCPU.
        id: u32,
        /// Which frames.
        range: GfnRange,
    },
    /// `discard`.
    Discard {
        /// The first page of the file.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// A guest_memfd's last reference is gone: it is unbound and unmapped from the guest.
    CloseGmem,
    /// A vCPU's descriptor is closed.
    CloseVcpu(u32),
    /// A VM's descriptor is closed.
    CloseVm,
    /// A guest_memfd's pages are free.
    PagesFreed {
        /// How many.
        pages: u64,
    },
    /// The last reference to a VM is gone, and its key is free.
    KeyFreed,
    /// A test's own remark.
    Note(&'static str),
}

impl Call {
    /// Which call of the port it is, if it is one.
    pub fn kind(&self) -> Option<PortCall> {
        Some(match self {
            Self::CreateVm(_) => PortCall::CreateVm,
            Self::CreateGmem { .. } => PortCall::CreateGmem,
            Self::CreateSlot { .. } => PortCall::CreateSlot,
            Self::DeleteSlot(_) => PortCall::DeleteSlot,
            Self::SetOwner { .. } => PortCall::SetOwner,
            Self::EnableConversionRequests => PortCall::EnableConversionRequests,
            Self::TscKhz => PortCall::TscKhz,
            Self::TrapMsrs => PortCall::TrapMsrs,
            Self::CreateInterruptController => PortCall::CreateInterruptController,
            Self::SetIrqLine { .. } => PortCall::SetIrqLine,
            Self::CreateVcpu(_) => PortCall::CreateVcpu,
            Self::Snp(command) => *command,
            Self::Run(_) => PortCall::Run,
            Self::Prefault { .. } => PortCall::Prefault,
            Self::Discard { .. } => PortCall::Discard,
            Self::CloseGmem
            | Self::CloseVcpu(_)
            | Self::CloseVm
            | Self::PagesFreed { .. }
            | Self::KeyFreed
            | Self::Note(_) => return None,
        })
    }

    /// The kernel's name of it.
    pub fn kernel_name(&self) -> &'static str {
        self.kind().map_or("event", PortCall::kernel_name)
    }
}

/// A call and what it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Place in the order of all calls of this kernel.
    pub sequence: u64,
    /// What was called.
    pub call: Call,
    /// What it answered, unless it worked.
    pub errno: Option<i32>,
}
