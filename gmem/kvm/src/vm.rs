//! A VM and its stages: `Vm<Launching>` → `Vm<Sealed>`, or `Vm<Failed>`; from each of them only teardown is left in the
//! end.
//!
//! Owns who owns what: the one [`Vm`] value owns the VM; threads get a [`VmHandle`], which can convert pages, reach
//! shared memory, drop staging and drive interrupt lines, but cannot seal, expose or tear down. Laws *bound-at-birth*
//! (the guest_memfd never leaves this module), *sealed-is-sealed* (nothing is populated after [`Vm::seal`], because
//! only `Vm<Launching>` can) and, with [`crate::teardown`], *pages-before-key*.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gmem::launch::{PageKind, Plan};
use gmem::layout::RamLayout;
use gmem::ledger::{Ledger, Owner, PageState};
use gmem::{GfnRange, Gpa, PageCount};
use vm_memory::{Bytes, GuestAddress, GuestRegionCollection};

use crate::backing::{BackingError, Region};
use crate::convert::{ConversionDesk, ConvertError, Converted};
use crate::port::{CallError, GmemUse, Kernel, KernelGmem, KernelVm, Level, Slot, SlotId, VmType};
use crate::shared::{Epochs, SharedView};

mod snp;

pub use self::snp::PopulateError;

/// Slot of the staging area; RAM slots count from zero.
pub(crate) const STAGING_SLOT: SlotId = SlotId(16);
/// Marking RAM private costs about 1,000 instructions a page and cannot be interrupted: at most 1 GiB a call.
const MARK_PIECE: PageCount = PageCount::new(1 << 18);

/// A VM in one of its stages.
#[must_use]
pub struct Vm<V: KernelVm, S> {
    pub(crate) core: Owned<V>,
    stage: S,
}

/// Being put together: slots, vCPUs and contents can be added.
#[derive(Debug)]
pub struct Launching {
    vcpus: u32,
    ram_is_private: bool,
}

/// Launched: it runs, and nothing can be populated any more.
#[derive(Debug)]
pub struct Sealed {
    vcpus: u32,
}

/// A step failed: only teardown is left.
#[derive(Debug)]
pub struct Failed {
    why: LaunchError,
}

/// The one owner of what a VM holds. If it is dropped without [`crate::teardown`] (a panic), the guest_memfd closes at
/// once, whoever else is inside a call at that moment; the VM itself follows with the last of those calls.
pub(crate) struct Owned<V: KernelVm>(Arc<Core<V>>);

/// What a VM holds. Closed by [`crate::teardown`]; if that never ran (a panic), dropping it closes in the same order.
pub(crate) struct Core<V: KernelVm> {
    // Fields drop in this order: law pages-before-key.
    pub(crate) gmem: Mutex<Option<V::Gmem>>,
    pub(crate) vm: V,
    pub(crate) vm_type: VmType,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) ram: Vec<Arc<Region>>,
    pub(crate) staging: Mutex<Option<Arc<Region>>>,
    pub(crate) slots: Mutex<Vec<SlotId>>,
    pub(crate) desk: ConversionDesk,
    /// Conversions stop.
    pub(crate) closing: AtomicBool,
    /// Handles do nothing any more.
    gone: Arc<AtomicBool>,
    shared: SharedView,
}

impl<V: KernelVm> Owned<V> {
    /// Teardown begins: no handle starts another call.
    pub(crate) fn refuse_handles(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Gives ownership up, with the guest_memfd closed.
    pub(crate) fn release(self) -> Arc<Core<V>> {
        Arc::clone(&self.0)
    }
}

impl<V: KernelVm> Deref for Owned<V> {
    type Target = Core<V>;

    fn deref(&self) -> &Core<V> {
        &self.0
    }
}

impl<V: KernelVm> Drop for Owned<V> {
    fn drop(&mut self) {
        self.refuse_handles();
        self.begin_closing();
        drop(lock(&self.gmem).take());
    }
}

/// Why a launch step failed. Names the step.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The kernel refused.
    #[error("{step}: {source}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: CallError,
    },
    /// The kernel refused, and there is more to say about why.
    #[error("{step}: {source}: {explanation}")]
    Explained {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: CallError,
        /// What that means, and what to do.
        explanation: String,
    },
    /// Host memory could not be had.
    #[error("{step}: {source}")]
    Backing {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: BackingError,
    },
    /// The plan cannot be carried out on this VM.
    #[error("{step}: {reason}")]
    Plan {
        /// What was being done.
        step: &'static str,
        /// Why.
        reason: String,
    },
}

