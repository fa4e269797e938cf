//! The port's traits.

use std::collections::VecDeque;
use std::fmt;

use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem::{GfnRange, Gpa, PageCount};
use gmem_kvm::port::snp::{SnpCommand, SnpUpdate};
use gmem_kvm::port::{
    CallError, CpuidEntry, Exit, GmemUse, Kernel, KernelGmem, KernelVcpu, KernelVm, Level, Slot, SlotId, VmType,
};
use gmem_kvm::testing::fake::Frames;
use rustix::io::Errno;

use crate::host::{Machine, SiliconKernel, State, Vcpu};
use crate::launch::Refusal;
use crate::rows::Row;
use crate::vcpu::Progress;

/// A VM's descriptor.
pub struct SiliconVm {
    pub(crate) kernel: SiliconKernel,
    pub(crate) id: u32,
}

/// A guest_memfd's descriptor.
pub struct SiliconGmem {
    kernel: SiliconKernel,
    id: u32,
}

/// A vCPU's descriptor.
pub struct SiliconVcpu {
    pub(crate) kernel: SiliconKernel,
    pub(crate) vm: u32,
    pub(crate) id: u32,
    pub(crate) progress: Progress,
}

impl Kernel for SiliconKernel {
    type Vm = SiliconVm;

    fn create_vm(&self, vm_type: VmType) -> Result<SiliconVm, CallError> {
        let mut state = self.lock();
        let id = state.id();
        let machine = Machine {
            vm_type,
            dead: false,
            descriptor_open: true,
            vcpus_open: 0,
            vcpus: Default::default(),
            interrupt_controller: false,
            slots: Default::default(),
            private: Frames::default(),
            snp: None,
        };
        state.vms.insert(id, machine);
        Ok(SiliconVm { kernel: self.clone(), id })
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, CallError> {
        let [ebx, edx, ecx] = [b"Auth", b"enti", b"cAMD"].map(|four| u32::from_le_bytes(*four));
        let signature = self.platform.inspect(|_, psp| psp.config().model.signature());
        Ok(vec![
            CpuidEntry { leaf: 0, eax: 0x10, ebx, ecx, edx, ..CpuidEntry::default() },
            CpuidEntry { leaf: 1, eax: signature, edx: 0x178b_fbff, ..CpuidEntry::default() },
            CpuidEntry { leaf: 0x8000_0008, eax: 48, ..CpuidEntry::default() },
        ])
    }
}

impl SiliconVm {
    /// Which VM, for [`SiliconKernel::digest`] and the like.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// A call on a VM that is alive.
    fn call<T>(
        &self,
        call: &'static str,
        argument: impl fmt::Display,
        effect: impl FnOnce(&mut State) -> Result<T, Errno>,
    ) -> Result<T, CallError> {
        let mut state = self.kernel.lock();
        state.begin_call(self.id);
        let dead = state.vms.get(&self.id).is_some_and(|machine| machine.dead);
        let result = if dead { Err(state.meet(Row::DeadVm)) } else { effect(&mut state) };
        result.map_err(|errno| CallError::new(call, argument, errno.raw_os_error()))
    }

    fn refused(&self, call: &'static str, argument: impl fmt::Display, (row, status): Refusal) -> CallError {
        let errno = self.kernel.lock().meet(row);
        let firmware = status.map(|status| status.code());
        CallError { firmware, ..CallError::new(call, format_args!("{argument}: {}", row.text()), errno.raw_os_error()) }
    }
}

impl State {
    /// Counts a row, and says its errno.
    pub(crate) fn meet(&mut self, row: Row) -> Errno {
        *self.met.entry(row).or_default() += 1;
        row.errno()
    }
}

impl KernelVm for SiliconVm {
    type Gmem = SiliconGmem;
    type Vcpu = SiliconVcpu;

    fn create_gmem(&self, pages: PageCount, purpose: GmemUse) -> Result<SiliconGmem, CallError> {
        let create = |state: &mut State| state.create_gmem(self.id, pages.get(), purpose);
        let id = self.call("KVM_CREATE_GUEST_MEMFD", pages, create)?;
        Ok(SiliconGmem { kernel: self.kernel.clone(), id })
    }

    fn create_slot(&self, slot: Slot<'_, SiliconGmem>) -> Result<(), CallError> {
        let private = slot.private.map(|(gmem, first)| (gmem.id, first.get()));
        let create = |state: &mut State| state.create_slot(self.id, slot.id.0, slot.range, slot.shared, private);
        self.call("KVM_SET_USER_MEMORY_REGION2", slot.id, create)
    }

    fn delete_slot(&self, id: SlotId) -> Result<(), CallError> {
        let delete = |state: &mut State| state.vm(self.id)?.slots.remove(&id.0).map(drop).ok_or(Errno::INVAL);
        self.call("KVM_SET_USER_MEMORY_REGION2", id, delete)
    }

    fn set_owner(&self, range: GfnRange, owner: Owner) -> Result<(), CallError> {
        self.call("KVM_SET_MEMORY_ATTRIBUTES", range, |state| state.set_owner(self.id, range, owner))
    }

