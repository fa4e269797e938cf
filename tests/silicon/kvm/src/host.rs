//! What the kernel knows: VMs, files and free pages; and in which order they go.
//!
//! Owns who pins whom and what is freed when. Specification: Linux 7.2, `kvm_gmem_release`, `kvm_destroy_vm`,
//! `sev_vm_destroy`, `sev_free_vcpu`, `sev_gmem_invalidate`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gmem::GfnRange;
use gmem_kvm::backing::Region;
use gmem_kvm::port::VmType;
use gmem_kvm::testing::fake::Frames;
use tenure_silicon::platform::Platform;
use tenure_silicon::rmp::{Assignment, Entry, PageState};
use tenure_silicon::units::{Asid, PageSize, Pfn};

use crate::rows::Row;
use crate::script::{Reported, Script};

/// The frame at which Linux says that registers are, far above any memory.
const REGISTERS: u64 = 0xffff_ffff_f000 >> 12;

/// The kernel. Clones are the same one.
#[derive(Clone)]
pub struct SiliconKernel {
    pub(crate) platform: Arc<Platform>,
    pub(crate) state: Arc<Mutex<State>>,
}

/// What must never happen, and no real host says: the kernel's part, besides `Platform::violations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// Law *pages-before-key*: a VM gave its ASID up while the RMP named it.
    KeyBeforePages {
        /// Which ASID.
        asid: u32,
        /// How many pages named it.
        pages: u64,
    },
    /// A page could not be had back from firmware or RMP, and is lost.
    Leaked {
        /// Its number.
        pfn: u64,
        /// Why.
        reason: String,
    },
    /// What a scripted guest found.
    Guest {
        /// Which vCPU.
        vcpu: u32,
        /// What.
        what: String,
    },
}

#[derive(Default)]
pub(crate) struct State {
    pub vms: BTreeMap<u32, Machine>,
    pub files: BTreeMap<u32, File>,
    pub scripts: BTreeMap<u32, Script>,
    pub complaints: Vec<Complaint>,
    pub met: BTreeMap<Row, u64>,
    /// What guests were attested, in order.
    pub reports: Vec<Reported>,
    /// Pages that nobody has.
    free: BTreeSet<Pfn>,
    /// The first page that nobody ever had.
    fresh: u64,
    next_id: u32,
    /// The next LAUNCH_UPDATE finds a signal pending.
    pub interrupt_update: bool,
    /// Looks on whenever a guest's request goes to the firmware.
    pub at_request: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Calls on VMs and vCPUs so far, and the one at which the VM dies.
    pub calls: u64,
    pub dies_at: Option<u64>,
}

pub(crate) struct Machine {
    pub vm_type: VmType,
    pub dead: bool,
    pub descriptor_open: bool,
    pub vcpus_open: usize,
    pub vcpus: BTreeMap<u32, Vcpu>,
    pub interrupt_controller: bool,
    pub slots: BTreeMap<u16, MemorySlot>,
    /// Frames with the attribute PRIVATE.
    pub private: Frames,
    pub snp: Option<Snp>,
}

/// What an SNP VM has besides.
pub(crate) struct Snp {
    pub asid: Asid,
    pub features: u64,
    pub context: Option<Pfn>,
    pub policy: u64,
    pub certificates: bool,
    pub finished: bool,
    /// Where a guest's request to the firmware, and its answer, go.
    pub mailbox: Option<(Pfn, Pfn)>,
}

/// A vCPU, as long as its VM.
pub(crate) struct Vcpu {
    /// Created before the VM had an ASID: it never runs.
    pub unprotected: bool,
    pub state: gmem::vcpu::VcpuState,
    /// Its registers, encrypted, once they were taken over.
    pub vmsa: Option<Vmsa>,
}

/// Where a vCPU's registers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vmsa {
    /// In a page of the kernel's.
    Kernel(Pfn),
    /// In one of the guest's own, which it made.
    Guest(u64),
    /// The guest took it away.
    None,
}

