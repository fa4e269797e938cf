//! A kernel in memory, for tests.
//!
//! Implements the port as Linux 7.2 behaves (`virt/kvm/guest_memfd.c`, `virt/kvm/kvm_main.c`): slots, bindings and
//! their errnos, memory attributes by the frame, contents by the page, what pins a VM and in which order a release
//! frees things. Written from the kernel's behaviour, never from the ledger or the conversion code: a mistake must not
//! be shared. Beyond the port it records every call in order ([`Record`]), runs hooks before a call takes
//! effect, and lets a test be the guest.

mod frames;
mod guest;
mod model;
mod record;
mod script;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem::{GfnRange, Gpa, PageCount};

use crate::port::snp::{SnpCommand, SnpUpdate};
use crate::port::{CallError, CpuidEntry, Exit, GmemUse, Kernel, KernelGmem, KernelVcpu, KernelVm, Level};
use crate::port::{Slot, SlotId, VmType};

use super::fault::PortCall;

pub use frames::Frames;
pub use guest::GuestFault;
pub use record::{Call, Record};
pub use script::Act;

use model::Model;
use script::Progress;

/// The errnos tests name.
pub mod errno {
    /// Interrupted system call.
    pub const EINTR: i32 = 4;
    /// Input/output error; every call on a dead VM.
    pub const EIO: i32 = 5;
    /// Bad file descriptor.
    pub const EBADF: i32 = 9;
    /// Resource temporarily unavailable.
    pub const EAGAIN: i32 = 11;
    /// Cannot allocate memory.
    pub const ENOMEM: i32 = 12;
    /// File exists; ranges overlap.
    pub const EEXIST: i32 = 17;
    /// Invalid argument.
    pub const EINVAL: i32 = 22;
    /// Not a call of this device: this kernel has neither SEV nor prefaulting.
    pub const ENOTTY: i32 = 25;
}

type Hook = Arc<dyn Fn(&Call) + Send + Sync>;

/// The kernel. Clones are the same kernel.
#[derive(Clone, Default)]
pub struct FakeKernel {
    model: Arc<Mutex<Model>>,
    hooks: Arc<Mutex<Vec<(PortCall, Hook)>>>,
}

impl fmt::Debug for FakeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeKernel")
    }
}

/// A VM's descriptor.
pub struct FakeVm {
    kernel: FakeKernel,
    id: u32,
}

/// A guest_memfd's descriptor.
pub struct FakeGmem {
    kernel: FakeKernel,
    id: u32,
}

/// A vCPU's descriptor.
pub struct FakeVcpu {
    kernel: FakeKernel,
    vm: u32,
    id: u32,
    progress: Progress,
}

impl FakeKernel {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `hook` before every call of `kind`, outside of the kernel's own lock.
    pub fn before(&self, kind: PortCall, hook: impl Fn(&Call) + Send + Sync + 'static) {
        self.hooks.lock().unwrap().push((kind, Arc::new(hook)));
    }

    /// Every VM call answers EIO from now on.
    pub fn kill(&self, vm: u32) {
        self.model().kill(vm);
    }

    /// What vCPUs of this number will do that are created from now on. Others wait for a signal, again and again.
    pub fn script(&self, vcpu: u32, acts: Vec<Act>) {
        self.model().scripts.insert(vcpu, acts);
    }

    /// What scripted guests found wrong.
    pub fn complaints(&self) -> Vec<String> {
        self.model().complaints.clone()
    }

    /// What the last VM that closed a guest_memfd had then: which frames were private, and how many pages it had.
    pub fn last_held(&self) -> Option<(Frames, u64)> {
        self.model().last_held.clone()
    }

    /// What was called so far, in order.
    pub fn record(&self) -> Vec<Record> {
        self.model().record.clone()
    }

    /// Puts a test's own remark into the record.
    pub fn note(&self, remark: &'static str) {
        self.model().note(Call::Note(remark), None);
    }

    /// Whether anything of a VM is left: descriptors, files, the VM itself.
    pub fn is_empty(&self) -> bool {
        self.model().is_empty()
    }

    fn call<T>(&self, call: Call, effect: impl FnOnce(&mut Model) -> Result<T, i32>) -> Result<T, CallError> {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (_, hook) in hooks.iter().filter(|(kind, _)| Some(*kind) == call.kind()) {
            hook(&call);
        }
        let mut model = self.model();
        let result =
            effect(&mut model).map_err(|errno| CallError::new(call.kernel_name(), format_args!("{call:?}"), errno));
        model.note(call, result.as_ref().err().map(|error| error.errno));
        result
    }
}

impl Kernel for FakeKernel {
    type Vm = FakeVm;

    fn create_vm(&self, vm_type: VmType) -> Result<FakeVm, CallError> {
        let id = self.call(Call::CreateVm(vm_type), |model| Ok(model.create_vm(vm_type)))?;
        Ok(FakeVm { kernel: self.clone(), id })
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, CallError> {
        // An AMD-type CPU with guest-physical addresses of 48 bits (APM volume 3, appendix E).
        let [ebx, edx, ecx] = [b"Auth", b"enti", b"cAMD"].map(|four| u32::from_le_bytes(*four));
        let vendor = CpuidEntry { leaf: 0, eax: 1, ebx, ecx, edx, ..CpuidEntry::default() };
        let widths = CpuidEntry { leaf: 0x8000_0008, eax: 48, ..CpuidEntry::default() };
        Ok(vec![vendor, widths])
    }
}

impl FakeVm {
    /// Which VM, for [`FakeKernel::guest_read`] and the like.
    pub fn id(&self) -> u32 {
        self.id
    }