    fn enable_conversion_requests(&self) -> Result<(), CallError> {
        self.call("KVM_ENABLE_CAP", "KVM_CAP_EXIT_HYPERCALL", |_| Ok(()))
    }

    fn tsc_khz(&self) -> Result<u32, CallError> {
        self.call("KVM_GET_TSC_KHZ", "VM", |_| Ok(2_600_000))
    }

    fn trap_msrs(&self, _indices: &[u32]) -> Result<(), CallError> {
        self.call("KVM_X86_SET_MSR_FILTER", "", |_| Ok(()))
    }

    fn create_interrupt_controller(&self) -> Result<(), CallError> {
        self.call("KVM_CREATE_IRQCHIP", "", |state| {
            let machine = state.vm(self.id)?;
            if std::mem::replace(&mut machine.interrupt_controller, true) { Err(Errno::EXIST) } else { Ok(()) }
        })
    }

    fn set_irq_line(&self, gsi: u32, _level: Level) -> Result<(), CallError> {
        self.call("KVM_IRQ_LINE", gsi, |_| Ok(()))
    }

    fn create_vcpu(&self, id: u32) -> Result<SiliconVcpu, CallError> {
        let script = self.call("KVM_CREATE_VCPU", id, |state| {
            let machine = state.vm(self.id)?;
            if machine.vcpus.contains_key(&id) {
                return Err(Errno::EXIST);
            }
            let unprotected = machine.vm_type == VmType::Snp && machine.snp.is_none();
            machine.vcpus.insert(id, Vcpu { unprotected, state: VcpuState::RESET, vmsa: None });
            machine.vcpus_open += 1;
            Ok(state.scripts.get(&id).cloned().unwrap_or_else(VecDeque::new))
        })?;
        Ok(SiliconVcpu { kernel: self.kernel.clone(), vm: self.id, id, progress: Progress::new(script) })
    }

    fn snp(&self, command: SnpCommand<'_>) -> Result<(), CallError> {
        let mut state = self.kernel.lock();
        state.begin_call(self.id);
        let result = state.snp(&self.kernel.platform, self.id, &command);
        drop(state);
        result.map_err(|refusal| self.refused(command.name(), "VM", refusal))
    }

    fn snp_launch_update(&self, update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
        update.done = PageCount::default();
        let mut state = self.kernel.lock();
        state.begin_call(self.id);
        let result = state.update(&self.kernel.platform, self.id, update);
        drop(state);
        result.map_err(|refusal| self.refused("KVM_SEV_SNP_LAUNCH_UPDATE", update.range, refusal))
    }
}

impl KernelGmem for SiliconGmem {
    fn discard(&self, first: PageCount, pages: PageCount) -> Result<(), CallError> {
        let punched = self.kernel.lock().punch(&self.kernel.platform, self.id, first.get(), pages.get());
        punched.map_err(|errno| CallError::new("fallocate", format_args!("{pages} at {first}"), errno.raw_os_error()))
    }

    fn allocated(&self) -> Result<PageCount, CallError> {
        let state = self.kernel.lock();
        Ok(PageCount::new(state.files.get(&self.id).map_or(0, |file| file.pages.len() as u64)))
    }
}

impl KernelVcpu for SiliconVcpu {
    fn set_cpuid(&mut self, _entries: &[CpuidEntry]) -> Result<(), CallError> {
        Ok(())
    }

    fn set_initial_state(&mut self, state: &VcpuState) -> Result<(), CallError> {
        let mut host = self.kernel.lock();
        let vcpu = host.vms.get_mut(&self.vm).and_then(|machine| machine.vcpus.get_mut(&self.id));
        match vcpu {
            Some(vcpu) if vcpu.vmsa.is_none() => {
                vcpu.state = *state;
                Ok(())
            }
            _ => {
                let errno = host.meet(Row::RegistersAfterFinish);
                Err(CallError::new("KVM_SET_SREGS", self.id, errno.raw_os_error()))
            }
        }
    }

    fn run(&mut self) -> Result<Exit<'_>, CallError> {
        self.advance()
    }

    fn prefault(&mut self, range: GfnRange) -> Result<PageCount, CallError> {
        self.prefault_pages(range)
    }

    fn complete_exit(&mut self) -> Result<(), CallError> {
        self.complete()
    }

    fn position(&self) -> Option<(Gpa, Gpa)> {
        // Registers are the guest's.
        None
    }
}

impl Drop for SiliconVm {
    fn drop(&mut self) {
        self.kernel.lock().close_vm(&self.kernel.platform, self.id);
    }
}

impl Drop for SiliconGmem {
    fn drop(&mut self) {
        self.kernel.lock().close_file(&self.kernel.platform, self.id);
    }
}

impl Drop for SiliconVcpu {
    fn drop(&mut self) {
        self.kernel.lock().close_vcpu(&self.kernel.platform, self.vm);
    }
}

impl fmt::Debug for SiliconVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiliconVm({})", self.id)
    }
}

impl fmt::Debug for SiliconGmem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiliconGmem({})", self.id)
    }
}

impl fmt::Debug for SiliconVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiliconVcpu({})", self.id)
    }
}