pub(crate) struct MemorySlot {
    pub range: GfnRange,
    pub shared: Arc<Region>,
    pub binding: Binding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binding {
    None,
    /// This file, from this page on.
    Bound(u32, u64),
    Severed,
}

/// A guest_memfd: it exists until it is released.
pub(crate) struct File {
    pub vm: u32,
    pub size: u64,
    pub pages: BTreeMap<u64, Pfn>,
}

impl std::fmt::Debug for SiliconKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SiliconKernel")
    }
}

impl SiliconKernel {
    /// A kernel on a platform, which it initialises for SNP.
    ///
    /// # Errors
    ///
    /// What the firmware answers.
    pub fn new(platform: Arc<Platform>) -> Result<Self, tenure_silicon::psp::Status> {
        platform.snp_init()?;
        Ok(Self { platform, state: Arc::default() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The platform below.
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// What vCPUs of this number do that are created from now on.
    pub fn script(&self, vcpu: u32, script: Script) {
        self.lock().scripts.insert(vcpu, script);
    }

    /// What went wrong that nobody was told of.
    pub fn complaints(&self) -> Vec<Complaint> {
        self.lock().complaints.clone()
    }

    /// Whether nothing of a VM is left: no descriptor, file or page.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.vms.is_empty() && state.files.is_empty() && state.free.len() as u64 == state.fresh
    }

    /// What guests were attested, in order.
    pub fn reports(&self) -> Vec<Reported> {
        self.lock().reports.clone()
    }

    /// How often each row was met.
    pub fn met(&self) -> BTreeMap<Row, u64> {
        self.lock().met.clone()
    }

    /// Every call on this VM answers EIO from now on.
    pub fn kill(&self, vm: u32) {
        if let Some(machine) = self.lock().vms.get_mut(&vm) {
            machine.dead = true;
        }
    }

    /// The VM is dead from this call on; the first call on any VM or vCPU is 1.
    pub fn die_at(&self, call: u64) {
        self.lock().dies_at = Some(call);
    }

    /// Calls on VMs and vCPUs so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Has somebody look on whenever a guest's request goes to the firmware. It may call nothing of this kernel.
    pub fn at_request(&self, look: impl Fn() + Send + Sync + 'static) {
        self.lock().at_request = Some(Arc::new(look));
    }

    /// A signal is pending when LAUNCH_UPDATE is called next.
    pub fn interrupt_next_update(&self) {
        self.lock().interrupt_update = true;
    }

    /// The digest that the PSP has of a VM, and how far it is; `None` if it has no context.
    pub fn digest(&self, vm: u32) -> Option<[u8; 48]> {
        let context = self.lock().vms.get(&vm)?.snp.as_ref()?.context?;
        self.platform.inspect(|_, psp| psp.guest(context).map(|guest| guest.digest()))
    }

    /// The VMs there are.
    pub fn vms(&self) -> Vec<u32> {
        self.lock().vms.keys().copied().collect()
    }

    /// What the RMP says of a VM's frames, by frame; registers in pages of the kernel's own left out.
    pub fn rmp_of(&self, vm: u32) -> BTreeMap<u64, PageState> {
        let Some(asid) = self.asid(vm) else { return BTreeMap::new() };
        let gfn = |entry: &Entry| entry.gpa.0 >> 12;
        self.platform.inspect(|hw, _| {
            let named = hw.rmp.entries().filter(|(_, entry)| entry.is_guests() && entry.asid.0 == asid);
            named.map(|(_, entry)| (gfn(&entry), entry.state())).filter(|(gfn, _)| *gfn < REGISTERS).collect()
        })
    }

    /// The ASID of a VM.
    pub fn asid(&self, vm: u32) -> Option<u32> {
        Some(self.lock().vms.get(&vm)?.snp.as_ref()?.asid.0)
    }
}

impl State {
    /// A call on a VM or one of its vCPUs begins.
    pub(crate) fn begin_call(&mut self, vm: u32) {
        self.calls += 1;
        if let (true, Some(machine)) = (self.dies_at.is_some_and(|at| self.calls >= at), self.vms.get_mut(&vm)) {
            machine.dead = true;
        }
    }

    pub(crate) fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// A free page. The host's, until it is assigned.
    pub(crate) fn take_page(&mut self) -> Pfn {
        self.free.pop_first().unwrap_or_else(|| {
            self.fresh += 1;
            Pfn(self.fresh - 1)
        })
    }

    /// Gives a page back to the host in the RMP, and frees it. One that cannot be had back is lost.
    pub(crate) fn free_page(&mut self, platform: &Platform, pfn: Pfn) {
        let assigned = platform.rmp_entry(pfn).is_some_and(|entry| entry.assigned);
        let back = if assigned { platform.rmpupdate(pfn, Assignment::default()) } else { Ok(()) };
        match back {
            Ok(()) => {
                self.free.insert(pfn);
            }
            Err(error) => self.leak(platform, pfn, error.to_string()),
        }
    }

    /// Has the firmware give a page of its own back, and frees it.
    pub(crate) fn reclaim_page(&mut self, platform: &Platform, pfn: Pfn) {
        match platform.snp_page_reclaim(pfn, PageSize::Size4K) {
            Ok(()) => self.free_page(platform, pfn),
            Err(status) => self.leak(platform, pfn, status.to_string()),
        }
    }

    fn leak(&mut self, platform: &Platform, pfn: Pfn, reason: String) {
        platform.leak_page(pfn);
        self.complaints.push(Complaint::Leaked { pfn: pfn.0, reason });
    }

    pub(crate) fn close_vm(&mut self, platform: &Platform, id: u32) {
        if let Some(machine) = self.vms.get_mut(&id) {
            machine.descriptor_open = false;
        }
        self.destroy_if_unreferenced(platform, id, None);
    }

    pub(crate) fn close_vcpu(&mut self, platform: &Platform, id: u32) {
        if let Some(machine) = self.vms.get_mut(&id) {
            machine.vcpus_open -= 1;
        }
        self.destroy_if_unreferenced(platform, id, None);
    }

    /// The kernel's order: slots lose the file, the file lets go of the VM, and only then are its pages freed.
    pub(crate) fn close_file(&mut self, platform: &Platform, id: u32) {
        let Some(vm) = self.files.get(&id).map(|file| file.vm) else { return };
        if let Some(machine) = self.vms.get_mut(&vm) {
            for slot in machine.slots.values_mut() {
                if matches!(slot.binding, Binding::Bound(file, _) if file == id) {
                    slot.binding = Binding::Severed;
                }
            }
        }
        self.destroy_if_unreferenced(platform, vm, Some(id));
        let pages = self.files.remove(&id).map(|file| file.pages).unwrap_or_default();
        for pfn in pages.into_values() {
            self.free_page(platform, pfn);
        }
    }

    fn destroy_if_unreferenced(&mut self, platform: &Platform, id: u32, releasing: Option<u32>) {
        let Some(machine) = self.vms.get(&id) else { return };
        let pinned = self.files.iter().any(|(file, state)| state.vm == id && Some(*file) != releasing);
        if machine.descriptor_open || machine.vcpus_open > 0 || pinned {
            return;
        }
        let Some(machine) = self.vms.remove(&id) else { return };
        for vcpu in machine.vcpus.into_values() {
            if let Some(Vmsa::Kernel(pfn)) = vcpu.vmsa {
                self.free_page(platform, pfn);
            }
        }
        if let Some(snp) = machine.snp {
            self.destroy_guest(platform, &snp);
        }
    }

    /// `sev_vm_destroy`: mailbox, context, ASID.
    fn destroy_guest(&mut self, platform: &Platform, snp: &Snp) {
        if let Some((request, response)) = snp.mailbox {
            self.free_page(platform, request);
            self.free_page(platform, response);
        }
        let pages = platform.inspect(|hw, _| hw.rmp.pages_of(snp.asid));
        if pages > 0 {
            self.complaints.push(Complaint::KeyBeforePages { asid: snp.asid.0, pages });
        }
        let gone = match snp.context {
            Some(context) => {
                let gone = platform.snp_decommission(context).is_ok();
                if gone {
                    self.reclaim_page(platform, context);
                }
                gone
            }
            None => true,
        };
        // An ASID is the VM's own as long as this is called.
        let _ = if gone { platform.release_asid(snp.asid) } else { platform.leak_asid(snp.asid) };
    }
}