impl LaunchError {
    /// What firmware answered, if the kernel passed on what was refused.
    pub fn firmware(&self) -> Option<u32> {
        match self {
            Self::Kernel { source, .. } | Self::Explained { source, .. } => source.firmware,
            Self::Backing { .. } | Self::Plan { .. } => None,
        }
    }

    fn kernel(step: &'static str) -> impl Fn(CallError) -> Self {
        move |source| Self::Kernel { step, source }
    }

    fn backing(step: &'static str) -> impl Fn(BackingError) -> Self {
        move |source| Self::Backing { step, source }
    }
}

/// Locks that guard plain data stay usable after a panic elsewhere: teardown must go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V: KernelVm> Vm<V, Launching> {
    /// Creates a VM with the host memory for what is shared, and nothing else yet. RAM starts out private where the
    /// type has private memory.
    pub fn create<K: Kernel<Vm = V>>(kernel: &K, vm_type: VmType, ram: RamLayout) -> Result<Self, LaunchError> {
        let owner = if vm_type.has_private_memory() { Owner::Private } else { Owner::Shared };
        let vm = kernel.create_vm(vm_type).map_err(LaunchError::kernel("create VM"))?;
        let regions = ram
            .ranges()
            .map(|range| Region::new("tenure-ram-shared", range).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(LaunchError::backing("create shared memory"))?;
        let (ledger, epochs) = (Arc::new(Ledger::new(ram, owner)), Arc::new(Epochs::default()));
        let shared = SharedView::new(Arc::clone(&ledger), Arc::clone(&epochs), &regions).ok_or_else(|| {
            LaunchError::Plan { step: "create shared memory", reason: format!("RAM {ram:?} cannot be mapped") }
        })?;
        let core = Core {
            gmem: Mutex::new(None),
            vm,
            vm_type,
            ledger,
            epochs,
            ram: regions,
            staging: Mutex::new(None),
            slots: Mutex::new(Vec::new()),
            desk: ConversionDesk::default(),
            closing: AtomicBool::new(false),
            gone: Arc::default(),
            shared,
        };
        Ok(Self { core: Owned(Arc::new(core)), stage: Launching { vcpus: 0, ram_is_private: false } })
    }

    /// Frequency of the guest's TSC in kHz.
    pub fn tsc_khz(&self) -> Result<u32, LaunchError> {
        self.core.vm.tsc_khz().map_err(LaunchError::kernel("ask for the TSC frequency"))
    }

    /// Creates the guest_memfd (if this type has private memory) and the RAM slots. One file holds all RAM; its page
    /// numbers are positions in [`RamLayout`].
    pub fn add_ram(&mut self) -> Result<(), LaunchError> {
        let core = &*self.core;
        let mut gmem = lock(&core.gmem);
        if core.vm_type.has_private_memory() && gmem.is_none() {
            let file = core.vm.create_gmem(core.ledger.ram().pages(), GmemUse::Private);
            *gmem = Some(file.map_err(LaunchError::kernel("create guest_memfd"))?);
        }
        let mut first_page = 0;
        for (id, region) in (0u16..).map(SlotId).zip(&core.ram) {
            let private = gmem.as_ref().map(|file| (file, PageCount::new(first_page)));
            let slot = Slot { id, range: region.range(), shared: Arc::clone(region), private };
            core.vm.create_slot(slot).map_err(LaunchError::kernel("create RAM slot"))?;
            lock(&core.slots).push(id);
            first_page += region.range().pages().get();
        }
        Ok(())
    }

    /// Tells the kernel which RAM is private: all that has not been converted yet. Done once, however often it is asked
    /// for: marking again costs as much as the first time.
    pub fn mark_ram_private(&mut self) -> Result<(), LaunchError> {
        const STEP: &str = "mark RAM private";
        if !self.has_private_memory() {
            let reason = format!("a VM of type {:?} has no private memory", self.core.vm_type);
            return Err(LaunchError::Plan { step: STEP, reason });
        }
        if self.stage.ram_is_private {
            return Ok(());
        }
        let core = &*self.core;
        // What the kernel is told is what the ledger says, and stays so.
        core.desk.closed_while(|| {
            let private = |state| matches!(state, PageState::PrivateUntouched | PageState::PrivatePopulated);
            let runs = core.ledger.runs().filter(|(_, state)| private(*state));
            for piece in runs.flat_map(|(run, _)| run.pieces(MARK_PIECE)) {
                core.vm.set_owner(piece, Owner::Private).map_err(LaunchError::kernel(STEP))?;
            }
            Ok(())
        })?;
        self.stage.ram_is_private = true;
        Ok(())
    }

    /// Puts the plan's staged regions into a shared slot of their own above RAM.
    pub fn stage(&mut self, plan: &Plan) -> Result<(), LaunchError> {
        const STEP: &str = "stage";
        let Some(extent) = plan.extent(PageKind::Staged) else { return Ok(()) };
        let region = Arc::new(Region::new("tenure-staging", extent).map_err(LaunchError::backing(STEP))?);
        let failed = |reason: String| LaunchError::Plan { step: STEP, reason };
        let mapped = region.guest_region().ok_or_else(|| failed(format!("{extent} cannot be mapped")))?;
        let memory = GuestRegionCollection::from_regions(vec![mapped]).map_err(|error| failed(error.to_string()))?;
        for staged in plan.regions().iter().filter(|staged| staged.kind == PageKind::Staged) {
            let at = GuestAddress(staged.range.gpa().0);
            memory
                .write_slice(staged.contents.bytes(), at)
                .map_err(|error| failed(format!("cannot write {} at {}: {error}", staged.label, staged.range)))?;
        }
        let slot = Slot { id: STAGING_SLOT, range: extent, shared: Arc::clone(&region), private: None };
        self.core.vm.create_slot(slot).map_err(LaunchError::kernel("create staging slot"))?;
        *lock(&self.core.staging) = Some(region);
        Ok(())
    }

    /// Lets the guest ask for conversions.
    pub fn enable_conversion_requests(&mut self) -> Result<(), LaunchError> {
        let step = "enable conversion requests";
        self.core.vm.enable_conversion_requests().map_err(LaunchError::kernel(step))
    }

    /// Sends accesses to these MSRs, and to unknown ones, to us.
    pub fn trap_msrs(&mut self, indices: &[u32]) -> Result<(), LaunchError> {
        self.core.vm.trap_msrs(indices).map_err(LaunchError::kernel("trap MSRs"))
    }

    /// Creates the kernel's interrupt controller. After all slots, before all vCPUs.
    pub fn create_interrupt_controller(&mut self) -> Result<(), LaunchError> {
        let step = "create interrupt controller";
        self.core.vm.create_interrupt_controller().map_err(LaunchError::kernel(step))
    }

    /// Creates the next vCPU. The caller runs it and gives it back to teardown. Refused while RAM that should be private
    /// isn't: law *no-silent-trust*, privacy is never lost by an omission.
    pub fn add_vcpu(&mut self) -> Result<V::Vcpu, LaunchError> {
        const STEP: &str = "create vCPU";
        if self.has_private_memory() && !self.stage.ram_is_private {
            return Err(LaunchError::Plan { step: STEP, reason: "RAM has not been marked private".to_owned() });
        }
        let vcpu = self.core.vm.create_vcpu(self.stage.vcpus).map_err(LaunchError::kernel(STEP))?;
        self.stage.vcpus += 1;
        Ok(vcpu)
    }

    /// Ends the launch: law *sealed-is-sealed*. A VM whose owner the hardware keeps is sealed by the hardware's own last
    /// step, and not here.
    pub fn seal(self) -> Result<Vm<V, Sealed>, Box<Vm<V, Failed>>> {
        if self.core.vm_type.has_hardware_owner() {
            let reason = format!("a VM of type {:?} is sealed by its firmware", self.core.vm_type);
            return Err(Box::new(self.fail(LaunchError::Plan { step: "seal", reason })));
        }
        Ok(Vm { core: self.core, stage: Sealed { vcpus: self.stage.vcpus } })
    }

    /// Ends the launch after a failure.
    pub fn fail(self, why: LaunchError) -> Vm<V, Failed> {
        Vm { core: self.core, stage: Failed { why } }
    }
}

