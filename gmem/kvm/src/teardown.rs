//! The end of a VM: law *pages-before-key*.
//!
//! A page's tenure ends before its key's. From every stage, half-built ones included, the order is: vCPUs have stopped
//! (the caller hands them over) → slots are deleted, best effort, since on a dead VM every call answers EIO → every
//! guest_memfd is closed, whatever happened before → vCPUs and their `kvm_run` mappings → the VM. The reverse order
//! would free the ASID while the RMP still names it, and Linux 7.2 does not protect us from that.
//!
//! Owns the order, and the [`Receipt`] that tells the truth about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gmem::PageCount;
use gmem::ledger::Census;

use crate::convert::Unsettled;
use crate::evidence::debugfs::{KernelsList, vms_left};
use crate::evidence::{self, Held};
use crate::port::KernelVm;
use crate::vm::{Core, Resident, STAGING_SLOT, Vm, lock};

/// How long teardown waits for a thread that is inside a call on a handle.
const HANDLE_PATIENCE: Duration = Duration::from_secs(5);

/// What became of a VM.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Pages by their last state before they were freed.
    pub pages: Census,
    /// Host memory the guest took when teardown began.
    pub resident: Resident,
    /// What conversions left behind: stale copies that could never be discarded, and pages whose owner nobody knew.
    /// They are gone with the memory, but were there until now.
    pub unsettled: Unsettled,
    /// What was closed, in order.
    pub steps: Vec<ClosingStep>,
    /// Descriptors and mappings of VMs this process still holds: none after a clean teardown.
    pub held: Vec<Held>,
    /// VMs of this process that the kernel still has: none after a clean teardown.
    pub kernels_list: KernelsList,
    /// Pages the kernel gave up because it could not take them back from the hardware.
    pub leaked: Leaked,
}

/// Pages that no longer belong to the VM, and that nobody will get again.
///
/// Linux leaks a page rather than free it while the RMP or the Secure EPT may still name an owner (7.2:
/// `snp_leak_pages`, `tdx_reclaim_page`). It tells its log and nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaked {
    /// This type of VM has no hardware owner, so nothing can leak.
    CannotBe,
    /// The kernel tells only its log.
    Unknown,
}

/// One step of the closing order.
#[derive(Debug, Clone)]
pub struct ClosingStep {
    /// What was closed.
    pub what: Closing,
    /// When, since teardown began.
    pub at: Duration,
    /// Why it did not work, if it didn't.
    pub problem: Option<String>,
}

/// What is closed, in the order of the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// All vCPU threads have left the guest.
    VcpusStopped,
    /// A memory slot.
    Slot(u16),
    /// The guest_memfd: its pages are free.
    GuestMemfd,
    /// So many vCPUs and their `kvm_run` mappings.
    Vcpus(usize),
    /// The VM, and with it its ASID or TD.
    Vm,
}

impl Receipt {
    /// Whether everything was closed, nothing is owed, in doubt or held. A slot that could not be deleted does not
    /// count: on a dead VM none can, and closing the guest_memfd takes its pages all the same.
    pub fn is_clean(&self) -> bool {
        let closed = |step: &ClosingStep| step.problem.is_none() || matches!(step.what, Closing::Slot(_));
        let settled = self.unsettled == Unsettled::default() && self.pages.in_doubt.get() == 0;
        let gone = !matches!(&self.kernels_list, KernelsList::Vms(vms) if !vms.is_empty());
        settled && gone && self.held.is_empty() && self.steps.iter().all(closed)
    }

    /// Whether the pages went before the key.
    pub fn pages_before_key(&self) -> bool {
        let position = |wanted: Closing| self.steps.iter().position(|step| step.what == wanted);
        match (position(Closing::GuestMemfd), position(Closing::Vm)) {
            (Some(pages), Some(key)) => pages < key,
            (None, Some(_)) => self.resident.private == Some(PageCount::default()),
            (_, None) => false,
        }
    }
}

impl<V: KernelVm, S> Vm<V, S> {
    /// Ends the VM. `vcpus` are those that were created, back from their threads; a vCPU whose thread died is closed
    /// already.
    pub fn teardown(self, vcpus: Vec<V::Vcpu>) -> Receipt {
        let started = Instant::now();
        let core = self.core;
        core.refuse_handles();
        let mut steps = Vec::new();
        let mut step = |what: Closing, problem: Option<String>| {
            steps.push(ClosingStep { what, at: started.elapsed(), problem });
        };
        step(Closing::VcpusStopped, None);
        let resident = core.resident();
        let unsettled = core.settle();
        delete_slots(&core, &mut step);
        if lock(&core.gmem).take().is_some() {
            step(Closing::GuestMemfd, None);
        }
        let pages = core.ledger.free();
        let count = vcpus.len();
        drop(vcpus);
        step(Closing::Vcpus(count), None);
        let leaked = if core.vm_type.has_hardware_owner() { Leaked::Unknown } else { Leaked::CannotBe };
        step(Closing::Vm, close_vm(core.release()).err());
        let held = evidence::held_by_this_process();
        Receipt { pages, resident, unsettled, steps, held, kernels_list: vms_left(), leaked }
    }
}

fn delete_slots<V: KernelVm>(core: &Core<V>, step: &mut impl FnMut(Closing, Option<String>)) {
    let staging = core.drop_staging();
    if !matches!(staging, Ok(false)) {
        step(Closing::Slot(STAGING_SLOT.0), staging.err().map(|error| error.to_string()));
        *lock(&core.staging) = None;
    }
    for id in lock(&core.slots).drain(..).rev() {
        step(Closing::Slot(id.0), core.vm.delete_slot(id).err().map(|error| error.to_string()));
    }
}

/// Closes the VM's descriptor, which must be the last thing that names it.
fn close_vm<V: KernelVm>(mut core: Arc<Core<V>>) -> Result<(), String> {
    let started = Instant::now();
    loop {
        match Arc::try_unwrap(core) {
            Ok(core) => {
                drop(core);
                return Ok(());
            }
            Err(shared) if started.elapsed() < HANDLE_PATIENCE => {
                core = shared;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(shared) => {
                let others = Arc::strong_count(&shared) - 1;
                return Err(format!("{others} threads are still inside calls on this VM"));
            }
        }
    }
}
