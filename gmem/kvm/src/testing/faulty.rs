//! A kernel with faults: every call of the port is passed on to another kernel, unless it is to fail.

use std::fmt;
use std::sync::Arc;

use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem::{GfnRange, Gpa, PageCount};

use super::fault::{Faults, PortCall};
use crate::port::snp::{SnpCommand, SnpUpdate};
use crate::port::{
    CallError, CpuidEntry, Exit, GmemUse, Kernel, KernelGmem, KernelVcpu, KernelVm, Level, Slot, SlotId, VmType,
};

/// Some part of a kernel, and what is to go wrong with it.
pub struct Faulty<T> {
    inner: T,
    faults: Arc<Faults>,
}

impl<T> Faulty<T> {
    /// Puts `faults` before `inner`.
    pub fn new(inner: T, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }

    /// What is behind the faults.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    fn wrap<U>(&self, inner: U) -> Faulty<U> {
        Faulty::new(inner, Arc::clone(&self.faults))
    }
}

impl<T: fmt::Debug> fmt::Debug for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<K: Kernel> Kernel for Faulty<K> {
    type Vm = Faulty<K::Vm>;

    fn create_vm(&self, vm_type: VmType) -> Result<Self::Vm, CallError> {
        self.faults.around(PortCall::CreateVm, || Ok(self.wrap(self.inner.create_vm(vm_type)?)))
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, CallError> {
        self.faults.around(PortCall::SupportedCpuid, || self.inner.supported_cpuid())
    }
}

impl<V: KernelVm> KernelVm for Faulty<V> {
    type Gmem = Faulty<V::Gmem>;
    type Vcpu = Faulty<V::Vcpu>;

    fn create_gmem(&self, pages: PageCount, purpose: GmemUse) -> Result<Self::Gmem, CallError> {
        self.faults.around(PortCall::CreateGmem, || Ok(self.wrap(self.inner.create_gmem(pages, purpose)?)))
    }

    fn create_slot(&self, slot: Slot<'_, Self::Gmem>) -> Result<(), CallError> {
        let Slot { id, range, shared, private } = slot;
        let private = private.map(|(gmem, first)| (&gmem.inner, first));
        self.faults.around(PortCall::CreateSlot, || self.inner.create_slot(Slot { id, range, shared, private }))
    }

    fn delete_slot(&self, id: SlotId) -> Result<(), CallError> {
        self.faults.around(PortCall::DeleteSlot, || self.inner.delete_slot(id))
    }

    fn set_owner(&self, range: GfnRange, owner: Owner) -> Result<(), CallError> {
        self.faults.around(PortCall::SetOwner, || self.inner.set_owner(range, owner))
    }

    fn enable_conversion_requests(&self) -> Result<(), CallError> {
        self.faults.around(PortCall::EnableConversionRequests, || self.inner.enable_conversion_requests())
    }

    fn tsc_khz(&self) -> Result<u32, CallError> {
        self.faults.around(PortCall::TscKhz, || self.inner.tsc_khz())
    }

    fn trap_msrs(&self, indices: &[u32]) -> Result<(), CallError> {
        self.faults.around(PortCall::TrapMsrs, || self.inner.trap_msrs(indices))
    }

    fn create_interrupt_controller(&self) -> Result<(), CallError> {
        self.faults.around(PortCall::CreateInterruptController, || self.inner.create_interrupt_controller())
    }

    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), CallError> {
        self.faults.around(PortCall::SetIrqLine, || self.inner.set_irq_line(gsi, level))
    }

    fn create_vcpu(&self, id: u32) -> Result<Self::Vcpu, CallError> {
        self.faults.around(PortCall::CreateVcpu, || Ok(self.wrap(self.inner.create_vcpu(id)?)))
    }

    fn snp(&self, command: SnpCommand<'_>) -> Result<(), CallError> {
        self.faults.around(PortCall::of_snp(&command), || self.inner.snp(command))
    }

    fn snp_launch_update(&self, update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
        self.faults.around(PortCall::SnpLaunchUpdate, || self.inner.snp_launch_update(update))
    }
}

impl<G: KernelGmem> KernelGmem for Faulty<G> {
    fn discard(&self, first: PageCount, pages: PageCount) -> Result<(), CallError> {
        self.faults.around(PortCall::Discard, || self.inner.discard(first, pages))
    }

    fn allocated(&self) -> Result<PageCount, CallError> {
        self.faults.around(PortCall::Allocated, || self.inner.allocated())
    }
}

impl<C: KernelVcpu> KernelVcpu for Faulty<C> {
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), CallError> {
        self.faults.around(PortCall::SetCpuid, || self.inner.set_cpuid(entries))
    }

    fn set_initial_state(&mut self, state: &VcpuState) -> Result<(), CallError> {
        self.faults.around(PortCall::SetInitialState, || self.inner.set_initial_state(state))
    }

    fn run(&mut self) -> Result<Exit<'_>, CallError> {
        self.faults.around(PortCall::Run, || self.inner.run())
    }

    fn prefault(&mut self, range: GfnRange) -> Result<PageCount, CallError> {
        self.faults.around(PortCall::Prefault, || self.inner.prefault(range))
    }

    fn complete_exit(&mut self) -> Result<(), CallError> {
        self.faults.around(PortCall::CompleteExit, || self.inner.complete_exit())
    }

    fn position(&self) -> Option<(Gpa, Gpa)> {
        self.inner.position()
    }
}