impl<V: KernelVm> Vm<V, Sealed> {
    /// How many vCPUs it was launched with.
    pub fn vcpus(&self) -> u32 {
        self.stage.vcpus
    }
}

impl<V: KernelVm> Vm<V, Failed> {
    /// What failed.
    pub fn why(&self) -> &LaunchError {
        &self.stage.why
    }
}

impl<V: KernelVm, S> Vm<V, S> {
    /// A handle for threads.
    pub fn handle(&self) -> VmHandle<V> {
        let core = &self.core.0;
        VmHandle { core: Arc::downgrade(core), gone: Arc::clone(&core.gone), shared: core.shared.clone() }
    }

    /// Whether its pages can be private.
    pub fn has_private_memory(&self) -> bool {
        self.core.vm_type.has_private_memory()
    }

    /// Who owns which page.
    pub fn ledger(&self) -> &Ledger {
        &self.core.ledger
    }

    /// Pages of private and of shared memory that take host memory now.
    pub fn resident(&self) -> Resident {
        self.core.resident()
    }
}

/// Host memory a guest takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resident {
    /// Allocated guest_memfd pages; `None` if the kernel doesn't tell (before Linux 6.5).
    pub private: Option<PageCount>,
    /// Allocated pages of shared memory, staging not counted.
    pub shared: PageCount,
    /// Allocated pages of staging.
    pub staging: PageCount,
}

