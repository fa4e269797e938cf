//! The real port with an eye on it: what this process holds, at the moment each thing is closed.
//!
//! On a VM of type 0 it pretends memory attributes, so that the code of a VM with private memory, its launch, conversion
//! and teardown, runs over real VMs, slots and guest_memfds where the kernel has no attributes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem::{GfnRange, Gpa, PageCount};
use gmem_kvm::evidence::held_by_this_process;
use gmem_kvm::kvm::{KvmGmem, KvmVcpu, KvmVm};
use gmem_kvm::port::snp::{SnpCommand, SnpUpdate};
use gmem_kvm::port::{CallError, CpuidEntry, Exit, GmemUse, Kernel, KernelGmem, KernelVcpu, KernelVm, Level};
use gmem_kvm::port::{Slot, SlotId, VmType};

use crate::host::{Host, Kind};
use crate::raw::GMEM_NAMES;

/// Something that happened, and what was held just before.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) what: What,
    held: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    DeleteSlot,
    CloseGmem,
    CloseVcpu,
    CloseVm,
}

impl Moment {
    pub(crate) fn holds_gmem(&self) -> bool {
        self.held.iter().any(|name| GMEM_NAMES.iter().any(|part| name.contains(part)))
    }

    /// Descriptors and `kvm_run` mappings of vCPUs.
    pub(crate) fn vcpus_held(&self) -> usize {
        self.held.iter().filter(|name| name.contains("kvm-vcpu:")).count()
    }

    pub(crate) fn holds_vm(&self) -> bool {
        self.held.iter().any(|name| name.ends_with("kvm-vm"))
    }
}

/// What happened, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Moment>>>);

impl Log {
    fn note(&self, what: What) {
        let held = held_by_this_process().into_iter().map(|held| held.name).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Moment { what, held });
    }

    pub(crate) fn moments(&self) -> Vec<Moment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct Watched<'a> {
    host: &'a Host,
    pub(crate) log: Log,
}

pub(crate) struct WatchedVm {
    vm: KvmVm,
    kind: Kind,
    log: Log,
}

pub(crate) struct WatchedGmem {
    gmem: KvmGmem,
    log: Log,
}

pub(crate) struct WatchedVcpu {
    vcpu: KvmVcpu,
    log: Log,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(host: &'a Host) -> Self {
        Self { host, log: Log::default() }
    }
}

impl Kernel for Watched<'_> {
    type Vm = WatchedVm;

    fn create_vm(&self, _vm_type: VmType) -> Result<WatchedVm, CallError> {
        let vm = self.host.kernel.create_vm(self.host.vm_type())?;
        Ok(WatchedVm { vm, kind: self.host.kind, log: self.log.clone() })
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, CallError> {
        self.host.kernel.supported_cpuid()
    }
}

impl KernelVm for WatchedVm {
    type Gmem = WatchedGmem;
    type Vcpu = WatchedVcpu;

    fn create_gmem(&self, pages: PageCount, purpose: GmemUse) -> Result<WatchedGmem, CallError> {
        let purpose = if self.kind == Kind::Mappable { GmemUse::HostShared } else { purpose };
        let gmem = self.vm.create_gmem(pages, purpose)?;
        Ok(WatchedGmem { gmem, log: self.log.clone() })
    }

    fn create_slot(&self, slot: Slot<'_, WatchedGmem>) -> Result<(), CallError> {
        let private = slot.private.map(|(watched, first)| (&watched.gmem, first));
        self.vm.create_slot(Slot { id: slot.id, range: slot.range, shared: slot.shared, private })
    }

    fn delete_slot(&self, id: SlotId) -> Result<(), CallError> {
        self.log.note(What::DeleteSlot);
        self.vm.delete_slot(id)
    }

    fn set_owner(&self, range: GfnRange, owner: Owner) -> Result<(), CallError> {
        match self.kind {
            Kind::Mappable => Ok(()),
            Kind::Private => self.vm.set_owner(range, owner),
        }
    }

    fn enable_conversion_requests(&self) -> Result<(), CallError> {
        self.vm.enable_conversion_requests()
    }

    fn tsc_khz(&self) -> Result<u32, CallError> {
        self.vm.tsc_khz()
    }

    fn trap_msrs(&self, indices: &[u32]) -> Result<(), CallError> {
        self.vm.trap_msrs(indices)
    }

    fn create_interrupt_controller(&self) -> Result<(), CallError> {
        self.vm.create_interrupt_controller()
    }

    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), CallError> {
        self.vm.set_irq_line(gsi, level)
    }

    fn create_vcpu(&self, id: u32) -> Result<WatchedVcpu, CallError> {
        Ok(WatchedVcpu { vcpu: self.vm.create_vcpu(id)?, log: self.log.clone() })
    }

    fn snp(&self, command: SnpCommand<'_>) -> Result<(), CallError> {
        self.vm.snp(command)
    }

    fn snp_launch_update(&self, update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
        self.vm.snp_launch_update(update)
    }
}

impl KernelGmem for WatchedGmem {
    fn discard(&self, first: PageCount, pages: PageCount) -> Result<(), CallError> {
        self.gmem.discard(first, pages)
    }

    fn allocated(&self) -> Result<PageCount, CallError> {
        self.gmem.allocated()
    }
}

impl KernelVcpu for WatchedVcpu {
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), CallError> {
        self.vcpu.set_cpuid(entries)
    }

    fn set_initial_state(&mut self, state: &VcpuState) -> Result<(), CallError> {
        self.vcpu.set_initial_state(state)
    }

    fn run(&mut self) -> Result<Exit<'_>, CallError> {
        self.vcpu.run()
    }

    fn prefault(&mut self, range: GfnRange) -> Result<PageCount, CallError> {
        self.vcpu.prefault(range)
    }

    fn complete_exit(&mut self) -> Result<(), CallError> {
        self.vcpu.complete_exit()
    }

    fn position(&self) -> Option<(Gpa, Gpa)> {
        self.vcpu.position()
    }
}

impl Drop for WatchedVm {
    fn drop(&mut self) {
        self.log.note(What::CloseVm);
    }
}

impl Drop for WatchedGmem {
    fn drop(&mut self) {
        self.log.note(What::CloseGmem);
    }
}

impl Drop for WatchedVcpu {
    fn drop(&mut self) {
        self.log.note(What::CloseVcpu);
    }
}

impl fmt::Debug for WatchedVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vm.fmt(f)
    }
}

impl fmt::Debug for WatchedGmem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gmem.fmt(f)
    }
}

impl fmt::Debug for WatchedVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vcpu.fmt(f)
    }
}