    fn call<T>(&self, call: Call, effect: impl FnOnce(&mut Model) -> Result<T, i32>) -> Result<T, CallError> {
        self.kernel.call(call, |model| {
            model.check_alive(self.id)?;
            effect(model)
        })
    }
}

impl KernelVm for FakeVm {
    type Gmem = FakeGmem;
    type Vcpu = FakeVcpu;

    fn create_gmem(&self, pages: PageCount, purpose: GmemUse) -> Result<FakeGmem, CallError> {
        let create = |model: &mut Model| model.create_gmem(self.id, pages.get(), purpose);
        let id = self.call(Call::CreateGmem { pages: pages.get() }, create)?;
        Ok(FakeGmem { kernel: self.kernel.clone(), id })
    }

    fn create_slot(&self, slot: Slot<'_, FakeGmem>) -> Result<(), CallError> {
        let call = Call::CreateSlot { id: slot.id.0, range: slot.range };
        let private = slot.private.map(|(gmem, first)| (gmem.id, first.get()));
        self.call(call, |model| model.create_slot(self.id, slot.id.0, slot.range, slot.shared, private))
    }

    fn delete_slot(&self, id: SlotId) -> Result<(), CallError> {
        self.call(Call::DeleteSlot(id.0), |model| model.delete_slot(self.id, id.0))
    }

    fn set_owner(&self, range: GfnRange, owner: Owner) -> Result<(), CallError> {
        self.call(Call::SetOwner { range, owner }, |model| model.set_owner(self.id, range, owner))
    }

    fn enable_conversion_requests(&self) -> Result<(), CallError> {
        self.call(Call::EnableConversionRequests, |_| Ok(()))
    }

    fn tsc_khz(&self) -> Result<u32, CallError> {
        self.call(Call::TscKhz, |_| Ok(2_600_000))
    }

    fn trap_msrs(&self, _indices: &[u32]) -> Result<(), CallError> {
        self.call(Call::TrapMsrs, |_| Ok(()))
    }

    fn create_interrupt_controller(&self) -> Result<(), CallError> {
        self.call(Call::CreateInterruptController, |model| model.create_interrupt_controller(self.id))
    }

    fn set_irq_line(&self, gsi: u32, _level: Level) -> Result<(), CallError> {
        self.call(Call::SetIrqLine { gsi }, |_| Ok(()))
    }

    fn create_vcpu(&self, id: u32) -> Result<FakeVcpu, CallError> {
        self.call(Call::CreateVcpu(id), |model| model.create_vcpu(self.id, id))?;
        let progress = Progress::new(self.kernel.model().scripts.get(&id).cloned().unwrap_or_default());
        Ok(FakeVcpu { kernel: self.kernel.clone(), vm: self.id, id, progress })
    }

    fn snp(&self, command: SnpCommand<'_>) -> Result<(), CallError> {
        self.call(Call::Snp(PortCall::of_snp(&command)), |_| Err(errno::ENOTTY))
    }

    fn snp_launch_update(&self, _update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
        self.call(Call::Snp(PortCall::SnpLaunchUpdate), |_| Err(errno::ENOTTY))
    }
}

impl KernelGmem for FakeGmem {
    fn discard(&self, first: PageCount, pages: PageCount) -> Result<(), CallError> {
        let call = Call::Discard { first: first.get(), pages: pages.get() };
        self.kernel.call(call, |model| model.discard(self.id, first.get(), pages.get()))
    }

    fn allocated(&self) -> Result<PageCount, CallError> {
        Ok(PageCount::new(self.kernel.model().allocated(self.id)))
    }
}

impl KernelVcpu for FakeVcpu {
    fn set_cpuid(&mut self, _entries: &[CpuidEntry]) -> Result<(), CallError> {
        Ok(())
    }

    fn set_initial_state(&mut self, _state: &VcpuState) -> Result<(), CallError> {
        Ok(())
    }

    fn run(&mut self) -> Result<Exit<'_>, CallError> {
        self.kernel.call(Call::Run(self.id), |model| model.check_alive(self.vm))?;
        self.advance()
    }

    fn prefault(&mut self, range: GfnRange) -> Result<PageCount, CallError> {
        self.kernel.call(Call::Prefault { id: self.id, range }, |_| Err(errno::ENOTTY))
    }

    fn complete_exit(&mut self) -> Result<(), CallError> {
        self.run().map(drop)
    }

    fn position(&self) -> Option<(Gpa, Gpa)> {
        None
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.kernel.model().close_vm(self.id);
    }
}

impl Drop for FakeGmem {
    fn drop(&mut self) {
        self.kernel.model().close_gmem(self.id);
    }
}

impl Drop for FakeVcpu {
    fn drop(&mut self) {
        self.kernel.model().close_vcpu(self.vm, self.id);
    }
}

impl fmt::Debug for FakeVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeVm({})", self.id)
    }
}

impl fmt::Debug for FakeGmem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeGmem({})", self.id)
    }
}

impl fmt::Debug for FakeVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeVcpu({})", self.id)
    }
}