impl<V: KernelVm> Core<V> {
    pub(crate) fn resident(&self) -> Resident {
        let sum = |regions: &mut dyn Iterator<Item = &Arc<Region>>| {
            PageCount::new(regions.map(|region| region.resident().map_or(0, PageCount::get)).sum())
        };
        Resident {
            private: lock(&self.gmem).as_ref().map_or(Some(PageCount::default()), |file| file.allocated().ok()),
            shared: sum(&mut self.ram.iter()),
            staging: sum(&mut lock(&self.staging).iter()),
        }
    }

    /// Deletes the staging slot and frees its memory. Nothing to do if that has been done.
    pub(crate) fn drop_staging(&self) -> Result<bool, CallError> {
        let mut staging = lock(&self.staging);
        if staging.is_none() {
            return Ok(false);
        }
        self.vm.delete_slot(STAGING_SLOT)?;
        *staging = None;
        Ok(true)
    }
}

impl<V: KernelVm, S: fmt::Debug> fmt::Debug for Vm<V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("vm", &self.core.vm).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// What a thread may do with a VM. Keeps nothing of the VM alive: once teardown has begun, every call says [`Gone`] or
/// does nothing. (The memory behind its shared view stays until the last handle goes; nothing can be reached in it.)
pub struct VmHandle<V: KernelVm> {
    core: Weak<Core<V>>,
    gone: Arc<AtomicBool>,
    shared: SharedView,
}

/// The VM has been torn down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the VM has been torn down")]
pub struct Gone;

impl<V: KernelVm> Clone for VmHandle<V> {
    fn clone(&self) -> Self {
        Self { core: Weak::clone(&self.core), gone: Arc::clone(&self.gone), shared: self.shared.clone() }
    }
}

impl<V: KernelVm> fmt::Debug for VmHandle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmHandle").finish_non_exhaustive()
    }
}

impl<V: KernelVm> VmHandle<V> {
    /// The VM, for one call. `None` from the beginning of teardown, so that threads that keep calling cannot keep it
    /// alive between them.
    fn core(&self) -> Option<Arc<Core<V>>> {
        if self.gone.load(Ordering::SeqCst) { None } else { self.core.upgrade() }
    }

    /// Gives pages to `owner`: law *no-stale-copy*. See [`crate::convert`].
    pub fn convert(&self, range: GfnRange, owner: Owner) -> Result<Converted, ConvertError> {
        self.core().ok_or(ConvertError::Gone)?.convert(range, owner)
    }

    /// The view host code reaches guest memory through: law *shared-only*.
    pub fn shared(&self) -> &SharedView {
        &self.shared
    }

    /// Deletes the staging slot and frees its memory; `false` if it was gone already.
    pub fn drop_staging(&self) -> Result<bool, CallError> {
        self.core().map_or(Ok(false), |core| core.drop_staging())
    }

    /// Drives an interrupt line.
    pub fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), CallError> {
        self.core().map_or(Ok(()), |core| core.vm.set_irq_line(gsi, level))
    }

    /// Who owns the page at `gpa` now, as far as the ledger knows; `None` outside RAM or after teardown.
    pub fn page_state(&self, gpa: Gpa) -> Option<PageState> {
        self.core()?.ledger.state(gpa.gfn())
    }

    /// Host memory the guest takes now.
    pub fn resident(&self) -> Result<Resident, Gone> {
        Ok(self.core().ok_or(Gone)?.resident())
    }

    /// Makes conversions in progress stop at their next piece, and new ones not start, because the VM is about to be torn down.
    pub fn begin_closing(&self) {
        if let Some(core) = self.core() {
            core.begin_closing();
        }
    }
}
